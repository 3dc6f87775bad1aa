"""The latency table of lane nets, on mini nets with one round."""
import argparse

import pytest
import torch

from perception.apis.benchmarks import latency
from perception.utils.errors import ConfigError


def arguments(*words):
    parser = argparse.ArgumentParser()
    latency.add_arguments(parser)
    return parser.parse_args(list(words))


def test_nets_are_measured_side_by_side(tmp_path):
    pytest.importorskip('onnxruntime', reason='the extra onnx is not installed')
    threads = torch.get_num_threads()
    try:
        rows = latency.run(arguments('configs/lanes/resnet18_culane.py', 'configs/lanes/pspnet_culane.py', '--mini',
                                     '--rounds', '1', '--threads', '1', '--out', str(tmp_path / 'table.md')))
    finally:
        torch.set_num_threads(threads)
    assert [row['input'] for row in rows] == [(80, 240)] * 2
    assert rows[0]['parameters'] == 768025
    for row in rows:
        assert min(row['macs'], row['torch_ms'], row['onnx_ms']) > 0
        assert (row['gpu_ms'] is None) != torch.cuda.is_available()
    text = (tmp_path / 'table.md').read_text()
    assert '| `configs/lanes/resnet18_culane.py` | 80 x 240 | 768,025 |' in text and '| 12.41 | 25.3 |' in text


def test_the_papers_comparison():
    row = dict(config='configs/lanes/enet_culane.py', input=(8, 8), parameters=10, macs=1, torch_ms=2., onnx_ms=None,
               gpu_ms=None)
    text = latency.to_markdown([row, dict(row, config='configs/lanes/scnn_culane.py', parameters=200, torch_ms=9.)])
    assert 'ENet-SAD against SCNN: 20x fewer parameters (paper: 21x), 4.5x faster by PyTorch' in text
    assert '| 2.0 | - | - | 0.98 | 13.4 |' in text
    assert 'against' not in latency.to_markdown([row])


def test_arithmetic_is_counted_exactly():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ConvTranspose2d(4, 2, 2, stride=2))
    with latency.FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 5, 6))
    assert counter.get_total_flops() // 2 == 3 * 4 * 9 * 30 + 4 * 2 * 4 * 30


def test_bad_arguments():
    with pytest.raises(ConfigError, match='--rounds: 0 came'):
        latency.run(arguments('--rounds', '0'))
    with pytest.raises(ConfigError, match='no such file'):
        latency.run(arguments('configs/lanes/enet_culan.py'))
