"""Lane nets side by side: parameters, multiply-accumulates, and milliseconds for one image at their own input size.

On the CPU by PyTorch and by ONNX Runtime, on a GPU where there is one; random weights, normalisation included, decoding
of lanes not. Runs take turns, so that a busy machine slows all alike; medians are reported.
"""
import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception.apis.benchmarks.measure import interleave, machine
from perception.apis.config import load_config
from perception.apis.export import open_session, to_onnx
from perception.apis.inference import dataset_type, room_of
from perception.registry import MODELS
from perception.utils.errors import ConfigError
from perception.utils.paths import PROJECT_ROOT

# SAD's paper: parameters in millions and milliseconds on its GPU, by the net's name
PAPER = dict(enet=(0.98, 13.4), erfnet=(2.49, 10.2), resnet18=(12.41, 25.3), resnet34=(22.72, 50.5),
             scnn=(20.72, 133.5))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tools/benchmark.py latency`."""
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='default: all of configs/lanes/*_culane.py')
    parser.add_argument('--mini', action='store_true', help='their mini sections')
    parser.add_argument('--rounds', type=int, default=10, help='timed runs of each (default: 10)')
    parser.add_argument('--threads', type=int, help='CPU threads (default: as torch has)')
    parser.add_argument('--no-onnx', action='store_true', help='without ONNX Runtime')
    parser.add_argument('--out', metavar='FILE', help='also write the table there, as Markdown')


@torch.no_grad()
def run(args: argparse.Namespace) -> list[dict]:
    """Measure the nets and log a table.

    Returns:
        per config `config`, `input` (h, w), `parameters`, `macs`, `torch_ms`, `onnx_ms` and `gpu_ms` (None where not
        measured).

    Raises:
        ConfigError: no rounds, or a config whose nets cannot be exported.
        MissingDependency: a package for ONNX is missing.
    """
    if args.rounds < 1:
        raise ConfigError(f'--rounds: {args.rounds} came, expected at least 1. Ten give a steady median.')
    if args.threads:
        torch.set_num_threads(args.threads)
    configs = args.configs or sorted(p.relative_to(PROJECT_ROOT).as_posix()
                                     for p in (PROJECT_ROOT / 'configs/lanes').glob('*_culane.py'))
    rows, runs = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for i, config in enumerate(configs):
            module, inputs, outputs = deployable(config, args.mini)
            example = next(iter(inputs.values()))
            with FlopCounterMode(display=False) as counter:
                module(*inputs.values())
            rows.append(dict(config=config, input=tuple(example.shape[2:]), macs=counter.get_total_flops() // 2,
                             parameters=sum(p.numel() for p in module.parameters()), torch_ms=None, onnx_ms=None,
                             gpu_ms=None))
            runs[i, 'torch_ms'] = partial(module, *inputs.values())
            if not args.no_onnx:
                path = Path(folder, f'{i}.onnx')
                to_onnx(module, inputs, outputs, path)
                feed = {name: value.numpy() for name, value in inputs.items()}
                runs[i, 'onnx_ms'] = partial(open_session(path, args.threads).run, None, feed)
        for (i, key), seconds in interleave(runs, args.rounds).items():
            rows[i][key] = 1e3 * statistics.median(seconds)
        if torch.cuda.is_available():
            for i, row in enumerate(rows):
                row['gpu_ms'] = gpu_milliseconds(runs[i, 'torch_ms'], args.rounds)
    text = to_markdown(rows)
    if args.out:
        Path(args.out).write_text(text)
    print_log('\n' + text, 'current')
    return rows


def deployable(config: str, mini: bool) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
    """What runs of a config's net with random weights, see `perception/<room>/inference.py`.

    Raises:
        ConfigError: the room exports nothing.
    """
    cfg = load_config(config, mini)
    room = room_of(dataset_type(cfg))
    if not hasattr(room, 'deployable'):
        raise ConfigError(f'{config}: its nets take no images, expected a config of configs/lanes. Scans are measured '
                          'by tools/benchmark.py compare.')
    return room.deployable(MODELS.build(cfg.model.get('student') or cfg.model).eval())


def gpu_milliseconds(run: partial, rounds: int) -> float:
    """Median time of a module on the GPU; it stays there afterwards.

    Args:
        run: the module with its example inputs.
        rounds: timed runs.
    """
    module, inputs = run.func.cuda(), [value.cuda() for value in run.args]
    times = []
    for turn in range(rounds + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        module(*inputs)
        end.record()
        torch.cuda.synchronize()
        if turn >= 3:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def to_markdown(rows: list[dict]) -> str:
    """The rows as a table, beside the figures of SAD's paper, and ENet against SCNN in words."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'none here'
    columns = ('config', 'input', 'parameters', 'GMAC', 'PyTorch [ms]', 'ONNX Runtime [ms]', 'GPU [ms]',
               'paper: M parameters', 'paper [ms]')
    lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
    for row in rows:
        paper = PAPER.get(Path(row['config']).stem.split('_')[0], ('', ''))
        times = [_number(row[key]) for key in ('torch_ms', 'onnx_ms', 'gpu_ms')]
        lines.append(f'| `{row["config"]}` | {row["input"][0]} x {row["input"][1]} | {row["parameters"]:,} | '
                     f'{row["macs"] / 1e9:.2f} | {" | ".join(times)} | {paper[0]} | {paper[1]} |')
    lines += ['', f'Median for one image, batch size 1, random weights. {machine()}; GPU: {gpu}.']
    nets = {Path(row['config']).stem.split('_')[0]: row for row in rows}
    if {'enet', 'scnn'} <= set(nets):
        small, large = nets['enet'], nets['scnn']
        fewer, faster = (large[key] / small[key] for key in ('parameters', 'torch_ms'))
        lines.append(f'ENet-SAD against SCNN: {fewer:.0f}x fewer parameters (paper: 21x), {faster:.1f}x faster by '
                     'PyTorch on this CPU (paper: 10x on its GPU).')
    return '\n'.join(lines) + '\n'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.1f}'
