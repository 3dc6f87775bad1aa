"""What every metric of scans takes from a sample."""
from collections.abc import Mapping

import numpy as np

from perception.utils.errors import DataError


def labels_of(sample: Mapping, where: str, num_points: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and truth of a scan, checked.

    Args:
        sample: `pred_labels` (N,) and `labels` (N,), tensors of train ids, and `sample_id`.
        where: start of an error message.
        num_points: of the scan, at least N; None does not check it.

    Returns:
        (N,) predictions and (N,) labels.

    Raises:
        DataError: one is missing, or their numbers do not fit.
    """
    name = sample.get('sample_id', 'a scan')
    for key in ('labels', 'pred_labels'):
        if sample.get(key) is None:
            raise DataError(f'{where}: {name} has no {key}, expected labels and predictions. Evaluate a split that has '
                            'labels, with a model that predicts.')
    pred_labels, labels = sample['pred_labels'].cpu().numpy(), sample['labels'].cpu().numpy()
    if len(pred_labels) != len(labels) or (num_points is not None and len(labels) > num_points):
        points = '' if num_points is None else f' and {num_points:,} points'
        raise DataError(f'{where}: {len(pred_labels):,} predictions for {len(labels):,} labels{points} of {name}, '
                        'expected equal numbers. Predict every point of the scan.')
    return pred_labels, labels
