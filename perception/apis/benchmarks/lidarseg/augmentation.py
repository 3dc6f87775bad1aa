"""Augmentation and voxelisation of one training scan on one thread, beside plain NumPy that does the same.

The plain way is what one writes first: float64 arrays, matrix products, `numpy.unique` over rows, a table of votes.
Neither reads a file: scans are in memory. Runs take turns, medians are reported; time is that of the CPU, which a busy
machine changes least.
"""
import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log

from perception.apis.config import load_config
from perception.apis.runner import write_mini_data
from perception.common.dataset import build_pipeline
from perception.common.measure import interleave, machine
from perception.lidarseg.datasets.base import pack
from perception.lidarseg.datasets.semantickitti.reader import CLASSES, SemanticKITTI
from perception.lidarseg.mixing import LaserMix, PasteObjects, PolarMix
from perception.registry import MODELS
from perception.utils.errors import ConfigError

GOAL_MS = 40  # for 120,000 points
AUTHORS_MS = 287  # Cylinder3D's own data pipeline, 123,266 points, an Intel Xeon; most of it for an array it never uses
CONFIGS = dict(cylinders='configs/lidarseg/cylinder3d_kitti.py', cubes='configs/lidarseg/minkunet_kitti.py')
OPTIONS = {
    '--rounds': {'type': 'int', 'default': 15, 'help': 'timed runs of each (default: 15)'},
    '--points': {'type': 'int', 'default': 120_000, 'help': 'points of each scan (default: 120,000)'}}


def run(args: argparse.Namespace) -> list[dict]:
    """Measure and log a table.

    Returns:
        per row `name`, `points` (after augmentation), `augment_ms`, `voxelise_ms`, `total_ms`, and `plain_ms` and
        `ratio` (plain over ours), None for mixing.

    Raises:
        ConfigError: no rounds, or more points than the mini scans have.
    """
    if args.rounds < 1:
        raise ConfigError(f'--rounds: {args.rounds} came, expected at least 1. Fifteen give a steady median.')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = measure(args)
    finally:
        torch.set_num_threads(threads)
    head = dict(points=9, augment=9, voxelise=9, total=8, plain=8, ratio=7)
    lines = [f'{"augmentation and voxels":<28}' + ''.join(f'{name:>{width}}' for name, width in head.items())]
    for row in rows:
        plain = '' if row['plain_ms'] is None else f'{row["plain_ms"]:>8.1f}{row["ratio"]:>6.1f}x'
        lines.append(f'{row["name"]:<28}{row["points"]:>9,}{row["augment_ms"]:>9.1f}{row["voxelise_ms"]:>9.1f}'
                     f'{row["total_ms"]:>8.1f}{plain}')
    slowest = max(row['total_ms'] for row in rows if row['plain_ms'] is not None)
    lines.append(f"CPU milliseconds of one thread, medians; {machine()}; goal for the papers' own augmentation: "
                 f'{GOAL_MS} ms, {"met" if slowest <= GOAL_MS else "missed"}; Cylinder3D\'s own code took {AUTHORS_MS} '
                 'ms elsewhere')
    print_log('\n' + '\n'.join(lines), 'current')
    return rows


def measure(args: argparse.Namespace) -> list[dict]:
    """Time all combinations in turns."""
    cfgs = {kind: load_config(path) for kind, path in CONFIGS.items()}
    small = load_config(CONFIGS['cylinders'], mini=True)
    write_mini_data(small)
    data = SemanticKITTI(small.train_dataloader.dataset.data_root, 'train', [0, 1])
    scans = [thinned(data.read(index), args.points) for index in (0, len(data) // 2)]
    runs: dict[tuple[str, str], Callable[[], object]] = {}
    for kind, cfg in cfgs.items():
        steps = build_pipeline(cfg.train_dataloader.dataset.pipeline)
        voxelizer = MODELS.build(cfg.model.data_preprocessor)
        own = {f'own, {kind}': steps}
        for mix in (LaserMix(), PolarMix(), PasteObjects()) if kind == 'cylinders' else ():
            own[f'{type(mix).__name__}, {kind}'] = [mix, *steps]
        for name, chain in own.items():
            runs[name, 'augment'] = partial(augment, chain, scans)
            runs[name, 'voxelise'] = partial(voxelizer, pseudo_collate([pack(augment(chain, scans))]), True)
        plain = partial(plain_cylinders if kind == 'cylinders' else plain_cubes, voxelizer)
        runs[f'own, {kind}', 'plain'] = lambda plain=plain, kind=kind: plain(plain_augmentation(scans[0], kind))
    seconds = interleave(runs, args.rounds, time.process_time)
    medians = {key: 1e3 * statistics.median(times) for key, times in seconds.items()}
    return [to_row(name, medians, len(runs[name, part]()['points'])) for name, part in runs if part == 'augment']


def to_row(name: str, medians: dict[tuple[str, str], float], points: int) -> dict:
    """The times of one combination."""
    augmented, voxelised, plain = (medians.get((name, part)) for part in ('augment', 'voxelise', 'plain'))
    total = augmented + voxelised
    return dict(name=name, points=points, augment_ms=augmented, voxelise_ms=voxelised, total_ms=total, plain_ms=plain,
                ratio=None if plain is None else plain / total)


def thinned(scan: dict, points: int) -> dict:
    """The scan with so many of its points, drawn at random.

    Raises:
        ConfigError: it has fewer.
    """
    if not 2 <= points <= len(scan['points']):
        raise ConfigError(f'--points: {points:,} came, expected 2 to {len(scan["points"]):,}, as many as the mini '
                          'scans have. Ask for fewer.')
    rows = np.sort(np.random.default_rng(0).permutation(len(scan['points']))[:points])
    return dict(scan, points=scan['points'][rows], labels=scan['labels'][rows])


def augment(steps: list[Callable], scans: list[dict]) -> dict:
    """One scan augmented, with the other one to mix it with; always the same draws."""
    sample = dict(scans[0], rng=np.random.default_rng(0), draw=lambda: scans[1], classes=CLASSES)
    for step in steps:
        sample = step(sample)
    return sample


def plain_augmentation(scan: dict, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and scale, for cylinders also flip and shift, by plain NumPy: points (N, 4) float64, labels (N,)."""
    rng, points = np.random.default_rng(0), scan['points'].astype(np.float64)
    angle = np.deg2rad(rng.uniform(-45, 45))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points[:, :2] = np.dot(points[:, :2], turn)
    if kind == 'cylinders':
        points[:, :2] *= rng.choice([-1, 1], 2)
    points[:, :2] *= rng.uniform(.95, 1.05)
    if kind == 'cylinders':
        points[:, :3] += rng.normal(0, .1, 3)
    return points, scan['labels']


def plain_cylinders(voxelizer, scan: tuple[np.ndarray, np.ndarray]) -> tuple:
    """Cylindrical voxels, features and majority labels by plain NumPy."""
    points, labels = scan
    low, high, grid = (np.array(v, float) for v in (voxelizer.min_bound, voxelizer.max_bound, voxelizer.grid_shape))
    polar = np.stack([np.sqrt(points[:, 0] ** 2 + points[:, 1] ** 2), np.arctan2(points[:, 1], points[:, 0]),
                      points[:, 2]], axis=1)
    cell = (high - low) / (grid - 1)
    index = np.floor((np.clip(polar, low, high) - low) / cell).astype(int)
    feats = np.concatenate([polar - ((index + .5) * cell + low), polar, points[:, :2], points[:, 3:]], axis=1)
    coords, rows = np.unique(index, axis=0, return_inverse=True)
    votes = np.zeros((len(coords), 256), int)
    np.add.at(votes, (rows.ravel(), labels), 1)
    return coords, rows, feats.astype(np.float32), votes.argmax(1)


def plain_cubes(voxelizer, scan: tuple[np.ndarray, np.ndarray]) -> tuple:
    """Cubes with their first points by plain NumPy, `max_voxels` of them, and the cylinders of PVD's supervoxels."""
    points, labels = scan
    index = np.round(points[:, :3] / voxelizer.voxel_size).astype(int)
    coords, first, rows = np.unique(index - index.min(0), axis=0, return_index=True, return_inverse=True)
    kept = np.sort(np.random.default_rng(0).permutation(len(coords))[:voxelizer.max_voxels])
    inside = np.isin(rows.ravel(), kept)
    rows = np.searchsorted(kept, rows.ravel()[inside])
    return coords[kept], rows, points[inside], points[first[kept]], labels[first[kept]], labels[inside]
