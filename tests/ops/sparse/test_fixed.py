"""Layers on maps of fixed size give what they give on a batch's own maps."""
import os

import pytest
import torch
from torch import nn

from perception.ops.sparse.fixed import FixedVoxels, put, roomy
from perception.ops.sparse.functional import set_backend
from perception.ops.sparse.maps import VoxelSet
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.optional import has_triton

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
CAN_TRITON = has_triton() and (DEVICE == 'cuda' or os.environ.get('TRITON_INTERPRET') == '1')
BACKENDS = ['torch', pytest.param('triton', marks=pytest.mark.skipif(not CAN_TRITON, reason='triton is not installed'))]
GRID = (6, 5, 4)


def voxels_of(count, seed=0):
    """So many voxels of two samples, in any order."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(2 * 6 * 5 * 4, generator=generator)[:count]
    return VoxelSet(torch.stack(torch.unravel_index(cells, (2, *GRID)), 1).to(DEVICE), GRID, 2)


@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        SubMConv3d(3, 4, (1, 3, 3), bias=True), SparseConv3d(4, 5, 3, 2, 1, name='a'), SubMConv3d(5, 5, 1),
        SparseConv3d(5, 6, 2, (2, 2, 1), name='b'), SubMConv3d(6, 4, 3), SparseInverseConv3d(4, 5, 'b', 2),
        SparseInverseConv3d(5, 3, 'a', bias=True), SubMConv3d(3, 2, 3, (1, 2, 1))).to(DEVICE)


@pytest.mark.parametrize('backend', BACKENDS)
@torch.no_grad()
def test_padded_rows_reach_no_voxel_and_no_earlier_batch_a_later_one(net, backend):
    fixed, memory, counts = None, torch.empty(0), (40, 0, 55, 12, 90, 1, 60)
    if backend == 'triton':  # its interpreter is slow
        net, counts = nn.Sequential(SubMConv3d(3, 4, (1, 1, 3)), SparseConv3d(4, 2, (2, 2, 1), (2, 2, 1), name='a'),
                                    SparseInverseConv3d(2, 3, 'a', (2, 2, 1), bias=True)).to(DEVICE), (60, 20)
    set_backend(backend)
    try:
        for count in counts:
            voxels = voxels_of(count, count)
            feats = torch.randn(count, 3, device=DEVICE)
            expected = net(SparseTensor.on(feats, voxels)).feats
            if fixed is None or not fixed.fits(voxels):
                fixed = FixedVoxels(voxels, fixed)
                memory = feats.new_empty(fixed.capacity, 3)
            again = VoxelSet(voxels.voxel_coords, GRID, 2)
            assert fixed.fits(again)
            fixed.load(again)
            put(memory, feats, float('nan'))  # in padded rows, which nobody may read
            found = net(SparseTensor.on(memory, fixed.voxels())).feats
            assert len(found) == fixed.capacity > count
            torch.testing.assert_close(found[:count], expected, rtol=1e-5, atol=1e-5)
    finally:
        set_backend('auto')


@torch.no_grad()
def test_memory_grows_where_a_level_is_full_and_shrinks_nowhere(net):
    def seen(voxels):
        net(SparseTensor.on(torch.zeros(len(voxels), 3, device=DEVICE), voxels))
        return voxels

    cells = torch.arange(3 * 64) * 2  # each in a window of its own
    apart = torch.stack([torch.zeros_like(cells), cells, cells * 0, cells * 0], 1).to(DEVICE)
    line = apart.clone()
    line[:, 1] //= 2
    dense, spread = (seen(VoxelSet(coords, (2 * 3 * 64, 5, 4), 1)) for coords in (line, apart))
    small = FixedVoxels(dense)
    assert small.capacities() == [256, 128, 64], 'an eighth more, in steps of 64'
    assert small.fits(dense) and not small.fits(spread), 'the coarser level is full'
    grown = FixedVoxels(spread, small)
    assert grown.capacities() == [256, 256, 128] and grown.fits(dense) and grown.fits(spread)
    assert FixedVoxels(seen(voxels_of(3)), grown).capacities() == [256, 256, 128]
    assert len(grown.tables) == 2, 'the kernel of 1 x 3 x 3 is a part of that of 3 x 3 x 3'


def test_there_is_always_a_row_to_spare():
    assert all(count < roomy(count) <= 1.125 * count + 65 for count in range(3000))
    assert not FixedVoxels(voxels_of(60)).fits(voxels_of(128)), '60 have room for 127'
