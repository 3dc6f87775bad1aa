"""Paying More Attention to Attention, Zagoruyko, Komodakis, ICLR 2017 (arXiv 1612.03928).

    Q(i) = sum_c |F(c, i)|^p,  q = Q / |Q|_2                           activation-based attention over the positions i
    L = 1/2 sum_taps |q_S - q_T|_2^2                                   mean over the samples

The distance is squared, as in the authors' program; theirs is divided by the number of positions too, so their
factor 1000 on 14 x 14 maps is a weight of 1000 / 196 * 2 here. `activation_map` and `normalise` serve SAD and IntRA-KD.
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.distill.base import DistillLoss
from perception.distill.positions import ROWS, aligned, features, grouped
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError

POOLS = ('sum', 'max')
NORMS = ('softmax', 'mean_softmax', 'l2')


class AttentionTransferLoss(DistillLoss):
    """Where the nets look: squared distance of their normalised attention maps; sum over positions, mean over samples.

    For maps (B, C, H, W) of images as for rows (R, C) of points or voxels and sparse tensors, normalised inside each
    image or scan. Channels may differ between the nets; a teacher's map of another size is resized bilinearly.

    Args:
        teacher: name of the teacher in the Distiller.
        feats: taps of the features, in both nets.
        power: p.
        rows: what rows (R, C) are, `'points'` or `'voxels'`.
        weight: factor on all terms.
        begin: first iteration with this loss.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, teacher: str, feats: tuple[str, ...] = ('stage2', 'stage3', 'stage4'), power: float = 2.0,
                 rows: str = 'points', weight: float = 1.0, begin: int = 0, end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_positive('AttentionTransferLoss', power=power)
        check_choice('AttentionTransferLoss: rows', rows, ROWS)
        if isinstance(feats, str) or not feats:
            raise ConfigError(f"AttentionTransferLoss: feats={feats!r}, expected a tuple of taps. Write ('stage3',).")
        self.taps, self.power, self.rows = tuple(feats), power, rows

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> dict[str, Tensor]:
        """One term for each tap.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: its inputs tell the samples of rows.

        Raises:
            DataError: the nets' outputs have different positions.
        """
        return {tap: self._term(student[tap], teacher[tap], tap, batch['inputs']) for tap in self.taps}

    def _term(self, student: Any, teacher: Any, tap: str, inputs: dict) -> Tensor:
        s, t = features(student, tap), features(teacher, tap)
        s, t = aligned(activation_map(s, self.power), activation_map(t, self.power), tap)
        gaps = [(normalise(a, 'l2') - normalise(b, 'l2')).square().sum((1, 2))
                for a, b in zip(grouped(s, student, inputs, self.rows), grouped(t, student, inputs, self.rows))]
        return torch.cat(gaps).mean() / 2


def activation_map(feats: Tensor, power: float = 2.0, pool: str = 'sum') -> Tensor:
    """How strongly each position is activated: G_sum^p or G_max^p.

    Args:
        feats: (B, C, H, W) or (R, C) features.
        power: p.
        pool: over the channels, `'sum'` or `'max'`.

    Returns:
        (B, 1, H, W) or (R, 1) sum_c |F|^p or max_c |F|^p.
    """
    strength = feats.square() if power == 2 else feats.abs().pow(power)
    return strength.sum(1, keepdim=True) if pool == 'sum' else strength.amax(1, keepdim=True)


def normalise(maps: Tensor, norm: str = 'softmax', temperature: float = 1.0) -> Tensor:
    """Make the maps of a group comparable over their positions.

    Args:
        maps: (G, P, 1) activation maps.
        norm: `'softmax'` over the P positions; `'mean_softmax'`, over the P positions of the map divided by its mean,
            so that a factor on the activations changes nothing; or `'l2'`: divided by the Euclidean norm.
        temperature: divisor before the softmax.
    """
    if norm == 'l2':
        return F.normalize(maps, dim=1)
    if norm == 'mean_softmax':
        maps = maps / maps.mean(1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    return (maps / temperature).softmax(1)
