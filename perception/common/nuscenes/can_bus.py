"""Messages of the CAN bus expansion: how the ego moves, 50 times a second."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from perception.common.nuscenes.writer import quaternion

RATE = 50.0          # messages a second
BEFORE = .5          # seconds before the first and after the last key frame that have messages too
GRAVITY = 9.81


def write_can_bus(root: Path, scene: str, pose: Callable[[float], np.ndarray], stamp: Callable[[float], int],
                  first: float, last: float) -> None:
    """Writes `can_bus/<scene>_pose.json` and `_meta.json`.

    Args:
        root: data root.
        scene: name, such as `'scene-0061'`.
        pose: gives the 4x4 pose of the ego in the map at a time [s].
        stamp: gives the microseconds of a time.
        first, last: seconds of the first and the last key frame.
    """
    step = 1 / RATE
    times = np.arange(first - BEFORE, last + BEFORE + step / 2, step)
    poses = np.array([pose(t) for t in np.concatenate([[times[0] - step], times, [times[-1] + step]])])
    place, turn = poses[:, :3, 3], poses[:, :3, :3]
    to_ego = turn[1:-1].swapaxes(1, 2)
    velocity = (to_ego @ ((place[2:] - place[:-2]) / (2 * step))[..., None])[..., 0]
    pull = (place[2:] - 2 * place[1:-1] + place[:-2]) / step**2 + [0, 0, GRAVITY]
    spin = (to_ego @ (turn[2:] - turn[:-2])) / (2 * step)
    columns = dict(accel=(to_ego @ pull[..., None])[..., 0],
                   orientation=np.array([quaternion(pose) for pose in poses[1:-1]]), pos=place[1:-1],
                   rotation_rate=np.stack([spin[:, 2, 1], spin[:, 0, 2], spin[:, 1, 0]], -1), vel=velocity)
    messages = [dict({name: values[row].round(9).tolist() for name, values in columns.items()}, utime=stamp(t))
                for row, t in enumerate(times)]
    stats = {name: {what: getattr(values, what)(0).round(9).tolist() for what in ('max', 'mean', 'min', 'std')}
             for name, values in columns.items()}
    meta = dict(pose=dict(message_count=len(times), message_freq=RATE, timespan=float(times[-1] - times[0]),
                          var_stats=stats))
    folder = root / 'can_bus'
    folder.mkdir(exist_ok=True)
    for kind, found in (('pose', messages), ('meta', meta)):
        (folder / f'{scene}_{kind}.json').write_text(json.dumps(found) + '\n')
