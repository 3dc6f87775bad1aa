"""A drive as a film: each scan from a camera that follows the car, or from one that stands beside the road.

Where the data set tells the poses of scans, those that went before stay visible, darkened; without poses a camera can
only follow the car.
"""
from collections.abc import Sequence

import numpy as np

from perception.common.visual import canvas
from perception.common.visual.points import View, paint, visible_points
from perception.lidarseg.draw import error_colors, height_colors, label_colors, scan_score
from perception.utils.checks import check_choice
from perception.utils.errors import DataError

CAMERAS = ('follow', 'fixed')
HISTORY = 40  # earlier scans that stay visible
CELL = 0.2  # m; one point of earlier scans is kept in a cube of this size
DIM = 0.45  # brightness of earlier scans
CAR = (255, 255, 255)
HEIGHT = 1.73  # m above the ground, of the sensor that cameras and the car's outline stand around


class Film:
    """Draws one scan after the other; what has been seen stays visible, darkened, where poses are known.

    Args:
        camera: 'follow' or 'fixed'.
        poses: (F, 4, 4) from the LiDAR of each frame to a common world, None where they are unknown.
        classes: C class names.
        palette: C RGB colours.
        forward: direction of travel in the LiDAR's frame, rad from x to y.
        height: of that frame's origin above the ground [m].
        ahead: how far before that origin the sensor stands, around which the car is drawn [m].

    Raises:
        ConfigError: an unknown camera.
        DataError: a fixed camera without poses.
    """

    def __init__(self, camera: str, poses: np.ndarray | None, classes: Sequence[str],
                 palette: Sequence[Sequence[int]], forward: float = 0.0, height: float = HEIGHT,
                 ahead: float = 0.0) -> None:
        check_choice('camera', camera, CAMERAS)
        if camera == 'fixed' and poses is None:
            raise DataError('Film: a fixed camera without poses, expected one for each scan. Take the camera follow, '
                            'which needs none.')
        self.camera, self.classes, self.palette = camera, classes, palette
        cos, sin = np.cos(forward), np.sin(forward)
        lift = height - HEIGHT
        self.turn = np.array([[cos, sin, 0, -ahead], [-sin, cos, 0, 0], [0, 0, 1, lift], [0, 0, 0, 1.0]])  # x forward
        self.poses = None if poses is None else np.asarray(poses) @ np.linalg.inv(self.turn)
        self.past = Past()
        self.fixed = stand_beside(self.poses) if camera == 'fixed' else None
        self.smooth = None if poses is None else smoothed(self.poses)

    def frame(self, number: int, points: np.ndarray, pred_labels: np.ndarray | None = None,
              labels: np.ndarray | None = None, title: str = '') -> np.ndarray:
        """The picture of one scan.

        Args:
            number: row of its pose.
            points: (N, 3+) x, y, z [m].
            pred_labels, labels: (N,) train ids, 255 = unlabelled, if there are any. With both, errors stand beside the
                prediction; with none, points are coloured by height.
            title: written above the picture.

        Returns:
            (H, W, 3) uint8 RGB, of one size for all frames.
        """
        here = moved(self.turn, np.asarray(points, np.float64)[:, :3])
        kinds = [values for values in (pred_labels, labels) if values is not None]
        values = np.stack(kinds, 1).astype(np.int64) if kinds else np.zeros((len(here), 0), np.int64)
        to_camera, view = self._camera(number)
        cloud, seen = [moved(to_camera, here)], [values]
        if self.poses is not None:
            if len(self.past.points):
                cloud.append(moved(to_camera @ np.linalg.inv(self.poses[number]), self.past.points))
                seen.append(self.past.values)
            self.past.add(moved(self.poses[number], here), values)
        car = moved(to_camera, car_outline())
        cloud, seen = np.concatenate([*cloud, car]), np.concatenate(seen)
        size = (960, 540) if len(kinds) == 2 else (1280, 720)
        visible = visible_points(cloud, view, *size)
        panels = [canvas.titled(paint(visible, self._colors(colors, cloud, len(here), len(car))), name, note)
                  for name, note, colors in self._kinds(seen, pred_labels is not None, labels is not None, cloud)]
        body = canvas.beside(panels)
        score = scan_score(pred_labels, labels, len(self.classes)) if len(kinds) == 2 else ''
        rows = [canvas.bar(body.shape[1], title, score), body]
        if kinds:
            names = [*self.classes, 'unlabeled']
            rows.append(canvas.legend(names, label_colors(np.arange(len(names)), self.palette), body.shape[1]))
        return canvas.stacked(rows, gap=0)

    def _camera(self, number: int) -> tuple[np.ndarray, View]:
        """(4, 4) from the scan's frame (x forward) to that of the view, and the view."""
        if self.fixed is not None:
            return self.poses[number], self.fixed
        follow = View(eye=(-15.0, 0.0, 8.5), target=(11.0, 0.0, -1.8), fov=50.0)
        if self.smooth is None:
            return np.eye(4), follow
        return np.linalg.inv(self.smooth[number]) @ self.poses[number], follow

    def _kinds(self, seen: np.ndarray, predicted: bool, true: bool,
               cloud: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
        """Name, note and colours of what is drawn; labels (M, 0..2) of all points but the car's."""
        past = '' if self.poses is None else 'earlier scans darkened'
        if predicted and true:
            return [('prediction', past, label_colors(seen[:, 0], self.palette)),
                    ('errors', 'wrong red, right grey, ignored dark' if self.poses is None else
                     'wrong red, right grey, ignored and earlier scans dark',
                     error_colors(seen[:, 0], seen[:, 1], len(self.classes)))]
        if predicted or true:
            return [('prediction' if predicted else 'ground truth', past, label_colors(seen[:, 0], self.palette))]
        return [('points', 'coloured by height', height_colors(cloud[:len(seen)]))]

    @staticmethod
    def _colors(colors: np.ndarray, cloud: np.ndarray, now: int, car: int) -> np.ndarray:
        """Colours of the whole cloud: earlier scans darkened, the car's outline at the end."""
        colors = colors.copy()
        colors[now:] = (colors[now:] * DIM).astype(np.uint8)
        return np.concatenate([colors, np.full((car, 3), CAR, np.uint8)])


def smoothed(poses: np.ndarray, metres: float = 4.0) -> np.ndarray:
    """Poses (F, 4, 4) of a calm camera: level, place and heading averaged over so many metres, at most 17 frames."""
    step = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).mean() if len(poses) > 1 else 0
    radius = int(np.clip(metres / max(step, 1e-3) / 2, 0, 8))
    weights = np.hanning(2 * radius + 3)[1:-1]
    heading = np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
    track = np.concatenate([poses[:, :3, 3], heading[:, None]], axis=1)
    odd = dict(mode='reflect', reflect_type='odd') if len(track) > radius else dict(mode='edge')
    padded = np.pad(track, ((radius, radius), (0, 0)), **odd)
    track = np.stack([np.convolve(column, weights / weights.sum(), 'valid') for column in padded.T], axis=1)
    calm = np.tile(np.eye(4), (len(poses), 1, 1))
    cos, sin = np.cos(track[:, 3]), np.sin(track[:, 3])
    calm[:, :2, :2] = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
    calm[:, :3, 3] = track[:, :3]
    return calm


def stand_beside(poses: np.ndarray) -> View:
    """A camera above the side of the road that oversees the drive, or the middle 80 m of a longer one.

    Args:
        poses: (F, 4, 4), x forward.
    """
    places = poses[:, :3, 3]
    along = np.append(0, np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1)))
    inside = np.abs(along - along[-1] / 2) <= 40
    places, forward = places[inside], poses[inside, :3, 0].mean(axis=0)
    forward = np.array([*forward[:2], 0]) / max(np.linalg.norm(forward[:2]), 1e-6)
    middle = (places.min(axis=0) + places.max(axis=0)) / 2
    radius = max(np.linalg.norm(places.max(axis=0) - places.min(axis=0)) / 2, 12)
    right = np.array([forward[1], -forward[0], 0])
    eye = middle - (1.1 * radius + 14) * forward + (0.35 * radius + 6) * right + (0, 0, 0.45 * radius + 9)
    return View(eye=tuple(eye), target=tuple(middle + 4 * forward + (0, 0, -1.5)), fov=50.0)


class Past:
    """What earlier scans showed, in the world: the newest point in each cube of `CELL`, of `HISTORY` scans.

    Attributes:
        points: (M, 3) [m].
        values: (M, K) labels.
    """

    def __init__(self) -> None:
        self.points, self.values = np.zeros((0, 3)), None
        self.cells = self.ages = np.zeros(0, np.int64)

    def add(self, points: np.ndarray, values: np.ndarray) -> None:
        """Add the points (N, 3) of a scan and their labels (N, K)."""
        column, row, level = (np.floor(points / CELL).astype(np.int64) + (1 << 20)).T  # 21 bits each: 200 km
        cells = np.concatenate([column << 42 | row << 21 | level, self.cells])
        ages = np.concatenate([np.zeros(len(points), np.int64), self.ages + 1])
        points = np.concatenate([points, self.points])
        values = values if self.values is None else np.concatenate([values, self.values])
        self.cells, first = np.unique(cells, return_index=True)  # the first ones are the newest
        young = ages[first] < HISTORY
        self.cells, first = self.cells[young], first[young]
        self.points, self.values, self.ages = points[first], values[first], ages[first]


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) after a (4, 4) transform."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def car_outline() -> np.ndarray:
    """Points (M, 3) on the edges of a car around the sensor, x forward [m]."""
    low, high = np.array([-2.3, -0.95, -1.6]), np.array([2.1, 0.95, -0.2])
    steps = np.linspace(0, 1, 90)
    edges = []
    for axis in range(3):
        others = [i for i in range(3) if i != axis]
        for a in (low, high):
            for b in (low, high):
                edge = np.empty((len(steps), 3))
                edge[:, axis] = low[axis] + steps * (high - low)[axis]
                edge[:, others[0]], edge[:, others[1]] = a[others[0]], b[others[1]]
                edges.append(edge)
    return np.concatenate(edges)
