"""Milliseconds of nets at batch 1, whole and by parts: PyTorch in float32 and bfloat16, ONNX Runtime, GPU.

Nets have random weights, their input is the first validation sample of the config, simulated unless --official is
given. Whole nets run as in training, without preprocessing and decoding; by parts run those that a net names in
`deployable_parts` and that are exported apart. bfloat16 is autocast, as --amp has it, where this CPU has instructions
for it. Runs take turns; medians are reported, and for whole nets the published milliseconds of the config, on the
machines of others.
"""
import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from perception.apis.benchmarks.cost import build, config_name, config_of, forward, in_onnx_runtime, table
from perception.apis.export import open_session, to_onnx
from perception.common.amp import has_bfloat16
from perception.common.measure import count_model_macs, count_parameters, gpu_seconds, interleave, machine
from perception.utils.checks import check_positive
from perception.utils.paths import from_root, make_folder

OPTIONS = {
    'configs': {'nargs': '+', 'metavar': 'CONFIG', 'help': 'such as configs/bev/bevdet_r50_nuscenes.py'},
    '--mini': {'action': 'store_true', 'help': 'the small nets of their mini sections'},
    '--official': {'action': 'store_true', 'help': "samples of the configs' own data sets, not simulated ones"},
    '--rounds': {'type': 'int', 'default': 5, 'help': 'timed runs (default: %(default)s)'},
    '--threads': {'type': 'int', 'help': 'CPU threads (default: as torch has)'},
    '--no-onnx': {'action': 'store_true', 'help': 'without ONNX Runtime'},
    '--out': {'metavar': 'DIR', 'help': 'for latency.md (default: work_dirs/latency)'}}
NUMBER = '{:,.1f}'.format
COLUMNS = {  # see `cost.table`
    'config': ('config', str), 'part': ('part', str), 'parameters': ('parameters', '{:,}'.format),
    'gmac': ('GMAC', '{:,.2f}'.format), 'cpu_ms': ('PyTorch [ms]', NUMBER), 'bf16_ms': ('bfloat16 [ms]', NUMBER),
    'onnx_ms': ('ONNX Runtime [ms]', NUMBER), 'gpu_ms': ('GPU [ms]', NUMBER), 'published_ms': ('published [ms]', str)}
WHOLE = 'whole'


def run(args: argparse.Namespace) -> list[dict]:
    """Measure the nets one after another, log a table and write it as Markdown.

    Returns:
        for each net, and each of its parts, a dict with the keys of COLUMNS, None where not measured.

    Raises:
        ConfigError: no rounds, or no such config.
        DataError: --official without the data.
        MissingDependency: a package for ONNX is missing.
    """
    check_positive('latency', rounds=args.rounds)
    folder = make_folder(args.out or from_root('work_dirs/latency'))
    if args.threads is not None:
        check_positive('latency', threads=args.threads)
        torch.set_num_threads(args.threads)
    rows = []
    for path in args.configs:
        cfg = config_of(path, args.mini, args.official)
        found = measure(cfg, args.rounds, not args.no_onnx)
        found[0]['published_ms'] = None if args.mini else (cfg.get('published') or {}).get('ms')
        rows += [dict(row, config=config_name(path)) for row in found]
        print_log('\n'.join(table(rows, COLUMNS)), 'current')
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'none here'
    how = (f'Nets of the {"mini scale" if args.mini else "published size"}, random weights, '
           f'{"their own" if args.official else "simulated"} data; median of {args.rounds} runs. CPU: {machine()}. '
           f'GPU: {gpu}.')
    lines = ['# Milliseconds of nets, batch size 1', '', *table(rows, COLUMNS), '', how, '']
    (Path(folder) / 'latency.md').write_text('\n'.join(lines), 'utf-8')
    return rows


@torch.no_grad()
def measure(cfg: Config, rounds: int, onnx: bool = True) -> list[dict]:
    """Measure a net, then its parts.

    Args:
        cfg: its config, with the data to measure on.
        rounds: timed runs of each.
        onnx: also by ONNX Runtime.

    Returns:
        dicts with the keys of COLUMNS but the config.
    """
    model, batches = build(cfg, 1)
    batch = batches[0]()
    forward(model, batch)  # some nets are exported for what they have seen last
    calls: dict[str, tuple[torch.nn.Module, Callable]] = {WHOLE: (model, partial(forward, model, batch))}
    parts = model.deployable_parts() if hasattr(model, 'deployable_parts') else {}
    for name, part in parts.items():
        calls[name] = part.module, partial(part.module, *part.inputs.values())
    rows = {name: dict(dict.fromkeys(COLUMNS), part=name, parameters=count_parameters(module),
                       gmac=count_model_macs(module, lambda _, call=call: call()) / 1e9)
            for name, (module, call) in calls.items()}
    rows.update({name: dict(rows[name], parameters=None) for name in parts})  # modules share those of the net
    with tempfile.TemporaryDirectory() as written:
        runs = {(name, 'cpu_ms'): call for name, (_, call) in calls.items()}
        if has_bfloat16():
            runs.update({(name, 'bf16_ms'): partial(_in_bfloat16, call) for name, (_, call) in calls.items()})
        if onnx:
            run = in_onnx_runtime(model, Path(written, 'whole.onnx'))
            runs.update({(WHOLE, 'onnx_ms'): run} if run else {})
            for name, part in parts.items():
                path = Path(written, f'{name}.onnx')
                to_onnx(*part, path)
                runs[name, 'onnx_ms'] = partial(
                    open_session(path).run, None, {key: value.numpy() for key, value in part.inputs.items()})
        for (name, key), seconds in interleave(runs, rounds).items():
            rows[name][key] = 1e3 * statistics.median(seconds)
    if torch.cuda.is_available():
        model.cuda()
        batch = batches[0]()
        rows[WHOLE]['gpu_ms'] = 1e3 * statistics.median(gpu_seconds(partial(forward, model, batch), rounds))
        for name, part in parts.items():
            given = [value.cuda() for value in part.inputs.values()]
            rows[name]['gpu_ms'] = 1e3 * statistics.median(gpu_seconds(partial(part.module.cuda(), *given), rounds))
    return list(rows.values())


def _in_bfloat16(call: Callable) -> object:
    with torch.autocast('cpu', torch.bfloat16):
        return call()
