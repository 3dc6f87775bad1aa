"""What LiDAR nets cost at batch 1: parameters, MACs, milliseconds on CPU and GPU, memory; students against teachers.

Nets have their published size and random weights, scans are those of the simulated mini data unless --official is
given. Runs take turns, so that a busy machine slows all alike; medians are reported, without the voxelisation, which
has a column of its own.
"""
import argparse
import csv
import multiprocessing
import re
import resource
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from torch import nn

from perception.apis.benchmarks.measure import count_model_macs, gpu_seconds, interleave, machine
from perception.apis.config import find_config, load_config
from perception.apis.runner import write_mini_data
from perception.registry import DATASETS, MODELS
from perception.utils.errors import ConfigError
from perception.utils.paths import PROJECT_ROOT, from_root

COLUMNS = ('config', 'points', 'voxels', 'parameters', 'macs', 'voxelise_ms', 'cpu_ms', 'gpu_ms', 'memory_mib',
           'gpu_memory_mib', 'teacher', 'parameters_saved', 'macs_saved', 'cpu_speedup', 'gpu_speedup')
HEADINGS = ('net', 'points', 'voxels', 'parameters', 'GMAC', 'published GMAC, real scans', 'voxelise [ms]', 'CPU [ms]',
            'GPU [ms]', 'process memory [MiB]', 'GPU memory [MiB]')
PUBLISHED_GMAC = dict(  # SPVNAS's tables, mean over the real sequence 08
    minkunet_kitti=113.9, minkunet_half_kitti=28.5, spvcnn_kitti=118.6, spvcnn_half_kitti=30.0, spvnas_kitti=64.5)
CLAIM = 'about 75 % fewer MACs and 2x faster'  # PVD's abstract


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tools/benchmark.py cost`."""
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='default: all of configs/lidarseg')
    parser.add_argument('--mini', action='store_true', help='the small nets of their mini sections')
    parser.add_argument('--official', action='store_true',
                        help="scans of the configs' own data sets, not simulated ones")
    parser.add_argument('--scans', type=int, default=10, metavar='N',
                        help='validation scans that MACs are a mean over (default: 10)')
    parser.add_argument('--rounds', type=int, default=5, help='timed runs of each net on one scan (default: 5)')
    parser.add_argument('--threads', type=int, help='CPU threads (default: as torch has)')
    parser.add_argument('--out', metavar='DIR', default='work_dirs/cost', help='for cost.md and cost.csv (default: '
                        'work_dirs/cost)')


def run(args: argparse.Namespace) -> list[dict]:
    """Measure the nets, log a table and write it as Markdown and CSV.

    Returns:
        a dict with the keys COLUMNS for each config; None where something was not measured or there is no teacher.

    Raises:
        ConfigError: no scans or rounds, or no such config.
        DataError: --official without the data.
    """
    if args.scans < 1 or args.rounds < 1:
        raise ConfigError(f'cost: --scans {args.scans} --rounds {args.rounds} came, expected at least 1 of each. Leave '
                          'them out for ten scans and five rounds.')
    if args.threads:
        torch.set_num_threads(args.threads)
    configs = [find_config(path) for path in args.configs] or sorted((PROJECT_ROOT / 'configs/lidarseg').glob('*.py'))
    rows, runs = [], {}
    for path in configs:
        cfg = config_of(path, args.mini, args.official)
        model, batches = build(cfg, args.scans)
        rows.append(dict.fromkeys(COLUMNS))
        rows[-1].update(config=path.stem, parameters=sum(p.numel() for p in model.parameters()))
        with torch.no_grad():
            counts = [count_model_macs(model, prepare()) for prepare in batches]
            batch = batches[0]()
        rows[-1].update(macs=statistics.fmean(counts), points=len(batch['inputs']['points']),
                        voxels=len(batch['inputs']['voxel_coords']), memory_mib=process_memory(cfg))
        runs[path.stem, 'voxelise_ms'] = batches[0]
        runs[path.stem, 'cpu_ms'] = partial(predict, model, batch)
        print_log(f'{path.stem}: {rows[-1]["parameters"]:,} parameters, {rows[-1]["macs"] / 1e9:.2f} GMAC over '
                  f'{len(counts)} scans, {rows[-1]["memory_mib"]:,.0f} MiB', 'current')
    by_name = {row['config']: row for row in rows}
    for (name, key), seconds in interleave(runs, args.rounds).items():
        by_name[name][key] = 1e3 * statistics.median(seconds)
    if torch.cuda.is_available():
        for name, row in by_name.items():
            row['gpu_ms'], row['gpu_memory_mib'] = on_gpu(runs[name, 'cpu_ms'], args.rounds)
    for row in rows:
        compare(row, by_name)
    folder = from_root(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    text = to_markdown(rows, args)
    (folder / 'cost.md').write_text(text)
    with open(folder / 'cost.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print_log('\n' + text, 'current')
    return rows


def config_of(path: Path, mini: bool, official: bool) -> Config:
    """The config's net with the scans to measure it on: those of its mini section unless official ones are wanted."""
    cfg, small = load_config(path, mini), load_config(path, mini=True)
    if not official:
        write_mini_data(small)
        cfg.val_dataloader = small.val_dataloader
    return cfg


def build(cfg: Config, scans: int) -> tuple[nn.Module, list[Callable[[], dict]]]:
    """A net for evaluation, and for each of the first validation scans what voxelises it."""
    data, model = DATASETS.build(cfg.val_dataloader.dataset), MODELS.build(cfg.model).eval()
    items = (data[index] for index in range(min(scans, len(data))))
    return model, [partial(model.data_preprocessor, pseudo_collate([item])) for item in items]


@torch.no_grad()
def predict(model: nn.Module, batch: dict) -> list:
    """Labels of the batch's points."""
    return model(**batch, mode='predict')


def process_memory(cfg: Config) -> float:
    """Peak resident memory [MiB] of a fresh process that labels one scan, Python and PyTorch included."""
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(_peak_of_one_scan, (cfg.to_dict() if hasattr(cfg, 'to_dict') else cfg,
                                              torch.get_num_threads()))


def _peak_of_one_scan(cfg: dict, threads: int) -> float:
    torch.set_num_threads(threads)
    model, (prepare,) = build(Config(cfg), 1)
    predict(model, prepare())
    return peak_memory()


def peak_memory() -> float:
    """Peak resident memory [MiB] of this process."""
    try:  # Linux hands a parent's ru_maxrss down to its children
        return int(re.search(r'VmHWM:\s*(\d+) kB', Path('/proc/self/status').read_text())[1]) / 2 ** 10
    except (OSError, TypeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2 ** 20 if sys.platform == 'darwin' else 2 ** 10)


def on_gpu(run: partial, rounds: int) -> tuple[float, float]:
    """Median milliseconds and peak memory [MiB] on the GPU; the net returns to the CPU.

    Args:
        run: `predict` with a net and its batch.
        rounds: timed runs.
    """
    model, batch = run.args
    model.cuda()
    moved = dict(batch, inputs={key: value.cuda() if isinstance(value, torch.Tensor) else value
                                for key, value in batch['inputs'].items()})
    torch.cuda.reset_peak_memory_stats()
    seconds = gpu_seconds(partial(predict, model, moved), rounds)
    memory = torch.cuda.max_memory_allocated() / 2 ** 20
    model.cpu()
    return 1e3 * statistics.median(seconds), memory


def compare(row: dict, by_name: dict[str, dict]) -> None:
    """Add what a half-width student saves of its teacher, where both were measured."""
    name = row['config'].replace('_half', '')
    teacher = by_name.get(name)
    if name == row['config'] or teacher is None:
        return
    row['teacher'] = name
    for key in ('parameters', 'macs'):
        row[f'{key}_saved'] = 1 - row[key] / teacher[key]
    for device in ('cpu', 'gpu'):
        if row[f'{device}_ms'] is not None:
            row[f'{device}_speedup'] = teacher[f'{device}_ms'] / row[f'{device}_ms']


def to_markdown(rows: list[dict], args: argparse.Namespace) -> str:
    """Two tables: what each net costs, and students against their teachers beside the paper's claim."""
    source = "the configs' own validation data" if args.official else 'simulated mini data'
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'none here'
    lines = ['# Cost of the LiDAR nets, batch size 1', '',
             (f'{"Nets of the mini scale" if args.mini else "Nets of the published size"}, random weights. MACs: mean '
              f'over up to {args.scans} scans of {source}. Time: median of {args.rounds} runs on the first scan. CPU: '
              f'{machine()}. GPU: {gpu}.'), '',
             f'| {" | ".join(HEADINGS)} |', '|---' * len(HEADINGS) + '|']
    for row in rows:
        published = '' if args.mini else PUBLISHED_GMAC.get(row['config'], '')
        lines.append(f'| {row["config"]} | {row["points"]:,} | {row["voxels"]:,} | {row["parameters"]:,} | '
                     f'{row["macs"] / 1e9:.2f} | {published} | {row["voxelise_ms"]:.0f} | {row["cpu_ms"]:.0f} | '
                     f'{_number(row["gpu_ms"])} | {row["memory_mib"]:,.0f} | {_number(row["gpu_memory_mib"])} |')
    pairs = [row for row in rows if row['teacher']]
    if pairs:
        lines += ['', f'Students against their teachers; PVD claims {CLAIM}.', '',
                  '| student | teacher | parameters | MACs | CPU | GPU |', '|---' * 6 + '|', *map(_pair, pairs)]
    return '\n'.join(lines) + '\n'


def _pair(row: dict) -> str:
    faster = ['-' if row[key] is None else f'{row[key]:.2f}x faster' for key in ('cpu_speedup', 'gpu_speedup')]
    return (f'| {row["config"]} | {row["teacher"]} | {row["parameters_saved"]:.1%} fewer | {row["macs_saved"]:.1%} '
            f'fewer | {" | ".join(faster)} |').replace('%', ' %')


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:,.1f}'
