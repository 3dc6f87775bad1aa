"""Lanes as polylines: rounded as files hold them, at the rows of an image, from left to right, drawn into label images.

A lane is a (P, 2) array u, v in pixels of the original image, bottom to top.
"""
from collections.abc import Sequence

import cv2
import numpy as np

from perception.utils.errors import DataError

DECIMALS = 3  # of a coordinate in a text file of ours
ABSENT = -2.0  # u of a row without point
LIMIT = 32000  # pixels; a coordinate beyond it is drawn there, since OpenCV counts in small integers


def checked(lane: np.ndarray, where: str) -> np.ndarray:
    """A lane as (P, 2) float64.

    Raises:
        DataError: it is no list of finite points.
    """
    lane = np.asarray(lane, np.float64)
    lane = lane.reshape(0, 2) if not lane.size else lane
    if lane.ndim != 2 or lane.shape[1] != 2 or not np.isfinite(lane).all():
        raise DataError(f'{where}: a lane of shape {lane.shape} or with coordinates that are no number, expected '
                        f'(P, 2) finite pixels. Check the decoder.')
    return lane


def quantise(lane: np.ndarray, where: str) -> np.ndarray:
    """A lane as it comes back from a text file of ours: (P, 2) float64 rounded to three decimals.

    Raises:
        DataError: see `checked`.
    """
    return np.round(checked(lane, where), DECIMALS)


def at_rows(lane: np.ndarray, rows: Sequence[float]) -> np.ndarray:
    """u of a lane at each row.

    A lane whose points all lie on these rows keeps its gaps; another one is interpolated.

    Args:
        lane: (P, 2) u, v.
        rows: (R,) v.

    Returns:
        (R,) float64, -2 where the lane has no point.
    """
    rows = np.asarray(rows, np.float64)
    u = np.full(len(rows), ABSENT)
    if len(lane):
        v, first = np.unique(lane[:, 1], return_index=True)
        values = np.interp(rows, v, np.asarray(lane, np.float64)[first, 0])
        inside = np.isin(rows, v) if np.isin(v, rows).all() else (rows >= v[0]) & (rows <= v[-1])
        u[inside] = values[inside]
    return u


def angle_order(lanes: Sequence[np.ndarray]) -> tuple[list[int], int]:
    """Order of lanes from left to right by the angle of the line between their ends.

    Args:
        lanes: (P, 2) arrays u, v, bottom to top.

    Returns:
        indices of the lanes with two points at least, and how many of them, the first ones, lead to the left of the
        vanishing point (angle of at most 90 degrees).
    """
    angles = {i: np.degrees(np.arctan2(lane[0, 1] - lane[-1, 1], lane[-1, 0] - lane[0, 0]))
              for i, lane in enumerate(lanes) if len(lane) > 1}
    order = sorted(angles, key=angles.get)
    return order, sum(angle <= 90 for angle in angles.values())


def ego_slots(lanes: Sequence[np.ndarray], num_slots: int, min_points: int = 2) -> dict[int, int]:
    """The slot 1..L of each lane, from left to right around the own lane.

    The last lane from the left with an angle of at most 90 degrees is the left border of the own lane, slot L / 2
    (rounded down); those before it are in the slots before. The next lane has the next slot, and so on. Of one slot
    all lanes are.

    Args:
        lanes: (P, 2) arrays u, v, bottom to top.
        num_slots: L.
        min_points: of a lane; those of fewer keep their slot empty.

    Returns:
        index of the lane -> slot, of lanes that have one.
    """
    order, num_left = angle_order(lanes)
    slots = {i: place - num_left + num_slots // 2 + 1 if num_slots > 1 else 1 for place, i in enumerate(order)}
    return {i: slot for i, slot in slots.items() if 1 <= slot <= num_slots and len(lanes[i]) >= min_points}


def draw_lanes(lanes: Sequence[np.ndarray], values: Sequence[int], size: tuple[int, int], thickness: int) -> np.ndarray:
    """Label image of polylines.

    Args:
        lanes: (P, 2) arrays u, v in pixels; parts outside the image and lanes of fewer than two points are not drawn.
        values: number of each lane; later lanes cover earlier ones.
        size: (H, W).
        thickness: of the lines in pixels as OpenCV counts them; even ones come out a pixel wider.

    Returns:
        (H, W) uint8, 0 where there is no lane.
    """
    image = np.zeros(size, np.uint8)
    for lane, value in zip(lanes, values):
        if len(lane) > 1:
            points = np.rint(np.clip(lane, -LIMIT, LIMIT)).astype(np.int32)
            cv2.polylines(image, [points.reshape(-1, 1, 2)], False, int(value), thickness)
    return image


def draw_instances(lanes: Sequence[np.ndarray], size: tuple[int, int], thickness: int) -> np.ndarray:
    """Label image (H, W) uint8 in which every lane has its own number, 1, 2, ... from left to right."""
    order, _ = angle_order(lanes)
    return draw_lanes([lanes[i] for i in order], range(1, len(order) + 1), size, thickness)


def dilate(image: np.ndarray, width: int) -> np.ndarray:
    """Lines of one pixel, (H, W) uint8, as lines of about `width` pixels."""
    return cv2.dilate(image, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
