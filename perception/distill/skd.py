"""Structured Knowledge Distillation for Semantic Segmentation, Liu et al., CVPR 2019 (arXiv 1903.04197).

Equations, S = student, T = teacher, N = the nodes of a sample, which are means of the features of a region:
    (1) a(i, j) = <f_i, f_j> / (|f_i| |f_j|)                           similarity of two nodes
    (2) L_pa = 1/N^2 sum_ij (a_S(i, j) - a_T(i, j))^2                  pair-wise, mean over the samples
    (3) L_pi = mean_i KL(softmax z_T(i) || softmax z_S(i))             pixel-wise, mean over the labelled positions

The paper's third term, the holistic one, trains a discriminator against the student; it is not part of this file.
"""
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.distill.base import DistillLoss
from perception.distill.kd import KDLoss
from perception.distill.positions import ROWS, check_same_positions, cosine_affinity, features, sample_index
from perception.distill.pvd import supervoxel_index
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError


class SKDLoss(DistillLoss):
    """Structured distillation: pair-wise similarity of regions and pixel-wise class probabilities.

    For maps (B, C, H, W) of images, whose regions are square; for rows (R, C) of points or voxels and sparse tensors
    the regions are boxes of the batch's voxel grid, of its cylindrical one where it has two. Channels of the features
    may differ between the nets.

    Args:
        teacher: name of the teacher in the Distiller.
        logits: tap of the class scores, in both nets.
        feats: tap of the features, in both nets.
        pixel_weight: factor on (3); zero leaves it out, and its tap unread.
        pair_weight: factor on (2); zero leaves it out, and its tap unread.
        pool: side of a region of an image, in positions of the student's map; (2) takes the memory of N^2 similarities
            an image, so features at an eighth of the image's size are right.
        region_size: cells of a region of the voxel grid along its three axes.
        temperature: of (3).
        mask_ignored: (3) teaches labelled positions alone; with False also those with the label `ignore_index`. (2)
            takes all in any case.
        ignore_index: the label of positions without a class.
        rows: what rows (R, C) are, `'points'` or `'voxels'`.
        weight: factor on both terms.
        begin: first iteration with this loss.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, teacher: str, logits: str = 'logits', feats: str = 'feats', pixel_weight: float = 10.0,
                 pair_weight: float = 1.0, pool: int = 2, region_size: tuple[int, int, int] = (120, 60, 8),
                 temperature: float = 1.0, mask_ignored: bool = True, ignore_index: int = 255, rows: str = 'points',
                 weight: float = 1.0, begin: int = 0, end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_positive('SKDLoss', pool=pool, temperature=temperature, region_size=min(region_size))
        check_choice('SKDLoss: rows', rows, ROWS)
        if len(region_size) != 3:
            raise ConfigError(f'SKDLoss: region_size={tuple(region_size)}, expected three numbers of cells. Give one '
                              'for each axis of the grid, such as (120, 60, 8).')
        if min(pixel_weight, pair_weight) < 0 or not pixel_weight + pair_weight:
            raise ConfigError(f'SKDLoss: pixel_weight={pixel_weight}, pair_weight={pair_weight}, expected at least one '
                              'above 0 and none below. Correct the config.')
        self.feats, self.pool, self.region_size, self.rows = feats, pool, tuple(region_size), rows
        self.pixel_weight, self.pair_weight = pixel_weight, pair_weight
        self.pixel = KDLoss(teacher, logits, temperature, mask_ignored, ignore_index, rows)
        self.taps = (logits,) * bool(pixel_weight) + (feats,) * bool(pair_weight)

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> dict[str, Tensor]:
        """The terms `pixel` and `pair`, each already multiplied by its weight.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: its inputs hold labels (for `mask_ignored`) and, for rows, the voxel grid.

        Raises:
            DataError: outputs or labels do not fit to each other.
        """
        terms = {}
        if self.pixel_weight:
            terms['pixel'] = self.pixel_weight * self.pixel(student, teacher, batch)  # (3)
        if self.pair_weight:
            terms['pair'] = self.pair_weight * self.pair_loss(
                student[self.feats], teacher[self.feats], batch['inputs'])  # (2)
        return terms

    def pair_loss(self, student: Any, teacher: Any, inputs: dict) -> Tensor:
        """Equation (2)."""
        s, t = features(student, self.feats), features(teacher, self.feats).detach()
        with torch.autocast(s.device.type, enabled=False):
            if s.ndim == 4 == t.ndim:
                size = tuple(math.ceil(n / self.pool) for n in s.shape[2:])
                s, t = (F.adaptive_avg_pool2d(x, size) for x in (s, t))
                check_same_positions(s, t, self.feats)
                pairs = [(s.flatten(2).transpose(1, 2), t.flatten(2).transpose(1, 2))]
            else:
                check_same_positions(s, t, self.feats)
                nodes, counts = self._regions(student, inputs)
                pairs = [(a[None], b[None]) for a, b in
                         zip(_means(s, nodes).split(counts), _means(t, nodes).split(counts))]
            gaps = [(cosine_affinity(a) - cosine_affinity(b)).square().mean((1, 2)) for a, b in pairs]
            return torch.cat(gaps).mean()

    def _regions(self, value: Any, inputs: dict) -> tuple[Tensor, list[int]]:
        """(R,) node of each row, numbered sample by sample, and the number of nodes in each sample."""
        coords, grid = (getattr(value, name, inputs.get(name)) for name in ('voxel_coords', 'grid_shape'))
        if 'supervoxel_coords' in inputs:  # nets whose voxels are cubes: cylindrical regions, as PVD's
            coords, grid = inputs['supervoxel_coords'], inputs['supervoxel_grid']
        if coords is None or grid is None:
            raise DataError('SKDLoss: the batch has no voxel_coords or no grid_shape, expected them for the regions of '
                            'points and voxels. Use a data preprocessor that voxelises.')
        if not hasattr(value, 'feats') and self.rows == 'points':
            coords = coords[inputs['point_to_voxel']]
        cells, num = supervoxel_index(coords[:, 1:].long(), grid, self.region_size)
        sample = sample_index(value, inputs, self.rows)
        if len(sample) != len(cells):
            raise DataError(f'SKDLoss: {len(sample)} rows of the tap {self.feats!r} for {len(cells)} cells of the '
                            'cylindrical grid, expected one for each. Tap an output at full resolution.')
        ids, nodes = torch.unique(sample * num + cells, return_inverse=True)
        counts = torch.bincount(ids.div(num, rounding_mode='floor')).tolist()
        return nodes, [count for count in counts if count]


def _means(feats: Tensor, nodes: Tensor) -> Tensor:
    """(R, C) features -> mean of the rows of each node."""
    counts = torch.bincount(nodes)
    return feats.new_zeros(len(counts), feats.shape[1]).index_add(0, nodes, feats) / counts[:, None]
