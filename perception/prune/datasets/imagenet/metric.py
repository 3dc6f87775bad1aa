"""Top-1 and top-5 accuracy."""
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from perception.registry import METRICS
from perception.utils.errors import DataError


@METRICS.register_module()
class TopKMetric(BaseMetric):
    """Share of the images whose label is among the k classes with the largest scores: `top1`, `top5`; and
    `cross_entropy`, the mean of -log of the label's score, which shows differences that shares hide.

    Args:
        topk: k, in turn; more than there are classes are all of them.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''
    less_is_better = ('cross_entropy',)  # of its results, see ExportHook

    def __init__(self, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = tuple(topk)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Note the rank of the label of some images and its score.

        Args:
            data_batch: not used.
            data_samples: for each a dict with `label` () and `scores` (C,).

        Raises:
            DataError: labels or scores are missing, or scores are NaN.
        """
        for sample in data_samples:
            if 'label' not in sample or 'scores' not in sample:
                raise DataError(f'TopKMetric: a sample with {", ".join(sample)}, expected `label` and `scores`. Test '
                                'on a split with labels.')
            scores, label = sample['scores'].double(), int(sample['label'])
            if scores.isnan().any():
                raise DataError(f'TopKMetric: {sample.get("sample_id", "a sample")} has {int(scores.isnan().sum())} '
                                f'scores of {len(scores)} that are NaN, expected numbers. The net diverged; use an '
                                'earlier checkpoint.')
            above = scores > scores[label]
            equal = (scores == scores[label])[:label]  # the earlier class comes first
            self.results.append((int(above.sum() + equal.sum()),
                                 float(-scores[label].clamp(min=torch.finfo(torch.float32).tiny).log())))

    def compute_metrics(self, results: list[tuple[int, float]]) -> dict[str, float]:
        """`topK` in [0, 1] for each K, and `cross_entropy`."""
        ranks, lost = (np.array(column) for column in zip(*results))
        return {**{f'top{k}': float((ranks < k).mean()) for k in self.topk}, 'cross_entropy': float(lost.mean())}
