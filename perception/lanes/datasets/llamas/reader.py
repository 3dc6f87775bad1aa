"""LLAMAS: Unsupervised Labeled Lane Markers Using Maps (ICCV Workshops 2019).

Karsten Behrendt, Ryan Soussan.

The official folders are read as they are unpacked:

    <data_root>/color_images/{train,valid,test}/<recording>/<stamp>_color_rect.png      1276 x 717
    <data_root>/labels/{train,valid}/<recording>/<stamp>.json

A label file holds the markers (dashes) of each lane, in pixels and in metres. They become lanes as the official
scripts make them: short lanes are dropped, the others are named l0, l1, ... and r0, r1, ... from the own lane outwards,
the nearest marker is extended to the bottom of the image, and every row between gets its x.
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from perception.common.formats.text import read_json
from perception.lanes.datasets.base import RoadImages, Truth, check_files, missing_root
from perception.lanes.polylines import LIMIT, draw_lanes
from perception.registry import DATASETS
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import walk

DOWNLOAD = 'https://unsupervised-llamas.com'
LAYOUT = 'color_images/valid/<recording>/<stamp>_color_rect.png, labels/valid/<recording>/<stamp>.json'
SIZE = (717, 1276)
SLOTS = ('l1', 'l0', 'r0', 'r1')
FOLDERS = dict(train='train', val='valid', test='test')
TARGETS = ('lanes', 'markers')
SUFFIX = '_color_rect.png'
MIN_HEIGHT = 20  # rows between the first and the last marker's start
MARKER_WIDTH = 0.1  # m
OTHER = "It is no label file of LLAMAS; correct it, or take the official one."
MAX_PIXEL = 1e5
# BGR of the official drawing; how edges are blended, and so which pixels count, depends on them
COLORS = dict(l6=(75, 25, 230), l5=(75, 180, 60), l4=(200, 130, 0), l3=(48, 130, 245), l2=(180, 30, 145),
              l1=(0, 0, 255), l0=(24, 140, 34), r0=(255, 0, 0), r1=(0, 255, 255), r2=(40, 110, 170),
              r3=(200, 250, 255), r4=(255, 190, 230), r5=(0, 0, 128), r6=(195, 255, 170), r7=(0, 128, 128))


class Markers(NamedTuple):
    """The markers of a lane, M of them.

    Attributes:
        start: (M, 2) int64 pixels u, v of the near ends.
        end: (M, 2) int64 pixels of the far ends.
        world_start: (M, 3) float64 x right, y down, z forward [m].
        world_end: (M, 3) float64.
    """

    start: np.ndarray
    end: np.ndarray
    world_start: np.ndarray
    world_end: np.ndarray


class Label(NamedTuple):
    """A cleaned label file.

    Attributes:
        lanes: name (l0, l1, ..., r0, ...) -> its markers.
        projection: (3, 3) from metres to pixels.
    """

    lanes: dict[str, Markers]
    projection: np.ndarray


@DATASETS.register_module()
class LLAMAS(RoadImages):
    """LLAMAS in its official layout; see `RoadImages` for the other arguments.

    Train and val have `labels` (0..4), `exist` (4,) and `lanes`: l1, l0, r0, r1, each with a point for every row where
    it has one, (0, 2) where it does not exist. Val has `full_labels`, the markers as the official segmentation task
    scores them. `sample_id` is `<recording>/<stamp>`, as in submissions.

    Args:
        target: what `labels` show: 'lanes', whole lines, or 'markers', the dashes of the official segmentation task.
        thickness: of whole lines in pixels of the original image.
    """

    METAINFO = dict(classes=('background', *SLOTS),
                    palette=((0, 0, 0), (255, 140, 0), (255, 60, 60), (60, 190, 75), (60, 120, 255)))
    IMAGE_SIZE = SIZE
    HORIZON = 300
    OFFICIAL_SIZES = dict(train=58269, val=20844, test=20929)

    def __init__(self, data_root: str | Path = 'data/llamas', split: str = 'train',
                 pipeline: Sequence[dict | Callable] = (), input_size: Sequence[int] | None = None, crop_top: int = 0,
                 seed: int = 0, target: str = 'lanes', thickness: int = 16) -> None:
        if target not in TARGETS:
            raise ConfigError(f'LLAMAS: target={target!r}, expected one of {", ".join(TARGETS)}. '
                              f'{close_matches(target, TARGETS)}')
        self.target, self.thickness = target, thickness
        super().__init__(data_root, split, pipeline, input_size, crop_top, seed)

    def list_samples(self) -> list[tuple]:
        folder = FOLDERS[self.split]
        images, labels = self.data_root / 'color_images' / folder, self.data_root / 'labels' / folder
        listed = images if self.split == 'test' else labels
        if not listed.is_dir():
            raise missing_root(listed, self.data_root, 'LLAMAS', LAYOUT, DOWNLOAD)
        suffix = SUFFIX if self.split == 'test' else '.json'
        paths = [path for path in walk(listed, suffix) if path.parent.parent == listed and path.name.endswith(suffix)]
        if not paths:
            raise missing_root(listed / f'*/*{suffix}', self.data_root, 'LLAMAS', LAYOUT, DOWNLOAD)
        names = [f'{path.parent.name}/{path.name[:-len(suffix)]}' for path in paths]
        entries = [(name, str(images / f'{name}{SUFFIX}'), str(labels / f'{name}.json')) for name in names]
        check_files([entry[1] for entry in entries], listed)
        return entries

    def read_truth(self, entry: Sequence, size: tuple[int, int]) -> tuple[Truth, dict]:
        if self.split == 'test':
            return Truth(), {}
        label = read_label(entry[2])
        columns = lane_columns(label)
        lanes = [_points(values) for values in columns]
        exist = (columns >= 0).any(axis=1).astype(np.float32)
        markers = draw_markers(label) if self.target == 'markers' or self.split == 'val' else None
        labels = markers
        if self.target == 'lanes':
            labels = draw_lanes(lanes, range(1, len(SLOTS) + 1), SIZE, self.thickness)
        if tuple(size) != SIZE:
            raise DataError(f'{entry[1]}: {size[0]} x {size[1]} pixels, expected {SIZE[0]} x {SIZE[1]}, to which the '
                            'labels belong. Scale the images, but keep their shape.')
        return Truth(labels, exist, lanes, markers if self.split == 'val' else None), {}


def _points(columns: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(columns >= 0)[::-1]
    return np.stack([columns[rows], rows.astype(np.float64)], axis=1)


def read_label(path: str | Path) -> Label:
    """Read and clean a label file as the official scripts do.

    Lanes whose markers start within fewer than 20 rows or that have one marker are dropped; on each side the lane with
    the smallest name becomes number 0 and so on.

    Raises:
        DataError: no such file, no JSON, or fields that are missing or no numbers.
    """
    record = read_json(path, what='a label of LLAMAS')
    projection = _array([record.get('projection_matrix')], (1, 3, 3), 'projection_matrix', path)[0]
    entries = record.get('lanes')
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f'{path}: lanes {str(entries)[:60]}, expected a list of objects. {OTHER}')
    kept = []
    for i, entry in enumerate(entries):
        name, where = entry.get('lane_id'), f'{path}: lanes[{i}]'
        if not isinstance(name, str) or name[:1] not in ('l', 'r'):
            raise DataError(f'{where}: lane_id {name!r}, expected l0, l1, ... or r0, r1, .... {OTHER}')
        markers = _markers(entry.get('markers'), where)
        if len(markers.start) > 1 and np.ptp(markers.start[:, 1]) >= MIN_HEIGHT:
            kept.append((name, markers))
    names = sorted({name for name, _ in kept})
    number = {name: f'{name[0]}{[other for other in names if other[0] == name[0]].index(name)}' for name in names}
    return Label({number[name]: markers for name, markers in kept}, projection)


def _markers(entries: object, where: str) -> Markers:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f'{where}: markers {str(entries)[:60]}, expected a list of objects. {OTHER}')

    def field(name: str, axes: str) -> np.ndarray:
        values = [entry.get(name) for entry in entries]
        if not all(isinstance(value, dict) for value in values):
            raise DataError(f'{where}: a marker without {name}, expected {{{", ".join(axes)}}}. {OTHER}')
        return _array([[value.get(axis) for axis in axes] for value in values], (len(entries), len(axes)), name, where)

    start, end = (np.trunc(field(name, 'xy')).astype(np.int64) for name in ('pixel_start', 'pixel_end'))
    return Markers(start, end, field('world_start', 'xyz'), field('world_end', 'xyz'))


def _array(values: list, shape: tuple[int, ...], name: str, where: str | Path) -> np.ndarray:
    try:
        array = np.array(values).astype(np.float64) if values else np.zeros(shape)
    except (TypeError, ValueError, OverflowError):
        array = np.array([np.nan])
    if array.shape != shape or not (np.abs(array) < MAX_PIXEL).all():
        raise DataError(f'{where}: {name} {str(values)[:80]}, expected finite numbers of shape {shape[1:]}. '
                        f'{OTHER}')
    return array


def lane_columns(label: Label) -> np.ndarray:
    """Columns of the four lanes l1, l0, r0, r1 in each row, as the official regression task has them.

    Returns:
        (4, 717) float64 pixels, -1 where a lane has none.
    """
    columns = np.full((len(SLOTS), SIZE[0]), -1.0)
    for slot, name in enumerate(SLOTS):
        if name in label.lanes:
            columns[slot] = _columns(label.lanes[name])
    return columns


def _columns(markers: Markers) -> np.ndarray:
    starts, ends = _extended(markers)
    rows, values = [starts[:, 1]], [starts[:, 0].astype(np.float64)]
    for (u, v), (end_u, end_v) in zip(starts, ends):
        height = v - end_v
        if height > 2:  # its start row counts twice, as in the official script
            steps = np.arange(height + 1)
            rows.append(v - steps)
            values.append(np.rint(u + (end_u - u) / height * steps))
    rows, values = np.concatenate(rows), np.concatenate(values)
    inside = (rows >= 0) & (rows < SIZE[0])
    counts = np.bincount(rows[inside], minlength=SIZE[0])
    sums = np.bincount(rows[inside], values[inside], minlength=SIZE[0])
    filled = np.flatnonzero(counts)
    result = np.full(SIZE[0], -1.0)
    result[filled] = sums[filled] / counts[filled]
    for row, after in zip(filled.tolist(), filled[1:].tolist()):  # step by step, to round as the official script does
        u, target = float(result[row]), float(result[after])
        for between in range(row + 1, after):
            u += (target - u) / (after - between + 1)
            result[between] = u
    return result


def _extended(markers: Markers) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (M or M + 1, 2) with the nearest marker prolonged to the lower border of the image."""
    slanted = np.flatnonzero((markers.start != markers.end).all(axis=1))
    if not len(slanted):
        return markers.start, markers.end
    nearest = slanted[markers.world_start[slanted, 2].argmin()]
    if markers.world_start[nearest, 2] < 0:
        return markers.start, markers.end
    (u, v), (du, dv) = markers.start[nearest], markers.end[nearest] - markers.start[nearest]
    height, width = SIZE
    bottom_u, bottom_v = u + (height - 1 - v) * (du / dv), height - 1
    if not 0 <= bottom_u <= width:
        bottom_u = 0 if bottom_u < 0 else width
        bottom_v = v + (bottom_u - u) * (dv / du)
    start = np.rint([[bottom_u, bottom_v]]).astype(np.int64)
    return np.concatenate([start, markers.start]), np.concatenate([markers.start[nearest:nearest + 1], markers.end])


def draw_markers(label: Label) -> np.ndarray:
    """Label image of the markers, as the official segmentation task scores them.

    Returns:
        (717, 1276) uint8, 0 = background, 1..4 = l1, l0, r0, r1; pixels that a marker covers in part are background.
    """
    image = np.zeros((*SIZE, 3), np.uint8)
    for name, markers in label.lanes.items():
        color = COLORS.get(name, COLORS['r7'])
        for polygon in _polygons(markers, label.projection):
            for _ in range(2):  # twice, as the official script draws
                cv2.fillConvexPoly(image, polygon, color, cv2.LINE_AA, 0)
    result = np.zeros(SIZE, np.uint8)
    for slot, name in enumerate(SLOTS):
        result[(image == COLORS[name]).all(axis=2)] = slot + 1
    return result


def _polygons(markers: Markers, projection: np.ndarray) -> list[np.ndarray]:
    """(4, 2) int32 corners of each marker that is more than one row high."""
    corners = []
    for world in (markers.world_start, markers.world_end):
        with np.errstate(divide='ignore', invalid='ignore'):
            pixels = world @ projection.T
            pixels = pixels[:, :2] / pixels[:, 2:]
            half = projection[0, 0] * MARKER_WIDTH / world[:, 2] / 2
            corners.append(np.stack([pixels[:, 0] - half, pixels[:, 1], pixels[:, 0] + half, pixels[:, 1]], axis=1))
    near, far = corners
    polygons = np.concatenate([near, far[:, 2:], far[:, :2]], axis=1).astype(np.float32).reshape(-1, 4, 2)
    ahead = np.isfinite(polygons).all(axis=(1, 2)) & (markers.world_start[:, 2] > 0) & (markers.world_end[:, 2] > 0)
    polygons = np.rint(np.clip(polygons[ahead], -LIMIT, LIMIT)).astype(np.int32)
    return [polygon for polygon in polygons if polygon[0, 1] != polygon[3, 1]]
