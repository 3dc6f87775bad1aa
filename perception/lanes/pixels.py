"""How good label maps are, pixel by pixel, before lanes are drawn from them: shows differences that lane scores hide.

A decoder asks each row for its best column alone, and a score whether a lane is near enough: both forgive much and give
way suddenly. The cross-entropy of the pixels has no threshold.
"""
from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from perception.lanes.datasets.base import need
from perception.registry import METRICS
from perception.utils.errors import DataError


@METRICS.register_module()
class LabelMapMetric(BaseMetric):
    """Cross-entropy and mean IoU of the label maps, at the size of the network's input.

    Sums of all images are formed before any ratio: `cross_entropy`, the mean over the pixels with the weights of their
    classes, and `lane_iou` in [0, 1], the mean over the lane slots that occur of the intersection over union between
    labels and most probable classes.

    Args:
        background_weight: weight of class 0 in the cross-entropy, lanes have 1; as the network was trained with.
        ignore_index: label without a class.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning
    less_is_better = ('cross_entropy',)  # of its results, see ExportHook

    def __init__(self, background_weight: float = 0.4, ignore_index: int = 255, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.background_weight, self.ignore_index = background_weight, ignore_index

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Compare the maps of some images.

        Args:
            data_batch: not used.
            data_samples: for each image a dict with `labels` (H, W) and `lane_probs` (C, H, W).

        Raises:
            DataError: labels or probabilities are missing or do not belong together.
        """
        self.results.extend(self._sums(sample) for sample in data_samples)

    def _sums(self, sample: dict) -> Tensor:
        """(4, C) of each class: labelled pixels, their summed -log p, intersection, union; on the CPU."""
        probs, labels = need(sample, 'lane_probs', 'LabelMapMetric'), need(sample, 'labels', 'LabelMapMetric')
        if probs.shape[1:] != labels.shape:
            raise DataError(f'LabelMapMetric: {sample.get("sample_id", "an image")} has labels of '
                            f'{tuple(labels.shape)} for probabilities {tuple(probs.shape)}, expected equal sizes. '
                            'Give the data set the input_size of the network.')
        valid = labels != self.ignore_index
        probs, labels, guess = probs[:, valid], labels[valid], probs.argmax(0)[valid]  # (C, P), (P,), (P,)
        lost = -probs.gather(0, labels[None])[0].double().clamp(min=torch.finfo(torch.float32).tiny).log()
        classes = len(probs)
        count, said, both = (x.bincount(minlength=classes) for x in (labels, guess, labels[labels == guess]))
        return torch.stack([count, labels.bincount(lost, classes), both, count + said - both]).double().cpu()

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """`cross_entropy` and `lane_iou` over all images."""
        count, lost, both, union = torch.stack(results).sum(0)
        weights = torch.ones_like(count)
        weights[0] = self.background_weight
        occurs = union[1:] > 0
        iou = (both[1:][occurs] / union[1:][occurs]).mean() if occurs.any() else torch.zeros(())
        return dict(cross_entropy=float((weights * lost).sum() / (weights * count).sum().clamp(min=1e-12)),
                    lane_iou=float(iou))
