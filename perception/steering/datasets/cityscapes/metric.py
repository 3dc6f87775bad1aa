"""The segmentation score of Cityscapes: IoU of each class and category over all pixels of all images.

As the official script counts: pixels of ids that are not scored count neither as right nor as wrong, and the means are
taken over classes that occur in truth or predictions. The instance-weighted iIoU is not computed.
"""
from collections.abc import Mapping

import cv2
import numpy as np

from perception.common.metrics.confusion import ConfusionMetric, confusion_matrix
from perception.registry import METRICS
from perception.steering.datasets.cityscapes.reader import CLASSES, IGNORE
from perception.steering.metrics import array_of
from perception.utils.errors import DataError

NUM_CLASSES = len(CLASSES)
CATEGORIES = tuple(dict.fromkeys(entry.category for entry in CLASSES))


def restored(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A label map (h, w) at the size of the original image (H0, W0) uint8, enlarged to the nearest."""
    return cv2.resize(np.asarray(labels, np.uint8), tuple(shape[::-1]), interpolation=cv2.INTER_NEAREST)


def scores(confusion: np.ndarray) -> dict[str, float]:
    """The scores of a confusion matrix.

    Args:
        confusion: (19, 19), rows = predicted, columns = true class.

    Returns:
        `miou`, `miou_categories`, `iou_<class>` and `iou_<category>` in [0, 1], NaN for what never occurs.
    """
    group = np.array([CATEGORIES.index(entry.category) for entry in CLASSES])
    member = np.eye(len(CATEGORIES), dtype=np.int64)[group]
    result = {}
    for name, names, counts in (('miou', [entry.name for entry in CLASSES], confusion),
                                ('miou_categories', CATEGORIES, member.T @ confusion @ member)):
        hits = np.diagonal(counts)
        union = counts.sum(0) + counts.sum(1) - hits
        iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
        result[name] = float(np.nanmean(iou)) if (union > 0).any() else np.nan
        result.update({f'iou_{one}': float(value) for one, value in zip(names, iou) if f'iou_{one}' not in result})
    return result


@METRICS.register_module()
class CityscapesMetric(ConfusionMetric):
    """Official mean IoU at the original size; arguments as of `ConfusionMetric`."""

    unit = 'images'

    def count(self, sample: Mapping) -> np.ndarray:
        """Pairs of classes of an image.

        Args:
            sample: with `full_labels` (H0, W0) and `pred_labels` (h, w).

        Raises:
            DataError: one is missing, or a class that is none.
        """
        where = type(self).__name__
        labels, pred = (array_of(sample, key, where) for key in ('full_labels', 'pred_labels'))
        highest = int(pred.max(initial=0))
        if highest >= NUM_CLASSES or pred.min(initial=0) < 0:
            raise DataError(f'{where}: classes up to {highest} in the prediction for {sample.get("sample_id")}, '
                            f'expected 0..{NUM_CLASSES - 1}. Use a net with the classes of this data set.')
        scored = labels != IGNORE
        return confusion_matrix(restored(pred, labels.shape)[scored], labels[scored], NUM_CLASSES)

    def report(self, confusion: np.ndarray) -> tuple[dict[str, float], str]:
        """Scores of what occurs, and their table in percent."""
        result, pixels = scores(confusion), confusion.sum(0)
        lines = [f'{"class":<16}{"IoU [%]":>8}{"pixels":>16}']
        lines += [f'{entry.name:<16}{100 * result[f"iou_{entry.name}"]:8.2f}{count:16,}'
                  for entry, count in zip(CLASSES, pixels.tolist()) if not np.isnan(result[f'iou_{entry.name}'])]
        lines += [f'{name:<16}{100 * result[f"iou_{name}"]:8.2f}' for name in CATEGORIES
                  if not np.isnan(result[f'iou_{name}'])]
        lines += [f'{"mean, classes":<16}{100 * result["miou"]:8.2f}',
                  f'{"categories":<16}{100 * result["miou_categories"]:8.2f}']
        return {key: value for key, value in result.items() if not np.isnan(value)}, '\n'.join(lines)
