"""The speed benchmarks of LiDAR nets run on a small scan, and their peer is the same net."""
import argparse
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perception.apis.benchmarks.lidarseg import augmentation, backends, cylinder3d, sparse
from perception.apis.benchmarks.lidarseg.spconv_peer import spconv_twin
from perception.apis.listing import add_options
from perception.common.formats.kitti import read_points
from perception.common.structures import PointSegSample
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTI
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.utils.errors import ConfigError, DataError


def arguments(module, *words):
    parser = add_options(argparse.ArgumentParser(), module.OPTIONS)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def scan(tmp_path):
    """A ring of 1500 points."""
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(-np.pi, np.pi, 1500), rng.uniform(5, 8, 1500)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(-2, -1, 1500),
                       rng.uniform(size=1500)])
    path = tmp_path / 'scan.bin'
    points.T.astype(np.float32).tofile(path)
    return path


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_layers_are_measured(scan, dtype):
    rows = sparse.run(arguments(sparse, '--scan', scan, '--base-channels', 2, '--repeats', 1, '--dtype', dtype,
                                '--all'))
    assert sum(row['count'] for row in rows) == 48  # 47 convolutions and the one that makes the logits
    for row in rows:
        assert row['algorithm'] in row['milliseconds']
        assert ('classes' in row['milliseconds']) == ('inverse' in row['layer'])
        assert min(row['milliseconds'].values()) > 0


def test_the_net_is_measured(scan):
    report = cylinder3d.run(arguments(cylinder3d, '--scan', scan, '--base-channels', 2, '--rounds', 2, '--no-peer'))
    assert set(report['seconds']) == {'float32', 'bfloat16'}
    assert all(len(times) == 2 for times in report['seconds'].values())
    assert report['macs'] > 0 and report['ratios'] is None


def test_a_training_step_is_measured(scan):
    report = cylinder3d.run(arguments(cylinder3d, '--scan', scan, '--base-channels', 2, '--rounds', 1, '--train',
                                      '--dtype', 'float32'))
    assert list(report['seconds']) == ['float32']
    assert report['goals_met']['float32'], 'a tiny net steps faster than the goal of the real one'


def fails(*args):
    raise RuntimeError('operation not permitted\nwhen stream is capturing')


@pytest.mark.parametrize(('net', 'dtypes', 'ways'), [('cylinder3d', ['float32'], ['torch', 'spconv', 'graph']),
                                                     ('spvnas', ['bfloat16'], ['torch', 'graph'])])
def test_backends_are_measured_side_by_side(scan, tmp_path, net, dtypes, ways, monkeypatch):
    """On a CPU; what only a GPU can do is left out."""
    monkeypatch.setattr(backends, 'STREAM', 2)
    if net == 'spvnas':
        monkeypatch.setattr(backends.FixedNet, 'grow', fails)
    report = backends.run(arguments(backends, '--scan', scan, '--device', 'cpu', '--nets', net, '--width', 1 / 16,
                                    '--ways', *ways, '--dtypes', *dtypes, '--batches', 1, '--rounds', 1,
                                    '--out', tmp_path))
    rows = {(row['dtype'], row['way']): row for row in report['nets']}
    if net == 'spvnas':  # what cannot be recorded ends nothing else
        assert rows.pop((dtypes[0], 'graph: failed'))['forward_ms'] is None
        assert report['left_out'] == ['graph, SPVNAS, bfloat16: operation not permitted']
    assert {key for key in rows if key[1] == 'torch'} == {(dtype, 'torch') for dtype in dtypes}
    error = rows[dtypes[0], 'torch']['error']
    assert error == 0 if dtypes == ['float32'] else 0 < error < .2
    assert all(row[key] > 0 for row in rows.values() for key in ('forward_ms', 'forward_kernels'))
    assert all(row[key] > 0 for row in rows.values() if row['way'] == 'torch' for key in ('step_ms', 'maps_ms'))
    if 'spconv' in ways and not report['left_out']:
        assert rows['float32', 'spconv']['error'] < 1e-4 and rows['float32', 'torch']['forward_ratio'] > 0
        assert rows['float32', 'graph']['forward_ratio'] > 0
    if net == 'cylinder3d':
        assert rows['float32', 'graph']['error'] < 1e-4 and rows['float32', 'graph']['maps_ms'] > 0
    layers = report['layers']
    assert sum(row['count'] for row in layers) > 20 and all(row['torch_ms'] > 0 < row['limit_ms'] for row in layers)
    assert json.loads((tmp_path / 'backends.json').read_text())['nets'] == report['nets']
    assert (tmp_path / 'backends.md').read_text().count('\n| ') == len(report['nets']) + len(report['layers']) + 2


@pytest.mark.parametrize(('build', 'voxelizer'), [
    (partial(Cylinder3D, base_channels=2, compression=2), CylinderVoxelizer()),
    (partial(Cylinder3D, base_channels=2, compression=2, indice_sharing='legacy'), CylinderVoxelizer((96, 72, 16))),
    (partial(MinkUNet, width=.125), CubeVoxelizer(.2))], ids=['cylinder3d', 'legacy', 'minkunet'])
def test_the_peer_is_the_same_net(scan, monkeypatch, build, voxelizer):
    conv = pytest.importorskip('spconv.pytorch.conv', reason='spconv is not installed')
    monkeypatch.setattr(conv, 'CPU_ONLY_BUILD', False)  # a build for CUDA, whose usual algorithm no CPU has
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # spconv's CPU path races with itself
    try:
        torch.manual_seed(0)
        points = torch.from_numpy(read_points(scan))
        inputs, model = voxelizer(dict(inputs=dict(points=[points]), data_samples=None))['inputs'], build()
        cylinder3d.settle_statistics(model, inputs)
        with torch.no_grad():
            expected, found = (net(inputs)['voxel_logits'] for net in (model, spconv_twin(model)))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(threads)


def test_bad_arguments(scan, tmp_path):
    with pytest.raises(DataError, match='expected a scan'):
        sparse.run(arguments(sparse, '--scan', tmp_path / 'absent.bin'))
    with pytest.raises(ConfigError, match='--rounds: 0 came'):
        cylinder3d.run(arguments(cylinder3d, '--scan', scan, '--rounds', 0))
    with pytest.raises(ConfigError, match='--rounds: 0 came'):
        augmentation.run(arguments(augmentation, '--rounds', '0'))


@pytest.fixture
def labelled():
    rng = np.random.default_rng(0)
    points = rng.uniform(-40, 40, (2000, 4)).astype(np.float32)
    points[:, 2] /= 10
    return points, rng.integers(0, 19, 2000)


def test_the_plain_way_finds_the_same_voxels(labelled):
    points, labels = labelled
    batch = dict(inputs=dict(points=[torch.from_numpy(points)]),
                 data_samples=[PointSegSample(labels=torch.from_numpy(labels))])
    ours = CylinderVoxelizer()(batch)['inputs']
    coords, rows, feats, votes = augmentation.plain_cylinders(CylinderVoxelizer(), (points.astype(float), labels))
    same = np.isclose(feats, ours['point_feats'].numpy(), atol=1e-3).all(1)
    assert same.mean() > .99  # a point at a border may fall to the other side in float64
    assert abs(len(coords) - len(ours['voxel_coords'])) <= 20
    cubes = CubeVoxelizer(max_voxels=None)(batch)['inputs']
    kept, rows, inside, first, first_labels, _ = augmentation.plain_cubes(
        SimpleNamespace(voxel_size=.05, max_voxels=None), (points, labels))
    np.testing.assert_array_equal(kept, cubes['voxel_coords'][:, 1:].numpy())
    np.testing.assert_array_equal(rows, cubes['point_to_voxel'].numpy())
    np.testing.assert_array_equal(first, cubes['voxel_feats'].numpy())


def test_augmentation_is_timed_on_scans_of_a_size(mini_kitti, monkeypatch):
    load = augmentation.load_config

    def config(path, mini=False):
        cfg = load(path, mini)
        cfg.train_dataloader.dataset.data_root = str(mini_kitti)
        return cfg

    data = SemanticKITTI(mini_kitti, 'val', [0, 8])
    monkeypatch.setattr(augmentation, 'load_config', config)
    monkeypatch.setattr(augmentation, 'write_mini_data', lambda cfg: None)
    monkeypatch.setattr(augmentation, 'SemanticKITTI', lambda *args: data)
    rows = augmentation.run(arguments(augmentation, '--rounds', '1', '--points', '1000'))
    assert [row['name'] for row in rows] == ['own, cylinders', 'LaserMix, cylinders', 'PolarMix, cylinders',
                                             'PasteObjects, cylinders', 'own, cubes']
    assert all(row['total_ms'] == row['augment_ms'] + row['voxelise_ms'] for row in rows)
    assert rows[0]['points'] == 1000
    assert rows[0]['ratio'] == rows[0]['plain_ms'] / rows[0]['total_ms']
    with pytest.raises(ConfigError, match=r'--points: 9,999,999 came, expected 2 to'):
        augmentation.run(arguments(augmentation, '--points', '9999999'))
