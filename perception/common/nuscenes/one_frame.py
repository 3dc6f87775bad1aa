"""A frame as mmdet3d's info files describe it, written in nuScenes' official layout: v1.0-mini of one sample.

What an info file knows is kept: tokens, times, poses, calibrations, boxes, their attributes and points. What it does
not know stays unknown: visibilities, and velocities, which the tables tell by the samples before and after. The mask of
the map is blank.
"""
from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.common.formats.images import read_image
from perception.common.nuscenes.index import LIDAR
from perception.common.nuscenes.poses import finite_numbers, inverse_rigid
from perception.common.nuscenes.tables import CATEGORIES
from perception.common.nuscenes.writer import Calibration, SceneRows, Tables, quaternion
from perception.utils.errors import DataError
from perception.utils.outputs import part_folder

PARTS = dict(construction_vehicle='construction', pedestrian='person', traffic_cone='cone')  # others have one name
ATTRIBUTES = ('cycle.with_rider', 'cycle.without_rider', 'pedestrian.moving', 'pedestrian.standing',
              'pedestrian.sitting_lying_down', 'vehicle.moving', 'vehicle.parked', 'vehicle.stopped')  # by `attr_label`
SAME = 0.05  # m between the centres of a box in the LiDAR's and in a camera's list
MASK = 'maps/blank.png'


def write_one_frame(root: str | Path, info: Mapping[str, Any], classes: Mapping[str, int], files: str | Path,
                    scene: str = 'scene-0061', location: str = 'singapore-onenorth') -> Path:
    """Write a frame as `v1.0-mini` with its files.

    Args:
        root: folder of the data set, which does not exist yet; it appears when it is complete.
        info: an item of `data_list` in an info file of mmdet3d 1.1 or later, as JSON or pickle gave it: `token`,
            `timestamp` [s], `ego2global`, `lidar_points`, `images`, `instances`, and `cam_instances` for attributes.
            Boxes are those of its LiDAR's frame, centres in the middle.
        classes: name -> label, `metainfo.categories` of the file. A box of another label becomes debris, which no
            detector finds.
        files: folder of the sweep and the images, side by side or as in the official layout.
        scene: official name, which decides on the split: scene-0061 is in mini_train, scene-0103 in mini_val.
        location: of the map.

    Returns:
        The folder.

    Raises:
        DataError: a part of the info or a file is missing, a matrix is broken, or the folder is there.
    """
    root = Path(root)
    if root.exists():
        raise DataError(f'write_one_frame: {root} is there, expected a new folder. Give another one or move it away.')
    try:
        rows, tables, sources = _tables(info, {label: name for name, label in classes.items()}, Path(files), scene,
                                        location)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f'write_one_frame: {error!r} in the info, expected an item of data_list as mmdet3d 1.1 and '
                        'later write it. Convert the file with its update_infos_to_v2.py.') from error
    with part_folder(root) as part:
        for name, source in {**sources, MASK: None}.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            if source is not None:
                shutil.copyfile(source, part / name)
        (part / MASK).write_bytes(cv2.imencode('.png', np.zeros((8, 8), np.uint8))[1].tobytes())
        tables.extend(rows.tables)
        del tables.rows['lidarseg']
        tables.save(part / 'v1.0-mini')
        part.rename(root)
    return root


def _tables(info: Mapping[str, Any], names: Mapping[int, str], files: Path, scene: str, location: str,
            ) -> tuple[SceneRows, Tables, dict[str, Path]]:
    """The rows of the scene, the tables of the version, and where the file of each record lies."""
    lidar_to_ego = _rigid(info['lidar_points']['lidar2ego'], 'lidar2ego')
    ego_to_world = _rigid(info['ego2global'], 'ego2global')
    sweep, lidar = info['lidar_points']['lidar_path'], _calibration(LIDAR, lidar_to_ego)
    records = [(lidar, info['timestamp'], ego_to_world, sweep)]
    for channel, view in info['images'].items():
        to_ego = _rigid(view['cam2ego'], f'{channel}: cam2ego')
        to_lidar = inverse_rigid(_rigid(view['lidar2cam'], f'{channel}: lidar2cam'))
        matrix = finite_numbers(view['cam2img'], (3, 3), f'{channel}: cam2img')
        records.append((_calibration(channel, to_ego, matrix), view['timestamp'],
                        ego_to_world @ lidar_to_ego @ to_lidar @ inverse_rigid(to_ego), view['img_path']))
    tables = Tables(CATEGORIES, [sensor for sensor, *_ in records])
    rows = SceneRows(scene, Path(sweep).name.split('__')[0], MASK, False, location)
    sample, sources = rows.add_sample(_microseconds(info['timestamp']), info['token']), {}
    for calibration, (sensor, seconds, pose, path) in zip(tables.rows['calibrated_sensor'], records):
        file, size = _find(files, sensor.channel, path), (0, 0)
        if sensor.intrinsics:
            size = read_image(file).shape[1::-1]
            calibration['camera_intrinsic'] = info['images'][sensor.channel]['cam2img']  # skew too, if there is one
        token = rows.add_data(sample, sensor, _microseconds(seconds), pose, 'jpg' if sensor.intrinsics else 'pcd.bin',
                              size)
        sources[rows.file_of(token)] = file
    _add_boxes(rows, sample, info, names, ego_to_world @ lidar_to_ego)
    rows.finish()
    return rows, tables, sources


def _find(folder: Path, channel: str, name: str) -> Path:
    """A file of a sensor by its path in an info, by its name alone, or in the official layout."""
    for path in (folder / name, folder / Path(name).name, folder / 'samples' / channel / Path(name).name):
        if path.is_file():
            return path
    raise DataError(f'{folder / name}: no such file, expected the images and the sweep that the info names. Give the '
                    'folder that holds them.')


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _rigid(values: Any, where: str) -> np.ndarray:
    """(4, 4) with a rotation that is one, of a matrix that float32 has rounded."""
    matrix = finite_numbers(values, (4, 4), where)
    left, lengths, right = np.linalg.svd(matrix[:3, :3])
    if np.abs(lengths - 1).max() > 1e-3 or np.linalg.det(left @ right) < 0:
        raise DataError(f'{where}: singular values {lengths.round(4).tolist()}, expected a rotation, 1, 1, 1. Correct '
                        'the matrix.')
    matrix[:3, :3] = left @ right
    return matrix


def _calibration(channel: str, to_ego: np.ndarray, matrix: np.ndarray | None = None) -> Calibration:
    intrinsics = None if matrix is None else (matrix[0, 0].item(), matrix[0, 2].item(), matrix[1, 2].item())
    return Calibration(channel, tuple(to_ego[:3, 3].tolist()), tuple(quaternion(to_ego)), intrinsics)


def _add_boxes(rows: SceneRows, sample: str, info: Mapping[str, Any], names: Mapping[int, str],
               to_world: np.ndarray) -> None:
    """Records of the boxes, upright in the world."""
    items = info['instances']
    boxes = finite_numbers([item['bbox_3d'] for item in items], (len(items), 7), 'bbox_3d') if items else \
        np.zeros((0, 7))
    turn, attributes = to_world[:3, :3], attributes_of(boxes[:, :3], info)
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1) @ np.linalg.inv(turn[:2, :2])
    placed = np.concatenate([boxes[:, :3] @ turn.T + to_world[:3, 3], boxes[:, 3:6],
                             np.arctan2(heading[:, 1], heading[:, 0])[:, None]], 1)
    placed[:, 2] -= placed[:, 5] / 2
    for number, (item, box, attribute) in enumerate(zip(items, placed, attributes.tolist())):
        name = names.get(item['bbox_label_3d'])
        part = 'debris' if name is None else PARTS.get(name, name)
        rows.add_box(sample, part, number, box, item['num_lidar_pts'], radar=item['num_radar_pts'],
                     attribute=ATTRIBUTES[attribute] if 0 <= attribute < len(ATTRIBUTES) else '')


def attributes_of(centres: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """(K,) rows of `ATTRIBUTES` that the lists of the cameras tell of boxes with centres (K, 3), -1 unknown."""
    found = np.full(len(centres), -1)
    for channel, items in info.get('cam_instances', {}).items():
        to_cam = np.array(info['images'][channel]['lidar2cam'], np.float64)
        seen = np.array([item['bbox_3d'][:3] for item in items], np.float64).reshape(-1, 3)
        apart = np.linalg.norm((centres @ to_cam[:3, :3].T + to_cam[:3, 3])[:, None] - seen, axis=-1)
        which, item = np.nonzero(apart < SAME)
        found[which] = np.array([item['attr_label'] for item in items], np.int64)[item]
    return found
