"""Images, points and voxels seen alike by the losses.

A tap holds a map (B, C, H, W), rows (R, C) of the batch's points or voxels, or a sparse tensor, whose rows are
`.feats`. What is normalised or compared inside a sample is handed out in groups (G, P, C): one group for a map, with
G = B and P = H * W, and a group of G = 1 for the rows of each scan, whose numbers differ.
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.utils.errors import ConfigError, DataError

ROWS = ('points', 'voxels')


def features(value: Any, tap: str) -> Tensor:
    """The recorded tensor, (B, C, H, W) or (R, C), in at least float32.

    Args:
        value: what the tap recorded.
        tap: its name, for the message.

    Raises:
        DataError: it is neither a map nor rows.
    """
    tensor = getattr(value, 'feats', value)
    if not isinstance(tensor, Tensor) or tensor.ndim not in (2, 4):
        what = f'a tensor of shape {tuple(tensor.shape)}' if isinstance(tensor, Tensor) else type(tensor).__name__
        raise DataError(f'tap {tap!r}: {what} was recorded, expected a map (B, C, H, W), rows (R, C) or a sparse '
                        'tensor. Tap a module that returns one; nn.Identity gives a value a name.')
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def aligned(student: Any, teacher: Any, tap: str, same_channels: bool = False) -> tuple[Tensor, Tensor]:
    """Both nets' tensors at the same positions; the teacher's is detached and, as a map, resized to the student's.

    Args:
        student: what the student's tap recorded.
        teacher: what the teacher's tap recorded.
        tap: its name, for the message.
        same_channels: refuse different numbers of channels.

    Raises:
        DataError: the positions (or channels) of the two cannot be matched.
    """
    s, t = features(student, tap), features(teacher, tap).detach()
    if s.ndim == 4 == t.ndim and s.shape[2:] != t.shape[2:]:
        t = F.interpolate(t, s.shape[2:], mode='bilinear', align_corners=False)
    check_same_positions(s, t, tap, same_channels)
    return s, t


def check_same_positions(student: Tensor, teacher: Tensor, tap: str, same_channels: bool = False) -> None:
    """Refuse two tensors whose positions differ; arguments as those of `aligned`.

    Raises:
        DataError: shapes differ in more than the number of channels (or in that, with `same_channels`).
    """
    a, b = list(student.shape), list(teacher.shape)
    if len(a) != len(b) or a[:1] + a[2:] != b[:1] + b[2:] or (same_channels and a[1] != b[1]):
        raise DataError(f'tap {tap!r}: shape {tuple(a)} of the student against {tuple(b)} of the teacher, expected the '
                        f'same positions{" and channels" if same_channels else ""}. Tap outputs of the same level.')


def check_channels(where: str, student: Tensor, teacher: Tensor, channels: tuple[int, int]) -> None:
    """Refuse features (B, C, H, W) or (R, C) of other numbers of channels than a loss was built for.

    Args:
        where: the loss, for the message.
        student, teacher: features.
        channels: of both, as the loss was built.

    Raises:
        ConfigError: one differs.
    """
    came = student.shape[1], teacher.shape[1]
    if came != tuple(channels):
        raise ConfigError(f'{where}: features of {came[0]} (student) and {came[1]} (teacher) channels, expected '
                          f'channels={tuple(channels)}, for which the loss was built. Set channels={came}.')


def labels_at(value: Any, inputs: dict, rows: str = 'points') -> Tensor:
    """Label of each position: (B, H, W), resized to the map by nearest neighbour, or (R,).

    Args:
        value: what the tap recorded.
        inputs: the batch's inputs with `labels`: (B, h, w) of images, (N,) of points; or `voxel_labels` (V,).
        rows: whether rows are `'points'` or `'voxels'`; those of a sparse tensor are voxels.

    Raises:
        DataError: the batch has no labels, or not as many as there are positions.
    """
    key = 'voxel_labels' if _are_voxels(value, rows) else 'labels'
    if key not in inputs:
        raise DataError(f'distillation: the batch has no {key!r}, expected a labelled batch. Train on samples that '
                        'have labels, or switch off what reads them.')
    labels, tensor = inputs[key], getattr(value, 'feats', value)
    if tensor.ndim == 4 and labels.ndim == 3 and labels.shape[1:] != tensor.shape[2:]:
        labels = F.interpolate(labels[:, None].float(), tensor.shape[2:], mode='nearest')[:, 0].to(labels.dtype)
    if labels.ndim != tensor.ndim - 1 or len(labels) != len(tensor):
        raise DataError(f'distillation: {key!r} of shape {tuple(inputs[key].shape)} for an output of shape '
                        f'{tuple(tensor.shape)}, expected a label for each position. Set rows to what the tap holds '
                        f'({" or ".join(ROWS)}) and tap an output at full resolution.')
    return labels


def grouped(tensor: Tensor, value: Any, inputs: dict, rows: str = 'points') -> list[Tensor]:
    """Positions by sample, as groups (G, P, C) whose G add up to the samples that have positions.

    Args:
        tensor: (B, C, H, W) or (R, C), computed from the tap's output; labels with C = 1.
        value: what the tap recorded, for the meaning of its rows.
        inputs: the batch's inputs, with `point_batch` (N,) for points and `voxel_coords` (V, 4) for voxels.
        rows: whether rows are `'points'` or `'voxels'`; those of a sparse tensor are voxels.

    Raises:
        DataError: the batch does not say to which sample a row belongs.
    """
    if tensor.ndim == 4:
        return [tensor.flatten(2).transpose(1, 2)]
    sample = sample_index(value, inputs, rows)
    counts = torch.bincount(sample).tolist()
    order = sample.argsort(stable=True)
    return [part[None] for part in tensor[order].split(counts) if len(part)]


def sample_index(value: Any, inputs: dict, rows: str = 'points') -> Tensor:
    """(R,) int64, the sample to which each row of a tap belongs; arguments as those of `grouped`.

    Raises:
        DataError: the batch does not say it.
    """
    if _are_voxels(value, rows):
        coords = getattr(value, 'voxel_coords', None)
        coords = inputs.get('voxel_coords') if coords is None else coords
        sample = None if coords is None else coords[:, 0]
    else:
        sample = inputs.get('point_batch')
    size = len(getattr(value, 'feats', value))
    if sample is None or len(sample) != size:
        found = 'no index of samples' if sample is None else f'{len(sample)} sample indices'
        raise DataError(f'distillation: {found} for {size} rows, expected one for each row (point_batch of points, '
                        f'voxel_coords of voxels). Set rows to what the tap holds ({" or ".join(ROWS)}).')
    return sample.long()


def cosine_affinity(vectors: Tensor, eps: float = 1e-6) -> Tensor:
    """Cosine similarity between all vectors of each set, zero for a zero vector.

    Args:
        vectors: (..., n, C).
        eps: smallest norm to divide by.

    Returns:
        (..., n, n) similarities in [-1, 1].
    """
    unit = F.normalize(vectors, dim=-1, eps=eps)
    return unit @ unit.transpose(-1, -2)


def _are_voxels(value: Any, rows: str) -> bool:
    return hasattr(value, 'feats') or (value.ndim == 2 and rows == 'voxels')
