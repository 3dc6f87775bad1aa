"""The ApolloScape lane mark score: mean IoU over all pixels of all images, as the official script counts them.

It is Cityscapes' script with another table: pixels of a class that is not scored do not count as false positives of the
others, and the mean is taken over scored classes that occur in truth or predictions. Whether the server counted the
void class is not documented, so both means are given.
"""
from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.common.metrics.confusion import confusion_matrix
from perception.lanes.datasets.apolloscape.reader import NUM_CLASSES, SCORED, ApolloScapeLaneMark
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
class ApolloScapeMetric(BaseMetric):
    """Mean IoU of lane marks at the original size.

    Each image leaves one matrix of counts, so results of several processes merge without loss and the images that a
    sampler repeats to fill the last round are dropped.

    Args:
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Count the pixels of some images.

        Args:
            data_batch: not used.
            data_samples: for each image a dict with `full_labels` (H0, W0), `pred_labels` (h, w) and `crop_top`.

        Raises:
            DataError: labels or predictions are missing.
        """
        for sample in data_samples:
            for key in ('full_labels', 'pred_labels'):
                if sample.get(key) is None:
                    raise DataError(f'ApolloScapeMetric: {sample.get("sample_id", "an image")} has no {key}, expected '
                                    f'labels and predictions. Evaluate a split that has labels.')
            labels = sample['full_labels'].cpu().numpy()
            pred = restore_labels(sample['pred_labels'], labels.shape, sample.get('crop_top', 0)).cpu().numpy()
            self.results.append(image_confusion(pred, labels))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Scores over all images; the table goes to the log. Classes that never occur are left out."""
        confusion = np.sum(results, axis=0)
        print_log(f'{len(results):,} images\n{score_table(confusion)}', 'current')
        return {key: value for key, value in scores(confusion).items() if not np.isnan(value)}
