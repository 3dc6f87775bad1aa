"""The official evaluation of SemanticKITTI (evaluate_semantics.py of its development kit), to the last digit.

Counts are integers; ratios are formed once, at the end. Points whose truth is unlabelled do not count. A prediction of
"unlabelled" on another point is a miss of its class, but is left out of the accuracy. The mean is taken over all
classes; one that occurs neither in truth nor in predictions counts as 0.
"""
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from perception.common.formats.kitti import read_labels
from perception.common.metrics.confusion import ConfusionMetric
from perception.lidarseg.datasets.base import labels_of, official_confusion, score_table, scores
from perception.lidarseg.datasets.semantickitti.reader import (
    CLASSES,
    MULTI_CLASSES,
    learning_map,
    sequence_name,
    to_train_ids,
    unpacked,
    visible,
)
from perception.registry import METRICS
from perception.utils.errors import DataError


@METRICS.register_module()
class SemanticKITTIMetric(ConfusionMetric):
    """Official IoU per class, mIoU and accuracy of predicted scans.

    Args:
        multi: the 25 classes of the multi-scan task instead of 19.
        collect_device, prefix: as in mmengine.
    """

    def __init__(self, multi: bool = False, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        self.classes = MULTI_CLASSES if multi else CLASSES

    def count(self, sample: Mapping) -> np.ndarray:
        """Matrix (C + 1, C + 1) of a scan with `labels` (N,) and `pred_labels` (N,), tensors of train ids.

        Raises:
            DataError: one is missing, or both differ in length.
        """
        return official_confusion(*labels_of(sample, 'SemanticKITTIMetric'), len(self.classes))

    def report(self, confusion: np.ndarray) -> tuple[dict[str, float], str]:
        """Scores and their table."""
        result = scores(confusion, self.classes)
        return result, score_table(result, confusion, self.classes)


def evaluate_folders(data_root: str | Path, predictions: str | Path | None = None,
                     sequences: Sequence[int | str] = (8,), limit: int | None = None,
                     multi: bool = False) -> tuple[dict[str, float], np.ndarray]:
    """Compare folders of label files, as the official script does.

    Args:
        data_root: holds `sequences/SS/labels/*.label`.
        predictions: holds `sequences/SS/predictions/*.label` with raw ids; `data_root` by default.
        sequences: numbers or names of the sequences.
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
        label_dir = unpacked(data_root) / 'sequences' / sequence_name(sequence) / 'labels'
        pred_dir = Path(predictions or unpacked(data_root), 'sequences', sequence_name(sequence), 'predictions')
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
    labels, preds = ({path.name for path in visible(folder, '*.label')} for folder in (label_dir, pred_dir))
    if not labels:
        raise DataError(f'{label_dir}: no label file, expected FFFFFF.label for each scan. Check the data set.')
    if labels != preds:
        odd = sorted(labels ^ preds)
        place = label_dir if odd[0] in preds else pred_dir
        raise DataError(f'{place / odd[0]}: no such file ({len(preds):,} predictions, {len(labels):,} labels), '
                        f'expected the same names in both folders. Predict every scan of the sequence.')
    return sorted(labels)
