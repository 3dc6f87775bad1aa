"""The Lovasz-Softmax loss: a tractable surrogate for the optimization of the intersection-over-union measure.

Maxim Berman, Amal Rannen Triki, Matthew B. Blaschko. CVPR 2018.

Shapes: P points (or voxels, or pixels), C classes.
"""
from collections.abc import Sequence

import torch
from torch import Tensor

from perception.utils.errors import ConfigError, DataError


def lovasz_softmax(probs: Tensor, labels: Tensor, classes: str | Sequence[int] = 'present',
                   ignore_index: int | None = 255, per_image: bool = False) -> Tensor:
    """Lovasz extension of the Jaccard loss, averaged over classes (equations 8, 9 and 11).

    All classes are sorted at once. Where nothing is labelled the loss is zero, with a zero gradient.

    Args:
        probs: (P, C) or (B, C, ...) class probabilities.
        labels: (P,) or (B, ...) integer classes 0..C-1, or `ignore_index`.
        classes: 'present' averages over the classes that occur in the labels, 'all' over all of them, a list over
            those in the list.
        ignore_index: label to be left out; None leaves nothing out.
        per_image: average over the B losses of single images instead of one loss for the whole batch.

    Returns:
        scalar in [0, 1].

    Raises:
        DataError: shapes do not match, or a label is no class.
        ConfigError: `classes` is neither a known word nor a list of classes.
    """
    if probs.dim() < 2 or labels.shape != probs.shape[:1] + probs.shape[2:]:
        raise DataError(f'lovasz_softmax: probs {tuple(probs.shape)} with labels {tuple(labels.shape)}, expected '
                        f'(P, C) with (P,) or (B, C, ...) with (B, ...). Reshape one of them.')
    if per_image:
        if probs.dim() < 3:
            raise DataError(f'lovasz_softmax: per_image with probs {tuple(probs.shape)}, expected (B, C, ...). Call it '
                            f'once for each image instead.')
        losses = [lovasz_softmax(p[None], y[None], classes, ignore_index) for p, y in zip(probs, labels)]
        return torch.stack(losses).mean() if losses else probs.sum()
    num_classes = probs.shape[1]
    probs = probs.movedim(1, 0).flatten(1)  # (C, P)
    labels = labels.flatten().long()
    if isinstance(classes, str) and _is_far(probs):
        return _without_waiting(probs, labels, classes, ignore_index)
    if ignore_index is not None:
        valid = labels != ignore_index
        probs, labels = probs[:, valid], labels[valid]
    selected = _selected_classes(classes, labels, num_classes)
    if not len(labels) or not len(selected):
        return probs.sum() * 0
    probs = probs[selected]
    truth = labels == selected[:, None]  # (C', P)
    errors = torch.where(truth, 1 - probs, probs)
    errors, order = errors.sort(dim=1, descending=True)
    with torch.no_grad():
        weights = _jaccard_steps(truth.gather(1, order)).to(errors.dtype)
    return (errors * weights).sum(dim=1).mean()


def _is_far(probs: Tensor) -> bool:
    """Whether the host would have to wait for what is in it."""
    return probs.is_cuda


def _without_waiting(probs: Tensor, labels: Tensor, classes: str, ignore_index: int | None) -> Tensor:
    """The same for (C, P) and (P,) on a GPU, whose host need not know how many labels and classes there are.

    Ignored labels come last, where they change no other's weight, and count nothing; labels out of range are an error
    of the device.
    """
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    torch._assert_async(((labels >= 0) & (labels < len(probs)) | ~valid).all(), 'lovasz_softmax: labels out of range.')
    truth = (labels == torch.arange(len(probs), device=labels.device)[:, None]) & valid  # (C, P)
    counted = truth.any(1) if _check_classes(classes) == 'present' else valid.any().expand(len(probs))
    errors = torch.where(truth, 1 - probs, probs).masked_fill(~valid, -1.)
    errors, order = errors.sort(dim=1, descending=True)
    with torch.no_grad():
        weights = _jaccard_steps(truth.gather(1, order)).to(errors.dtype) * counted[:, None]
    return (errors.clamp(min=0) * weights).sum() / counted.sum().clamp(min=1)


def _check_classes(classes: str) -> str:
    if classes not in ('present', 'all'):
        raise ConfigError(f"lovasz_softmax: classes={classes!r}, expected 'present', 'all' or a list of classes. "
                          f'Choose one of them.')
    return classes


def _jaccard_steps(truth: Tensor) -> Tensor:
    """Growth of the Jaccard loss as each next error is added (algorithm 1).

    Args:
        truth: (C, P) bool, sorted by descending error.

    Returns:
        (C, P) float64; double precision because the differences are of the size 1 / P.
    """
    total = truth.sum(dim=1, keepdim=True)
    intersection = total - truth.cumsum(dim=1)
    union = total + (~truth).cumsum(dim=1)
    jaccard = 1 - intersection.double() / union
    return torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))


def _selected_classes(classes: str | Sequence[int], labels: Tensor, num_classes: int) -> Tensor:
    """(C',) the classes to average over."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(f'lovasz_softmax: labels from {int(labels.min())} to {int(labels.max())}, expected '
                        f'0..{num_classes - 1} or ignore_index. Map the labels, or set ignore_index.')
    if isinstance(classes, str):
        if _check_classes(classes) == 'present':
            return torch.bincount(labels, minlength=num_classes).nonzero().flatten()
        return torch.arange(num_classes, device=labels.device)
    if any(not 0 <= c < num_classes for c in classes):
        raise ConfigError(f'lovasz_softmax: classes={list(classes)}, expected numbers in 0..{num_classes - 1}. Leave '
                          f'the others out.')
    return torch.as_tensor(list(classes), dtype=torch.long, device=labels.device)
