"""The map expansion of nuScenes: its layers as shapes, and masks of patches of them, pixel for pixel the kit's.

    <data_root>/maps/expansion/<location>.json    version 1.3 or later

Maps have no heights: x and y are those of the world. A mask's rows go with +y and its columns with +x of the patch, so
that it is a BEV tensor (M, Y, X) as it is.
"""
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import cv2
import numpy as np

from perception.common.nuscenes.tables import DOWNLOAD
from perception.utils.checks import check_choice
from perception.utils.errors import DataError
from perception.utils.optional import import_optional

LOCATIONS = ('singapore-onenorth', 'singapore-hollandvillage', 'singapore-queenstown', 'boston-seaport')
POLYGONS = ('drivable_area', 'road_segment', 'road_block', 'lane', 'ped_crossing', 'walkway', 'stop_line',
            'carpark_area')
LINES = ('road_divider', 'lane_divider')
OLDEST = '1.3'        # the development kit's too
THICKNESS = 2         # pixels of lines in the kit's masks


def import_shapely() -> ModuleType:
    """shapely, which cuts shapes.

    Raises:
        MissingDependency: it is not installed.
    """
    return import_optional('shapely', 'cutting the shapes of maps', 'pip install "shapely>=2"')


class Layer(NamedTuple):
    """The shapes of a layer.

    Attributes:
        shapes: (K,) shapely's polygons or lines, in the order of the file.
        valid: (K,) bool, whether their outlines do not cross themselves.
        tree: shapely's STRtree over them.
    """
    shapes: np.ndarray
    valid: np.ndarray
    tree: Any

    def near(self, area: Any) -> np.ndarray:
        """The shapes whose bounds meet those of a polygon of shapely's, in the order of the file."""
        return self.shapes[np.sort(self.tree.query(area))]

    def cut(self, area: Any) -> np.ndarray:
        """What of the valid shapes lies in a polygon of shapely's, in the order of the file."""
        rows = np.sort(self.tree.query(area))
        return import_shapely().intersection(self.shapes[rows[self.valid[rows]]], area)


class NuScenesMapData(NamedTuple):
    """The map of a location.

    Attributes:
        location: such as `'boston-seaport'`.
        size: width and height [m].
        layers: `POLYGONS` and `LINES` by their names.
    """
    location: str
    size: tuple[float, float]
    layers: dict[str, Layer]


def read_map(data_root: str | Path, location: str) -> NuScenesMapData:
    """Reads the map of a location; it is kept, as several data sets ask for the same one.

    Args:
        data_root: folder that holds `maps/expansion`.
        location: one of `LOCATIONS`, see `KeyFrame.location`.

    Raises:
        ConfigError: an unknown location.
        DataError: the file is missing, damaged or of an old version.
        MissingDependency: shapely, which cuts shapes, is not installed.
    """
    check_choice('read_map: location', location, LOCATIONS)
    path = Path(data_root) / 'maps' / 'expansion' / f'{location}.json'
    if not path.is_file():
        raise DataError(f'{path}: no such file, expected the map of {location}. Download the map expansion, version '
                        f'{OLDEST}, from {DOWNLOAD} and unpack it into {path.parents[1]}.')
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> NuScenesMapData:
    try:
        found = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f'{path}: not readable ({str(error)[:100]}), expected the JSON of a map. Unpack the map '
                        f'expansion again.') from error
    version = str(found.get('version', '1.0')) if isinstance(found, dict) else 'none'
    if not _at_least(version, OLDEST):
        raise DataError(f'{path}: version {version[:20]} of the map expansion, expected {OLDEST} or later. Download it '
                        f'from {DOWNLOAD}.')
    return _Parser(path, found).map()


def _at_least(version: str, oldest: str) -> bool:
    parts = version.split('.')
    return all(part.isdigit() for part in parts) and [*map(int, parts)] >= [*map(int, oldest.split('.'))]


class _Parser:
    """Makes shapes of a map's records.

    Args:
        path: of the file, for messages.
        found: what is in it.
    """

    def __init__(self, path: Path, found: dict) -> None:
        self.path, self.found = path, found
        self.shapely = import_shapely()
        nodes = self.records('node')
        self.node_rows = {node['token']: row for row, node in enumerate(nodes)}
        try:
            self.places = np.array([(node['x'], node['y']) for node in nodes], np.float64).reshape(-1, 2)
        except (KeyError, TypeError, ValueError) as error:
            self.fail('node', f'a node without numbers x and y ({str(error)[:60]})', error)
        if not np.isfinite(self.places).all():
            self.fail('node', 'a place that is not finite')

    def fail(self, layer: str, what: str, cause: Exception | None = None) -> NoReturn:
        """Raise a DataError about a layer."""
        raise DataError(f'{self.path}: {what} in {layer}, expected records as in version {OLDEST} of the map '
                        'expansion. Unpack it again.') from cause

    def records(self, layer: str) -> list[dict]:
        """The records of a layer, which have a token each."""
        rows = self.found.get(layer)
        if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get('token'), str)
                                                 for row in rows):
            self.fail(layer, 'no list of records with a token each')
        return rows

    def map(self) -> NuScenesMapData:
        """The whole map."""
        edge = self.found.get('canvas_edge')
        if not isinstance(edge, list) or len(edge) != 2 or not all(isinstance(v, (int, float)) for v in edge):
            self.fail('canvas_edge', f'{str(edge)[:40]}')
        try:
            shapes = self.polygon_layers() | self.line_layers()
        except (KeyError, TypeError, AttributeError) as error:
            self.fail('its layers', f'a record that names {str(error)[:60]}, which is not there', error)
        layers = {name: Layer(some, self.shapely.is_valid(some), self.shapely.STRtree(some))
                  for name, some in shapes.items()}
        return NuScenesMapData(self.path.stem, tuple(map(float, edge)), layers)

    def polygon_layers(self) -> dict[str, np.ndarray]:
        """Polygons of each layer; invalid ones of drivable areas, which the kit does not look at, are mended."""
        rows = self.records('polygon')
        row_of = {row['token']: number for number, row in enumerate(rows)}
        rings, owners = [], []
        for number, row in enumerate(rows):
            holes = (hole['node_tokens'] for hole in row['holes'])
            for tokens in (row['exterior_node_tokens'], *holes):
                if len(tokens) >= 3:
                    rings.append([self.node_rows[token] for token in tokens])
                    owners.append(number)
                elif tokens is row['exterior_node_tokens']:
                    self.fail('polygon', f'a polygon of {len(tokens)} nodes')
        found = self.shapely.polygons(self.joined(rings, self.shapely.linearrings), indices=owners) if rings else \
            np.zeros(0, object)
        layers = {}
        for layer in POLYGONS:
            tokens = [token for record in self.records(layer) for token in (
                record['polygon_tokens'] if layer == 'drivable_area' else [record['polygon_token']])]
            shapes = found[np.array([row_of[token] for token in tokens], np.int64)]
            if layer == 'drivable_area':
                shapes = np.where(self.shapely.is_valid(shapes), shapes, self.shapely.make_valid(shapes))
            layers[layer] = shapes
        return layers

    def line_layers(self) -> dict[str, np.ndarray]:
        """Lines of each layer; some of the official ones have no nodes and are left out."""
        lines = {row['token']: row['node_tokens'] for row in self.records('line')}
        layers = {}
        for layer in LINES:
            nodes = [lines[record['line_token']] for record in self.records(layer)]
            rows = [[self.node_rows[token] for token in tokens] for tokens in nodes if len(tokens) > 1]
            layers[layer] = self.joined(rows, self.shapely.linestrings)
        return layers

    def joined(self, rows: list[list[int]], make: Any) -> np.ndarray:
        """Shapes (K,) through nodes."""
        if not rows:
            return np.zeros(0, object)
        owner = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        return make(self.places[np.concatenate(rows)], indices=owner)


def rasterise(data: NuScenesMapData, layers: Sequence[str], pose: tuple[float, float, float],
              area: tuple[float, float], shape: tuple[int, int], thickness: int = THICKNESS,
              fine: int = 1) -> np.ndarray:
    """Masks of a patch of the map, see `map_mask`: by default the kit's, which are half a pixel too large all around.

    Args:
        data: the map.
        layers: names of `POLYGONS` and `LINES`, one mask each.
        pose: x, y [m] of the patch's middle and the angle [rad] from the world's x axis to its own.
        area: height and width of the patch [m], along its y and x.
        shape: rows and columns of the masks.
        thickness: pixels of lines.
        fine: with more than 1 each cell is drawn as so many by so many pixels, and set where most of them are.

    Returns:
        (M, Y, X) uint8 of 0 and 1.

    Raises:
        ConfigError: an unknown layer.
    """
    x, y, yaw = pose
    rows, columns = shape
    masks = map_mask(data, (x, y, *area), math.degrees(yaw), layers, (rows * fine, columns * fine), thickness)
    if fine == 1:
        return masks
    count = masks.reshape(len(layers), rows, fine, columns, fine).sum((2, 4), dtype=np.int32)
    return (2 * count > fine * fine).astype(np.uint8)


def map_mask(data: NuScenesMapData, patch_box: tuple[float, float, float, float], patch_angle: float,
             layer_names: Sequence[str], canvas_size: tuple[int, int], thickness: int = THICKNESS) -> np.ndarray:
    """What the kit's `NuScenesMap.get_map_mask` gives, to the pixel; lines that the patch cuts in pieces are drawn too.

    Corners of polygons are rounded to pixels, those of lines cut off to whole numbers; a polygon covers its outline.

    Args:
        data: the map.
        patch_box: x, y of its middle, height, width [m].
        patch_angle: degrees.
        layer_names: names of `POLYGONS` and `LINES`.
        canvas_size: rows and columns.
        thickness: pixels of lines.

    Returns:
        (M, Y, X) uint8 of 0 and 1.

    Raises:
        ConfigError: an unknown layer.
    """
    for layer in layer_names:
        check_choice('map_mask: layer', layer, (*POLYGONS, *LINES))
    shapely = import_shapely()
    x, y, height, width = patch_box
    patch = shapely.transform(shapely.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2),
                              _turn(patch_angle, x, y))
    back, canvas = _turn(-patch_angle, x, y), shapely.box(-width / 2, -height / 2, width / 2, height / 2)
    scale = np.array([canvas_size[1] / width, canvas_size[0] / height])
    masks = np.zeros((len(layer_names), *canvas_size), np.uint8)
    for mask, layer in zip(masks, layer_names):
        pieces = shapely.transform(data.layers[layer].cut(patch), lambda points: back(points) - (x, y))
        pieces = shapely.intersection(pieces, canvas)      # rounding can lead out of the patch
        pieces = shapely.transform(pieces, lambda points: (points + (width / 2, height / 2)) * scale)
        draw_lines(mask, pieces, thickness) if layer in LINES else draw_polygons(mask, pieces)
    return masks


def _turn(degrees: float, x: float, y: float):
    """A rotation of points (P, 2) about a place, with the same rounding as shapely's."""
    angle = degrees * math.pi / 180.0
    cos, sin = (0.0 if abs(value) < 2.5e-16 else value for value in (math.cos(angle), math.sin(angle)))
    x_shift, y_shift = x - x * cos + y * sin, y - x * sin - y * cos

    def turn(points: np.ndarray) -> np.ndarray:
        u, v = points.T
        return np.stack([cos * u + -sin * v + x_shift, sin * u + cos * v + y_shift], -1)
    return turn


def draw_polygons(mask: np.ndarray, shapes: np.ndarray, holes: bool = True) -> None:
    """Fills polygons, one after the other, with 1 and their holes with 0.

    Args:
        mask: (H, W) uint8, changed in place.
        shapes: (K,) shapely's, in pixels x, y; corners are rounded.
        holes: whether holes are cut out.
    """
    shapely = import_shapely()
    parts, owner = _parts(shapes, (3, ))
    rings, part = shapely.get_rings(parts, return_index=True)
    if not len(rings):
        return
    corners, ring = shapely.get_coordinates(rings, return_index=True)
    corners = np.split(corners.round().astype(np.int32), np.flatnonzero(np.diff(ring)) + 1)
    inner = np.concatenate([[False], part[1:] == part[:-1]])      # the first ring of a part is its outline
    for rows in np.split(np.arange(len(rings)), np.flatnonzero(np.diff(owner[part])) + 1):
        cv2.fillPoly(mask, [corners[row] for row in rows if not inner[row]], 1)
        cut = [corners[row] for row in rows if inner[row]]
        if holes and cut:
            cv2.fillPoly(mask, cut, 0)


def draw_lines(mask: np.ndarray, shapes: np.ndarray, thickness: int, rounded: bool = False) -> None:
    """Draws lines with 1.

    Args:
        mask: (H, W) uint8, changed in place.
        shapes: (K,) shapely's, in pixels x, y.
        thickness: pixels.
        rounded: whether corners are rounded to pixels, not cut off to whole numbers.
    """
    shapely = import_shapely()
    parts, _ = _parts(shapes, (1, ))
    corners, line = shapely.get_coordinates(parts, return_index=True)
    if len(parts):
        corners = (corners.round() if rounded else corners).astype(np.int32)
        cv2.polylines(mask, np.split(corners, np.flatnonzero(np.diff(line)) + 1), False, 1, thickness)


def _parts(shapes: np.ndarray, kinds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Single shapes (P,) of some kinds of shapely's in collections, and (P,) in which."""
    shapely = import_shapely()
    parts, owner = shapely.get_parts(shapes, return_index=True)
    wanted = np.isin(shapely.get_type_id(parts), kinds) & ~shapely.is_empty(parts)
    return parts[wanted], owner[wanted]
