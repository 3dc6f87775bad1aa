"""The ApolloScape lane mark score: mean IoU over all pixels of all images, as the official script counts them.

It is Cityscapes' script with another table: pixels of a class that is not scored do not count as false positives of the
others, and the mean is taken over scored classes that occur in truth or predictions. Whether the server counted the
void class is not documented, so both means are given.
"""
from collections.abc import Mapping

import numpy as np

from perception.common.metrics.confusion import ConfusionMetric, confusion_matrix
from perception.lanes.datasets.apolloscape.reader import NUM_CLASSES, SCORED, ApolloScapeLaneMark
from perception.lanes.datasets.base import need
from perception.lanes.decode import restore_labels
from perception.registry import METRICS
from perception.utils.errors import DataError

CLASSES = ApolloScapeLaneMark.METAINFO['classes']


def image_confusion(pred_labels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts of an image at its original size.

    Args:
        pred_labels, labels: (H, W) classes 0..36; 255 counts as 36, noise.

    Returns:
        (37, 37) int64, rows = predicted, columns = true class.

    Raises:
        DataError: different sizes, or a number that is no class.
    """
    if pred_labels.shape != labels.shape:
        raise DataError(f'ApolloScape: predictions of {pred_labels.shape} for labels of {labels.shape} pixels, '
                        f'expected equal sizes. Predict at the original size.')
    return confusion_matrix(*(np.where(x == 255, NUM_CLASSES - 1, x) for x in (pred_labels, labels)), NUM_CLASSES)


def scores(confusion: np.ndarray) -> dict[str, float]:
    """The scores of a confusion matrix.

    Args:
        confusion: (37, 37), see `image_confusion`.

    Returns:
        `miou` of the 17 scored markings, `miou_void` with the void class, `iou_<class>` of each scored class, NaN for
        one that never occurs. A mean without any class is 0.
    """
    scored = np.array(SCORED)
    hits = np.diagonal(confusion)[scored]
    union = confusion[np.ix_(scored, scored)].sum(axis=1) + confusion[:, scored].sum(axis=0) - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
    means = {name: values[~np.isnan(values)] for name, values in (('miou', iou[scored > 0]), ('miou_void', iou))}
    return {**{name: float(values.mean()) if len(values) else 0.0 for name, values in means.items()},
            **{f'iou_{CLASSES[k]}': float(value) for k, value in zip(SCORED, iou)}}


def score_table(confusion: np.ndarray) -> str:
    """IoU, pixels and name of each scored class that occurs, then the means, in percent."""
    result, pixels = scores(confusion), confusion.sum(axis=0)
    lines = [f'{"class":<22}{"IoU [%]":>8}{"pixels":>16}']
    lines += [f'{CLASSES[k]:<22}{100 * result[f"iou_{CLASSES[k]}"]:8.2f}{pixels[k]:16,}' for k in SCORED
              if not np.isnan(result[f'iou_{CLASSES[k]}'])]
    return '\n'.join([*lines, f'{"mIoU of markings":<22}{100 * result["miou"]:8.2f}',
                      f'{"mIoU with void":<22}{100 * result["miou_void"]:8.2f}'])


@METRICS.register_module()
class ApolloScapeMetric(ConfusionMetric):
    """Mean IoU of lane marks at the original size; arguments as of `ConfusionMetric`."""

    unit = 'images'

    def count(self, sample: Mapping) -> np.ndarray:
        """Pairs of classes of an image, see `image_confusion`.

        Args:
            sample: with `full_labels` (H0, W0), `pred_labels` (h, w) and `crop_top`.
        """
        labels, pred = (need(sample, key, 'ApolloScapeMetric') for key in ('full_labels', 'pred_labels'))
        labels = labels.cpu().numpy()
        return image_confusion(restore_labels(pred, labels.shape, sample.get('crop_top', 0)).cpu().numpy(), labels)

    def report(self, confusion: np.ndarray) -> tuple[dict[str, float], str]:
        """Scores, without classes that never occur, and their table."""
        return ({key: value for key, value in scores(confusion).items() if not np.isnan(value)},
                score_table(confusion))
