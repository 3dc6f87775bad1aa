"""Scores by distance from the sensor, as evaluate_semantics_by_distance.py of SemanticKITTI's development kit has them.

A bin holds the points between two distances, its bounds excluded; distances are three-dimensional, from the origin of
the points' frame: the LiDAR, but Waymo's is on the ground below the vehicle's rear axle. Each bin is scored as a whole
data set is, see `scores` of `datasets/base.py`: its mean is over all classes, one that does not occur there counts as
0, and a second mean is over the classes that do occur.
"""
import itertools
from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.lidarseg.datasets.base import labels_of, official_confusion, scores
from perception.registry import METRICS
from perception.utils.errors import ConfigError

EDGES = (1e-8, 10.0, 20.0, 30.0, 40.0, 50.0)  # m, of the official script


@METRICS.register_module()
class DistanceMetric(BaseMetric):
    """IoU per class and distance; it stands beside the metric of a data set, which it leaves as it is.

    Names and number of the classes are those of the data set.

    Args:
        edges: bounds of the bins in m, ascending.
        collect_device, prefix: as in mmengine.

    Raises:
        ConfigError: fewer than two edges, or edges that do not ascend from 0 or more.
    """

    default_prefix = 'distance'
    needs_labels = True

    def __init__(self, edges: Sequence[float] = EDGES, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.edges = tuple(float(edge) for edge in edges)
        pairs = list(itertools.pairwise(self.edges))
        if not pairs or not all(a < b for a, b in pairs) or self.edges[0] < 0:
            raise ConfigError(f'DistanceMetric: edges={list(self.edges)}, expected at least two ascending numbers of '
                              'metres from 0 on. The official ones are 0 10 20 30 40 50.')

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the points of some scans.

        Args:
            data_batch: `inputs.points`, a list of (N', 3+) tensors x, y, z [m], the labelled points first.
            data_samples: for each scan a dict with `labels` (N,) and `pred_labels` (N,), tensors of train ids.

        Raises:
            ConfigError: the data set does not name its classes.
            DataError: a scan without labels or predictions, or they differ in number.
        """
        classes = (self.dataset_meta or {}).get('classes')
        if classes is None:
            raise ConfigError('DistanceMetric: the data set names no classes, expected classes in its METAINFO. Add '
                              'them.')
        for points, sample in zip(data_batch['inputs']['points'], data_samples):
            pred_labels, labels = labels_of(sample, 'DistanceMetric', len(points))
            xyz = points[:len(labels), :3].cpu().numpy()
            self.results.append(binned_confusion(pred_labels, labels, np.linalg.norm(xyz, axis=1), self.edges,
                                                 len(classes)))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Scores of each bin; the table goes to the log."""
        classes = self.dataset_meta['classes']
        counts = np.sum(results, axis=0)
        by_bin = [scores(confusion, classes) for confusion in counts]
        names = bin_names(self.edges)
        table = distance_table(by_bin, counts, names, classes)
        print_log(f'IoU [%] by distance from x = y = z = 0\n{table}', 'current')
        return {f'{key}_{name}': result[key] for key in ('miou', 'miou_present', 'accuracy')
                for name, result in zip(names, by_bin)}


def binned_confusion(pred_labels: np.ndarray, labels: np.ndarray, distances: np.ndarray, edges: Sequence[float],
                     num_classes: int) -> np.ndarray:
    """Confusion matrices of the points between neighbouring edges, the edges excluded.

    Args:
        pred_labels, labels: (N,) train ids 0..C-1, 255 = unlabelled.
        distances: (N,) m.
        edges: B + 1 bounds [m].
        num_classes: C.

    Returns:
        (B, C + 1, C + 1) int64, see `official_confusion`.
    """
    masks = [(distances > near) & (distances < far) for near, far in itertools.pairwise(edges)]
    return np.stack([official_confusion(pred_labels[mask], labels[mask], num_classes) for mask in masks])


def bin_names(edges: Sequence[float]) -> list[str]:
    """Names such as `10-20m`."""
    texts = [f'{edge:.2f}'.rstrip('0').rstrip('.') for edge in edges]
    return [f'{near}-{far}m' for near, far in itertools.pairwise(texts)]


def distance_table(by_bin: Sequence[dict[str, float]], counts: np.ndarray, names: Sequence[str],
                   classes: Sequence[str]) -> str:
    """A line for each class, a column for each bin; a dash where a class, or all, neither occur nor are predicted.

    Args:
        by_bin: B results of `scores`.
        counts: (B, C + 1, C + 1) confusion matrices.
        names: B names.
        classes: C names.
    """
    counted = counts[:, :, 1:]
    seen = counted.sum(axis=1) + counted[:, 1:].sum(axis=2)  # (B, C) true and predicted points
    rows = [['class', *names]]
    rows += [[name, *(f'{100 * result[f"iou_{name}"]:.2f}' if seen[b, c] else '-' for b, result in enumerate(by_bin))]
             for c, name in enumerate(classes)]
    rows += [[title, *(f'{100 * result[key]:.2f}' if seen[b].any() else '-' for b, result in enumerate(by_bin))]
             for title, key in (
                 ('mIoU', 'miou'), ('mIoU of those present', 'miou_present'), ('accuracy', 'accuracy'))]
    rows += [['points', *(f'{count:,}' for count in counted.sum(axis=(1, 2)))]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join(row[0].ljust(widths[0]) + ''.join(cell.rjust(width + 2) for cell, width in zip(
        row[1:], widths[1:])) for row in rows)
