"""Augmentation that mixes two scans, for training: callables as in transforms.py, to stand before those.

The second scan comes from the sample's `draw`, untouched, as the data set reads it. All choices come from the sample's
`rng`, so that they are the same for any number of workers.
"""
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from perception.common.dataset import build_pipeline
from perception.lidarseg.transforms import check_argument, move_xy, xy_matrix
from perception.registry import TRANSFORMS
from perception.utils.errors import DataError

# of SemanticKITTI
RARE = ('bicycle', 'motorcycle', 'truck', 'other-vehicle', 'person', 'bicyclist', 'motorcyclist')
GROUND = ('road', 'parking', 'sidewalk', 'other-ground', 'terrain')


@TRANSFORMS.register_module()
class LaserMix:
    """Rings of two scans in turn: areas of inclination alternate between them (Kong et al., CVPR 2023).

    Args:
        num_areas: one of these numbers is drawn.
        pitch_range: lowest and highest angle above the horizon that is divided [degrees]; what lies beyond belongs to
            the outer areas.
        prob: how often it is applied.
        sensor_z: height in the scans' frame from which angles are measured [m]: 0 in a LiDAR's own frame, about 2.2 in
            that of Waymo's vehicle, whose TOP LiDAR stands there.

    Raises:
        ConfigError: an argument out of its range.
        DataError: of two scans, that all points lie in the highest area.
    """

    def __init__(self, num_areas: Sequence[int] = (3, 4, 5, 6), pitch_range: Sequence[float] = (-25.0, 3.0),
                 prob: float = 1.0, sensor_z: float = 0.0) -> None:
        check_argument(len(num_areas) > 0 and min(num_areas) > 1,
                       f'LaserMix: num_areas={num_areas}, expected numbers above 1')
        check_argument(len(pitch_range) == 2 and -90 <= pitch_range[0] < pitch_range[1] <= 90,
                       f'LaserMix: pitch_range={pitch_range}, expected two angles in -90..90, the lower one first')
        _check_prob('LaserMix', prob=prob)
        self.num_areas, self.prob, self.sensor_z = tuple(num_areas), prob, sensor_z
        self.low, self.high = np.deg2rad(pitch_range)

    def __call__(self, sample: dict) -> dict:
        rng = sample['rng']
        if rng.random() >= self.prob:
            return sample
        other = draw_scan(sample, 'LaserMix')
        number = self.num_areas[int(rng.integers(len(self.num_areas)))]
        own_areas, other_areas = (self.areas(scan['points'], number) for scan in (sample, other))
        if not own_areas.any() and not other_areas.any():
            raise DataError(f'LaserMix: no point of {sample["sample_id"]} or of the scan to mix it with is lower than '
                            f'the highest of {number} areas, expected scans seen from the LiDAR, most of whose points '
                            'lie below it. Give its height in their frame by sensor_z.')
        return _join(sample, (sample, own_areas % 2 == 0), (other, other_areas % 2 == 1))

    def areas(self, points: np.ndarray, number: int) -> np.ndarray:
        """(N,) int8 area of each point, 0 the highest."""
        x, y, z = np.ascontiguousarray(points[:, :3].T)
        z = z - z.dtype.type(self.sensor_z)
        rho = np.sqrt(x * x + y * y)
        slopes = np.tan(np.linspace(self.high, self.low, number + 1)[1:-1]).astype(points.dtype)  # between the areas
        return sum((z <= slope * rho).astype(np.int8) for slope in slopes)


@TRANSFORMS.register_module()
class PolarMix:
    """Half a turn of another scan, and its objects pasted three times around the scanner (Xiao et al., NeurIPS 2022).

    Args:
        classes: names or train ids of the objects that are pasted; by default SemanticKITTI's vehicles and people.
        swap_prob: how often half a turn is swapped.
        paste_prob: how often objects are pasted.

    Raises:
        ConfigError: an argument out of its range, or a name that the data do not have.
    """

    def __init__(self, classes: Sequence[int | str] = ('car', *RARE), swap_prob: float = 0.5,
                 paste_prob: float = 1.0) -> None:
        _check_prob('PolarMix', swap_prob=swap_prob, paste_prob=paste_prob)
        self.swap_prob, self.paste_prob = swap_prob, paste_prob
        self.classes = _checked('PolarMix', 'classes', classes)

    def __call__(self, sample: dict) -> dict:
        rng, other = sample['rng'], draw_scan(sample, 'PolarMix')
        parts = [(sample, slice(None))]
        if rng.random() < self.swap_prob:
            start = rng.uniform(-np.pi, 0)
            (own_inside, other_inside) = (_half_turn(scan['points'], start) for scan in (sample, other))
            parts = [(sample, ~own_inside), (other, other_inside)]
        if rng.random() < self.paste_prob:
            objects = _take(other, class_table(sample, self.classes, 'PolarMix: classes')[other['labels']])
            turns = (0, *((rng.random(2) + (0, 1)) * 2 * np.pi / 3))  # none, up to 120, 120 to 240 degrees
            parts += [(dict(objects, points=move_xy(objects['points'], xy_matrix(angle))), slice(None))
                      for angle in turns]
        return _join(sample, *parts)


@TRANSFORMS.register_module()
class PasteObjects:
    """Objects of rare classes from another scan, turned about the scanner to a free place on the ground.

    Turning keeps an object's distance, and with it how many points it has. Objects are told apart by the gaps between
    them as seen from above, so no instance ids are needed. An object is left out where no place is found. Points behind
    a pasted object stay.

    Args:
        classes: names or train ids of the objects, by default those rare in SemanticKITTI.
        ground: those of what objects stand on, by default SemanticKITTI's.
        max_objects: at most so many are pasted, drawn at random.
        min_points: of an object; smaller ones say little.
        tries: places that are tried for each.
        cell: side of the squares in which objects, ground and free places are looked for [m].
        radius: how far from the scanner [m].
        prob: how often it is applied.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, classes: Sequence[int | str] = RARE, ground: Sequence[int | str] = GROUND,
                 max_objects: int = 10, min_points: int = 20, tries: int = 10, cell: float = 0.5, radius: float = 50.0,
                 prob: float = 1.0) -> None:
        counts = dict(max_objects=max_objects, min_points=min_points, tries=tries)
        check_argument(min(counts.values()) > 0, f'PasteObjects: {counts}, expected numbers above 0')
        check_argument(0 < cell < radius,
                       f'PasteObjects: cell={cell}, radius={radius}, expected lengths in m, 0 < cell < radius')
        _check_prob('PasteObjects', prob=prob)
        self.max_objects, self.min_points, self.tries, self.prob = max_objects, min_points, tries, prob
        self.cell, self.radius, self.size = cell, radius, int(np.ceil(2 * radius / cell))
        self.classes = _checked('PasteObjects', 'classes', classes)
        self.ground = _checked('PasteObjects', 'ground', ground)

    def __call__(self, sample: dict) -> dict:
        rng = sample['rng']
        if rng.random() >= self.prob:
            return sample
        other = draw_scan(sample, 'PasteObjects')
        wanted = class_table(sample, self.classes, 'PasteObjects: classes')
        carries = class_table(sample, self.ground, 'PasteObjects: ground')
        objects = self.objects(other, wanted)
        if not objects:
            return sample
        _, source = self.maps(other, carries)
        blocked, target = self.maps(sample, carries)
        parts = [(sample, slice(None))]
        for number in rng.permutation(len(objects))[:self.max_objects]:
            thing = _take(other, objects[number])
            placed = self.place(thing['points'], source, target, blocked, rng)
            if placed is not None:
                parts.append((dict(thing, points=placed), slice(None)))
        return _join(sample, *parts)

    def cells(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Square of each position (..., 2), one number, and whether it is inside the radius."""
        u, v = ((xy[..., axis] + self.radius) / self.cell for axis in range(2))
        inside = (u >= 0) & (u < self.size) & (v >= 0) & (v < self.size)
        return np.where(inside, u, 0).astype(np.int32) * self.size + np.where(inside, v, 0).astype(np.int32), inside

    def objects(self, scan: dict, wanted: np.ndarray) -> list[np.ndarray]:
        """Rows of each object: points of one class, of those that `wanted` (256,) has, whose squares touch."""
        found = []
        rows = np.flatnonzero(wanted[scan['labels']])
        cells, inside = self.cells(scan['points'][rows, :2])
        rows, cells = rows[inside], cells[inside]
        for label in np.unique(scan['labels'][rows]):
            members = scan['labels'][rows] == label
            occupied = np.zeros(self.size ** 2, bool)
            occupied[cells[members]] = True
            number = ndimage.label(occupied.reshape(self.size, -1), np.ones((3, 3)))[0].ravel()[cells[members]]
            order = np.argsort(number, kind='stable')
            groups = np.split(rows[members][order], np.flatnonzero(np.diff(number[order])) + 1)
            found += [group for group in groups if len(group) >= self.min_points]
        return found

    def maps(self, scan: dict, carries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Squares with anything but ground (size ** 2,) bool, and height of the ground around each, NaN where none.

        Args:
            scan: its `points` and `labels`.
            carries: (256,) bool, the train ids that are ground.
        """
        cells, inside = self.cells(scan['points'][:, :2])
        ground = carries[scan['labels']]
        blocked = np.zeros(self.size ** 2, bool)
        blocked[cells[inside & ~ground]] = True
        rows = inside & ground
        sums = [np.bincount(cells[rows], weights, self.size ** 2).reshape(self.size, -1)
                for weights in (scan['points'][rows, 2], None)]
        height, count = (ndimage.uniform_filter(total, 5, float, 'constant') for total in sums)
        with np.errstate(invalid='ignore', divide='ignore'):
            return blocked, np.where(count > 1e-6, height / count, np.nan).ravel()

    def place(self, points: np.ndarray, source: np.ndarray, target: np.ndarray, blocked: np.ndarray,
              rng: np.random.Generator) -> np.ndarray | None:
        """The object at the first free place of `tries`, at the height of the ground there; `blocked` gets its squares.

        Args:
            points: (n, 4) of the object.
            source: height of the ground where it comes from, see `maps`.
            target: height of the ground where it goes.
            blocked: squares that are taken.
            rng: of the sample.
        """
        angles = rng.uniform(-np.pi, np.pi, self.tries)
        cos, sin = np.cos(angles), np.sin(angles)
        matrices = np.stack([cos, -sin, sin, cos], 1).reshape(-1, 2, 2)
        cells, inside = self.cells(np.einsum('tij,nj->tni', matrices, points[:, :2]))
        centres, there = self.cells(matrices @ points[:, :2].mean(0))
        good = np.flatnonzero(inside.all(1) & ~blocked[cells].any(1) & there & np.isfinite(target[centres]))
        if not len(good):
            return None
        chosen = good[0]
        blocked[cells[chosen]] = True
        home = source[self.cells(points[:, :2].mean(0))[0]]
        base = points[:, 2].min() if np.isnan(home) else home
        placed = move_xy(points, xy_matrix(angles[chosen]))
        placed[:, 2] += target[centres[chosen]] - base
        return placed


@TRANSFORMS.register_module()
class OneOf:
    """One of several augmentations, each equally likely.

    Args:
        steps: callables or their configs.

    Raises:
        ConfigError: there are none.
    """

    def __init__(self, steps: Sequence[dict | Callable]) -> None:
        check_argument(len(steps) > 0, 'OneOf: no steps, expected at least one augmentation')
        self.steps = build_pipeline(steps)

    def __call__(self, sample: dict) -> dict:
        return self.steps[int(sample['rng'].integers(len(self.steps)))](sample)


def draw_scan(sample: dict, who: str) -> dict:
    """Another scan of the data set, `points` and `labels`.

    Raises:
        DataError: the data set hands out none, or the scans have no labels.
    """
    if 'draw' not in sample or 'labels' not in sample:
        raise DataError(f'{who}: a sample with {", ".join(sample)}, expected labels and draw(), which reads another '
                        'scan. Use it in the training pipeline of a data set that offers both.')
    return sample['draw']()


def _half_turn(points: np.ndarray, start: float) -> np.ndarray:
    """(N,) bool, whether a point's yaw, clockwise, lies in [start, start + pi): left of the ray at -start."""
    return np.float32(-np.sin(start)) * points[:, 0] - np.float32(np.cos(start)) * points[:, 1] >= 0


def _take(scan: dict, rows: np.ndarray | slice) -> dict:
    if not isinstance(rows, slice) and rows.dtype == bool:
        rows = np.flatnonzero(rows)  # faster for rows of four
    return {key: scan[key][rows] for key in ('points', 'labels')}


def _join(sample: dict, *parts: tuple[dict, np.ndarray | slice]) -> dict:
    """The sample with chosen rows of some scans in a row, which are no longer rows of one file, and `mixed`."""
    taken = [_take(scan, rows) for scan, rows in parts]
    sample = {key: value for key, value in sample.items() if key not in ('kept', 'num_points', 'scan', 'scan_ids')}
    joined = {key: np.concatenate([part[key] for part in taken]) for key in ('points', 'labels')}
    return dict(sample, mixed=True, **joined)


def class_table(sample: dict, classes: Sequence[int | str], where: str) -> np.ndarray:
    """(256,) bool, true for the train ids of some classes.

    Args:
        sample: its `classes` are the names of the data set's.
        classes: names or train ids.
        where: start of an error message.

    Raises:
        ConfigError: one that the data do not have.
    """
    names = [*(sample.get('classes') or ())]
    absent = [str(one) for one in classes if (one not in names if isinstance(one, str) else 0 < len(names) <= one)]
    check_argument(not absent, f'{where}: the data have no {", ".join(absent)}, expected train ids or some of '
                               f'{", ".join(names) or "their names, which they do not tell"}')
    table = np.zeros(256, bool)
    table[[names.index(one) if isinstance(one, str) else one for one in classes]] = True
    return table


def _checked(who: str, name: str, classes: Sequence[int | str]) -> tuple[int | str, ...]:
    ids = [one for one in classes if not isinstance(one, str)]
    check_argument(len(classes) > 0 and not isinstance(classes, str) and all(0 <= one < 255 for one in ids),
                   f'{who}: {name}={classes!r}, expected names or train ids of classes of the data set')
    return tuple(classes)


def _check_prob(who: str, **probs: float) -> None:
    for name, prob in probs.items():
        check_argument(0 <= prob <= 1, f'{who}: {name}={prob}, expected a probability, 0 to 1')
