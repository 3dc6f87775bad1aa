"""Kernel maps as Triton kernels for CUDA: a table of neighbours in one launch where a grid of row numbers fits.

The same tables as `maps.py` makes in PyTorch, entry by entry; that is the reference, and what runs where this cannot.
A sub-manifold map is three launches (clear the grid, number its cells, look up), a strided one with its transposed map
about ten, and one wait for the number of its voxels. No two programs write different numbers to one place, so tables
repeat bit for bit. With `TRITON_INTERPRET=1` in the environment before the first call the kernels run on tensors of a
CPU, for tests.

Shapes: V voxels, U voxels of the coarser level, K kernel offsets.
"""
from functools import cache
from math import prod
from types import SimpleNamespace

import torch
from torch import Tensor

from perception.ops.launch import launch
from perception.utils.optional import import_optional

FEATURE = 'kernel maps on CUDA'
ROWS = 256  # voxels of a program


def subm_neighbours(coords: Tensor, grid_shape: tuple[int, int, int], batch_size: int, kernel_size: tuple[int, ...],
                    dilation: tuple[int, ...]) -> Tensor:
    """The table of a sub-manifold map.

    Args:
        coords: (V, 4) int64 batch and three axes of the voxels.
        grid_shape: cells per axis, fewer than 2^31 with all samples.
        batch_size: number of samples.
        kernel_size: odd, per axis.
        dilation: per axis.

    Returns:
        (K, V) int32 rows, V where there is no neighbour.

    Raises:
        CannotCompile: Triton has no program for this device.
    """
    coords, num, volume = coords.contiguous(), len(coords), prod(kernel_size)
    grid = coords.new_full((prod(grid_shape) * batch_size,), num, dtype=torch.int32)
    found, blocks = grid.new_empty(volume, num), -(-num // ROWS)
    launch(FEATURE, _kernels().number, (blocks,), coords, grid, num, *grid_shape, ROWS=ROWS)
    padding = [d * (k // 2) for d, k in zip(dilation, kernel_size)]
    launch(FEATURE, _kernels().look_up, (blocks, volume), coords, grid, found, num, *grid_shape,
           *kernel_size[1:], *dilation, *padding, ROWS=ROWS)
    return found


def strided_neighbours(coords: Tensor, out_shape: tuple[int, int, int], batch_size: int, kernel_size: tuple[int, ...],
                       stride: tuple[int, ...], padding: tuple[int, ...],
                       dilation: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The tables of a strided map, both ways, and the voxels that it makes.

    Args:
        coords: (V, 4) int64 batch and three axes of the finer voxels.
        out_shape: grid of the coarser level, of fewer than 2^31 cells with all samples.
        batch_size: number of samples.
        kernel_size: of the convolution, per axis, as the following.
        stride: from a coarser cell to the next.
        padding: cells before and behind the finer grid.
        dilation: cells between the taps of the kernel.

    Returns:
        (U, 4) int64 coordinates, ascending; (K, U) int32 finer rows, V where there is none; (K, V) int32 coarser rows,
        U where there is none.

    Raises:
        CannotCompile: Triton has no program for this device.
    """
    coords, num, volume = coords.contiguous(), len(coords), prod(kernel_size)
    occupied = coords.new_zeros(prod(out_shape) * batch_size, dtype=torch.int8)
    shape = (*out_shape, *kernel_size[1:], *stride, *padding, *dilation)
    windows = -(-num // ROWS), volume
    launch(FEATURE, _kernels().meet, windows, coords, occupied, occupied, occupied, num, 0, *shape, MARK=True,
           ROWS=ROWS)
    keys = occupied.nonzero().squeeze(1)
    num_out = len(keys)
    coarser, numbers = keys.new_empty(num_out, 4), keys.new_empty(len(occupied), dtype=torch.int32)
    launch(FEATURE, _kernels().spread, (-(-num_out // ROWS),), keys, coarser, numbers, num_out, *out_shape, ROWS=ROWS)
    down, up = numbers.new_full((volume, num_out), num), numbers.new_empty(volume, num)
    launch(FEATURE, _kernels().meet, windows, coords, numbers, down, up, num, num_out, *shape, MARK=False,
           ROWS=ROWS)
    return coarser, down, up


@cache
def _kernels() -> SimpleNamespace:
    global tl  # where Triton before 3.4 looks for what kernels name
    triton = import_optional('triton', FEATURE, 'pip install triton')
    tl = import_optional('triton.language', FEATURE, 'pip install triton')
    # numbers that differ from scan to scan and from layer to layer must not cost programs of their own
    axes = [name + axis for name in ('size', 'kernel', 'stride', 'padding', 'dilation') for axis in '012']
    kernel = triton.jit(do_not_specialize=['num', 'num_out', *axes])

    @kernel
    def number(coords, grid, num, size0, size1, size2, ROWS: tl.constexpr):
        """The row of each voxel at its cell."""
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        inside = row < num
        place = coords + row.to(tl.int64) * 4
        cell = tl.load(place, mask=inside, other=0).to(tl.int32) * size0
        cell = (cell + tl.load(place + 1, mask=inside, other=0).to(tl.int32)) * size1
        cell = (cell + tl.load(place + 2, mask=inside, other=0).to(tl.int32)) * size2
        tl.store(grid + cell + tl.load(place + 3, mask=inside, other=0).to(tl.int32), row, mask=inside)

    @kernel
    def look_up(coords, grid, found, num, size0, size1, size2, kernel1, kernel2, dilation0, dilation1, dilation2,
                padding0, padding1, padding2, ROWS: tl.constexpr):
        """The neighbours of voxels at one offset."""
        row, k = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
        inside = row < num
        place = coords + row.to(tl.int64) * 4
        batch = tl.load(place, mask=inside, other=0).to(tl.int32)
        at0 = tl.load(place + 1, mask=inside, other=0).to(tl.int32) - padding0 + k // (kernel1 * kernel2) * dilation0
        at1 = tl.load(place + 2, mask=inside, other=0).to(tl.int32) - padding1 + k // kernel2 % kernel1 * dilation1
        at2 = tl.load(place + 3, mask=inside, other=0).to(tl.int32) - padding2 + k % kernel2 * dilation2
        there = inside & (at0 >= 0) & (at1 >= 0) & (at2 >= 0) & (at0 < size0) & (at1 < size1) & (at2 < size2)
        cell = ((batch * size0 + at0) * size1 + at1) * size2 + at2
        tl.store(found + k.to(tl.int64) * num + row, tl.load(grid + cell, mask=there, other=num), mask=inside)

    @kernel
    def meet(coords, numbers, down, up, num, num_out, size0, size1, size2, kernel1, kernel2, stride0, stride1, stride2,
             padding0, padding1, padding2, dilation0, dilation1, dilation2, MARK: tl.constexpr, ROWS: tl.constexpr):
        """The cells that voxels meet at one offset: marked as met, or their tables, in which one voxel meets a cell."""
        row, k = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
        inside = row < num
        place = coords + row.to(tl.int64) * 4
        batch = tl.load(place, mask=inside, other=0).to(tl.int32)
        at0 = tl.load(place + 1, mask=inside, other=0).to(tl.int32) + padding0 - k // (kernel1 * kernel2) * dilation0
        at1 = tl.load(place + 2, mask=inside, other=0).to(tl.int32) + padding1 - k // kernel2 % kernel1 * dilation1
        at2 = tl.load(place + 3, mask=inside, other=0).to(tl.int32) + padding2 - k % kernel2 * dilation2
        there = inside & (at0 >= 0) & (at1 >= 0) & (at2 >= 0)  # before a division, which rounds towards zero
        there = there & (at0 % stride0 == 0) & (at1 % stride1 == 0) & (at2 % stride2 == 0)
        at0, at1, at2 = at0 // stride0, at1 // stride1, at2 // stride2
        there = there & (at0 < size0) & (at1 < size1) & (at2 < size2)
        cell = ((batch * size0 + at0) * size1 + at1) * size2 + at2
        if MARK:
            tl.store(numbers + cell, tl.full((ROWS,), 1, tl.int8), mask=there)
        else:
            out = tl.load(numbers + cell, mask=there, other=num_out)
            tl.store(up + k.to(tl.int64) * num + row, out, mask=inside)
            tl.store(down + k.to(tl.int64) * num_out + out, row, mask=there)

    @kernel
    def spread(keys, coords, numbers, num, size0, size1, size2, ROWS: tl.constexpr):
        """Coordinates of cells, and their number at each cell."""
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        inside = row < num
        key = tl.load(keys + row, mask=inside, other=0)
        place = coords + row.to(tl.int64) * 4
        tl.store(place, key // size2 // size1 // size0, mask=inside)
        tl.store(place + 1, key // size2 // size1 % size0, mask=inside)
        tl.store(place + 2, key // size2 % size1, mask=inside)
        tl.store(place + 3, key % size2, mask=inside)
        tl.store(numbers + key, row, mask=inside)

    return SimpleNamespace(number=number, look_up=look_up, meet=meet, spread=spread)
