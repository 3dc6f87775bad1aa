"""Channel-wise Knowledge Distillation for Dense Prediction, Shu et al., ICCV 2021 (arXiv 2011.13256).

    (1) phi(y_c)(i) = exp(y_c,i / T) / sum_j exp(y_c,j / T)            softmax of a channel over the positions i
    (2) L = T^2/C sum_c sum_i phi(y^T_c)(i) log(phi(y^T_c)(i) / phi(y^S_c)(i))         mean over the samples
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.distill.base import DistillLoss
from perception.distill.positions import ROWS, aligned, check_channels, grouped, labels_at
from perception.utils.checks import check_choice, check_positive


class CDLoss(DistillLoss):
    """Where each channel is active; a sum over positions, a mean over channels and samples.

    For maps (B, C, H, W) of images as for rows (R, C) of points or voxels and sparse tensors, whose softmax is over the
    rows of a scan. A teacher's map of another size is resized bilinearly to the student's.

    Args:
        teacher: name of the teacher in the Distiller.
        tap: the class scores, or features, in both nets.
        channels: (student's, teacher's) number of channels where they differ: a linear map is learned that gives the
            student's features the teacher's channels.
        temperature: T.
        mask_ignored: only labelled positions are taught, (1) is over them alone and a sample without any counts zero;
            by default also those with the label `ignore_index`, the unlabelled ones.
        ignore_index: the label of positions without a class.
        rows: what rows (R, C) are, `'points'` or `'voxels'`.
        weight: factor on the loss; the paper takes 3 for class scores and 50 for features.
        begin: first iteration with this loss.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, teacher: str, tap: str = 'logits', channels: tuple[int, int] | None = None,
                 temperature: float = 4.0, mask_ignored: bool = False, ignore_index: int = 255, rows: str = 'points',
                 weight: float = 3.0, begin: int = 0, end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_positive('CDLoss', temperature=temperature)
        check_choice('CDLoss: rows', rows, ROWS)
        self.taps, self.tap, self.temperature, self.rows = (tap,), tap, temperature, rows
        self.mask_ignored, self.ignore_index = mask_ignored, ignore_index
        self.channels = channels
        self.adapter = nn.Identity() if channels is None else nn.Linear(*channels, bias=False)

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> Tensor:
        """Equation (2).

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: its inputs tell the samples of rows and, for `mask_ignored`, hold the labels.

        Raises:
            ConfigError: outputs of other numbers of channels than `channels`.
            DataError: the nets' outputs have different positions or, without an adapter, channels.
        """
        value, inputs = student[self.tap], batch['inputs']
        s, t = aligned(value, teacher[self.tap], self.tap, same_channels=self.channels is None)
        if self.channels is not None:
            check_channels('CDLoss', s, t, self.channels)
        with torch.autocast(s.device.type, enabled=False):
            sums, left_out = [], s.new_zeros(len(s), 1, *s.shape[2:], dtype=torch.bool)
            if self.mask_ignored:
                left_out = (labels_at(value, inputs, self.rows) == self.ignore_index).unsqueeze(1)
            for a, b, out in zip(*(grouped(x, value, inputs, self.rows) for x in (s, t, left_out))):
                log_s, log_t = ((x / self.temperature).masked_fill(out, torch.finfo(x.dtype).min / 2).log_softmax(1)
                                for x in (self.adapter(a), b))  # (1): (G, P, C)
                sums.append(F.kl_div(log_s, log_t, reduction='none', log_target=True).sum(1).mean(1))
            return self.temperature ** 2 * torch.cat(sums).mean()
