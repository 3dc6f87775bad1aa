"""The CULane score on text files of simulated lanes: milliseconds per image against the original C++ tool."""
import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from mmengine.logging import print_log

from perception.common.measure import interleave, machine, summary
from perception.lanes.datasets.culane.metric import SIZE, evaluate_folders
from perception.lanes.datasets.culane.submission import write_lanes
from perception.utils.errors import ConfigError

ORIGINAL_MS = 20.4  # the C++ tool, -O2, one thread, 4 x 4 lanes an image, on an Intel Xeon with OpenCV 4.6
GOAL_MS = ORIGINAL_MS / 2
POINTS = dict(anno=30, pred=16)  # of a lane
OPTIONS = {
    '--images': {'type': 'int', 'default': 300, 'help': 'of four true and four predicted lanes (default: 300)'},
    '--rounds': {'type': 'int', 'default': 3, 'help': 'measured rounds (default: 3)'},
    '--threads': {'type': 'int', 'nargs': '+', 'default': [1, 2], 'help': 'images at once (default: 1 2)'}}


def run(args: argparse.Namespace) -> dict[int, float]:
    """Time the evaluation of two folders and log a line for each number of threads.

    Returns:
        threads -> milliseconds per image, the shortest round.

    Raises:
        ConfigError: a number below 1.
    """
    for name in ('images', 'rounds', 'threads'):
        if np.min(getattr(args, name)) < 1:
            raise ConfigError(f'--{name}: {getattr(args, name)} came, expected 1 or more. Pass more.')
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), args.images)
            seconds = interleave({number: lambda n=number: evaluate_folders(
                Path(folder, 'anno'), Path(folder, 'pred'), Path(folder, 'list.txt'), num_threads=n)
                for number in args.threads}, args.rounds)
    finally:
        cv2.setNumThreads(threads)
    print_log(f'{args.images:,} images of 4 x 4 lanes; {machine()}')
    result = {number: 1e3 * min(times) / args.images for number, times in seconds.items()}
    for number, value in result.items():
        print_log(f'{number} thread{"s" * (number > 1)}: {value:5.1f} ms per image, all {summary(seconds[number])}; '
                  f'the C++ tool took {ORIGINAL_MS} ms on one thread (goal {GOAL_MS} ms)')
    return result


def write_images(folder: Path, count: int) -> None:
    """Write `anno` and `pred` with four bent lanes an image, and `list.txt`."""
    rng, names = np.random.default_rng(0), [f'drive/{i:05d}' for i in range(count)]
    for name in names:
        bend = rng.uniform(-150, 150)
        for kind, points in POINTS.items():
            v = SIZE[0] - 20 * (17 / points) * np.arange(points)
            far = (SIZE[0] - v) / 340
            lanes = [np.stack([bottom + (820 - bottom) * .8 * far + bend * far ** 2 + rng.normal(0, 2, points), v], 1)
                     for bottom in (-100, 520, 1120, 1740) + rng.normal(0, 5, 4)]
            write_lanes(folder / kind / f'{name}.lines.txt', lanes)
    (folder / 'list.txt').write_text(''.join(f'/{name}.jpg\n' for name in names))
