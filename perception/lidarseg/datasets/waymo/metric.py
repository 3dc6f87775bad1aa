"""The score of Waymo's 3D semantic segmentation (segmentation_metrics.cc of its development kit).

Both returns count, and of all LiDARs the points with a defined truth, which are TOP's. A prediction of "undefined"
there is a miss of its class. As in the official code ratios are float32, the mean is over all 22 classes, and one that
occurs neither in truth nor in predictions counts as **1**; `miou_present` leaves those without truth out.
"""
from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.lidarseg.datasets.labels import labels_of
from perception.lidarseg.datasets.semantickitti.metric import official_confusion, score_table
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
class WaymoMetric(BaseMetric):
    """Official IoU per class and mIoU over both returns, and the same over the first returns alone.

    Scores of the first returns have the prefix `first_`; they are there where every frame says how many it has. Each
    frame leaves two matrices of counts, so results of several processes merge without loss.

    Args:
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Count the points of some frames.

        Args:
            data_batch: not used.
            data_samples: for each frame a dict with `labels` (N,) and `pred_labels` (N,), tensors of train ids, and
                `first_len`.

        Raises:
            DataError: a frame without labels or predictions, or both differ in length.
        """
        for sample in data_samples:
            pred_labels, labels = labels_of(sample, 'WaymoMetric')
            both = official_confusion(pred_labels, labels, len(CLASSES))
            first = sample.get('first_len')
            if first is not None:
                first = official_confusion(pred_labels[:first], labels[:first], len(CLASSES))
            self.results.append((both, first))

    def compute_metrics(self, results: list[tuple[np.ndarray, np.ndarray | None]]) -> dict[str, float]:
        """Scores over all frames; the tables go to the log."""
        confusion = np.sum([both for both, _ in results], axis=0)
        result = scores(confusion)
        text = f'{len(results):,} frames, both returns\n{score_table(result, confusion, CLASSES)}'
        if all(first is not None for _, first in results):
            confusion = np.sum([first for _, first in results], axis=0)
            first_result = scores(confusion)
            text += f'\nfirst returns alone\n{score_table(first_result, confusion, CLASSES)}'
            result.update({f'first_{key}': value for key, value in first_result.items()})
        print_log(text, 'current')
        return result
