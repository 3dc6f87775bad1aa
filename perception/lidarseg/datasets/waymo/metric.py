"""The score of Waymo's 3D semantic segmentation (segmentation_metrics.cc of its development kit).

Both returns count, and of all LiDARs the points with a defined truth, which are TOP's. A prediction of "undefined"
there is a miss of its class. As in the official code ratios are float32, the mean is over all 22 classes, and one that
occurs neither in truth nor in predictions counts as **1**; `miou_present` leaves those without truth out.
"""
from collections.abc import Mapping, Sequence

import numpy as np

from perception.common.metrics.confusion import ConfusionMetric
from perception.lidarseg.datasets.base import labels_of, official_confusion, score_table
from perception.lidarseg.datasets.waymo.reader import CLASSES
from perception.registry import METRICS


def scores(confusion: np.ndarray, classes: Sequence[str] = CLASSES) -> dict[str, float]:
    """The official scores of a confusion matrix.

    Args:
        confusion: (C + 1, C + 1) int64, rows = predicted, columns = true class, 0 = undefined; see
            `official_confusion`.
        classes: C names.

    Returns:
        `miou`, `accuracy`, `miou_present` (the mean over classes that occur in the truth) and `iou_<name>`, each in
        [0, 1].
    """
    counted = confusion[:, 1:]  # points whose truth is undefined do not count
    hits = np.diagonal(confusion)[1:]
    true = counted.sum(axis=0)
    union = counted[1:].sum(axis=1) + true - hits
    iou = np.where(union > 0, hits.astype(np.float32) / np.maximum(union, 1).astype(np.float32), np.float32(1))
    present = true > 0
    miou = np.cumsum(iou, dtype=np.float32)[-1] / np.float32(len(iou))  # one after another, as the official loop
    return dict(miou=float(miou), accuracy=float(hits.sum() / max(true.sum(), 1)),
                miou_present=float(iou[present].mean()) if present.any() else 0.0,
                **{f'iou_{name}': float(value) for name, value in zip(classes, iou)})


@METRICS.register_module()
class WaymoMetric(ConfusionMetric):
    """Official IoU per class and mIoU over both returns, and the same over the first returns alone.

    Scores of the first returns have the prefix `first_`; they are there where every frame says how many it has.
    """

    unit = 'frames'

    def count(self, sample: Mapping) -> np.ndarray:
        """Matrices (1 or 2, 23, 23) of a frame: of both returns and, where it has `first_len`, of the first ones.

        Args:
            sample: `labels` (N,) and `pred_labels` (N,), tensors of train ids.

        Raises:
            DataError: one is missing, or both differ in length.
        """
        pred_labels, labels = labels_of(sample, 'WaymoMetric')
        ends = [None] if sample.get('first_len') is None else [None, sample['first_len']]
        return np.stack([official_confusion(pred_labels[:end], labels[:end], len(CLASSES)) for end in ends])

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Scores over all frames, of the first returns where every frame counts them; the tables go to the log."""
        known = min(map(len, results))
        return super().compute_metrics([counts[:known] for counts in results])

    def report(self, confusion: np.ndarray) -> tuple[dict[str, float], str]:
        """Scores and their tables, of matrices (1 or 2, 23, 23)."""
        result, tables = {}, []
        for name, prefix, counts in zip(('both returns', 'first returns alone'), ('', 'first_'), confusion):
            found = scores(counts)
            result.update({f'{prefix}{key}': value for key, value in found.items()})
            tables += [name, score_table(found, counts, CLASSES)]
        return result, '\n'.join(tables)
