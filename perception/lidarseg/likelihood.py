"""What the official scores leave out: how sure a net is of the truth, and how often it says what its teacher says.

A mean over classes moves with a few points of a rare class; the cross-entropy counts all points and sees also what the
arg max hides. Used by tools/benchmark.py distillation.
"""
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import nn

from perception.lidarseg.datasets.base import IGNORE, other_predictions, rows_of
from perception.registry import METRICS
from perception.utils.errors import ConfigError, DataError


@METRICS.register_module()
class LikelihoodMetric(BaseMetric):
    """Cross-entropy of the labelled points, and agreement with saved predictions; it stands beside an official metric.

    Models give it their logits with `keep_logits=True`.

    Args:
        against: folder with the predictions of another model, which `tools/test.py ... --save DIR` wrote for the same
            scans; None compares with none.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''
    less_is_better = ('cross_entropy',)  # of its results, see ExportHook
    needs_labels = True

    def __init__(self, against: str | Path | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        self.against = None if against is None else Path(against).expanduser()

    @staticmethod
    def check_model(model: nn.Module) -> None:
        """Called before a training, which would come to nothing at its first validation.

        Raises:
            ConfigError: the model keeps no logits.
        """
        if getattr(model, 'keep_logits', None) is False:
            raise ConfigError(f'LikelihoodMetric: {type(model).__name__} has keep_logits=False, expected True, for the '
                              'cross-entropy is made of its logits. Set it in the config of the net, or leave out this '
                              'metric.')

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Add up some scans.

        Args:
            data_batch: not used.
            data_samples: for each scan a dict with `labels` (N,) and `logits` (N, C), of the same points.

        Raises:
            ConfigError: the model keeps no logits.
            DataError: a scan without labels, or without saved predictions of the same points.
        """
        for sample in data_samples:
            name = sample.get('sample_id', 'a scan')
            if sample.get('labels') is None:
                raise DataError(f'LikelihoodMetric: {name} has no labels, expected some. Test another split.')
            if sample.get('logits') is None:
                raise ConfigError(f'LikelihoodMetric: {name} has no logits, expected those of a model with '
                                  'keep_logits=True. Set it beside this metric.')
            labels, logits = (rows_of(sample[key].cpu(), sample) for key in ('labels', 'logits'))
            known = labels != IGNORE
            loss = F.cross_entropy(logits[known].double(), labels[known], reduction='sum')
            agree = 0
            if self.against is not None:
                agree = int((logits.argmax(1) == other_predictions(self.against, sample)).sum())
            self.results.append((float(loss), int(known.sum()), agree, len(labels)))

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """`cross_entropy` [nat], a mean over labelled points, and with `against` the `agreement`, a share of all."""
        loss, known, agree, points = torch.tensor(results, dtype=torch.float64).sum(0).tolist()
        found = dict(cross_entropy=loss / max(known, 1))
        if self.against is not None:
            found['agreement'] = agree / max(points, 1)
        print_log(', '.join(f'{name} {value:.4f}' for name, value in found.items()), 'current')
        return found
