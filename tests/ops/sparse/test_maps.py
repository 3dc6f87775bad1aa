"""Kernel maps against a brute-force search over all pairs of voxels."""
from itertools import product

import pytest
import torch

from perception.ops.sparse import maps
from perception.ops.sparse.maps import Geometry, VoxelSet
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.errors import ConfigError, DataError


def brute_force(inputs, outputs, kernel, stride, padding, dilation):
    """Per offset the set of (input row, output row) with `in = out * stride - padding + k * dilation`, same sample."""
    found = []
    for cell in product(*map(range, kernel)):
        shift = [0] + [c * d - p for c, d, p in zip(cell, dilation, padding)]
        places = outputs * torch.tensor([1, *stride]) + torch.tensor(shift)
        equal = (inputs[:, None] == places[None]).all(2)
        found.append({tuple(pair) for pair in equal.nonzero().tolist()})
    return found


def as_sets(kernel_map):
    return [set(zip(a.tolist(), b.tolist())) for a, b in zip(kernel_map.in_rows, kernel_map.out_rows)]


def random_coords(grid, batch, share, shuffled=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    occupied = torch.rand(batch, *grid, generator=generator) < share
    occupied[:, ::max(grid[0] - 1, 1), ::max(grid[1] - 1, 1), ::max(grid[2] - 1, 1)] = True  # the corners
    coords = occupied.nonzero()
    return coords[torch.randperm(len(coords), generator=generator)] if shuffled else coords


def check_rows(kernel_map):
    for outs in kernel_map.out_rows:
        assert (outs[1:] > outs[:-1]).all(), 'output rows ascend and occur once per offset'


GRIDS = [((6, 5, 4), 2), ((1, 1, 1), 2), ((1, 7, 1), 3), ((2, 9, 3), 1)]


@pytest.mark.parametrize('limit', [0, maps.MAX_GRID_CELLS], ids=['sorted', 'grid'])
@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize(('grid', 'batch'), GRIDS)
@pytest.mark.parametrize(('kernel', 'dilation'), [
    ((3, 3, 3), (1, 1, 1)), ((3, 1, 3), (1, 1, 1)), ((1, 1, 3), (1, 1, 1)), ((5, 5, 5), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2)), ((1, 5, 3), (1, 1, 2)), ((1, 1, 1), (1, 1, 1))])
def test_submanifold_map(monkeypatch, grid, batch, kernel, dilation, shuffled, limit):
    monkeypatch.setattr(maps, 'MAX_GRID_CELLS', limit)
    coords = random_coords(grid, batch, 0.4, shuffled)
    kernel_map = VoxelSet(coords, grid, batch).subm_map(kernel, dilation)
    padding = [d * (k // 2) for k, d in zip(kernel, dilation)]
    assert as_sets(kernel_map) == brute_force(coords, coords, kernel, (1, 1, 1), padding, dilation)
    assert kernel_map.num_pairs == sum(kernel_map.sizes) == sum(map(len, as_sets(kernel_map)))
    check_rows(kernel_map)
    check_rows(kernel_map.transposed())
    assert as_sets(kernel_map.transposed()) == [{(b, a) for a, b in pairs} for pairs in as_sets(kernel_map)]


@pytest.mark.parametrize('limit', [0, maps.MAX_GRID_CELLS], ids=['sorted', 'grid'])
@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize(('kernel', 'stride', 'padding', 'dilation'), [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)), ((3, 3, 3), (2, 2, 1), (1, 1, 1), (1, 1, 1)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)), ((3, 2, 1), (1, 3, 2), (2, 0, 0), (1, 2, 1)),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))])
def test_strided_map(monkeypatch, kernel, stride, padding, dilation, shuffled, limit):
    monkeypatch.setattr(maps, 'MAX_GRID_CELLS', limit)
    grid, batch = (6, 5, 4), 2
    coords = random_coords(grid, batch, 0.2, shuffled)
    geometry = Geometry(kernel, stride, padding, dilation)
    target, kernel_map = VoxelSet(coords, grid, batch).strided_map(geometry)
    everywhere = torch.ones(batch, *geometry.out_shape(grid)).nonzero()
    touched = sorted({out for pairs in brute_force(coords, everywhere, kernel, stride, padding, dilation)
                      for _, out in pairs})
    assert torch.equal(target.voxel_coords, everywhere[touched])
    pairs = brute_force(coords, target.voxel_coords, kernel, stride, padding, dilation)
    assert as_sets(kernel_map) == pairs
    inverse = kernel_map.transposed()
    assert inverse.kind == 'inverse'
    assert as_sets(inverse) == [{(b, a) for a, b in offset} for offset in pairs]
    check_rows(kernel_map)
    check_rows(inverse)
    reach = {row: set() for row in range(len(coords))}
    for k, offset in enumerate(pairs):
        for row, _ in offset:
            reach[row].add(k)
    for rows, offsets in zip(kernel_map.parity.rows, kernel_map.parity.offsets):
        assert all(reach[row] <= set(offsets) for row in rows.tolist()), 'a class lists every offset of its rows'
    assert sorted(torch.cat(kernel_map.parity.rows).tolist()) == list(range(len(coords)))


def test_an_inverse_map_knows_the_map_and_does_not_keep_it():
    voxels = VoxelSet(random_coords((6, 5, 4), 1, 0.4), (6, 5, 4), 1)
    kernel_map = voxels.strided_map(Geometry((3, 3, 3), (2, 2, 2), (1, 1, 1)))[1]
    inverse, pairs = kernel_map.transposed(), as_sets(kernel_map)
    assert inverse.transposed() is kernel_map
    del kernel_map, voxels
    again = inverse.transposed()
    assert again.kind == 'strided' and as_sets(again) == pairs


@pytest.mark.parametrize('shuffled', [False, True])
def test_derived_forms_name_the_same_pairs(shuffled):
    coords = random_coords((6, 5, 4), 2, 0.4, shuffled)
    kernel_map = VoxelSet(coords, (6, 5, 4), 2).subm_map((3, 3, 3), (1, 1, 1))
    expected = {(a, b, k) for k, pairs in enumerate(as_sets(kernel_map)) for a, b in pairs}
    rows, ks = (kernel_map.table < kernel_map.num_in).nonzero(as_tuple=True)
    assert set(zip(kernel_map.table[rows, ks].tolist(), rows.tolist(), ks.tolist())) == expected
    counts = kernel_map.csr_offset.diff()
    outs = torch.arange(len(coords)).repeat_interleave(counts)
    flat = kernel_map.csr_flat
    assert set(zip((flat // 27).tolist(), outs.tolist(), (flat % 27).tolist())) == expected
    in_order, out_order = torch.cat(kernel_map.in_rows), torch.cat(kernel_map.out_rows)
    whole, = kernel_map.slabs(len(coords))
    assert torch.equal(out_order[whole.csr_pos], outs)
    assert torch.equal(in_order[whole.csr_pos], flat // 27)
    pieces = []
    for slab in kernel_map.slabs(7):
        outs = slab.start + torch.arange(len(slab.csr_offset) - 1).repeat_interleave(slab.csr_offset.diff())
        ins = torch.cat(slab.in_rows)[slab.csr_pos]
        offsets = torch.arange(27).repeat_interleave(torch.tensor([len(rows) for rows in slab.in_rows]))[slab.csr_pos]
        pieces += zip(ins.tolist(), outs.tolist(), offsets.tolist())
    assert set(pieces) == expected and len(pieces) == len(expected)
    assert len(kernel_map.slabs(7)) == -(-len(coords) // 7)


def test_layers_of_one_geometry_share_one_map_and_others_do_not():
    voxels = VoxelSet(random_coords((6, 5, 4), 1, 0.4), (6, 5, 4), 1)
    assert voxels.subm_map((3, 1, 3), (1, 1, 1)) is voxels.subm_map((3, 1, 3), (1, 1, 1))
    assert voxels.subm_map((3, 1, 3), (1, 1, 1)) is not voxels.subm_map((1, 3, 3), (1, 1, 1))
    assert voxels.subm_map((3, 3, 3), (2, 2, 2)).num_pairs != voxels.subm_map((3, 3, 3), (1, 1, 1)).num_pairs
    geometry = Geometry((3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert voxels.strided_map(geometry)[1] is voxels.strided_map(geometry)[1]


def test_grids_beyond_int32_and_the_limit_of_int64():
    grid = (2**20, 2**20, 2**18)  # 2^58 cells
    corner = torch.tensor(grid) - 1
    coords = torch.stack([torch.tensor([1, *(corner - torch.tensor(step)).tolist()])
                          for step in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))])
    kernel_map = VoxelSet(coords, grid, 2).subm_map((3, 3, 3), (1, 1, 1))
    assert as_sets(kernel_map) == brute_force(coords, coords, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    target, strided = VoxelSet(coords, grid, 2).strided_map(Geometry((3, 3, 3), (2, 2, 2), (1, 1, 1)))
    assert as_sets(strided) == brute_force(coords, target.voxel_coords, (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1))
    with pytest.raises(ConfigError, match=r'2\^62'):
        VoxelSet(coords, (2**21, 2**21, 2**21), 2)


def test_samples_that_touch_do_not_meet():
    coords = torch.tensor([[0, 2, 2, 2], [1, 0, 0, 0], [1, 2, 2, 2], [2, 0, 0, 0]])
    kernel_map = VoxelSet(coords, (3, 3, 3), 3).subm_map((3, 3, 3), (1, 1, 1))
    assert kernel_map.num_pairs == 4
    wrapped = torch.tensor([[0, 0, 0, 2], [0, 0, 1, 0]])  # the last cell of a column and the first of the next
    assert VoxelSet(wrapped, (1, 2, 3), 1).subm_map((3, 3, 3), (1, 1, 1)).num_pairs == 2


@pytest.mark.parametrize(('coords', 'message'), [
    (torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1]]), '1 duplicate voxels, the first is'),
    (torch.tensor([[0, 2, 1, 1], [0, 1, 1, 1], [0, 2, 1, 1]]), r'first is \[0, 2, 1, 1\]'),
    (torch.tensor([[0, 4, 1, 1]]), 'grid axis 0 from 4 to 4, expected 0 to 3'),
    (torch.tensor([[0, 0, 0, -1]]), 'grid axis 2 from -1 to -1'),
    (torch.tensor([[2, 0, 0, 0]]), 'batch index from 2 to 2, expected 0 to 1'),
    (torch.tensor([[0, 0, 0]]), r'expected \(V, 4\)'),
    (torch.tensor([[0., 0, 0, 0]]), 'expected integers'),
])
def test_wrong_coordinates_are_refused(coords, message):
    with pytest.raises(DataError, match=message):
        SparseTensor(torch.zeros(len(coords), 1), coords, (4, 4, 4), 2)


@pytest.mark.parametrize(('grid', 'batch', 'message'), [
    ((4, 4), 1, 'one integer or three'), ((4, 0, 4), 1, 'at least one'), ((4, 4, 4), 0, 'at least one')])
def test_wrong_grids_are_refused(grid, batch, message):
    with pytest.raises(ConfigError, match=message):
        SparseTensor(torch.zeros(0, 1), torch.zeros(0, 4, dtype=torch.long), grid, batch)


def test_rows_must_match():
    with pytest.raises(DataError, match='one row per voxel'):
        SparseTensor(torch.zeros(2, 1), torch.zeros(1, 4, dtype=torch.long), (4, 4, 4), 1)


@pytest.mark.parametrize(('limit', 'of_a_level'), [(maps.MAX_GRID_CELLS, 'nonzero'), (0, '_unique2')])
def test_a_device_is_waited_for_once_for_the_input_and_once_for_each_strided_level(monkeypatch, waits, limit,
                                                                                   of_a_level):
    monkeypatch.setattr(maps, 'MAX_GRID_CELLS', limit)
    coords = random_coords((9, 9, 9), 2, 0.3)
    with waits() as found:
        voxels = VoxelSet(coords, (9, 9, 9), 2)
        assert [where.split()[0] for where in found] == ['tolist']
        for _level in range(3):
            for kernel in ((3, 3, 3), (3, 1, 3), (5, 3, 1)):
                voxels.subm_map(kernel, (1, 1, 1)).transposed()
            voxels, strided = voxels.strided_map(Geometry((3, 3, 3), (2, 2, 2), (1, 1, 1)))
            assert strided.transposed().num_out == strided.num_in
        assert [where.split()[0] for where in found] == ['tolist', of_a_level, of_a_level, of_a_level]
        assert strided.num_pairs and len(found) == 6, 'a nonzero and the sizes, for lists of pairs'
