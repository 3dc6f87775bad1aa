"""Sparse nets on a GPU: every backend beside spconv's own layers, forward and training step, and each layer's limit.

One scan, as often as the batch is large. Ways take turns in one process, so that a busy machine slows all alike;
seconds are medians of wall time with the GPU's work done, kernel maps included. Ways are our backends and, as peer,
the same net on spconv's own layers, which multiply float32 and float16 only; 'graph' is our net as a CUDA graph on a
stream of different batches, turned and thinned views of the scan, a mean of each, beside the peer on the same stream
(in float16 for bfloat16). Kernels, waits of the host and the share of the time in which the GPU works are those of one
profiled run. A layer's limit is the larger of the time to move its rows, weight and table once at the rate of a copy
and the time of its products at the rate of a large matrix product, both measured here. What the time does not suffice
for is left out and said. On a CPU it runs too, to be tried out.
"""
import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from perception.apis.benchmarks.cost import table
from perception.apis.benchmarks.lidarseg import training
from perception.apis.benchmarks.lidarseg.cylinder3d import settle_statistics
from perception.apis.benchmarks.lidarseg.scan import Layer, anew, find_scan, record_layers
from perception.apis.benchmarks.lidarseg.spconv_peer import spconv_twin
from perception.apis.config import parse_options
from perception.common.formats.kitti import read_points
from perception.common.measure import machine
from perception.common.structures import PointSegSample
from perception.lidarseg.graphs import FixedNet
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.models.spvnas import SPVNAS
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.lidarseg.transforms import xy_matrix
from perception.lidarseg.voting import moved
from perception.ops.sparse.backends.triton import plan_of
from perception.ops.sparse.functional import set_backend, sparse_conv
from perception.ops.sparse.maps import KernelMap, VoxelSet
from perception.utils.checks import check_positive
from perception.utils.errors import MissingDependency, PerceptionError
from perception.utils.paths import from_root, make_folder

PEER, GRAPH = 'spconv', 'graph'
STREAM = 5  # batches of a stream
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
OPTIONS = {
    '--scan': {'metavar': 'FILE', 'help': 'a .bin file; default: the real scan, else a mini scan'},
    '--device': {'choices': ['cuda', 'cpu'], 'help': 'default: the GPU, if there is one'},
    '--nets': {'nargs': '+', 'choices': ['cylinder3d', 'minkunet', 'spvnas'],
               'default': ['cylinder3d', 'minkunet', 'spvnas'], 'help': 'default: all'},
    '--width': {'type': 'float', 'default': 1.0, 'help': 'ratio of all widths (default: 1)'},
    '--ways': {'nargs': '+', 'choices': ['triton', 'spconv', 'torch', 'graph'],
               'default': ['triton', 'spconv', 'torch', 'graph'], 'help': 'default: all'},
    '--dtypes': {'nargs': '+', 'choices': ['float32', 'bfloat16', 'float16'],
                 'default': ['float32', 'bfloat16', 'float16'], 'help': 'default: all'},
    '--batches': {'nargs': '+', 'type': 'int', 'default': [1, 2, 4, 8], 'help': 'default: 1 2 4 8'},
    '--rounds': {'type': 'int', 'default': 7, 'help': 'timed runs of each (default: 7)'},
    '--limit': {'type': 'int', 'default': 420, 'metavar': 'SECONDS',
                'help': 'start nothing more after so long (default: 420)'},
    '--train': {'nargs': '*', 'metavar': 'CONFIG',
                'help': 'configs whose training at batch 4 is timed, see lidarseg/training; default on a GPU: teacher, '
                        'student, PVD'},
    '--train-steps': {'type': 'int', 'default': 40, 'help': 'of each of these (default: 40)'},
    '--train-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides of their configs'},
    '--out': {'metavar': 'DIR', 'help': 'for backends.md and backends.json (default: work_dirs/backends)'}}
NUMBER = '{:,.2f}'.format
COLUMNS = {
    'net': ('net', str), 'batch': ('batch', str), 'dtype': ('dtype', str), 'way': ('way', str),
    'forward_ms': ('forward [ms]', NUMBER), 'forward_ratio': ("of spconv's", NUMBER),
    'step_ms': ('step [ms]', NUMBER), 'step_ratio': ("of spconv's", NUMBER), 'maps_ms': ('maps [ms]', NUMBER),
    'forward_kernels': ('kernels, forward', '{:,}'.format), 'step_kernels': ('step', '{:,}'.format),
    'forward_waits': ('waits, forward', '{:,}'.format), 'step_waits': ('step', '{:,}'.format),
    'forward_busy': ('busy, forward', '{:.0%}'.format), 'step_busy': ('step', '{:.0%}'.format),
    'memory_mib': ('memory [MiB]', '{:,.0f}'.format), 'error': ('error', '{:.1e}'.format)}
LAYERS = {
    'layer': ('layer', str), 'dtype': ('dtype', str), 'count': ('x', str), 'pairs': ('pairs', '{:,}'.format),
    'mib': ('MiB', NUMBER), 'gmac': ('GMAC', NUMBER), 'limit_ms': ('limit [ms]', '{:.3f}'.format),
    'triton_ms': ('triton [ms]', '{:.3f}'.format), 'torch_ms': ('torch [ms]', '{:.3f}'.format),
    'triton_back_ms': ('triton, gradients', '{:.3f}'.format), 'torch_back_ms': ('torch, gradients', '{:.3f}'.format)}


def run(args: argparse.Namespace) -> dict:
    """Measure, log the tables and write them, after each net too.

    Returns:
        `machine` (with `copy`, bytes per second, and `products`, multiply-accumulates per second of each dtype),
        `nets` (rows with the keys of COLUMNS), `training` (those of `training.COLUMNS`), `layers` (those of LAYERS),
        `left_out` (texts).

    Raises:
        ConfigError: a number below 1.
        DataError: no scan.
    """
    check_positive('backends', rounds=args.rounds, limit=args.limit, width=args.width, batches=min(args.batches))
    start, path = time.monotonic(), find_scan(args.scan)
    device = torch.device(args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    folder = make_folder(args.out or from_root('work_dirs/backends'))
    report = dict(machine=rates(device, args.dtypes), scan=path.name, nets=[], training=[], layers=[],
                  left_out=[])
    ways = [way for way in args.ways if way == GRAPH or usable(way, report)]
    jobs = [(net, batch, dtype) for batch in args.batches for net in args.nets for dtype in args.dtypes]
    if args.train is None and device.type == 'cuda':
        args.train = training.CONFIGS
    trainings = [('training', config, 'amp') for config in args.train or ()]
    first = len(args.nets) * len(args.dtypes)
    jobs[first:first] = trainings  # after the first batch, for they matter more than large ones
    kept: tuple = (), None, None, []
    for name, batch, dtype in jobs:
        if time.monotonic() - start > args.limit:
            report['left_out'].append(f'{name}, {batch if name == "training" else f"batch {batch}"}, {dtype}: no time')
            continue
        if name == 'training':
            set_backend('auto')
            kept = (), None, None, []
            try:
                report['training'].append(training.measure(
                    batch, path, 4, args.train_steps, None, device.type == 'cuda',
                    parse_options(args.train_options)))
            except (PerceptionError, RuntimeError) as error:
                report['left_out'].append(f'training, {batch}: {str(error).splitlines()[0][:200]}')
            write(report, device, folder)
            print_log(f'training, {batch}: {time.monotonic() - start:.0f} s', 'current')
            continue
        if kept[0] != (name, batch):
            kept = (name, batch), *build(name, args.width, path, batch, device)
        _, model, inputs, stream = kept
        rows = measure(model, inputs, dtype, [way for way in ways if way != GRAPH], args.rounds, report)
        if GRAPH in ways:
            rows.append(measure_stream(model, stream, dtype, PEER in ways, args.rounds, report))
        report['nets'] += [dict(dict.fromkeys(COLUMNS), net=name, batch=batch, dtype=dtype, **row) for row in rows]
        if (name, batch) == (args.nets[0], args.batches[0]):
            report['layers'] += roofline(model, inputs, dtype, [way for way in ways if way not in (PEER, GRAPH)],
                                         report['machine'], args.rounds)
        write(report, device, folder)
        print_log(f'{name}, batch {batch}, {dtype}: {time.monotonic() - start:.0f} s', 'current')
    set_backend('auto')
    print_log('\n' + to_markdown(report, device), 'current')
    return report


def write(report: dict, device: torch.device, folder: Path) -> None:
    """Write what was measured up to now."""
    (folder / 'backends.md').write_text(to_markdown(report, device))
    (folder / 'backends.json').write_text(json.dumps(report, indent=1) + '\n')


def usable(way: str, report: dict) -> bool:
    """Whether a way is installed; what is not is noted in `left_out`."""
    try:
        set_backend(way)
    except MissingDependency as error:
        report['left_out'].append(f'{way}: {error}')
        return False
    return True


def to_markdown(report: dict, device: torch.device) -> str:
    """The tables with a sentence on how they were made."""
    found = report['machine']
    how = (f'{report["scan"]} on {found["name"]}, {found["host"]}, {time.strftime("%Y-%m-%d")}. Copy '
           f'{found["copy"] / 1e9:,.0f} GB/s, products '
           + ', '.join(f'{dtype} {rate / 1e12:,.2f} TMAC/s' for dtype, rate in found['products'].items())
           + f'. spconv: its own layers, in bfloat16 rows left out. Error: largest difference of the logits to those '
             f'of torch in float32, by their largest value. Busy: share of a profiled run; {device.type}. Graph: '
             'a stream of different batches, its maps those that are made and copied before a replay'
           + ('.' if device.type == 'cuda' else ', not recorded on a CPU.'))
    lines = [how, '', *(table(report['nets'], COLUMNS) if report['nets'] else ['nothing was measured'])]
    if report['training']:
        lines += ['', *table(report['training'], training.COLUMNS)]
    if report['layers']:
        lines += ['', *table(report['layers'], LAYERS)]
    if report['left_out']:
        lines += ['', 'Left out: ' + '; '.join(report['left_out']) + '.']
    return '\n'.join(lines) + '\n'


# ------------------------------------------------------------------------------------------------ the machine, the nets

def clock(device: torch.device) -> float:
    """Seconds, once the device has done its work."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def medians(runs: dict[str, Callable], rounds: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each run; they take turns, and the first turn does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = clock(device)
            run()
            if turn:
                seconds[name].append(clock(device) - start)
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def rates(device: torch.device, dtypes: list[str]) -> dict:
    """`name`, `host`, `copy` [bytes/s] and `products` [MAC/s]; of float32 also as tf32, whose third float32 may use."""
    cuda = device.type == 'cuda'
    size, numbers = (8192, 2**28) if cuda else (256, 2**20)
    source = torch.zeros(numbers, device=device)
    target = torch.empty_like(source)
    copy = 8 * numbers / (medians(dict(copy=lambda: target.copy_(source)), 5, device)['copy'] / 1e3)
    products = {}
    for dtype in dtypes:
        a = torch.randn(size, size, device=device).to(DTYPES[dtype])
        for tf32 in (False, True) if cuda and dtype == 'float32' else (False,):
            before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
            milliseconds = medians(dict(products=lambda a=a: a @ a), 3, device)['products']
            products['tf32' if tf32 else dtype] = size ** 3 / milliseconds * 1e3
            torch.backends.cuda.matmul.allow_tf32 = before
    return dict(name=torch.cuda.get_device_name(device) if cuda else 'a CPU', host=machine(), copy=copy,
                products=products)


def build(name: str, width: float, path, batch: int, device: torch.device) -> tuple[nn.Module, dict, list]:
    """A net with the scan's statistics, its batch with random labels, and a stream of batches of views of the scan."""
    torch.manual_seed(0)
    if name == 'cylinder3d':
        channels = max(round(32 * width), 1)
        model, voxelizer = Cylinder3D(base_channels=channels, compression=channels), CylinderVoxelizer()
    else:
        model = MinkUNet(width=width) if name == 'minkunet' else SPVNAS(ratio=width)
        voxelizer = CubeVoxelizer(0.05, max_voxels=None)
    points = torch.from_numpy(read_points(path)).to(device)
    samples = [PointSegSample(labels=torch.randint(19, (len(points),)).to(device)) for _ in range(batch)]
    inputs = voxelizer.to(device)(dict(inputs=dict(points=[points] * batch), data_samples=samples))['inputs']
    set_backend('torch')
    settle_statistics(model.to(device), inputs)
    views = [moved(points[torch.rand(len(points), device=device) > .02 * (number % STREAM)], xy_matrix(number, 0, 1))
             for number in range(STREAM * batch)]
    stream = [voxelizer(dict(inputs=dict(points=views[first::STREAM]), data_samples=None))['inputs']
              for first in range(STREAM)]
    return model, inputs, stream


# ---------------------------------------------------------------------------------------------------- forward and step

def measure(model: nn.Module, inputs: dict, dtype: str, ways: list[str], rounds: int, report: dict) -> list[dict]:
    """A row for each way that can: it is timed beside the others, then profiled."""
    device, rows, runs = inputs['points'].device, {}, dict(forward={}, step={})
    set_backend('torch')
    expected, layers = forward(model, inputs), layers_of(model, inputs)
    for way in ways:
        if way == PEER and dtype == 'bfloat16':
            continue
        try:
            net = spconv_twin(model) if way == PEER else model
            calls = dict(forward=partial(with_backend, way, partial(forward, net, inputs, dtype)))
            if way != PEER or device.type == 'cuda':  # spconv has no gradients on a CPU
                calls['step'] = partial(with_backend, way, train_step(net, inputs, dtype))
            error = float((calls['forward']() - expected).abs().max() / expected.abs().max())
            for what, call in calls.items():
                call()
                runs[what][way] = call
            rows[way] = dict(way=way, error=error)
        except (PerceptionError, RuntimeError, AttributeError) as error:  # one that cannot must not end the others
            report['left_out'].append(f'{way}, {type(model).__name__}, {dtype}: {str(error).splitlines()[0][:200]}')
    for what, calls in runs.items():
        calls = {way: call for way, call in calls.items() if way in rows}
        times = medians(calls, rounds, device)
        for way, call in calls.items():
            rows[way][f'{what}_ms'] = times[way]
            rows[way].update({f'{what}_{key}': value for key, value in profiled(call, device).items()})
            if PEER in times and way != PEER:
                rows[way][f'{what}_ratio'] = times[way] / times[PEER]
            if device.type == 'cuda':  # the larger one, of the step, stays
                torch.cuda.reset_peak_memory_stats(device)
                call()
                rows[way]['memory_mib'] = torch.cuda.max_memory_allocated(device) / 2 ** 20
    own = {way: partial(make_maps, layers, way) for way in rows if way != PEER}
    for way, milliseconds in medians(own, rounds, device).items():
        rows[way]['maps_ms'] = milliseconds
    return list(rows.values())


def measure_stream(model: nn.Module, stream: list[dict], dtype: str, peer: bool, rounds: int, report: dict) -> dict:
    """The row of CUDA graphs; what fails is said in it and in `left_out`, and ends nothing else."""
    device, fixed, what = stream[0]['points'].device, FixedNet(model.eval()), f'{type(model).__name__}, {dtype}'

    @torch.no_grad()
    def replay(inputs: dict) -> Tensor:
        with cast(device, dtype):
            return fixed(anew(inputs))['voxel_logits']

    def load() -> None:
        for inputs in stream:
            fixed.load(inputs, anew(inputs)['voxels'])

    set_backend('torch')
    expected = [forward(model, inputs) for inputs in stream]
    calls = dict(graph=lambda: [replay(inputs) for inputs in stream])
    try:
        set_backend('auto')
        calls[GRAPH]()  # until there is room for all
        difference = max(float((replay(inputs) - right).abs().max() / right.abs().max())
                         for inputs, right in zip(stream, expected))
    except (PerceptionError, RuntimeError) as error:
        report['left_out'].append(f'graph, {what}: {str(error).splitlines()[0][:200]}')
        return dict(way='graph: failed')
    if peer:
        try:
            twin, half = spconv_twin(model), 'float16' if dtype == 'bfloat16' else dtype
            forward(twin, stream[0], half)
            calls[PEER] = lambda: [forward(twin, inputs, half) for inputs in stream]
        except (PerceptionError, RuntimeError, AttributeError) as error:
            report['left_out'].append(f'spconv on a stream, {what}: {str(error).splitlines()[0][:200]}')
    times = medians(dict(calls, maps=load), rounds, device)
    row = dict(way=GRAPH, error=difference, forward_ms=times[GRAPH] / STREAM, maps_ms=times['maps'] / STREAM)
    if PEER in times:
        row['forward_ratio'] = times[GRAPH] / times[PEER]
    row.update({f'forward_{key}': value for key, value in profiled(partial(replay, stream[0]), device).items()})
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        calls[GRAPH]()
        row['memory_mib'] = torch.cuda.max_memory_allocated(device) / 2 ** 20
    return row


def with_backend(way: str, call: Callable) -> Tensor | None:
    """Call with a way's backend; the peer needs none."""
    set_backend('torch' if way == PEER else way)
    return call()


def cast(device: torch.device, dtype: str):
    """Autocast, or nothing for float32."""
    return nullcontext() if dtype == 'float32' else torch.autocast(device.type, DTYPES[dtype])


@torch.no_grad()
def forward(model: nn.Module, inputs: dict, dtype: str = 'float32') -> Tensor:
    """Logits of the voxels."""
    model.eval()
    with cast(inputs['points'].device, dtype):
        return model(anew(inputs))['voxel_logits']


def train_step(model: nn.Module, inputs: dict, dtype: str) -> Callable[[], None]:
    """What runs a training step: forward, losses, backward, AdamW with a step size of zero."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)

    def step() -> None:
        model.train()
        optimiser.zero_grad()
        with cast(inputs['points'].device, dtype):
            losses = model(anew(inputs), mode='loss')
        sum(losses.values()).backward()
        optimiser.step()

    return step


def profiled(call: Callable[[], None], device: torch.device) -> dict:
    """`kernels`, `waits` of the host, and `busy`, of one run; on a CPU its operations stand for kernels."""
    cuda = device.type == 'cuda'
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as record:
        start = clock(device)
        call()
        seconds = clock(device) - start
    events = record.profiler.kineto_results.events()
    names = Counter(event.name() for event in events)
    if not cuda:
        return dict(kernels=sum(count for name, count in names.items() if name.startswith('aten::')))
    work = [event for event in events if event.device_type() == torch.autograd.DeviceType.CUDA]
    return dict(kernels=sum(not event.name().startswith('Mem') for event in work),
                waits=names['cudaStreamSynchronize'] + names['cudaDeviceSynchronize'] - 1,  # one is the clock's
                busy=sum(event.duration_ns() for event in work) / 1e9 / seconds)


# ---------------------------------------------------------------------------------------------------------------- maps

def layers_of(model: nn.Module, inputs: dict) -> list[Layer]:
    """The convolutions in the order in which a forward runs them."""
    with record_layers(model) as layers:
        forward(model, inputs)
    return layers


def make_maps(layers: list[Layer], way: str) -> None:
    """Make all maps of a net anew, and what a backend reads of them."""
    made: dict[int, VoxelSet] = {}
    for layer in layers:
        source = layer.voxels
        if id(source) not in made:
            made[id(source)] = VoxelSet(source.voxel_coords, source.grid_shape, source.batch_size, checked=True)
        voxels = made[id(source)]
        if layer.kernel_map.kind == 'subm':
            kernel_map = voxels.subm_map(*layer.geometry)
        else:
            target, kernel_map = voxels.strided_map(layer.geometry)
            made.setdefault(id(source.strided_map(layer.geometry)[0]), target)
            kernel_map = kernel_map.transposed() if layer.kernel_map.kind == 'inverse' else kernel_map
        if way == 'triton':
            plan_of(kernel_map)
        else:
            kernel_map.pairs  # noqa: B018


# -------------------------------------------------------------------------------------------------------------- layers

def roofline(model: nn.Module, inputs: dict, dtype: str, ways: list[str], found: dict, rounds: int) -> list[dict]:
    """A row for each kind of layer, with its limit and its times, maps kept."""
    set_backend('torch')
    layers, rows, kinds = layers_of(model, inputs), [], {}
    for layer in layers:
        kinds.setdefault((id(layer.kernel_map), layer.weight.shape), []).append(layer)
    rate = max(found['products'][dtype], found['products'].get('tf32', 0) / 3 if dtype == 'float32' else 0)
    for group in kinds.values():
        layer, device = group[0], inputs['points'].device
        kernel_map, weight = layer.kernel_map, layer.weight.detach().to(DTYPES[dtype])
        cout, *kernel, cin = weight.shape
        x = torch.randn(kernel_map.num_in, cin, device=device).to(weight)
        moved = (x.numel() + kernel_map.num_out * cout + weight.numel()) * x.element_size()
        moved += 4 * kernel_map.num_out * kernel_map.volume
        grad = torch.randn(kernel_map.num_out, cout, device=device).to(weight)
        runs = {}
        for way in ways:
            runs[f'{way}_ms'] = partial(with_backend, way, partial(sparse_conv, x, weight, kernel_map))
            runs[f'{way}_back_ms'] = partial(with_backend, way, partial(gradients, x, weight, kernel_map, grad))
        times = medians(runs, min(rounds, 3), device)
        for way in ways:
            times[f'{way}_back_ms'] -= times[f'{way}_ms']
        rows.append(dict(
            dict.fromkeys(LAYERS), layer=f'{"x".join(map(str, layer.grid_shape))} {kernel_map.kind} '
            f'{"x".join(map(str, kernel))} {cin}>{cout}', dtype=dtype, count=len(group), pairs=kernel_map.num_pairs,
            mib=moved / 2 ** 20, gmac=layer.macs / 1e9, limit_ms=1e3 * max(moved / found['copy'], layer.macs / rate),
            **times))
    return rows


def gradients(x: Tensor, weight: Tensor, kernel_map: KernelMap, grad: Tensor) -> None:
    """One convolution and its gradients."""
    leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    torch.autograd.grad(sparse_conv(*leaves, kernel_map), leaves, grad)
