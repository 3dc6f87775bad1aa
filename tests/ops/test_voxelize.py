"""Against the authors' data pipeline (goldens) and against loops."""
import math

import numpy as np
import pytest
import torch

from perception.ops.voxelize import cylinder_features, majority_labels, polar_coordinates, unique_voxels
from perception.utils.errors import ConfigError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
LOW, HIGH = (0, -3.1415926, -4), (50, 3.1415926, 2)
FULL, SMALL = (480, 360, 32), (96, 72, 16)
MOVED = 5  # points that may leave their cell: NumPy's float32 arctan2 differs between CPUs, by 4.8e-7 rad at most


@pytest.fixture(scope='module')
def golden(shared):
    return np.load(shared / 'goldens/lidarseg/cylinder3d_data_A.npz')


@pytest.fixture(scope='module')
def real_scan(shared):
    path = shared / 'real/semantickitti/sequences/08/velodyne/000700.bin'
    return torch.from_numpy(np.fromfile(path, np.float32).reshape(-1, 4))


def voxelize(points, grid, low=LOW, high=HIGH):
    index, feats = cylinder_features(points, grid, low, high)
    coords, rows = unique_voxels(index, torch.zeros(len(points), dtype=torch.long, device=points.device), grid)
    return index, feats, coords, rows


def check_cells(ours, theirs):
    """(N,) bool, rows in the authors' cell: all but a few whose azimuth lies on a border; they are beyond it."""
    step = ours - torch.from_numpy(theirs.astype(np.int64))
    away = step.any(1)
    assert away.sum() <= MOVED and not step[:, [0, 2]].any() and step.abs().max() <= 1
    return ~away


def check_features(ours, theirs, rows):
    """Equal but for the azimuth's last digits; a row in another cell has another centre."""
    assert len(ours) == len(theirs)
    torch.testing.assert_close(ours[rows], torch.from_numpy(theirs.astype(np.float32))[rows], rtol=0, atol=1e-6)


def check_voxels(coords, labels, their_coords, their_labels):
    """Equal voxels with equal labels, but for what a few moved points change: two voxels each, in both sets."""
    ours = {(*coord, label) for coord, label in zip(coords[:, 1:].tolist(), labels.tolist(), strict=True)}
    theirs = {(*coord, label) for coord, label in zip(their_coords.tolist(), their_labels.tolist(), strict=True)}
    assert len(ours ^ theirs) <= 4 * MOVED


def labels_as_ours(reference, ignored=0):
    """The authors' class 0, "unlabelled", is our 255; class c is our c - 1."""
    reference = torch.from_numpy(reference.astype(np.int64))
    return torch.where(reference == ignored, 255, reference - 1)


def test_real_scan_equals_the_authors(golden, real_scan):
    labels = labels_as_ours(golden['sk_labels_all'])
    index, feats, coords, rows = voxelize(real_scan, FULL)
    same_cell = check_cells(index, golden['sk_full_grid_ind_all'])
    check_features(feats[::16], golden['sk_full_fea'], same_cell[::16])
    check_voxels(coords, majority_labels(labels, rows, len(coords)), golden['sk_full_vox_coords'],
                 labels_as_ours(golden['sk_full_vox_label']))
    _, _, coords, rows = voxelize(real_scan, SMALL)
    check_voxels(coords, majority_labels(labels, rows, len(coords)), golden['sk_small_vox_coords'],
                 labels_as_ours(golden['sk_small_vox_label']))


@pytest.mark.parametrize(('name', 'grid'), [('full', FULL), ('small', SMALL)])
def test_random_labels_with_many_ties_equal_the_authors(golden, name, grid):
    points = torch.from_numpy(golden['kitti_points'])
    index, feats, coords, rows = voxelize(points, grid)
    same_cell = check_cells(index[::4], golden[f'kitti_{name}_grid_ind'])
    check_features(feats[::4], golden[f'kitti_{name}_fea'], same_cell)
    voted = majority_labels(labels_as_ours(golden['kitti_labels']), rows, len(coords))
    check_voxels(coords, voted, golden[f'kitti_{name}_vox_coords'], labels_as_ours(golden[f'kitti_{name}_vox_label']))


def test_ignore_label_255_equals_the_authors(golden):
    _, _, coords, rows = voxelize(torch.from_numpy(golden['kitti_points']), SMALL)
    voted = majority_labels(torch.from_numpy(golden['kitti_labels'].astype(np.int64)), rows, len(coords))
    check_voxels(coords, voted, golden['kitti_small_ign255_vox_coords'], golden['kitti_small_ign255_vox_label'])


def test_bounds_of_the_data_equal_the_authors(golden):
    points = torch.from_numpy(golden['kitti_points'])
    polar = polar_coordinates(points)
    index, feats, coords, rows = voxelize(points, SMALL, polar.amin(0).tolist(), polar.amax(0).tolist())
    same_cell = check_cells(index[::4], golden['kitti_datavol_grid_ind'])
    check_features(feats[::4], golden['kitti_datavol_fea'], same_cell)
    voted = majority_labels(labels_as_ours(golden['kitti_labels']), rows, len(coords))
    check_voxels(coords, voted, golden['kitti_datavol_vox_coords'], labels_as_ours(golden['kitti_datavol_vox_label']))


@pytest.mark.parametrize('device', DEVICES)
def test_indices_and_features_by_hand(device):
    points = torch.tensor([[10., 0., 0., .5],      # straight ahead
                           [0., 10., 0., .5],      # left
                           [-1e-3, -0., 0., .5],   # phi = -pi
                           [-1., 0., -9., .5],     # phi = +pi, below the volume
                           [300., 400., 7., .5]],  # far outside
                          device=device)
    index, feats = cylinder_features(points, FULL, LOW, HIGH)
    cells = [50 / 479, 2 * 3.1415926 / 359, 6 / 31]
    expected = [[math.floor(10 / cells[0]), math.floor(3.1415926 / cells[1]), math.floor(4 / cells[2])],
                [math.floor(10 / cells[0]), math.floor((math.pi / 2 + 3.1415926) / cells[1]), math.floor(4 / cells[2])],
                [0, 0, math.floor(4 / cells[2])],
                [math.floor(1 / cells[0]), 359, 0],
                [479, math.floor((math.atan2(4, 3) + 3.1415926) / cells[1]), 31]]
    assert index.tolist() == expected
    assert feats.shape == (5, 9) and feats.dtype == torch.float32
    far = feats[4].tolist()
    assert far[0] == pytest.approx(500 - 479.5 * cells[0], rel=1e-6)  # the offset is not clipped
    assert far[3:] == pytest.approx([500, math.atan2(4, 3), 7, 300, 400, .5], rel=1e-6)


@pytest.mark.parametrize('device', DEVICES)
def test_voxels_and_votes_equal_loops(device):
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 4, (300, 3), generator=generator).to(device)
    batch = torch.randint(0, 3, (300,), generator=generator).to(device)
    labels = torch.randint(-1, 4, (300,), generator=generator).to(device)
    labels[labels < 0] = 255
    coords, rows = unique_voxels(index, batch, (5, 6, 7))
    wanted = sorted({(int(b), *map(int, i)) for b, i in zip(batch, index)})
    assert [tuple(c) for c in coords.tolist()] == wanted
    assert torch.equal(coords[rows], torch.cat([batch[:, None], index], dim=1))
    voted = majority_labels(labels, rows, len(coords)).tolist()
    for v in range(len(coords)):
        votes = labels[rows == v].tolist()
        best = max(votes.count(c) for c in set(votes))
        tied = [c for c in set(votes) if votes.count(c) == best]
        assert voted[v] == (255 if 255 in tied else min(tied))
    voted = majority_labels(labels, rows, len(coords), ignored_votes=False).tolist()
    for v in range(len(coords)):
        votes = [c for c in labels[rows == v].tolist() if c != 255]
        assert voted[v] == max(sorted(set(votes)), key=votes.count, default=255)


def test_nothing():
    index, feats = cylinder_features(torch.zeros(0, 4), FULL, LOW, HIGH)
    coords, rows = unique_voxels(index, torch.zeros(0, dtype=torch.long), FULL)
    assert index.shape == (0, 3) and feats.shape == (0, 9) and coords.shape == (0, 4) and rows.shape == (0,)
    assert majority_labels(torch.zeros(0, dtype=torch.long), rows, 0).shape == (0,)
    assert majority_labels(torch.zeros(0, dtype=torch.long), rows, 2).tolist() == [255, 255]


@pytest.mark.parametrize(('grid', 'low', 'high', 'says'), [
    ((480, 360), LOW, HIGH, 'three values'), ((480, 1, 32), LOW, HIGH, 'at least 2'),
    ((480, 360.5, 32), LOW, HIGH, 'whole numbers'), (FULL, HIGH, LOW, 'minimum below')])
def test_grids_that_cannot_work_are_refused(grid, low, high, says):
    with pytest.raises(ConfigError, match=says):
        cylinder_features(torch.zeros(1, 4), grid, low, high)
