"""Scans per second of a training with its data loading, and the days that a whole schedule takes at that rate.

Each config trains for a few steps by the function behind tools/train.py, on copies of one scan with random labels, read
from disk and augmented as always; only validation is left out. The rate is that of the later half of
the steps, by their median time as it is logged.
"""
import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log

from perception.apis.benchmarks.cost import table
from perception.apis.benchmarks.lidarseg.scan import find_scan
from perception.apis.config import parse_options
from perception.apis.train import train
from perception.utils.checks import check_positive

SCANS, EPOCHS = 19_130, 40  # of SemanticKITTI's training, and of the published schedule
CONFIGS = ('configs/lidarseg/cylinder3d_kitti.py', 'configs/lidarseg/cylinder3d_half_kitti.py',
           'configs/pvd/cylinder3d_kitti.py')  # teacher, student, PVD
RAW_LABELS = (10, 40, 48, 50, 70, 71, 72, 80)  # SemanticKITTI's: car, road, sidewalk, building, ...
OPTIONS = {
    '--configs': {'nargs': '+', 'metavar': 'CONFIG',
                  'help': 'of SemanticKITTI; default: Cylinder3D as teacher, as student, and PVD'},
    '--scan': {'metavar': 'FILE', 'help': 'a .bin file; default: the real scan, else a mini scan'},
    '--batch': {'type': 'int', 'default': 4, 'help': 'scans of a step (default: 4)'},
    '--steps': {'type': 'int', 'default': 40, 'help': 'of each config (default: 40)'},
    '--workers': {'type': 'int', 'help': 'that read (default: one for each core, at most 8)'},
    '--float32': {'action': 'store_true', 'help': 'without --amp'},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides of all configs'}}
COLUMNS = {
    'config': ('config', str), 'batch': ('batch', str), 'dtype': ('dtype', str),
    'step_ms': ('step [ms]', '{:,.0f}'.format), 'loading': ('waiting for data', '{:.0%}'.format),
    'rate': ('scans/s', '{:,.2f}'.format), 'memory_mib': ('memory [MiB]', '{:,.0f}'.format),
    'days': (f'days for {EPOCHS} epochs of {SCANS:,} scans', '{:,.2f}'.format)}


def run(args: argparse.Namespace) -> list[dict]:
    """Measure and log a table.

    Returns:
        rows with the keys of COLUMNS.

    Raises:
        ConfigError: a number below 1, or a config that cannot train.
        DataError: no scan.
    """
    check_positive('training', batch=args.batch, steps=args.steps)
    rows = []
    for config in args.configs or CONFIGS:
        rows.append(measure(config, find_scan(args.scan), args.batch, args.steps, args.workers, not args.float32,
                            parse_options(args.cfg_options)))
        print_log('\n' + '\n'.join(table(rows, COLUMNS)), 'current')
    return rows


def measure(config: str, scan: Path, batch: int, steps: int, workers: int | None, amp: bool,
            options: dict | None = None) -> dict:
    """Train some steps; a row with the keys of COLUMNS. Workers are one for each core, at most 8, for None."""
    if workers is None:
        workers = min(os.cpu_count() or 1, 8)
    with tempfile.TemporaryDirectory() as folder:
        write_copies(Path(folder, 'data'), scan, batch * steps)
        options = {
            'train_dataloader.dataset.data_root': str(Path(folder, 'data')), 'train_dataloader.dataset.sequences': [0],
            'train_dataloader.batch_size': batch, 'train_dataloader.num_workers': workers,
            'train_cfg.max_epochs': 1, 'val_dataloader': None, 'val_cfg': None, 'val_evaluator': None,
            'default_hooks.logger.interval': 1,
            'log_processor.window_size': 1, 'custom_hooks': [],
            **({'model.teachers.full.trained_by': None} if '/pvd/' in config else {}), **(options or {})}
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        runner = train(config, work_dir=str(Path(folder, 'run')), amp=amp, options=options)
        lines = (Path(runner.log_dir) / 'vis_data' / 'scalars.json').read_text().splitlines()
    logged = [line for line in map(json.loads, lines) if 'data_time' in line]
    late = logged[len(logged) // 2:]
    seconds, loading = (statistics.median(line[key] for line in late) for key in ('time', 'data_time'))
    rate = batch / seconds
    return dict(dict.fromkeys(COLUMNS), config=config, batch=batch, dtype='amp' if amp else 'float32',
                step_ms=1e3 * seconds, loading=loading / seconds, rate=rate, days=EPOCHS * SCANS / rate / 86_400,
                memory_mib=torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None)


def write_copies(root: Path, scan: Path, count: int) -> None:
    """A SemanticKITTI of one sequence: links to a scan, with random labels."""
    points, labels = (root / 'sequences' / '00' / name for name in ('velodyne', 'labels'))
    points.mkdir(parents=True)
    labels.mkdir()
    drawn = np.random.default_rng(0).choice(RAW_LABELS, scan.stat().st_size // 16).astype('<u4').tobytes()
    for number in range(count):
        (points / f'{number:06d}.bin').symlink_to(scan)
        (labels / f'{number:06d}.label').write_bytes(drawn)
