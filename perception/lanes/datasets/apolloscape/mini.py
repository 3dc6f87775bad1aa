"""Toy streets in the official layout of ApolloScape's lane marks."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from perception.common.scene.camera import APOLLOSCAPE, label_maps
from perception.common.scene.labels import APOLLOSCAPE_IDS
from perception.lanes.datasets.apolloscape.reader import MARK_CLASSES, TEST_ROAD
from perception.lanes.mini import MiniSet, Order, Streets, save_image, save_jpeg, write_set
from perception.lanes.shots import View

SET = MiniSet('apolloscape', 'ApolloScape', code=6, version=2, megabytes=60, streets=Streets(
    ('avenue', 'urban', 'highway', 'boulevard', 'residential', 'urban', 'avenue'), ('approach', 'lane', 'lane'),
    marks=True, crowds=3, images=1))
LABEL_SCALE = .5  # of the label images, in rays a pixel
_COLOURS = np.zeros((256, 3), np.uint8)
for _entry in MARK_CLASSES:
    _COLOURS[_entry.id] = _entry.color


def write_apolloscape_mini(root: str | Path = 'data/mini/apolloscape', seed: int = 0, train: int = 14, val: int = 4,
                           test: int = 2, detail: float = .25, length: float = 260.0, workers: int = 0,
                           force: bool = False) -> Path:
    """Writes a mini ApolloScape lane mark; see `write_set`. Label images are cast at half size."""
    return write_set(SET, _fill, root, seed, (train, val, test), detail, length, workers, force)


def _fill(order: Order) -> None:
    for split, road, record in (('train', 'road02', 1), ('val', 'road04', 15), ('test', 'road05', 1)):
        names = []
        for i in range(order.images[split]):
            camera = f'Camera_{5 + i % 2}'
            names.append(f'{road}/Record{record + 2 * (i // order.streets.images % 2):03d}/{camera}/'
                         f'171206_{61000000 + 1000 * i:09d}_{camera}')
        order.take(order.plans(split, names), APOLLOSCAPE, save=_save)


def _save(root: Path, name: str, view: View) -> None:
    """Image and, except for test, the label image in the official colours."""
    road, rest = name.split('/', 1)
    save_jpeg(root / f'ColorImage_{road}' / 'ColorImage' / f'{rest}.jpg', view.frame.image)
    if road != TEST_ROAD:
        labels = _COLOURS[APOLLOSCAPE_IDS[label_maps(view.caster, view.pose, view.spec, LABEL_SCALE).mark]]
        save_image(root / f'Labels_{road}' / 'Label' / f'{rest}_bin.png', labels, cv2.IMWRITE_PNG_COMPRESSION, 3)
