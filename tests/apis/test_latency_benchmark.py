"""Milliseconds of a net and of its parts, and of the parts of a sample, on a toy."""
import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perception.apis.benchmarks import latency, loading
from perception.apis.listing import add_options
from perception.common.dataset import SeededDataset
from perception.common.part import Part
from perception.utils.errors import ConfigError


def arguments(module, *words):
    parser = add_options(argparse.ArgumentParser(), module.OPTIONS)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def parted(toy, monkeypatch):
    """The toy's net, exported as a whole and in two parts."""
    def deployable(self):
        return torch.nn.Sequential(self.backbone, self.head).eval(), dict(feats=torch.rand(1, 6)), ['logits']

    def parts(self):
        width = self.head.in_features
        return dict(backbone=Part(self.backbone.eval(), dict(feats=torch.rand(1, 6)), ['hidden']),
                    head=Part(self.head.eval(), dict(hidden=torch.rand(1, width)), ['logits']))
    monkeypatch.setattr(toy.ToyModel, 'deployable', deployable, raising=False)
    monkeypatch.setattr(toy.ToyModel, 'deployable_parts', parts, raising=False)


def test_a_net_and_its_parts(parted, toy_config, tmp_path):
    pytest.importorskip('onnxruntime', reason='the extra onnx is not installed')
    whole, backbone, head = latency.run(arguments(latency, toy_config, '--rounds', 1, '--out', tmp_path))
    assert [row['part'] for row in (whole, backbone, head)] == ['whole', 'backbone', 'head']
    assert whole['parameters'] == 6 * 16 + 3 * 16 + 16 * 3 + 3 and head['parameters'] is None
    assert (backbone['gmac'], head['gmac']) == (6 * 16 / 1e9, 16 * 3 / 1e9)
    assert whole['gmac'] == backbone['gmac'] + head['gmac']
    assert min(row[key] for row in (whole, backbone, head) for key in ('cpu_ms', 'onnx_ms')) > 0
    text = (tmp_path / 'latency.md').read_text()
    assert 'published size' in text and '| ONNX Runtime [ms] |' in text and text.count('toy_config') == 3


def test_a_net_of_which_a_part_alone_is_exported(toy, toy_config, tmp_path, monkeypatch):
    """The time of the part does not stand for the whole net."""
    pytest.importorskip('onnxruntime', reason='the extra onnx is not installed')

    def refuses(self):
        raise ConfigError('no such operator')
    monkeypatch.setattr(toy.ToyModel, 'deployable', refuses, raising=False)
    monkeypatch.setattr(toy.ToyModel, 'deployable_parts', lambda self: dict(
        head=Part(self.head.eval(), dict(hidden=torch.rand(1, self.head.in_features)), ['logits'])), raising=False)
    whole, *parts = latency.run(arguments(latency, toy_config, '--rounds', 1, '--out', tmp_path))
    assert whole['onnx_ms'] is None and [row['onnx_ms'] > 0 for row in parts] == [True]


def test_a_net_without_parts_or_onnx(toy_config, tmp_path, monkeypatch):
    monkeypatch.setattr(latency, 'has_bfloat16', lambda: False)
    row, = latency.run(arguments(latency, toy_config, '--mini', '--no-onnx', '--rounds', 1, '--out', tmp_path))
    assert row['cpu_ms'] > 0 and row['onnx_ms'] is None and row['bf16_ms'] is None
    assert 'bfloat16' not in (tmp_path / 'latency.md').read_text()
    with pytest.raises(ConfigError, match='rounds=0'):
        latency.run(arguments(latency, toy_config, '--rounds', 0))


class Numbers(SeededDataset):
    """Reads a number, of which a step makes another; says what was asked for."""

    def __init__(self):
        super().__init__([self.double])
        self.seen = []

    def __len__(self):
        return 3

    def read(self, index):
        return dict(value=index)

    def double(self, sample):
        assert sample['draw']()['value'] < 3 and 'classes' in sample  # as in `SeededDataset`
        return dict(sample, value=2 * sample['value'], drawn=sample['rng'].integers(1000))

    def pack(self, sample, index):
        self.seen.append((sample['epoch'], index, sample['value'], int(sample['drawn'])))
        return dict(inputs=dict(), data_samples=None)


def test_parts_of_a_sample(toy_config, monkeypatch):
    data = Numbers()
    monkeypatch.setattr(loading, 'DATASETS', SimpleNamespace(build=lambda cfg: data))
    found = loading.run(arguments(loading, toy_config, '--samples', 2, '--rounds', 2))
    assert list(found) == ['read', '1 method', 'pack', 'all']
    assert [row[:3] for row in data.seen] == [(epoch, index, 2 * index) for epoch in range(3) for index in range(2)]
    expected = [np.random.default_rng([0, epoch, index]) for epoch, index, _, _ in data.seen]
    for rng in expected:
        rng.integers(3)  # of draw
    assert [row[3] for row in data.seen] == [rng.integers(1000) for rng in expected]


def test_what_cannot_be_timed_by_parts(toy_config):
    with pytest.raises(ConfigError, match='ToyDataset came'):
        loading.run(arguments(loading, toy_config))
    with pytest.raises(ConfigError, match='samples=0'):
        loading.run(arguments(loading, toy_config, '--samples', 0))
