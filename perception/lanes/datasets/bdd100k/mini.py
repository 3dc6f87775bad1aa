"""Toy streets in the official layout of BDD100K: border lines of each marking, and masks of them."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from perception.common.scene.camera import BDD100K
from perception.common.scene.street import JUNCTION, LaneBoundary
from perception.lanes.datasets.bdd100k.reader import CATEGORIES, VAL_SHARE
from perception.lanes.mini import SPLITS, MiniSet, Order, Streets, draw_polyline, flat, save_image, save_jpeg, write_set
from perception.lanes.shots import NEAR, View, in_image, pixels, trace

SET = MiniSet('bdd100k', 'BDD100K', code=4, version=2, megabytes=40, least=VAL_SHARE, streets=Streets(
    ('avenue', 'highway', 'urban', 'residential', 'boulevard', 'avenue', 'wide_highway'),
    ('lane', 'approach', 'change')))
KERB = .16  # metres, width of a kerb


def write_bdd100k_mini(root: str | Path = 'data/mini/bdd100k', seed: int = 0, train: int = 49, val: int = 18,
                       test: int = 6, detail: float = .5, length: float = 260.0, workers: int = 0,
                       force: bool = False) -> Path:
    """Writes a mini BDD100K; see `write_set`.

    The splits are the official ones: SAD's protocol validates with a seventh of `train` and tests with `val`.
    """
    return write_set(SET, _fill, root, seed, (train, val, test), detail, length, workers, force)


def _fill(order: Order) -> None:
    for split in SPLITS:
        names = [f'{split}/{i:04x}{order.seed[0] % 65536:04x}-{0xb1d + 977 * i:08x}'
                 for i in range(order.images[split])]
        frames = flat(order.take(order.plans(split, names), BDD100K, save=_save))
        if split != 'test':
            path = order.root / 'labels' / 'lane' / 'polygons' / f'lane_{split}.json'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(frames, indent=1) + '\n')


def _save(root: Path, name: str, view: View) -> dict:
    """Image and mask; returns the frame of the label file, each marking as its two border lines."""
    save_jpeg(root / 'images' / '100k' / f'{name}.jpg', view.frame.image)
    mask = np.full(view.frame.part.shape[:2], 255, np.uint8)
    labels = []
    for category, direction, style, points in _lines(view):
        points = np.round(points[::max(1, len(points) // 24)], 3)
        bits = CATEGORIES.index(category) | (direction == 'vertical') << 5 | (style == 'dashed') << 4
        draw_polyline(mask, points, bits, 2)
        attributes = dict(laneDirection=direction, laneStyle=style, laneTypes=category)
        labels.append(dict(id=str(len(labels)), attributes=attributes, category=category, poly2d=[dict(
            vertices=points.tolist(), types='L' * len(points), closed=False)]))
    if not name.startswith('test/'):
        save_image(root / 'labels' / 'lane' / 'masks' / f'{name}.png', mask)
    return dict(name=f'{name.split("/")[1]}.jpg', labels=labels)


def _lines(view: View) -> list[tuple[str, str, str, np.ndarray]]:
    """Category, direction, style and (P, 2) points of each border line in view."""
    lines = []
    for found in view.traces:
        line = found.line
        half = line.width / 2 + (.12 if line.kind == 'double' else 0)
        category = f'{"double" if line.kind == "double" else "single"} {line.colour}'
        lines += [(category, line, shift) for shift in (half, -half)]
    for block in view.world.street.blocks:
        for side, strips in block.sides.items():
            kerb = next((strip for strip in strips if strip.name == 'kerb'), None)
            if kerb:
                knots = np.array([[block.s0, side * kerb.inner], [block.s1, side * kerb.inner]])
                line = LaneBoundary(block.s0, block.s1, knots, 'solid', 'white')
                lines += [('road curb', line, shift) for shift in (0.0, side * KERB)]
    seen = [(category, 'parallel', 'dashed' if line.kind == 'dashed' else 'solid', trace(view, line, shift))
            for category, line, shift in lines]
    result = [(*kind, found.points[in_image(found.points, view.spec)]) for *kind, found in seen if found is not None]
    return result + [('crosswalk', 'vertical', 'solid', points) for points in _crosswalks(view)]


def _crosswalks(view: View) -> list[np.ndarray]:
    """(P, 2) points of the border lines of the zebra crossings 4 to 35 m ahead."""
    street, found = view.world.street, []
    for junction in street.junctions:
        for end in (1, -1):
            for s in junction + end * (JUNCTION + 2) + np.array([-1.4, 1.4]):
                if 4 < s - view.s < 35:
                    d = np.linspace(-street.half + .25, street.half - .25, 16)
                    points, depth = pixels(street.at(np.full(16, s), d), view.pose, view.spec)
                    points = points[in_image(points, view.spec) & (depth > NEAR)]
                    found += [points] if len(points) > 1 else []
    return found
