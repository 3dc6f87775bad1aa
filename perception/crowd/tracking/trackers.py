"""Follows people from frame to frame by what was found in each: a greedy tracker, and one of Kalman filters.

* Tianwei Yin, Xingyi Zhou, Philipp Krähenbühl: Center-based 3D Object Detection and Tracking (CVPR 2021): a person is
  looked for where its own velocity says that it was in the frame before.
* Xinshuo Weng, Jianren Wang, David Held, Kris Kitani: 3D Multi-Object Tracking: A Baseline and New Evaluation Metrics
  (IROS 2020), "AB3DMOT": a Kalman filter of constant velocity for each track.

Both join what is near on the ground. Neither knows how the sensor itself moves: velocities are those that it sees, of
what was found as of what is followed. P boxes are found in a frame while T tracks are followed.
"""
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from perception.common.metrics.detection import Pairs, near_pairs, rank, serve
from perception.registry import TASK_UTILS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

ASSOCIATIONS = ('score', 'closest', 'hungarian')
Z = [0, 1, 2, 6, 3, 4, 5]  # columns of a box in the order of a filter's state
YAW, SEEN, STATE = 3, 7, 10  # of a filter: x, y, z, yaw, l, w, h, which are seen, and the change of x, y, z in a frame
MOVE = np.eye(STATE) + np.eye(STATE, k=SEEN)  # a frame later
NOISE = dict(  # variances: of what is seen, of a frame's changes, and of a new track whose velocity is unknown or known
    tuned=dict(seen=(0.04,) * 3 + (0.1,) + (0.02,) * 3, change=(0.02,) * 3 + (0.05,) + (0.001,) * 3 + (0.05,) * 3,
               unknown=1e4, known=1.0),
    reference=dict(seen=(1.0,) * SEEN, change=(1.0,) * SEEN + (0.01,) * 3, unknown=1e4, known=1e4))


class Tracker:
    """Base of the trackers: gives what is found in each frame the number of its track.

    A box without a track that has the score begins one; a track that finds no box goes on where it is expected until it
    has been missed too often.

    Args:
        min_score: of boxes that begin or continue a track.
        max_distance: m on the ground; a box lies nearer than that to where its track is expected.
        max_missed: frames in a row in which a track may be missed, those that are not there included.
        min_hits: frames in which a track has to be found before it counts; a sequence's first ones are spared.
        interval: s between frames.
        association: `'score'`, the box with the best score takes the nearest track, then the next; `'closest'`, the
            closest pair is joined first; `'hungarian'`, as many as possible, with the least sum of distances.
        low_score: boxes from this score on may continue tracks that no better one did, but begin none (ByteTrack,
            Zhang et al., ECCV 2022); None for none.
        low_distance: m, for those.

    Raises:
        ConfigError: an argument that is none of these.
    """

    def __init__(self, min_score: float, max_distance: float, max_missed: int, min_hits: int, interval: float,
                 association: str, low_score: float | None, low_distance: float) -> None:
        where = type(self).__name__
        check_choice(f'{where}: association', association, ASSOCIATIONS)
        check_positive(where, max_distance=max_distance, min_hits=min_hits, interval=interval,
                       low_distance=low_distance)
        numbers = [max_missed, min_score, *([] if low_score is None else [low_score])]
        if not all(isinstance(n, Real) and n == n for n in numbers) or max_missed < 0 or \
                low_score is not None and not low_score < min_score:
            raise ConfigError(f'{where}: max_missed={max_missed!r}, low_score={low_score!r}, min_score={min_score!r}, '
                              'expected numbers, 0 frames or more and a low_score below min_score. Correct them.')
        self.min_score, self.max_distance, self.max_missed, self.min_hits = \
            min_score, max_distance, max_missed, min_hits
        self.interval, self.association, self.low_score, self.low_distance = \
            interval, association, low_score, low_distance
        self.begin()

    def begin(self) -> None:
        """Forget all tracks: a new sequence begins."""
        self.frame, self.next_id, self.last, self.passed = 0, 0, np.nan, 1
        self.tracks = dict(id=np.zeros(0, np.int64), missed=np.zeros(0, np.int64), hits=np.zeros(0, np.int64),
                           **self.born(np.zeros((0, 9))))  # what is known of each, rows in equal order

    def update(self, boxes: np.ndarray, scores: np.ndarray, timestamp: float | None = None) -> np.ndarray:
        """Go on to the next frame.

        Args:
            boxes: (P, 7) or (P, 9) found in it, see BoxSample; P may be 0.
            scores: (P,).
            timestamp: s, tells how many frames are missing since the last; None or NaN for none.

        Returns:
            (P,) int64 number of each box's track, from 0 in the order in which tracks begin; -1 of none.

        Raises:
            DataError: boxes or scores of another shape, or not finite.
        """
        boxes, scores = _checked(boxes, scores)
        now = np.nan if timestamp is None else float(timestamp)
        elapsed = (now - self.last) / self.interval
        self.last, self.passed = now, max(1, round(elapsed)) if np.isfinite(elapsed) else 1
        self.frame += 1
        self.tracks['missed'] += self.passed - 1
        self._keep(self.tracks['missed'] <= self.max_missed)
        self.predict()
        order = rank(scores)
        strong, track = order[scores[order] >= self.min_score], np.full(len(boxes), -1)
        track[strong] = self._join(boxes[strong], np.arange(len(self.tracks['id'])), self.max_distance)
        if self.low_score is not None:
            weak = order[(scores[order] < self.min_score) & (scores[order] >= self.low_score)]
            track[weak] = self._join(boxes[weak], np.setdiff1d(np.arange(len(self.tracks['id'])), track),
                                     self.low_distance)
        self.tracks['missed'] += 1
        found = np.flatnonzero(track >= 0)
        self.correct(track[found], boxes[found])
        self.tracks['missed'][track[found]] = 0
        self.tracks['hits'][track[found]] += 1
        self.coast(np.flatnonzero(self.tracks['missed']))
        new = np.sort(strong[track[strong] < 0])
        track[new] = len(self.tracks['id']) + np.arange(len(new))
        born = dict(id=self.next_id + np.arange(len(new)), missed=np.zeros(len(new), np.int64),
                    hits=np.ones(len(new), np.int64), **self.born(boxes[new]))
        self.next_id += len(new)
        self.tracks = {key: np.concatenate([values, born[key]]) for key, values in self.tracks.items()}
        counts = (self.tracks['hits'] >= self.min_hits) | (self.frame <= self.min_hits)
        ids = np.append(np.where(counts, self.tracks['id'], -1), -1)[track]  # -1 takes the last one
        self._keep(self.tracks['missed'] <= self.max_missed)
        return ids

    def _keep(self, rows: np.ndarray) -> None:
        self.tracks = {key: values[rows] for key, values in self.tracks.items()}

    def _join(self, boxes: np.ndarray, tracks: np.ndarray, distance: float) -> np.ndarray:
        """Of some boxes, the best first, the one of some tracks that each continues, -1 for none."""
        pairs = near_pairs(self.expected(boxes), np.zeros(len(boxes), np.int64), self.tracks['place'][tracks],
                           np.zeros(len(tracks), np.int64), distance)
        rows = associate(pairs, len(boxes), len(tracks), self.association)
        return np.append(tracks, -1)[rows]

    def born(self, boxes: np.ndarray) -> dict[str, np.ndarray]:
        """What is known of new tracks (P, 9): `place` (P, 2), x, y [m], that `expected` is compared with, and more."""
        raise NotImplementedError(f'{type(self).__name__} has no born; write it.')

    def predict(self) -> None:
        """Bring what is known of the tracks to the frame that begins, `passed` frames after the last."""

    def expected(self, boxes: np.ndarray) -> np.ndarray:
        """(P, 2) where tracks lie that boxes (P, 9) continue [m]."""
        return boxes[:, :2]

    def correct(self, tracks: np.ndarray, boxes: np.ndarray) -> None:
        """Tell some tracks, (M,) rows, which boxes (M, 9) they were found at."""
        raise NotImplementedError(f'{type(self).__name__} has no correct; write it.')

    def coast(self, tracks: np.ndarray) -> None:
        """Move tracks, (M,) rows, that were not found in this frame."""


@TASK_UTILS.register_module()
class GreedyTracker(Tracker):
    """CenterPoint's: a box is put back by its own velocity, and takes the track that lies there.

    The reference's `max_age` is `max_missed` + 1. Other than there a frame in which nobody is found ends no track.

    Args:
        min_score, max_distance, max_missed, min_hits, interval, association, low_score, low_distance: see Tracker. The
            distance is the reference's for pedestrians, 1 m in 0.5 s, in STCrowd's interval.

    Raises:
        ConfigError: see Tracker.
    """

    def __init__(self, min_score: float = 0.3, max_distance: float = 0.8, max_missed: int = 2, min_hits: int = 1,
                 interval: float = 0.4, association: str = 'score', low_score: float | None = None,
                 low_distance: float = 0.6) -> None:
        super().__init__(min_score, max_distance, max_missed, min_hits, interval, association, low_score, low_distance)

    def born(self, boxes: np.ndarray) -> dict[str, np.ndarray]:
        return dict(place=boxes[:, :2], step=self._steps(boxes))

    def expected(self, boxes: np.ndarray) -> np.ndarray:
        return boxes[:, :2] - self._steps(boxes) * self.passed

    def correct(self, tracks: np.ndarray, boxes: np.ndarray) -> None:
        self.tracks['place'][tracks], self.tracks['step'][tracks] = boxes[:, :2], self._steps(boxes)

    def coast(self, tracks: np.ndarray) -> None:
        self.tracks['place'][tracks] += self.tracks['step'][tracks] * self.passed

    def _steps(self, boxes: np.ndarray) -> np.ndarray:
        """(P, 2) m that boxes move in a frame; none where it is unknown."""
        return np.nan_to_num(boxes[:, 7:]) * self.interval


@TASK_UTILS.register_module()
class KalmanTracker(Tracker):
    """AB3DMOT's: each track is a Kalman filter of a box that moves at a constant velocity.

    The reference's `max_age` is `max_missed` + 1. Other than there a new track begins with the velocity of its box
    where that is known, and distances on the ground decide, not the overlap of boxes, which people this thin rarely
    have from frame to frame.

    Args:
        min_score, max_distance, max_missed, min_hits, interval, association, low_score, low_distance: see Tracker.
        noise: variances of the filter, `'tuned'` to people at STCrowd's interval or the `'reference'`'s.

    Raises:
        ConfigError: see Tracker, or another `noise`.
    """

    def __init__(self, min_score: float = 0.3, max_distance: float = 1.0, max_missed: int = 3, min_hits: int = 2,
                 interval: float = 0.4, association: str = 'closest', low_score: float | None = None,
                 low_distance: float = 0.6, noise: str = 'tuned') -> None:
        check_choice('KalmanTracker: noise', noise, NOISE)
        self.noise = NOISE[noise]
        super().__init__(min_score, max_distance, max_missed, min_hits, interval, association, low_score, low_distance)

    def born(self, boxes: np.ndarray) -> dict[str, np.ndarray]:
        known = np.isfinite(boxes[:, 7:]).all(axis=1)
        mean = np.zeros((len(boxes), STATE))
        mean[:, :SEEN], mean[known, SEEN:SEEN + 2] = boxes[:, Z], boxes[known, 7:] * self.interval
        spread = np.full((len(boxes), STATE), 10.0)
        spread[:, SEEN:] = np.where(known, self.noise['known'], self.noise['unknown'])[:, None]
        return dict(place=boxes[:, :2], mean=mean, spread=spread[:, None] * np.eye(STATE))

    def predict(self) -> None:
        for _ in range(self.passed if len(self.tracks['id']) else 0):
            self.tracks['mean'] = self.tracks['mean'] @ MOVE.T
            self.tracks['spread'] = MOVE @ self.tracks['spread'] @ MOVE.T + np.diag(self.noise['change'])
        self.tracks['place'] = self.tracks['mean'][:, :2]

    def correct(self, tracks: np.ndarray, boxes: np.ndarray) -> None:
        mean, spread = self.tracks['mean'][tracks], self.tracks['spread'][tracks]
        off = boxes[:, Z] - mean[:, :SEEN]
        off[:, YAW] = (off[:, YAW] + np.pi) % (2 * np.pi) - np.pi
        turned = np.abs(off[:, YAW]) > np.pi / 2  # front and back of a person are often confused
        mean[turned, YAW] += np.pi
        off[turned, YAW] -= np.pi * np.sign(off[turned, YAW])
        seen = spread[:, :SEEN, :SEEN] + np.diag(self.noise['seen'])
        gain = np.linalg.solve(seen, spread[:, :SEEN]).transpose(0, 2, 1)  # (M, 10, 7)
        self.tracks['mean'][tracks] = mean + (gain @ off[:, :, None])[:, :, 0]
        self.tracks['spread'][tracks] = spread - gain @ spread[:, :SEEN]
        self.tracks['place'][tracks] = self.tracks['mean'][tracks, :2]


def associate(pairs: Pairs, num_boxes: int, num_tracks: int, how: str = 'closest') -> np.ndarray:
    """Join boxes with tracks.

    Args:
        pairs: those that may be joined, see Pairs; its `preds` are the boxes, the best first.
        num_boxes, num_tracks: P and T.
        how: see Tracker.

    Returns:
        (P,) int64 track of each box, -1 for none.
    """
    if how == 'score':
        return serve(pairs, num_boxes, num_tracks)
    result, left = np.full(num_boxes, -1), np.full((num_boxes, num_tracks), np.inf)
    left[pairs.preds, pairs.boxes] = pairs.distances
    if how == 'hungarian':
        rows, columns = linear_sum_assignment(np.where(np.isfinite(left), left, 1e6))
        good = np.isfinite(left[rows, columns])
        result[rows[good]] = columns[good]
        return result
    while np.isfinite(left).any():  # those who are nearest to each other belong together, whoever else there is
        rows, columns = left.argmin(axis=1), left.argmin(axis=0)
        mutual = np.flatnonzero((columns[rows] == np.arange(num_boxes)) & np.isfinite(left.min(axis=1)))
        result[mutual] = rows[mutual]
        left[mutual], left[:, rows[mutual]] = np.inf, np.inf
    return result


def _checked(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (P, 9), velocities NaN where unknown, and scores (P,), float64."""
    boxes, scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] not in (7, 9) or scores.shape != boxes.shape[:1] or \
            not (np.isfinite(boxes[:, :7]).all() and np.isfinite(scores).all()) or np.isinf(boxes[:, 7:]).any():
        raise DataError(f'tracking: boxes of shape {boxes.shape} and scores of shape {scores.shape}, expected (P, 7) '
                        'or (P, 9) and (P,) finite numbers. Correct what is tracked.')
    return np.pad(boxes, ((0, 0), (0, 9 - boxes.shape[1])), constant_values=np.nan), scores


def make_tracker(tracker: Tracker | Mapping | str | None = None, **defaults: Any) -> Tracker:
    """The tracker of a name or a config; one of Kalman filters where there is none.

    Args:
        tracker: such as `'GreedyTracker'` or `dict(type=KalmanTracker, max_missed=5)`.
        **defaults: arguments that a config does not give.

    Raises:
        ConfigError: a name that no tracker has, something else than these, or arguments that it does not have.
    """
    if isinstance(tracker, Tracker):
        return tracker
    if not isinstance(tracker, (str, Mapping, type(None))):
        raise ConfigError(f"tracker={tracker!r}, expected a name or a config such as dict(type='GreedyTracker'). Give "
                          'one of them.')
    config = dict(type=tracker) if isinstance(tracker, str) else dict(tracker or {})
    kind = config.pop('type', KalmanTracker)
    if isinstance(kind, str):
        known = [name for name, one in TASK_UTILS.module_dict.items() if isinstance(one, type)
                 and issubclass(one, Tracker)]
        check_choice('tracker', kind, known)
        kind = TASK_UTILS.get(kind)
    if not (isinstance(kind, type) and issubclass(kind, Tracker)):
        raise ConfigError(f'tracker: type={kind!r}, expected a Tracker or its name. Correct it.')
    try:
        return kind(**{**defaults, **config})
    except TypeError as error:
        raise ConfigError(f'tracker={config!r}: {error}, expected arguments of {kind.__name__}. Correct them.') \
            from error
