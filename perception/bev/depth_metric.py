"""Errors of predicted depths against the LiDAR's, in all and in bins of the true depth."""
from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.registry import METRICS
from perception.utils.errors import ConfigError, DataError

_SUMS = ('cells', 'absolute', 'relative', 'squared', 'within')


@METRICS.register_module()
class DepthMetric(BaseMetric):
    """Mean absolute error [m], its share of the true depth, root of the mean squared error [m], and the share of cells
    whose depth is within a factor of 1.25.

    Args:
        bins: ascending depths [m]; between each two of them there are errors too.
        collect_device, prefix: as in mmengine.

    Raises:
        ConfigError: bins that do not ascend.
    """

    default_prefix = 'depth'
    less_is_better = ('abs*', 'rel*', 'rmse*')  # of its results, see ExportHook

    def __init__(self, bins: Sequence[float] = (0, 10, 20, 40, 60), collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.bins = np.array(bins, np.float64)
        if len(self.bins) < 2 or not (np.diff(self.bins) > 0).all():
            raise ConfigError(f'DepthMetric: bins={list(bins)}, expected two or more depths that ascend. Correct them.')

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Add up the errors of some samples.

        Args:
            data_batch: not used.
            data_samples: for each a dict with `pred_depth` and `depth` (N, h, w) [m], 0 where the truth is unknown.

        Raises:
            DataError: they are missing or of different shapes.
        """
        for sample in data_samples:
            name = sample.get('sample_id', 'a sample')
            arrays = [sample.get(key) for key in ('pred_depth', 'depth')]
            if any(array is None for array in arrays) or arrays[0].shape != arrays[1].shape:
                came = ' and '.join('none' if array is None else str(tuple(array.shape)) for array in arrays)
                raise DataError(f'DepthMetric: {name} has pred_depth and depth of shape {came}, expected equal ones. '
                                'Use a net that predicts depths, and SweepDepth at its stride in the pipeline.')
            pred, truth = (np.asarray(array.cpu() if hasattr(array, 'cpu') else array, np.float64) for array in arrays)
            known = truth > 0
            pred, truth = pred[known], truth[known]
            errors = np.abs(pred - truth)
            ratio = np.maximum(pred / truth, truth / np.maximum(pred, 1e-9))
            values = np.stack([np.ones(len(truth)), errors, errors / truth, errors ** 2, ratio < 1.25])
            where = np.searchsorted(self.bins, truth, side='right')
            self.results.append(np.stack([np.bincount(where, row, len(self.bins) + 1) for row in values]))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Errors over all samples; they go to the log too."""
        sums = np.sum(results, axis=0) if results else np.zeros((len(_SUMS), len(self.bins) + 1))
        parts = {'': sums.sum(1)} | {f'_{low:g}-{high:g}m': sums[:, number + 1] for number, (low, high)
                                     in enumerate(zip(self.bins, self.bins[1:]))}
        scores = {}
        for name, (cells, absolute, relative, squared, within) in parts.items():
            share = 1 / cells if cells else np.nan
            scores |= {f'abs{name}': absolute * share, f'rel{name}': relative * share,
                       f'rmse{name}': np.sqrt(squared * share), f'within_1.25{name}': within * share}
        scores = {name: float(value) for name, value in scores.items()}
        print_log(f'depth of {int(sums[0].sum()):,} cells: ' + ', '.join(f'{name} {value:.3f}' for name, value
                                                                         in scores.items()), 'current')
        return scores
