"""What labelling tools save of lanes: labelme's file beside an image, CVAT's file of all images.

Both hold shapes, each with a label: lines are lanes as they are, of polygons around lanes the middle counts.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import cv2
import numpy as np

from perception.common.formats.text import read_json, read_text
from perception.lanes.datasets.base import same_shape
from perception.lanes.polylines import LIMIT
from perception.utils.errors import DataError

POINTS = 60  # of a lane that is taken from pixels, at most
LINES, POLYGON = ('linestrip', 'line', 'polyline'), 'polygon'  # of labelme and of CVAT


class Shape(NamedTuple):
    """A shape of a drawing: where it stands, its label, what it is, and its points as they were read."""

    where: str
    label: object
    kind: object
    points: object


class Drawing(NamedTuple):
    """What somebody drew on an image of (rows, columns) pixels, either None where the file does not tell it."""

    where: str
    size: tuple[object, object]
    shapes: list[Shape]


def read_labelme(path: str | Path) -> Drawing:
    """A file of labelme: `shapes`, each with `label`, `points` and `shape_type`, `imageHeight` and `imageWidth`.

    Raises:
        DataError: it is none.
    """
    record = read_json(path, 'a file of labelme')
    found = record.get('shapes')
    if not isinstance(found, list) or not all(isinstance(shape, dict) for shape in found):
        raise DataError(f'{path}: shapes {str(found)[:60]}, expected the list of labelme. Save it by labelme, or name '
                        'the labels by another pattern.')
    return Drawing(str(path), (record.get('imageHeight'), record.get('imageWidth')), [
        Shape(f'{path}: shapes[{number}]', shape.get('label'), shape.get('shape_type', POLYGON), shape.get('points'))
        for number, shape in enumerate(found)])


def read_cvat(path: str | Path) -> dict[str, Drawing]:
    """Name of an image -> what was drawn on it, of CVAT's `annotations.xml`, exported as `CVAT for images 1.1`.

    Raises:
        DataError: it is none, or holds an image twice.
    """
    text = read_text(path, 'annotations of CVAT')
    try:
        if '<!DOCTYPE' in text:  # CVAT writes none, and what it may define can be endless
            raise ElementTree.ParseError('a DOCTYPE')
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f'{path}: no valid XML ({error}), expected annotations of CVAT. Export them again.') from error
    images, found = root.findall('image'), {}
    if root.tag != 'annotations' or not images:
        came = 'tracks of a video' if root.find('track') is not None else f'<{root.tag}> without <image>'
        raise DataError(f'{path}: {came[:60]}, expected annotations of CVAT for each image. Export the task as "CVAT '
                        'for images 1.1".')
    for image in images:
        name = image.get('name') or ''
        where = f'{path}, {name}'
        if not name or name in found:
            raise DataError(f'{where}: {"a second" if name else "an"} <image> {"of" if name else "without"} this name, '
                            'expected each image once. Export the annotations again.')
        size = tuple(int(text) if (text := image.get(key) or '').isdecimal() else text for key in ('height', 'width'))
        found[name] = Drawing(where, size, [
            Shape(f'{where}, {shape.tag} {number}', shape.get('label'), shape.tag,
                  [pair.split(',') for pair in (shape.get('points') or '').split(';')])
            for number, shape in enumerate(image, 1) if shape.tag != 'tag'])
    return found


def of_files(drawings: Mapping[str, Drawing], names: Sequence[str], where: str | Path) -> list[Drawing | None]:
    """The drawing of each image, None where nothing was drawn on it.

    CVAT calls an image by its path or the end of it, a frame of a video also without the ending of its file.

    Args:
        drawings: see `read_cvat`.
        names: paths of the images below their common folder.
        where: the file, for messages.

    Raises:
        DataError: two images that one drawing may be of.
    """
    result, owner = [], {}
    for name in names:
        ends = [name.split('/', k)[-1] for k in range(name.count('/') + 1)]
        key = next((key for end in ends for key in (end, end.rpartition('.')[0]) if key in drawings), None)
        if key is not None and owner.setdefault(key, name) != name:
            raise DataError(f'{where}: {key} may be {owner[key]} or {name}, expected one image of each name. Name one '
                            'of both by another `images` or `data_root`, or rename it.')
        result.append(drawings[key] if key is not None and drawings[key].shapes else None)
    return result


def lanes_of(drawing: Drawing, size: Sequence[int], labels: Sequence[str] | None = None) -> list[np.ndarray]:
    """The lanes of a drawing.

    Args:
        drawing: of an image.
        size: (rows, columns) of the pixels that are asked for.
        labels: of the shapes that are lanes; all by default.

    Returns:
        (P, 2) float64 lanes: points of lines, the middle of polygons.

    Raises:
        DataError: it is of another image, or a shape is no lane.
    """
    own, lanes = tuple(size) if None in drawing.size else drawing.size, []
    if not all(type(n) is int and n > 0 for n in own) or own != tuple(size) and not same_shape(own, size):
        raise DataError(f'{drawing.where}: made on an image of {own[0]} x {own[1]} pixels, expected {size[0]} x '
                        f'{size[1]}. It belongs to another image, or that was cut or turned.')
    scale = np.array([size[1] / own[1], size[0] / own[0]])
    for where, label, kind, given in drawing.shapes:
        if labels is not None and label not in labels:
            continue
        if kind not in (*LINES, POLYGON):
            raise DataError(f'{where}: {str(label)[:40]!r} is a {str(kind)[:40]}, expected a line of points or a '
                            'polygon. Draw lanes as line strips (polylines), or name the labels that are lanes by '
                            'shapes.')
        try:
            points = np.array(given, np.float64).reshape(-1, 2)
        except (TypeError, ValueError, OverflowError):
            points = np.array([[np.nan, 0]])
        if not (np.abs(points) < 1e6).all():
            raise DataError(f'{where}: points {str(given)[:60]}, expected [u, v] pixels. Correct them.')
        points = points * scale
        if kind == POLYGON:
            mask = np.zeros(size, np.uint8)
            cv2.fillPoly(mask, [np.rint(np.clip(points, -LIMIT, LIMIT)).astype(np.int32)], 1)
            points = middle(mask > 0)
        lanes.append(points)
    return lanes


def middle(mask: np.ndarray) -> np.ndarray:
    """The middle of the pixels of a lane in each of some rows.

    Args:
        mask: (H, W) bool.

    Returns:
        (P, 2) float64 u, v, bottom to top, `POINTS` about at most.
    """
    counts = mask.sum(axis=1)
    rows = np.flatnonzero(counts)[::-1]
    if len(rows) > POINTS:
        rows = np.append(rows[::-(-len(rows) // POINTS)], rows[-1])
        rows = rows[np.append(True, np.diff(rows) < 0)]
    return np.stack([mask[rows] @ np.arange(mask.shape[1]) / counts[rows], rows], axis=1).astype(np.float64)
