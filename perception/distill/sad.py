"""Learning Lightweight Lane Detection CNNs by Self Attention Distillation, Hou et al., ICCV 2019 (arXiv 1908.00821).

Equations, m = a block of the network, i = a channel:
    (1) G(A_m) = sum_i |A_m,i|^p,  p = 2            attention of each position (G_sum^2)
    (2) Psi(A_m) = softmax(B(G(A_m)))               B: bilinear to the size of block m + 1; softmax: over the positions
    (3) L = sum_m |Psi(A_m) - Psi(A_m+1)|^2         sum over positions, mean over the batch

The network is its own teacher: a block mimics the next one. Nothing is added to the network itself.
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.distill.attention import NORMS, POOLS, activation_map, normalise
from perception.distill.base import DistillLoss
from perception.distill.positions import ROWS, check_same_positions, features, grouped, labels_at
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError


class SADLoss(DistillLoss):
    """Self attention distillation: shallow blocks mimic the attention of deeper ones.

    For maps (B, C, H, W) of images. Rows (R, C) of points or voxels and sparse tensors work too where both blocks have
    the same rows; their softmax is over the rows of a scan.

    Args:
        teacher: `'student'` for self-distillation; with a teacher's name the deeper block is the teacher's.
        pairs: (block, block that it mimics), as taps.
        power: p of (1).
        pool: over the channels, `'sum'` or `'max'`.
        norm: `'softmax'` as in (2); `'mean_softmax'`, of each map divided by its mean; or `'l2'`: divided by the
            Euclidean norm, less sharp. G grows with the channels and the square of the activations, whose scale is any
            with batch normalisation: where G reaches the hundreds, (2) is one at a single position and its gradient
            vanishes, and where it is small, (2) is flat. Divided by the mean, the scale no longer counts.
        temperature: divisor before the softmax; above 1 for maps that are polarised, below 1 for flat ones.
        detach_target: the deeper map is a constant; with False both blocks move.
        mimic_label: tap whose attention mimics the labelled foreground, or None. The target is the share of foreground
            (any class but 0) at each position, normalised as the attention is: to a sum or a Euclidean norm of one.
        ignore_index: the label of positions without a class.
        rows: what rows (R, C) are, `'points'` or `'voxels'`.
        weight: factor on all terms, the paper's gamma.
        begin: first iteration with this loss; the paper starts once the network is reasonably trained.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, teacher: str = 'student',
                 pairs: Sequence[tuple[str, str]] = (('stage2', 'stage3'), ('stage3', 'stage4')), power: float = 2.0,
                 pool: str = 'sum', norm: str = 'softmax', temperature: float = 1.0, detach_target: bool = True,
                 mimic_label: str | None = None, ignore_index: int = 255, rows: str = 'points', weight: float = 0.1,
                 begin: int = 40_000, end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_positive('SADLoss', power=power, temperature=temperature)
        check_choice('SADLoss: pool', pool, POOLS)
        check_choice('SADLoss: norm', norm, NORMS)
        check_choice('SADLoss: rows', rows, ROWS)
        if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs) or not (pairs or mimic_label):
            raise ConfigError(f"SADLoss: pairs={pairs!r}, expected (block, block it mimics) of taps. Write "
                              "(('stage2', 'stage3'), ('stage3', 'stage4')).")
        self.pairs, self.mimic_label = tuple(map(tuple, pairs)), mimic_label
        self.taps = tuple(dict.fromkeys([block for block, _ in self.pairs] + [mimic_label] * bool(mimic_label)))
        self.teacher_taps = tuple(dict.fromkeys(deeper for _, deeper in self.pairs))
        self.power, self.pool, self.norm, self.temperature = power, pool, norm, temperature
        self.detach_target, self.ignore_index, self.rows = detach_target, ignore_index, rows

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> dict[str, Tensor]:
        """One term `<block>_<deeper block>` for each pair, and `label`.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name; the student's own for self-distillation.
            batch: its inputs hold the labels, read only with `mimic_label`, and tell the samples of rows.

        Raises:
            DataError: two blocks cannot be compared, or there are no labels.
        """
        inputs = batch['inputs']
        terms = {f'{block}_{deeper}': self._pair(student[block], teacher[deeper], (block, deeper), inputs)
                 for block, deeper in self.pairs}
        if self.mimic_label:
            terms['label'] = self._label(student[self.mimic_label], inputs)
        return terms

    def attention(self, value: Any, tap: str, size: tuple[int, int] | None = None) -> Tensor:
        """Equation (1) and the resizing of (2): (B, 1, H, W) or (R, 1), not yet normalised.

        Args:
            value: what the tap recorded.
            tap: its name, for the message.
            size: (H, W) to resize a map to.
        """
        strength = activation_map(features(value, tap), self.power, self.pool)
        if size is not None and strength.ndim == 4 and strength.shape[2:] != size:
            strength = F.interpolate(strength, size, mode='bilinear', align_corners=False)
        return strength

    def _pair(self, block: Any, deeper: Any, taps: tuple[str, str], inputs: dict) -> Tensor:
        with torch.autocast(features(block, taps[0]).device.type, enabled=False):
            target = self.attention(deeper, taps[1])
            if self.detach_target:
                target = target.detach()
            ours = self.attention(block, taps[0], target.shape[2:] if target.ndim == 4 else None)
            check_same_positions(ours, target, ' -> '.join(taps))
            return self._gap(grouped(ours, block, inputs, self.rows),
                             [self._normalise(x) for x in grouped(target, block, inputs, self.rows)])

    def _label(self, block: Any, inputs: dict) -> Tensor:
        with torch.autocast(features(block, self.mimic_label).device.type, enabled=False):
            ours = self.attention(block, self.mimic_label)
            if ours.ndim == 4 and 'labels' in inputs:  # share of foreground in the area of each position
                labels = inputs['labels'][:, None]
                target = F.adaptive_avg_pool2d(self._foreground(labels).to(ours.dtype), ours.shape[2:])
            else:
                target = self._foreground(labels_at(block, inputs, self.rows))[:, None].to(ours.dtype)
            order = 2 if self.norm == 'l2' else 1
            targets = [F.normalize(x, p=order, dim=1) for x in grouped(target, block, inputs, self.rows)]
            return self._gap(grouped(ours, block, inputs, self.rows), targets)

    def _foreground(self, labels: Tensor) -> Tensor:
        return (labels > 0) & (labels != self.ignore_index)

    def _normalise(self, maps: Tensor) -> Tensor:
        return normalise(maps, self.norm, self.temperature)

    def _gap(self, maps: list[Tensor], targets: list[Tensor]) -> Tensor:
        """Equation (3): sum over positions, mean over samples; a sample with an empty target (no lane) counts zero."""
        gaps = [(self._normalise(a) - b).square().sum((1, 2)) * (b != 0).any(1).squeeze(1)
                for a, b in zip(maps, targets)]
        return torch.cat(gaps).mean()
