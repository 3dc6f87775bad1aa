"""Knowledge Adaptation for Efficient Semantic Segmentation, He et al., CVPR 2019 (arXiv 1903.04688).

Equations, f = features, E and D = encoder and decoder of the teacher's features, A = adapter of the student's:
    (1) L_ae = mean_i |D(E(f_T(i))) - f_T(i)|^2 / c + alpha mean_i |E(f_T(i))|_1
    (2) L_adapt = mean_i |A(f_S(i)) / |A(f_S(i))| - E(f_T(i)) / |E(f_T(i))||^2
    (3) L_aff = mean_ij (cos(f_S(i), f_S(j)) - cos(E(f_T(i)), E(f_T(j))))^2

Chosen here, where the paper differs: E, D and A act on each position alone (a linear layer instead of convolutions
with strides), so that points and voxels can use them; the autoencoder learns during the distillation, by (1) alone and
for `warmup` iterations before the student does, instead of in a run of its own; (3) compares the student's own features
and takes a random subset of positions.
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.distill.base import DistillLoss
from perception.distill.positions import ROWS, aligned, check_channels, cosine_affinity, grouped
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError


class KALoss(DistillLoss):
    """Features in a compact code of the teacher's, and their affinities; means over positions and samples.

    For maps (B, C, H, W) of images as for rows (R, C) of points or voxels and sparse tensors. A teacher's map of
    another size is resized bilinearly. The positions of (3) are drawn from torch's generator.

    Args:
        teacher: name of the teacher in the Distiller.
        channels: (student's, teacher's) number of channels of the features.
        feats: tap of the features, in both nets.
        code: channels of the code; None takes a quarter of the teacher's.
        adapt_weight: factor on (2), the paper's beta.
        affinity_weight: factor on (3), the paper's gamma.
        sparsity: alpha of (1).
        warmup: iterations after `begin` in which only the autoencoder learns.
        num_positions: positions of each sample that (3) compares.
        rows: what rows (R, C) are, `'points'` or `'voxels'`.
        weight: factor on all terms.
        begin: first iteration with this loss.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: an argument out of its range.
    """

    own_terms = ('autoencoder',)

    def __init__(self, teacher: str, channels: tuple[int, int], feats: str = 'feats', code: int | None = None,
                 adapt_weight: float = 50.0, affinity_weight: float = 1.0, sparsity: float = 1e-7, warmup: int = 0,
                 num_positions: int = 1024, rows: str = 'points', weight: float = 1.0, begin: int = 0,
                 end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        code = max(channels[1] // 4, 1) if code is None else code
        check_positive('KALoss', code=code, num_positions=num_positions, channels=min(channels))
        if warmup < 0:
            raise ConfigError(f'KALoss: warmup={warmup}, expected at least 0 iterations. Correct the config.')
        check_choice('KALoss: rows', rows, ROWS)
        self.taps, self.feats, self.rows, self.channels = (feats,), feats, rows, tuple(channels)
        self.adapt_weight, self.affinity_weight, self.sparsity = adapt_weight, affinity_weight, sparsity
        self.warmup, self.num_positions = warmup, num_positions
        self.encoder = nn.Sequential(nn.Linear(channels[1], code), nn.ReLU())
        self.decoder = nn.Linear(code, channels[1])
        self.adapter = nn.Linear(channels[0], code)

    @property
    def teaches_from(self) -> int:
        """After `warmup`."""
        return self.begin + self.warmup

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> dict[str, Tensor]:
        """The terms `autoencoder`, `adapt` and `affinity`, the last two already multiplied by their weights.

        The autoencoder's gradients come from the first term, the student's from the other two.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: its inputs tell the samples of rows; `iteration`.

        Raises:
            ConfigError: features of other numbers of channels than `channels`.
            DataError: the nets' outputs have different positions.
        """
        value, inputs = student[self.feats], batch['inputs']
        s, t = aligned(value, teacher[self.feats], self.feats)
        check_channels('KALoss', s, t, self.channels)
        teaches = float(batch['iteration'] >= self.teaches_from)
        parts = []
        with torch.autocast(s.device.type, enabled=False):
            for a, b in zip(grouped(s, value, inputs, self.rows), grouped(t, value, inputs, self.rows)):
                code = self.encoder(b)
                loss = (self.decoder(code) - b).square().mean((1, 2)) + self.sparsity * code.abs().sum(2).mean(1)  # (1)
                code = code.detach()
                gap = F.normalize(self.adapter(a), dim=2) - F.normalize(code, dim=2)
                pick = torch.randperm(a.shape[1], device=a.device)[:self.num_positions]
                pairs = cosine_affinity(a[:, pick]) - cosine_affinity(code[:, pick])
                parts.append((loss, teaches * self.adapt_weight * gap.square().sum(2).mean(1),  # (2)
                              teaches * self.affinity_weight * pairs.square().mean((1, 2))))  # (3)
        return {name: torch.cat(terms).mean() for name, terms in
                zip(('autoencoder', 'adapt', 'affinity'), zip(*parts))}
