"""BEV segmentation of nuScenes as LSS, CVT and BEVFusion define it: grids, layers, rounding and what counts.

| preset | frame | 200 x 200 cells of 0.5 m | from | where it counts |
|---|---|---|---|---|
| lss_vehicle | ego | vehicle | boxes of all of `vehicle.*` | everywhere |
| lss_map | ego | drivable_area, lane_boundary | road_segment and lane; both dividers, 1 pixel | everywhere |
| cvt_vehicle_s2 | flat_ego | vehicle | boxes of seven kinds of vehicles | no vehicle that is less than 40 % visible |
| cvt_road | flat_ego | road | lane and road_segment | everywhere |
| bevfusion_map | lidar | six classes | layers of the same names; both dividers, 2 pixels | everywhere |

`lss`: Philion and Fidler, Lift, Splat, Shoot, 2020; corners are round((p - low) / cell). `cvt`: Zhou and Kraehenbuehl,
Cross-view Transformers, 2022; corners are rounded in an image with the front up whose first pixels lie at 50 m ahead
and to the left, so that cells are half a cell off ours. `bevfusion`: Liu et al., BEVFusion, 2023; the kit's mask. The
protocols of maps ignore heights.

Labels are BEV tensors (M, Y, X) of the preset's frame. An augmented frame is one whose matrix to the world is that of
the frame times the inverse of the augmentation: turned, moved, flipped and scaled labels follow, those of BEVFusion's
protocol too, whose own code leaves the scale out.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from perception.common.nuscenes.index import Boxes
from perception.common.nuscenes.maps import LINES, NuScenesMapData, draw_lines, draw_polygons, import_shapely, map_mask
from perception.utils.checks import check_choice
from perception.utils.errors import DataError

VISIBLE = 2          # level of visibility, 40 to 60 %, from which on CVT's protocol counts a vehicle
CVT_VEHICLES = ('car', 'truck', 'bus', 'trailer', 'construction', 'motorcycle', 'bicycle')


@dataclass(frozen=True)
class MapPreset:
    """A protocol of BEV segmentation.

    Attributes:
        name: key in `PRESETS`.
        rule: `'lss'`, `'cvt'` or `'bevfusion'`: how corners become pixels.
        frame: `'lidar'`, `'ego'` or `'flat_ego'`, as in `NuScenesRig(bev_frame=...)`.
        classes: names of the M labels.
        layers: of the map, for each class; empty for vehicles.
        kinds: parts of the names of categories whose boxes are vehicles; with none all of `vehicle.*` are.
        visible: level of visibility from which on vehicles count; with 0 all do.
        thickness: pixels of lines.
        x, y: low, high and cell of the grid [m].
    """
    name: str
    rule: str
    frame: str
    classes: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...] = ()
    kinds: tuple[str, ...] = ()
    visible: int = 0
    thickness: int = 1
    x: tuple[float, float, float] = (-50.0, 50.0, .5)
    y: tuple[float, float, float] = (-50.0, 50.0, .5)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (Y, X)."""
        return tuple(round((high - low) / cell) for low, high, cell in (self.y, self.x))

    @property
    def of_vehicles(self) -> bool:
        """Whether labels come from boxes, not from the map."""
        return not self.layers


_AREAS = ('drivable_area', 'ped_crossing', 'walkway', 'stop_line', 'carpark_area')
_DIVIDERS = ('road_divider', 'lane_divider')
PRESETS = {preset.name: preset for preset in (
    MapPreset('lss_vehicle', 'lss', 'ego', ('vehicle',)),
    MapPreset('lss_map', 'lss', 'ego', ('drivable_area', 'lane_boundary'), (('road_segment', 'lane'), _DIVIDERS)),
    MapPreset('cvt_vehicle_s2', 'cvt', 'flat_ego', ('vehicle',), kinds=CVT_VEHICLES, visible=VISIBLE),
    MapPreset('cvt_road', 'cvt', 'flat_ego', ('road',), (('lane', 'road_segment'),)),
    MapPreset('bevfusion_map', 'bevfusion', 'lidar', (*_AREAS, 'divider'), (*((name,) for name in _AREAS), _DIVIDERS),
              thickness=2))}


def preset_of(name: str) -> MapPreset:
    """The preset of a name.

    Raises:
        ConfigError: there is none.
    """
    check_choice('map preset', name, PRESETS)
    return PRESETS[name]


def map_labels(preset: MapPreset, data: NuScenesMapData, frame_to_world: np.ndarray) -> np.ndarray:
    """Labels of a preset's layers.

    Args:
        preset: one with layers.
        data: the map of the place.
        frame_to_world: (4, 4) from the preset's frame, augmented or not.

    Returns:
        (M, Y, X) uint8.

    Raises:
        DataError: a preset of vehicles.
    """
    if preset.of_vehicles:
        raise DataError(f'map_labels: the preset {preset.name}, expected one with layers of the map. Its labels come '
                        'from boxes: call vehicle_labels.')
    middle, yaw, scale, flipped = view_of(frame_to_world)
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]) * [1, -1 if flipped else 1]
    if preset.rule == 'bevfusion':
        centre = np.array([preset.x[:2], preset.y[:2]]).mean(1)      # of the grid, which need not be the origin
        return _patch_labels(preset, data, middle + scale * turn @ centre, yaw, scale, flipped)
    shapely = import_shapely()
    low, high = np.array([preset.x[:2], preset.y[:2]]).T
    reach = scale * float(np.hypot(*np.maximum(np.abs(low), np.abs(high)))) + 1
    around = shapely.box(*(middle - reach), *(middle + reach))

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return _pixels(preset, (points - middle) @ turn / scale)
    masks = []
    for layers in preset.layers:
        mask = _canvas(preset)
        for layer in layers:
            shapes = shapely.transform(data.layers[layer].near(around), to_pixels)
            if layer in LINES:
                draw_lines(mask, shapes, preset.thickness, rounded=True)
            else:
                one = np.zeros_like(mask) if preset.rule == 'cvt' else mask     # holes are those of their own layer
                draw_polygons(one, shapes, holes=preset.rule == 'cvt')
                mask |= one
        masks.append(_as_bev(preset, mask))
    return np.stack(masks)


def vehicle_labels(preset: MapPreset, boxes: Boxes, names: np.ndarray, lidar_to_world: np.ndarray,
                   frame_to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels of a preset of vehicles.

    Args:
        preset: one without layers.
        boxes: all annotations of a key frame, as `Index.boxes_of` gives them.
        names: of the categories, `Index.category_names`.
        lidar_to_world: (4, 4) at the LiDAR's time.
        frame_to_world: (4, 4) from the preset's frame, augmented or not.

    Returns:
        labels: (1, Y, X) uint8.
        counts: (Y, X) bool, where they count; None: everywhere.

    Raises:
        DataError: a preset of layers.
    """
    if not preset.of_vehicles:
        raise DataError(f'vehicle_labels: the preset {preset.name}, expected one of vehicles. Its labels come from the '
                        'map: call map_labels.')
    kinds = [str(name).split('.') for name in names]
    vehicle = np.array(['vehicle' in parts for parts in kinds], bool)
    wanted = vehicle & np.array([not preset.kinds or any(kind in parts for kind in preset.kinds) for parts in kinds])
    corners = world_corners(boxes.boxes, lidar_to_world)
    to_frame = np.linalg.inv(frame_to_world)
    pixels = _pixels(preset, (corners @ to_frame[:3, :3].T + to_frame[:3, 3])[..., :2]).round().astype(np.int32)
    mask = _canvas(preset)
    for outline in pixels[wanted[boxes.categories]]:      # one by one: filled together, overlaps would be holes
        cv2.fillPoly(mask, [outline], 1)
    if not preset.visible:
        return _as_bev(preset, mask)[None], None
    level = np.full(mask.shape, 255, np.uint8)
    some = vehicle[boxes.categories]
    for outline, visibility in zip(pixels[some], boxes.visibility[some].tolist()):
        cv2.fillPoly(level, [outline], visibility)
    return _as_bev(preset, mask)[None], _as_bev(preset, level) >= preset.visible


def world_corners(boxes: np.ndarray, lidar_to_world: np.ndarray) -> np.ndarray:
    """Bottom corners (K, 4, 3) in the world of boxes (K, 9) in the LiDAR's frame; they are level, as annotated."""
    turn = lidar_to_world[:3, :3]
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], -1)
    rise = -(heading @ turn[2, :2]) / turn[2, 2]      # the LiDAR leans, boxes do not
    ahead = np.concatenate([heading, rise[:, None]], 1) @ turn.T
    ahead = ahead[:, :2] / np.linalg.norm(ahead[:, :2], axis=1, keepdims=True)
    left = np.stack([-ahead[:, 1], ahead[:, 0]], -1)
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
    half = boxes[:, None, 3:5] / 2 * signs
    flat = half[..., :1] * ahead[:, None] + half[..., 1:] * left[:, None]
    centre = boxes[:, :3] @ turn.T + lidar_to_world[:3, 3]
    return np.concatenate([flat, np.broadcast_to(-boxes[:, None, 5:6] / 2, (*flat.shape[:2], 1))], 2) + centre[:, None]


def flat_pose(pose: np.ndarray) -> np.ndarray:
    """The (4, 4) pose that stands level where a pose is, heading the same way: that of `'flat_ego'`."""
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    level = np.eye(4)
    level[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    level[:3, 3] = pose[:3, 3]
    return level


def view_of(frame_to_world: np.ndarray) -> tuple[np.ndarray, float, float, bool]:
    """How a frame lies on a map: its origin (2,), angle of its x axis [rad], metres of a unit, whether y is flipped."""
    ahead = frame_to_world[:3, 0]
    flipped = bool(np.linalg.det(frame_to_world[:3, :3]) < 0)
    return frame_to_world[:2, 3], float(np.arctan2(ahead[1], ahead[0])), float(np.linalg.norm(ahead)), flipped


def _patch_labels(preset: MapPreset, data: NuScenesMapData, middle: np.ndarray, yaw: float, scale: float,
                  flipped: bool) -> np.ndarray:
    """The kit's masks, several layers in one, around the middle (2,) of the grid in the world."""
    area = [scale * (high - low) for low, high, _ in (preset.y, preset.x)]
    layers = [layer for some in preset.layers for layer in some]
    masks = map_mask(data, (*middle.tolist(), *area), yaw / np.pi * 180, layers, preset.shape, preset.thickness)
    joined = np.stack([masks[[layers.index(layer) for layer in some]].max(0) for some in preset.layers])
    return np.ascontiguousarray(joined[:, ::-1]) if flipped else joined


def _pixels(preset: MapPreset, points: np.ndarray) -> np.ndarray:
    """Places (..., 2) x, y in the frame as columns and rows of the protocol's own image, not yet rounded."""
    x, y = points[..., 0], points[..., 1]
    if preset.rule == 'lss':      # rows go with x, columns with y
        return np.stack([(y - preset.y[0]) / preset.y[2], (x - preset.x[0]) / preset.x[2]], -1)
    return np.stack([(preset.y[1] - y) / preset.y[2], (preset.x[1] - x) / preset.x[2]], -1)


def _canvas(preset: MapPreset) -> np.ndarray:
    return np.zeros(preset.shape[::-1], np.uint8)


def _as_bev(preset: MapPreset, image: np.ndarray) -> np.ndarray:
    """The protocol's own image as (Y, X)."""
    return np.ascontiguousarray((image if preset.rule == 'lss' else image[::-1, ::-1]).T)
