"""Counts of predictions against truth."""
from collections.abc import Mapping, Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.utils.errors import DataError


def confusion_matrix(pred_labels: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of elements for each pair of predicted and true class.

    Args:
        pred_labels: (N,) integers 0..C-1.
        labels: (N,) integers 0..C-1.
        num_classes: C.

    Returns:
        (C, C) int64, rows = predicted, columns = true class. Matrices of parts add up to that of the whole.

    Raises:
        DataError: different numbers of elements, or a number that is no class.
    """
    pred_labels, labels = np.asarray(pred_labels).ravel(), np.asarray(labels).ravel()
    if len(pred_labels) != len(labels):
        raise DataError(f'confusion_matrix: {len(pred_labels):,} predictions for {len(labels):,} labels, expected '
                        f'equal numbers. Compare the same scan.')
    for name, values in (('predictions', pred_labels), ('labels', labels)):
        if len(values) and not 0 <= values.min() <= values.max() < num_classes:
            raise DataError(f'confusion_matrix: {name} from {values.min()} to {values.max()}, expected '
                            f'0..{num_classes - 1}. Map them to classes first.')
    pairs = pred_labels.astype(np.intp) * num_classes + labels.astype(np.intp, copy=False)
    return np.bincount(pairs, minlength=num_classes ** 2).reshape(num_classes, num_classes)


class ConfusionMetric(BaseMetric):
    """Base of the metrics that count pairs of classes: one writes `count` and `report`.

    Each sample leaves counts of integers, so results of several processes merge without loss and the samples that a
    sampler repeats to fill the last round are dropped.

    Args:
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning
    unit = 'scans'  # what a sample is called in the log

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Count some samples.

        Args:
            data_batch: not used.
            data_samples: for each a dict with labels and predictions, see `count`.

        Raises:
            DataError: a sample without labels or predictions, or both differ in number.
        """
        self.results.extend(self.count(sample) for sample in data_samples)

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Scores over all samples; the table goes to the log."""
        result, table = self.report(np.sum(results, axis=0))
        print_log(f'{len(results):,} {self.unit}\n{table}', 'current')
        return result

    def count(self, sample: Mapping) -> np.ndarray:
        """Counts of a sample, (C, C) int64; those of all samples are added up."""
        raise NotImplementedError(f'{type(self).__name__} has no count; write one.')

    def report(self, confusion: np.ndarray) -> tuple[dict[str, float], str]:
        """Scores, and their table for the log, of the counts (C, C) of all samples."""
        raise NotImplementedError(f'{type(self).__name__} has no report; write one.')
