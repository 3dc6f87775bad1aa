"""The official detection score of nuScenes (nuscenes/eval/detection of the development kit), to the last digit.

A box is found where the centre of a prediction of its class lies nearer than 0.5, 1, 2 or 4 m on the ground; mAP is the
mean over these and the ten classes. Errors are those of what is found within 2 m. The score, NDS, is made of both. A
class of which there is nothing has an AP of 0 and errors of 1, as officially.

Before that boxes and predictions are left out that lie beyond their class's range of the car, or as a bicycle or
motorcycle in a rack, and boxes without a point of LiDAR and radar. All is computed in the world's frame, in which the
results file is written, so that the official tool finds the same.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.bev.datasets.nuscenes.reader import ATTRIBUTES, CLASSES, FRAMES, Annotations, to_world_boxes
from perception.common.metrics import detection
from perception.common.metrics.detection import average_precision, detection_score, evaluate, mean_error, rank
from perception.common.nuscenes.poses import rotations
from perception.registry import METRICS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import DataError

RANGES = np.array([50, 50, 50, 50, 50, 40, 40, 40, 30, 30.0])  # m of each class
DISTANCES = (0.5, 1.0, 2.0, 4.0)  # m
FOUND = 2  # which of them errors are taken at
PERIODS = np.where(np.array(CLASSES) == 'barrier', np.pi, 2 * np.pi)
ERRORS = dict(mATE='trans', mASE='scale', mAOE='orient', mAVE='vel', mAAE='attr')
MEANINGLESS = dict(traffic_cone=('orient', 'vel', 'attr'), barrier=('vel', 'attr'))  # errors of classes
MOST = 500  # predictions of a sample
RACKED = np.isin(CLASSES, ('bicycle', 'motorcycle'))
MOVING = 0.2  # m/s from which on a thing is said to move
_AT_REST = dict(car='vehicle.parked', truck='vehicle.parked', trailer='vehicle.parked',
                construction_vehicle='vehicle.parked', bus='vehicle.stopped', pedestrian='pedestrian.standing',
                motorcycle='cycle.without_rider', bicycle='cycle.without_rider')
_IN_MOTION = dict(dict.fromkeys(('car', 'truck', 'trailer', 'construction_vehicle', 'bus'), 'vehicle.moving'),
                  pedestrian='pedestrian.moving', motorcycle='cycle.with_rider', bicycle='cycle.with_rider')
_GUESSES = np.array([[ATTRIBUTES.index(kind[name]) if name in kind else -1 for name in CLASSES]
                     for kind in (_AT_REST, _IN_MOTION)])


class Predictions(NamedTuple):
    """Predictions of a sample in the world's frame.

    Attributes:
        boxes: (P, 9) float64, see `Annotations`; velocities that a net does not tell are 0, those that a results file
            calls NaN stay so, and their errors are left out, as officially.
        scores: (P,) float64.
        labels: (P,) int64.
        attributes: (P,) int64, -1 none.
    """
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    attributes: np.ndarray

    def of(self, rows: np.ndarray) -> Predictions:
        """Some of them."""
        return Predictions(*(values[rows] for values in self))


class Frame(NamedTuple):
    """What counts of a sample: K boxes and P predictions; see `Annotations` and `Predictions`."""
    boxes: np.ndarray
    labels: np.ndarray
    attributes: np.ndarray
    pred_boxes: np.ndarray
    pred_scores: np.ndarray
    pred_labels: np.ndarray
    pred_attributes: np.ndarray


@METRICS.register_module()
class NuScenesDetectionMetric(BaseMetric):
    """NDS, mAP, the five mean errors and the AP of each class, and of each at each distance.

    Each sample leaves its boxes, so results of several processes merge without loss. Scores are not rounded.

    Args:
        max_range: m, nearer than the official range of classes, for nets that see less; scores are others then.
        present: means are of the classes alone of which there is truth, for data of one's own, not of all ten.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = 'NuScenes'
    less_is_better = ('mA?E', 'A?E_*')  # of its results, see ExportHook

    def __init__(self, max_range: float | None = None, present: bool = False, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if max_range is not None:
            check_positive('NuScenesDetectionMetric', max_range=max_range)
        self.ranges, self.present = np.minimum(RANGES, np.inf if max_range is None else max_range), present

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Keep what counts of some samples.

        Args:
            data_batch: not used.
            data_samples: for each a dict with the fields of RigSample: `pred_boxes`, `pred_scores`, `pred_labels`,
                where a net tells them `pred_attributes`, and the poses and `annotations` of NuScenesRig.

        Raises:
            DataError: truth or predictions are missing or broken.
        """
        self.results.extend(read_frame(sample, self.ranges) for sample in data_samples)

    def compute_metrics(self, results: list[Frame]) -> dict[str, float]:
        """Scores over all samples; a table goes to the log."""
        frames = [Frame(*result) for result in results]  # mmengine makes plain tuples of them
        scores = score_frames(frames, self.present)
        print_log(f'{len(frames):,} samples, {sum(len(frame.boxes) for frame in frames):,} boxes, '
                  f'{sum(len(frame.pred_boxes) for frame in frames):,} predictions\n{table(scores)}', 'current')
        return scores


def read_frame(sample: Mapping, ranges: np.ndarray = RANGES) -> Frame:
    """What counts of a sample, a dict with the fields of RigSample; boxes of each class up to a range (C,) [m].

    Raises:
        DataError: truth or predictions are missing or broken.
    """
    name, truth = sample.get('sample_id', 'a sample'), sample.get('annotations')
    if truth is None:
        raise DataError(f'NuScenesDetectionMetric: {name} has no annotations, expected those of a labelled split that '
                        'is not read for training. Score such a split, or give the data set training=False.')
    truth = Annotations(*truth)
    kept = in_range(truth.boxes, truth.labels, sample['ego_to_world'], ranges) & (truth.points != 0) & \
        ~in_rack(truth.boxes, truth.labels, truth)
    found = predictions_of(sample, 'NuScenesDetectionMetric')
    found = found.of(chosen(found, sample['ego_to_world'], ranges))
    found = found.of(np.flatnonzero(~in_rack(found.boxes, found.labels, truth)))
    return Frame(truth.boxes[kept], truth.labels[kept], truth.attributes[kept], *found)


def in_range(boxes: np.ndarray, labels: np.ndarray, ego_to_world: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """(K,) bool, which boxes (K, 9) of the world are nearer to the car than their class's range."""
    return np.sqrt(((boxes[:, :2] - np.asarray(ego_to_world)[:2, 3]) ** 2).sum(1)) < ranges[labels]


def in_rack(boxes: np.ndarray, labels: np.ndarray, truth: Annotations) -> np.ndarray:
    """(K,) bool, which boxes (K, 9) are bicycles or motorcycles whose centre lies in a rack."""
    own = np.einsum('rji,krj->kri', rotations(truth.rack_rotations), boxes[:, None, :3] - truth.racks[:, :3])
    return RACKED[labels] & (np.abs(own) <= truth.racks[:, 3:6] / 2).all(-1).any(1)


def chosen(found: Predictions, ego_to_world: np.ndarray, ranges: np.ndarray = RANGES) -> np.ndarray:
    """Rows of the predictions in range, the best `MOST` of them, in their order."""
    rows = np.flatnonzero(in_range(found.boxes, found.labels, ego_to_world, ranges))
    return np.sort(rows[rank(found.scores[rows])[:MOST]])


def predictions_of(sample: Mapping, where: str) -> Predictions:
    """Predictions of a sample in the world's frame.

    Raises:
        DataError: they are missing, not finite, differ in number or lie in an unknown frame.
    """
    name, arrays = sample.get('sample_id', 'a sample'), []
    for key in ('pred_boxes', 'pred_scores', 'pred_labels', 'frame_to_world', 'ego_to_world'):
        if sample.get(key) is None:
            raise DataError(f'{where}: {name} has no {key}, expected it. Use a model that finds boxes, and this data '
                            'set.')
        value = sample[key]
        arrays.append(np.asarray(value.cpu() if hasattr(value, 'cpu') else value))
    boxes, scores, labels, to_world, _ = arrays
    boxes, scores, labels = boxes.astype(np.float64), scores.astype(np.float64), labels.astype(np.int64)
    check_choice(f'{where}: bev_frame', sample.get('bev_frame', FRAMES[0]), FRAMES)
    if boxes.ndim != 2 or boxes.shape[1] not in (7, 9) or not np.isfinite(boxes[:, :7]).all() or \
            (boxes[:, 3:6] <= 0).any():
        raise DataError(f'{where}: {name} has pred_boxes of shape {boxes.shape}, expected (P, 7) or (P, 9) finite '
                        'numbers with sizes above 0. Correct the model.')
    if not scores.shape == labels.shape == (len(boxes),) or not np.isfinite(scores).all() or \
            ((labels < 0) | (labels >= len(CLASSES))).any():
        raise DataError(f'{where}: {name} has scores of shape {scores.shape} and labels of shape {labels.shape} for '
                        f'{len(boxes):,} predictions, expected a finite number and a class 0 to {len(CLASSES) - 1} for '
                        'each. Correct the model.')
    boxes = np.pad(boxes, ((0, 0), (0, 9 - boxes.shape[1])))
    attributes = sample.get('pred_attributes')
    if attributes is None:  # of a net
        boxes[:, 7:] = np.nan_to_num(boxes[:, 7:], posinf=0, neginf=0)
        attributes = guess_attributes(labels, boxes[:, 7:])
    attributes = np.asarray(attributes.cpu() if hasattr(attributes, 'cpu') else attributes).astype(np.int64)
    return Predictions(to_world_boxes(boxes, to_world), scores, labels, attributes)


def guess_attributes(labels: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """(P,) rows of `ATTRIBUTES` by class (P,) and velocity (P, 2): what moves faster than 0.2 m/s is said to move."""
    return _GUESSES[(np.hypot(*velocities.T) > MOVING).astype(np.int64), labels]


def score_frames(frames: Sequence[Frame], present: bool = False) -> dict[str, float]:
    """All scores of samples, by the names of the log; see NuScenesDetectionMetric."""
    def joined(name: str, *shape: int) -> np.ndarray:
        parts = [getattr(frame, name) for frame in frames]
        return np.concatenate([np.zeros((0, *shape), parts[0].dtype if parts else np.float64), *parts])

    def numbers(name: str) -> np.ndarray:
        return np.repeat(np.arange(len(frames)), np.array([len(getattr(frame, name)) for frame in frames], np.int64))

    truth = detection.Boxes(joined('boxes', 9), numbers('boxes'), joined('labels').astype(np.int64),
                            attributes=joined('attributes').astype(np.int64))
    preds = detection.Boxes(joined('pred_boxes', 9), numbers('pred_boxes'), joined('pred_labels').astype(np.int64),
                            joined('pred_scores'), joined('pred_attributes').astype(np.int64))
    curves = evaluate(truth, preds, len(CLASSES), DISTANCES, periods=PERIODS)
    aps = {name: [average_precision(curve) for curve in row] for name, row in zip(CLASSES, curves)}
    counted = np.isin(np.arange(len(CLASSES)), truth.labels) if present and len(truth.labels) else slice(None)
    mean_ap = float(np.mean([np.mean(row) for row in np.array([*aps.values()])[counted]]))
    errors = {name: [np.nan if error in MEANINGLESS.get(label, ()) else mean_error(row[FOUND], error)
                     for label, row in zip(CLASSES, curves)] for name, error in ERRORS.items()}
    means = {name: _mean(np.array(values)[counted]) for name, values in errors.items()}
    result = dict(NDS=detection_score(mean_ap, list(means.values())), mAP=mean_ap, **means)
    result |= {f'AP_{name}': float(np.mean(row)) for name, row in aps.items()}
    result |= {f'AP_{name}_{distance:g}': value for name, row in aps.items() for distance, value in zip(DISTANCES, row)}
    return result | {f'{name[1:]}_{label}': value for name, values in errors.items()
                     for label, value in zip(CLASSES, values) if value == value}


def _mean(values: np.ndarray) -> float:
    """Mean of what is known, 1 of nothing, as of errors of a class that is not found."""
    return 1.0 if np.isnan(values).all() else float(np.nanmean(values))


def table(scores: Mapping[str, float]) -> str:
    """The scores for the log: the means, then a line for each class."""
    columns = [f'AP_{{}}_{distance:g}' for distance in DISTANCES] + [f'{name[1:]}_{{}}' for name in ERRORS]
    heads = ['AP', *(f'{distance:g} m' for distance in DISTANCES), *(name[1:] for name in ERRORS)]
    rows = [['class', *heads]]
    rows += [[name, *(_cell(scores.get(column.format(name))) for column in ('AP_{}', *columns))] for name in CLASSES]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [', '.join(f'{name} {scores[name]:.4f}' for name in ('NDS', 'mAP', *ERRORS))]
    return '\n'.join(lines + [row[0].ljust(widths[0]) + ''.join(
        cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:])) for row in rows])


def _cell(value: float | None) -> str:
    return '-' if value is None else f'{value:.4f}'
