"""Counts of predictions against truth."""
import numpy as np

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
