"""The detection score of STCrowd: average precision and recall by the distance of centres, with its breakdowns.

A person is found where a predicted centre lies nearer than 0.25, 0.5 or 1 m; mAP is the mean over these. The official
page says "3D center distance"; the score it descends from, and the one public implementation (CrowdQuery), take the
distance on the ground, so that is the default. Recalls AR_0 ... AR_2 are by level of occlusion: for each level the
people of the others are left out and all predictions are matched with the rest, as CrowdQuery does, which is generous,
for a box that belongs to one person may find another nearby; AR_0_joint ... come from one matching with all people.

Where a part of the people is scored (by distance from the sensor, by neighbours within 2 m, by number of points), all
people are matched first. Those of the part are its truth; a prediction that found one of the others is left out; one
that found nobody counts by its own distance from the sensor, or in the part of the person nearest to it within 2 m;
where nobody stands there, it has no neighbour, and its number of points is unknown: then it counts in each part.
"""
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.common.boxes import within_image
from perception.common.metrics.detection import (
    TIES,
    Curve,
    Pairs,
    average_precision,
    box_errors,
    make_curve,
    mean_error,
    near_pairs,
    rank,
    serve,
)
from perception.registry import METRICS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

DISTANCES = (0.25, 0.5, 1.0)  # m
LEVELS = (0, 1, 2)  # of occlusion
IMAGE = (1280, 720)  # width and height of the left image in pixels, where a sample does not tell
ORDERS = dict(devkit=TIES[0], crowdquery=TIES[1])
DIMENSIONS = {'bev': 2, '3d': 3}
PARTS = dict(  # bounds, the lower ones included
    range={'0-10m': (0, 10), '10-20m': (10, 20), '20-35m': (20, np.inf)},
    density={'0-1': (0, 2), '2-3': (2, 4), '4+': (4, np.inf)},
    points={'15-50': (15, 50), '50-200': (50, 200), '200+': (200, np.inf)})
NEIGHBOURHOOD = 2.0  # m
ERRORS = dict(ATE='trans', ASE='scale', AOE='orient', AVE='vel')


@dataclass(frozen=True)
class Filters:
    """Which people and predictions count.

    Attributes:
        min_height: m, of people; lower ones sit. The official converter leaves them out.
        max_range: m on the ground from the sensor, of people and predictions: nobody is labelled beyond.
        front: people and predictions with x >= 0 only: nobody is labelled behind.
        min_points: LiDAR points of a person.
        view: `'lidar'`, or `'camera'`: people and predictions whose centre the left image shows, nobody without one.
        min_score: of predictions.
        max_boxes: predictions of a frame, the best of those that are left.
    """

    min_height: float = 1.2
    max_range: float = 35.0
    front: bool = True
    min_points: int = 1
    view: str = 'lidar'
    min_score: float = 0.05
    max_boxes: int = 200

    def __post_init__(self) -> None:
        check_choice('STCrowd: view', self.view, ('lidar', 'camera'))
        check_positive('STCrowd', max_range=self.max_range, max_boxes=self.max_boxes)

    def region(self, boxes: np.ndarray, sample: Mapping) -> np.ndarray:
        """(K,) bool, which boxes (K, 7+) lie where people are labelled.

        Raises:
            DataError: the sample has no `lidar_to_image`, and `view` needs it.
        """
        inside = np.hypot(boxes[:, 0], boxes[:, 1]) <= self.max_range
        if self.front:
            inside &= boxes[:, 0] >= 0
        if self.view == 'camera':
            matrix = sample.get('lidar_to_image')
            if matrix is None:
                raise DataError(f"STCrowd: {sample.get('sample_id')} has no lidar_to_image, expected it for "
                                "view='camera'. Take a data set with a camera, or view='lidar'.")
            inside &= within_image(boxes, matrix, sample.get('image_size', IMAGE)) & (sample.get('image_path') != '')
        return inside

    def people(self, boxes: np.ndarray, num_points: np.ndarray) -> np.ndarray:
        """(K,) bool, which people have the height, and the points where their number is known (not negative)."""
        return (boxes[:, 5] >= self.min_height) & ((num_points < 0) | (num_points >= self.min_points))

    def predictions(self, boxes: np.ndarray, scores: np.ndarray, sample: Mapping, ties: str = 'devkit') -> np.ndarray:
        """Indices of the predictions that count, ascending."""
        good = np.flatnonzero((scores >= self.min_score) & self.region(boxes, sample))
        return np.sort(good[rank(scores[good], ORDERS[ties])[:self.max_boxes]])


class Frame(NamedTuple):
    """What counts in a frame: K people, P predictions, Q people who are ignored.

    Attributes:
        boxes: (K, 9) float64, see BoxSample.
        occlusion, num_points: (K,) int64, -1 where unknown.
        density: (K,) float64, NaN where unknown.
        ignored: (Q, 3) float64 centres.
        pred_boxes: (P, 9) float64.
        pred_scores: (P,) float64.
    """

    boxes: np.ndarray
    occlusion: np.ndarray
    num_points: np.ndarray
    density: np.ndarray
    ignored: np.ndarray
    pred_boxes: np.ndarray
    pred_scores: np.ndarray


@METRICS.register_module()
class STCrowdMetric(BaseMetric):
    """mAP, AP at each distance, recall by occlusion, errors of what is found, and all that for parts of the people.

    Each frame leaves its boxes, so results of several processes merge without loss and the frames that a sampler
    repeats to fill the last round are dropped. Results are shares, metres, radians and metres a second, rounded to four
    digits, NaN where nobody is concerned; `filters` tells what they were made with.

    Args:
        dist: `'bev'`, distances on the ground, or `'3d'`.
        ties: which of equal scores counts first: `'devkit'`, the later one, or `'crowdquery'`, the earlier one.
        min_height, max_range, front, min_points, view, min_score, max_boxes: see Filters. `min_score` is that of AP.
        recall_score: least score of the predictions that AR is made of.
        ignored: predictions that find nobody but lie near someone whom the reader marked `ignore` or who is too low or
            has too few points are `'wrong'`, as in the official protocol, or `'free'`, left out.
        collect_device, prefix: as in mmengine.

    Raises:
        ConfigError: an argument that is none of these.
    """

    default_prefix = 'STCrowd'
    less_is_better = ('A?E*',)  # of its results, see ExportHook

    def __init__(self, dist: str = 'bev', ties: str = 'devkit', min_height: float = 1.2, max_range: float = 35.0,
                 front: bool = True, min_points: int = 1, view: str = 'lidar', min_score: float = 0.05,
                 max_boxes: int = 200, recall_score: float = 0.1, ignored: str = 'wrong', collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_choice('STCrowdMetric: dist', dist, DIMENSIONS)
        check_choice('STCrowdMetric: ties', ties, ORDERS)
        check_choice('STCrowdMetric: ignored', ignored, ('wrong', 'free'))
        if recall_score < min_score:
            raise ConfigError(f'STCrowdMetric: recall_score={recall_score}, expected at least min_score={min_score}, '
                              'below which predictions are left out. Lower min_score too.')
        self.dist, self.ties, self.recall_score, self.ignored = dist, ties, recall_score, ignored
        self.filters = Filters(min_height, max_range, front, min_points, view, min_score, max_boxes)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Keep what counts of some frames.

        Args:
            data_batch: not used.
            data_samples: for each frame a dict with the fields of BoxSample: `boxes`, `pred_boxes`, `pred_scores`, and
                where they are known `ignore`, `occlusion`, `num_points`, `density`, `lidar_to_image`.

        Raises:
            DataError: truth or predictions are missing or broken.
        """
        self.results.extend(read_frame(sample, self.filters, self.ties) for sample in data_samples)

    def compute_metrics(self, results: list[Frame]) -> dict[str, Any]:
        """Scores over all frames; a table goes to the log."""
        results = [Frame(*result) for result in results]  # mmengine makes plain tuples of them
        own, other = self.filters.min_height, (self.dataset_meta or {}).get('min_height')
        if other not in (None, own):
            print_log(f'STCrowdMetric: min_height={own} with data whose min_height is {other}, so that people of '
                      f'{max(own, other)} m or more count. Give both the same.', 'current', logging.WARNING)
        scores = score_frames(results, self.dist, self.ties, self.recall_score, self.ignored == 'free')
        used = dict(dist=self.dist, ties=self.ties, **asdict(self.filters), recall_score=self.recall_score,
                    ignored=self.ignored)
        print_log(f'{len(results):,} frames, {sum(len(frame.boxes) for frame in results):,} people; '
                  + ', '.join(f'{name} {value}' for name, value in used.items()) + f'\n{table(scores)}', 'current')
        return {**{name: round(value, 4) for name, value in scores.items()}, 'filters': used}


def read_frame(sample: Mapping, filters: Filters, ties: str = 'devkit') -> Frame:
    """What counts of a sample, a dict with the fields of BoxSample.

    Raises:
        DataError: truth or predictions are missing, not finite, or differ in number.
    """
    (boxes, kept), (pred_boxes, scores) = truth_of(sample, filters), predictions_of(sample, 'STCrowdMetric')
    occlusion, num_points, density = (_column(sample, name, len(boxes), unknown) for name, unknown in (
        ('occlusion', -1), ('num_points', -1), ('density', np.nan)))
    ignored, chosen = filters.region(boxes, sample) & ~kept, filters.predictions(pred_boxes, scores, sample, ties)
    return Frame(boxes[kept], occlusion[kept].astype(np.int64), num_points[kept].astype(np.int64),
                 density[kept].astype(np.float64), boxes[ignored, :3], pred_boxes[chosen], scores[chosen])


def truth_of(sample: Mapping, filters: Filters, where: str = 'STCrowdMetric') -> tuple[np.ndarray, np.ndarray]:
    """True boxes (K, 9) of a sample, float64, and which of them (K,) count.

    Raises:
        DataError: they are missing or broken.
    """
    boxes = _boxes(sample, 'boxes', where)
    ignore, num_points = (_column(sample, name, len(boxes), other, where) for name, other in (
        ('ignore', 0), ('num_points', -1)))
    return boxes, ~ignore.astype(bool) & filters.people(boxes, num_points) & filters.region(boxes, sample)


def predictions_of(sample: Mapping, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Predicted boxes (P, 9), velocities NaN where unknown, and scores (P,) of a sample, float64.

    Raises:
        DataError: they are missing, not finite, or differ in number.
    """
    boxes, scores = _boxes(sample, 'pred_boxes', where), _values(sample, 'pred_scores', where)
    if scores.shape != (len(boxes),) or not np.isfinite(scores).all():
        raise DataError(f'{where}: {sample.get("sample_id")} has scores of shape {scores.shape} for {len(boxes):,} '
                        'predictions, expected one finite number for each. Correct the model.')
    return boxes, scores


def _values(sample: Mapping, key: str, where: str) -> np.ndarray:
    value = sample.get(key)
    if value is None:
        raise DataError(f'{where}: {sample.get("sample_id", "a sample")} has no {key}, expected it. Use a model and a '
                        'labelled split of this data set.')
    return np.asarray(value.cpu() if hasattr(value, 'cpu') else value)


def _boxes(sample: Mapping, key: str, where: str = 'STCrowdMetric') -> np.ndarray:
    """(K, 9) float64 boxes of a sample."""
    values = _values(sample, key, where).astype(np.float64)
    if values.ndim != 2 or values.shape[1] not in (7, 9) or not np.isfinite(values[:, :7]).all() or \
            (values[:, 3:6] <= 0).any():
        raise DataError(f'{where}: {sample.get("sample_id")} has {key} of shape {values.shape}, expected (K, 7) or '
                        '(K, 9) finite numbers with sizes above 0. Correct the model or the labels.')
    return np.pad(values, ((0, 0), (0, 9 - values.shape[1])), constant_values=np.nan)


def _column(sample: Mapping, key: str, num: int, unknown: float, where: str = 'STCrowdMetric') -> np.ndarray:
    """A number of each person, or the one that stands for unknown."""
    if sample.get(key) is None:
        return np.full(num, unknown)
    values = _values(sample, key, where)
    if values.shape != (num,):
        raise DataError(f'{where}: {sample.get("sample_id")} has {key} of shape {values.shape} for {num:,} people, '
                        'expected one for each. Correct the labels.')
    return values


# --- scores ----------------------------------------------------------------------------------------------------------
def score_frames(frames: Sequence[Frame], dist: str = 'bev', ties: str = 'devkit', recall_score: float = 0.1,
                 free: bool = False) -> dict[str, float]:
    """All scores of frames, not rounded; the names are those of STCrowdMetric."""
    whole = _Whole(frames, dist, ties, recall_score, free)
    everyone = np.ones(len(whole.boxes), bool)
    curves = whole.curves(everyone, np.ones(len(whole.scores), bool))
    result = _precisions(curves)
    by_level = {level: whole.found_of(whole.occlusion == level) for level in LEVELS}
    joint = whole.found_of(everyone)
    result |= {f'AR_{level}': _recall(by_level[level], whole.occlusion == level) for level in LEVELS}
    result |= {f'AR_{level}_joint': _recall(joint, whole.occlusion == level) for level in LEVELS}
    result['AR'] = _recall(joint, everyone)
    result |= {f'recall_{distance}': curve.recall for distance, curve in zip(DISTANCES, curves)}
    middle = curves[DISTANCES.index(0.5)]
    result |= {name: mean_error(middle, error) if len(whole.boxes) else np.nan for name, error in ERRORS.items()}
    if any(np.isnan(boxes[:, 7:]).any(axis=1).all() for boxes in (whole.boxes, whole.pred_boxes)):
        result['AVE'] = np.nan  # nobody's velocity is known, or predicted
    for what, parts in PARTS.items():
        values, pred_values = whole.values_of(what)
        if len(values) and not (values >= 0).any():  # unknown
            continue
        for name, (low, high) in parts.items():
            part = (values >= low) & (values < high)
            preds = (pred_values >= low) & (pred_values < high) | np.isnan(pred_values)
            precisions = _precisions(whole.curves(part, preds))
            result |= {f'{key}_{what}_{name}': value for key, value in precisions.items()}
            result[f'AR_{what}_{name}'] = _recall(joint, part)
            result |= {f'AR_{level}_{what}_{name}': _recall(by_level[level], part & (whole.occlusion == level))
                       for level in LEVELS if what == 'density'}
    return {name: float(value) for name, value in result.items()}


def _precisions(curves: Sequence[Curve]) -> dict[str, float]:
    """AP at each distance, before them their mean; NaN where nobody is to be found."""
    aps = {f'AP_{distance}': np.nan if np.isnan(curve.recall) else average_precision(curve)
           for distance, curve in zip(DISTANCES, curves)}
    return dict(mAP=float(np.mean(list(aps.values()))), **aps)


def _recall(found: np.ndarray, part: np.ndarray) -> float:
    """Mean over distances of the share of some people (K,) that are found (T, K); NaN where there are none."""
    return float(found[:, part].mean()) if part.any() else np.nan


class _Whole:
    """All frames in one: people, and predictions with the best first, matched at each distance."""

    def __init__(self, frames: Sequence[Frame], dist: str, ties: str, recall_score: float, free: bool) -> None:
        def joined(name: str, *shape: int) -> np.ndarray:
            return np.concatenate([np.zeros((0, *shape)), *(getattr(frame, name) for frame in frames)])

        def numbers(name: str) -> np.ndarray:
            return np.repeat(np.arange(len(frames)), np.array([len(getattr(f, name)) for f in frames], np.int64))

        self.boxes, self.groups = joined('boxes', 9), numbers('boxes')
        self.occlusion, self.num_points, self.density = map(joined, ('occlusion', 'num_points', 'density'))
        scores = joined('pred_scores')
        order = rank(scores, ORDERS[ties])
        self.scores, self.pred_groups = scores[order], numbers('pred_scores')[order]
        self.pred_boxes = joined('pred_boxes', 9)[order]
        self.num_recalled = int((self.scores >= recall_score).sum())
        dims = DIMENSIONS[dist]
        self.pairs = self.near(self.boxes, self.groups, dims, max(DISTANCES))
        self.neighbours = self.near(self.boxes, self.groups, 2, NEIGHBOURHOOD)
        self.matched = self.match(self.pairs)  # (T, P)
        self.left_out = np.zeros(self.matched.shape, bool)
        if free:
            ignored = self.near(joined('ignored', 3), numbers('ignored'), dims, max(DISTANCES))
            for row, distance in zip(self.left_out, DISTANCES):
                row[ignored.nearer(distance).preds] = True
            self.left_out &= self.matched < 0

    def near(self, boxes: np.ndarray, groups: np.ndarray, dims: int, distance: float) -> Pairs:
        """Predictions near to some boxes."""
        return near_pairs(self.pred_boxes[:, :dims], self.pred_groups, boxes[:, :dims], groups, distance)

    def match(self, pairs: Pairs) -> np.ndarray:
        """(T, P) person of each prediction, at each distance, -1 for none."""
        return np.stack([serve(pairs.nearer(distance), len(self.scores), len(self.boxes)) for distance in DISTANCES])

    def found_of(self, part: np.ndarray) -> np.ndarray:
        """(T, K) bool, which people of a part are found by the predictions that recall is made of."""
        found = np.zeros((len(DISTANCES), len(self.boxes) + 1), bool)  # the last one takes those that find nobody
        pairs = self.pairs.of(part[self.pairs.boxes] & (self.pairs.preds < self.num_recalled))
        np.put_along_axis(found, self.match(pairs), True, axis=1)
        return found[:, :-1]

    def curves(self, part: np.ndarray, preds: np.ndarray) -> list[Curve]:
        """Curve at each distance for the people of a part (K,), and for the predictions (P,) that are wrong there."""
        result, part = [], np.append(part, False)
        for matched, left_out in zip(self.matched, self.left_out):
            used = np.where(matched >= 0, part[matched], preds & ~left_out)
            found = matched[used] >= 0
            errors = box_errors(self.boxes[matched[used][found]], self.pred_boxes[used][found])
            result.append(make_curve(found, self.scores[used], int(part.sum()), errors))
        return result

    def values_of(self, what: str) -> tuple[np.ndarray, np.ndarray]:
        """What people (K,), and predictions (P,) that found nobody, are told apart by; NaN where they cannot be."""
        if what == 'range':
            return tuple(np.hypot(boxes[:, 0], boxes[:, 1]) for boxes in (self.boxes, self.pred_boxes))
        values = self.density if what == 'density' else self.num_points
        result = np.full(len(self.scores), 0.0 if what == 'density' else np.nan)
        result[self.neighbours.preds[::-1]] = values[self.neighbours.boxes[::-1]]  # the nearest is written last
        return values, result


def table(scores: Mapping[str, float]) -> str:
    """The scores for the log, a line for all people and for each part."""
    aps = [name for name in scores if name.startswith('AP_') and name.count('_') == 1]
    rows = [['people', 'mAP', *aps, 'AR']]
    names = ['', *(f'_{what}_{name}' for what, parts in PARTS.items() for name in parts
                   if f'mAP_{what}_{name}' in scores)]
    rows += [[name.strip('_').replace('_', ' ') or 'all', *(_cell(scores[f'{key}{name}']) for key in rows[0][1:])]
             for name in names]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [row[0].ljust(widths[0]) + ''.join(cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:]))
             for row in rows]
    lines += [', '.join(f'{name} {_cell(scores[name])}' for name in names) for names in (
        [f'AR_{level}{end}' for end in ('', '_joint') for level in LEVELS], ERRORS)]
    return '\n'.join(lines)


def _cell(value: float) -> str:
    return '-' if np.isnan(value) else f'{value:.4f}'
