"""The official evaluation of nuScenes-lidarseg (nuscenes/eval/lidarseg of the development kit), to the last digit.

Counts are integers; ratios are formed once, at the end. Points whose truth is ignored do not count, every other point
needs one of the 16 classes. Unions are divided as float32, as the official code does. A class that occurs neither in
truth nor in predictions has no IoU and stays out of the mean.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from perception.common.metrics.confusion import ConfusionMetric, confusion_matrix
from perception.common.nuscenes.reader import read_split
from perception.common.nuscenes.tables import VERSIONS
from perception.lidarseg.datasets.base import IGNORE, labels_of
from perception.lidarseg.datasets.nuscenes.reader import (
    CLASSES,
    POINT_BYTES,
    learning_map,
    read_point_labels,
    to_train_ids,
)
from perception.registry import METRICS
from perception.utils.errors import DataError

NUM_OFFICIAL = len(CLASSES) + 1  # with 0, ignore


def official_confusion(pred_labels: np.ndarray, labels: np.ndarray, where: str | Path = 'predictions') -> np.ndarray:
    """Confusion matrix over the official classes 0 (ignore) and 1..16.

    Args:
        pred_labels: (N,) train ids 0..15.
        labels: (N,) train ids 0..15, 255 = ignored.
        where: what the predictions are of, for messages.

    Returns:
        (17, 17) int64, rows = true, columns = predicted class; row and column 0 are zero.

    Raises:
        DataError: different lengths, a prediction that is none of the 16 classes, a label that is no train id.
    """
    wrong = (pred_labels < 0) | (pred_labels >= len(CLASSES))
    if wrong.any():
        raise DataError(f'{where}: predicted class {pred_labels[wrong][0]} at {int(wrong.sum()):,} points, expected '
                        f'0..{len(CLASSES) - 1} everywhere, as the official evaluation does. Leave out the dead '
                        f'channel of the model before taking the best class.')
    truth = np.where(labels == IGNORE, 0, np.where(labels < 0, -1, labels.astype(np.int64) + 1))
    confusion = confusion_matrix(pred_labels.astype(np.int64) + 1, truth, NUM_OFFICIAL).T.copy()
    confusion[0] = 0
    return confusion


def scores(confusion: np.ndarray, classes: Sequence[str] = CLASSES) -> dict[str, float]:
    """The official scores of a confusion matrix.

    Args:
        confusion: (C + 1, C + 1) int64, see `official_confusion`.
        classes: C names.

    Returns:
        `miou`, `fwiou` (weighted by the points of each class) and `iou_<name>`, each in [0, 1], or NaN where a class
        occurs in neither truth nor predictions (`miou` and `fwiou`: where nothing was counted).
    """
    hits = np.diagonal(confusion)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    union = true + predicted - hits
    with np.errstate(divide='ignore', invalid='ignore'):
        iou = hits / union.astype(np.float32)  # float64: the counts are int64
        fwiou = np.nansum(true * iou) / confusion.sum()
    iou[0] = np.nan
    miou = math.nan if np.isnan(iou).all() else np.nanmean(iou)
    return dict(miou=float(miou), fwiou=float(fwiou),
                **{f'iou_{name}': float(value) for name, value in zip(classes, iou[1:])})


def score_table(result: dict[str, float], confusion: np.ndarray) -> str:
    """IoU, points and class name a line, then the means, in percent."""
    true = confusion.sum(axis=1)
    lines = [f'{"class":<22}{"IoU [%]":>8}{"points":>15}']
    lines += [f'{name:<22}{100 * result[f"iou_{name}"]:8.2f}{count:15,}' for name, count in zip(CLASSES, true[1:])]
    present = sum(not math.isnan(result[f'iou_{name}']) for name in CLASSES)
    lines += [f'{f"mIoU of {present} classes":<22}{100 * result["miou"]:8.2f}{true.sum():15,}',
              f'{"weighted by points":<22}{100 * result["fwiou"]:8.2f}']
    return '\n'.join(lines)


@METRICS.register_module()
class NuScenesLidarSegMetric(ConfusionMetric):
    """Official IoU per class, mIoU and frequency-weighted IoU of predicted key frames."""

    unit = 'key frames'

    def count(self, sample: Mapping) -> np.ndarray:
        """Matrix (17, 17) of a key frame with `labels` (N,) and `pred_labels` (N,), tensors of train ids.

        Raises:
            DataError: one is missing, or both differ in length.
        """
        pred_labels, labels = labels_of(sample, 'NuScenesLidarSegMetric')
        return official_confusion(pred_labels, labels, sample.get('sample_id', 'a key frame'))

    def report(self, confusion: np.ndarray) -> tuple[dict[str, float], str]:
        """Scores and their table."""
        result = scores(confusion)
        return result, score_table(result, confusion)


def evaluate_results(data_root: str | Path, results: str | Path, split: str = 'val',
                     ) -> tuple[dict[str, float], np.ndarray]:
    """Score a folder of results as the official script does.

    Args:
        data_root: holds `v1.0-...`, `samples` and `lidarseg`.
        results: holds `lidarseg/<split>/<token>_lidarseg.bin` with official ids 1..16.
        split: 'train', 'val', 'mini_train' or 'mini_val'.

    Returns:
        the scores, see `scores`, and the confusion matrix (17, 17), see `official_confusion`.

    Raises:
        DataError: missing files, other numbers of points, ids that the official script refuses.
    """
    root = Path(data_root)
    index, frames = read_split(root, split)
    table = learning_map(index.categories, root / VERSIONS[split] / 'category.json')
    confusion = np.zeros((NUM_OFFICIAL, NUM_OFFICIAL), np.int64)
    for frame in frames:
        if frame.labels is None:
            raise DataError(f'{root / VERSIONS[split]}: no labels for {frame.token}, expected a split with labels. '
                            f'Scores of the test split come from the server alone.')
        path = Path(results, 'lidarseg', split, f'{frame.token}_lidarseg.bin')
        num_points = _num_points(root / frame.points)
        labels = to_train_ids(read_point_labels(root / frame.labels, num_points), table, root / frame.labels)
        pred_labels = read_point_labels(path, num_points).astype(np.int64) - 1
        confusion += official_confusion(pred_labels, labels, path)
    result = scores(confusion)
    print_log(score_table(result, confusion), 'current')
    return result, confusion


def _num_points(path: Path) -> int:
    try:
        return path.stat().st_size // POINT_BYTES
    except OSError as error:
        raise DataError(f'{path}: {error.strerror}, expected the points of a key frame. Check the data set.') from error
