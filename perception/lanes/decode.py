"""What the decoders share, which turn probability maps into lanes by the rules that published networks are scored by.

A decoder is called with the probabilities (B, 1 + L, h, w) of a batch, the background first, the existence (B, L) of
each slot's lane or None, and for each image its meta information, `original_shape` (H0, W0) and `crop_top` (0 by
default); it gives for each image its lanes in pixels of the original image, from bottom to top. Means are formed from
integers, so that a GPU and a CPU give the same lanes for the same probabilities.
"""
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.utils.errors import DataError

_UNIT = 2 ** 16  # probabilities become multiples of 1 / _UNIT


def check_batch(lane_probs: Tensor, exist_probs: Tensor | None, metas: Sequence[dict]) -> list[tuple[int, int, int]]:
    """H0, W0 and cut rows of each image, after a look at the shapes.

    Raises:
        DataError: shapes that do not belong together, or an image without `original_shape`.
    """
    if lane_probs.ndim != 4 or lane_probs.shape[1] < 2 or len(lane_probs) != len(metas):
        raise DataError(f'decoder: lane_probs of shape {tuple(lane_probs.shape)} for {len(metas)} images, expected '
                        f'(B, 1 + L, h, w) with the background first. Give a network of lane slots to this decoder.')
    if exist_probs is not None and exist_probs.shape != (len(metas), lane_probs.shape[1] - 1):
        raise DataError(f'decoder: exist_probs of shape {tuple(exist_probs.shape)} for {lane_probs.shape[1] - 1} slots '
                        f'of {len(metas)} images, expected one number a slot. Check num_lanes and num_classes.')
    shapes = []
    for meta in metas:
        if 'original_shape' not in meta:
            raise DataError(f'decoder: {meta.get("sample_id", "an image")} has no original_shape, expected (rows, '
                            f'columns) of the original image. Pass it as meta information.')
        shapes.append((*map(int, meta['original_shape'][:2]), int(meta.get('crop_top', 0))))
    return shapes


def existing_slots(lane_probs: Tensor, exist_probs: Tensor | None, threshold: float) -> np.ndarray:
    """(B, L) whether a slot has a lane; all of them where nothing is said about it."""
    if exist_probs is None:
        return np.ones((len(lane_probs), lane_probs.shape[1] - 1), bool)
    return (exist_probs > threshold).cpu().numpy()


def box_mean(probs: Tensor, rows: np.ndarray, kernel: int, padding: str) -> Tensor:
    """Mean over squares, at some rows only, rounded to 8 bits; the same on every device.

    Args:
        probs: (B, L, h, w) in [0, 1].
        rows: (R,) rows.
        kernel: odd width of the square, 15 at most.
        padding: 'zeros' or 'reflect' (without repeating the edge).

    Returns:
        (B, L, R, w) int32, 0..255.
    """
    half, width = kernel // 2, probs.shape[3]
    units = (probs.float().clamp(0, 1) * _UNIT).round()  # integers below 2^24, which float32 adds exactly
    units = F.pad(units, (half,) * 4, mode='constant' if padding == 'zeros' else 'reflect')
    first = torch.from_numpy(np.asarray(rows)).to(probs.device)
    total = sum(units.index_select(2, first + k) for k in range(kernel))
    total = sum(total[..., k:k + width] for k in range(kernel)).double()
    full = kernel * kernel * _UNIT
    return total.mul_(2 * 255).add_(full).div_(2 * full).floor_().to(torch.int32)


def row_maxima(probs: Tensor, rows: np.ndarray, kernel: int, padding: str) -> tuple[np.ndarray, np.ndarray]:
    """Greatest mean of each row and the first column that has it.

    Args:
        probs: (B, L, h, w) in [0, 1].
        rows, kernel, padding: as of `box_mean`.

    Returns:
        values 0..255 and columns, both (B, L, R) int32.
    """
    rows, where = np.unique(rows, return_inverse=True)  # a small map has fewer rows than a lane has points
    means, width = box_mean(probs, rows, kernel, padding), probs.shape[3]
    left = torch.arange(width - 1, -1, -1, dtype=torch.int32, device=probs.device)  # the first one wins
    best = (means * width + left).amax(dim=3).cpu().numpy()[..., where]
    return best // width, width - 1 - best % width


def drop_short(lanes: Sequence[np.ndarray], keep_slots: bool = False) -> list[np.ndarray]:
    """Lanes of two points at least; others are left out or become empty."""
    if keep_slots:
        return [lane if len(lane) > 1 else np.zeros((0, 2)) for lane in lanes]
    return [lane for lane in lanes if len(lane) > 1]


def restore_probs(probs: Tensor, shape: Sequence[int], crop_top: int = 0) -> Tensor:
    """Probabilities in the original image: enlarged bilinearly; the rows that were cut off are background.

    Args:
        probs: (C, h, w), the background first.
        shape: (H0, W0) of the original image.
        crop_top: rows that were cut off before resizing.

    Returns:
        (C, H0, W0) float32.
    """
    full = probs.new_zeros((len(probs), *shape), dtype=torch.float32)
    full[0, :crop_top] = 1
    size = (shape[0] - crop_top, shape[1])
    full[:, crop_top:] = F.interpolate(probs[None].float(), size, mode='bilinear', align_corners=False)[0]
    return full


def restore_labels(labels: Tensor, shape: Sequence[int], crop_top: int = 0) -> Tensor:
    """Classes in the original image: enlarged to the nearest; the rows that were cut off are class 0.

    Args:
        labels: (h, w) integers 0..255.
        shape: (H0, W0) of the original image.
        crop_top: rows that were cut off before resizing.

    Returns:
        (H0, W0) uint8.
    """
    full = torch.zeros(tuple(shape), dtype=torch.uint8, device=labels.device)
    rows = torch.arange(shape[0] - crop_top, device=labels.device) * labels.shape[0] // (shape[0] - crop_top)
    columns = torch.arange(shape[1], device=labels.device) * labels.shape[1] // shape[1]
    full[crop_top:] = labels.to(torch.uint8)[rows[:, None], columns]
    return full
