"""The three scores of LLAMAS: lanes as in CULane, columns of lanes, and pixels of markers.

F1 (reported in most papers): CULane's idea on a canvas of 717 x 1276, with B-splines through the predicted points and
the matching of largest total IoU. Regression: mean distance in columns over the rows 300 to 716. Segmentation: the area
under the curve of precision over recall, per class, from probabilities in 8 bits.

The lanes of an image are those of l1, l0, r0, r1 in this order, (0, 2) where one does not exist.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from scipy.interpolate import splev, splprep
from scipy.optimize import linear_sum_assignment

from perception.lanes.datasets.base import in_label_pixels, need
from perception.lanes.datasets.llamas.reader import SIZE, SLOTS
from perception.lanes.decode import restore_probs
from perception.lanes.overlap import ImageResult, count, draw_stroke, iou_matrix
from perception.lanes.polylines import DECIMALS, at_rows, checked, quantise
from perception.registry import METRICS
from perception.utils.errors import ConfigError, DataError

PARTS = ('f1', 'regression', 'segmentation')
FIRST_ROW = 300  # rows above are not scored
WIDTH = 30  # pixels of a drawn lane
THRESHOLDS = np.arange(100, -1, -1) / 100
_SAMPLES = 50  # of a predicted B-spline
_MISSING = -1.0  # column of a row without lane


# ---------------------------------------------------------------------------------------------------------------- F1

def spline(lane: np.ndarray) -> np.ndarray:
    """50 points on the B-spline through a predicted lane: cubic, or of lower order for fewer than four points.

    Args:
        lane: (P, 2) u, v; P >= 2.

    Raises:
        DataError: two neighbouring points are equal: there is no such spline.
    """
    try:
        knots, _ = splprep([lane[:, 0], lane[:, 1]], s=0, k=min(3, len(lane) - 1))
    except (ValueError, TypeError) as error:
        raise DataError(f'LLAMAS: no spline through a predicted lane ({error}), expected points that differ from their '
                        f'neighbours. Check the decoder.') from error
    return np.array(splev(np.linspace(0, 1, _SAMPLES), knots)).T


def compare_lanes(lanes: Sequence[np.ndarray], pred_lanes: Sequence[np.ndarray], size: tuple[int, int] = SIZE,
                  width: int = WIDTH) -> tuple[ImageResult, np.ndarray]:
    """Compare the true lanes of an image with the predicted ones, for F1.

    Args:
        lanes: true lanes, (P, 2) with a point for every row; those above row 300 are left out.
        pred_lanes: predicted lanes, (P, 2); those of fewer than two points do not count.
        size: (rows, columns) of the canvas.
        width: of a drawn lane in pixels.

    Returns:
        the result, and the IoU (P, A) of each predicted lane with each true one.
    """
    lanes = [lane[lane[:, 1] >= FIRST_ROW] for lane in lanes]
    true = [draw_stroke(np.trunc(lane).astype(np.int64), size, width) for lane in lanes if len(lane) > 1]
    pred = [draw_stroke(np.trunc(spline(lane)).astype(np.int64), size, width) for lane in pred_lanes
            if len(lane) > 1]
    iou = np.nan_to_num(iou_matrix(pred, true))
    pairs = linear_sum_assignment(1 - iou)
    return ImageResult(len(true), len(pred), iou[pairs].tolist()), iou


# -------------------------------------------------------------------------------------------------------- regression

def column_distance(columns: np.ndarray, pred_columns: np.ndarray) -> np.ndarray:
    """Mean distance of each lane from its reference.

    Args:
        columns: (4, 717) of l1, l0, r0, r1 in each row, -1 = no reference.
        pred_columns: (4, 717) or (4, 417): all rows, or those from 300 on.

    Returns:
        (4,) float64 pixels, NaN for a lane without reference.
    """
    columns, pred_columns = (x[:, -(SIZE[0] - FIRST_ROW):] for x in (columns, pred_columns))
    known = columns != _MISSING
    distance = np.where(known, np.abs(columns - pred_columns), 0).sum(axis=1)
    with np.errstate(invalid='ignore'):
        return distance / np.where(known.any(axis=1), known.sum(axis=1), np.nan)


def lane_columns(lanes: Sequence[np.ndarray], extend: bool = False) -> np.ndarray:
    """Columns of four lanes in each row.

    Args:
        lanes: those of l1, l0, r0, r1, each (P, 2); (0, 2) where there is none.
        extend: continue lanes to all rows with the column of their ends, as the regression task asks for a number in
            each row; a lane that does not exist becomes the middle of the image.

    Returns:
        (4, 717) float64 pixels, -1 where a lane has none.

    Raises:
        DataError: not four lanes.
    """
    if len(lanes) != len(SLOTS):
        raise DataError(f'LLAMAS: {len(lanes)} lanes, expected those of {", ".join(SLOTS)}, an empty one where one '
                        f'does not exist. Use LLAMASDecoder, which keeps the slots.')
    rows = np.arange(SIZE[0])
    if not extend:
        return np.stack([np.where((u := at_rows(lane, rows)) < 0, _MISSING, u) for lane in lanes])
    lanes = [lane[np.argsort(lane[:, 1])] if len(lane) else np.array([[SIZE[1] / 2, 0]]) for lane in lanes]
    return np.stack([np.interp(rows, lane[:, 1], lane[:, 0]) for lane in lanes])


# ------------------------------------------------------------------------------------------------------ segmentation

class Curve(NamedTuple):
    """Precision over recall of a class in an image: area below it, and its point of the largest product."""

    auc: float
    precision: float
    recall: float
    threshold: float


def precision_recall(grey: np.ndarray, labels: np.ndarray) -> Curve:
    """The curve of one class, at the thresholds 1.00, 0.99, ..., 0.00.

    Args:
        grey: (H, W) uint8, probability times 255.
        labels: (H, W) bool, the class' pixels.
    """
    positive = np.bincount(grey[labels], minlength=256)
    predicted = np.bincount(grey.ravel(), minlength=256)
    above = np.arange(256) / 255 >= THRESHOLDS[:, None]  # (101, 256)
    hits, chosen, total = above @ positive, above @ predicted, positive.sum()
    precision = np.where(chosen > 0, hits / np.maximum(chosen, 1), 0.0)
    recall = hits / total if total else np.zeros(len(hits))
    area = (np.diff(recall, prepend=0) * np.concatenate([[1], precision[:-1]])).sum()
    best = int((precision * recall).argmax())
    if not precision[best] * recall[best]:
        return Curve(float(area), 0.0, 0.0, 0.0)
    return Curve(float(area), float(precision[best]), float(recall[best]), float(THRESHOLDS[best]))


# ------------------------------------------------------------------------------------------------------------ metric

@dataclass
class ImageScores:
    """What an image contributes to each part; None for a part that is not asked for."""

    lanes: ImageResult | None
    distances: np.ndarray | None
    areas: list[float] | None


def scores(results: Sequence[ImageScores]) -> dict[str, float]:
    """The scores over all images.

    Returns:
        of F1: `f1`, `precision`, `recall`; of the regression: `distance` and `distance_<lane>` in pixels, means over
        all pairs of image and lane that have a reference (NaN without any); of the segmentation: `map` (mean over the
        four lanes) and `auc_<class>`.
    """
    result = {}
    if results and results[0].lanes is not None:
        counts = count([image.lanes for image in results])
        result.update(f1=counts.f1, precision=max(counts.precision, 0.0), recall=max(counts.recall, 0.0))
    if results and results[0].distances is not None:
        distances = np.stack([image.distances for image in results])
        for name, values in (('', distances), *((f'_{slot}', distances[:, i]) for i, slot in enumerate(SLOTS))):
            known = values[~np.isnan(values)]
            result[f'distance{name}'] = float(known.mean()) if len(known) else float('nan')
    if results and results[0].areas is not None:
        areas = np.mean([image.areas for image in results], axis=0)
        result['map'] = float(areas[1:].mean())
        result.update({f'auc_{name}': float(area) for name, area in zip(('background', *SLOTS), areas)})
    return result


@METRICS.register_module()
class LLAMASMetric(BaseMetric):
    """F1, regression and segmentation of LLAMAS.

    Each image leaves its counts, distances and areas, so results of several processes merge without loss and the
    images that a sampler repeats to fill the last round are dropped.

    Args:
        parts: of 'f1', 'regression' and 'segmentation'; the last needs a network trained on markers to be of use.
        collect_device, prefix: as in mmengine.

    Raises:
        ConfigError: an unknown part.
    """

    default_prefix = ''  # none; spares mmengine's warning
    less_is_better = ('distance*',)  # of its results, see ExportHook

    def __init__(self, parts: Sequence[str] = PARTS, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not parts or not set(parts) <= set(PARTS):
            raise ConfigError(f'LLAMASMetric: parts={parts!r}, expected some of {", ".join(PARTS)}. Correct them.')
        self.parts = tuple(parts)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Compare some images.

        Args:
            data_batch: not used.
            data_samples: for each image a dict with `lanes` and `pred_lanes`, four (P, 2) arrays each, for the
                segmentation with `lane_probs` (5, h, w), `full_labels` (717, 1276) and `crop_top`. Those of files
                (`stored`, the parts that there are) have any number of `pred_lanes`, `pred_columns` (4, 417) and
                `pred_grey` (5, 717, 1276) uint8.

        Raises:
            DataError: something is missing or broken.
        """
        for sample in data_samples:
            self.results.append(self._compare(sample, f'LLAMASMetric: {sample.get("sample_id", "an image")}'))

    def _compare(self, sample: dict, where: str) -> ImageScores:
        lanes = distances = areas = None
        stored = sample.get('stored')
        parts = [part for part in self.parts if part in (stored or PARTS)]
        if not parts:
            raise DataError(f'{where} has predictions for {", ".join(stored)}, expected some for '
                            f'{", ".join(self.parts)}. Set parts of LLAMASMetric.')
        if 'segmentation' in parts:
            labels, grey = need(sample, 'full_labels', 'LLAMASMetric'), sample.get('pred_grey')
            if grey is None:
                probs = need(sample, 'lane_probs', 'LLAMASMetric')
                grey = to_grey(probs, labels.shape, sample.get('crop_top', 0))
            labels = np.asarray(labels.cpu())
            areas = [precision_recall(grey[k], labels == k).auc for k in range(len(grey))]
        if parts != ['segmentation']:
            true, pred = (in_label_pixels(need(sample, key, 'LLAMASMetric'), sample) for key in ('lanes', 'pred_lanes'))
            true = [checked(lane, where) for lane in true]
            pred = pred if stored else [quantise(lane, where) for lane in pred]
        if 'f1' in parts:
            lanes = compare_lanes(true, pred)[0]
        if 'regression' in parts:
            columns = sample.get('pred_columns')
            if columns is None:
                columns = np.round(lane_columns(pred, extend=True), DECIMALS)  # as a submission holds them
            distances = column_distance(lane_columns(true), columns)
        return ImageScores(lanes, distances, areas)

    def compute_metrics(self, results: list[ImageScores]) -> dict[str, float]:
        """Scores over all images; they go to the log."""
        result = scores(results)
        print_log(f'{len(results):,} images: ' + ', '.join(f'{key} {value:.4f}' for key, value in result.items()),
                  'current')
        return result


def to_grey(probs, shape: Sequence[int], crop_top: int = 0) -> np.ndarray:
    """Probabilities in the original image as a submission stores them: (C, H0, W0) uint8."""
    return (restore_probs(probs, shape, crop_top) * 255).round().byte().cpu().numpy()


