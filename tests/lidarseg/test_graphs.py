"""Nets on memory of fixed size, as a CUDA graph replays them, predict as they do on the batch itself."""
import re
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from perception.apis.compiled import compile_net
from perception.lidarseg import graphs
from perception.lidarseg.graphs import FixedNet, use_graphs
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.models.spvnas import SPVNAS
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer

CYLINDERS, CUBES = dict(grid_shape=(24, 36, 8), max_bound=(12, 3.1415926, 2)), dict(voxel_size=.7)
POINTS = dict(point_channels=16, point_widths=(4, 8, 16))
NETS = {
    'cylinder3d': lambda: Cylinder3D(CylinderVoxelizer(**CYLINDERS), base_channels=4, compression=4, refine='mirror',
                                     **POINTS),
    'cylinder3d_half': lambda: Cylinder3D(CylinderVoxelizer(**CYLINDERS), base_channels=2, compression=2,
                                          indice_sharing='legacy', **POINTS),
    'minkunet': lambda: MinkUNet(CubeVoxelizer(**CUBES), width=.125),
    'spvnas_half': lambda: SPVNAS(CubeVoxelizer(**CUBES), ratio=.125, voxel_head=True)}


def scan(count, seed=0):
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.normal(0, 4, (count, 2)), rng.uniform(-2, 1, count), rng.uniform(0, 1, count)])
    return torch.from_numpy(points.astype(np.float32))


def batch(net, *counts, device='cpu'):
    points = [scan(count, 10 * count + place).to(device) for place, count in enumerate(counts)]
    return net.data_preprocessor(dict(inputs=dict(points=points), data_samples=None))['inputs']


@pytest.fixture(scope='module')
def made():
    """Nets with statistics of some points, made once."""
    known = {}

    def make(name):
        if name not in known:
            torch.manual_seed(0)
            known[name] = NETS[name]().train()
            with torch.no_grad():
                known[name](batch(known[name], 300, 200))
            known[name].eval()
        return known[name]
    return make


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(graphs, 'print_log', lambda text, *args: lines.append(text))
    return lines


@pytest.mark.parametrize('name', NETS)
@torch.no_grad()
def test_a_stream_through_the_same_memory_gives_what_each_batch_gives(made, name, said, monkeypatch):
    """Padded rows hold NaN, which nothing may pick up; a batch, an empty one, and one that does not fit."""
    put = graphs.put
    monkeypatch.setattr(graphs, 'put', lambda memory, rows, rest: put(
        memory, rows, float('nan') if memory.is_floating_point() else rest))
    net = made(name)
    fixed, kept = FixedNet(net), []
    for counts in ((200, 150), (250,), (1,), (120, 90), (0, 120), (0,), (400, 300), (300,)):
        before, inputs = fixed.voxels, batch(net, *counts)
        assert_same(fixed(inputs), net(inputs))
        kept.append(fixed.voxels is before)
    assert kept == [False, True, True, True, True, True, False, True]
    sizes = [re.fullmatch(fr'{type(net).__name__} is laid out {again}for (\d+) points and ([\d,]+(?: / [\d,]+){{4}} )'
                          'voxels of its levels', line).groups() for again, line in zip(('', 'again, '), said)]
    assert [points for points, _ in sizes] == ['448', '832'] and len(said) == 2


class Shapes(TorchDispatchMode):
    """Lists operations with the shapes of what they give."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        parts = result if isinstance(result, (tuple, list)) else (result,)
        self.found.append((str(function), *(tuple(part.shape) for part in parts if isinstance(part, torch.Tensor))))
        return result


@pytest.mark.parametrize('name', NETS)
@torch.no_grad()
def test_what_is_recorded_waits_for_nothing_and_has_one_shape(gpu, made, waits, name, monkeypatch):
    monkeypatch.setattr(FixedNet, 'record', lambda self: setattr(self, 'graph', SimpleNamespace(replay=int)))
    net, traces = made(name), []
    fixed = FixedNet(net)
    fixed.outputs = {}
    for counts in ((200, 150), (250,), (0,)):
        fixed(batch(net, *counts))
        with waits() as found, Shapes() as shapes:
            fixed.compute()
        assert found == []
        traces.append(shapes.found)
    assert len(traces[0]) > 200 and traces[0] == traces[1] == traces[2]


@pytest.mark.parametrize('name', ['cylinder3d', 'spvnas_half'])
@torch.no_grad()
def test_a_stream_waits_no_more_often_than_nets_alone(gpu, made, waits, name, recorder):
    net = made(name)
    fixed = FixedNet(net)
    fixed(batch(net, 300))
    for call in (net, fixed):
        inputs = batch(net, 200)
        with waits() as found:
            call(inputs)
        assert len(found) == 4 and all('build_strided_map' in where for where in found), found


@pytest.fixture
def recorder(monkeypatch):
    """Stands for torch.cuda's streams and graphs: a replay computes anew and writes to where the recording wrote."""
    log = SimpleNamespace(recordings=0, replays=0, modes=[], fail=None, stream='current')
    current = []

    class Graph:
        def replay(self):
            log.replays += 1
            for name, rows in compute(current[-1]).items():
                current[-1].outputs[name].copy_(rows)

    @contextmanager
    def graph(recorded, stream, capture_error_mode):
        assert capture_error_mode == 'thread_local' and log.modes[-1] == 0
        log.recordings += 1
        log.stream = 'side'
        yield
        if log.fail == 'recording':  # as PyTorch's, which leaves its stream behind then
            raise RuntimeError('operation not permitted when stream is capturing\nmore')
        log.stream = 'current'

    def mode(value):
        log.modes.append(value)

    def computed(self):
        if log.fail == 'waits' and log.modes and log.modes[-1] == 'error':
            raise RuntimeError('called a synchronizing CUDA operation')
        current.append(self)
        return compute(self)

    class Stream(str):
        def wait_stream(self, other):
            assert {self, other} == {'side', 'current'}

    compute = FixedNet.compute
    monkeypatch.setattr(FixedNet, 'compute', computed)
    for name, value in dict(Stream=lambda: Stream('side'), current_stream=lambda: Stream(log.stream),
                            stream=lambda other: nullcontext(), set_stream=lambda it: setattr(log, 'stream', it),
                            device_of=lambda tensor: nullcontext(), CUDAGraph=Graph, graph=graph,
                            get_sync_debug_mode=lambda: 0, set_sync_debug_mode=mode).items():
        monkeypatch.setattr(torch.cuda, name, value)
    return log


@torch.no_grad()
def test_a_net_records_once_for_each_size_and_precision_and_keeps_no_output(gpu, recorder, made, said):
    net = made('cylinder3d')
    plain = {counts: net(batch(net, *counts)) for counts in ((300,), (200,), (300, 300))}
    fixed = FixedNet(net)
    found = {counts: fixed(batch(net, *counts)) for counts in ((300,), (200,))}
    assert (recorder.recordings, recorder.replays) == (1, 2) and recorder.modes == ['error', 0, 0]
    found[300, 300] = fixed(batch(net, 300, 300))
    assert (recorder.recordings, recorder.replays, len(said)) == (2, 3, 2)
    for counts, outputs in plain.items():  # the earlier ones are still what they were
        assert_same(found[counts], outputs)
    with torch.autocast('cpu', torch.bfloat16):
        half = fixed(batch(net, 200))['voxel_logits']
    assert recorder.recordings == 3 and half.dtype == torch.bfloat16
    assert_same(fixed(batch(net, 200)), plain[200, ])
    assert recorder.recordings == 4 and len(said) == 2


@torch.no_grad()
def test_weights_that_change_in_place_are_followed(made):
    net = made('minkunet')
    fixed, inputs = FixedNet(net), batch(net, 200)
    first = fixed(inputs)
    weight = net.head.linear.weight
    kept = weight.clone()
    weight.mul_(2)
    assert_same(fixed(inputs), net(inputs))
    weight.copy_(kept)
    assert_same(first, net(inputs))


@pytest.mark.parametrize('fail', ['waits', 'recording'])
@torch.no_grad()
def test_a_net_that_cannot_be_recorded_runs_as_it_is(gpu, recorder, said, fail):
    recorder.fail = fail
    torch.manual_seed(0)
    net = NETS['minkunet']().eval()
    inputs = batch(net, 200)
    expected = net(inputs)
    use_graphs(net)
    for _ in range(2):
        assert_same(net(inputs), expected)
    assert recorder.recordings == (fail == 'recording') and recorder.modes[-1] == 0 and recorder.stream == 'current'
    why = dict(waits='called a synchronizing CUDA operation',
               recording='operation not permitted when stream is capturing')
    assert said[-1] == f'--compile: MinkUNet cannot be recorded as a CUDA graph here ({why[fail]}); it runs as it is.'
    assert len(said) == 2


@torch.no_grad()
def test_predictions_replay_and_losses_do_not(gpu, recorder):
    torch.manual_seed(0)
    net = NETS['cylinder3d']().eval()
    inputs = batch(net, 200, 100)
    expected = [sample.pred_labels for sample in net(inputs, mode='predict')]
    compile_net(nn.ModuleList([net]))  # as a part of what votes
    samples = net(inputs=inputs, data_samples=None, mode='predict')
    assert recorder.replays == 1 and all(map(torch.equal, expected, [sample.pred_labels for sample in samples]))
    with torch.enable_grad():
        assert net(inputs)['voxel_logits'].requires_grad
    net.train()
    net(inputs)
    assert recorder.replays == 1


def test_on_a_cpu_nothing_changes_and_that_is_said(said):
    net = NETS['minkunet']().eval()
    compile_net(net)
    assert 'forward' not in vars(net)
    assert said == ['--compile: MinkUNet on a CPU runs as it is; CUDA graphs, which it uses, are for GPUs.']


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here; a CPU records no graphs')
@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('name', NETS)
@torch.no_grad()
def test_replays_on_a_gpu_give_what_the_net_gives(made, name, half):
    pytest.importorskip('triton', reason='triton is not installed; other backends wait for the device')
    net = NETS[name]().cuda()
    net.load_state_dict(made(name).state_dict())
    net.eval()
    fixed, kept = FixedNet(net), []
    with torch.autocast('cuda', torch.float16, enabled=half):
        for counts in ((300,), (250,), (0,), (260, 240), (100, 90), (300,)):
            inputs = batch(net, *counts, device='cuda')
            kept.append((fixed(inputs), net(inputs)))
    assert fixed.graph is not None
    for found, expected in kept:
        for key in expected:
            torch.testing.assert_close(found[key].float(), expected[key].float(), rtol=3e-2 if half else 1e-4,
                                       atol=3e-2 if half else 1e-4)
