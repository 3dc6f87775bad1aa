"""Toy streets as somebody's own camera sees them: images of 1920 x 1080 with CULane's lines beside them."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.common.scene.camera import CameraSpec
from perception.lanes.mini import PER_STREET, SPLITS, MiniSet, Order, Streets, beside_ego, save_jpeg, write_set
from perception.lanes.shots import View

SET = MiniSet('lane_folder', 'own lanes', code=7, version=1, megabytes=40, streets=Streets(
    ('highway', 'urban', 'residential')))
CAMERA = CameraSpec(1920, 1080, 1450, 1.5, -3)


def write_lane_folder_mini(root: str | Path = 'data/mini/lane_folder', seed: int = 0, train: int = 42, val: int = 12,
                           test: int = 12, detail: float = .4, length: float = 260.0, workers: int = 0,
                           force: bool = False) -> Path:
    """Writes a folder of images with lines, `<split>/drive_<k>/<frame>.jpg` and `.lines.txt`; see `write_set`."""
    return write_set(SET, _fill, root, seed, (train, val, test), detail, length, workers, force)


def _fill(order: Order) -> None:
    for split in SPLITS:
        names = [f'{split}/drive_{i // PER_STREET:02d}/{i % PER_STREET:06d}' for i in range(order.images[split])]
        order.take(order.plans(split, names), CAMERA, save=_save)


def _save(root: Path, name: str, view: View) -> None:
    """Image and the lines next to the ego, two on a side at most."""
    save_jpeg(root / f'{name}.jpg', view.frame.image)
    lines, rows = [], np.arange(view.spec.height, 0, -20)
    for found in beside_ego(view.traces, view.spec, 2).values():
        points = np.stack([found.at(rows), rows], -1)
        points = points[np.abs(points[:, 0] - view.spec.width / 2) < .75 * view.spec.width]  # NaN is left out, too
        lines.append(' '.join(f'{u:.3f} {v:.0f}' for u, v in points) + ' ')
    (root / f'{name}.lines.txt').write_text(''.join(f'{line}\n' for line in lines))
