"""Distilling the Knowledge in a Neural Network, Hinton, Vinyals, Dean, 2015 (arXiv 1503.02531).

    L = T^2 mean_i KL(softmax(z_T(i) / T) || softmax(z_S(i) / T)),  i over the labelled positions (or all)

The factor T^2 keeps the size of the gradients when the temperature changes.
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.distill.base import DistillLoss
from perception.distill.positions import ROWS, aligned, labels_at
from perception.utils.checks import check_choice, check_positive


class KDLoss(DistillLoss):
    """Softened class probabilities of every position; a sum over classes and a mean over positions.

    For maps (B, C, H, W) of images as for rows (R, C) of points or voxels and sparse tensors. A teacher's map of
    another size is resized bilinearly to the student's.

    Args:
        teacher: name of the teacher in the Distiller.
        logits: tap of the class scores, in both nets.
        temperature: T.
        mask_ignored: only labelled positions are taught; with False also those with the label `ignore_index`, the
            unlabelled ones (of an image: padding after a rotation too).
        ignore_index: the label of positions without a class.
        rows: what the rows of (R, C) logits are, `'points'` or `'voxels'`.
        weight: factor on the loss.
        begin: first iteration with this loss.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, teacher: str, logits: str = 'logits', temperature: float = 4.0, mask_ignored: bool = True,
                 ignore_index: int = 255, rows: str = 'points', weight: float = 1.0, begin: int = 0,
                 end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_positive('KDLoss', temperature=temperature)
        check_choice('KDLoss: rows', rows, ROWS)
        self.taps, self.logits, self.temperature, self.rows = (logits,), logits, temperature, rows
        self.mask_ignored, self.ignore_index = mask_ignored, ignore_index

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> Tensor:
        """The loss, zero where no position is labelled.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: its inputs hold the labels, read only with `mask_ignored`.

        Raises:
            DataError: outputs or labels do not fit to each other.
        """
        s, t = aligned(student[self.logits], teacher[self.logits], self.logits, same_channels=True)
        with torch.autocast(s.device.type, enabled=False):
            kl = kl_divergence(s, t, self.temperature)
            if self.mask_ignored:
                kl = kl[labels_at(student[self.logits], batch['inputs'], self.rows) != self.ignore_index]
            return kl.sum() / max(kl.numel(), 1)


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) of the softened probabilities at each position.

    Args:
        student: (B, C, H, W) or (R, C) logits.
        teacher: logits of the teacher, of the same shape.
        temperature: T.

    Returns:
        (B, H, W) or (R,) divergences, a sum over classes.
    """
    log_s, log_t = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    return temperature ** 2 * F.kl_div(log_s, log_t, reduction='none', log_target=True).sum(1)
