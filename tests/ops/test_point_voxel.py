from itertools import product

import pytest
import torch

from perception.ops.point_voxel import point_voxel_map, points_to_voxels, voxels_to_points
from perception.ops.sparse.maps import PointVoxelMap, VoxelSet
from perception.utils.errors import DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


def scene(stride, n=60, shuffled=False):
    """Points in two samples and the coarse voxels that hold them."""
    generator = torch.Generator().manual_seed(stride)
    points = torch.rand(n, 3, generator=generator) * 11.9
    batch = torch.arange(n) % 2
    coords = torch.cat([batch[:, None], (points / stride).floor().long()], 1).unique(dim=0)
    if shuffled:
        coords = coords[torch.randperm(len(coords), generator=generator)]
    return points, batch, coords, VoxelSet(coords, (12 // stride,) * 3, 2)


def slow_interpolation(points, batch, coords, feats, stride):
    table = {tuple(c): f for c, f in zip(coords.tolist(), feats)}
    out = []
    for point, sample in zip(points.tolist(), batch.tolist()):
        base = [int(c // stride) for c in point]
        total, value = 0., torch.zeros(feats.shape[1], dtype=feats.dtype)
        for corner in product((0, 1), repeat=3):
            cell = (sample, *(b + c for b, c in zip(base, corner)))
            if cell in table:
                weight = 1.
                for x, b, c in zip(point, base, corner):
                    fraction = x / stride - b
                    weight *= fraction if c else 1 - fraction
                total += weight
                value = value + weight * table[cell]
        out.append(value / (total + 1e-8))
    return torch.stack(out)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('stride,shuffled', [(1, False), (2, True), (4, False)])
def test_interpolation_is_that_of_a_loop_over_points_and_corners(stride, shuffled, device):
    points, batch, coords, voxels = scene(stride, shuffled=shuffled)
    feats = torch.randn(len(coords), 5, generator=torch.Generator().manual_seed(0))
    expected = slow_interpolation(points, batch, coords, feats, stride)
    on_device = VoxelSet(coords.to(device), voxels.grid_shape, 2)
    where = point_voxel_map(points.to(device), batch.to(device), on_device, stride)
    torch.testing.assert_close(voxels_to_points(feats.to(device), where).cpu(), expected, rtol=1e-5, atol=1e-5)


def test_means_are_those_of_each_voxels_points():
    points, batch, coords, voxels = scene(4)
    feats = torch.randn(len(points), 3)
    means = points_to_voxels(feats, point_voxel_map(points, batch, voxels, 4))
    for row, cell in enumerate(coords.tolist()):
        inside = (batch == cell[0]) & ((points // 4).long() == torch.tensor(cell[1:])).all(1)
        torch.testing.assert_close(means[row], feats[inside].mean(0))


def test_both_directions_have_the_gradient_of_their_values():
    points, batch, coords, voxels = scene(4, n=12)
    where = point_voxel_map(points, batch, voxels, 4)
    where = where._replace(weights=where.weights.double())
    feats = torch.randn(len(coords), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: voxels_to_points(x, where), feats)
    rows = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: points_to_voxels(x, where), rows)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_counts_all_points_of_a_voxel_in_its_gradient(dtype):
    where = PointVoxelMap(torch.zeros(3000, dtype=torch.long), torch.zeros(3000, 8, dtype=torch.long),
                          torch.full((3000, 8), 1 / 8), 1)
    feats = torch.ones(1, 4, dtype=dtype, requires_grad=True)
    points = voxels_to_points(feats, where)
    points.backward(torch.ones_like(points))
    assert points.dtype == dtype and (feats.grad.float() / 3000 - 1).abs().max() < 0.01


def test_a_point_without_a_voxel_is_an_error():
    points, batch, coords, voxels = scene(4)
    fewer = VoxelSet(coords[1:], voxels.grid_shape, 2)
    with pytest.raises(DataError, match='points in no voxel of stride 4'):
        point_voxel_map(points, batch, fewer, 4)
