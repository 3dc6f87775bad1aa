"""From annotated lines to label images: slots of TuSimple, centre lines of BDD100K, lanes of a given thickness."""
from collections.abc import Sequence

import cv2
import numpy as np

LIMIT = 32000  # pixels; a coordinate beyond it is drawn there, since OpenCV counts in small integers
SLOTS_PER_SIDE = 3
MIN_POINTS = 4  # of a lane that TuSimple's label generator draws
_SAMPLES = 50  # along each line, to measure distances
_CURVE_STEPS = 16  # of a Bezier curve


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


def dilate(image: np.ndarray, width: int) -> np.ndarray:
    """Lines of one pixel, (H, W) uint8, as lines of about `width` pixels."""
    return cv2.dilate(image, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))


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


def draw_instances(lanes: Sequence[np.ndarray], size: tuple[int, int], thickness: int) -> np.ndarray:
    """Label image (H, W) uint8 in which every lane has its own number, 1, 2, ... from left to right."""
    order, _ = angle_order(lanes)
    return draw_lanes([lanes[i] for i in order], range(1, len(order) + 1), size, thickness)


def tusimple_slots(lanes: Sequence[np.ndarray]) -> dict[int, int]:
    """The slot 1..6 of each lane, by the rule with which labels of TuSimple are generated (CLRNet, SCNN).

    The last lane from the left with an angle of at most 90 degrees is the left one of the own lane, slot 3; those
    before it are 2 and 1. The next is slot 4, then 5 and 6. Lanes of fewer than four points keep their slot empty.

    Args:
        lanes: (P, 2) arrays u, v, bottom to top.

    Returns:
        index of the lane -> slot.
    """
    order, num_left = angle_order(lanes)
    slots = {i: place - num_left + SLOTS_PER_SIDE + 1 for place, i in enumerate(order)}
    return {i: slot for i, slot in slots.items() if 1 <= slot <= 2 * SLOTS_PER_SIDE and len(lanes[i]) >= MIN_POINTS}


def curve(vertices: np.ndarray, types: str) -> np.ndarray:
    """Points of a line of BDD100K, whose parts may be Bezier curves.

    Args:
        vertices: (P, 2) pixels.
        types: a letter for each vertex, 'L' on the line, 'C' control point; two between ends make a cubic curve.

    Returns:
        (Q, 2) points of the line; control points that are not in pairs count as points of it.
    """
    parts, i = [vertices[:1]], 1
    t = np.arange(1, _CURVE_STEPS + 1)[:, None] / _CURVE_STEPS
    while i < len(vertices):
        if types[i:i + 2] == 'CC' and i + 2 < len(vertices):
            a, b, c, d = vertices[i - 1:i + 3]
            parts.append((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t ** 2 * c + t ** 3 * d)
            i += 3
        else:
            parts.append(vertices[i:i + 1])
            i += 1
    return np.concatenate(parts)


def centre_lines(lines: Sequence[np.ndarray], kinds: Sequence, max_distance: float = 40.0) -> list[np.ndarray]:
    """One line in the middle of each pair of border lines; lines without a partner stay (BDD100K in SAD).

    Two lines of one kind make a pair if their mean distance is at most `max_distance`; the nearest are paired first.
    The middle goes along the shorter one, half-way to the nearest points of the other.

    Args:
        lines: (P, 2) arrays u, v in pixels, each with a point at least.
        kinds: of each line, anything that can be compared.
        max_distance: in pixels.

    Returns:
        (Q, 2) float64 arrays, bottom to top.
    """
    samples = [_evenly(line) for line in lines]
    pairs = []
    for i, first in enumerate(samples):
        for j in range(i):
            if kinds[i] == kinds[j]:
                distances = np.linalg.norm(first[:, None] - samples[j][None], axis=2)
                pairs.append((min(distances.min(1).mean(), distances.min(0).mean()), j, i))
    free, result = set(range(len(lines))), []
    for distance, j, i in sorted(pairs):
        if distance <= max_distance and {i, j} <= free:
            free -= {i, j}
            result.append(_middle(samples[j], samples[i]))
    result += [np.asarray(lines[i], np.float64) for i in sorted(free)]
    return [line if line[0, 1] >= line[-1, 1] else line[::-1] for line in result]


def _evenly(line: np.ndarray) -> np.ndarray:
    """(S, 2) points at equal distances along a line."""
    line = np.asarray(line, np.float64)
    along = np.concatenate([[0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])
    steps = np.linspace(0, along[-1], _SAMPLES)
    return np.stack([np.interp(steps, along, line[:, axis]) for axis in (0, 1)], axis=1)


def _middle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(S, 2) points half-way between the shorter of two lines and the nearest points of the other."""
    if np.linalg.norm(np.diff(first, axis=0), axis=1).sum() > np.linalg.norm(np.diff(second, axis=0), axis=1).sum():
        first, second = second, first
    nearest = np.linalg.norm(first[:, None] - second[None], axis=2).argmin(1)
    return (first + second[nearest]) / 2
