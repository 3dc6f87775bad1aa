"""Toy streets in the official layout of CULane; every category of its test images is there."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from perception.common.scene.camera import CULANE
from perception.lanes.datasets.culane.reader import CATEGORIES, LABEL_WIDTH
from perception.lanes.mini import (
    PER_STREET,
    MiniSet,
    Order,
    Streets,
    beside_ego,
    draw_polyline,
    flat,
    save_image,
    save_jpeg,
    write_lines,
    write_set,
)
from perception.lanes.shots import View

SET = MiniSet('culane', 'CULane', code=2, version=1, megabytes=40, streets=Streets(('urban', 'urban', 'residential')))
TEST_DRIVERS = ('driver_37_30frame', 'driver_100_30frame', 'driver_193_90frame')
# what makes a street one of the categories
_TEST = dict(
    normal={}, crowd=dict(traffic=2.5), hlight=dict(look='glare'), shadow=dict(look='shadow'),
    noline=dict(painted=False), arrow=dict(place='arrow'),
    curve=dict(place='curve', max_curvature=1 / 70), cross=dict(place='junction'),
    night=dict(look='night'))


def write_culane_mini(root: str | Path = 'data/mini/culane', seed: int = 0, train: int = 42, val: int = 12,
                      test: int = 18, detail: float = .5, length: float = 260.0, workers: int = 0,
                      force: bool = False) -> Path:
    """Writes a mini CULane; see `write_set` for the other arguments.

    Args:
        train, val, test: images of each split; the test images are dealt to the nine categories in turn.
    """
    return write_set(SET, _fill, root, seed, (train, val, test), detail, length, workers, force)


def _fill(order: Order) -> None:
    lists = {}
    for split, drivers in (('train', ('driver_161_90frame', 'driver_182_30frame')), ('val', ('driver_23_30frame',))):
        names = [_name(drivers, i) for i in range(order.images[split])]
        lists[f'{split}_gt'] = flat(order.take(order.plans(split, names), CULANE, save=_save))
        lists[split] = [line.split()[0] for line in lists[f'{split}_gt']]
    plans, lists['test'] = [], []
    for number, category in enumerate(CATEGORIES):
        count = len(range(number, order.images['test'], len(CATEGORIES)))
        names = [_name(TEST_DRIVERS, 60 * number + i) for i in range(count)]
        kind = dict(dict(look='day', style='urban', place='lane'), **_TEST[category])
        plans += [replace(plan, seed=(*plan.seed, number))
                  for plan in order.plans('test', names, **kind)]
        lists[f'test_split/test{number}_{category}'] = [f'/{name}.jpg' for name in names]
        lists['test'] += [f'/{name}.jpg' for name in names]
    order.take(plans, CULANE, save=_save)
    for name, lines in lists.items():
        if lines:
            write_lines(order.root / 'list' / f'{name}.txt', lines)


def _name(drivers: Sequence[str], index: int) -> str:
    street, frame = divmod(index, PER_STREET)
    return f'{drivers[street % len(drivers)]}/0516{1000 + street:04d}_{400 + street:04d}.MP4/{30 * frame + 30:05d}'


def _save(root: Path, name: str, view: View) -> str:
    """Image, points and, except for test, label image; returns the line of the list."""
    save_jpeg(root / f'{name}.jpg', view.frame.image)
    labels = np.zeros(view.frame.part.shape, np.uint8)
    lines, rows = [], np.arange(590, 0, -10)
    for side, found in beside_ego(view.traces, view.spec, 2).items():
        points = np.stack([found.at(rows), rows], -1)
        points = points[np.abs(points[:, 0] - view.spec.width / 2) < .75 * view.spec.width]       # NaN is left out, too
        lines.append(' '.join(f'{u:.3f} {v:.0f}' for u, v in points) + ' ')
        draw_polyline(labels, points, side + 3, LABEL_WIDTH)
    (root / f'{name}.lines.txt').write_text(''.join(f'{line}\n' for line in lines))
    if not name.startswith(TEST_DRIVERS):
        save_image(root / 'laneseg_label_w16' / f'{name}.png', labels)
    flags = ' '.join(f'{(labels == slot).any():d}' for slot in range(1, 5))
    return f'/{name}.jpg /laneseg_label_w16/{name}.png {flags}'
