"""Distilling the Knowledge in a Neural Network, Hinton, Vinyals, Dean, 2015 (arXiv 1503.02531).

    L = T^2 mean_i KL(softmax(z_T(i) / T) || softmax(z_S(i) / T)),  i over the labelled positions (or all)

a mean weighted by the class of position i where the student's own loss has such weights (an option, not in the paper).
The factor T^2 keeps the size of the gradients when the temperature changes.
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.distill.base import DistillLoss
from perception.distill.positions import ROWS, aligned, check_same_positions, labels_at
from perception.utils.checks import check_choice, check_class_weights, check_positive
from perception.utils.errors import ConfigError


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
        class_weights: C weights, of each position by its label, such as the student's own loss has them. Where one
            class fills nearly every pixel, as the background of lanes does, an even mean teaches little but that
            class: see perception/lanes/README.md. None: all positions alike.
        classes: only the first so many channels of both nets are compared, where one has a class more than the other,
            such as Cylinder3D's "unlabelled"; None: all, which must be equally many.
        weight: factor on the loss.
        begin: first iteration with this loss.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: an argument out of its range, or weights by class for positions that may have no label.
    """

    def __init__(self, teacher: str, logits: str = 'logits', temperature: float = 4.0, mask_ignored: bool = True,
                 ignore_index: int = 255, rows: str = 'points', class_weights: Sequence[float] | None = None,
                 weight: float = 1.0, begin: int = 0, end: int | None = None, classes: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_positive('KDLoss', temperature=temperature, **({} if classes is None else dict(classes=classes)))
        check_choice('KDLoss: rows', rows, ROWS)
        if class_weights is not None and not mask_ignored:
            raise ConfigError(f'KDLoss: class_weights={class_weights!r} with mask_ignored={mask_ignored}, expected '
                              'labelled positions alone. Set mask_ignored=True, or leave class_weights out.')
        check_class_weights('KDLoss', class_weights, len(class_weights or ()))
        self.class_weights = class_weights
        self.taps, self.logits, self.temperature, self.rows = (logits,), logits, temperature, rows
        self.mask_ignored, self.ignore_index, self.classes = mask_ignored, ignore_index, classes

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> Tensor:
        """The loss, zero where no position is labelled.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: its inputs hold the labels, read only with `mask_ignored`.

        Raises:
            DataError: outputs or labels do not fit to each other.
        """
        s, t = aligned(student[self.logits], teacher[self.logits], self.logits, same_channels=self.classes is None)
        if self.classes is not None:
            s, t = s[:, :self.classes], t[:, :self.classes]
            check_same_positions(s, t, self.logits, same_channels=True)
        with torch.autocast(s.device.type, enabled=False):
            kl = kl_divergence(s, t, self.temperature)
            if not self.mask_ignored:
                return kl.sum() / max(kl.numel(), 1)
            labels = labels_at(student[self.logits], batch['inputs'], self.rows)
            known = labels != self.ignore_index
            kl, labels = kl[known], labels[known]
            if self.class_weights is None:
                return kl.sum() / max(kl.numel(), 1)
            weights = self._weights(s.shape[1], kl)[labels]
            return (weights * kl).sum() / weights.sum().clamp(min=torch.finfo(kl.dtype).tiny)

    def _weights(self, classes: int, like: Tensor) -> Tensor:
        check_class_weights('KDLoss', self.class_weights, classes)
        return like.new_tensor(self.class_weights)


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
