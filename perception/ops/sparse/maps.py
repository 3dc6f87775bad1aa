"""Kernel maps: which input row meets which output row at each kernel offset.

Maps are pure geometry. They are built once per (voxels, kernel, stride, padding, dilation), never see a feature, and
derive lazily whatever form an algorithm reads. A map is the table of neighbours; a neighbour is found in a dense grid
of row numbers, or, where that would be too large, in sorted keys. The same code runs on a CPU and on a GPU, where
`maps_triton.py` has the way by the grid as kernels. For a GPU it waits once where voxels are checked and once per
strided level, for its number of voxels; lists of pairs, whose lengths only the device knows, make it wait once more.
Shape legend: V voxels, K kernel offsets (C order of the three axes, last axis fastest), P pairs.
"""
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import cached_property, partial
from itertools import product
from math import prod
from typing import NamedTuple
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.ops.launch import try_triton
from perception.ops.sparse import maps_triton
from perception.utils.errors import ConfigError, DataError

MAX_GRID_CELLS = 64 * 2**20  # above it neighbours are searched in sorted keys instead of a dense int32 table (256 MB)
MAX_KEY = 2**62


def triple(value: int | tuple[int, ...], what: str) -> tuple[int, int, int]:
    """Three integers, one per axis, from one integer or three.

    Raises:
        ConfigError: neither an integer nor three integers.
    """
    values = (value,) * 3 if isinstance(value, int) else tuple(value)
    if len(values) != 3 or not all(isinstance(v, int) for v in values):
        raise ConfigError(f'{what}: {value!r}, expected one integer or three. Write one number per grid axis.')
    return values


@dataclass(frozen=True)
class Geometry:
    """Shape of a convolution: kernel size, stride, padding and dilation per axis."""
    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int] = (1, 1, 1)
    padding: tuple[int, int, int] = (0, 0, 0)
    dilation: tuple[int, int, int] = (1, 1, 1)

    def out_shape(self, grid_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Grid after the convolution, as of a dense one.

        Raises:
            ConfigError: the kernel is larger than the padded grid.
        """
        shape = tuple((d + 2 * p - w * (k - 1) - 1) // s + 1 for d, k, s, p, w in
                      zip(grid_shape, self.kernel_size, self.stride, self.padding, self.dilation))
        if min(shape) < 1:
            raise ConfigError(f'SparseConv3d: {self} on a grid of {grid_shape} leaves {shape}, expected at least one '
                              'cell per axis. Use a smaller kernel or more padding.')
        return shape


@dataclass
class Slab:
    """Consecutive output rows of a map, and their pairs.

    Attributes:
        start: the first output row.
        in_rows: K tensors (P_k,) int64 input rows, views of the map's.
        csr_pos: (P,) int32 pairs sorted by output row, as positions in the offset-major list of the slab's pairs.
        csr_offset: (rows + 1,) int32 start of each output row's pairs in `csr_pos`.
    """
    start: int
    in_rows: list[Tensor]
    csr_pos: Tensor
    csr_offset: Tensor


class KernelMap:
    """Which input row each output row meets at each offset.

    Args:
        kind: 'subm' (output rows are the input rows), 'strided' or 'inverse'.
        num_in: number of input rows.
        neighbours: (K, num_out) int32 input rows, `num_in` where there is none; an input row occurs at most once per
            offset.
        find_parity: for 'strided' and 'inverse', makes the `Parity` that the fast inverse convolution reads.
        ordered: along an offset the input rows ascend with the output rows, so that pairs with swapped sides are the
            transposed map's.
    """

    def __init__(self, kind: str, num_in: int, neighbours: Tensor,
                 find_parity: 'Callable[[], Parity] | None' = None, ordered: bool = False) -> None:
        self.kind = kind
        self.num_in = num_in
        self.volume, self.num_out = neighbours.shape
        self.neighbours = neighbours
        self.ordered = ordered
        self._find_parity = find_parity
        self._source: Callable[[], KernelMap | None] = lambda: None  # the map that this one is the transposed of
        self.whole: tuple[KernelMap, list[int]] | None = None  # for a subset: of which map, and which offsets
        self._slabs: dict[int, list[Slab]] = {}

    @cached_property
    def pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Input rows and output rows of each offset, K tensors (P_k,) int64 each; output rows ascend."""
        if self.whole is not None:
            whole, offsets = self.whole
            return [whole.in_rows[k] for k in offsets], [whole.out_rows[k] for k in offsets]
        if self.kind == 'strided' and self.ordered:
            return self.transposed().pairs[::-1]
        mirrored = self.kind == 'subm' and self.ordered  # the second half of the offsets has the first's pairs, swapped
        neighbours = self.neighbours[:self.volume // 2] if mirrored else self.neighbours
        there = neighbours < self.num_in
        cells = there.flatten().nonzero().squeeze(1)
        sizes = there.sum(1).tolist()
        ins = list(neighbours.flatten().index_select(0, cells).long().split(sizes))
        outs = list((cells % max(self.num_out, 1)).split(sizes))
        if not mirrored:
            return ins, outs
        rows = torch.arange(self.num_in, device=cells.device)
        return [*ins, rows, *outs[::-1]], [*outs, rows, *ins[::-1]]

    @property
    def in_rows(self) -> list[Tensor]:
        """K tensors (P_k,) int64, see `pairs`."""
        return self.pairs[0]

    @property
    def out_rows(self) -> list[Tensor]:
        """K tensors (P_k,) int64, see `pairs`."""
        return self.pairs[1]

    @cached_property
    def sizes(self) -> list[int]:
        """P_k, number of pairs of each offset."""
        return [rows.numel() for rows in self.in_rows]

    @cached_property
    def num_pairs(self) -> int:
        """P, number of pairs."""
        return sum(self.sizes)

    @cached_property
    def parity(self) -> 'Parity | None':
        """Fine rows by their position within the stride, for 'strided' and 'inverse'."""
        return self._find_parity and self._find_parity()

    @property
    def centre(self) -> int | None:
        """The offset at which every row meets itself, or None."""
        return self.volume // 2 if self.kind == 'subm' else None

    @property
    def fill(self) -> float:
        """Share of the (output row, offset) cells that hold a pair."""
        return self.num_pairs / max(self.num_out * self.volume, 1)

    @cached_property
    def table(self) -> Tensor:
        """(num_out, K) int32 input row of each output row and offset; `num_in` where there is none."""
        return self.neighbours.t().contiguous()

    @cached_property
    def csr_offset(self) -> Tensor:
        """(num_out + 1,) int64 start of each output row's pairs where these are sorted by output row."""
        return F.pad((self.neighbours < self.num_in).sum(0).cumsum(0), (1, 0))

    def _places(self) -> list[Tensor]:
        """K tensors (P_k,) int64: of each pair its place among the pairs sorted by output row."""
        following, places = self.csr_offset[:-1].clone(), []
        for neighbours, rows in zip(self.neighbours, self.out_rows):
            places.append(following.index_select(0, rows))
            following += neighbours < self.num_in
        return places

    @cached_property
    def csr_flat(self) -> Tensor:
        """(P,) int64 pairs sorted by output row, as `input row * K + offset`."""
        flat = torch.cat([rows * self.volume + k for k, rows in enumerate(self.in_rows)])
        return torch.empty_like(flat).scatter_(0, torch.cat(self._places()), flat)

    @cached_property
    def class_tables(self) -> tuple[list[tuple[list[int], Tensor]], Tensor]:
        """For 'inverse': per parity class its offsets and (R_c, k) table; each row's place (num_out,) among them."""
        rows = torch.cat(self.parity.rows)
        place = torch.empty_like(rows)
        place[rows] = torch.arange(len(rows), device=rows.device)
        tables = [torch.stack([self.neighbours[k].index_select(0, rows) for k in offsets], 1) if offsets
                  else self.neighbours.new_empty(len(rows), 0)
                  for rows, offsets in zip(self.parity.rows, self.parity.offsets)]
        return list(zip(self.parity.offsets, tables)), place

    def slabs(self, num_rows: int) -> list[Slab]:
        """The map in runs of at most `num_rows` output rows."""
        num_rows = min(num_rows, max(self.num_out, 1))
        if num_rows not in self._slabs:
            self._slabs[num_rows] = list(self._cut(num_rows))
        return self._slabs[num_rows]

    def _cut(self, num_rows: int) -> Iterator[Slab]:
        there = self.neighbours < self.num_in
        counts = torch.stack([run.sum(1) for run in there.split(num_rows, 1)]).tolist()  # a list for each slab
        shares = [[part.split(sizes) for part, sizes in zip(parts, zip(*counts))]
                  for parts in (self.in_rows, self._places())]
        first = 0
        for number, (sizes, ins, places) in enumerate(zip(counts, *(zip(*share) for share in shares))):
            start, place = number * num_rows, torch.cat(places)
            position = torch.arange(len(place), dtype=torch.int32, device=place.device)
            yield Slab(start, list(ins), torch.empty_like(position).scatter_(0, place - first, position),
                       (self.csr_offset[start:start + num_rows + 1] - first).int())
            first += sum(sizes)

    @cached_property
    def _transposed(self) -> 'KernelMap':
        if self.kind == 'subm':
            return KernelMap('subm', self.num_in, self.neighbours.flip(0), ordered=self.ordered)
        kind = {'strided': 'inverse', 'inverse': 'strided'}[self.kind]
        return KernelMap(kind, self.num_out, transpose(self.neighbours, self.num_in), self._find_parity, self.ordered)

    def transposed(self) -> 'KernelMap':
        """The map with sides swapped and the same offsets: inverse convolution, gradient of the input."""
        source = self._source()
        return self._transposed if source is None else source

    def subset(self, offsets: list[int]) -> 'KernelMap':
        """The map of a smaller kernel that consists of some of the offsets; the lists of pairs are shared."""
        part = KernelMap(self.kind, self.num_in, torch.stack([self.neighbours[k] for k in offsets]), None, self.ordered)
        part.whole = self, offsets
        return part


@dataclass
class Parity:
    """Fine rows of a strided map by their position within the stride, which decides the offsets they can have.

    Args:
        rows: per class (R_c,) fine rows, ascending.
        offsets: per class the offsets k with `(position + padding - k * dilation) % stride == 0` on every axis.
    """
    rows: list[Tensor]
    offsets: list[list[int]]


@dataclass
class NamedConv:
    """A strided convolution that an inverse one can undo by name."""
    geometry: Geometry
    source: 'VoxelSet'
    target: 'VoxelSet'
    kernel_map: KernelMap


class PointVoxelMap(NamedTuple):
    """Where points lie among the voxels of one level.

    Attributes:
        voxel: (N,) int64 row of the voxel that holds the point.
        corners: (N, 8) int64 rows of the eight voxels around the point; any row where there is none.
        weights: (N, 8) float32 trilinear weights, zero where there is no voxel, else summing to one.
        num_voxels: V.
    """
    voxel: Tensor
    corners: Tensor
    weights: Tensor
    num_voxels: int


class VoxelSet:
    """Coordinates of the active voxels of one level, with the kernel maps that were built on them.

    Two layers share a map exactly if they meet the same VoxelSet with the same `Geometry`, and never otherwise.

    Args:
        voxel_coords: (V, 4) integer batch, then the three grid axes; any order of rows, no duplicates.
        grid_shape: number of cells per axis.
        batch_size: number of samples; samples without voxels are allowed.
        checked: the caller guarantees sorted, unique coordinates inside the grid.

    Attributes:
        maps: sub-manifold maps that were asked for, by geometry.
        strided: coarser voxels and strided maps that were asked for, by geometry.
        point_maps: where the voxels of the finest level lie among these, by stride, see `point_voxel.finest_map`.

    Raises:
        DataError: wrong shape or dtype, coordinates outside the grid or the batch, duplicates.
        ConfigError: a grid too large for 64-bit keys.
    """

    def __init__(self, voxel_coords: Tensor, grid_shape: tuple[int, int, int], batch_size: int,
                 checked: bool = False) -> None:
        self.grid_shape = triple(grid_shape, 'SparseTensor: grid_shape')
        self.batch_size = batch_size
        if min(self.grid_shape) < 1 or batch_size < 1:
            raise ConfigError(f'SparseTensor: grid {self.grid_shape} and batch size {batch_size}, expected at least '
                              'one of each. Pass the grid of the voxeliser and the number of scans.')
        self.order = None  # permutation that sorts the rows; None when they are sorted
        self.maps: dict[Geometry, KernelMap] = {}
        self.strided: dict[Geometry, tuple[VoxelSet, KernelMap]] = {}
        self.point_maps: dict[int, PointVoxelMap] = {}
        if not checked:
            voxel_coords = self._check(voxel_coords)
        self.voxel_coords = voxel_coords

    def __len__(self) -> int:
        return len(self.voxel_coords)

    def anew(self) -> 'VoxelSet':
        """The same voxels without the maps that were built on them, to time what makes these too."""
        fresh = VoxelSet(self.voxel_coords, self.grid_shape, self.batch_size, checked=True)
        fresh.order = self.order
        return fresh

    def _check(self, coords: Tensor) -> Tensor:
        if coords.ndim != 2 or coords.shape[1] != 4:
            raise DataError(f'SparseTensor: voxel_coords of shape {tuple(coords.shape)}, expected (V, 4). '
                            'Put the batch index in front of the three grid coordinates.')
        if coords.is_floating_point() or coords.is_complex() or coords.dtype == torch.bool:
            raise DataError(f'SparseTensor: voxel_coords of dtype {coords.dtype}, expected integers. '
                            'Divide by the cell size and floor first.')
        coords = coords.long().contiguous()
        if not len(coords):
            return coords
        limits = (self.batch_size, *self.grid_shape)
        keys = halo_keys(coords, self.grid_shape, self.batch_size, (0, 0, 0))
        ascending = (keys[1:] > keys[:-1]).all().long().expand(4)
        low, high, (ascending, *_) = torch.stack((*coords.aminmax(dim=0), ascending)).tolist()
        for axis, (least, most, limit) in enumerate(zip(low, high, limits)):
            if least < 0 or most >= limit:
                name = 'batch index' if axis == 0 else f'coordinate on grid axis {axis - 1}'
                raise DataError(f'SparseTensor: {name} from {least} to {most}, expected 0 to {limit - 1}. '
                                'Clip or drop points outside the grid before building the tensor.')
        if not ascending:
            keys, self.order = torch.sort(keys)
            equal = (keys[1:] == keys[:-1]).nonzero()
            if len(equal):
                twice = coords[self.order[equal[0, 0]]].tolist()
                raise DataError(f'SparseTensor: {len(equal)} duplicate voxels, the first is {twice}, expected unique '
                                'rows. Merge the points of a voxel first.')
        return coords

    def subm_map(self, kernel_size: tuple[int, int, int], dilation: tuple[int, int, int]) -> KernelMap:
        """Map of a sub-manifold convolution with padding `dilation * (kernel // 2)`; odd kernels only.

        All kernels made of 1 and 3 take their offsets from one 3x3x3 map.
        """
        dilation = tuple(d if k > 1 else 1 for d, k in zip(dilation, kernel_size))
        geometry = Geometry(kernel_size, dilation=dilation)
        if geometry not in self.maps:
            if kernel_size != (3, 3, 3) and set(kernel_size) <= {1, 3} and max(dilation) == 1:
                offsets = [k for k, cell in enumerate(product(range(3), repeat=3))
                           if all(c == 1 or size == 3 for c, size in zip(cell, kernel_size))]
                self.maps[geometry] = self.subm_map((3, 3, 3), dilation).subset(offsets)
            else:
                self.maps[geometry] = build_subm_map(self, kernel_size, dilation)
        return self.maps[geometry]

    def strided_map(self, geometry: Geometry) -> tuple['VoxelSet', KernelMap]:
        """Output voxels (every cell that some window touches) and map of a strided convolution."""
        if geometry not in self.strided:
            self.strided[geometry] = build_strided_map(self, geometry)
        return self.strided[geometry]


def halo_keys(coords: Tensor, grid_shape: tuple[int, ...], batch_size: int, halo: tuple[int, ...]) -> Tensor:
    """One int64 per voxel, ordered as (batch, axis 0, 1, 2), in a grid with an empty border of `halo` cells.

    With the border a neighbour is `key + constant`: it needs no bounds test and never wraps into the next column.

    Raises:
        ConfigError: the keys would not fit 64 bits.
    """
    dims = [d + 2 * h for d, h in zip(grid_shape, halo)]
    if prod(dims) * batch_size >= MAX_KEY:
        raise ConfigError(f'SparseTensor: {batch_size} grids of {tuple(grid_shape)} cells, expected fewer than 2^62 '
                          'in all. Use larger voxels or a smaller range.')
    batch, *axes = coords.unbind(1)
    key = batch
    for axis, dim, border in zip(axes, dims, halo):
        key = key * dim + (axis + border)
    return key


def lookup_rows(voxels: VoxelSet, keys: Tensor, queries: Tensor, num_cells: int) -> Tensor:
    """int32 rows of the voxels with the given keys, `len(keys)` where there is none.

    Args:
        voxels: whose rows are looked up.
        keys: (V,) their keys, int64, or int32 where that is enough for all cells.
        queries: any shape, keys to find.
        num_cells: all keys lie in [0, num_cells).
    """
    if num_cells <= MAX_GRID_CELLS:
        grid = torch.full((num_cells,), len(keys), dtype=torch.int32, device=keys.device)
        grid[keys.long()] = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
        return grid.index_select(0, queries.flatten()).view(queries.shape)
    ordered = keys if voxels.order is None else keys[voxels.order]
    place = torch.searchsorted(ordered, queries).clamp_(max=len(keys) - 1)
    found = ordered[place] == queries
    rows = place if voxels.order is None else voxels.order[place]
    return torch.where(found, rows, len(keys)).int()


def build_subm_map(voxels: VoxelSet, kernel_size: tuple[int, ...], dilation: tuple[int, ...]) -> KernelMap:
    """Find the neighbours at all offsets."""
    coords, num = voxels.voxel_coords, len(voxels)
    volume = prod(kernel_size)
    if volume == 1 or num == 0:
        rows = torch.arange(num, dtype=torch.int32, device=coords.device)
        return KernelMap('subm', num, rows.expand(volume, num).contiguous())
    table = _by_triton(maps_triton.subm_neighbours, voxels, voxels.grid_shape, kernel_size, dilation)
    if table is not None:
        return KernelMap('subm', num, table, ordered=voxels.order is None)
    halo = tuple(d * (k // 2) for d, k in zip(dilation, kernel_size))
    dims = [d + 2 * h for d, h in zip(voxels.grid_shape, halo)]
    keys = halo_keys(coords, voxels.grid_shape, voxels.batch_size, halo)
    num_cells = prod(dims) * voxels.batch_size
    if num_cells <= MAX_GRID_CELLS:
        keys = keys.int()  # half the memory of all queries
    steps = 0  # what is added to a key, for each axis and step along it
    for axis, (size, away, border) in enumerate(zip(kernel_size, dilation, halo)):
        step = torch.arange(size, dtype=keys.dtype, device=keys.device) * away - border
        steps = (steps * dims[axis])[..., None] + step if axis else step
    queries = keys + steps.view(volume, 1)  # (K, V)
    return KernelMap('subm', num, lookup_rows(voxels, keys, queries, num_cells), ordered=voxels.order is None)


def build_strided_map(voxels: VoxelSet, geometry: Geometry) -> tuple[VoxelSet, KernelMap]:
    """Pairs `in = out * stride - padding + k * dilation`, and the sorted set of all `out`."""
    out_shape = geometry.out_shape(voxels.grid_shape)
    num, (batch, *axes) = len(voxels), voxels.voxel_coords.unbind(1)
    find_parity = partial(parity_classes, axes, geometry)
    found = _by_triton(maps_triton.strided_neighbours, voxels, out_shape, *astuple(geometry))
    if found is not None:
        return _strided(voxels, out_shape, *found, find_parity)
    there, keys, offsets = torch.ones_like(batch, dtype=torch.bool), batch, torch.zeros_like(batch)
    for axis, size, kernel, stride, padding, dilation in zip(axes, out_shape, geometry.kernel_size, geometry.stride,
                                                             geometry.padding, geometry.dilation):
        last = torch.div(axis + padding, stride, rounding_mode='floor')  # windows that begin at a voxel or before it
        windows = (kernel - 1) * dilation // stride + 1
        out = last - torch.arange(windows, device=axis.device)[:, None]  # (windows, V)
        reach = axis + padding - out * stride
        offset = torch.div(reach, dilation, rounding_mode='floor')
        met = (offset * dilation == reach) & (offset < kernel) & (out >= 0) & (out < size)
        there = there[..., None, :] & met  # they grow by an axis of windows each, in front of V
        keys, offsets = keys[..., None, :] * size + out, offsets[..., None, :] * kernel + offset
    num_cells, volume = prod(out_shape) * voxels.batch_size, prod(geometry.kernel_size)
    there, keys, offsets = (grown.flatten(0, 2) for grown in (there, keys, offsets))
    out_keys, out_rows = unique_keys(torch.where(there, keys, num_cells), num_cells)
    coords, num_out = coords_of_keys(out_keys, out_shape), len(out_keys)
    rows = torch.arange(num, device=out_rows.device).expand_as(out_rows)
    down = _table(volume, num_out, offsets, out_rows, rows, there, num)
    up = _table(volume, num, offsets, rows, out_rows, there, num_out)
    return _strided(voxels, out_shape, coords, down, up, find_parity)


def _strided(voxels: VoxelSet, out_shape: tuple[int, int, int], coords: Tensor, down: Tensor, up: Tensor,
             find_parity: 'Callable[[], Parity]') -> tuple[VoxelSet, KernelMap]:
    """The coarser voxels and the map, which knows its transposed one."""
    target, ordered = VoxelSet(coords, out_shape, voxels.batch_size, checked=True), voxels.order is None
    kernel_map = KernelMap('strided', len(voxels), down, find_parity, ordered)
    inverse = kernel_map._transposed = KernelMap('inverse', len(target), up, find_parity, ordered)
    inverse._source = ref(kernel_map)  # not held: a circle of maps would stay in memory for long
    return target, kernel_map


def _by_triton(function: Callable, voxels: VoxelSet, grid_shape: tuple[int, int, int],
               *args) -> 'Tensor | tuple | None':
    """What a function of `maps_triton` makes of voxels on a GPU, None where PyTorch has to."""
    if prod(grid_shape) * voxels.batch_size > MAX_GRID_CELLS:
        return None
    return try_triton(function, voxels.voxel_coords, grid_shape, voxels.batch_size, *args)


def _table(volume: int, num_out: int, offsets: Tensor, out_rows: Tensor, in_rows: Tensor, there: Tensor,
           missing: int) -> Tensor:
    """(volume, num_out) int32 `in_rows` by offset and output row, `missing` elsewhere."""
    table = torch.full((volume * num_out + 1,), missing, dtype=torch.int32, device=there.device)
    cells = torch.where(there, offsets * num_out + out_rows, volume * num_out)  # what is not there: the last cell
    return table.scatter_(0, cells.flatten(), in_rows.int().flatten())[:-1].view(volume, num_out)


def transpose(neighbours: Tensor, num_in: int) -> Tensor:
    """(K, num_in) neighbours of the other side from (K, num_out) ones."""
    volume, num_out = neighbours.shape
    rows = torch.arange(num_out, dtype=torch.int32, device=neighbours.device)
    turned = rows.new_full((volume, num_in + 1), num_out)  # what there is none of goes to the last column
    return turned.scatter_(1, neighbours.long(), rows.expand_as(neighbours))[:, :num_in].contiguous()


def unique_keys(keys: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """Sorted unique keys (U,) below `num_cells`; for each key int32 its place among them, U for `num_cells`."""
    if num_cells > MAX_GRID_CELLS:
        unique, place = torch.unique(torch.cat((keys.flatten(), keys.new_full((1,), num_cells))), return_inverse=True)
        return unique[:-1], place[:-1].view(keys.shape).int()
    occupied = torch.zeros(num_cells + 1, dtype=torch.bool, device=keys.device)
    occupied[keys] = True
    unique = occupied[:-1].nonzero().squeeze(1)
    place = torch.full((num_cells + 1,), len(unique), dtype=torch.int32, device=keys.device)
    place[unique] = torch.arange(len(unique), dtype=torch.int32, device=keys.device)
    return unique, place[keys]


def coords_of_keys(keys: Tensor, grid_shape: tuple[int, int, int]) -> Tensor:
    """(U, 4) coordinates of keys without a border."""
    columns = []
    for dim in reversed(grid_shape):
        columns.append(keys % dim)
        keys = torch.div(keys, dim, rounding_mode='floor')
    return torch.stack((keys, *reversed(columns)), 1)


def parity_classes(axes: list[Tensor], geometry: Geometry) -> Parity:
    """Group fine rows by `(position + padding) % stride` and list the offsets that can reach each group."""
    which = torch.zeros_like(axes[0])
    for axis, stride, padding in zip(axes, geometry.stride, geometry.padding):
        which = which * stride + (axis + padding) % stride
    order = torch.argsort(which, stable=True)
    sizes = torch.bincount(which, minlength=prod(geometry.stride)).tolist()
    cells = list(enumerate(product(*map(range, geometry.kernel_size))))
    offsets = [[k for k, cell in cells
                if all((r - c * d) % s == 0 for r, c, d, s in zip(rest, cell, geometry.dilation, geometry.stride))]
               for rest in product(*map(range, geometry.stride))]
    return Parity(list(order.split(sizes)), offsets)
