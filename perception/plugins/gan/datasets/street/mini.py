"""Vehicles and people of the toy world, one in the middle of each image, as a folder of images."""
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.common.scene.camera import CameraSpec, render
from perception.common.scene.shading import draw_look
from perception.common.scene.street import STYLES
from perception.common.scene.world import SCENE_VERSION, build_world
from perception.utils.errors import DataError
from perception.utils.paths import data_path

PARTS = ('car', 'truck', 'bus', 'person', 'child', 'bicyclist', 'motorcyclist')
LOOKS = ('day', 'overcast', 'shadow')
SIDES = 8  # that a thing is tried to be seen from
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
            image = picture(caster, boxes.boxes_3d[i], size, LOOKS[number % len(LOOKS)], rng)
            if image is None:
                continue
            name = f'{done:05d}_{boxes.part[i]}.png'
            (folder / name).write_bytes(cv2.imencode('.png', image[..., ::-1])[1].tobytes())
            done += 1
        number += 1


def picture(caster, box: np.ndarray, size: int, look: str, rng: np.random.Generator) -> np.ndarray | None:
    """A thing from a random side from which it is seen, (size, size, 3) uint8 RGB; None where there is none.

    Args:
        caster: the world.
        box: (7,) of the thing in it.
        size: rows and columns.
        look: kind of the light.
        rng: source of the view.
    """
    extent = 0.5 * float(np.hypot(max(box[3], box[5]), box[4]))
    distance, centre = 3.2 * extent + 1, box[:3] + [0, 0, box[5] / 2]
    headings = box[6] + rng.uniform(0, 2 * np.pi) + np.arange(SIDES) * 2.4  # turns that come near each other late
    ways = np.stack([np.cos(headings), np.sin(headings), rng.uniform(.08, .35, SIDES)], 1)
    eyes, lengths = centre + distance * ways, distance * np.linalg.norm(ways, axis=1)
    free = caster.cast(eyes.astype(np.float32), -ways / np.linalg.norm(ways, axis=1, keepdims=True)).distance
    seen = np.flatnonzero(free > lengths - extent)
    if not len(seen):
        return None
    eye, heading = eyes[seen[0]], headings[seen[0]]
    forward = (centre - eye) / np.linalg.norm(centre - eye)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.stack([right, np.cross(forward, right), forward], 1), eye
    spec = CameraSpec(size, size, 1.25 * size, 1.5, 0, scale=1.0, smooth=size > 64)
    towards = draw_look(look, float(np.degrees(heading + np.pi)), rng)
    return render(caster, pose, spec, towards, rng).image
