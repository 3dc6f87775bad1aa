"""The rate of a training is measured through the training itself."""
import argparse

import numpy as np
import pytest

from perception.apis.benchmarks.lidarseg import backends, training
from perception.apis.listing import add_options


@pytest.fixture
def scan(tmp_path):
    """A ring of 300 points."""
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(-np.pi, np.pi, 300), rng.uniform(5, 8, 300)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(-2, -1, 300), rng.uniform(size=300)])
    path = tmp_path / 'scan.bin'
    points.T.astype(np.float32).tofile(path)
    return path


SMALL = ['model.base_channels=2', 'model.compression=2', 'model.data_preprocessor.grid_shape=(24,18,8)']
STUDENT = 'configs/lidarseg/cylinder3d_half_kitti.py'


def test_scans_per_second(scan):
    words = ['--configs', STUDENT, '--scan', scan, '--batch', 2, '--steps', 4, '--workers', 0, '--float32',
             '--cfg-options', *SMALL]
    parser = add_options(argparse.ArgumentParser(), training.OPTIONS)
    row, = training.run(parser.parse_args([str(word) for word in words]))
    assert row['rate'] == pytest.approx(2e3 / row['step_ms']) and 0 < row['loading'] < 1
    assert row['days'] == pytest.approx(40 * 19_130 / row['rate'] / 86_400)


def test_trainings_stand_in_the_table_of_backends(scan, tmp_path, monkeypatch):
    """One that cannot train is named, and the others go on."""
    monkeypatch.setattr(training, 'measure', lambda config, *args: training.train(config) if config == 'none' else dict(
        dict.fromkeys(training.COLUMNS), config=config, rate=1.5, days=5.9))
    for name in ('measure', 'roofline'):
        monkeypatch.setattr(backends, name, lambda *args: [])
    words = ['--scan', scan, '--device', 'cpu', '--nets', 'minkunet', '--width', 1 / 16, '--ways', 'torch', '--dtypes',
             'float32', '--batches', 1, '--rounds', 1, '--train', 'none', STUDENT, '--out', tmp_path]
    parser = add_options(argparse.ArgumentParser(), backends.OPTIONS)
    report = backends.run(parser.parse_args([str(word) for word in words]))
    assert [row['config'] for row in report['training']] == [STUDENT]
    assert report['left_out'][0].startswith('training, none: ')
    text = (tmp_path / 'backends.md').read_text()
    assert 'days for 40 epochs of 19,130 scans' in text and '1.50' in text
