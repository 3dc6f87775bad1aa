"""The speed benchmarks run on a small scan, and their peer is the same net."""
import argparse
import subprocess
import sys

import numpy as np
import pytest
import torch
from perception.apis.benchmarks.spconv_peer import spconv_twin

from perception.apis.benchmarks import cylinder3d, measure, sparse
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.utils.errors import ConfigError, DataError


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


def arguments(module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


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


def test_the_peer_is_the_same_net(scan):
    pytest.importorskip('spconv.pytorch', reason='spconv is not installed')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # spconv's CPU path races with itself
    try:
        inputs, model = measure.voxelise(scan), Cylinder3D(base_channels=2, compression=2)
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


@pytest.mark.parametrize('words', [['--help'], ['sparse', '--help'], ['cylinder3d', '--help']])
def test_the_tool_explains_itself(root, words):
    run = subprocess.run([sys.executable, root / 'tools/benchmark.py', *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert words[0] in run.stdout


def test_the_tool_refuses_an_unknown_benchmark(root):
    run = subprocess.run([sys.executable, root / 'tools/benchmark.py', 'spares'], capture_output=True, text=True)
    assert run.returncode == 2
    assert "invalid choice: 'spares'" in run.stderr
