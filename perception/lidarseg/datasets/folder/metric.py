"""The score of one's own classes, computed as SemanticKITTI's official tool does.

Points whose truth is ignored do not count. The mean is taken over all classes; one that occurs neither in truth nor in
predictions counts as 0, so the mean over those that occur stands beside it.
"""
from collections.abc import Mapping

import numpy as np

from perception.common.metrics.confusion import ConfusionMetric
from perception.lidarseg.datasets.base import labels_of, official_confusion, score_table, scores
from perception.registry import METRICS
from perception.utils.errors import ConfigError


@METRICS.register_module()
class PointFolderMetric(ConfusionMetric):
    """IoU per class, mIoU and accuracy of predicted scans; names of classes come from the data set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the C classes.

        Raises:
            ConfigError: the data set names none.
        """
        classes = (self.dataset_meta or {}).get('classes')
        if not classes:
            raise ConfigError('PointFolderMetric: the data set names no classes, expected classes in its metainfo. Use '
                              'PointFolder, or add them.')
        return tuple(classes)

    def count(self, sample: Mapping) -> np.ndarray:
        """Matrix (C + 1, C + 1) of a scan with `labels` (N,) and `pred_labels` (N,), tensors of train ids.

        Raises:
            DataError: one is missing, or both differ in length.
        """
        return official_confusion(*labels_of(sample, 'PointFolderMetric'), len(self.classes))

    def report(self, confusion: np.ndarray) -> tuple[dict[str, float], str]:
        """Scores and their table."""
        result = scores(confusion, self.classes)
        return result, score_table(result, confusion, self.classes)
