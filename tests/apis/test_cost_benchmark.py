"""The cost table and the augmentation benchmark on nets and scans that take no time."""
import argparse
import csv
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perception.apis.benchmarks import augmentation, cost
from perception.common.structures import PointSegSample
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTI
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.utils.errors import ConfigError


def arguments(module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(list(words))


@pytest.fixture
def few_points(mini_kitti, monkeypatch):
    """Configs read the tiny simulated set, and of each scan 500 points."""
    def config_of(path, mini, official):
        cfg = cost.load_config(path, mini)
        cfg.val_dataloader.dataset.update(data_root=str(mini_kitti), sequences=[8])
        return cfg

    read = SemanticKITTI.read

    def read_few(self, index):
        sample = read(self, index)
        return dict(sample, points=sample['points'][::200], labels=sample['labels'][::200])

    monkeypatch.setattr(cost, 'config_of', config_of)
    monkeypatch.setattr(SemanticKITTI, 'read', read_few)
    monkeypatch.setattr(cost, 'process_memory', lambda cfg: 512.)


def test_costs_of_a_teacher_and_its_student(few_points, tmp_path):
    names = ['minkunet_kitti', 'minkunet_half_kitti']
    rows = cost.run(arguments(cost, *(f'configs/lidarseg/{name}.py' for name in names), '--mini', '--scans', '1',
                              '--rounds', '1', '--out', str(tmp_path)))
    teacher, student = rows
    assert [row['config'] for row in rows] == names
    assert (teacher['parameters'], student['parameters']) == (1_361_019, 341_367)
    assert teacher['macs'] > 2 * student['macs'] > 0
    assert min(row[key] for row in rows for key in ('voxelise_ms', 'cpu_ms', 'points', 'voxels')) > 0
    assert teacher['teacher'] is None
    assert student['teacher'] == 'minkunet_kitti'
    assert student['macs_saved'] == 1 - student['macs'] / teacher['macs']
    assert student['cpu_speedup'] == teacher['cpu_ms'] / student['cpu_ms']
    text = (tmp_path / 'cost.md').read_text()
    assert 'simulated mini data' in text
    assert '| minkunet_half_kitti | minkunet_kitti | 74.9 % fewer | ' in text
    with open(tmp_path / 'cost.csv', newline='') as file:
        table = list(csv.DictReader(file))
    assert [row['config'] for row in table] == names
    assert float(table[1]['macs']) == student['macs']


def test_all_lidar_configs_are_measured_by_default(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(cost, 'config_of', lambda path, mini, official: seen.append(path.stem) or exit())
    with pytest.raises(SystemExit):
        cost.run(arguments(cost, '--out', str(tmp_path)))
    assert seen == ['cylinder3d_half_kitti']


def test_memory_is_that_of_a_process_of_its_own(monkeypatch):
    pool = SimpleNamespace(apply=lambda function, args: (function.__name__, args[0]['a'], args[1]))

    class Pool:
        def __init__(self, count):
            assert count == 1

        def __enter__(self):
            return pool

        def __exit__(self, *error):
            return None

    context = SimpleNamespace(Pool=Pool)
    monkeypatch.setattr(cost.multiprocessing, 'get_context', lambda kind: context if kind == 'spawn' else None)
    assert cost.process_memory(dict(a=1)) == ('_peak_of_one_scan', 1, torch.get_num_threads())


def test_memory_does_not_count_that_of_the_parent():
    parents = np.ones(1 << 27)  # 1 GiB
    code = 'from perception.apis.benchmarks.cost import peak_memory; print(peak_memory())'
    child = float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)
    assert 50 < child < parents.nbytes / 2 ** 20 < cost.peak_memory()


def test_bad_arguments():
    with pytest.raises(ConfigError, match='--scans 0 --rounds 5 came'):
        cost.run(arguments(cost, '--scans', '0'))
    with pytest.raises(ConfigError, match='no such file'):
        cost.run(arguments(cost, 'configs/lidarseg/minkunet_kiti.py'))
    with pytest.raises(ConfigError, match='--rounds: 0 came'):
        augmentation.run(arguments(augmentation, '--rounds', '0'))


@pytest.fixture
def scan():
    rng = np.random.default_rng(0)
    points = rng.uniform(-40, 40, (2000, 4)).astype(np.float32)
    points[:, 2] /= 10
    return points, rng.integers(0, 19, 2000)


def test_the_plain_way_finds_the_same_voxels(scan):
    points, labels = scan
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
