"""Point-to-Voxel Knowledge Distillation for LiDAR Semantic Segmentation, Hou et al., CVPR 2022 (arXiv 2206.02099).

Equations, S = student, T = teacher, numbered in the order of `PVDLoss.forward`:
    (1) L_out^p = 1/(N C) sum_n sum_c KL(p_T(n, c) || p_S(n, c))          class probabilities of all points
    (2) L_out^v = 1/(V C) sum_v sum_c KL(p_T(v, c) || p_S(v, c))          the same for all occupied voxels
    (3) W_i = 1/f_i * d_i/R * 1/N_s,  f_i = 4 exp(-2 N_minor,i) + 1       how likely supervoxel i is drawn
    (4) A(i, j, r) = <F(i, r), F(j, r)> / (|F(i, r)| |F(j, r)|)           cosine affinity inside supervoxel r
    (5) L_aff^p = 1/(K N_p^2) sum_r sum_ij (A_S^p(i, j, r) - A_T^p(i, j, r))^2
    (6) L_aff^v = 1/(K N_v^2) sum_r sum_ij (A_S^v(i, j, r) - A_T^v(i, j, r))^2
    (7) L_pvd = alpha_1 L_out^p + alpha_2 L_out^v + beta_1 L_aff^p + beta_2 L_aff^v

Shapes: B scans, N points and V occupied voxels of the whole batch, C classes, D feature channels (they may differ
between student and teacher), N_s supervoxels of the grid, K of them drawn in each scan, M members (N_p points or N_v
voxels) kept in each drawn one.

How the sums are divided decides what the terms weigh, and (1) to (6) can be read in two ways, see `PVDLoss`.
"""
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.distill.base import DistillLoss
from perception.ops.scatter import count_rows
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

ALPHA = dict(practical=(0.4, 0.6), literal=(0.1, 0.15))  # reading -> weights of the output terms, (point, voxel)


class PVDLoss(DistillLoss):
    """The four terms of PVD: output and affinity distillation, each on points and on voxels; reduced to a mean.

    No public source states what the authors' program divides the sums by, so `reading` chooses:

    * `'practical'`: the output terms are a mean over rows of a sum over classes, as KD's, and the affinity terms a mean
      over the pairs that exist. With its alpha of (0.4, 0.6) the terms have 65, 57, 30 and 30 % of the gradient of the
      student's own losses (MinkUNet's mini config at its start, all labels). It is the default since it helped where
      the other did not, or less: perception/distill/README.md has the tables, of simulated and of real scans.
    * `'literal'`: the formulas as printed. The output terms are divided by rows and classes, the affinity terms by all
      K M^2 pairs, also those with the zeros that fill up small supervoxels; only 11 to 38 % of the pairs exist. There
      the terms have 0.8, 0.7, 17 and 10 % of that gradient; on a real scan at the full grid 0.5, 0.7, 0.4 and 2.5 %.

    `tools/train.py CONFIG --check` prints the shares of any setting.

    Reads the taps `point_logits` (N, C), `voxel_logits` (V, C), `point_feats` (N, D) and `voxel_feats` (V, D), dense or
    sparse, and from the batch's inputs `voxel_coords` (V, 4), `point_to_voxel` (N,), `grid_shape`, `batch_size`,
    `labels` (N,) and `voxel_labels` (V,). Supervoxels and their members are drawn from torch's generator.

    Args:
        teacher: name of the teacher in the Distiller.
        minority_classes: train ids of the classes with at most 1 % of the data set's points.
        supervoxel_size: cells of a supervoxel along (rho, phi, z).
        num_supervoxels: K, drawn in each scan.
        num_points: N_p, points kept in each supervoxel.
        num_voxels: N_v, voxels kept in each supervoxel.
        reading: how the terms are divided, `'practical'` or `'literal'`, see above.
        alpha: weights of the output terms, (point, voxel); None takes the reading's own, (0.4, 0.6) for the practical
            and (0.1, 0.15) for the literal one.
        beta: weights of the affinity terms, (point, voxel).
        rho_range: radius in metres at the first and the last cell of the grid.
        direction: `'teacher_student'` for KL(T || S), `'student_teacher'` for KL(S || T).
        mask_ignored: the output terms teach labelled points and voxels alone; by default also those with the label
            `ignore_index`, the unlabelled ones. The affinity terms take all in any case.
        ignore_index: the label of points that are not evaluated.
        weight: factor on all terms.
        begin: first iteration with this loss.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: an argument out of its range.
    """

    taps = ('point_logits', 'voxel_logits', 'point_feats', 'voxel_feats')

    def __init__(self, teacher: str, minority_classes: list[int] | tuple[int, ...],
                 supervoxel_size: tuple[int, int, int] = (120, 60, 8), num_supervoxels: int = 4,
                 num_points: int = 1024, num_voxels: int = 512, reading: str = 'practical',
                 alpha: tuple[float, float] | None = None, beta: tuple[float, float] = (0.15, 0.25),
                 rho_range: tuple[float, float] = (0., 50.), direction: str = 'teacher_student',
                 mask_ignored: bool = False, ignore_index: int = 255, weight: float = 1.0, begin: int = 0,
                 end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_choice('PVDLoss: direction', direction, ('teacher_student', 'student_teacher'))
        check_choice('PVDLoss: reading', reading, tuple(ALPHA))
        _check_positive(num_supervoxels=num_supervoxels, num_points=num_points, num_voxels=num_voxels)
        if len(supervoxel_size) != 3:
            raise ConfigError(f'PVDLoss: supervoxel_size={tuple(supervoxel_size)}, expected three numbers of cells. '
                              'Give them along rho, phi and z, such as (120, 60, 8).')
        _check_positive(**{f'supervoxel_size[{axis}]': size for axis, size in enumerate(supervoxel_size)})
        if not 0 <= rho_range[0] < rho_range[1] < math.inf:
            raise ConfigError(f'PVDLoss: rho_range={tuple(rho_range)}, expected 0 <= first < last, in metres. '
                              'Copy it from the data preprocessor.')
        self.supervoxel_size, self.num_supervoxels = tuple(supervoxel_size), num_supervoxels
        self.num_points, self.num_voxels = num_points, num_voxels
        self.alpha = ALPHA[reading] if alpha is None else _two('alpha', alpha)
        self.beta, self.rho_range = _two('beta', beta), tuple(rho_range)
        self.direction, self.literal = direction, reading == 'literal'
        self.mask_ignored, self.ignore_index = mask_ignored, ignore_index
        self.register_buffer('minority_classes', torch.as_tensor(minority_classes, dtype=torch.int64), persistent=False)

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> dict[str, Tensor]:
        """The four terms of (7), each already multiplied by its alpha or beta.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: the voxelised batch with its labels.

        Raises:
            DataError: the batch has no labels or no cylindrical grid, or a tap's rows are not the batch's points or
                voxels.
        """
        inputs = batch['inputs']
        self._check_batch(student, teacher, inputs)
        s, t = _features(student, self.taps), _features(teacher, self.taps)
        with torch.autocast(inputs['labels'].device.type, enabled=False):
            points, voxels = self.sample(inputs)  # (3): (B*K, N_p) and (B*K, N_v) rows, the same for both nets
            return dict(
                output_point=self.alpha[0] * self.output_loss(  # (1)
                    s['point_logits'], t['point_logits'], inputs['labels']),
                output_voxel=self.alpha[1] * self.output_loss(  # (2)
                    s['voxel_logits'], t['voxel_logits'], inputs['voxel_labels']),
                affinity_point=self.beta[0] * affinity_loss(  # (5)
                    s['point_feats'], t['point_feats'], points, self.literal),
                affinity_voxel=self.beta[1] * affinity_loss(  # (6)
                    s['voxel_feats'], t['voxel_feats'], voxels, self.literal))

    def output_loss(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Equations (1) and (2): divergence of the class probabilities, a mean over rows (literally: and classes).

        Args:
            student: (R, C) logits of points or voxels.
            teacher: (R, C) logits of the teacher.
            labels: (R,) train ids, read only with `mask_ignored`.
        """
        log_s, log_t = student.log_softmax(1), teacher.log_softmax(1)
        if self.direction == 'student_teacher':
            log_s, log_t = log_t, log_s
        if self.mask_ignored:  # rows that are left out are multiplied by zero: to pick the others the host would wait
            kept = labels != self.ignore_index
            total = (F.kl_div(log_s, log_t, reduction='none', log_target=True) * kept[:, None]).sum()
            rows = kept.sum().clamp(min=1)
        else:
            total = F.kl_div(log_s, log_t, reduction='sum', log_target=True)  # sum of p_t (log p_t - log p_s)
            rows = max(len(student), 1)
        return total / (rows * student.shape[1] if self.literal else rows)

    @torch.no_grad()
    def sample(self, inputs: dict) -> tuple[Tensor, Tensor]:
        """Draw K supervoxels in each scan by their difficulty, and the members that represent each.

        Args:
            inputs: the voxelised batch with its labels.

        Returns:
            Rows of the drawn points (B*K, N_p) and voxels (B*K, N_v), -1 where a supervoxel has fewer members.
        """
        batch_size = inputs['batch_size']
        coords = inputs.get('supervoxel_coords', inputs['voxel_coords'])  # of its own where voxels are no cylinders'
        grid_shape = inputs.get('supervoxel_grid', inputs['grid_shape'])
        supervoxels, num = supervoxel_index(coords[:, 1:], grid_shape, self.supervoxel_size)
        supervoxels = coords[:, 0] * num + supervoxels  # (V,), numbered through the whole batch
        minor_voxels = torch.isin(inputs['voxel_labels'], self.minority_classes)
        minor_points = torch.isin(inputs['labels'], self.minority_classes)

        size = batch_size * num
        occupied = count_rows(supervoxels, size).view(batch_size, num)
        minor = count_rows(supervoxels, size, minor_voxels).view(batch_size, num)
        weights = self.sampling_weights(occupied, minor, grid_shape)
        picks = draw_without_replacement(weights, self.num_supervoxels)  # (B, K), -1 where fewer are occupied

        slots = torch.full((size + 1,), -1, dtype=torch.int64, device=coords.device)  # supervoxel -> place in the draw
        offset = torch.arange(batch_size, device=coords.device)[:, None] * num
        drawn = torch.where(picks >= 0, picks + offset, size).flatten()  # what is not drawn goes to the last place
        slots.scatter_(0, drawn, torch.arange(picks.numel(), device=coords.device))
        voxel_slots = slots[supervoxels]
        point_slots = voxel_slots[inputs['point_to_voxel']]
        return (keep_members(point_slots, minor_points, picks.numel(), self.num_points),
                keep_members(voxel_slots, minor_voxels, picks.numel(), self.num_voxels))

    def sampling_weights(self, occupied: Tensor, minor: Tensor, grid_shape: tuple[int, int, int]) -> Tensor:
        """Equation (3): rare classes and far away means difficult; an empty supervoxel is never drawn.

        Args:
            occupied: (B, N_s) number of occupied voxels in each supervoxel.
            minor: (B, N_s) number of those that belong to a minority class.
            grid_shape: cells along (rho, phi, z).

        Returns:
            (B, N_s) float32 weights W_i, not normalised.
        """
        num = occupied.shape[1]
        rings = math.ceil(grid_shape[0] / self.supervoxel_size[0])
        ring = torch.arange(num, device=occupied.device) // (num // rings)  # rho is the slowest axis
        near, far = self.rho_range
        cell = (far - near) / (grid_shape[0] - 1)  # metres; the last cell begins at `far`
        distance = (near + (ring + 1) * self.supervoxel_size[0] * cell).clamp(max=far)
        frequency = 4 * torch.exp(-2 * minor.float()) + 1
        return torch.where(occupied > 0, distance / far / frequency / num, 0.)

    def _check_batch(self, student: dict, teacher: dict, inputs: dict) -> None:
        for name in ('labels', 'voxel_labels'):
            if name not in inputs:
                raise DataError(f'PVDLoss: the batch has no {name!r}, expected a labelled batch. '
                                'Train on scans that have labels.')
        if 'voxel_feats' in inputs and 'supervoxel_coords' not in inputs:
            raise DataError('PVDLoss: the voxels of the batch are cubes, expected a cylindrical grid beside them, in '
                            'which there are rings and sectors to draw. Give the CubeVoxelizer a cylinder_grid, such '
                            'as (480, 360, 32).')
        rows = dict(point=len(inputs['labels']), voxel=len(inputs['voxel_coords']))
        for who, taps in (('student', student), ('teacher', teacher)):
            for tap in self.taps:
                kind = tap.split('_')[0]
                found = len(getattr(taps[tap], 'feats', taps[tap]))
                if found != rows[kind]:
                    raise DataError(f'PVDLoss: the tap {tap!r} of the {who} has {found} rows, expected one for each of '
                                    f'the {rows[kind]} {kind}s of the batch. Tap an output at full resolution.')


def supervoxel_index(cells: Tensor, grid_shape: tuple[int, int, int],
                     size: tuple[int, int, int]) -> tuple[Tensor, int]:
    """Supervoxel of each voxel (section 3.1 of the paper), numbered with rho slowest and z fastest.

    Args:
        cells: (V, 3) int64 cell of each voxel along (rho, phi, z).
        grid_shape: cells of the grid.
        size: cells of a supervoxel; the last one along an axis may be smaller.

    Returns:
        (V,) int64 index in 0..N_s-1, and N_s.
    """
    _, num_phi, num_z = counts = [math.ceil(g / s) for g, s in zip(grid_shape, size)]
    rho, phi, z = (cells[:, axis].div(size[axis], rounding_mode='floor') for axis in range(3))
    return (rho * num_phi + phi) * num_z + z, math.prod(counts)


def draw_without_replacement(weights: Tensor, count: int) -> Tensor:
    """Draw columns of each row without replacement, one after the other in proportion to their weights.

    The first arrivals of independent exponential clocks with these rates are such a draw, for all rows at once.

    Args:
        weights: (B, S) non-negative weights.
        count: how many to draw.

    Returns:
        (B, min(count, S)) int64 columns, -1 where a row has fewer positive weights.
    """
    speed = weights / torch.empty_like(weights).exponential_()
    _, columns = speed.topk(min(count, weights.shape[1]), dim=1)
    return torch.where(weights.gather(1, columns) > 0, columns, -1)


def keep_members(slots: Tensor, minor: Tensor, num_slots: int, size: int) -> Tensor:
    """A fixed number of members for each drawn supervoxel; majority classes are discarded first, at random.

    Args:
        slots: (R,) int64 drawn supervoxel of each point or voxel, -1 for those in none.
        minor: (R,) bool, whether it belongs to a minority class.
        num_slots: number of drawn supervoxels, G.
        size: members to keep in each, M.

    Returns:
        (G, M) int64 rows, -1 where a supervoxel has fewer than M members.
    """
    group = torch.where(slots >= 0, slots, num_slots)  # those in none come last; to leave them out the host would wait
    order = torch.rand(len(slots), dtype=torch.float64, device=slots.device) + 2 * group + (~minor).double()
    order = order.argsort()  # by supervoxel, minority classes first, random inside
    group = group[order]
    counts = count_rows(group, num_slots + 1)
    rank = torch.arange(len(slots), device=slots.device) - (counts.cumsum(0) - counts)[group]
    members = torch.full((num_slots * size + 1,), -1, dtype=torch.int64, device=slots.device)
    kept = (rank < size) & (group < num_slots)
    return members.scatter_(0, torch.where(kept, group * size + rank, num_slots * size), order)[:-1].view(-1, size)


def affinity_loss(student: Tensor, teacher: Tensor, members: Tensor, literal: bool = True) -> Tensor:
    """Equations (5) and (6): squared difference of the affinities, a mean over pairs and drawn supervoxels.

    Args:
        student: (R, D_s) features of points or voxels.
        teacher: (R, D_t) features of the teacher.
        members: (G, M) rows of each drawn supervoxel, -1 where there is none (its features are zero, as is its
            affinity).
        literal: pairs with a member that is none count in the mean, as long as their supervoxel has any.
    """
    there = members >= 0
    count = there.sum(1)
    if literal:
        count = torch.where(count > 0, members.shape[1], 0)  # slots of scans with fewer occupied supervoxels: never
    if not members.is_cuda:  # zeros up to the largest supervoxel, not up to M: four times faster where nobody waits
        members = members[:, there.any(0)]
    difference = affinity(student, members) - affinity(teacher, members)
    return difference.square().sum() / count.square().sum().clamp(min=1)


def affinity(feats: Tensor, members: Tensor) -> Tensor:
    """Equation (4): cosine similarity between all members of each drawn supervoxel.

    Args:
        feats: (R, D) features.
        members: (G, M) rows of `feats`, -1 for none.

    Returns:
        (G, M, M) similarities in [-1, 1], zero where a member is none or its feature is zero.
    """
    there = (members >= 0)[..., None]
    unit = F.normalize(feats[members.clamp(min=0)] * there, dim=2, eps=1e-8)  # (G, M, D)
    return unit @ unit.transpose(1, 2)


def _features(taps: dict[str, Any], names: tuple[str, ...]) -> dict[str, Tensor]:
    """The recorded tensors in float32; of a sparse output its features."""
    return {name: getattr(taps[name], 'feats', taps[name]).float() for name in names}


def _two(name: str, weights: Any) -> tuple[float, float]:
    """The weights of points and of voxels."""
    if not isinstance(weights, (list, tuple)) or len(weights) != 2 or not all(
            isinstance(weight, (int, float)) and weight >= 0 for weight in weights):
        raise ConfigError(f'PVDLoss: {name}={weights!r}, expected two numbers of at least 0, of points and of voxels, '
                          'such as (0.4, 0.6). Correct the config.')
    return tuple(weights)


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if int(value) != value or value < 1:
            raise ConfigError(f'PVDLoss: {name}={value}, expected a whole number of at least 1. Correct the config.')
