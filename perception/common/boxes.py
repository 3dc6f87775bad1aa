"""Boxes in space, NumPy arrays and tensors alike: corners, points inside, motions, cameras, other frames.

A box is a row x, y, z, l, w, h, yaw or x, y, z, l, w, h, yaw, vx, vy in the LiDAR's frame, whose z axis points up:
the centre of the box (also of its height) [m], length along the heading, width across it, height [m], heading [rad],
0 = along +x, counter-clockwise seen from above, velocity in the same frame [m/s], NaN where it is unknown. What is
called another frame below is told where it comes. All is computed in float64 and returned in the dtype that came;
arrays give arrays, tensors give tensors on the same device. Boxes that hold NaN give NaN and hold no point.
"""
from collections.abc import Iterator, Sequence
from math import pi
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from perception.ops.ranges import range_members
from perception.utils.checks import check_choice
from perception.utils.errors import DataError

Array = TypeVar('Array', np.ndarray, Tensor)

# corners of a box as shares of half its l, w, h: front left top, right top, right bottom, left bottom, then the rear
CORNERS = np.array([[1, 1, 1], [1, -1, 1], [1, -1, -1], [1, 1, -1],
                    [-1, 1, 1], [-1, -1, 1], [-1, -1, -1], [-1, 1, -1]], float)
# edges between corners: four around the front face, four around the rear face, four from front to rear
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])
CELLS = 512  # into which each side of a scan is cut to find the points of boxes
NEAR = 0.1   # distance of the plane in front of a camera [m] at which boxes are cut


# -------------------------------------------------------------------------------------------------------------- shape

def corners(boxes: Array) -> Array:
    """Corners of boxes.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw in the LiDAR's frame, z up; yaw 0 = +x.

    Returns:
        (K, 8, 3) x, y, z in the same frame: the front face's left top, right top, right bottom, left bottom corner,
        then those of the rear face (as the nuScenes development kit orders them). `EDGES` says which are joined.

    Raises:
        DataError: neither 7 nor 9 columns.
    """
    xp, (center, size, yaw, _) = _module(boxes), _parts('corners', boxes)
    ends = _constant(CORNERS, boxes) * size[:, None] / 2
    c, s = xp.cos(yaw), xp.sin(yaw)
    turned = xp.stack([c * ends[..., 0] - s * ends[..., 1], s * ends[..., 0] + c * ends[..., 1], ends[..., 2]], -1)
    return _like(turned + center[:, None], boxes)


def flat(boxes: Array) -> Array:
    """Boxes seen from above, as `perception/ops/rotated.py` takes them.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw in the LiDAR's frame, z up; yaw 0 = +x.

    Returns:
        (K, 5) x, y, l, w, yaw.

    Raises:
        DataError: neither 7 nor 9 columns.
    """
    _check('flat', boxes)
    return boxes[:, [0, 1, 3, 4, 6]]


def points_in_boxes(points: Array, boxes: Array) -> tuple[Array, Array]:
    """Points inside boxes or on their faces; a point may lie in several boxes.

    The points are sorted once by cells of the ground, so a box looks only at those of the cells it touches. `rows` of
    box k are `np.split(rows, counts.cumsum()[:-1])[k]`, of tensors `rows.split(counts.tolist())[k]`.
    A point that is not finite lies in no box.

    Args:
        points: (N, 3+) x, y, z in the LiDAR's frame, further columns are ignored.
        boxes: (K, 7 or 9) centre, l, w, h, yaw in the LiDAR's frame, z up; yaw 0 = +x.

    Returns:
        rows: (P,) int64 rows of points, box after box, ascending within a box.
        counts: (K,) int64 number of points in each box.

    Raises:
        DataError: wrong shapes.
    """
    if points.ndim != 2 or points.shape[1] < 3:
        raise DataError(f'points_in_boxes: points of shape {tuple(points.shape)}, expected (N, 3) or more columns. '
                        'Pass x, y, z of each point.')
    if isinstance(boxes, np.ndarray):  # of copies where memory must not be written to
        rows, counts = points_in_boxes(*(torch.from_numpy(np.require(v, requirements='CW')) for v in (points, boxes)))
        return rows.numpy(), counts.numpy()
    center, size, yaw, _ = _parts('points_in_boxes', boxes)
    c, s, half = yaw[:, 0].cos(), yaw[:, 0].sin(), size / 2
    reach = torch.stack([c.abs() * half[:, 0] + s.abs() * half[:, 1], s.abs() * half[:, 0] + c.abs() * half[:, 1]], 1)
    reach = reach * (1 + 1e-9) + center[:, :2].abs() * 1e-9  # rounding loses no point
    found = [(torch.zeros(0, dtype=torch.int64, device=boxes.device),) * 2]
    for box, rows in _near_points(points, center[:, :2] - reach, center[:, :2] + reach):
        dx, dy, dz = (points[rows, :3].double() - center[box]).unbind(1)
        inside = ((c[box] * dx + s[box] * dy).abs() <= half[box, 0]) & \
            ((c[box] * dy - s[box] * dx).abs() <= half[box, 1]) & (dz.abs() <= half[box, 2])
        inside = inside.nonzero().squeeze(1)
        found.append((box[inside], rows[inside]))
    box, rows = map(torch.cat, zip(*found))
    rows = (box * len(points) + rows).sort().values % max(len(points), 1)
    return rows, torch.bincount(box, minlength=len(boxes))


def _near_points(points: Tensor, first: Tensor, last: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (P,) of a rectangle and a row of points (N, 3+) in a cell that it touches, in pieces.

    Args:
        points: (N, 3+); those that are not finite are left out.
        first, last: (K, 2) corners of rectangles along the axes.
    """
    whole = points[:, :3].isfinite().all(1).nonzero().squeeze(1)
    if not len(whole):
        return
    place = points[whole, :2].T.contiguous().double()
    low, high = place.aminmax(dim=1)
    step = (high - low).clamp(min=1e-9) / CELLS
    cell = ((place - low[:, None]) / step[:, None]).int()
    key, order = cell[0].mul_(CELLS + 1).add_(cell[1]).sort()  # cells of one x lie behind each other
    order = whole[order]
    (first_x, first_y), (last_x, last_y) = (((v.clamp(low, high) - low).nan_to_num() / step).int().T
                                            for v in (first, last))
    for owner, x in range_members(first_x.long(), last_x.long() + 1):
        column = x.int() * (CELLS + 1)
        start = torch.searchsorted(key, column + first_y[owner])
        end = torch.searchsorted(key, column + last_y[owner], right=True)
        for which, places in range_members(start, end):
            yield owner[which], order[places]


# ------------------------------------------------------------------------------------------------------------ motions

def flip(boxes: Array, axis: str) -> Array:
    """Mirror boxes and their velocities.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw(, vx, vy) in the LiDAR's frame, z up; yaw 0 = +x.
        axis: `'x'` or `'y'`, the coordinate that changes its sign; the mirror stands at the frame's origin.

    Returns:
        boxes in the same frame; the yaw is not wrapped.

    Raises:
        DataError: neither 7 nor 9 columns.
        ConfigError: no such axis.
    """
    check_choice('flip: axis', axis, ('x', 'y'))
    center, size, yaw, velocity = _parts('flip', boxes)
    signs = _constant([-1, 1, 1] if axis == 'x' else [1, -1, 1], boxes)
    yaw = pi - yaw if axis == 'x' else -yaw
    return _joined(boxes, center * signs, size, yaw, velocity * signs[:velocity.shape[1]])


def rotate(boxes: Array, angle: float) -> Array:
    """Turn boxes and their velocities about the frame's z axis.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw(, vx, vy) in the LiDAR's frame, z up; yaw 0 = +x.
        angle: [rad], counter-clockwise seen from above.

    Returns:
        boxes in the same frame; the yaw is not wrapped.

    Raises:
        DataError: neither 7 nor 9 columns.
    """
    xp, (center, size, yaw, velocity) = _module(boxes), _parts('rotate', boxes)
    c, s = np.cos(float(angle)), np.sin(float(angle))
    turn = _constant([[c, -s], [s, c]], boxes)
    center = xp.concatenate([center[:, :2] @ turn.T, center[:, 2:]], -1)
    return _joined(boxes, center, size, yaw + float(angle), velocity @ turn.T if velocity.shape[1] else velocity)


def scale(boxes: Array, factor: float) -> Array:
    """Magnify the whole scene about the frame's origin: places, sizes and velocities.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw(, vx, vy) in the LiDAR's frame, z up; yaw 0 = +x.
        factor: above 0.

    Returns:
        boxes in the same frame.

    Raises:
        DataError: neither 7 nor 9 columns.
    """
    center, size, yaw, velocity = _parts('scale', boxes)
    return _joined(boxes, center * float(factor), size * float(factor), yaw, velocity * float(factor))


def translate(boxes: Array, offset: Sequence[float]) -> Array:
    """Shift boxes; velocities stay.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw(, vx, vy) in the LiDAR's frame, z up; yaw 0 = +x.
        offset: x, y, z [m] in the same frame.

    Returns:
        boxes in the same frame.

    Raises:
        DataError: neither 7 nor 9 columns.
    """
    center, size, yaw, velocity = _parts('translate', boxes)
    return _joined(boxes, center + _constant(offset, boxes), size, yaw, velocity)


def transform(boxes: Array, matrix: Array) -> Array:
    """Boxes in another frame whose z axis points up as well, or nearly: a box stays upright and keeps its size.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw(, vx, vy) in the LiDAR's frame, z up; yaw 0 = +x.
        matrix: (4, 4) rigid transform from this frame to the other one, such as the ego's or the world's.

    Returns:
        boxes in the other frame, yaw 0 = its +x, in [-pi, pi].

    Raises:
        DataError: neither 7 nor 9 columns.
    """
    center, size, yaw, velocity = _parts('transform', boxes)
    matrix = _constant(matrix, boxes)
    heading = _heading(yaw) @ matrix[:3, :2].T
    if velocity.shape[1]:
        velocity = velocity @ matrix[:2, :2].T
    return _joined(boxes, _moved(center, matrix), size, _angle(heading[:, 1], heading[:, 0]), velocity)


def wrap(angle: Array, period: float = 2 * pi, offset: float = 0.5) -> Array:
    """Angles in one period.

    Args:
        angle: any shape [rad], such as yaws in the LiDAR's frame, 0 = +x.
        period: [rad]; pi where front and rear are alike.
        offset: share of the period that lies below zero: 0.5 gives [-period / 2, period / 2), 0 gives [0, period).

    Returns:
        angles of the same shape.
    """
    xp, value = _module(angle), _double(angle)
    return _like(value - xp.floor(value / period + offset) * period, angle)


# ------------------------------------------------------------------------------------------------------------ cameras

def project_points(points: Array, lidar_to_image: Array) -> tuple[Array, Array]:
    """Pixels of points; behind the camera they mean nothing.

    Args:
        points: (..., 3) x, y, z in the LiDAR's frame.
        lidar_to_image: (4, 4) or (3, 4), its first three rows give u * depth, v * depth, depth.

    Returns:
        pixels: (..., 2) u to the right, v down.
        depth: (...) along the optical axis [m].
    """
    image = _moved(_double(points), _constant(lidar_to_image, points))
    return _like(image[..., :2] / image[..., 2:], points), _like(image[..., 2], points)


def within_image(boxes: Array, lidar_to_image: Array, size: Sequence[int]) -> Array:
    """(K,) bool, which boxes have their centre before the camera and within the image.

    Args:
        boxes: (K, 3 or more), the centre first.
        lidar_to_image: (4, 4) or (3, 4), its first three rows give u * depth, v * depth, depth.
        size: width and height [pixel]; the left and the upper edge belong to the image.
    """
    u, v, depth = _moved(_double(boxes[:, :3]), _constant(lidar_to_image, boxes)).T
    return (depth > 0) & (u >= 0) & (u < size[0] * depth) & (v >= 0) & (v < size[1] * depth)


def project(boxes: Array, lidar_to_image: Array, near: float = NEAR) -> tuple[Array, Array]:
    """Edges of boxes in an image, cut at a plane before the camera: a box half behind it is cut, not folded.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw in the LiDAR's frame, z up; yaw 0 = +x.
        lidar_to_image: (4, 4) or (3, 4), its first three rows give u * depth, v * depth, depth.
        near: depth of the plane [m], above 0.

    Returns:
        edges: (K, 12, 2, 2) u, v of both ends of each edge of `EDGES`, the first four of the front face; NaN where an
            edge lies wholly behind the plane. Pixels may lie outside the image.
        visible: (K, 12) bool, whether some of the edge lies before the plane.

    Raises:
        DataError: neither 7 nor 9 columns, or a plane that is not before the camera.
    """
    if not near > 0:
        raise DataError(f'project: near={near!r}, expected a depth above 0 m. Leave it out for {NEAR} m.')
    xp = _module(boxes)
    image = _moved(corners(_double(boxes)), _constant(lidar_to_image, boxes))
    start, end = image[:, EDGES[:, 0]], image[:, EDGES[:, 1]]
    before = [point[..., 2:] >= near for point in (start, end)]
    step = end - start
    cut = start + step * ((near - start[..., 2:]) / xp.where(step[..., 2:] == 0, 1.0, step[..., 2:]))
    ends = xp.stack([xp.where(before[0], start, cut), xp.where(before[1], end, cut)], 2)
    visible = before[0] | before[1]
    edges = ends[..., :2] / xp.where(visible[:, :, None], ends[..., 2:], np.nan)
    return _like(edges, boxes), visible[..., 0]


def hull_2d(boxes: Array, lidar_to_image: Array, image_size: Sequence[int] | None = None,
            near: float = NEAR) -> Array:
    """Smallest upright rectangle in the image around what is before the camera of each box.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw in the LiDAR's frame, z up; yaw 0 = +x.
        lidar_to_image: (4, 4) or (3, 4), its first three rows give u * depth, v * depth, depth.
        image_size: (H, W) at which rectangles are cut, None for none.
        near: depth [m] of the plane at which boxes are cut.

    Returns:
        (K, 4) left, top, right, bottom in pixels; NaN where nothing of a box is before the camera, or in the image.

    Raises:
        DataError: neither 7 nor 9 columns, or a plane that is not before the camera.
    """
    xp = _module(boxes)
    edges, visible = project(_double(boxes), lidar_to_image, near)
    ends, seen = edges.reshape(len(boxes), 24, 2), visible.any(-1)[:, None]
    hidden = xp.isnan(ends)
    low, high = xp.amin(xp.where(hidden, np.inf, ends), 1), xp.amax(xp.where(hidden, -np.inf, ends), 1)
    if image_size is not None:
        border = _constant([image_size[1], image_size[0]], boxes)
        low, high = xp.maximum(low, 0 * border), xp.minimum(high, border)
        seen = seen & (low < high).all(-1)[:, None]
    return _like(xp.where(seen, xp.concatenate([low, high], -1), np.nan), boxes)


def to_kitti(boxes: Array, lidar_to_camera: Array) -> Array:
    """Boxes in a camera's frame as KITTI has them; velocities are left out.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw in the LiDAR's frame, z up; yaw 0 = +x.
        lidar_to_camera: (4, 4) rigid transform to the camera's frame: x to the right, y down, z forward.

    Returns:
        (K, 7) x, y, z, l, h, w, rotation_y in the camera's frame: the middle of the bottom face, rotation_y in
        [-pi, pi], 0 = the camera's +x, positive towards -z (clockwise seen from above).

    Raises:
        DataError: neither 7 nor 9 columns.
    """
    xp, (center, size, yaw, _) = _module(boxes), _parts('to_kitti', boxes)
    matrix = _constant(lidar_to_camera, boxes)
    bottom = xp.concatenate([center[:, :2], center[:, 2:] - size[:, 2:] / 2], -1)
    heading = _heading(yaw) @ matrix[:3, :2].T
    return _like(xp.concatenate([_moved(bottom, matrix), size[:, [0, 2, 1]], _angle(-heading[:, 2], heading[:, 0])],
                                -1), boxes)


def from_kitti(boxes: Array, lidar_to_camera: Array) -> Array:
    """Boxes of KITTI in the LiDAR's frame; `to_kitti` gives the same boxes back.

    Args:
        boxes: (K, 7) x, y, z, l, h, w, rotation_y in the camera's frame (x right, y down, z forward): the middle of
            the bottom face, rotation_y 0 = +x, positive towards -z. A label file has h, w, l, x, y, z, rotation_y.
        lidar_to_camera: (4, 4) rigid transform from the LiDAR's frame to the camera's.

    Returns:
        (K, 7) centre, l, w, h, yaw in the LiDAR's frame, z up; yaw 0 = +x, in [-pi, pi].

    Raises:
        DataError: not 7 columns.
    """
    _check('from_kitti', boxes, (7,))
    xp, matrix, value = _module(boxes), _constant(lidar_to_camera, boxes), _double(boxes)
    back = xp.linalg.inv(matrix)
    size = value[:, [3, 5, 4]]
    bottom = _moved(value[:, :3], back)
    center = xp.concatenate([bottom[:, :2], bottom[:, 2:] + size[:, 2:] / 2], -1)
    # the heading on the LiDAR's ground that the camera sees turned by rotation_y
    seen = xp.stack([xp.cos(value[:, 6]), -xp.sin(value[:, 6])], -1)
    heading = seen @ xp.linalg.inv(matrix[[0, 2], :2]).T
    return _like(xp.concatenate([center, size, _angle(heading[:, 1], heading[:, 0])], -1), boxes)


def kitti_alpha(boxes: Array) -> Array:
    """KITTI's observation angle: the heading relative to the ray from the camera to the box.

    Args:
        boxes: (K, 7) x, y, z, l, h, w, rotation_y in the camera's frame (x right, y down, z forward), origin in the
            middle of the bottom face, rotation_y 0 = +x, as `to_kitti` gives them.

    Returns:
        (K,) rotation_y - atan2(x, z) [rad], in [-pi, pi).

    Raises:
        DataError: not 7 columns.
    """
    _check('kitti_alpha', boxes, (7,))
    value = _double(boxes)
    return _like(wrap(value[:, 6] - _module(boxes).arctan2(value[:, 0], value[:, 2])), boxes)


# ----------------------------------------------------------------------------------------------------------- nuScenes

class NuScenesBoxes(NamedTuple):
    """Boxes in nuScenes' form, in a frame whose z axis points up, such as the world's.

    Attributes:
        translation: (K, 3) centre [m].
        size: (K, 3) w, l, h [m].
        rotation: (K, 4) quaternion w, x, y, z from the box's axes (x = heading) to the frame's.
        velocity: (K, 3) [m/s] in the same frame, NaN where unknown; None where there is none.
    """
    translation: Any
    size: Any
    rotation: Any
    velocity: Any = None


def from_nuscenes(boxes: NuScenesBoxes, to_lidar: Array) -> Array:
    """Boxes of nuScenes in the LiDAR's frame.

    Args:
        boxes: in nuScenes' form (a heading is a quaternion, the centre is the box's), arrays or tensors; the velocity
            may have 2 columns.
        to_lidar: (4, 4) rigid transform from their frame to the LiDAR's.

    Returns:
        (K, 7), with velocities (K, 9), centre, l, w, h, yaw(, vx, vy) in the LiDAR's frame, z up; yaw 0 = +x, in
        [-pi, pi].
    """
    like = boxes.translation
    xp, matrix = _module(like), _constant(to_lidar, like)
    size, rotation = _double(boxes.size), _double(boxes.rotation)
    w, x, y, z = (rotation / xp.sqrt((rotation ** 2).sum(-1))[:, None]).T
    heading = xp.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], -1) @ matrix[:2, :3].T
    parts = [_moved(_double(like), matrix), size[:, [1, 0, 2]], _angle(heading[:, 1], heading[:, 0])]
    if boxes.velocity is not None:
        velocity = _double(boxes.velocity)
        parts.append(velocity @ matrix[:2, :velocity.shape[1]].T)
    return _like(xp.concatenate(parts, -1), like)


def to_nuscenes(boxes: Array, from_lidar: Array) -> NuScenesBoxes:
    """Boxes in nuScenes' form; `from_nuscenes` gives the same boxes back.

    Args:
        boxes: (K, 7 or 9) centre, l, w, h, yaw(, vx, vy) in the LiDAR's frame, z up; yaw 0 = +x.
        from_lidar: (4, 4) rigid transform from the LiDAR's frame to the other one.

    Returns:
        boxes in the other frame, tilted there as the LiDAR is; velocity None for boxes of 7 columns.

    Raises:
        DataError: neither 7 nor 9 columns.
    """
    xp, (center, size, yaw, velocity) = _module(boxes), _parts('to_nuscenes', boxes)
    matrix = _constant(from_lidar, boxes)
    w, x, y, z = _quaternion(xp, matrix)
    c, s = xp.cos(yaw[:, 0] / 2), xp.sin(yaw[:, 0] / 2)
    rotation = xp.stack([w * c - z * s, x * c + y * s, y * c - x * s, w * s + z * c], -1)
    return NuScenesBoxes(*(_like(value, boxes) for value in (_moved(center, matrix), size[:, [1, 0, 2]], rotation)),
                         _like(velocity @ matrix[:3, :2].T, boxes) if velocity.shape[1] else None)


# ------------------------------------------------------------------------------------------------------------ helpers

def _module(value: Array) -> ModuleType:
    return torch if isinstance(value, Tensor) else np


def _double(value: Array) -> Array:
    return value.double() if isinstance(value, Tensor) else np.asarray(value, np.float64)


def _like(value: Array, model: Array) -> Array:
    """Float64 values in the dtype of others, if that is one of floats."""
    if isinstance(value, Tensor):
        return value.to(model.dtype) if model.is_floating_point() else value
    return value.astype(model.dtype, copy=False) if np.issubdtype(model.dtype, np.floating) else value


def _constant(value: Any, model: Array) -> Array:
    """Numbers in float64 beside a model: an array, or a tensor on its device."""
    if isinstance(model, Tensor):
        return torch.as_tensor(value, dtype=torch.float64, device=model.device)
    return np.asarray(value, np.float64)


def _check(where: str, boxes: Array, columns: tuple[int, ...] = (7, 9)) -> None:
    if boxes.ndim != 2 or boxes.shape[1] not in columns:
        raise DataError(f'{where}: boxes of shape {tuple(boxes.shape)}, expected (K, {" or ".join(map(str, columns))}).'
                        ' Pass one row for each box.')


def _parts(where: str, boxes: Array) -> tuple[Array, Array, Array, Array]:
    """Centre (K, 3), size (K, 3), yaw (K, 1), velocity (K, 0 or 2) in float64."""
    _check(where, boxes)
    value = _double(boxes)
    return value[:, :3], value[:, 3:6], value[:, 6:7], value[:, 7:]


def _joined(model: Array, *parts: Array) -> Array:
    return _like(_module(model).concatenate(parts, -1), model)


def _heading(yaw: Array) -> Array:
    """(K, 2) unit vectors of yaws (K, 1)."""
    xp = _module(yaw)
    return xp.concatenate([xp.cos(yaw), xp.sin(yaw)], -1)


def _angle(y: Array, x: Array) -> Array:
    """(K, 1) angles of vectors (K,)."""
    return _module(y).arctan2(y, x)[:, None]


def _moved(points: Array, matrix: Array) -> Array:
    """(..., 3) points after a transform by the first three rows of a matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _quaternion(xp: ModuleType, matrix: Array) -> Array:
    """(4,) w, x, y, z of a rotation: the eigenvector of the largest eigenvalue of Bar-Itzhack's matrix."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = matrix[:3, :3]
    rows = [[xx + yy + zz, zy - yz, xz - zx, yx - xy], [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy], [yx - xy, xz + zx, yz + zy, zz - xx - yy]]
    vector = xp.linalg.eigh(xp.stack([xp.stack(row) for row in rows]))[1][:, -1]
    return vector * xp.where(vector[0] < 0, -1.0, 1.0)
