"""Overlap of rotated boxes and what it suppresses, on CPU and CUDA, without compiled operators.

A flat box is a row x, y, l, w, yaw: centre [m], length along the heading, width across it [m], heading [rad],
counter-clockwise from the x axis. A box with height is a row x, y, z, l, w, h, yaw with its centre in the middle of
its height. Sizes below zero count as zero. Everything is computed and returned in float64, whatever comes: float32
loses digits where boxes nearly coincide. A box that holds NaN or an infinite number has NaN as its overlap with any
other one; to the suppression it meets nobody, so it stays and removes nothing.

Shapes: N and M boxes, K pairs of them.
"""
from collections.abc import Callable
from math import inf, prod
from numbers import Real

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perception.ops.ranges import range_members
from perception.utils.errors import ConfigError, DataError

BLOCK = dict(cpu=1 << 13, cuda=1 << 20)  # pairs computed together: a processor's cache, a bound on memory
STEPS = 8     # of the suppression between two questions whether it has ended, each of which a GPU would wait for
SLACK = 1e-9  # relative: more candidate pairs than rounding could lose


# ------------------------------------------------------------------------------------------------------- flat overlap

def rotated_intersection(a: Tensor, b: Tensor, aligned: bool = False) -> Tensor:
    """Common area of rotated rectangles [m^2], exact and differentiable.

    Where edges of two boxes coincide the area has a kink; its gradient there is that of boxes which come closer.

    Args:
        a: (N, 5) flat boxes.
        b: (M, 5) flat boxes; with `aligned` (N, 5).
        aligned: compare rows with rows, not all with all.

    Returns:
        (N, M) float64, with `aligned` (N,).

    Raises:
        DataError: shapes that do not fit.
    """
    a, b = _checked('rotated_intersection', a, b, 5, aligned)
    return _intersection(a, b) if aligned else _matrix(a, b, _intersection)


def rotated_iou(a: Tensor, b: Tensor, aligned: bool = False) -> Tensor:
    """Intersection over union of rotated rectangles; zero where both have no area.

    Args:
        a: (N, 5) flat boxes.
        b: (M, 5) flat boxes; with `aligned` (N, 5).
        aligned: compare rows with rows, not all with all.

    Returns:
        (N, M) float64, with `aligned` (N,).

    Raises:
        DataError: shapes that do not fit.
    """
    a, b = _checked('rotated_iou', a, b, 5, aligned)
    return _iou(a, b) if aligned else _matrix(a, b, _iou)


# ----------------------------------------------------------------------------------------------- boxes with a height

def iou_3d(a: Tensor, b: Tensor, aligned: bool = False) -> Tensor:
    """Intersection over union of upright boxes by volume; zero where both have none.

    Args:
        a: (N, 7) boxes with height.
        b: (M, 7) boxes with height; with `aligned` (N, 7).
        aligned: compare rows with rows, not all with all.

    Returns:
        (N, M) float64, with `aligned` (N,).

    Raises:
        DataError: shapes that do not fit.
    """
    a, b = _checked('iou_3d', a, b, 7, aligned)
    return _iou_3d(a, b) if aligned else _matrix(a, b, _iou_3d)


def giou_3d(a: Tensor, b: Tensor, aligned: bool = False) -> Tensor:
    """Generalised IoU of upright boxes: IoU minus the share of the enclosing body that neither box fills, in (-1, 1].

    The enclosing body is the convex hull of both on the ground, as high as both together; -1 where it has no volume.

    Args:
        a: (N, 7) boxes with height.
        b: (M, 7) boxes with height; with `aligned` (N, 7).
        aligned: compare rows with rows, not all with all.

    Returns:
        (N, M) float64, with `aligned` (N,).

    Raises:
        DataError: shapes that do not fit.
    """
    a, b = _checked('giou_3d', a, b, 7, aligned)
    if aligned:
        return _giou_3d(a, b)
    i, j = (index.flatten() for index in torch.meshgrid(*(torch.arange(len(x), device=x.device) for x in (a, b)),
                                                        indexing='ij'))
    return _in_blocks(_giou_3d, a[i], b[j]).view(len(a), len(b))


# -------------------------------------------------------------------------------------------------------- suppression

def nms_rotated(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None) -> Tensor:
    """Greedy suppression: in order of score, a box is removed if its IoU with a kept one is more than the threshold.

    Args:
        boxes: (N, 5) flat boxes.
        scores: (N,); of equal ones the first box goes first, NaN comes last.
        threshold: IoU that a box may have with a better one.
        labels: (N,) whole numbers; boxes suppress those of their own label alone.

    Returns:
        (M,) int64 rows of the kept boxes, by descending score.

    Raises:
        DataError: shapes that do not fit.
        ConfigError: a threshold below zero, or no finite number.
    """
    _check_number('nms_rotated: threshold', threshold)
    boxes, _ = _checked('nms_rotated', boxes, boxes, 5, True)
    order = _by_score('nms_rotated', boxes, scores, labels)
    with torch.no_grad():
        boxes = boxes[order]
        better, worse = _rivals(boxes, labels if labels is None else labels[order])
        over = _iou(boxes[better], boxes[worse]) > threshold
        return order[_survivors(better[over], worse[over], len(boxes))]


def nms_circle(centers: Tensor, scores: Tensor, radius: float, labels: Tensor | None = None) -> Tensor:
    """Greedy suppression by distance: in order of score, a centre is removed if a kept one is within the radius.

    mmdet3d's `circle_nms` compares the squared distance with its value: `radius=2.0` here is 4 there.

    Args:
        centers: (N, 2) x, y [m].
        scores: (N,); of equal ones the first centre goes first, NaN comes last.
        radius: [m], inclusive.
        labels: (N,) whole numbers; centres suppress those of their own label alone.

    Returns:
        (M,) int64 rows of the kept centres, by descending score.

    Raises:
        DataError: shapes that do not fit.
        ConfigError: a radius below zero, or no finite number.
    """
    _check_number('nms_circle: radius', radius)
    centers, _ = _checked('nms_circle', centers, centers, 2, True)
    order = _by_score('nms_circle', centers, scores, labels)
    with torch.no_grad():
        centers = centers[order]
        discs = torch.cat([centers, centers.new_tensor([radius, 0, 0]).expand(len(centers), 3)], dim=1)
        better, worse = _rivals(discs, labels if labels is None else labels[order])
        within = (centers[better] - centers[worse]).norm(dim=1) <= radius
        return order[_survivors(better[within], worse[within], len(centers))]


# --------------------------------------------------------------------------------------------------- pairs of a table

def _matrix(a: Tensor, b: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(N, M) values of all pairs: those of a function where boxes are near each other, zero elsewhere."""
    i, j = _near_pairs(_flat(a).detach(), _flat(b).detach())
    values = function(a.index_select(0, i), b.index_select(0, j))
    table = a.new_zeros(len(a), len(b)).index_put_((i, j), values)
    broken = [~x.detach().isfinite().all(1) for x in (a, b)]
    if any(map(torch.any, broken)):
        table = table.masked_fill(broken[0][:, None] | broken[1], torch.nan)
    return table


def _near_pairs(a: Tensor, b: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(K,) rows of flat boxes a and b whose circles around them meet, or nearly; broken boxes meet nobody.

    Boxes are sorted along the axis on which they are spread more; those that a box can reach follow each other there.
    Without b the pairs of a with itself, each once, the smaller row first.
    """
    radius, centers = _circle(a)
    other_radius, others = (radius, centers) if b is None else _circle(b)
    empty = torch.zeros(0, dtype=torch.int64, device=a.device)
    if not radius.numel() or not other_radius.numel():
        return empty, empty
    spread = others.nan_to_num(posinf=0).aminmax(dim=1)
    axis = int((spread.max - spread.min).argmax())
    along, order = others[axis].sort()
    rows = order if b is None else torch.arange(len(a), device=a.device)
    place, far = centers[axis][rows], radius[rows] + other_radius.amax()
    first = torch.arange(1, len(a) + 1, device=a.device) if b is None else torch.searchsorted(along, place - far)
    found = [(empty, empty)]
    for owner, places in range_members(first, torch.searchsorted(along, place + far, right=True)):
        i, j = rows[owner], order[places]
        (x, y), (other_x, other_y) = centers, others
        distance = (x[i] - other_x[j]).square_().add_((y[i] - other_y[j]).square_()).sqrt_()
        near = (distance <= radius[i] + other_radius[j]).nonzero().squeeze(1)
        found.append((i[near], j[near]))
    i, j = map(torch.cat, zip(*found))
    return (i, j) if b is not None else (torch.minimum(i, j), torch.maximum(i, j))


def _circle(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Radius (N,) and centre (2, N) of circles around flat boxes, a little too large; broken ones lie at infinity."""
    whole = boxes.isfinite().all(1)
    radius = boxes[:, 2:4].clamp(min=0).norm(dim=1) / 2 * (1 + SLACK) + SLACK * boxes[:, :2].abs().amax(1)
    return radius.where(whole, 0), boxes[:, :2].T.where(whole, torch.inf).contiguous()


def _rivals(boxes: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """(K,) rows of near pairs of flat boxes sorted by score, the better one first, and of one label if any."""
    better, worse = _near_pairs(boxes)
    if labels is None:
        return better, worse
    same = (labels[better] == labels[worse]).nonzero().squeeze(1)
    return better[same], worse[same]


def _survivors(better: Tensor, worse: Tensor, count: int) -> Tensor:
    """(N,) bool: what greedy suppression keeps.

    "I stay where no better rival of mine stays" is asked of all boxes at once until no answer changes. The answer of
    a box is final once those of its better rivals are, so there are at most as many steps as the longest chain of
    rivals has members, and the end is that of the loop over boxes.

    Args:
        better: (K,) int64 rows that remove `worse` if they stay.
        worse: (K,) int64.
        count: N.
    """
    stays, before = torch.ones(count, dtype=torch.bool, device=better.device), None
    while before is None or not torch.equal(stays, before):
        for _ in range(STEPS):
            before = stays
            stays = torch.zeros_like(stays, dtype=torch.int32).index_add_(0, worse, before[better].int()) == 0
    return stays


# ----------------------------------------------------------------------------------------------------- aligned values

def _intersection(a: Tensor, b: Tensor) -> Tensor:
    return _Intersection.apply(a, b)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    common = _intersection(a, b)
    return _share(common, _size(a, 2, 4) + _size(b, 2, 4) - common)


def _iou_3d(a: Tensor, b: Tensor) -> Tensor:
    common = _intersection(_flat(a), _flat(b)) * _common_height(a, b)
    return _share(common, _size(a, 3, 6) + _size(b, 3, 6) - common)


def _giou_3d(a: Tensor, b: Tensor) -> Tensor:
    common = _intersection(_flat(a), _flat(b)) * _common_height(a, b)
    union = _size(a, 3, 6) + _size(b, 3, 6) - common
    half = [x[:, 5].clamp(min=0) / 2 for x in (a, b)]
    height = torch.maximum(a[:, 2] + half[0], b[:, 2] + half[1]) - torch.minimum(a[:, 2] - half[0], b[:, 2] - half[1])
    body = _hull_area(_flat(a), _flat(b)) * height
    return _share(common, union) - 1 + _share(union, body)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, zero where there is no whole; NaN stays."""
    none = whole <= 0
    return (part / whole.masked_fill(none, 1)).masked_fill(none, 0)


def _size(boxes: Tensor, first: int, last: int) -> Tensor:
    """(K,) product of the lengths in some columns."""
    return prod(boxes[:, first:last].clamp(min=0).unbind(1))


def _flat(boxes: Tensor) -> Tensor:
    """(K, 5) flat boxes of flat boxes or of boxes with height."""
    return boxes if boxes.shape[1] == 5 else boxes[:, [0, 1, 3, 4, 6]]


def _common_height(a: Tensor, b: Tensor) -> Tensor:
    half = [x[:, 5].clamp(min=0) / 2 for x in (a, b)]
    top = torch.minimum(a[:, 2] + half[0], b[:, 2] + half[1])
    return (top - torch.maximum(a[:, 2] - half[0], b[:, 2] - half[1])).clamp(min=0)


def _corners(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (4, K), y (4, K) of a's corners in b's frame, counter-clockwise from front right; half of b's l and w (K,)."""
    c, s, dx, dy = torch.cos(b[:, 4]), torch.sin(b[:, 4]), a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    center_x, center_y, yaw = c * dx + s * dy, c * dy - s * dx, a[:, 4] - b[:, 4]
    (long, wide), (reach_x, reach_y) = (boxes[:, 2:4].clamp(min=0).T / 2 for boxes in (a, b))
    c, s = torch.cos(yaw), torch.sin(yaw)
    front_x, front_y, left_x, left_y = c * long, s * long, -s * wide, c * wide
    x = torch.stack([front_x - left_x, front_x + left_x, left_x - front_x, -front_x - left_x]) + center_x
    y = torch.stack([front_y - left_y, front_y + left_y, left_y - front_y, -front_y - left_y]) + center_y
    return x, y, reach_x, reach_y


class _Intersection(torch.autograd.Function):
    """Common area of K pairs of flat boxes.

    In b's frame it is the integral of clamp(x, -l/2, l/2) dy over that part of a's boundary where |y| <= w/2 (Green's
    theorem for the boundary of the intersection): nothing is sorted and no case told apart, so coinciding edges do no
    harm. When an edge moves outwards the area grows by the length of it that lies inside the other box: this gives
    the gradient, without the quotients of the integral, which have no digits left for edges along the axes.
    """

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _in_blocks(_area, a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return grad[:, None] * _in_blocks(_growth, a, b), grad[:, None] * _in_blocks(_growth, b, a)


def _in_blocks(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Values of K pairs of rows, of a block of pairs after the other."""
    size = BLOCK.get(a.device.type, BLOCK['cuda'])
    return torch.cat([function(*pairs) for pairs in zip(a.split(size), b.split(size))])


def _area(a: Tensor, b: Tensor) -> Tensor:
    """(K,) common area of flat boxes, see `_Intersection`."""
    x, y, reach_x, reach_y = _corners(a, b)
    cut = y.clamp(-reach_y, reach_y)
    x_step, y_step, cut_step = (v.roll(-1, 0) - v for v in (x, y, cut))
    share = 1 / y_step.masked_fill(y_step == 0, 1)
    start = x + x_step * ((cut - y) * share).clamp_(0, 1)
    end = start + x_step * (cut_step * share)
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    low_in, high_in = low.clamp(-reach_x, reach_x), high.clamp(-reach_x, reach_x)
    # mean of clamp(x) along the edge: lengths within b, right of it and left of it, each by its mean value
    right, left = (high - low.maximum(reach_x)).clamp_(min=0), (high.minimum(-reach_x) - low).clamp_(min=0)
    mean = ((high_in - low_in) * (high_in + low_in) / 2 + reach_x * (right - left)) / (high - low)
    return (torch.where(high > low, mean, low_in) * cut_step).sum(0).clamp_(min=0)


def _growth(a: Tensor, b: Tensor) -> Tensor:
    """(K, 5) derivatives of the common area by the numbers of a."""
    x, y, reach_x, reach_y = _corners(a, b)
    enter, leave = torch.zeros_like(x), torch.ones_like(x)  # the part of each edge inside b, as shares of its length
    for value, half in ((x, reach_x), (y, reach_y)):
        step = value.roll(-1, 0) - value
        still = step == 0
        outside = still & (value.abs() > half)
        step = step.masked_fill(still, 1)
        ends = torch.stack([(-half - value) / step, (half - value) / step])
        enter = enter.maximum(ends.amin(0).masked_fill(still, 0))
        leave = leave.minimum(ends.amax(0).masked_fill(still, 1).masked_fill(outside, 0)).masked_fill(outside, 0)
    half = a[:, 2:4].clamp(min=0).T / 2
    half = half[[1, 0, 1, 0]]  # of the front, left, rear and right edge
    inside = (leave - enter).clamp(min=0) * 2 * half
    front, left, rear, right = inside
    c, s = torch.cos(a[:, 4]), torch.sin(a[:, 4])
    turn = -(inside * half * (enter + leave - 1)).sum(0)
    return torch.stack([c * (front - rear) - s * (left - right), s * (front - rear) + c * (left - right),
                        (front + rear) / 2, (left + right) / 2, turn], dim=1)


def _hull_area(a: Tensor, b: Tensor) -> Tensor:
    """(K,) area of the convex hull of two flat boxes.

    In b's frame the hull's left and right border are piecewise linear in y with knots at the corners. At a knot they
    are the outermost of the straight lines between corners that pass it: edges, and lines from a corner of a to one of
    b. No corner is sorted by its angle, so it does not matter which of them coincide.
    """
    x, y, reach_x, reach_y = _corners(a, b)
    own_x = torch.stack([reach_x, reach_x, -reach_x, -reach_x])  # of b: its corners, both sides from below to above
    own_y = torch.stack([-reach_y, reach_y, -reach_y, reach_y])
    x0, y0 = (torch.cat([v, own[::2], v.repeat_interleave(4, 0)]) for v, own in ((x, own_x), (y, own_y)))
    x1, y1 = (torch.cat([v.roll(-1, 0), own[1::2], own.repeat(4, 1)]) for v, own in ((x, own_x), (y, own_y)))
    knots = torch.cat([y, own_y[:2]]).sort(dim=0).values[:, None]  # (6, 1, K), the lines are (22, K)
    passed = (torch.minimum(y0, y1) <= knots) & (knots <= torch.maximum(y0, y1))
    flat = y0 == y1
    at = x0 + (x1 - x0) * ((knots - y0) / (y1 - y0).masked_fill(flat, 1)).masked_fill(flat, 0)
    width = at.masked_fill(~passed, -torch.inf).amax(1) - at.masked_fill(~passed, torch.inf).amin(1)
    return ((width[1:] + width[:-1]) / 2 * (knots[1:, 0] - knots[:-1, 0])).sum(0)


# ------------------------------------------------------------------------------------------------------------- checks

def _checked(where: str, a: Tensor, b: Tensor, columns: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """Both in float64, once it is sure that their shapes fit."""
    if a.dim() != 2 or b.dim() != 2 or {a.shape[1], b.shape[1]} != {columns} or aligned and len(a) != len(b):
        rows = f'(N, {columns}) twice' if aligned else f'(N, {columns}) and (M, {columns})'
        raise DataError(f'{where}: shapes {tuple(a.shape)} and {tuple(b.shape)}, expected {rows}. Pass one row of '
                        f'{columns} numbers for each box.')
    return a.double(), b.double()


def _by_score(where: str, boxes: Tensor, scores: Tensor, labels: Tensor | None) -> Tensor:
    """(N,) int64 rows by descending score, NaN last."""
    for name, values in (('scores', scores), ('labels', labels)):
        if values is not None and values.shape != boxes.shape[:1]:
            raise DataError(f'{where}: {name} of shape {tuple(values.shape)} for {len(boxes)} boxes, expected '
                            f'({len(boxes)},). Pass one for each box.')
    scores = scores.detach().double()
    return scores.masked_fill(scores.isnan(), -torch.inf).argsort(descending=True, stable=True)


def _check_number(what: str, value: float) -> None:
    if not isinstance(value, Real) or not 0 <= value < inf:
        raise ConfigError(f'{what}={value!r}, expected a finite number of at least 0. Correct it.')
