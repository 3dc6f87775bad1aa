"""Augmentation of scans: callables on `dict(points, labels, rng, ...)`, drawing from `rng` alone.

Cylinder3D's order is rotate, flip, scale, translate; each is always applied. Files are never changed: the points are
replaced by new ones. `KeepLabels` and `WithinRange` draw nothing and may stand in pipelines of validation too.
"""
import zlib

import numpy as np

from perception.lidarseg.datasets.base import rows_of
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
    """Factor from U(low, high) on x and y.

    Args:
        low: smallest factor.
        high: largest factor.
        z: scale z too, as SPVNAS's code does; Cylinder3D's leaves it.
    """

    def __init__(self, low: float = 0.95, high: float = 1.05, z: bool = False) -> None:
        check_argument(0 < low <= high, f'RandomScale: low={low}, high={high}, expected 0 < low <= high')
        self.low, self.high, self.z = low, high, z

    def __call__(self, sample: dict) -> dict:
        scale = sample['rng'].uniform(self.low, self.high)
        sample = _move_xy(sample, xy_matrix(scale=scale))
        if self.z:
            sample['points'][:, 2] *= scale
        return sample


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

    drops_points = True  # of which a submission would lack classes

    def __init__(self, keep: float = 0.5) -> None:
        check_argument(0 < keep <= 1, f'RandomThin: keep={keep}, expected a share in (0, 1]')
        self.keep = keep

    def __call__(self, sample: dict) -> dict:
        count = len(sample['points'])
        rows = np.sort(sample['rng'].permutation(count)[:int(np.ceil(self.keep * count))])
        return dict(left_over(sample, rows), thinned=True)


@TRANSFORMS.register_module()
class RandomSector:
    """Keeps the points in a random sector around the scanner: cheaper and more varied training steps.

    Of a scanner that does not look all around, a sector without points is drawn again, around one of them.

    Args:
        degrees: width of the sector, in (0, 360].
    """

    drops_points = True  # of which a submission would lack classes

    def __init__(self, degrees: float = 120.0) -> None:
        check_argument(0 < degrees <= 360, f'RandomSector: degrees={degrees}, expected more than 0 and at most 360')
        self.width = np.deg2rad(degrees)

    def __call__(self, sample: dict) -> dict:
        rng, azimuth = sample['rng'], np.arctan2(sample['points'][:, 1], sample['points'][:, 0])
        rows = self.rows(azimuth, rng.uniform(-np.pi, np.pi))
        if not len(rows) and len(azimuth):
            rows = self.rows(azimuth, azimuth[rng.integers(len(azimuth))] - rng.uniform(0, self.width))
        return dict(left_over(sample, rows), thinned=True)

    def rows(self, azimuth: np.ndarray, start: float) -> np.ndarray:
        """Which of the azimuths (N,) lie in the sector from `start` on [rad]."""
        return np.flatnonzero((azimuth - start) % (2 * np.pi) <= self.width)


@TRANSFORMS.register_module()
class WithinRange:
    """Drops the points farther from the scanner than a radius in the ground plane, with all that belongs to them.

    In validation the metric then scores the points that are left; saved predictions still have a row for each point of
    the file, unlabelled where it was dropped. So do submissions to SemanticKITTI; others, which tell a class of each
    point, are refused. Scans that a later step mixes in are whole: put it behind such a step.

    Args:
        radius: m.
    """

    drops_points = keeps_rows = True  # as RandomThin's, but it is known beforehand which ones

    def __init__(self, radius: float = 25.0) -> None:
        check_argument(radius > 0, f'WithinRange: radius={radius}, expected a length in m, more than 0')
        self.radius = radius

    def __call__(self, sample: dict) -> dict:
        x, y = sample['points'][:, :2].T
        return left_over(sample, np.flatnonzero(x * x + y * y <= self.radius ** 2))


@TRANSFORMS.register_module()
class KeepLabels:
    """Takes the labels of all but a share of each scan's labelled points, as if no more had been annotated.

    Which ones stay depends on the scan's identity and the seed alone: the same points at every visit and in every run,
    of a smaller share some of those of a larger one. So it stands before every augmentation, which it could not see
    through; scans that a later step draws for mixing are treated alike, and so is each of several scans in a sample.

    Args:
        share: of the labelled points, in (0, 1]; at least one point of a scan keeps its label.
        seed: another one chooses other points.
        ignore_index: label of points without a class.

    Raises:
        ConfigError: an argument out of its range; of a sample, that a step before it mixed two scans or kept other
            points at each visit.
    """

    def __init__(self, share: float = 0.001, seed: int = 0, ignore_index: int = 255) -> None:
        check_argument(0 < share <= 1, f'KeepLabels: share={share}, expected a share in (0, 1]')
        check_argument(seed >= 0, f'KeepLabels: seed={seed}, expected a whole number, at least 0')
        self.share, self.seed, self.ignore_index = share, seed, ignore_index

    def __call__(self, sample: dict) -> dict:
        if 'labels' not in sample or self.share == 1:
            return sample
        if 'mixed' in sample or 'thinned' in sample:
            what = 'mixed with another scan' if 'mixed' in sample else 'thinned at random'
            raise ConfigError(f'KeepLabels: {sample["sample_id"]} is {what}, expected it as its file has it: other '
                              'points would keep their labels at each visit. Put KeepLabels before the steps that mix '
                              'or thin scans.')
        labels = rows_of(sample['labels'], sample)
        few = np.full_like(labels, self.ignore_index)
        names, source = sample.get('scan_ids', [sample['sample_id']]), sample.get('scan')
        for number, name in enumerate(names):
            own = labels != self.ignore_index
            if source is not None:
                own &= source == number
            rows = np.flatnonzero(own)
            rng = np.random.default_rng([self.seed, zlib.crc32(str(name).encode())])
            rows = rng.permutation(rows)[:max(round(self.share * len(rows)), 1)]
            few[rows] = labels[rows]
        sample = dict(sample, labels=few)
        if 'draw' in sample:
            draw = sample['draw']
            sample['draw'] = lambda: self(draw())
        return sample


def left_over(sample: dict, rows: np.ndarray) -> dict:
    """The sample with some of its points, see `select`, and in `kept` which rows of its file they are."""
    own_len = sample.get('origin_len', len(sample['points']))
    return select(dict(dict(kept=np.arange(own_len), num_points=own_len), **sample), rows)


def select(sample: dict, rows: np.ndarray) -> dict:
    """The sample with some of its points and of all that is one for each point.

    Args:
        sample: `points` (N, 4), further arrays (N, ...), and what `perception.lidarseg.datasets.base.pack` knows of.
        rows: (n,) ascending.
    """
    count = len(sample['points'])
    own = rows[:np.searchsorted(rows, sample.get('origin_len', count))]  # past scans follow, without labels
    chosen = {key: array[rows] for key, array in sample.items()
              if isinstance(array, np.ndarray) and array.shape[:1] == (count,)}
    if 'kept' in sample:
        chosen['kept'] = sample['kept'][own]
    if 'labels' in sample:
        chosen['labels'] = rows_of(sample['labels'], sample)[own]
    for key in ('origin_len', 'first_len'):
        if key in sample:
            chosen[key] = int(np.searchsorted(rows, sample[key]))
    return dict(sample, **chosen)


def check_argument(good: bool, message: str) -> None:
    """Refuse an argument of an augmentation.

    Raises:
        ConfigError: with the message.
    """
    if not good:
        raise ConfigError(f'{message}. Correct it in the pipeline.')
