"""What stands and moves in the streets of the toy world, one thing in the middle of each image: ten classes.

The folders are ImageNet's. Training and validation show different streets.
"""
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.common.scene.labels import PART
from perception.common.scene.portrait import portrait, standing
from perception.common.scene.street import STYLES
from perception.common.scene.world import SCENE_VERSION, World, build_world
from perception.utils.errors import DataError
from perception.utils.paths import data_path

CLASSES = dict(bicycle=('bicycle',), bicyclist=('bicyclist',), bus=('bus',), car=('car',), motorcycle=('motorcycle',),
               motorcyclist=('motorcyclist',), person=('person', 'child'), pole=('pole',), sign=('sign',),
               truck=('truck',))  # class -> parts
LOOKS = ('day', 'overcast', 'shadow')
EACH, TRIES = 8, 3  # images of a class in a world at most, and pictures taken for each
TALL, TOP = 4.0, 2.0  # metres; of poles at least so tall the image shows the top
SEEN = dict(pole=0.02)  # share of an image that its class fills at least; others 0.06


def write_street(root: str | Path = 'data/mini/street', seed: int = 0, train: int = 600, val: int = 200,
                 size: int = 32, force: bool = False) -> Path:
    """Write the images, or keep those that are there if they were made from the same arguments.

    Args:
        root: folder of the data set; it appears when it is complete.
        seed: same seed, same bytes on one machine.
        train: number of images to learn from, alike for all classes up to one.
        val: of images to validate on, likewise.
        size: rows and columns of a picture.
        force: write it again even if it is complete.

    Raises:
        DataError: numbers out of range, or a folder that holds something else.
    """
    if seed < 0 or not all(len(CLASSES) <= n <= 20000 for n in (train, val)) or not 16 <= size <= 256:
        raise DataError(f'write_street: seed={seed}, train={train}, val={val}, size={size}, expected a seed of 0 or '
                        f'more, {len(CLASSES)} to 20000 images of 16 to 256 pixels. Give numbers in these ranges.')
    stamp = dict(dataset='street crops', simulated=True, scene_version=SCENE_VERSION, writer_version=2, seed=seed,
                 train=train, val=val, size=size)
    return write_stamped(data_path(root), stamp, partial(_write, seed=seed, counts=(train, val), size=size),
                         'crops of street scenes', 1 + (train + val) * size ** 2 // 400000, force)


def _write(folder: Path, seed: int, counts: tuple[int, int], size: int) -> None:
    styles = sorted(STYLES)
    for split, count, streets in zip(('train', 'val'), counts, (18, 19)):
        wanted = {name: count // len(CLASSES) + (i < count % len(CLASSES)) for i, name in enumerate(CLASSES)}
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
        number = 0
        while any(wanted.values()):
            world = build_world((seed, streets, number), styles[number % len(styles)], length=200.0)
            caster, rng = world.caster(threads=1), np.random.default_rng([seed, streets, number])
            things = _things(world)
            for name, boxes in things.items():
                left = min(EACH, wanted[name])
                for i in range(TRIES * left if len(boxes) else 0):
                    frame = portrait(caster, rng.choice(boxes), size, LOOKS[number % len(LOOKS)], rng)
                    share = 0 if frame is None else np.isin(
                        frame.part, [PART[part] for part in CLASSES[name]]).mean()
                    if share < SEEN.get(name, 0.06):
                        continue
                    file = folder / split / name / f'{number:04d}_{i}.png'
                    file.write_bytes(cv2.imencode('.png', frame.image[..., ::-1])[1].tobytes())
                    wanted[name], left = wanted[name] - 1, left - 1
                    if not left:
                        break
            number += 1


def _things(world: World) -> dict[str, np.ndarray]:
    """Class -> (K, 7) boxes."""
    boxes, found = world.boxes(0.0), {}
    for name, parts in CLASSES.items():
        if name in ('pole', 'sign'):
            found[name] = standing(world.static, name)
        else:
            found[name] = boxes.boxes_3d[np.isin(boxes.part, parts)]
    poles = found['pole'][found['pole'][:, 5] >= TALL]
    poles[:, 2], poles[:, 5] = poles[:, 2] + poles[:, 5] - TOP, TOP
    return dict(found, pole=poles)
