"""Intra-class Feature Variation Distillation for Semantic Segmentation, Wang et al., ECCV 2020.

    (1) mu(k) = mean of f(i) over the positions i of class k           prototype of a class, in each sample
    (2) V(i) = <f(i), mu(y_i)> / (|f(i)| |mu(y_i)|)                    how like its class a position is
    (3) L = mean_i (V_S(i) - V_T(i))^2                                 over the labelled positions of the batch
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.distill.base import DistillLoss
from perception.distill.positions import ROWS, aligned, labels_at, sample_index
from perception.utils.checks import check_choice


class IFVLoss(DistillLoss):
    """Variation inside each class: similarity of every position to its class' prototype; a mean over positions.

    For maps (B, C, H, W) of images as for rows (R, C) of points or voxels and sparse tensors. Channels may differ
    between the nets; a teacher's map of another size is resized bilinearly, labels by nearest neighbour.

    Args:
        teacher: name of the teacher in the Distiller.
        feats: tap of the features, in both nets.
        ignore_index: the label of positions without a class; they count nowhere.
        rows: what rows (R, C) are, `'points'` or `'voxels'`.
        weight: factor on the loss.
        begin: first iteration with this loss.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, teacher: str, feats: str = 'feats', ignore_index: int = 255, rows: str = 'points',
                 weight: float = 50.0, begin: int = 0, end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_choice('IFVLoss: rows', rows, ROWS)
        self.taps, self.feats, self.ignore_index, self.rows = (feats,), feats, ignore_index, rows

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> Tensor:
        """Equation (3), zero where no position is labelled.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: its inputs hold the labels and tell the samples of rows.

        Raises:
            DataError: outputs or labels do not fit to each other.
        """
        value, inputs = student[self.feats], batch['inputs']
        s, t = aligned(value, teacher[self.feats], self.feats)
        labels = labels_at(value, inputs, self.rows).flatten()
        if s.ndim == 4:
            sample = torch.arange(len(s), device=s.device).repeat_interleave(s[0, 0].numel())
            s, t = (x.movedim(1, -1).flatten(0, 2) for x in (s, t))
        else:
            sample = sample_index(value, inputs, self.rows)
        keep = labels != self.ignore_index
        classes = int(labels.max()) + 1 if len(labels) else 0
        groups = torch.unique(sample[keep] * classes + labels[keep], return_inverse=True)[1]
        with torch.autocast(s.device.type, enabled=False):
            gap = class_similarity(s[keep], groups) - class_similarity(t[keep], groups)
            return gap.square().sum() / max(len(gap), 1)


def class_similarity(feats: Tensor, groups: Tensor) -> Tensor:
    """Equations (1) and (2).

    Args:
        feats: (R, C) features.
        groups: (R,) int64, 0..K-1 without gaps: the class of each row in its sample.

    Returns:
        (R,) cosine similarity to the mean of the row's group.
    """
    counts = torch.bincount(groups)
    prototypes = feats.new_zeros(len(counts), feats.shape[1]).index_add(0, groups, feats) / counts[:, None]
    return F.cosine_similarity(feats, prototypes[groups], dim=1)
