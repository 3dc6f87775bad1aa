"""Augmentation of scans: callables on `dict(points, labels, rng, ...)`, drawing from `rng` alone.

Cylinder3D's order is rotate, flip, scale, translate; each is always applied. Files are never changed: the points are
replaced by new ones.
"""
import numpy as np

from perception.registry import TRANSFORMS
from perception.utils.errors import ConfigError

FLIPS = ((1, 1), (-1, 1), (1, -1), (-1, -1))  # signs of x and y: none, x, y, both


def xy_matrix(angle: float = 0.0, flip: int = 0, scale: float = 1.0) -> np.ndarray:
    """The (2, 2) matrix that rotates, then flips, then scales x and y: xy_new = xy @ matrix.T.

    Args:
        angle: rad, counter-clockwise.
        flip: 0 none, 1 negates x, 2 negates y, 3 both.
        scale: factor of x and y.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    return scale * np.diag(FLIPS[flip]) @ np.array([[cos, -sin], [sin, cos]])


def move_xy(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A copy of points (N, 4) whose x and y are multiplied by a (2, 2) matrix, see `xy_matrix`."""
    moved, (x, y) = points.copy(), points[:, :2].T
    for axis, (a, b) in enumerate(matrix.astype(points.dtype)):  # written out, as products of thin matrices are slow
        moved[:, axis] = a * x + b * y
    return moved


def _move_xy(sample: dict, matrix: np.ndarray) -> dict:
    return dict(sample, points=move_xy(sample['points'], matrix))


@TRANSFORMS.register_module()
class RandomRotate:
    """Rotation about z by an angle from U(-max_degrees, max_degrees).

    Args:
        max_degrees: 45 on SemanticKITTI, 180 on nuScenes.
    """

    def __init__(self, max_degrees: float = 45.0) -> None:
        check_argument(0 <= max_degrees <= 180, f'RandomRotate: max_degrees={max_degrees}, expected 0..180')
        self.max_angle = np.deg2rad(max_degrees)

    def __call__(self, sample: dict) -> dict:
        return _move_xy(sample, xy_matrix(angle=sample['rng'].uniform(-self.max_angle, self.max_angle)))


@TRANSFORMS.register_module()
class RandomFlip:
    """One of four: no flip, x negated, y negated, both; equally likely."""

    def __call__(self, sample: dict) -> dict:
        return _move_xy(sample, xy_matrix(flip=int(sample['rng'].integers(4))))


@TRANSFORMS.register_module()
class RandomScale:
    """Factor from U(low, high) on x and y; z stays.

    Args:
        low: smallest factor.
        high: largest factor.
    """

    def __init__(self, low: float = 0.95, high: float = 1.05) -> None:
        check_argument(0 < low <= high, f'RandomScale: low={low}, high={high}, expected 0 < low <= high')
        self.low, self.high = low, high

    def __call__(self, sample: dict) -> dict:
        return _move_xy(sample, xy_matrix(scale=sample['rng'].uniform(self.low, self.high)))


@TRANSFORMS.register_module()
class RandomTranslate:
    """One shift of the whole scan from N(0, std) along each axis.

    Args:
        std: standard deviation in m.
    """

    def __init__(self, std: float = 0.1) -> None:
        check_argument(std >= 0, f'RandomTranslate: std={std}, expected a length in m, at least 0')
        self.std = std

    def __call__(self, sample: dict) -> dict:
        points = sample['points'].copy()
        for axis, shift in enumerate(sample['rng'].normal(0, self.std, 3).astype(points.dtype)):
            points[:, axis] += shift
        return dict(sample, points=points)


@TRANSFORMS.register_module()
class RandomThin:
    """Keeps a random part of the points, which makes training steps cheaper where voxels hold many.

    Args:
        keep: share of the points, in (0, 1].
    """

    def __init__(self, keep: float = 0.5) -> None:
        check_argument(0 < keep <= 1, f'RandomThin: keep={keep}, expected a share in (0, 1]')
        self.keep = keep

    def __call__(self, sample: dict) -> dict:
        count = len(sample['points'])
        return _select(sample, np.sort(sample['rng'].permutation(count)[:int(np.ceil(self.keep * count))]))


@TRANSFORMS.register_module()
class RandomSector:
    """Keeps the points in a random sector around the scanner: cheaper and more varied training steps.

    Args:
        degrees: width of the sector, in (0, 360].
    """

    def __init__(self, degrees: float = 120.0) -> None:
        check_argument(0 < degrees <= 360, f'RandomSector: degrees={degrees}, expected more than 0 and at most 360')
        self.width = np.deg2rad(degrees)

    def __call__(self, sample: dict) -> dict:
        start = sample['rng'].uniform(-np.pi, np.pi)
        azimuth = np.arctan2(sample['points'][:, 1], sample['points'][:, 0])
        return _select(sample, (azimuth - start) % (2 * np.pi) <= self.width)


def _select(sample: dict, rows: np.ndarray) -> dict:
    return dict(sample, **{key: sample[key][rows] for key in ('points', 'labels') if key in sample})


def check_argument(good: bool, message: str) -> None:
    """Refuse an argument of an augmentation.

    Raises:
        ConfigError: with the message.
    """
    if not good:
        raise ConfigError(f'{message}. Correct it in the pipeline.')
