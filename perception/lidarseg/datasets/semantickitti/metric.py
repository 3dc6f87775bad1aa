"""The official evaluation of SemanticKITTI (evaluate_semantics.py of its development kit), to the last digit.

Counts are integers; ratios are formed once, at the end. Points whose truth is unlabelled do not count. A prediction of
"unlabelled" on another point is a miss of its class, but is left out of the accuracy. The mean is taken over all
classes; one that occurs neither in truth nor in predictions counts as 0.
"""
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.common.formats.kitti import read_labels
from perception.common.metrics.confusion import confusion_matrix
from perception.lidarseg.datasets.labels import labels_of
from perception.lidarseg.datasets.semantickitti.reader import CLASSES, MULTI_CLASSES, learning_map, to_train_ids
from perception.registry import METRICS
from perception.utils.errors import DataError

_EPS = 1e-15  # as in the official tool


def official_confusion(pred_labels: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix over the official classes 0 (unlabelled) and 1..C.

    Args:
        pred_labels: (N,) train ids 0..C-1, 255 = unlabelled.
        labels: (N,) train ids 0..C-1, 255 = unlabelled.
        num_classes: C.

    Returns:
        (C + 1, C + 1) int64, rows = predicted, columns = true class.

    Raises:
        DataError: different lengths, or a number that is no train id.
    """
    # 255 becomes 0, k becomes k + 1; anything else stays out of range and is refused
    return confusion_matrix(_official(pred_labels), _official(labels), num_classes + 1)


def _official(train_ids: np.ndarray) -> np.ndarray:
    if train_ids.dtype == np.uint8:
        return train_ids + np.uint8(1)  # 255 wraps around to 0
    return np.where(train_ids == 255, 0, np.where(train_ids < 0, -1, train_ids + 1))


def scores(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """The official scores of a confusion matrix.

    Args:
        confusion: (C + 1, C + 1) int64, see `official_confusion`.
        classes: C names.

    Returns:
        `miou`, `accuracy`, `miou_present` (the mean over classes that occur in the truth) and `iou_<name>`, each in
        [0, 1].
    """
    counted = confusion[:, 1:]  # points whose truth is unlabelled do not count
    hits = np.diagonal(confusion)[1:]
    predicted, true = counted[1:].sum(axis=1), counted.sum(axis=0)
    iou = hits / (predicted + true - hits + _EPS)
    present = true > 0
    return dict(miou=float(iou.mean()), accuracy=float(hits.sum() / (predicted.sum() + _EPS)),
                miou_present=float(iou[present].mean()) if present.any() else 0.0,
                **{f'iou_{name}': float(value) for name, value in zip(classes, iou)})


def score_table(result: dict[str, float], confusion: np.ndarray, classes: Sequence[str]) -> str:
    """IoU, points and class name a line, then the means, in percent."""
    true = confusion[:, 1:].sum(axis=0)
    lines = [f'{"class":<22}{"IoU [%]":>8}{"points":>15}']
    lines += [f'{name:<22}{100 * result[f"iou_{name}"]:8.2f}{count:15,}' for name, count in zip(classes, true)]
    present = int((true > 0).sum())
    lines += [f'{"mIoU":<22}{100 * result["miou"]:8.2f}{true.sum():15,}',
              f'{f"mIoU of {present} present":<22}{100 * result["miou_present"]:8.2f}',
              f'{"accuracy":<22}{100 * result["accuracy"]:8.2f}']
    return '\n'.join(lines)


@METRICS.register_module()
class SemanticKITTIMetric(BaseMetric):
    """Official IoU per class, mIoU and accuracy of predicted scans.

    Each scan leaves one matrix of counts, so results of several processes merge without loss and the scans that a
    sampler repeats to fill the last round are dropped.

    Args:
        multi: the 25 classes of the multi-scan task instead of 19.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, multi: bool = False, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.classes = MULTI_CLASSES if multi else CLASSES

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Count the points of some scans.

        Args:
            data_batch: not used.
            data_samples: for each scan a dict with `labels` (N,) and `pred_labels` (N,), tensors of train ids.

        Raises:
            DataError: a scan without labels or predictions, or both differ in length.
        """
        for sample in data_samples:
            pred_labels, labels = labels_of(sample, 'SemanticKITTIMetric')
            self.results.append(official_confusion(pred_labels, labels, len(self.classes)))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Scores over all scans; the table goes to the log."""
        confusion = np.sum(results, axis=0)
        result = scores(confusion, self.classes)
        print_log(f'{len(results):,} scans\n{score_table(result, confusion, self.classes)}', 'current')
        return result


def evaluate_folders(data_root: str | Path, predictions: str | Path | None = None, sequences: Sequence[int] = (8,),
                     limit: int | None = None, multi: bool = False) -> tuple[dict[str, float], np.ndarray]:
    """Compare folders of label files, as the official script does.

    Args:
        data_root: holds `sequences/SS/labels/*.label`.
        predictions: holds `sequences/SS/predictions/*.label` with raw ids; `data_root` by default.
        sequences: numbers of the sequences.
        limit: use only so many first points of each scan.
        multi: the 25 classes of the multi-scan task instead of 19.

    Returns:
        the scores, see `scores`, and the confusion matrix (C + 1, C + 1), see `official_confusion`.

    Raises:
        DataError: missing or superfluous files, different numbers of points, ids that the official script cannot read.
    """
    classes, table = MULTI_CLASSES if multi else CLASSES, learning_map(multi)
    confusion = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    for sequence in sequences:
        label_dir = Path(data_root, 'sequences', f'{sequence:02d}', 'labels')
        pred_dir = Path(predictions or data_root, 'sequences', f'{sequence:02d}', 'predictions')
        for name in _same_files(label_dir, pred_dir):
            labels = read_labels(label_dir / name)
            pred_labels = read_labels(pred_dir / name, len(labels))
            pred_ids = to_train_ids(pred_labels[:limit], pred_dir / name, strict=False, table=table)
            true_ids = to_train_ids(labels[:limit], label_dir / name, strict=False, table=table)
            confusion += official_confusion(pred_ids, true_ids, len(classes))
    result = scores(confusion, classes)
    print_log(score_table(result, confusion, classes), 'current', logging.INFO)
    return result, confusion


def _same_files(label_dir: Path, pred_dir: Path) -> list[str]:
    """Names of the label files in both folders."""
    labels, preds = ({path.name for path in folder.glob('*.label')} for folder in (label_dir, pred_dir))
    if not labels:
        raise DataError(f'{label_dir}: no label file, expected FFFFFF.label for each scan. Check the data set.')
    if labels != preds:
        odd = sorted(labels ^ preds)
        place = label_dir if odd[0] in preds else pred_dir
        raise DataError(f'{place / odd[0]}: no such file ({len(preds):,} predictions, {len(labels):,} labels), '
                        f'expected the same names in both folders. Predict every scan of the sequence.')
    return sorted(labels)
