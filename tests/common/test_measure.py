"""Arithmetic is counted exactly, runs take turns, memory is that of a process of its own."""
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from perception.common import measure
from perception.ops.sparse.modules import SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.errors import DataError


class Mixed(nn.Module):
    """A linear layer, a sparse convolution, and on demand a dense one and a product without a module."""

    def __init__(self, dense=False):
        super().__init__()
        self.linear, self.sparse = nn.Linear(4, 3), SubMConv3d(3, 5, (1, 1, 3))
        self.dense = nn.Conv2d(5, 2, 3, padding=1) if dense else None

    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert mode == 'tensor' and not torch.is_grad_enabled()
        coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 3]])
        feats = self.sparse(SparseTensor(self.linear(inputs), coords, (2, 2, 4), 1)).feats  # (3, 5)
        if self.dense is None:
            return feats
        return self.dense(feats.T.reshape(1, 5, 3, 1)), feats @ feats.T


@pytest.mark.parametrize('dense', [False, True])
def test_macs_of_sparse_and_dense_layers(dense):
    net = Mixed(dense)
    pairs = 3 + 2  # each voxel with itself, two neighbours with each other
    expected = 3 * 4 * 3 + pairs * 3 * 5 + dense * (3 * 5 * 9 * 2 + 3 * 5 * 3)
    assert measure.count_model_macs(net, lambda net: net(torch.randn(3, 4))) == expected
    assert not net.sparse._forward_hooks and not net.sparse._forward_pre_hooks
    assert measure.is_sparse(net) and not measure.is_sparse(net.linear)
    assert measure.count_parameters(net) == 4 * 3 + 3 + 3 * 5 * 3 + dense * (5 * 2 * 9 + 2)


def test_macs_of_dense_nets():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 2, 2, stride=2))
    assert measure.count_model_macs(net, lambda net: net(torch.zeros(1, 3, 5, 6))) == 3 * 4 * 9 * 30 + 4 * 2 * 4 * 30


def test_runs_take_turns_and_the_first_round_does_not_count():
    calls, ticks = [], iter(range(100))
    seconds = measure.interleave(dict(a=lambda: calls.append('a'), b=lambda: calls.append('b')), 2, lambda: next(ticks))
    assert calls == ['a', 'b'] * 3
    assert seconds == dict(a=[1, 1], b=[1, 1])
    assert measure.summary([3., 1., 2.]) == '2.000 s (min 1.000)'
    assert measure.best_seconds(lambda: calls.append('c'), 3) >= 0 and calls.count('c') == 4


def test_memory_does_not_count_that_of_the_parent():
    parents = np.ones(1 << 27)  # 1 GiB
    code = 'from perception.common.measure import peak_memory; print(peak_memory())'
    child = float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)
    assert 50 < child < parents.nbytes / 2 ** 20 < measure.peak_memory()


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems keep the peak')
def test_a_peak_is_forgotten():
    held = np.ones(1 << 24)  # 128 MiB
    del held
    before = measure.peak_memory()
    measure.forget_peak()
    assert measure.peak_memory() < before - 100


def test_memory_of_a_process_of_its_own():
    assert measure.process_memory(np.ones, 1 << 26) > 512  # MiB of the array
    with pytest.raises(DataError, match='abort: its process was killed'):
        measure.process_memory(os.abort)
    with pytest.raises(ValueError, match='math domain'):
        measure.process_memory(math.sqrt, -1)


def test_the_machine_in_words(monkeypatch):
    rest = f', torch {torch.__version__}, {torch.get_num_threads()} threads, '
    assert measure.machine().startswith(measure.processor() + rest) and measure.processor()
    monkeypatch.setattr(measure.Path, 'read_text', lambda _: 'processor\t: 0\nmodel name\t: AMD  EPYC 7B13\n')
    assert measure.machine().startswith(f'AMD EPYC 7B13{rest}')
    monkeypatch.setattr(measure.Path, 'read_text', lambda _: 'processor\t: 0\nCPU part\t: 0xd0c\n')  # of an ARM
    for known, name in (('arm', 'arm'), ('', 'aarch64')):
        monkeypatch.setattr(measure.platform, 'processor', lambda known=known: known)
        monkeypatch.setattr(measure.platform, 'machine', lambda: 'aarch64')
        assert measure.processor() == name
