"""The benchmark of steering: a step costs a tenth of a clip of ten frames."""
import importlib

import numpy as np
import pytest
import torch

from perception.apis.listing import benchmarks
from perception.utils.errors import ConfigError


def test_streaming_costs_a_tenth(root, monkeypatch):
    listed = benchmarks()['steering/streaming']
    configs = [str(root / 'configs' / 'steering' / f'{name}.py')
               for name in ('resnet50_lstm_causal_udacity', 'resnet50_lstm_udacity')]
    args = type('Args', (), dict(configs=configs, mini=True, window=10, rounds=1, threads=1, onnx=False))
    causal, whole = listed.load().run(args)
    assert 9.5 < causal['window_gmac'] / causal['step_gmac'] < 10.5
    assert whole['step_ms'] is None and whole['window_gmac'] == pytest.approx(causal['window_gmac'], rel=0.01)
    assert causal['state_mib'] > 0.5 and causal['step_onnx_ms'] is None
    files = []  # tests/steering export for true
    monkeypatch.setattr(importlib.import_module('perception.apis.benchmarks.steering.streaming'), 'exported',
                        lambda module, inputs, outputs, path: lambda: files.append((path.name, [*inputs])))
    args.configs, args.onnx = [str(root / 'configs' / 'steering' / 'cnn_lstm_udacity.py')], True
    assert all(listed.load().run(args)[0][f'{name}_onnx_ms'] >= 0 for name in ('window', 'step'))
    assert [*dict(files).items()] == [('1_clip.onnx', ['clip']), ('1_step.onnx', ['frame', 'state'])]
    args.configs = [str(root / 'configs' / 'steering' / 'flownet_s_udacity.py')]
    with pytest.raises(ConfigError, match='FlowNetS'):
        listed.load().run(args)


def test_steps_from_the_cache(root):
    listed = benchmarks()['steering/mimicking']
    args = type('Args', (), dict(config=str(root / 'configs' / 'fm' / 'resnet50_lstm_udacity.py'), mini=True, clips=1,
                                 rounds=1, threads=1))
    alone, live, cached = listed.load().run(args)
    assert alone['ratio'] == 1 and live['ratio'] > cached['ratio']
    args.config = str(root / 'configs' / 'steering' / 'resnet50_udacity.py')
    with pytest.raises(ConfigError, match='no teachers'):
        listed.load().run(args)


def test_what_features_tell():
    listed, generator = benchmarks()['steering/probe'], torch.Generator().manual_seed(0)
    regress = importlib.import_module('perception.apis.benchmarks.steering.probe').regress
    features = torch.randn(160, 20, generator=generator).double()
    angles, drives = features @ torch.arange(20.).double(), np.repeat(list('abcdefgh'), 20)
    found = regress(features[:120], angles[:120], drives[:120])(features[120:])
    assert (found - angles[120:]).abs().max() < 1 < angles.std()
    nothing = regress(features[:120], angles.flip(0)[:120], np.repeat('a', 120))(features[120:])
    assert nothing.std() < angles.std()
    args = type('Args', (), dict(config='configs/steering/resnet50_udacity.py', mini=True, side=8))
    with pytest.raises(ConfigError, match='no teachers'):
        listed.load().run(args)
