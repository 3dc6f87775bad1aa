"""Overlap and greedy suppression of rotated boxes, beside mmcv's compiled operators or shapely.

Candidates are those of a simulated detector: several boxes for each person of a crowd or for each car. The peer is mmcv
where it has its operators, else shapely, which is asked in two ways: for all pairs, as mmcv computes them (up to 1,000
candidates), and only for those that its own search tree finds. Times are CPU seconds of this process, the shortest of
the rounds. On a GPU ours is timed too.
"""
import argparse
import importlib
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType

import numpy as np
import torch
from mmengine.logging import print_log

from perception.common.boxes import corners
from perception.common.measure import gpu_seconds, interleave, machine
from perception.ops.rotated import nms_rotated, rotated_iou
from perception.utils.checks import check_positive
from perception.utils.optional import import_optional

GOALS = dict(matrix=.05, suppression=.25)  # of the peer's time, at 1,000 candidates
MOST = 1000     # candidates of which a peer without a search computes all pairs
DUPLICATES = 8  # candidates of a person or car
OPTIONS = {
    '--candidates': {'type': 'int', 'nargs': '+', 'default': [200, 500, 1000, 2000], 'metavar': 'N',
                     'help': 'boxes before the suppression (default: 200 500 1000 2000)'},
    '--threshold': {'type': 'float', 'default': .2, 'help': 'IoU of the suppression (default: 0.2)'},
    '--rounds': {'type': 'int', 'default': 3, 'help': 'measured rounds (default: 3)'},
    '--threads': {'type': 'int', 'default': 1, 'help': 'CPU threads of ours; the peers take one (default: 1)'}}


def run(args: argparse.Namespace) -> list[dict]:
    """Time both and log a line for each kind and number of candidates.

    Returns:
        for each `kind`, `candidates`, `overlapping` (pairs), `kept`, `seconds` (name -> of ours and of the peers),
        `ratios` (peer -> ours by its time), `largest_difference` (of IoU to the peer), `same_kept`.

    Raises:
        ConfigError: a number below 1, or a threshold that is not above 0.
        MissingDependency: neither mmcv's operators nor shapely.
    """
    check_positive('rotated', rounds=args.rounds, threads=args.threads, candidates=min(args.candidates),
                   threshold=args.threshold)
    peers, threads = find_peers(), torch.get_num_threads()
    torch.set_num_threads(args.threads)
    print_log(f'threshold {args.threshold}, CPU milliseconds, {args.threads} thread{"s" * (args.threads > 1)}; '
              f'{machine()}', 'current')
    try:
        rows = [measure(kind, count, peers, args.threshold, args.rounds)
                for kind in ('crowd', 'cars') for count in args.candidates]
    finally:
        torch.set_num_threads(threads)
    return rows


def measure(kind: str, count: int, peers: dict[str, Callable], threshold: float, rounds: int) -> dict:
    """Times of some candidates, logged; see `run`."""
    boxes, scores = candidates(kind, count)
    calls = {'matrix': lambda *_: rotated_iou(boxes, boxes), 'suppression': nms_rotated}
    calls.update((name, call) for name, call in peers.items() if count <= MOST or 'all pairs' not in name)
    results = {}

    def keep_result(name: str) -> None:
        results[name] = torch.as_tensor(calls[name](boxes, scores, threshold))

    taken = interleave({name: partial(keep_result, name) for name in calls}, rounds, time.process_time)
    taken = {name: min(seconds) for name, seconds in taken.items()}
    matrix, kept = results.pop('matrix'), results.pop('suppression')
    row = dict(kind=kind, candidates=count, overlapping=int((matrix > 0).sum()), kept=len(kept), seconds=taken,
               ratios={name: taken[name.split(',')[0]] / taken[name] for name in results},
               largest_difference=max(float((matrix - found).abs().max()) for name, found in results.items()
                                      if name.startswith('matrix')),
               same_kept=all(found.tolist() == kept.tolist() for name, found in results.items()
                             if name.startswith('suppression')))
    if torch.cuda.is_available():
        on_gpu = boxes.cuda(), scores.cuda()
        taken['matrix on the GPU'] = min(gpu_seconds(lambda: rotated_iou(on_gpu[0], on_gpu[0]), rounds))
        taken['suppression on the GPU'] = min(gpu_seconds(lambda: nms_rotated(*on_gpu, threshold), rounds))
    print_log(to_lines(row), 'current')
    return row


def to_lines(row: dict) -> str:
    """A row of `run` as text."""
    lines = [', '.join([f'{row["kind"]}, {row["candidates"]:,} candidates: {row["overlapping"]:,} pairs overlap',
                        f'{row["kept"]} stay' + ('' if row['same_kept'] else ' (NOT THOSE OF THE PEER)'),
                        f'IoU differs by at most {row["largest_difference"]:.0e}'])]
    for name, seconds in row['seconds'].items():
        ratio = row['ratios'].get(name)
        goal = f' (goal {GOALS[name.split(",")[0]]})' if row['candidates'] == 1000 and ratio else ''
        lines.append(f'  {name:<30}{1e3 * seconds:10.1f} ms' + (f'   ours takes {ratio:.3f}x{goal}' if ratio else ''))
    return '\n'.join(lines)


def candidates(kind: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a detector finds before the suppression: flat boxes (N, 5) float64 and scores (N,).

    Args:
        kind: `'crowd'`: people in groups within 35 m in front, or `'cars'`: in lanes, 120 m of them.
        count: N.
    """
    rng = np.random.default_rng(0)
    things = max(1, count // DUPLICATES)
    if kind == 'crowd':
        groups = rng.uniform((0, -35), (35, 35), (max(1, things // 6), 2))
        places = groups[rng.integers(0, len(groups), things)] + rng.normal(0, .8, (things, 2))
        sizes, yaws, shake = rng.normal(.6, .06, (things, 2)), rng.uniform(-np.pi, np.pi, things), .12
    else:
        places = np.stack([rng.uniform(-60, 60, things), 3.5 * rng.integers(-4, 4, things)], axis=1)
        sizes, shake = rng.normal((4.6, 1.9), (.3, .1), (things, 2)), .5
        yaws = np.pi * rng.integers(0, 2, things) + rng.normal(0, .05, things)
    thing = rng.integers(0, things, count)
    boxes = np.concatenate([places[thing] + rng.normal(0, shake, (count, 2)),
                            sizes[thing] * rng.normal(1, .05, (count, 2)),
                            (yaws[thing] + rng.normal(0, .1, count))[:, None]], axis=1)
    return torch.from_numpy(boxes), torch.from_numpy(rng.uniform(size=count))


# -------------------------------------------------------------------------------------------------------------- peers

def find_peers() -> dict[str, Callable]:
    """Name -> function of boxes, scores, threshold: `matrix, ...` gives IoU (N, N), `suppression, ...` the kept rows.

    Raises:
        MissingDependency: neither mmcv's operators nor shapely.
    """
    try:
        ops = importlib.import_module('mmcv.ops')  # mmcv-lite has none
    except ImportError:
        kit = import_optional('shapely', 'benchmark rotated (or mmcv with its operators)', 'pip install shapely')
        return {'matrix, shapely, all pairs': lambda boxes, *_: all_pairs(kit, boxes),
                'matrix, shapely, by its tree': lambda boxes, *_: by_tree(kit, boxes),
                'suppression, shapely': lambda *given: one_by_one(kit, *given)}
    return {'matrix, mmcv': lambda boxes, *_: ops.box_iou_rotated(boxes.float(), boxes.float()),
            'suppression, mmcv': lambda boxes, scores, threshold: ops.nms_rotated(boxes.float(), scores.float(),
                                                                                  threshold)[1]}


def polygons(kit: ModuleType, boxes: torch.Tensor) -> np.ndarray:
    """(N,) polygons of flat boxes."""
    x, y, length, width, yaw = boxes.numpy().T
    solid = np.stack([x, y, 0 * x, length, width, 0 * x + 1, yaw], axis=1)
    return kit.polygons(corners(solid)[:, [0, 1, 5, 4], :2])


def all_pairs(kit: ModuleType, boxes: torch.Tensor) -> np.ndarray:
    """(N, N) IoU."""
    shapes = polygons(kit, boxes)
    common, area = kit.area(kit.intersection(shapes[:, None], shapes[None])), kit.area(shapes)
    return common / (area[:, None] + area - common)


def by_tree(kit: ModuleType, boxes: torch.Tensor) -> np.ndarray:
    """(N, N) IoU, computed where the search tree finds that polygons intersect."""
    shapes, table = polygons(kit, boxes), np.zeros((len(boxes), len(boxes)))
    i, j = kit.STRtree(shapes).query(shapes, predicate='intersects')
    common, area = kit.area(kit.intersection(shapes[i], shapes[j])), kit.area(shapes)
    table[i, j] = common / (area[i] + area[j] - common)
    return table


def one_by_one(kit: ModuleType, boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    """Rows that greedy suppression keeps: the best box of those left, then without what it overlaps."""
    shapes = polygons(kit, boxes)
    area, left, kept = kit.area(shapes), np.argsort(-scores.numpy(), kind='stable'), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        common = kit.area(kit.intersection(shapes[best], shapes[left]))
        left = left[common / (area[best] + area[left] - common) <= threshold]
    return kept
