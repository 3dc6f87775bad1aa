"""Vehicles and people of the toy world, one in the middle of each image, as a folder of images."""
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.common.scene.portrait import portrait
from perception.common.scene.street import STYLES
from perception.common.scene.world import SCENE_VERSION, build_world
from perception.utils.errors import DataError
from perception.utils.paths import data_path

PARTS = ('car', 'truck', 'bus', 'person', 'child', 'bicyclist', 'motorcyclist')
LOOKS = ('day', 'overcast', 'shadow')
EACH = 80  # images of a world at most


def write_street(root: str | Path = 'data/mini/ffhq', seed: int = 0, count: int = 400, size: int = 32,
                 force: bool = False) -> Path:
    """Write the images, or keep those that are there if they were made from the same arguments.

    Args:
        root: folder of the data set; it appears when it is complete.
        seed: same seed, same bytes on one machine.
        count: of the images.
        size: rows and columns of a picture.
        force: write it again even if it is complete.

    Raises:
        DataError: numbers out of range, or a folder that holds something else.
    """
    if seed < 0 or not 1 <= count <= 20000 or not 16 <= size <= 256:
        raise DataError(f'write_street: seed={seed}, count={count}, size={size}, expected a seed of 0 or more, 1 to '
                        '20000 images of 16 to 256 pixels. Give numbers in these ranges.')
    stamp = dict(dataset='street', simulated=True, scene_version=SCENE_VERSION, writer_version=2, seed=seed,
                 count=count, size=size)
    return write_stamped(data_path(root), stamp, partial(_write, seed=seed, count=count, size=size),
                         'vehicles and people', 1 + count * size ** 2 // 400000, force)


def _write(folder: Path, seed: int, count: int, size: int) -> None:
    number, done, styles = 0, 0, sorted(STYLES)
    while done < count:
        rng = np.random.default_rng([seed, 17, number])
        world = build_world((seed, 17, number), styles[number % len(styles)], length=200.0)
        caster, boxes = world.caster(threads=1), world.boxes(0.0)
        there = [i for i, part in enumerate(boxes.part) if part in PARTS]
        chosen = rng.choice(there, min(EACH, count - done)) if there else []
        for i in chosen:
            frame = portrait(caster, boxes.boxes_3d[i], size, LOOKS[number % len(LOOKS)], rng)
            if frame is None:
                continue
            name = f'{done:05d}_{boxes.part[i]}.png'
            (folder / name).write_bytes(cv2.imencode('.png', frame.image[..., ::-1])[1].tobytes())
            done += 1
        number += 1
