"""Lanes drawn as strokes, the share that two of them have in common, and counts of those that are found and missed.

CULane and LLAMAS score in this way; how a lane becomes pixels and how lanes are matched is told by each of them.
"""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass
class Stroke:
    """A lane as drawn, cut to its box.

    Attributes:
        left, top: column and row of the box in the canvas.
        mask: (h, w) uint8, 1 on the lane.
        area: pixels of the lane.
    """
    left: int
    top: int
    mask: np.ndarray
    area: int

    def overlap(self, other: 'Stroke') -> int:
        """Pixels that both lanes cover."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right = min(self.left + self.mask.shape[1], other.left + other.mask.shape[1])
        bottom = min(self.top + self.mask.shape[0], other.top + other.mask.shape[0])
        if right <= left or bottom <= top:
            return 0
        a, b = (x.mask[top - x.top:bottom - x.top, left - x.left:right - x.left] for x in (self, other))
        return cv2.countNonZero(cv2.bitwise_and(a, b))


def draw_stroke(pixels: np.ndarray, size: tuple[int, int], width: int) -> Stroke:
    """Draw a line through pixels, with round ends; the same pixels as one `cv2.line` per segment covers.

    Args:
        pixels: (S, 2) int64 column, row; S >= 1; may lie outside.
        size: (rows, columns) of the canvas.
        width: of the line, in pixels.
    """
    keep = np.ones(len(pixels), bool)
    keep[1:] = (pixels[1:] != pixels[:-1]).any(axis=1)
    pixels = pixels[keep]
    if len(pixels) == 1:
        pixels = np.repeat(pixels, 2, axis=0)  # a dot
    margin, end = width // 2 + 3, (size[1], size[0])
    low, high = np.clip([pixels.min(axis=0) - margin, pixels.max(axis=0) + margin + 1], 0, end)
    mask = np.zeros((high - low)[::-1], np.uint8)
    if mask.size:
        cv2.polylines(mask, [(pixels - low).astype(np.int32)], False, 1, width)
    return Stroke(int(low[0]), int(low[1]), mask, cv2.countNonZero(mask) if mask.size else 0)


def iou_matrix(strokes: Sequence[Stroke | None], pred_strokes: Sequence[Stroke | None]) -> np.ndarray:
    """IoU of each true lane with each predicted one.

    Args:
        strokes, pred_strokes: A and P lanes as drawn, None where a lane has too few points.

    Returns:
        (A, P) float64; NaN where neither lane has a pixel in the canvas.
    """
    iou = np.zeros((len(strokes), len(pred_strokes)))
    for i, a in enumerate(strokes):
        for j, b in enumerate(pred_strokes):
            if a is not None and b is not None:
                common = a.overlap(b)
                union = a.area + b.area - common
                iou[i, j] = common / union if union else np.nan
    return iou


def matched_ious(iou: np.ndarray, match: np.ndarray) -> list[float]:
    """IoU of each pair of a matching."""
    rows = np.flatnonzero(match >= 0)
    return iou[rows, match[rows]].tolist()


@dataclass
class ImageResult:
    """What an image contributes.

    Attributes:
        num_lanes, num_preds: true and predicted lanes.
        ious: IoU of each matched pair.
        category: of the image, '' when it has none.
    """
    num_lanes: int
    num_preds: int
    ious: list[float]
    category: str = ''


@dataclass
class Counts:
    """True positives, false positives and false negatives, and their ratios as the original tool prints them."""
    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        """TP / (TP + FP), -1 when nothing is predicted."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else -1.0

    @property
    def recall(self) -> float:
        """TP / (TP + FN), -1 when there are no lanes."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else -1.0

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), 0 when there is none."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp else 0.0


def count(results: Iterable[ImageResult], threshold: float = 0.5) -> Counts:
    """Sum up images: pairs whose IoU exceeds the threshold are true positives."""
    counts = Counts(0, 0, 0)
    for result in results:
        tp = sum(iou > threshold for iou in result.ious)
        counts.tp += tp
        counts.fp += result.num_preds - tp
        counts.fn += result.num_lanes - tp
    return counts
