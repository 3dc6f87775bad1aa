"""What a frame of a running video costs: step by step, against a clip of the last frames each time.

Nets have random weights and see random frames at batch 1. Runs take turns, medians are reported; time is that of the
CPU, which a busy machine changes least. That both ways give the same answers is checked first, on more frames than a
clip has.
"""
import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception.apis.config import load_config
from perception.apis.export import open_session, to_onnx
from perception.common.measure import count_parameters, interleave, machine
from perception.registry import MODELS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError, DataError

OPTIONS = {
    'configs': {'nargs': '+', 'metavar': 'CONFIG', 'help': 'such as configs/steering/resnet50_lstm_causal_udacity.py'},
    '--mini': {'action': 'store_true', 'help': 'the small nets of their mini sections'},
    '--window': {'type': 'int', 'default': 10, 'help': 'frames of a clip (default: 10)'},
    '--rounds': {'type': 'int', 'default': 5, 'help': 'timed runs of each (default: 5)'},
    '--threads': {'type': 'int', 'default': 1, 'help': 'CPU threads (default: 1)'},
    '--onnx': {'action': 'store_true', 'help': 'also ONNX Runtime on the exported clip net and step'}}


def run(args: argparse.Namespace) -> list[dict]:
    """Measure and log a table.

    Returns:
        per config `config`, `parameters`, `window_gmac`, `window_ms` of a frame that is answered from a clip, and of
        nets that stream `step_gmac`, `step_ms` and `state_mib`, what is kept from frame to frame; `window_onnx_ms` and
        `step_onnx_ms` by ONNX Runtime. What is not measured is None.

    Raises:
        ConfigError: a number below 1, or a config of another room.
        DataError: both ways disagree.
        MissingDependency: --onnx without its packages.
    """
    check_positive('streaming', window=args.window, rounds=args.rounds, threads=args.threads)
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = _measure(args, Path(folder))
    finally:
        torch.set_num_threads(before)
    lines = [f'{"":<52}{"parameters":>12}{"GMAC":>9}{"ms":>9}{"GMAC":>9}{"ms":>9}{"MACs":>8}{"time":>8}{"state":>10}',
             f'{"per frame":<64}{"clip":>9}{"":>9}{"step":>9}']
    for row in rows:
        line = f'{row["config"]:<52}{row["parameters"]:>12,}{row["window_gmac"]:>9.3f}{row["window_ms"]:>9.1f}'
        if row['step_ms'] is not None:
            line += (f'{row["step_gmac"]:>9.3f}{row["step_ms"]:>9.1f}{row["window_gmac"] / row["step_gmac"]:>7.2f}x'
                     f'{row["window_ms"] / row["step_ms"]:>7.2f}x{row["state_mib"]:>6.1f} MiB')
        lines.append(line)
        if row['window_onnx_ms'] is not None:
            stepped = '' if row['step_onnx_ms'] is None else f'{row["step_onnx_ms"]:>18.1f}'
            lines.append(f'{"  by ONNX Runtime":<73}{row["window_onnx_ms"]:>9.1f}{stepped}')
    lines.append(f'clips of {args.window} frames; CPU milliseconds, medians of {args.rounds}; {machine()}')
    print_log('\n' + '\n'.join(lines), 'current')
    return rows


def _measure(args: argparse.Namespace, folder: Path) -> list[dict]:
    rows, runs = {}, {}
    for config in args.configs:
        net = build_net(config, args.mini)
        clip = torch.rand(1, args.window, 3, *net.input_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        row = rows[config] = dict(config=config, parameters=count_parameters(net), **dict.fromkeys(
            ('step_gmac', 'step_ms', 'state_mib', 'window_onnx_ms', 'step_onnx_ms')))
        runs[config, 'window_ms'] = partial(answer, net, clip)
        if net.streams:
            check_ways(net, clip)
            state = net.first_state()
            row['state_mib'] = sum(part.numel() * part.element_size() for part in state) / 2 ** 20
            runs[config, 'step_ms'] = partial(step, net, clip[:, 0], state)
        for name, key in (('window', 'window_ms'), ('step', 'step_ms')):
            if (config, key) in runs:
                with FlopCounterMode(display=False) as counter:
                    runs[config, key]()
                row[f'{name}_gmac'] = counter.get_total_flops() / 2e9
        for name, part in (('window', 'clip'), ('step', 'step')) if args.onnx else ():
            if (config, f'{name}_ms') in runs:
                runs[config, f'{name}_onnx_ms'] = exported(*net.deployable(part, args.window),
                                                           folder / f'{len(rows)}_{part}.onnx')
    for (config, key), seconds in interleave(runs, args.rounds, time.process_time).items():
        rows[config][key] = 1e3 * statistics.median(seconds)
    return list(rows.values())


def build_net(config: str, mini: bool) -> nn.Module:
    """The net of a config with random weights, in evaluation mode; of a distillation the student.

    Raises:
        ConfigError: a net that has no step.
    """
    torch.manual_seed(0)
    model = load_config(config, mini).model
    net = MODELS.build(model.get('student') or model)
    if not hasattr(net, 'streams'):
        raise ConfigError(f'streaming: {config} has a {type(net).__name__}, expected a net that steers. Choose a '
                          'config of configs/steering or configs/fm.')
    return net.eval().requires_grad_(False)


def answer(net: nn.Module, clip: Tensor) -> Tensor:
    """What the last frame of a clip comes to, as for a net that sees ahead."""
    return net.in_units(net(dict(clip=clip))['outputs'])[:, -1]


def step(net: nn.Module, frame: Tensor, state: list[Tensor]) -> Tensor:
    """What the next frame comes to."""
    return net.step(frame, state)[0]


def exported(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path) -> partial:
    """What runs by ONNX Runtime a module of `deployable`, which is written to a file for it."""
    to_onnx(module, inputs, outputs, path)
    return partial(open_session(path).run, None, {name: value.numpy() for name, value in inputs.items()})


def check_ways(net: nn.Module, clip: Tensor) -> None:
    """See that a video of two clips frame by frame gives what it gives as one clip, to 1e-4 of the largest answer.

    Raises:
        DataError: it does not.
    """
    video, state, found = torch.cat([clip, clip.flip(1)], 1), None, []
    for frame in video.unbind(1):
        outputs, state = net.step(frame, state)
        found.append(outputs)
    whole = net.in_units(net(dict(clip=video))['outputs'])
    away = float((torch.stack(found, 1) - whole).abs().max() / whole.abs().max().clamp(min=1))
    if not away <= 1e-4:
        raise DataError(f'streaming: answers that differ by {away:.1e} between steps and one clip, expected at most '
                        '1e-04. Report it.')
