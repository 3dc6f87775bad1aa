"""Targets of a centre head for all boxes at once, beside a loop over boxes.

Both make heat maps, rows of boxes, cells and masks of the same boxes; that they agree is checked first. The loop draws
each Gaussian by NumPy and copies it into the map, as mmdet3d's CenterHead does. Runs take turns, medians are reported;
time is that of the CPU, which a busy machine changes least.
"""
import argparse
import statistics
import time
from functools import partial

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import Tensor

from perception.common.measure import interleave, machine
from perception.common.nets.center_head import CenterHead
from perception.utils.checks import check_positive
from perception.utils.errors import DataError

GOAL = .1  # times of the loop's
RANGE, VOXEL, STRIDE = (0, -35.2, -4, 35.2, 35.2, 2), (.1, .1), 2  # maps of 352 x 176 cells of 0.2 m
SIZES = dict(people=(.6, .6, 1.7), cars=(4.5, 1.9, 1.6))  # length, width, height [m]
OPTIONS = {
    '--rounds': {'type': 'int', 'default': 15, 'help': 'timed runs of each (default: 15)'},
    '--boxes': {'type': 'int', 'default': 200, 'help': 'boxes of each sample (default: 200)'},
    '--samples': {'type': 'int', 'default': 4, 'help': 'samples of a batch (default: 4)'}}


def run(args: argparse.Namespace) -> list[dict]:
    """Measure and log a table.

    Returns:
        per row `name`, `samples`, `ours_ms`, `loop_ms` and `ratio` (ours over the loop's).

    Raises:
        ConfigError: a number below 1.
        DataError: the two ways disagree.
    """
    check_positive('heatmaps', rounds=args.rounds, boxes=args.boxes, samples=args.samples)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [measure(name, samples, args.boxes, args.rounds) for name in SIZES
                for samples in dict.fromkeys((1, args.samples))]
    finally:
        torch.set_num_threads(threads)
    lines = [f'{"boxes":<10}{"samples":>9}{"ours":>9}{"loop":>9}{"ratio":>9}']
    lines += [f'{row["name"]:<10}{row["samples"]:>9}{row["ours_ms"]:>9.2f}{row["loop_ms"]:>9.2f}{row["ratio"]:>8.3f}x'
              for row in rows]
    slowest = max(row['ratio'] for row in rows)
    lines.append(f'{args.boxes} boxes a sample on maps of 352 x 176; CPU milliseconds of one thread, medians; '
                 f'{machine()}; goal: {GOAL}x, {"met" if slowest <= GOAL else "missed"}')
    print_log('\n' + '\n'.join(lines), 'current')
    return rows


def measure(name: str, samples: int, boxes: int, rounds: int) -> dict:
    """Time both ways on boxes of one size, in turns."""
    generator = torch.Generator().manual_seed(0)
    head = CenterHead(1, [(name,)], RANGE, VOXEL, STRIDE, max_objects=boxes)
    batch = [random_sample(SIZES[name], boxes, generator) for _ in range(samples)]
    ways = dict(ours=partial(head.targets, batch), loop=partial(targets_one_by_one, head, batch))
    ours, loop = ways['ours']()[0], ways['loop']()
    parts = [(getattr(ours, field).double(), value.double()) for field, value in loop.items()]
    if not all(torch.allclose(*pair, rtol=0, atol=1e-6) for pair in parts):
        raise DataError(f'heatmaps: targets of {name} that differ by more than 1e-6, expected equal ones. Report it.')
    seconds = interleave(ways, rounds, time.process_time)
    medians = {key: 1e3 * statistics.median(times) for key, times in seconds.items()}
    return dict(name=name, samples=samples, ours_ms=medians['ours'], loop_ms=medians['loop'],
                ratio=medians['ours'] / medians['loop'])


def random_sample(size: tuple[float, float, float], boxes: int, generator: torch.Generator) -> BaseDataElement:
    """Boxes of about one size anywhere in the range, and a little outside."""
    low, high = torch.tensor(RANGE).view(2, 3) + torch.tensor([[-.2], [.2]])
    centers = low + torch.rand(boxes, 3, generator=generator) * (high - low)
    sizes = torch.tensor(size) * (.8 + .4 * torch.rand(boxes, 3, generator=generator))
    rest = torch.randn(boxes, 3, generator=generator)
    return BaseDataElement(boxes=torch.cat([centers, sizes, rest], dim=1), labels=torch.zeros(boxes, dtype=torch.long))


def targets_one_by_one(head: CenterHead, samples: list[BaseDataElement]) -> dict[str, Tensor]:
    """Targets of a head with one class, box by box; names and shapes as those of TaskTargets."""
    height, width = head.grid.shape
    shape = len(samples), max(len(sample.boxes) for sample in samples)
    heatmap = torch.zeros(len(samples), 1, height, width)
    boxes, cells = torch.zeros(*shape, 10), torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    low, voxel = torch.tensor(head.grid.low), torch.tensor(head.grid.voxel_size)
    for i, sample in enumerate(samples):
        for k, box in enumerate(sample.boxes):
            size = box[3:5] / voxel / head.grid.stride
            radius = max(head.min_radius, int(plain_radius(size[0], size[1], head.overlap)))
            at = (box[:2] - low) / voxel / head.grid.stride
            x, y = at.int()
            if not (0 <= x < width and 0 <= y < height):
                continue
            draw_one(heatmap[i, 0], int(x), int(y), radius)
            yaw = box[6]
            boxes[i, k] = torch.cat([at - torch.tensor([x, y]), box[2:3], box[3:6].log(),
                                     yaw.sin()[None], yaw.cos()[None], box[7:]])
            cells[i, k], mask[i, k] = y * width + x, True
    return dict(heatmap=heatmap, boxes=boxes, cells=cells, mask=mask)


def plain_radius(length: Tensor, width: Tensor, overlap: float) -> Tensor:
    """The least root of CornerNet's three equations."""
    around, area = length + width, length * width
    roots = [(around + (around ** 2 - 4 * area * (1 - overlap) / (1 + overlap)).sqrt()) / 2,
             (2 * around + (4 * around ** 2 - 16 * (1 - overlap) * area).sqrt()) / 2,
             (-2 * overlap * around + (4 * (overlap * around) ** 2 - 16 * overlap * (overlap - 1) * area).sqrt()) / 2]
    return min(roots)


def draw_one(heatmap: Tensor, x: int, y: int, radius: int) -> None:
    """Raise a map (H, W) to a Gaussian around a cell."""
    steps = np.arange(-radius, radius + 1)
    gaussian = np.exp(-(steps ** 2 + steps[:, None] ** 2) / (2 * ((2 * radius + 1) / 6) ** 2))
    left, right = min(x, radius), min(heatmap.shape[1] - x, radius + 1)
    top, bottom = min(y, radius), min(heatmap.shape[0] - y, radius + 1)
    part = heatmap[y - top:y + bottom, x - left:x + right]
    cut = torch.from_numpy(gaussian[radius - top:radius + bottom, radius - left:radius + right]).to(part)
    torch.maximum(part, cut, out=part)
