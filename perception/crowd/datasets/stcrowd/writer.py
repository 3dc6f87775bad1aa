"""Scans with people of one's own, written in STCrowd's layout, which the reader takes as it takes the official data."""
import json
import math
import shutil
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from perception.common.boxes import points_in_boxes
from perception.crowd.datasets.stcrowd.annotations import INTERVAL, sequence_name, short
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError
from perception.utils.outputs import check_free, result_path
from perception.utils.paths import data_path, make_folder


def write_sequence(root: str | Path, name: int | str, frames: Iterable[Mapping[str, Any]],
                   lidar_to_image: np.ndarray | None = None) -> Path:
    """Write the frames of a drive, 0.4 s apart, into `anno`, `pcd` and `left`.

    Args:
        root: folder of the data set, made where it is not there; other sequences in it stay.
        name: of the sequence, by which a config names it.
        frames: each a mapping of
            `points` (N, 4): x forward, y left, z up [m] in the LiDAR's frame, reflection from 0 to about 255;
            `boxes` (K, 7 or more): see BoxSample, velocities are left out, since the reader computes them;
            and, where they are known, `occlusion` (K,) 0 to 2, `track_ids` (K,), whole numbers from 0 on, without which
            nobody is the same as somebody in another frame, `image`, a file that is copied.
        lidar_to_image: (3, 4) or (4, 4), takes x, y, z, 1 to u w, v w, w; one for all sequences of a root.

    Returns:
        The file of the annotations.

    Raises:
        DataError: arrays of other shapes, values that are not finite, numbers of people that differ, occlusions or
            tracks that are no such numbers, no frames, an image that is not there, or a file that cannot be written, or
            is one that this function did not write.
    """
    root, name = data_path(root), sequence_name(name)
    file = root / 'anno' / f'{name}.json'
    for path in (file, *([root / 'camera.json'] if lidar_to_image is not None else [])):
        check_free(path)
    records = []
    for number, frame in enumerate(frames):
        where = f'{root}, sequence {name}, frame {number}'
        points, boxes = _rows(frame, 'points', (4,), where), _rows(frame, 'boxes', range(7, 100), where)
        seconds = f'{number * INTERVAL:.1f}'
        path = make_folder(root / 'pcd' / name) / f'{seconds}.bin'
        with atomic_path(path, DataError) as part:
            points.astype('<f4').tofile(part)
        counts = points_in_boxes(points, boxes[:, :7])[1].tolist()
        apart = '' if frame.get('track_ids') is not None else f'{number}_'  # ids that no other frame has
        items = [dict(id=f'{apart}{track}', position=dict(zip('xyz', box[:3])), boundingbox=dict(zip('xyz', box[3:6])),
                      rotation=math.remainder(box[6], math.tau), occlusion=level, pointCount=count)
                 for box, count, track, level in zip(
                     boxes.tolist(), counts, _each(frame, 'track_ids', range(len(boxes)), where),
                     _each(frame, 'occlusion', [0] * len(boxes), where, 2))]
        record = dict(frameId=number, frame_name=f'pcd/{name}/{seconds}.bin', items=items)
        if frame.get('image'):
            image = Path(frame['image'])
            place = make_folder(root / 'left' / name) / f'{number}_{seconds}{image.suffix}'
            try:
                shutil.copyfile(image, place)
            except OSError as error:
                raise DataError(f'{where}: {image} cannot be copied to {place} ({error}), expected an image. Give its '
                                'path, or leave it out.') from error
            record['images'] = [dict(image_name=f'left/{name}/{place.name}', items=[])]
        records.append(record)
    if not records:
        raise DataError(f'{root}, sequence {name}: 0 frames, expected at least one. Give frames.')
    if lidar_to_image is not None:
        rows = np.asarray(lidar_to_image, np.float64)[:3]
        _write_json(root / 'camera.json', dict(p=rows.tolist(), r=np.eye(4).tolist(), t=np.eye(4).tolist()))
    return _write_json(file, dict(frames=records))


def _rows(frame: Mapping[str, Any], key: str, widths: Iterable[int], where: str) -> np.ndarray:
    """(N, W) float64 of a frame, of a width that is allowed."""
    try:
        rows = np.asarray(frame[key], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f'{where}: {key} are no array of numbers ({error!r}), expected rows. Give them.') from error
    least = min(widths)
    if rows.size == 0:
        rows = rows.reshape(0, least)
    if rows.ndim != 2 or rows.shape[1] not in widths or not np.isfinite(rows[:, :least]).all():
        raise DataError(f'{where}: {key} of shape {rows.shape}, or not finite, expected rows of {least} finite '
                        'numbers. Correct them.')
    return rows


def _each(frame: Mapping[str, Any], key: str, default: Iterable[int], where: str, most: int = 10 ** 18) -> list[int]:
    """One whole number from 0 to `most` for each person."""
    boxes, given = len(frame['boxes']), frame.get(key)
    found = list(default) if given is None else np.asarray(given, object).reshape(-1).tolist()
    if len(found) != boxes:
        raise DataError(f'{where}: {len(found)} {key} for {boxes} boxes, expected equal numbers. Give one a person.')
    for value in found:
        if not (isinstance(value, Real) and 0 <= value <= most and value % 1 == 0):
            raise DataError(f'{where}: {key} {short(value)}, expected a whole number from 0 to {most:,}. Correct it.')
    return [int(value) for value in found]


def _write_json(path: Path, content: dict) -> Path:
    with result_path(path) as part:
        part.write_text(json.dumps(content))
    return path
