"""TuSimple's lanes from probability maps, by the rules of two published codes."""
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from perception.lanes.datasets.tusimple.reader import ROWS, SIZE
from perception.lanes.decode import box_mean, check_batch, drop_short, existing_slots, row_maxima
from perception.registry import TASK_UTILS
from perception.utils.checks import check_choice


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
        rows: v of the points where the meta information has no `h_samples`, in an image of TuSimple's height.
        exist_threshold: of the existence of a slot's lane.
    """

    def __init__(self, rule: str = 'ld', rows: Sequence[int] = ROWS, exist_threshold: float = 0.5) -> None:
        check_choice('TuSimpleDecoder: rule', rule, ('ld', 'simple'))
        self.rule, self.default_rows, self.exist_threshold = rule, tuple(rows), exist_threshold

    def __call__(self, lane_probs: Tensor, exist_probs: Tensor | None, metas: Sequence[dict]) -> list[list[np.ndarray]]:
        """Lanes of each image; arguments as of any decoder, see `decode.py`."""
        shapes = check_batch(lane_probs, exist_probs, metas)
        exist = existing_slots(lane_probs, exist_probs, self.exist_threshold)
        rows = [np.sort(np.asarray(meta['h_samples'])) if meta.get('h_samples')
                else np.sort(self.default_rows) * (shape[0] / SIZE[0]) for meta, shape in zip(metas, shapes)]
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
            lanes.append(drop_short([np.stack([u[k, keep], v[keep]], axis=1) for k, keep in enumerate(good)]))
        return lanes


def ld_lanes(maps: np.ndarray, shape: tuple[int, int, int], rows: np.ndarray) -> list[np.ndarray]:
    """Lanes by the 'ld' rule of `TuSimpleDecoder`.

    Args:
        maps: (L, h, w) uint8, averaged probabilities of the existing slots.
        shape: H0, W0 and the rows cut off the top.
        rows: (R,) ascending v of the points.

    Returns:
        (P, 2) float64 lanes, bottom to top. Lengths and distances are judged in an image of TuSimple's width.
    """
    if shape[1] != SIZE[1]:
        scale = SIZE[1] / shape[1]
        lanes = ld_lanes(maps, (round(shape[0] * scale), SIZE[1], round(shape[2] * scale)), rows * scale)
        return [np.stack([u / scale, rows[np.searchsorted(rows * scale, v)]], axis=1) for u, v in
                (lane.T for lane in lanes)]
    pieces = [piece for slot in maps for piece in _components(slot)]
    lanes = [fill_gaps(_trace(piece, shape, rows)) for piece in pieces]
    lanes = [u for u in lanes if _length(u, rows) > 20]
    lanes = [u for u in connect(lanes, rows) if _length(u, rows) > 70]
    lanes = cut_highest(lanes)
    return drop_short([np.stack([u, rows], axis=1)[~np.isnan(u)][::-1] for u in lanes])


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
    lines = full[np.minimum(np.rint(rows[inside]).astype(int), height - 1) - top]
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
