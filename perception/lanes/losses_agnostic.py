"""Losses and targets of the agnostic lane network: instances in an embedding, drivable area, lane points.

Shapes: B images of H x W pixels, E embedding channels on a map of h x w pixels, K instances, S slots around the ego
vehicle, R rows. Instances are numbered 1..K in any order; 0 = background, 255 = ignored.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.lanes.cluster import row_means
from perception.lanes.losses import at_least_float32


def discriminative_loss(embeddings: Tensor, instances: Tensor, delta_var: float = 0.5, delta_dist: float = 3.0,
                        ignore_index: int = 255) -> tuple[Tensor, Tensor, Tensor]:
    """Pulls the pixels of an instance together and the means of instances apart (De Brabandere et al. 2017).

    L_var = 1/C sum_c 1/N_c sum_i [|mu_c - x_i| - delta_var]_+^2, L_dist = 1/(C (C-1)) sum_{a != b} [delta_dist -
    |mu_a - mu_b|]_+^2 and L_reg = 1/C sum_c |mu_c| for the C instances of an image, with the hinges of LaneNet. Each is
    a mean over the B images; an image without instances counts as 0, one with a single instance has no L_dist.

    Args:
        embeddings: (B, E, h, w).
        instances: (B, h, w) int64.
        delta_var: radius within which an instance's pixels are not pulled.
        delta_dist: distance beyond which means are not pushed.
        ignore_index: label that belongs to no instance.

    Returns:
        L_var, L_dist and L_reg, scalars.
    """
    embeddings = at_least_float32(embeddings)
    batch = len(embeddings)
    lane = (instances > 0) & (instances != ignore_index)
    image, ids, pixels = lane.nonzero()[:, 0], instances[lane] - 1, embeddings.movedim(1, -1)[lane]  # (N,) and (N, E)
    num = int(ids.max()) + 1 if len(ids) else 1
    group = image * num + ids
    counts = torch.bincount(group, minlength=batch * num).to(pixels.dtype)  # (B K,)
    means = pixels.new_zeros(batch * num, pixels.shape[1]).index_add(0, group, pixels) / counts.clamp(min=1)[:, None]
    there = (counts > 0).view(batch, num).to(pixels.dtype)
    total = there.sum(dim=1)  # C of each image
    spread = (_norm(pixels - means[group]) - delta_var).relu() ** 2
    spread = spread.new_zeros(batch * num).index_add(0, group, spread) / counts.clamp(min=1)
    var = (spread.view(batch, num).sum(dim=1) / total.clamp(min=1)).mean()
    means = means.view(batch, num, -1)
    pairs = there[:, :, None] * there[:, None] * (1 - torch.eye(num, device=there.device, dtype=there.dtype))
    push = (delta_dist - _norm(means[:, :, None] - means[:, None])).relu() ** 2 * pairs  # (B, K, K)
    dist = (push.sum(dim=(1, 2)) / (total * (total - 1)).clamp(min=1)).mean()
    reg = ((_norm(means) * there).sum(dim=1) / total.clamp(min=1)).mean()
    return var, dist, reg


def _norm(x: Tensor) -> Tensor:
    """Length along the last axis, with a gradient of zero rather than NaN at zero."""
    return (x.square().sum(dim=-1) + 1e-12).sqrt()


def ego_slots(instances: Tensor, num_slots: int, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Row means of the lanes around the ego vehicle, whatever their numbers: half of the slots left, half right.

    A lane's place is where a line through its lower half meets the image's last row; left of the middle it is a left
    lane. Slots go from left to right, the two in the middle bound the ego lane; lanes further out are left out.

    Args:
        instances: (B, H, W) int64.
        num_slots: S, even.
        ignore_index: label that belongs to no instance.

    Returns:
        (B, S, H) float64 mean column, and (B, S, H) bool whether the row has pixels of the slot.
    """
    batch, height, width = instances.shape
    x, counts = row_means(torch.where(instances == ignore_index, 0, instances))  # (B, K, H)
    if not x.shape[1]:
        return x.new_zeros(batch, num_slots, height), counts.new_zeros((batch, num_slots, height), dtype=torch.bool)
    seen = counts > 0
    place = _at_last_row(x, seen)  # (B, K), NaN where the image lacks the instance
    left, right = place < (width - 1) / 2, place >= (width - 1) / 2
    nearer_left = (left[:, None] & (place[:, None] > place[:, :, None])).sum(dim=2)
    nearer_right = (right[:, None] & (place[:, None] < place[:, :, None])).sum(dim=2)
    slot = torch.where(left, num_slots // 2 - 1 - nearer_left, num_slots // 2 + nearer_right)
    inside = (left | right) & (slot >= 0) & (slot < num_slots)
    image, k = inside.nonzero(as_tuple=True)
    slots = x.new_zeros(batch, num_slots, height), seen.new_zeros(batch, num_slots, height)
    for target, value in zip(slots, (x, seen)):
        target[image, slot[image, k]] = value[image, k]
    return slots


def _at_last_row(x: Tensor, seen: Tensor) -> Tensor:
    """(B, K) column at the last row, of the line through the lower half of an instance's rows."""
    height = x.shape[2]
    rank = seen.flip(2).cumsum(2).flip(2)  # rows of the instance from here down
    weight = (seen & (2 * rank <= seen.sum(dim=2, keepdim=True) + 1)).double()
    total = weight.sum(dim=2)
    y = torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1)
    mean_y, mean_x = (weight @ y) / total, (weight * x).sum(dim=2) / total
    offset = (y - mean_y[:, :, None]) * weight
    slope = (offset * (x - mean_x[:, :, None])).sum(dim=2) / (offset * offset).sum(dim=2).clamp(min=1e-9)
    return mean_x - slope * mean_y


def ego_area(x: Tensor, seen: Tensor, width: int) -> Tensor:
    """Pseudo label of the drivable area: the ego lane, between the two middle slots.

    Args:
        x: (B, S, H), as `ego_slots` gives it.
        seen: (B, S, H).
        width: W.

    Returns:
        (B, H, W) int64: 1 in the ego lane, 0 beside it and in rows without lanes, 255 in rows where only one of the two
        lanes is seen.
    """
    left, right = x.shape[1] // 2 - 1, x.shape[1] // 2
    column = torch.arange(width, device=x.device)
    between = (column >= x[:, left, :, None]) & (column <= x[:, right, :, None])
    both, one = seen[:, left] & seen[:, right], seen[:, left] ^ seen[:, right]
    return torch.where(one[:, :, None], 255, (between & both[:, :, None]).long())


def area_loss(area_logits: Tensor, area: Tensor) -> Tensor:
    """Cross-entropy of the drivable area, a mean over the labelled pixels; 0 where there is none.

    Args:
        area_logits: (B, 2, h, w); of an enlarged target each pixel's middle counts.
        area: (B, H, W) int64, 255 = ignored.
    """
    rows, columns = (((torch.arange(small, device=area.device) + 0.5) * large / small).long()
                     for small, large in zip(area_logits.shape[2:], area.shape[1:]))
    target = area[:, rows][:, :, columns]
    total = F.cross_entropy(at_least_float32(area_logits), target, ignore_index=255, reduction='sum')
    return total / (target != 255).sum().clamp(min=1)


def point_loss(points: Tensor, x: Tensor, seen: Tensor, width: int) -> Tensor:
    """Smooth L1 of the lanes' columns on fixed rows, a mean over the points that exist; 0 where there is none.

    Args:
        points: (B, S, R) columns, as share of the width, on the middles of R bands of rows.
        x: (B, S, H) columns [pixel], as `ego_slots` gives them.
        seen: (B, S, H).
        width: W.
    """
    points = at_least_float32(points)
    num_rows, height = points.shape[2], x.shape[2]
    rows = ((torch.arange(num_rows, device=x.device) + 0.5) * height / num_rows).long()
    valid = seen[:, :, rows].to(points.dtype)
    target = ((x[:, :, rows] + 0.5) / width).to(points.dtype)
    losses = F.smooth_l1_loss(points, target, beta=0.05, reduction='none')
    return (losses * valid).sum() / valid.sum().clamp(min=1)
