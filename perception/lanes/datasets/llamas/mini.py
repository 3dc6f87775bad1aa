"""Toy motorways in the official layout of LLAMAS, without its grey-scale images."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from perception.common.scene.camera import LLAMAS
from perception.lanes.mini import MOTORWAYS, PER_STREET, MiniSet, Order, Streets, beside_ego, save_image, write_set
from perception.lanes.shots import FAR, HEIGHT, NEAR, Trace, View, in_image, pixels

SET = MiniSet('llamas', 'LLAMAS', code=5, version=2, megabytes=120, streets=Streets(MOTORWAYS))
DASH = 3.0  # metres, length of a dash and of a marker


def write_llamas_mini(root: str | Path = 'data/mini/llamas', seed: int = 0, train: int = 42, val: int = 12,
                      test: int = 6, detail: float = .5, length: float = 260.0, workers: int = 0,
                      force: bool = False) -> Path:
    """Writes a mini LLAMAS; see `write_set`. Test labels are not public, so there are none."""
    return write_set(SET, _fill, root, seed, (train, val, test), detail, length, workers, force)


def _fill(order: Order) -> None:
    for split, folder, first in (('train', 'train', 0), ('val', 'valid', 1000), ('test', 'test', 2000)):
        streets = [first + i // PER_STREET for i in range(order.images[split])]
        names = [f'{folder}/images-2014-12-22-12-{street % 60:02d}-{street // 60:02d}_mapping_280S_2nd_lane/'
                 f'{1419280000 + 7 * i}_{417 * i:010d}' for i, street in enumerate(streets)]
        order.take(order.plans(split, names), LLAMAS, save=_save)


def _save(root: Path, name: str, view: View) -> None:
    """Image and, except for test, the label file with the markers of each lane, the nearest first."""
    save_image(root / 'color_images' / f'{name}_color_rect.png', view.frame.image)
    if name.startswith('test/'):
        return
    lanes = [dict(lane_id=f'l{-1 - side}' if side < 0 else f'r{side}', markers=_markers(found, view, side))
             for side, found in beside_ego(view.traces, view.spec, 3).items()]
    focal, (u, v) = view.spec.focal, ((view.spec.width - 1) / 2, (view.spec.height - 1) / 2)
    record = dict(image_name=name.split('/')[-1], projection_matrix=[[focal, 0, u], [0, focal, v], [0, 0, 1]],
                  lanes=[lane for lane in lanes if lane['markers']])
    path = root / 'labels' / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + '\n')


def _markers(found: Trace, view: View, side: int) -> list[dict]:
    """The dashes of a line, solid ones cut every 3 m, as far as they are in the image."""
    line = found.line
    begin = np.arange(line.paint_start, line.paint_stop - DASH, line.period if line.kind == 'dashed' else DASH)
    s = begin[:, None] + np.linspace(0, DASH, 25)
    world = view.world.street.at(s, line.d(s), HEIGHT)
    points, depth = pixels(world.reshape(-1, 3), view.pose, view.spec)
    inside = (in_image(points, view.spec) & (depth > NEAR) & (depth < FAR)).reshape(s.shape)
    local = (world - view.pose[:3, 3]) @ view.pose[:3, :3]
    points = np.rint(points).astype(int).reshape(*s.shape, 2)
    ends = np.stack([inside.argmax(1), s.shape[1] - 1 - inside[:, ::-1].argmax(1)])      # first and last sample inside
    start, stop = points[np.arange(len(s)), ends]
    label = f'l{-1 - side}' if side < 0 else f'r{side}'
    return [dict(lane_marker_id=f'{label}_marker_{i:03d}', world_start=_axes(near), world_end=_axes(far),
                 pixel_start=_axes(start[k]), pixel_end=_axes(stop[k]))
            for i, k in enumerate(np.flatnonzero(inside.any(1) & (start[:, 1] > stop[:, 1])))
            for near, far in [local[k, ends[:, k]]]]


def _axes(values: np.ndarray) -> dict[str, str]:
    """Numbers as the official label files have them: strings, metres with six decimals."""
    return {axis: f'{value:d}' if values.dtype.kind == 'i' else f'{value:.6f}' for axis, value in zip('xyz', values)}
