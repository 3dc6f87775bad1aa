"""Nets compiled for evaluation give the same, and one that cannot be compiled runs as it is."""
import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from perception.apis.compiled import compile_net
from perception.apis.test import test as evaluate
from perception.lanes.models.base import LaneNet
from perception.utils.errors import ConfigError

SIZE = (16, 32)


class Net(LaneNet):
    def __init__(self):
        super().__init__(input_size=SIZE)
        self.body, self.exist = nn.Conv2d(3, self.num_classes, 3, padding=1), nn.Linear(self.num_classes, 4)

    def compute(self, images):
        maps = self.body(images)
        return dict(logits=maps, exist_logits=self.exist(maps.mean((2, 3))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def traced(monkeypatch):
    """Dynamo alone: the graph is found, and runs without a C++ compiler."""
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda model, **options: compile_(model, backend=backend))
    return calls


@torch.no_grad()
def test_a_compiled_net_gives_the_same(net, traced):
    images = torch.rand(2, 3, *SIZE)
    expected = net(dict(images=images))
    compile_net(nn.ModuleList([net]))  # as a part of what votes
    found = net(dict(images=images))
    assert len(traced) == 1, 'one graph, without breaks'
    assert set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in found)


@torch.no_grad()
def test_where_there_is_no_compiler_the_net_runs_as_it_is(net, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError('No working C++ compiler found')

    said = []
    monkeypatch.setattr('perception.apis.compiled.print_log', lambda text, *args: said.append(text))
    monkeypatch.setattr(torch, 'compile', functools.partial(lambda model, compile_, **options: compile_(
        model, backend=broken), compile_=torch.compile))
    images = torch.rand(1, 3, *SIZE)
    expected = net.compute(images)
    compile_net(net)
    for _ in range(2):
        found = net.compute(images)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    line, = said
    assert 'Net cannot be compiled here' in line and 'No working C++ compiler found' in line


def test_the_next_batch_of_a_graph_leaves_outputs_as_they_are(monkeypatch):
    """A CUDA graph writes each batch to the same place; those of grids stand in lists and tuples (BEVNet)."""
    place = torch.zeros(2)

    class Grid(nn.Module):
        deployable = True

        def parameters(self, recurse=True):
            return iter([SimpleNamespace(is_cuda=True)])

        def compute(self, value):
            return dict(seen=(place.fill_(value), None), boxes=[dict(heatmap=place)])

    monkeypatch.setattr(torch, 'compile', lambda compute, **options: compute)
    net = Grid()
    compile_net(net)
    first, _ = net.compute(1), net.compute(2)
    assert first['seen'][0].tolist() == first['boxes'][0]['heatmap'].tolist() == [1, 1] and first['seen'][1] is None


def test_a_net_without_a_dense_part_is_refused():
    with pytest.raises(ConfigError, match='--compile: Linear came'):
        compile_net(nn.Linear(1, 1))


def test_predictions_of_a_file_are_not_compiled():
    with pytest.raises(ConfigError, match='came with compiled=True'):
        evaluate('configs/lanes/erfnet_culane.py', predictions='file', compiled=True)
