"""Losses of the lane and road-marking networks (SAD, section 3.3: L_seg, L_IoU and L_exist).

Shapes: B images of H x W pixels, C classes with the background as class 0, L lane slots. Half precision is summed in
float32.
"""
import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor, ignore_index: int = 255) -> Tensor:
    """Cross-entropy of the pixels, averaged with the weights of their classes; zero where no pixel has a label.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64 classes, `ignore_index` = without a class.
        class_weights: (C,).
        ignore_index: label that is left out.
    """
    logits = at_least_float32(logits)
    class_weights = class_weights.to(logits.dtype)
    valid = labels != ignore_index
    total = (class_weights[labels.where(valid, 0)] * valid).sum()
    loss = F.cross_entropy(logits, labels, class_weights, ignore_index=ignore_index, reduction='sum')
    return loss / total.clamp(min=torch.finfo(logits.dtype).tiny)


def soft_iou_loss(probs: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """1 - N_pg / (N_p + N_g - N_pg) with soft counts, averaged over the lanes of all images (SAD, section 3.3).

    Each lane class that an image's labels hold counts once; the background does not. Zero where no image has a lane.

    Args:
        probs: (B, C, H, W) probabilities, summed to N_p over the pixels with a label.
        labels: (B, H, W) int64 classes, `ignore_index` = without a class.
        ignore_index: label that is left out.
    """
    lanes = at_least_float32(probs)[:, 1:].flatten(2)  # (B, C-1, P)
    labels = labels.flatten(1)
    truth = labels[:, None] == torch.arange(1, probs.shape[1], device=labels.device)[:, None]  # (B, C-1, P)
    valid = (labels != ignore_index)[:, None]
    true_count = truth.sum(dim=2)
    intersection = (lanes * truth).sum(dim=2)
    union = (lanes * valid).sum(dim=2) + true_count - intersection
    present = true_count > 0
    losses = (1 - intersection / union.where(present, 1)) * present
    return losses.sum() / present.sum().clamp(min=1)


def existence_loss(exist_logits: Tensor, exist: Tensor) -> Tensor:
    """Binary cross-entropy of the lane slots, averaged over images and slots.

    Args:
        exist_logits: (B, L), before the sigmoid.
        exist: (B, L), 1 where the image has a lane in the slot.
    """
    exist_logits = at_least_float32(exist_logits)
    return F.binary_cross_entropy_with_logits(exist_logits, exist.to(exist_logits.dtype))


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
