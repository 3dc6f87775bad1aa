"""Cylinder3D on one scan: evaluation against the same net on spconv, interleaved; or a training step."""
import argparse
import statistics
from collections.abc import Callable

import torch
from mmengine.logging import print_log

from perception.apis.benchmarks.lidarseg.scan import (
    anew,
    autocast,
    find_scan,
    parts_of,
    product_seconds,
    record_layers,
    voxelise,
)
from perception.apis.benchmarks.lidarseg.spconv_peer import spconv_twin
from perception.common.measure import best_seconds, interleave, machine, peak_memory, summary
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.errors import ConfigError, MissingDependency

GOALS = {'float32': 0.95, 'bfloat16': 0.30}  # time over spconv's, maps included; bfloat16 on a CPU with AMX
STEP_GOALS = {'float32': 1.3 * 2.6, 'bfloat16': 1.3 * 1.2}  # seconds at half width
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16)
OPTIONS = {
    '--scan': {'metavar': 'FILE', 'help': 'a .bin file; default: the real scan, else a mini scan'},
    '--base-channels': {'type': 'int', 'help': 'width of the net (default: 32, for --train 16)'},
    '--rounds': {'type': 'int', 'default': 5, 'help': 'interleaved rounds that count (default: 5)'},
    '--train': {'action': 'store_true', 'help': 'time a training step instead of evaluation'},
    '--dtype': {'choices': ['float32', 'bfloat16'], 'action': 'append', 'help': 'default: both'},
    '--refine': {'action': 'store_true', 'help': 'with the point refinement head'},
    '--no-peer': {'action': 'store_true', 'help': 'do not run spconv'}}


def run(args: argparse.Namespace) -> dict:
    """Measure and log a report.

    Returns:
        `seconds` (by run, a list), `ratios` to spconv (medians) or None, `macs`, `goals_met`.

    Raises:
        ConfigError: no rounds.
        DataError: no scan.
    """
    if args.rounds < 1:
        raise ConfigError(f'--rounds: {args.rounds} came, expected at least 1. Five give a stable median.')
    path, width = find_scan(args.scan), args.base_channels or (16 if args.train else 32)
    torch.manual_seed(0)
    inputs = voxelise(path)
    model = Cylinder3D(base_channels=width, compression=width, refine='mirror' if args.refine else None)
    settle_statistics(model, inputs)
    with torch.no_grad(), record_layers(model) as layers:
        model(inputs)
    macs = sum(layer.macs for layer in layers)
    print_log(f'{path}: {inputs["num_points"][0]:,} points, {len(inputs["voxel_coords"]):,} voxels; width {width}, '
              f'{len(layers)} sparse convolutions, {macs / 1e9:.1f} GMAC; {machine()}')
    names = args.dtype or list(DTYPES)
    if args.train:
        return dict(train(model, inputs, names, args.rounds), macs=macs)
    return dict(evaluate(model, inputs, names, args, layers, macs), macs=macs)


def settle_statistics(model: torch.nn.Module, inputs: dict) -> None:
    """Give every BatchNorm the statistics of the scan, so that values stay in a trained net's range; then evaluate."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(inputs)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def evaluate(model: Cylinder3D, inputs: dict, names: list[str], args: argparse.Namespace, layers: list,
             macs: int) -> dict:
    """Time the whole net's evaluation, maps included, interleaved with spconv."""
    def forward(net: torch.nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        with torch.no_grad(), autocast(dtype):
            return net(anew(inputs))['voxel_logits']

    runs: dict[str, Callable] = {name: lambda name=name: forward(model, DTYPES[name]) for name in names}
    if not args.no_peer:
        try:
            twin = spconv_twin(model)
            runs['spconv'] = lambda: forward(twin)
        except MissingDependency as error:
            print_log(str(error))
    seconds = interleave(runs, args.rounds)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    reference = forward(model)
    for name in runs:
        out = reference if name == 'float32' else runs[name]()
        agree = float((out.argmax(1) == reference.argmax(1)).float().mean())
        line = f'{name:<9} {summary(seconds[name])}, {macs / medians[name] / 1e9:.0f} GMAC/s'
        if 'spconv' in runs and name != 'spconv':
            line += (f', {medians[name] / medians["spconv"]:.2f} of spconv '
                     f'(minima {min(seconds[name]) / min(seconds["spconv"]):.2f})')
        print_log(f'{line}; argmax as float32 at {agree:.2%} of the voxels (random weights)')
    for name in names:
        report_parts(model, inputs, name, layers, lambda name=name: runs[name]())
    ratios = {name: medians[name] / medians['spconv'] for name in names} if 'spconv' in runs else None
    met = None if ratios is None else {name: ratios[name] <= GOALS[name] for name in names}
    print_log(f'peak memory {peak_memory() / 1024:.2f} GiB, both nets; goals (time over spconv\'s): '
              + ', '.join(f'{name} {GOALS[name]:.2f}' + ('' if met is None else ' met' if met[name] else ' missed')
                          for name in names))
    return dict(seconds=seconds, ratios=ratios, goals_met=met)


def report_parts(model: Cylinder3D, inputs: dict, name: str, layers: list, whole: Callable) -> None:
    """Where the time goes: maps, kinds of operations, share of the bare matrix products' rate."""
    dtype, coords = DTYPES[name], inputs['voxel_coords']
    feats = torch.randn(len(coords), model.backbone.stem.branch1[0].conv.in_channels)

    def tensor() -> SparseTensor:
        return SparseTensor(feats, coords, inputs['grid_shape'], inputs['batch_size'])

    def sparse_part(x: SparseTensor) -> None:
        with torch.no_grad(), autocast(dtype):
            model.head(model.backbone(x))

    kept = tensor()
    with_maps = best_seconds(lambda: sparse_part(tensor()), 3)
    without_maps = best_seconds(lambda: sparse_part(kept), 3)
    parts = parts_of(whole)
    products = sum(product_seconds(layers, dtype))
    print_log(f'{name:<9} sparse part {with_maps:.3f} s with maps, {without_maps:.3f} s without: maps '
              f'{with_maps - without_maps:.3f} s; bare products of the same shapes {products:.3f} s = '
              f'{products / without_maps:.2f} of it; one whole run: '
              + ', '.join(f'{part} {value:.3f}' for part, value in parts.items()))


def train(model: Cylinder3D, inputs: dict, names: list[str], rounds: int) -> dict:
    """Time whole training steps (forward, losses, backward, Adam) of one scan with random labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(19, (len(inputs['points']),), generator=generator)
    voxel_labels = torch.randint(19, (len(inputs['voxel_coords']),), generator=generator)
    batch = dict(inputs, labels=labels, voxel_labels=voxel_labels)
    optimiser = torch.optim.Adam(model.train().parameters(), lr=1e-3)

    def step(dtype: torch.dtype) -> None:
        optimiser.zero_grad()
        with autocast(dtype):
            losses = model(anew(batch), mode='loss')
        sum(losses.values()).backward()
        optimiser.step()

    seconds = interleave({name: lambda name=name: step(DTYPES[name]) for name in names}, rounds)
    met = {name: statistics.median(seconds[name]) <= STEP_GOALS[name] for name in names}
    for name in names:
        print_log(f'{name:<9} training step {summary(seconds[name])}; goal at half width {STEP_GOALS[name]:.2f} s '
                  f'{"met" if met[name] else "missed"}')
        parts = parts_of(lambda name=name: step(DTYPES[name]))
        print_log(f'{name:<9} ' + ', '.join(f'{part} {value:.3f}' for part, value in parts.items()))
    print_log(f'peak memory {peak_memory() / 1024:.2f} GiB')
    return dict(seconds=seconds, ratios=None, goals_met=met)
