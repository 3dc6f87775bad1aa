"""Inter-Region Affinity Distillation for Road Marking Segmentation, Hou et al., CVPR 2020 (arXiv 2004.05304).

Equations, S = student, T = teacher, k = a class, M = its area of interest, F = features, O = logits:
    (1) M(i, k) = 1[a pixel of class k lies within the kernel around i]             dilated label
    (2) mu_1(k) = E_M[F], mu_2(k) = E_M[(F - mu_1)^2], mu_3(k) = E_M[((F - mu_1) / sqrt(mu_2))^3], per channel
    (3) C(k1, k2, r) = <mu_r(k1), mu_r(k2)> / (|mu_r(k1)| |mu_r(k2)|)               inter-region affinity graph
    (4) L_m = 1/(3 n^2) sum_k1,k2,r (C_S(k1, k2, r) - C_T(k1, k2, r))^2
    (5) L_a = sum_i (A_S(i) - A_T(i))^2,  A = softmax_i(sum_c F(c, i)^2)            attention
    (6) L_p = mean_i KL(softmax O_T(i) || softmax O_S(i))                           probability maps
    (7) L = alpha_1 L_p + alpha_2 L_a + alpha_3 L_m

Shapes: G images (or 1 scan) of a group, P positions, c channels (they may differ between the nets: (3) is n x n), n
classes. The moments are three products (n, P) x (P, c); an n x c x P tensor never exists.
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.distill.attention import NORMS, activation_map, normalise
from perception.distill.base import DistillLoss
from perception.distill.kd import kl_divergence
from perception.distill.positions import (
    ROWS,
    aligned,
    check_same_positions,
    cosine_affinity,
    features,
    grouped,
    labels_at,
)
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

TERMS = ('attention', 'affinity')
PAIRS = (dict(student='stage3', teacher='stage3', terms=('attention',)),
         dict(student='stage4', teacher='head_input', terms=('attention', 'affinity')))


class IntRAKDLoss(DistillLoss):
    """Probability, attention and inter-region affinity terms; an average over the feature pairs of each.

    For maps (B, C, H, W) of images with `labels` (B, h, w). Rows (R, C) of points or voxels and sparse tensors work
    too: their areas of interest are the points of each class, not dilated.

    Args:
        teacher: name of the teacher in the Distiller.
        num_classes: n, the background included; each is a node of the graph.
        feature_pairs: dicts of `student` and `teacher` (taps of features that are compared) and `terms`, any of
            `'attention'` and `'affinity'`.
        logits: tap of the class scores, in both nets.
        alpha: weights of the terms (probability, attention, affinity); zero leaves one out. The paper's last one is 10
            with `normalise_by='all'`, where absent classes make the term small.
        aoi_kernel: side of the square kernel of (1), in pixels of the label map, odd.
        soft: areas are blurred labels, resized bilinearly, instead of dilated ones.
        moment_mode: `'masked'` for the statistics (2) of the area; `'literal'` for the paper's formulas, which sum over
            all positions, also those outside, and divide by mu_2 instead of its root.
        moment_orders: which of the moments 1, 2, 3 make graphs.
        clamp: largest absolute mu_3 of the masked mode.
        normalise_by: `'present'` divides by the squared number of classes in the image and averages over the images
            with two or more; `'all'` divides by n^2 and averages over all images.
        min_pixels: positions at feature size from which on a class is present.
        temperature: of (6).
        attention_norm: `'softmax'` as in (5); for activations so strong that it is one at a single position
            `'mean_softmax'`, of each map divided by its mean, or `'l2'`: divided by the Euclidean norm.
        ignore_index: the label of positions without a class.
        rows: what rows (R, C) are, `'points'` or `'voxels'`.
        weight: factor on all terms.
        begin: first iteration with this loss.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, teacher: str, num_classes: int, feature_pairs: Sequence[dict] = PAIRS, logits: str = 'logits',
                 alpha: tuple[float, float, float] = (0.1, 0.1, 1.0), aoi_kernel: int = 5, soft: bool = False,
                 moment_mode: str = 'masked', moment_orders: tuple[int, ...] = (1, 2, 3), clamp: float = 10.0,
                 normalise_by: str = 'present', min_pixels: int = 4, temperature: float = 1.0,
                 attention_norm: str = 'softmax', ignore_index: int = 255, rows: str = 'points', weight: float = 1.0,
                 begin: int = 0, end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_choice('IntRAKDLoss: moment_mode', moment_mode, ('masked', 'literal'))
        check_choice('IntRAKDLoss: attention_norm', attention_norm, NORMS)
        check_choice('IntRAKDLoss: normalise_by', normalise_by, ('present', 'all'))
        check_choice('IntRAKDLoss: rows', rows, ROWS)
        check_positive('IntRAKDLoss', num_classes=num_classes, clamp=clamp, min_pixels=min_pixels,
                       temperature=temperature)
        self._check(aoi_kernel, moment_orders, alpha, feature_pairs)
        self.num_classes, self.logits, self.alpha = num_classes, logits, tuple(alpha)
        self.aoi_kernel, self.soft = aoi_kernel, soft
        self.moment_mode, self.moment_orders, self.clamp = moment_mode, tuple(moment_orders), clamp
        self.normalise_by, self.min_pixels, self.temperature = normalise_by, min_pixels, temperature
        self.attention_norm, self.ignore_index, self.rows = attention_norm, ignore_index, rows
        self.pairs = {term: [(pair['student'], pair['teacher']) for pair in feature_pairs if term in pair['terms']]
                      if factor else [] for term, factor in zip(TERMS, alpha[1:])}
        used = self.pairs['attention'] + self.pairs['affinity']
        scores = [logits] * bool(alpha[0])
        self.taps = tuple(dict.fromkeys(scores + [ours for ours, _ in used]))
        self.teacher_taps = tuple(dict.fromkeys(scores + [theirs for _, theirs in used]))
        if not self.taps:
            raise ConfigError(f'IntRAKDLoss: alpha={tuple(alpha)} with feature_pairs={feature_pairs}, expected a pair '
                              'for a term whose weight is not 0. Nothing would be distilled.')

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> dict[str, Tensor]:
        """The terms of (7), each already multiplied by its alpha; those with alpha zero or without a pair are left out.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: its inputs hold the labels.

        Raises:
            DataError: there are no labels, or outputs do not fit to each other.
        """
        inputs, terms = batch['inputs'], {}
        with torch.autocast(next(features(student[tap], tap).device.type for tap in self.taps), enabled=False):
            if self.alpha[0]:
                terms['probability'] = self.alpha[0] * self.probability_loss(
                    student[self.logits], teacher[self.logits], inputs)  # (6)
            for name, loss, factor in (('attention', self.attention_loss, self.alpha[1]),  # (5)
                                       ('affinity', self.affinity_loss, self.alpha[2])):  # (4)
                parts = [loss(student[ours], teacher[theirs], (ours, theirs), inputs)
                         for ours, theirs in self.pairs[name]]
                if parts:
                    terms[name] = factor * torch.stack(parts).mean()
        return terms

    def probability_loss(self, student: Any, teacher: Any, inputs: dict) -> Tensor:
        """Equation (6), a mean over the positions that are not ignored."""
        s, t = aligned(student, teacher, self.logits, same_channels=True)
        kl = kl_divergence(s, t, self.temperature)
        kl = kl[labels_at(student, inputs, self.rows) != self.ignore_index]
        return kl.sum() / max(kl.numel(), 1)

    def attention_loss(self, student: Any, teacher: Any, taps: tuple[str, str], inputs: dict) -> Tensor:
        """Equation (5), a sum over positions and a mean over images; the larger map is resized to the smaller."""
        s, t = (activation_map(features(value, tap)) for value, tap in zip((student, teacher), taps))
        t = t.detach()
        if s.ndim == 4 == t.ndim:
            size = min(s.shape[2:], t.shape[2:], key=lambda hw: hw[0] * hw[1])
            s, t = (x if x.shape[2:] == size else F.interpolate(x, size, mode='bilinear', align_corners=False)
                    for x in (s, t))
        check_same_positions(s, t, ' <- '.join(taps))
        s, t = ([normalise(part, self.attention_norm) for part in grouped(x, student, inputs, self.rows)]
                for x in (s, t))
        gaps = [(a - b).square().sum((1, 2)) for a, b in zip(s, t)]
        return torch.cat(gaps).mean()

    def affinity_loss(self, student: Any, teacher: Any, taps: tuple[str, str], inputs: dict) -> Tensor:
        """Equation (4), a scalar, a mean over images; a class counts where it is present in both nets' maps.

        Raises:
            DataError: the taps hold other samples.
        """
        gaps, counts, total = [], [], len(self.moment_orders)
        s, t = features(student, taps[0]), features(teacher, taps[1]).detach()
        if s.ndim != t.ndim or len(s) != len(t):
            raise DataError(f'IntRAKDLoss: shape {tuple(s.shape)} of the tap {taps[0]!r} of the student against '
                            f'{tuple(t.shape)} of {taps[1]!r} of the teacher, expected the same samples. Tap features '
                            'of one kind.')
        area_s = self.areas(student, inputs, s.dtype)
        area_t = area_s if s.shape[2:] == t.shape[2:] else self.areas(teacher, inputs, t.dtype)
        graphs = zip(self._graphs(s, area_s, student, inputs), self._graphs(t, area_t, teacher, inputs))
        for (graph_s, here_s), (graph_t, here_t) in graphs:
            here = here_s & here_t  # (G, n)
            both = (here[:, :, None] & here[:, None, :])[:, None]  # (G, 1, n, n)
            gaps.append(((graph_s - graph_t).square() * both).sum((1, 2, 3)))
            counts.append(here.sum(1))
        gap, count = torch.cat(gaps), torch.cat(counts)
        if self.normalise_by == 'all':
            return gap.mean() / (total * self.num_classes ** 2)
        images = (count >= 2).sum().clamp(min=1)  # a lone class has no edge, so its image adds nothing
        return (gap / (total * count.clamp(min=1) ** 2)).sum() / images

    def _graphs(self, feats: Tensor, area: Tensor, value: Any, inputs: dict) -> list[tuple[Tensor, Tensor]]:
        """For each group the graph (G, orders, n, n) of (3) and which classes are present (G, n)."""
        graphs = []
        for part, mask in zip(grouped(feats, value, inputs, self.rows), grouped(area, value, inputs, self.rows)):
            mask = mask.transpose(1, 2)  # (G, n, P)
            mu = moments(part, mask, self.moment_mode, self.clamp)[:, [r - 1 for r in self.moment_orders]]
            graphs.append((cosine_affinity(mu), (mask > 0).sum(2) >= self.min_pixels))
        return graphs

    def areas(self, value: Any, inputs: dict, dtype: torch.dtype = torch.float32) -> Tensor:
        """Areas of interest (1): (B, n, H, W) at the size of a map, or (R, n), one-hot labels of rows.

        Args:
            value: what the tap recorded.
            inputs: the batch's inputs with `labels`.
            dtype: of the result.
        """
        tensor = getattr(value, 'feats', value)
        if tensor.ndim == 4 and getattr(inputs.get('labels'), 'ndim', 0) == 3:
            return areas_of_interest(inputs['labels'], self.num_classes, tensor.shape[2:], self.aoi_kernel,
                                     self.soft).to(dtype)
        return one_hot(labels_at(value, inputs, self.rows), self.num_classes).to(dtype)

    @staticmethod
    def _check(kernel: int, orders: Sequence[int], alpha: Sequence[float], pairs: Sequence[dict]) -> None:
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f'IntRAKDLoss: aoi_kernel={kernel}, expected an odd number. The paper takes 5.')
        if not orders or set(orders) - {1, 2, 3}:
            raise ConfigError(f'IntRAKDLoss: moment_orders={tuple(orders)}, expected some of 1, 2, 3. '
                              'They stand for mean, variance and skewness.')
        if len(alpha) != 3 or min(alpha) < 0 or not any(alpha):
            raise ConfigError(f'IntRAKDLoss: alpha={tuple(alpha)}, expected three weights of at least 0, not all 0. '
                              'Give them for the probability, the attention and the affinity term.')
        for pair in pairs:
            if set(pair) != {'student', 'teacher', 'terms'} or isinstance(pair['terms'], str) \
                    or not pair['terms'] or set(pair['terms']) - set(TERMS):
                raise ConfigError(f'IntRAKDLoss: {pair} among the feature_pairs, expected the keys student, teacher '
                                  f'and terms, some of {", ".join(TERMS)}. '
                                  "Write dict(student='stage4', teacher='stage4', terms=('affinity',)).")


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """(B, h, w) -> (B, n, h, w) or (R,) -> (R, n) bool; labels beyond the classes (ignored ones) are in none."""
    classes = torch.arange(num_classes, device=labels.device)
    return labels.unsqueeze(1) == classes.view(-1, *[1] * (labels.ndim - 1))


def areas_of_interest(labels: Tensor, num_classes: int, size: tuple[int, int], kernel: int = 5,
                      soft: bool = False) -> Tensor:
    """Equation (1): labels grown by half a kernel, then brought to the size of the features.

    Both steps take the maximum, so that a line one pixel wide survives.

    Args:
        labels: (B, h, w) train ids; those beyond the classes belong to no area.
        num_classes: n.
        size: (H, W) of the features.
        kernel: side of the square kernel, odd.
        soft: blur and resize bilinearly instead; values are then shares in [0, 1].

    Returns:
        (B, n, H, W) float32.
    """
    areas = torch.zeros(len(labels), num_classes, *size, device=labels.device)
    for k in torch.unique(labels).tolist():  # class by class: all maps of all classes at full size would take gigabytes
        if 0 <= k < num_classes:
            hot = (labels == k)[:, None].float()
            if soft:
                blurred = F.avg_pool2d(hot, kernel, stride=1, padding=kernel // 2)
                areas[:, k] = F.interpolate(blurred, size, mode='bilinear', align_corners=False)[:, 0]
            else:
                grown = F.max_pool2d(hot, kernel, stride=1, padding=kernel // 2)
                areas[:, k] = F.adaptive_max_pool2d(grown, size)[:, 0]
    return areas


def moments(feats: Tensor, area: Tensor, mode: str = 'masked', clamp: float = 10.0, eps: float = 1e-5) -> Tensor:
    """Equation (2): the first three moments of the features in each area, channel by channel.

    The products run in float64: a channel that is constant in an area, as those that a ReLU switched off, has a third
    moment that float32 would leave as noise over eps^1.5.

    Args:
        feats: (G, P, c) features.
        area: (G, n, P) weights of the areas.
        mode: `'masked'` or `'literal'`.
        clamp: largest absolute third moment of the masked mode.
        eps: added to the variance before dividing by (a power of) it.

    Returns:
        (G, 3, n, c) moments, zero for an empty area.
    """
    x, m = feats.double(), area.double()
    if mode == 'literal':
        count = (m > 0).sum(2, keepdim=True).clamp(min=1)  # |M|: elements that are not zero
        s1, s2, s3 = (m ** r @ x ** r for r in (1, 2, 3))  # sums of (M F)^r over all positions
        mean, size = s1 / count, x.shape[1] * (m > 0).any(2, keepdim=True)
        var = (s2 - 2 * mean * s1 + size * mean ** 2) / count
        third = (s3 - 3 * mean * s2 + 3 * mean ** 2 * s1 - size * mean ** 3) / count
        return torch.stack([mean, var, third / (var + eps) ** 3], 1).to(feats.dtype)
    centre = x.mean(1, keepdim=True)  # less to cancel below
    x = x - centre
    count = m.sum(2, keepdim=True)
    weights = m / torch.where(count > 0, count, 1.)
    e1, e2, e3 = (weights @ x ** r for r in (1, 2, 3))  # E_M[x^r]
    var = (e2 - e1 ** 2).clamp(min=0)
    skew = (e3 - 3 * e1 * e2 + 2 * e1 ** 3) / (var + eps) ** 1.5
    return torch.stack([(e1 + centre) * (count > 0), var, skew.clamp(-clamp, clamp)], 1).to(feats.dtype)
