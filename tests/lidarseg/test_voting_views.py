"""Votes of augmented views, with a model simple enough to do the sums by hand."""
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from perception.common.structures import PointSegSample
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.preprocessor import CylinderVoxelizer
from perception.lidarseg.voting import TTASegmentor, moved, view_matrices
from perception.utils.errors import ConfigError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


class Preprocessor(nn.Module):
    """Concatenates the scans."""

    def forward(self, data, training=False):
        assert not training
        points = data['inputs']['points']
        return dict(inputs=dict(points=torch.cat(points), batch_size=len(points)), data_samples=data['data_samples'])


class Linear(nn.Module):
    """Logits that are linear in x, y, z, intensity, the last one being large and dead."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.data_preprocessor = Preprocessor()
        weight = np.random.default_rng(0).normal(size=(4, 4))
        self.weight = nn.Parameter(torch.from_numpy(weight).float())
        self.batch_sizes = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert mode == 'tensor'
        self.batch_sizes.append(inputs['batch_size'])
        logits = inputs['points'].to(self.weight.device) @ self.weight
        return dict(point_logits=torch.cat([logits[:, :3], 100 + logits[:, 3:]], dim=1))


def scan(num_points=20, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num_points, 4)).astype(np.float32))


def batch(scans, names):
    samples = [PointSegSample(metainfo=dict(sample_id=name, num_points=len(p))) for p, name in zip(scans, names)]
    return dict(inputs=dict(points=scans), data_samples=samples)


def predict(model, mode, scans, names, **options):
    samples = TTASegmentor(model, mode, **options).eval().test_step(batch(scans, names))
    return [sample.pred_labels for sample in samples]


def test_flip4_has_one_view_of_each_flip():
    matrices = view_matrices('flip4', np.random.default_rng(0))
    for matrix, (x, y) in zip(matrices, ((1, 1), (-1, 1), (1, -1), (-1, -1))):
        unflipped = np.diag([x, y]) @ matrix
        scale, angle = np.sqrt(np.linalg.det(unflipped)), np.arctan2(unflipped[1, 0], unflipped[0, 0])
        np.testing.assert_allclose(unflipped @ unflipped.T, scale ** 2 * np.eye(2), atol=1e-12)
        assert 0.95 <= scale <= 1.05 and abs(angle) <= np.pi / 4
    assert len(matrices) == 4


def test_grid36_has_each_combination_once():
    matrices = np.array(view_matrices('grid36', np.random.default_rng(0)))
    assert len(np.unique(matrices.round(9), axis=0)) == 36
    scales = np.tile([0.95, 1, 1.05], 12)  # of all three axes, as mmdetection3d's GlobalRotScaleTrans scales
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), scales[:, None, None] ** 2 * np.eye(3),
                               atol=1e-12)
    np.testing.assert_allclose(matrices[:, 2], scales[:, None] * [0, 0, 1])
    assert (np.linalg.det(matrices) < 0).sum() == 18
    np.testing.assert_array_equal(view_matrices('grid36', np.random.default_rng(1)), matrices)
    assert any(np.allclose(matrix, np.eye(3)) for matrix in matrices)


def test_views_are_copies():
    points = scan()
    before = points.clone()
    turned = moved(points, np.array([[0.0, -1], [1, 0]]))
    assert torch.equal(points, before)
    torch.testing.assert_close(turned, torch.stack([-points[:, 1], points[:, 0], points[:, 2], points[:, 3]], dim=1))


@pytest.mark.parametrize('mode', ['flip4', 'grid36'])
def test_vote_equals_a_loop_over_views(mode):
    model, points = Linear(), scan()
    vote = TTASegmentor(model, mode, chunk=5).vote(points).detach()
    total = torch.zeros(20, 3)
    matrices = view_matrices(mode, np.random.default_rng([0, zlib.crc32(points.numpy().tobytes())]))
    for matrix in matrices:
        view = points.clone()
        for i in range(len(view)):
            view[i, :len(matrix)] = torch.from_numpy(matrix @ points[i, :len(matrix)].numpy())
        logits = model(dict(points=view, batch_size=1))['point_logits'].detach()
        total += logits[:, :3] if mode == 'flip4' else logits.softmax(dim=1)[:, :3] / 36
    torch.testing.assert_close(vote, total, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('mode', ['flip4', 'grid36'])
def test_prediction_depends_on_seed_and_points_alone(device, mode):
    """Not on the name: what draws or saves a file calls it otherwise than the data set in a test."""
    model = Linear().to(device)
    a, b = scan(200, seed=1), scan(150, seed=2)
    together = predict(model, mode, [a, b], ['08_000001', '08_000002'])
    alone = predict(model, mode, [b], ['000002'], chunk=1)
    assert [len(p) for p in together] == [200, 150]
    assert torch.equal(together[1], alone[0]) and alone[0].dtype == torch.int64
    assert set(together[0].tolist()) <= {0, 1, 2}  # never the dead class
    voter = TTASegmentor(model, mode)
    longer = torch.cat([a, a[:1]])  # of other points, and so other views
    assert torch.equal(voter.vote(longer)[:200], voter.vote(a)) == (mode == 'grid36')


@pytest.mark.parametrize('mode, chunk, sizes', [('flip4', 3, [3, 1]), ('flip4', 9, [4]), ('grid36', 16, [16, 16, 4])])
def test_views_run_in_chunks(mode, chunk, sizes):
    model = Linear()
    predict(model, mode, [scan()], ['08_000000'], chunk=chunk)
    assert model.batch_sizes == sizes


def test_a_scan_without_points():
    assert predict(Linear(), 'flip4', [scan(0)], ['08_000000'])[0].shape == (0,)


@pytest.mark.parametrize('mode, chunk', [('flip4', 2), ('grid36', 12)])
def test_cylinder3d_votes_and_keeps_truth(mode, chunk):
    torch.manual_seed(0)
    voxelizer = dict(type=CylinderVoxelizer, grid_shape=(24, 18, 8))
    model = Cylinder3D(voxelizer, base_channels=2, compression=4, point_channels=8, point_widths=(4, 8, 8))
    data = batch([10 * scan(60)], ['08_000000'])
    data['data_samples'][0].labels = torch.arange(60) % 19
    sample = TTASegmentor(model, mode, chunk=chunk).eval().test_step(data)[0]
    assert sample.pred_labels.shape == (60,) and int(sample.pred_labels.max()) < 19
    assert torch.equal(sample.labels, torch.arange(60) % 19)


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="mode='flip', expected one of flip4, grid36. Did you mean flip4"):
        TTASegmentor(Linear(), 'flip')
    with pytest.raises(ConfigError, match='chunk=0, expected at least 1'):
        TTASegmentor(Linear(), chunk=0)
