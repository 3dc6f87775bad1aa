"""Augmentation of scans with people: callables on `dict(points, boxes, ..., rng, ...)`, drawing from `rng` alone.

The order of a training is `WithinBounds`, `SamplePeople`, `MoveScene`, `WithinBounds`: the first one takes away what
lies behind, where nobody is labelled and which the turn would bring to the front. Files are never changed: arrays are
replaced by new ones. What there is one of for each person is named by `PER_BOX` of `common/structures.py`.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from perception.common import boxes as geometry
from perception.common.structures import PER_BOX
from perception.crowd.density import count_neighbours
from perception.ops.rotated import rotated_intersection
from perception.registry import TRANSFORMS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError

UNKNOWN = dict(track_ids=-1, joint=-1)  # of people who come from another frame


@TRANSFORMS.register_module()
class WithinBounds:
    """Drops the points outside a block of space, borders included, and people whose centre is not above its ground.

    Args:
        bounds: lowest x, y, z and highest x, y, z [m].
        people: drop people too. In validation they stay, for the metric has filters of its own.

    Raises:
        ConfigError: bounds that enclose nothing.
    """

    def __init__(self, bounds: Sequence[float] = (0, -35.2, -4, 35.2, 35.2, 2), people: bool = True) -> None:
        if len(bounds) != 6 or not all(low < high for low, high in zip(bounds[:3], bounds[3:])):
            raise ConfigError(f'WithinBounds: bounds={bounds}, expected x, y, z of the lowest and then of the highest '
                              'corner [m]. Correct them.')
        self.low, self.high, self.people = np.float32(bounds[:3]), np.float32(bounds[3:]), people

    def __call__(self, sample: dict) -> dict:
        points = sample['points']
        inside = np.ones(len(points), bool)
        for axis, (low, high) in enumerate(zip(self.low, self.high)):  # three thin passes, faster than one of rows
            inside &= (points[:, axis] >= low) & (points[:, axis] <= high)
        sample = dict(sample, points=points[inside])
        if not self.people or 'boxes' not in sample:
            return sample
        return select_people(sample, np.flatnonzero(self.holds(sample['boxes'])))

    def __repr__(self) -> str:
        return 'x {:g} to {:g}, y {:g} to {:g} m'.format(*np.stack([self.low, self.high], axis=1)[:2].flat)

    def holds(self, boxes: np.ndarray) -> np.ndarray:
        """(K,) bool, which boxes (K, 9) have their centre above the ground of the block."""
        return ((boxes[:, :2] >= self.low[:2]) & (boxes[:, :2] <= self.high[:2])).all(axis=1)


@TRANSFORMS.register_module()
class SamplePeople:
    """Adds people of another frame where they stood, with their points, if their place is free.

    Ground-truth sampling without a store on disk: the frame is drawn anew for each sample. Nobody is put onto people
    (also ignored ones) or onto walls, poles and the like: above a strip for the ground a place holds no more than some
    stray points of the scan. What the scan has of the ground in the box gives way to the person's own points.

    It ends before the training does, so that the net is at last used to crowds as they are.

    Args:
        count: how many people are added at most.
        min_points: of a person that is added.
        epochs: of the training.
        fade: share of the epochs at its end in which nobody is added.
        ground: height of the strip at the bottom of a box [m], where points do not matter.
        stray: points above it that do not matter either.

    Raises:
        ConfigError: numbers that are none of these.
    """

    def __init__(self, count: int = 10, min_points: int = 15, epochs: int = 40, fade: float = 0.2, ground: float = 0.3,
                 stray: int = 2) -> None:
        check_positive('SamplePeople', count=count, min_points=min_points, epochs=epochs)
        if not (0 <= fade <= 1 and ground >= 0 and stray >= 0):
            raise ConfigError(f'SamplePeople: fade={fade}, ground={ground}, stray={stray}, expected a share in [0, 1], '
                              'a height in m and a number of points. Correct them.')
        self.count, self.min_points, self.ground, self.stray, self.epochs = count, min_points, ground, stray, epochs
        self.last = epochs - round(fade * epochs)

    def __call__(self, sample: dict) -> dict:
        if 'boxes' not in sample or sample.get('epoch', 0) >= self.last:
            return sample
        other = sample['draw']()
        order = sample['rng'].permutation(len(other.get('boxes', ())))
        if not len(order):
            return sample
        other = select_people(other, order[~other['ignore'][order]])
        boxes = other['boxes']
        rows, counts = geometry.points_in_boxes(other['points'], boxes)
        there, in_place = geometry.points_in_boxes(sample['points'], boxes)
        owner, place = (np.repeat(np.arange(len(boxes)), numbers) for numbers in (counts, in_place))
        above = sample['points'][there, 2] > (boxes[:, 2] - boxes[:, 5] / 2 + self.ground)[place]
        free = np.bincount(place[above], minlength=len(boxes)) <= self.stray
        good = np.flatnonzero(free & (counts >= self.min_points) & ~overlaps(boxes, sample['boxes']).any(axis=1))
        chosen = good[apart(boxes[good])][:self.count]
        own = np.unique(rows[np.isin(owner, chosen)])  # a point may be in two boxes
        kept = np.ones(len(sample['points']), bool)
        kept[there[np.isin(place, chosen)]] = False
        points = np.concatenate([sample['points'][kept], other['points'][own]])
        return add_people(dict(sample, points=points), dict(select_people(other, chosen), num_points=counts[chosen]))


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(K, L) bool, which boxes (K, 9) and (L, 9) have some of the ground in common."""
    flat = [torch.from_numpy(geometry.flat(some)) for some in (boxes, others)]
    return (rotated_intersection(*flat) > 0).numpy()


def apart(boxes: np.ndarray) -> np.ndarray:
    """(K,) bool, which boxes (K, 9) have nothing of the ground in common with one before them."""
    return ~np.tril(overlaps(boxes, boxes), -1).any(axis=1)


@TRANSFORMS.register_module()
class MoveScene:
    """Turns, magnifies, shifts and mirrors a scan with its people, in this order; the mirror changes the sign of y.

    x is never mirrored: that would put all people behind the sensor. `lidar_to_image` follows, so that points and
    boxes still project to the pixels that show them.

    Args:
        max_radians: the turn about z is from U(-max_radians, max_radians); a large one leads out of the labelled half.
        low: smallest factor of all lengths.
        high: largest factor.
        std: of the shift along each axis [m].
        flip: probability of the mirror.

    Raises:
        ConfigError: numbers that are none of these.
    """

    def __init__(self, max_radians: float = 0.3925, low: float = 0.95, high: float = 1.05, std: float = 0.2,
                 flip: float = 0.5) -> None:
        if not (0 <= max_radians <= np.pi and 0 < low <= high and std >= 0 and 0 <= flip <= 1):
            raise ConfigError(f'MoveScene: max_radians={max_radians}, low={low}, high={high}, std={std}, flip={flip}, '
                              'expected an angle in [0, pi], 0 < low <= high, a length in m and a probability. Correct '
                              'them.')
        self.max_radians, self.low, self.high, self.std, self.flip = max_radians, low, high, std, flip

    def __call__(self, sample: dict) -> dict:
        rng = sample['rng']
        angle, factor = rng.uniform(-self.max_radians, self.max_radians), rng.uniform(self.low, self.high)
        shift, mirrored = rng.normal(0, self.std, 3), rng.random() < self.flip
        move, (c, s) = np.eye(4), (np.cos(angle), np.sin(angle))
        move[:3, :3] = factor * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        move[:3, 3] = shift
        if mirrored:
            move[1] *= -1
        result = dict(sample, points=move_points(sample['points'], move))
        if 'boxes' in sample:
            boxes = geometry.translate(geometry.scale(geometry.rotate(sample['boxes'], angle), factor), shift)
            result['boxes'] = geometry.flip(boxes, 'y') if mirrored else boxes
        if 'lidar_to_image' in sample:
            result['lidar_to_image'] = sample['lidar_to_image'] @ np.linalg.inv(move)
        return result


@TRANSFORMS.register_module()
class WithinImage:
    """Drops people whose centre the image does not show, all where there is none, for nets that see nothing else.

    It stands behind `ZoomImage`, which leads some out of the image.
    """

    def __call__(self, sample: dict) -> dict:
        if 'boxes' not in sample:
            return sample
        (width, height), (factor, right, down) = sample['image_size'], sample.get('image_move', (1.0, 0.0, 0.0))
        zoom = np.array([[factor, 0, (factor - 1) / 2 + right * width], [0, factor, (factor - 1) / 2 + down * height],
                         [0, 0, 1]])
        shown = geometry.within_image(sample['boxes'], zoom @ sample['lidar_to_image'][:3], (width, height))
        return select_people(sample, np.flatnonzero(shown & (sample.get('image', ...) is not None)))


@TRANSFORMS.register_module()
class ZoomImage:
    """Magnifies the image, whose size stays, and shifts it so that no more of it is lost than has to be.

    Args:
        low: smallest factor; below 1 the rest is black.
        high: largest factor.

    Raises:
        ConfigError: factors that are none.
    """

    def __init__(self, low: float = 0.9, high: float = 1.1) -> None:
        if not 0 < low <= high:
            raise ConfigError(f'ZoomImage: low={low}, high={high}, expected 0 < low <= high. Correct them.')
        self.low, self.high = low, high

    def __call__(self, sample: dict) -> dict:
        factor, places = sample['rng'].uniform(self.low, self.high), sample['rng'].random(2)
        if sample.get('image') is None:
            return sample
        height, width = sample['image'].shape[:2]
        right, down = (1 - factor) * places
        shift = (factor - 1) / 2 + np.array([right * width, down * height])  # pixels count from the first one's middle
        image = cv2.warpAffine(sample['image'], np.c_[factor * np.eye(2), shift], (width, height))
        return dict(sample, image=image, image_move=(factor, right, down))


@TRANSFORMS.register_module()
class DropImage:
    """Leaves out the image of some scans, so that a net also learns to do without, as beside the camera's view.

    Args:
        share: of the scans.

    Raises:
        ConfigError: a share that is none.
    """

    def __init__(self, share: float = 0.1) -> None:
        if not 0 <= share < 1:
            raise ConfigError(f'DropImage: share={share}, expected one from 0 to below 1. Correct it.')
        self.share = share

    def __call__(self, sample: dict) -> dict:
        return dict(sample, image=None) if sample['rng'].random() < self.share else sample


def move_points(points: np.ndarray, move: np.ndarray) -> np.ndarray:
    """A copy of points (N, 3 or more) whose x, y, z are moved by a (4, 4) matrix, in their own type."""
    moved, move = points.copy(), move.astype(points.dtype)
    for axis in range(3):  # written out, as products of thin matrices are slow
        moved[:, axis] = points[:, :3] @ move[axis, :3] + move[axis, 3]
    return moved


def select_people(sample: Mapping[str, Any], rows: np.ndarray) -> dict:
    """The sample with some of its people, in the order of rows (k,)."""
    return dict(sample, **{key: sample[key][rows] for key in PER_BOX if key in sample})


def add_people(sample: dict, other: Mapping[str, Any]) -> dict:
    """The sample with the people of another one behind its own, whose track and place in the image are unknown."""
    joined = {key: np.concatenate([sample[key], np.full_like(other[key], UNKNOWN[key]) if key in UNKNOWN
                                   else other[key]]) for key in PER_BOX if key in sample}
    return dict(sample, **dict(joined, density=count_neighbours(joined['boxes'])))
