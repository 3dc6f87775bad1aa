"""Converters, by the cell at which a single non-zero slice must show up."""
from itertools import product

import pytest
import torch

from perception.ops.sparse.modules import SparseConv3d, SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.ops.sparse.weights import from_minkowski, from_spconv1, from_spconv2, from_torchsparse
from perception.utils.errors import CheckpointError

GRID = (7, 7, 7)


def moved(weight):
    """The step from a single input voxel to the output voxel that a one-hot weight makes non-zero."""
    cells = torch.tensor([[0, 3, 3, 3]] + [[0, 3 + i, 3 + j, 3 + k] for i, j, k in product((-1, 0, 1), repeat=3)
                                           if (i, j, k) != (0, 0, 0)])
    feats = torch.zeros(27, 2)
    feats[0, 1] = 1  # input channel 1
    layer = SubMConv3d(2, 3, 3)
    layer.weight.data = weight
    out = layer(SparseTensor(feats, cells, GRID, 1)).feats
    row, channel = out.nonzero()[0].tolist()
    assert out.count_nonzero() == 1 and channel == 2
    return (cells[row, 1:] - 3).tolist()


@pytest.mark.parametrize('cell', [(0, 1, 2), (2, 2, 1), (1, 1, 1)])
def test_spconv_layouts(cell):
    one = torch.zeros(3, 3, 3, 2, 3)  # cross-correlation: slice k reads the input at out - 1 + k
    one[(*cell, 1, 2)] = 1
    two = torch.zeros(3, 3, 3, 3, 2)
    two[(2, *cell, 1)] = 1
    assert torch.equal(from_spconv1(one), two)
    assert torch.equal(from_spconv2(two), two)
    assert moved(from_spconv1(one)) == [1 - c for c in cell]


@pytest.mark.parametrize('cell', [(0, 1, 2), (2, 2, 1), (1, 1, 1)])
def test_torchsparse_odd_kernels_run_over_the_first_axis_fastest(cell):
    weight = torch.zeros(27, 2, 3)
    weight[cell[0] + 3 * cell[1] + 9 * cell[2], 1, 2] = 1
    assert moved(from_torchsparse(weight, 3)) == [1 - c for c in cell]
    assert torch.equal(from_minkowski(weight, 3), from_torchsparse(weight, 3))


@pytest.mark.parametrize('cell', [(0, 1, 0), (1, 1, 0), (0, 0, 1)])
@pytest.mark.parametrize('convert, steps', [(from_torchsparse, (4, 2, 1)), (from_minkowski, (1, 2, 4))])
def test_even_kernels_run_over_the_last_axis_fastest_in_torchsparse_over_the_first_in_minkowski(cell, convert, steps):
    weight = torch.zeros(8, 2, 3)
    weight[sum(step * c for step, c in zip(steps, cell)), 1, 2] = 1
    layer = SparseConv3d(2, 3, 2, 2)
    layer.weight.data = convert(weight, 2)
    feats = torch.tensor([[0., 1.]])
    place = torch.tensor([[0, 2 + cell[0], 4 + cell[1], 2 + cell[2]]])
    out = layer(SparseTensor(feats, place, GRID, 1))
    assert out.voxel_coords.tolist() == [[0, 1, 2, 1]]
    assert out.feats.tolist() == [[0, 0, 1]]


def test_torchsparse_kernels_of_one_cell_and_unequal_axes():
    weight = torch.randn(2, 3)
    assert torch.equal(from_torchsparse(weight, 1), weight.t().reshape(3, 1, 1, 1, 2))
    weight = torch.randn(3 * 1 * 5, 2, 3)
    ours = from_torchsparse(weight, (3, 1, 5))
    assert ours.shape == (3, 3, 1, 5, 2)
    unequal = from_torchsparse(weight[:6].reshape(6, 2, 3), (3, 1, 2))  # an even product: the last axis is fastest
    assert torch.equal(unequal[:, 2, 0, 1].t(), weight[5]) and torch.equal(unequal[:, 1, 0, 0].t(), weight[2])
    assert torch.equal(ours[:, 2, 0, 3].t(), weight[2 + 3 * 3])


@pytest.mark.parametrize('call', [lambda: from_spconv1(torch.zeros(3, 2)), lambda: from_spconv2(torch.zeros(27, 2, 3)),
                                  lambda: from_torchsparse(torch.zeros(27, 2, 3), 5),
                                  lambda: from_torchsparse(torch.zeros(3, 3, 3, 2, 3), 3)])
def test_other_shapes_are_refused(call):
    with pytest.raises(CheckpointError, match='expected'):
        call()
