"""From probability maps to lanes: the rules by which the published lane networks are scored.

A decoder is called with the probabilities of a batch and each image's meta information, and gives for each image its
lanes in pixels of the original image, from bottom to top. Means are formed from integers, so that a GPU and a CPU give
the same lanes for the same probabilities.
"""
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.registry import TASK_UTILS
from perception.utils.errors import ConfigError, DataError

TUSIMPLE_ROWS = tuple(range(160, 720, 10))
_UNIT = 2 ** 16  # probabilities become multiples of 1 / _UNIT


@TASK_UTILS.register_module()
class CULaneDecoder:
    """SCNN's rule for CULane: per slot the most probable column of every 20th row.

    A slot's map is averaged over 9 x 9 pixels and rounded to 8 bits. Points whose mean exceeds the threshold make the
    lane; one of fewer than two points is dropped.

    Args:
        step: rows between two points, in the original image.
        num_points: of a lane at most; the lowest lies on the last row.
        threshold: of the averaged probability.
        exist_threshold: of the existence of a slot's lane.
        kernel: width of the average in the network's image, odd, 15 at most.
        padding: beyond the edge, 'zeros' (SCNN) or 'reflect' (OpenCV's blur, ERFNet).
        keep_slots: give an empty (0, 2) lane for each slot without lane, so that positions tell the slot.
    """

    def __init__(self, step: int = 20, num_points: int = 18, threshold: float = 0.3, exist_threshold: float = 0.5,
                 kernel: int = 9, padding: str = 'zeros', keep_slots: bool = False) -> None:
        self.step, self.num_points, self.keep_slots = step, num_points, keep_slots
        self.threshold, self.exist_threshold = threshold, exist_threshold
        self.kernel, self.padding = _check_kernel(kernel, padding)

    def __call__(self, lane_probs: Tensor, exist_probs: Tensor | None, metas: Sequence[dict]) -> list[list[np.ndarray]]:
        """Lanes of each image.

        Args:
            lane_probs: (B, 1 + L, h, w), the background first.
            exist_probs: (B, L), or None when every slot may have a lane.
            metas: for each image `original_shape` (H0, W0) and `crop_top` (0 by default).

        Raises:
            DataError: shapes that do not belong together.
        """
        shapes = _check_batch(lane_probs, exist_probs, metas)
        exist = _existing(lane_probs, exist_probs, self.exist_threshold)
        height, width = lane_probs.shape[-2:]
        lanes: list[list[np.ndarray]] = [[] for _ in metas]
        for shape in set(shapes):
            images = [i for i, other in enumerate(shapes) if other == shape]
            rows, v = self.rows(height, shape)
            values, columns = row_maxima(lane_probs[images, 1:], rows, self.kernel, self.padding)
            u = np.floor((columns + 1) * (shape[1] / width) + 0.5) - 1
            good = (values > self.threshold * 255) & exist[images, :, None]
            for i, image in enumerate(images):
                found = [np.stack([u[i, k, keep], v[keep]], axis=1) for k, keep in enumerate(good[i])]
                lanes[image] = _drop_short(found, self.keep_slots)
        return lanes

    def rows(self, height: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Rows to look at in a map of so many rows, and their v in the original image; the lowest first."""
        offset = self.step * np.arange(self.num_points)
        rows = np.floor(height - offset / (shape[0] - shape[2]) * height + 0.5).astype(int) - 1
        inside = rows >= 0
        return rows[inside], (shape[0] - 1 - offset[inside]).astype(float)


@TASK_UTILS.register_module()
class LLAMASDecoder(CULaneDecoder):
    """The same rule for LLAMAS, on each row from 716 up to 300.

    It gives four lanes always, those of l1, l0, r0 and r1, empty where there is none.
    """

    def __init__(self, step: int = 1, num_points: int = 417, keep_slots: bool = True, **kwargs) -> None:
        super().__init__(step, num_points, keep_slots=keep_slots, **kwargs)


@TASK_UTILS.register_module()
class TuSimpleDecoder:
    """Lanes on TuSimple's rows, by the rule of the SAD authors' code or by a simpler one.

    'ld' (Codes-for-Lane-Detection): in the map of a slot, averaged over 5 x 5 pixels, the largest component above 40 of
    255, and the second largest if it has more than 800 pixels, become lanes of their own; each row's maximum counts
    above 0.2, gaps are filled. Then short lanes go, pieces of one lane are connected, and the highest point of a lane
    that begins higher than all others is cut.

    'simple' (PytorchAutoDrive): each row's maximum of the map averaged over 9 x 9 pixels counts above 0.3; gaps stay.

    Args:
        rule: 'ld' or 'simple'.
        rows: v of the points where the meta information has no `h_samples`.
        exist_threshold: of the existence of a slot's lane.
    """

    def __init__(self, rule: str = 'ld', rows: Sequence[int] = TUSIMPLE_ROWS, exist_threshold: float = 0.5) -> None:
        if rule not in ('ld', 'simple'):
            raise ConfigError(f'TuSimpleDecoder: rule={rule!r}, expected ld or simple. Choose one.')
        self.rule, self.default_rows, self.exist_threshold = rule, tuple(rows), exist_threshold

    def __call__(self, lane_probs: Tensor, exist_probs: Tensor | None, metas: Sequence[dict]) -> list[list[np.ndarray]]:
        """Lanes of each image; arguments as of `CULaneDecoder`."""
        shapes = _check_batch(lane_probs, exist_probs, metas)
        exist = _existing(lane_probs, exist_probs, self.exist_threshold)
        rows = [np.sort(np.asarray(meta.get('h_samples') or self.default_rows)) for meta in metas]
        if self.rule == 'simple':
            return self._simple(lane_probs, exist, shapes, rows)
        every_row = np.arange(lane_probs.shape[2])
        maps = box_mean(lane_probs[:, 1:], every_row, 5, 'zeros').to(torch.uint8).cpu().numpy()
        return [ld_lanes(maps[i][exist[i]], shapes[i], rows[i]) for i in range(len(metas))]

    @staticmethod
    def _simple(lane_probs: Tensor, exist: np.ndarray, shapes: Sequence[tuple], rows: Sequence[np.ndarray],
                ) -> list[list[np.ndarray]]:
        height, width = lane_probs.shape[-2:]
        lanes = []
        for i, (shape, v) in enumerate(zip(shapes, rows)):
            v = v[(v >= shape[2]) & (v < shape[0])][::-1].astype(float)
            at = np.floor((v - shape[2]) * height / (shape[0] - shape[2])).astype(int)
            values, columns = (x[0] for x in row_maxima(lane_probs[i:i + 1, 1:], at, 9, 'reflect'))
            u = np.floor(columns * (shape[1] / width))
            good = (values > 0.3 * 255) & (u > 0) & exist[i, :, None]
            lanes.append(_drop_short([np.stack([u[k, keep], v[keep]], axis=1) for k, keep in enumerate(good)]))
        return lanes


# ------------------------------------------------------------------------------------------------- parts of the rules

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


def ld_lanes(maps: np.ndarray, shape: tuple[int, int, int], rows: np.ndarray) -> list[np.ndarray]:
    """Lanes by the 'ld' rule of `TuSimpleDecoder`.

    Args:
        maps: (L, h, w) uint8, averaged probabilities of the existing slots.
        shape: H0, W0 and the rows cut off the top.
        rows: (R,) ascending v of the points.

    Returns:
        (P, 2) float64 lanes, bottom to top.
    """
    pieces = [piece for slot in maps for piece in _components(slot)]
    lanes = [fill_gaps(_trace(piece, shape, rows)) for piece in pieces]
    lanes = [u for u in lanes if _length(u, rows) > 20]
    lanes = [u for u in connect(lanes, rows) if _length(u, rows) > 70]
    lanes = cut_highest(lanes)
    return _drop_short([np.stack([u, rows], axis=1)[~np.isnan(u)][::-1] for u in lanes])


def _components(values: np.ndarray) -> list[np.ndarray]:
    """The map cut to its largest component above 40, and to the second largest if that exceeds 800 pixels."""
    contours = cv2.findContours((values > 40).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    contours = sorted(contours, key=cv2.contourArea, reverse=True)
    pieces = []
    for number, contour in enumerate(contours[:2]):
        if number == 0 or cv2.contourArea(contour) > 800:
            mask = cv2.drawContours(np.zeros_like(values), [contour], -1, 255, cv2.FILLED)
            pieces.append(cv2.bitwise_and(values, mask))
    return pieces


def _trace(values: np.ndarray, shape: tuple[int, int, int], rows: np.ndarray) -> np.ndarray:
    """u at each row, (R,), where the map enlarged to the original size has its maximum; NaN at 0.2 or below."""
    height, width, top = shape
    full = cv2.resize(values, (width, height - top), interpolation=cv2.INTER_LINEAR)
    inside = (rows >= top) & (rows < height)
    u = np.full(len(rows), np.nan)
    lines = full[rows[inside] - top]
    u[inside] = np.where(lines.max(axis=1) > 0.2 * 255, lines.argmax(axis=1), np.nan)
    return u


def fill_gaps(u: np.ndarray) -> np.ndarray:
    """Linear interpolation of the NaN between the first and the last number."""
    known = np.flatnonzero(~np.isnan(u))
    if not len(known):
        return u
    at = np.arange(len(u))
    return np.interp(at, known, u[known], left=np.nan, right=np.nan)


def _ends(u: np.ndarray) -> tuple[int, int]:
    """Index of the highest and of the lowest point."""
    known = np.flatnonzero(~np.isnan(u))
    return int(known[0]), int(known[-1])


def _length(u: np.ndarray, rows: np.ndarray) -> float:
    """Distance of a lane's end points in pixels, 0 without points."""
    if np.isnan(u).all():
        return 0.0
    top, bottom = _ends(u)
    return float(np.hypot(u[bottom] - u[top], rows[bottom] - rows[top]))


def connect(lanes: Sequence[np.ndarray], rows: np.ndarray) -> list[np.ndarray]:
    """Join pieces of one lane: the slopes of facing ends differ by less than 0.2, and the extension of the lower one
    to the other's end misses it by less than 50 pixels.

    Args:
        lanes: (R,) u at each row, NaN = absent, without gaps.
        rows: (R,) ascending v.
    """
    lanes, joined = list(lanes), True
    while joined:
        joined = False
        for low in range(len(lanes)):
            for high in range(len(lanes)):
                if low != high and _continues(lanes[low], lanes[high], rows):
                    lanes[low] = fill_gaps(np.where(np.isnan(lanes[low]), lanes[high], lanes[low]))
                    del lanes[high]
                    joined = True
                    break
            if joined:
                break
    return lanes


def _continues(low: np.ndarray, high: np.ndarray, rows: np.ndarray) -> bool:
    start, end = _ends(low)[0], _ends(high)[1]
    if end >= start:
        return False
    slope = _slope(low, rows, start, min(start + 5, _ends(low)[1]))
    other = _slope(high, rows, max(end - 5, _ends(high)[0]), end)
    miss = low[start] + slope * (rows[end] - rows[start]) - high[end]
    return abs(slope - other) < 0.2 and abs(miss) < 50


def _slope(u: np.ndarray, rows: np.ndarray, first: int, last: int) -> float:
    return (u[last] - u[first]) / (rows[last] - rows[first]) if last > first else 0.0


def cut_highest(lanes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Remove the top point of the lane that alone begins highest: it is rarely right."""
    lanes = [u.copy() for u in lanes]
    tops = [_ends(u)[0] for u in lanes]
    if tops and tops.count(min(tops)) == 1:
        lanes[tops.index(min(tops))][min(tops)] = np.nan
    return lanes


def _drop_short(lanes: Sequence[np.ndarray], keep_slots: bool = False) -> list[np.ndarray]:
    """Lanes of two points at least; others are left out or become empty."""
    if keep_slots:
        return [lane if len(lane) > 1 else np.zeros((0, 2)) for lane in lanes]
    return [lane for lane in lanes if len(lane) > 1]


def _existing(lane_probs: Tensor, exist_probs: Tensor | None, threshold: float) -> np.ndarray:
    if exist_probs is None:
        return np.ones((len(lane_probs), lane_probs.shape[1] - 1), bool)
    return (exist_probs > threshold).cpu().numpy()


def _check_batch(lane_probs: Tensor, exist_probs: Tensor | None, metas: Sequence[dict]) -> list[tuple[int, int, int]]:
    """H0, W0 and cut rows of each image, after a look at the shapes."""
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


def _check_kernel(kernel: int, padding: str) -> tuple[int, str]:
    if kernel % 2 != 1 or not 1 <= kernel <= 15 or padding not in ('zeros', 'reflect'):
        raise ConfigError(f'decoder: kernel={kernel}, padding={padding!r}, expected an odd width up to 15, and zeros '
                          f'or reflect. Correct them.')
    return kernel, padding


# --------------------------------------------------------------------------------------------- to the original image

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
