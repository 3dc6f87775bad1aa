"""People of STCrowd's sequences: `anno/<seq>.json`, checked, as arrays."""
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log

from perception.common.formats.text import read_json
from perception.utils.errors import ConfigError, DataError

INTERVAL = 0.4  # s between annotated frames
FAKE = 0.01  # m; a box that is smaller in all directions is the converter's stand-in for none
FARTHEST, SMALLEST, LARGEST = 1000.0, 1e-6, 100.0  # m, of a position and of sizes that can be meant so
PROBED = 200  # 2D boxes that tell whether they are given by their centre or by their corner
_NUMBERS = {int, float}  # bool is none


class Annotations(NamedTuple):
    """What the file of a sequence says: F frames, K people in the LiDAR's lists, M in those of the left image.

    Attributes:
        points: F paths of scans below the root.
        images: F paths of left images, empty where a frame has none.
        rows: (F + 1,) int64, where the people of each frame begin.
        boxes: (K, 9) float32, see BoxSample.
        occlusion: (K,) int64 levels 0..2.
        track_ids: (K,) int64, numbered in order of appearance in the sequence.
        num_points: (K,) int64.
        joint: (K,) int64, row of the same person in the image's list of the frame, -1 where there is none.
        image_rows: (F + 1,) int64, where the image's list of each frame begins.
        image_boxes: (M, 4) float64 as in the file: two places, width and height [pixel].
        hulls: (M, 4) float64 u1, v1, u2, v2 around the projected corners of the 3D box, NaN where they are not given.
    """

    points: list[str]
    images: list[str]
    rows: np.ndarray
    boxes: np.ndarray
    occlusion: np.ndarray
    track_ids: np.ndarray
    num_points: np.ndarray
    joint: np.ndarray
    image_rows: np.ndarray
    image_boxes: np.ndarray
    hulls: np.ndarray


class _Misfit(Exception):
    """A value is not what a field asks for: what came, and what was expected."""


def bare_annotations(points: list[str]) -> Annotations:
    """Those of frames of which nothing but the scans is known."""
    none, numbers = np.zeros((0, 9), np.float32), np.zeros(0, np.int64)
    return Annotations(points, [''] * len(points), None, none, numbers, numbers, numbers, numbers, None,
                       np.zeros((0, 4)), np.zeros((0, 4)))


def read_annotations(path: Path) -> Annotations:
    """Read `anno/<seq>.json`; lists that are absent are empty, ids may be numbers or text.

    Whoever has an id that somebody before in the same frame has is kept as another person, with a warning, since boxes
    can be learned without tracks.

    Raises:
        DataError: something that is no annotation, with file, frame and item.
    """
    record = read_json(path, 'annotations of STCrowd')
    frames = record.get('frames')
    if not isinstance(frames, list):
        raise DataError(f'{path}: frames is {short(frames)}, expected a list. Unpack the annotations again.')
    try:
        total = _whole(record, 'total_number', 10 ** 6) if 'total_number' in record else len(frames)
    except _Misfit as error:
        raise DataError(f'{path}: {error}. Unpack the annotations again.') from error
    if total > len(frames):
        raise DataError(f'{path}: {len(frames):,} frames, expected {total:,}, as its total_number says. The file was '
                        'probably cut; unpack the annotations again.')
    points, images, counts, image_counts = [], [], [], []
    people, image_people, tracks = [], [], {}
    for number, frame in enumerate(frames[:total]):  # as the official converter counts
        where = f'{path}: frame {number}'
        if not isinstance(frame, dict):
            raise DataError(f'{where}: {short(frame)}, expected an object with frame_name and items. Unpack the '
                            'annotations again.')
        points.append(_file(frame, 'frame_name', 'pcd', where))
        image, in_image = _left_image(frame, where)
        images.append(image)
        seen_in_image = _each(in_image, _image_person, f'{where}, left image')
        rows = {entry[0]: row for row, entry in reversed([*enumerate(seen_in_image)]) if entry[0] is not None}
        entries = [entry for entry in _each(_list(frame, 'items', where), _person, where) if max(entry[3][3:6]) > FAKE]
        seen = set()
        for row, (track, joint, whole, box) in enumerate(entries):
            if track in seen:
                print_log(f'{where}, item {row}: id {track!r} again, expected each once in a frame; it is taken as '
                          'another person.', 'current', logging.WARNING)
                track = (track, number, row)
            seen.add(track)
            people.append((number, tracks.setdefault(track, len(tracks)), rows.get(joint, -1), *whole, *box))
        counts.append(len(entries))
        image_counts.append(len(seen_in_image))
        image_people += [entry[1] for entry in seen_in_image]
    table = np.array(people, np.float64).reshape(-1, 12)
    number, track, joint, occlusion, num_points = table[:, :5].astype(np.int64).T
    on_image = np.array(image_people, np.float64).reshape(-1, 8)
    late = np.diff([seconds_of(path) for path in points], prepend=np.nan) > 1.5 * INTERVAL
    boxes = np.concatenate([table[:, 5:], _velocities(number, track, table[:, 5:7], late)], axis=1).astype(np.float32)
    return Annotations(points, images, _starts(counts), boxes, occlusion, track, num_points, joint,
                       _starts(image_counts), on_image[:, :4], on_image[:, 4:])


def _velocities(frame: np.ndarray, track: np.ndarray, xy: np.ndarray, late: np.ndarray) -> np.ndarray:
    """(K, 2) m/s since the frame before, NaN where a track is not in it or the frame (F,) is late: one is missing."""
    result = np.full((len(frame), 2), np.nan)
    order = np.lexsort((frame, track))
    before, after = order[:-1], order[1:]
    follows = (track[before] == track[after]) & (frame[before] + 1 == frame[after]) & ~late[frame[after]]
    result[after[follows]] = (xy[after[follows]] - xy[before[follows]]) / INTERVAL
    return result


def _starts(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def _each(items: list, read: Callable[[dict], tuple], where: str) -> list[tuple]:
    """What is read of each item of a list."""
    found = []
    for number, item in enumerate(items):
        try:
            if not isinstance(item, dict):
                raise _Misfit(f'{short(item)}, expected an object that describes a person')
            found.append(read(item))
        except _Misfit as error:
            raise DataError(f'{where}, item {number}: {error}. Correct it, or unpack the annotations again.') from error
    return found


def _person(item: dict) -> tuple:
    """Track and joint id, occlusion and number of points, and the box of an item of the LiDAR's list."""
    category = item.get('category', 'person')
    if category != 'person':
        raise _Misfit(f"category {short(category)}, expected 'person'")
    turned = item.get('rotation')
    turned = _numbers(turned, 'rotation', 'z') if isinstance(turned, dict) else _numbers(item, 'rotation', ['rotation'])
    box = (*_numbers(item.get('position'), 'position', 'xyz'),
           *_numbers(item.get('boundingbox'), 'boundingbox', 'xyz', SMALLEST, LARGEST), *turned)
    return _id(item, 'id'), _joint(item), (_whole(item, 'occlusion', 2), _whole(item, 'pointCount', 10 ** 8)), box


def _image_person(item: dict) -> tuple:
    """Joint id, and the box with the hull of the projected corners, of an item of the image's list."""
    place, size = _numbers(item.get('boundingbox'), 'boundingbox', 'xy', -1e5, 1e5), \
        _numbers(item.get('dimension'), 'dimension', 'xy', 0, 1e5)
    corners = item.get('points')
    if corners is None or corners == []:
        return _joint(item), (*place, *size, *[np.nan] * 4)
    try:
        uv = [corner[axis] for axis in 'xy' for corner in corners]
    except (TypeError, KeyError, IndexError):
        uv = []
    if len(uv) != 16 or not _between(uv, -1e7, 1e7):
        raise _Misfit(f'points {short(corners)}, expected 8 corners with numbers x, y between -1e+07 and 1e+07')
    return _joint(item), (*place, *size, min(uv[:8]), min(uv[8:]), max(uv[:8]), max(uv[8:]))


def _numbers(values: Any, name: str, keys: Sequence[str], low: float = -FARTHEST, high: float = FARTHEST) -> list:
    """Values of an object, once it is sure that they are numbers between two others."""
    found = [values.get(key) for key in keys] if isinstance(values, dict) else [values]
    if len(found) != len(keys) or not _between(found, low, high):
        came = short(values if len(keys) > 1 and not isinstance(values, dict) else found)
        raise _Misfit(f'{name} {came}, expected {len(keys)} number{"s" * (len(keys) > 1)} ({", ".join(keys)}) between '
                      f'{low:g} and {high:g}')
    return found


def _between(values: list, low: float, high: float) -> bool:
    """Whether all are numbers from one to another; NaN is not."""
    return _NUMBERS.issuperset(map(type, values)) and all(low <= value <= high for value in values)


def _whole(item: dict, name: str, most: int) -> int:
    """A whole number from 0 on, which the files may hold as text."""
    value = item.get(name)
    if type(value) is str and value.isdecimal() and len(value) < 10 or type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= most:
        raise _Misfit(f'{name} {short(item.get(name))}, expected a whole number from 0 to {most:,}')
    return value


def _id(item: dict, name: str) -> str:
    """An id, which the files hold as a number or as text."""
    value = item.get(name)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) not in (int, str) or value == '' or abs(value if type(value) is int else 0) > 10 ** 18:
        raise _Misfit(f'{name} {short(item.get(name))}, expected a number or a text')
    return str(value)


def _joint(item: dict) -> str | None:
    """The id that is the same for a person in both lists; None where it is not given."""
    return None if item.get('number') is None else _id(item, 'number')


def _list(record: dict, name: str, where: str) -> list:
    """A list of a record, empty where it is absent.

    Raises:
        DataError: it is something else.
    """
    found = record.get(name)
    if not isinstance(found, (list, type(None))):
        raise DataError(f'{where}: {name} is {short(found)}, expected a list. Unpack the annotations again.')
    return found or []


def _left_image(frame: dict, where: str) -> tuple[str, list]:
    """Path and people of the left image of a frame; empty where it has none. The right one's `class` says left too."""
    for number, image in enumerate(_list(frame, 'images', where)):
        if not isinstance(image, dict):
            raise DataError(f'{where}, image {number}: {short(image)}, expected an object with image_name and items. '
                            'Unpack the annotations again.')
        name = image.get('image_name')
        if not isinstance(name, str) or 'right' not in name.replace('\\', '/').split('/')[:-1]:
            inner = f'{where}, image {number}'
            return _file(image, 'image_name', 'left', inner), _list(image, 'items', inner)
    return '', []


def _file(record: dict, key: str, folder: str, where: str) -> str:
    """Path of a file below the root, of which the files hold some folders before, too.

    Raises:
        DataError: there is none, or it leads out of the folder.
    """
    name = record.get(key)
    parts = name.replace('\\', '/').split('/') if isinstance(name, str) and name.isprintable() else []
    own = parts[len(parts) - 1 - parts[::-1].index(folder):] if folder in parts else []
    if len(own) < 2 or '' in own or '..' in own or len(name) > 1000:
        raise DataError(f'{where}: {key} {short(name)}, expected the path of a file in {folder}/. Unpack the '
                        'annotations again.')
    return '/'.join(own)


def sequence_name(name: Any) -> str:
    """Name of a sequence, a number or a text.

    Raises:
        ConfigError: it is something else.
    """
    good = type(name) in (int, str) and str(name).isprintable() and str(name).strip('.') and '/' not in str(name) \
        and '_' not in str(name) and len(str(name)) < 100
    if not good:
        raise ConfigError(f'sequence {short(name)}, expected a number or the name of a file in anno, without _. '
                          'Correct it.')
    return str(name)


def seconds_of(path: str) -> float:
    """The time in the name of a scan, NaN where there is none; whole numbers count scans, not seconds."""
    name = path.rpartition('/')[2].removesuffix('.bin')
    try:
        return float(name) if '.' in name else float('nan')
    except ValueError:
        return float('nan')


def short(value: Any) -> str:
    """A value for a message."""
    if isinstance(value, (dict, list)) and not all(isinstance(v, (int, float, str, type(None))) for v in
                                                   (value.values() if isinstance(value, dict) else value)):
        return f'a {type(value).__name__} of {len(value):,}'
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else 'a huge number'
    return text if len(text) <= 80 else f'{text[:80]}...'


# --- 2D boxes --------------------------------------------------------------------------------------------------------
def given_by_centre(boxes: np.ndarray, hulls: np.ndarray) -> tuple[bool, float, float]:
    """Whether the 2D boxes of a data set are given by their centre rather than by their upper left corner.

    No document says so; each is compared with the hull of the projected corners of the same person's 3D box.

    Args:
        boxes: (M, 4) two places, width and height [pixel].
        hulls: (M, 4) u1, v1, u2, v2, NaN where unknown.

    Returns:
        whether by the centre, also where nothing tells, and the mean IoU of both readings over at most 200 boxes, NaN
        where there are none.
    """
    known = np.flatnonzero(np.isfinite(hulls).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1))
    chosen = known[np.linspace(0, len(known) - 1, min(len(known), PROBED)).astype(np.int64)]
    if not len(chosen):
        return True, float('nan'), float('nan')
    place, size, hull = boxes[chosen, :2], boxes[chosen, 2:], hulls[chosen]
    overlaps = []
    for start in (place - size / 2, place):
        common = np.minimum(start + size, hull[:, 2:]) - np.maximum(start, hull[:, :2])
        common = common.clip(0).prod(axis=1)
        union = size.prod(axis=1) + (hull[:, 2:] - hull[:, :2]).prod(axis=1) - common
        overlaps.append(float((common / union).mean()))
    return overlaps[0] >= overlaps[1], *overlaps
