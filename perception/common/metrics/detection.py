"""Detections scored by the distance of centres: matching, curves over recall, average precision, errors of the found.

Everything is computed on arrays of all boxes of all frames at once. Predictions are served one after the other, the
best first: each takes the nearest box of its frame (and class) that is still free and nearer than a threshold, and is
then a true positive; otherwise it is a false one, and boxes that are left over were missed. Curves are given at the 101
recalls 0, 0.01 ... 1, as they are where detection challenges match by centres.
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from perception.utils.checks import check_choice
from perception.utils.errors import DataError

TIES = ('later', 'earlier')
RECALLS = np.linspace(0, 1, 101)
MAX_PAIRS = 1 << 20  # distances computed at a time


class Boxes(NamedTuple):
    """True or predicted boxes of all frames.

    Attributes:
        boxes: (K, 7) or (K, 9) float64 x, y, z, l, w, h [m], yaw [rad] (, vx, vy [m/s], NaN where unknown).
        frames: (K,) integers, which frame each lies in.
        labels: (K,) int64 classes 0..C-1.
        scores: (K,) float64 of predictions.
        attributes: (K,) int64, negative where a true box has none; None where boxes have no attributes.
    """

    boxes: np.ndarray
    frames: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    attributes: np.ndarray | None = None


class Curve(NamedTuple):
    """What a detector of one class reaches at one distance.

    Attributes:
        precision: (101,) at the recalls 0, 0.01 ... 1; 0 beyond the highest one reached.
        confidence: (101,) the scores from which on these are reached; 0 beyond.
        errors: name -> (101,) mean error of what is found with at least that confidence; see `box_errors`.
        recall: share of the true boxes that are found, NaN where there are none.
    """

    precision: np.ndarray
    confidence: np.ndarray
    errors: dict[str, np.ndarray]
    recall: float

    @property
    def last(self) -> int:
        """Index of the highest of the 101 recalls that is reached."""
        reached = np.flatnonzero(self.confidence)
        return int(reached[-1]) if len(reached) else 0


def rank(scores: np.ndarray, ties: str = 'later') -> np.ndarray:
    """Order of predictions, the best first.

    Args:
        scores: (P,).
        ties: of equal scores the `'later'` comes first, as where a list is sorted ascending and reversed, or the
            `'earlier'`, as where it is sorted descending.

    Returns:
        (P,) int64 indices.

    Raises:
        ConfigError: other `ties`.
        DataError: a score that is NaN.
    """
    check_choice('rank: ties', ties, TIES)
    scores = np.asarray(scores, np.float64)
    if np.isnan(scores).any():
        raise DataError(f'rank: {np.isnan(scores).sum():,} of {len(scores):,} scores are NaN, expected numbers. '
                        'Correct the predictions.')
    return np.argsort(scores, kind='stable')[::-1] if ties == 'later' else np.argsort(-scores, kind='stable')


def match(pred_centers: np.ndarray, pred_groups: np.ndarray, centers: np.ndarray, groups: np.ndarray,
          thresholds: Sequence[float]) -> np.ndarray:
    """Give each prediction, one after the other, the nearest true box that is still free and near enough.

    Args:
        pred_centers: (P, D) of the predictions [m], the best first.
        pred_groups: (P,) integers; predictions match boxes of their own group, such as a frame and class.
        centers: (K, D) of the true boxes; of two equally near ones the first is taken.
        groups: (K,) integers.
        thresholds: (T,) m; a box must be nearer than that.

    Returns:
        (T, P) int64 true box of each prediction, -1 for none.
    """
    pairs = near_pairs(pred_centers, pred_groups, centers, groups, max(thresholds))
    return np.stack([serve(pairs.nearer(threshold), len(pred_centers), len(centers)) for threshold in thresholds])


class Pairs(NamedTuple):
    """Predictions and true boxes near to each other, by prediction, the nearest box first, then the first box.

    Attributes:
        preds, boxes: (N,) int64, rows of the prediction and of the box.
        distances: (N,) m.
    """

    preds: np.ndarray
    boxes: np.ndarray
    distances: np.ndarray

    def of(self, chosen: np.ndarray) -> 'Pairs':
        """Some of them, by a mask (N,)."""
        return Pairs(*(values[chosen] for values in self))

    def nearer(self, threshold: float) -> 'Pairs':
        """Those nearer than a threshold [m]."""
        return self.of(self.distances < threshold)


def near_pairs(pred_centers: np.ndarray, pred_groups: np.ndarray, centers: np.ndarray, groups: np.ndarray,
               threshold: float) -> Pairs:
    """All predictions and true boxes of one group that are nearer than a threshold [m]; see `match`."""
    pred_centers, centers = np.asarray(pred_centers, np.float64), np.asarray(centers, np.float64)
    by_group = np.argsort(groups, kind='stable')
    ordered = np.asarray(groups)[by_group]
    first = np.searchsorted(ordered, pred_groups, 'left')
    counts = np.searchsorted(ordered, pred_groups, 'right') - first
    ends = np.cumsum(counts)
    found, start = [], 0
    while start < len(counts):
        before = ends[start] - counts[start]
        stop = max(int(np.searchsorted(ends, before + MAX_PAIRS, 'right')), start + 1)
        preds = np.repeat(np.arange(start, stop), counts[start:stop])
        inside = np.arange(len(preds)) - np.repeat(ends[start:stop] - counts[start:stop] - before, counts[start:stop])
        boxes = by_group[np.repeat(first[start:stop], counts[start:stop]) + inside]
        distances = np.sqrt(sum((pred_centers[preds, axis] - centers[boxes, axis]) ** 2
                                for axis in range(centers.shape[1])))
        near = distances < threshold
        found.append((preds[near], boxes[near], distances[near]))
        start = stop
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    pairs = Pairs(*(np.concatenate(parts) for parts in zip(empty, *found)))
    return pairs.of(np.lexsort((pairs.distances, pairs.preds)))  # stable: equally near ones stay in the order of boxes


def serve(pairs: Pairs, num_preds: int, num_boxes: int) -> np.ndarray:
    """The box of each prediction, -1 for none, where each in turn takes the nearest of its pairs that is free.

    All ask at once for the first box of their lists; who is refused, or has to leave for a better one, asks for the
    next. Since all boxes prefer the same predictions, this ends where serving one after the other does.

    Args:
        pairs: each prediction's list.
        num_preds, num_boxes: P and K.

    Returns:
        (P,) int64.
    """
    counts = np.bincount(pairs.preds, minlength=num_preds)
    ends = np.cumsum(counts)
    place, boxes = ends - counts, pairs.boxes
    holder = np.full(num_boxes, num_preds)
    asking = np.flatnonzero(place < ends)
    while len(asking):
        wanted = boxes[place[asking]]
        held = holder[wanted]
        better = asking < held
        holder[wanted[better][::-1]] = asking[better][::-1]  # asking ascends, and the last one that is written stays
        left = held[better & (held < num_preds)]
        refused = asking[holder[wanted] != asking]
        asking = np.unique(np.concatenate((refused, left)))
        place[asking] += 1
        asking = asking[place[asking] < ends[asking]]
    result = np.full(num_preds, -1)
    taken = np.flatnonzero(holder < num_preds)
    result[holder[taken]] = taken
    return result


def make_curve(found: np.ndarray, scores: np.ndarray, num_boxes: int,
               errors: dict[str, np.ndarray] | None = None) -> Curve:
    """Precision, confidence and errors over recall.

    Args:
        found: (P,) bool, which predictions are true positives, the best first.
        scores: (P,) theirs.
        num_boxes: how many true boxes there are.
        errors: name -> (M,) errors of the true positives in this order, NaN where there is none.

    Returns:
        the curve; zeros, and errors of 1, where nothing is found.
    """
    errors = errors or {}
    true = np.cumsum(found)
    if not num_boxes or not len(true) or not true[-1]:
        return Curve(np.zeros(101), np.zeros(101), {name: np.ones(101) for name in errors},
                     0.0 if num_boxes else np.nan)
    recall = true / num_boxes
    precision = np.interp(RECALLS, recall, true / np.arange(1, len(true) + 1), right=0)
    confidence = np.interp(RECALLS, recall, scores, right=0)
    ascending = np.asarray(scores)[found][::-1]
    curves = {name: np.interp(confidence[::-1], ascending, _mean_so_far(values)[::-1])[::-1]
              for name, values in errors.items()}
    return Curve(precision, confidence, curves, float(recall[-1]))


def _mean_so_far(values: np.ndarray) -> np.ndarray:
    """Mean of the first, the first two, ... values without the NaN among them: 0 before the first number; 1 if none."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    counts = np.cumsum(known)
    return np.divide(np.nancumsum(values), counts, out=np.zeros(len(values)), where=counts > 0)


def average_precision(curve: Curve, min_recall: float = 0.1, min_precision: float = 0.1) -> float:
    """Normalised area under the part of a curve above a recall and a precision; the bin of `min_recall` is left out."""
    above = np.clip(curve.precision[_first(min_recall):] - min_precision, 0, None)
    return float(np.mean(above)) / (1 - min_precision)


def mean_error(curve: Curve, name: str, min_recall: float = 0.1) -> float:
    """Mean of an error from a recall on up to the highest one reached; 1 where that recall is not reached."""
    first, last = _first(min_recall), curve.last
    return 1.0 if last < first else float(np.mean(curve.errors[name][first:last + 1]))


def _first(min_recall: float) -> int:
    return round(100 * min_recall) + 1


def box_errors(boxes: np.ndarray, pred_boxes: np.ndarray,
               period: float | np.ndarray = 2 * np.pi) -> dict[str, np.ndarray]:
    """How far predicted boxes are from the true ones they found.

    Args:
        boxes: (M, 7) or (M, 9) true boxes, see Boxes.
        pred_boxes: (M, 7) or (M, 9).
        period: after which a turned box is the same again [rad], one for all or (M,).

    Returns:
        (M,) each: `trans`, distance of the centres on the ground [m]; `scale`, 1 - IoU of boxes with the same centre
        and heading; `orient`, angle between the headings [rad]; `vel`, distance of the velocities [m/s], NaN where one
        is unknown.
    """
    boxes, pred_boxes = np.asarray(boxes, np.float64), np.asarray(pred_boxes, np.float64)
    size, pred_size = boxes[:, 3:6], pred_boxes[:, 3:6]
    inside = _volume(np.minimum(size, pred_size))
    angle = (boxes[:, 6] - pred_boxes[:, 6] + period / 2) % period - period / 2
    known = min(boxes.shape[1], pred_boxes.shape[1]) >= 9
    speed = _length(pred_boxes[:, 7:9] - boxes[:, 7:9]) if known else np.full(len(boxes), np.nan)
    return dict(trans=_length(pred_boxes[:, :2] - boxes[:, :2]),
                scale=1 - inside / (_volume(size) + _volume(pred_size) - inside), orient=np.abs(angle), vel=speed)


def _volume(size: np.ndarray) -> np.ndarray:
    return size[:, 0] * size[:, 1] * size[:, 2]


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(vectors[:, 0] ** 2 + vectors[:, 1] ** 2)


def evaluate(truth: Boxes, preds: Boxes, num_classes: int, thresholds: Sequence[float], ties: str = 'later',
             dimensions: int = 2, periods: Sequence[float] | None = None) -> list[list[Curve]]:
    """Curves of all classes at all distances, with the errors of `box_errors`, and `attr` where there are attributes.

    Args:
        truth: true boxes.
        preds: predictions, in the order of frames and in these as they were made, which decides between equal scores.
        num_classes: C.
        thresholds: (T,) distances [m].
        ties: see `rank`.
        dimensions: 2 for distances on the ground, 3 for those in space.
        periods: (C,) after which a turned box of a class is the same again [rad]; full turns by default.

    Returns:
        C lists of T curves.

    Raises:
        DataError: a class beyond C, or a score that is NaN.
    """
    for part in (truth, preds):
        if len(part.labels) and not 0 <= part.labels.min() <= part.labels.max() < num_classes:
            raise DataError(f'evaluate: classes {part.labels.min()} to {part.labels.max()}, expected 0 to '
                            f'{num_classes - 1}. Map them first.')
    order = rank(preds.scores, ties)
    order = order[np.argsort(preds.labels[order], kind='stable')]  # class by class, the best first
    ends = np.searchsorted(preds.labels[order], np.arange(num_classes + 1))
    num_boxes = np.bincount(truth.labels, minlength=num_classes)
    periods = np.full(num_classes, 2 * np.pi) if periods is None else np.asarray(periods, np.float64)
    groups, pred_groups = (part.frames * num_classes + part.labels for part in (truth, preds))
    taken = match(preds.boxes[order, :dimensions], pred_groups[order], truth.boxes[:, :dimensions], groups, thresholds)
    curves: list[list[Curve]] = [[] for _ in range(num_classes)]
    for row in taken:
        found = row >= 0
        one, other = order[found], row[found]
        errors = box_errors(truth.boxes[other], preds.boxes[one], periods[truth.labels[other]])
        if truth.attributes is not None:
            errors['attr'] = attribute_errors(truth.attributes[other], preds.attributes[one])
        before = np.concatenate(([0], np.cumsum(found)))[ends]
        for c, of_class in enumerate(curves):
            part, of_part = slice(ends[c], ends[c + 1]), slice(before[c], before[c + 1])
            of_class.append(make_curve(found[part], preds.scores[order[part]], int(num_boxes[c]),
                                       {name: values[of_part] for name, values in errors.items()}))
    return curves


def attribute_errors(attributes: np.ndarray, pred_attributes: np.ndarray) -> np.ndarray:
    """(M,) 1 where a predicted attribute is wrong, 0 where it is right, NaN where the true box has none (negative)."""
    return np.where(attributes < 0, np.nan, (attributes != pred_attributes).astype(np.float64))


def detection_score(mean_ap: float, errors: Sequence[float], weight: float = 5.0) -> float:
    """Weighted mean of an average precision and of 1 - error, not below 0, of each mean error."""
    scores = np.clip(1 - np.asarray(errors, np.float64), 0, None)
    return float((weight * mean_ap + scores.sum()) / (weight + len(scores)))
