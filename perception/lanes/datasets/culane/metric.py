"""The CULane score: F1 of lanes drawn 30 pixels wide, as the original C++ tool computes it, to the last digit.

On images of another width than CULane's the lanes are wider or narrower in proportion.

Each lane becomes a natural cubic spline, is drawn once, and each true lane is compared with each predicted one by the
intersection over union (IoU) of their pixels. A matching of large total IoU pairs them; a pair whose IoU exceeds the
threshold is a true positive. Counts are summed over images before any ratio is formed.

Lanes are (P, 2) arrays of u, v in pixels of the original image. One with fewer than two points is still a lane: it
meets no other, so it is a false positive or a false negative.
"""
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from scipy.linalg.lapack import dgtsv

from perception.lanes.datasets.base import in_label_pixels, label_frame, need
from perception.lanes.datasets.culane.reader import CATEGORIES, SIZE, read_lanes, read_list
from perception.lanes.overlap import ImageResult, Stroke, count, draw_stroke, iou_matrix, matched_ious
from perception.lanes.polylines import quantise
from perception.registry import METRICS
from perception.utils.checks import close_matches
from perception.utils.errors import DataError

WIDTH = 30  # pixels
THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))  # of mF1
_STEPS = 50  # spline samples a segment
_TOLERANCE = 1e-2  # of the official matching: edges so near to tight count as tight
_NO_INT = np.iinfo(np.int32).min  # what x86-64 makes of NaN and of numbers beyond int32


# ---------------------------------------------------------------------------------------------------------- one lane

def curve(points: np.ndarray) -> np.ndarray:
    """Points of the official curve through a lane: a segment, or a natural cubic spline over chord length.

    Args:
        points: (P, 2) u, v; P >= 2. Two equal neighbours make the whole spline NaN, but for its last point, as in the
            original.

    Returns:
        (2, 2), or (50 (P - 1) + 1, 2) for P > 2, float32.
    """
    points = np.asarray(points, np.float32)
    if len(points) == 2:
        return points
    step = np.diff(points, axis=0).astype(np.float64)  # differences of float32, as in the original
    with np.errstate(all='ignore'):
        chord = np.sqrt((step ** 2).sum(axis=1, keepdims=True))  # (P - 1, 1)
        slope = step / chord
        bend = np.zeros((len(points), 2))  # second derivatives, 0 at both ends
        beside = chord[1:-1, 0] if len(points) > 3 else np.zeros(1)  # LAPACK wants one number even where none is used
        bend[1:-1] = dgtsv(beside, 2 * (chord[:-1, 0] + chord[1:, 0]), beside, 6 * np.diff(slope, axis=0))[3]
        if np.isnan(slope).any():
            bend[:] = np.nan
        b = slope - chord / 6 * (2 * bend[:-1] + bend[1:])
        c, d = bend[:-1] / 2, np.diff(bend, axis=0) / (6 * chord)
        t = (chord / _STEPS * np.arange(_STEPS))[..., None]  # (P - 1, 50, 1)
        samples = points[:-1, None] + b[:, None] * t + c[:, None] * t ** 2 + d[:, None] * t ** 3
    return np.concatenate([samples.reshape(-1, 2).astype(np.float32), points[-1:]])


def to_pixels(points: np.ndarray) -> np.ndarray:
    """Nearest integers, halves to even, as OpenCV converts coordinates; NaN becomes the smallest int32."""
    with np.errstate(invalid='ignore'):
        rounded = np.rint(points)
        return np.where(np.abs(rounded) < 2.0 ** 31, rounded, _NO_INT).astype(np.int64)


def lane_width(size: Sequence[int], official: int = WIDTH) -> int:
    """Pixels that a lane is wide in an image of (rows, columns), in proportion to those in CULane's images."""
    return max(1, round(official * size[1] / SIZE[1]))


def draw_lane(lane: np.ndarray, size: tuple[int, int] = SIZE, width: int = WIDTH) -> Stroke | None:
    """The official drawing of a lane; None for one of fewer than two points.

    A lane that names a point twice has a curve that goes where numbers overflow. OpenCV draws that as the official tool
    does up to 4.12, and otherwise from 4.13 on; other lanes are the same in all versions that were tried, to 5.0.
    """
    return draw_stroke(to_pixels(curve(lane)), size, width) if len(lane) > 1 else None


# --------------------------------------------------------------------------------------------------------- one image


def match_lanes(iou: np.ndarray) -> np.ndarray:
    """Pair lanes as the original does: Kuhn-Munkres, but edges within 0.01 of tight count as tight.

    Where lanes lie close together, the total IoU may therefore be a little below the largest one.

    Args:
        iou: (A, P).

    Returns:
        (A,) int64, index of the predicted lane, -1 = none. Pairs of IoU 0 are possible.
    """
    if iou.shape[0] > iou.shape[1]:
        partner = match_lanes(iou.T)
        match = np.full(iou.shape[0], -1)
        match[partner[partner >= 0]] = np.flatnonzero(partner >= 0)
        return match
    edges = iou.tolist()
    left = [max([0.0, *(value for value in row if value == value)]) for row in edges]
    right = [0.0] * iou.shape[1]
    owner = [-1] * iou.shape[1]

    def augment(row: int, rows: set[int], columns: set[int]) -> bool:
        rows.add(row)
        for column, value in enumerate(edges[row]):
            if column not in columns and abs(left[row] + right[column] - value) < _TOLERANCE:
                columns.add(column)
                if owner[column] < 0 or augment(owner[column], rows, columns):
                    owner[column] = row
                    return True
        return False

    for start in range(len(edges)):
        rows, columns = set(), set()
        while not augment(start, rows, columns):
            slack = [left[row] + right[column] - edges[row][column] for row in rows for column in range(len(right))
                     if column not in columns and edges[row][column] == edges[row][column]]
            if not slack:
                break  # nothing but NaN is left: no partner
            for row in rows:
                left[row] -= min(slack)
            for column in columns:
                right[column] += min(slack)
            rows, columns = set(), set()
    match = np.full(len(edges), -1)
    for column, row in enumerate(owner):
        if row >= 0:
            match[row] = column
    return match


def compare_image(lanes: Sequence[np.ndarray], pred_lanes: Sequence[np.ndarray], size: tuple[int, int] = SIZE,
                  width: int = WIDTH, category: str = '') -> ImageResult:
    """Compare the true lanes of an image with the predicted ones.

    Args:
        lanes: true lanes, each (P, 2).
        pred_lanes: predicted lanes.
        size: (rows, columns) of the canvas.
        width: of a drawn lane, in pixels.
        category: of the image.
    """
    iou = iou_matrix(*([draw_lane(lane, size, width) for lane in group] for group in (lanes, pred_lanes)))
    return ImageResult(len(lanes), len(pred_lanes), matched_ious(iou, match_lanes(iou)), category)


# ------------------------------------------------------------------------------------------------------- many images


def scores(results: Sequence[ImageResult]) -> dict[str, float]:
    """The scores over all images and per category.

    Returns:
        `f1_50`, `f1_75`, `mf1` (mean over IoU 0.50:0.05:0.95), `precision` and `recall` at 0.5 in [0, 1]; `f1_<name>`
        at 0.5 of each category that occurs, but `fp_cross`, a number of lanes, for the crossroads without lanes.
    """
    at_50 = count(results)
    result = dict(f1_50=at_50.f1, f1_75=count(results, 0.75).f1,
                  mf1=float(np.mean([count(results, threshold).f1 for threshold in THRESHOLDS])),
                  precision=max(at_50.precision, 0.0), recall=max(at_50.recall, 0.0))
    for name in CATEGORIES:
        group = [image for image in results if image.category == name]
        if group:
            counts = count(group)
            result.update({'fp_cross': counts.fp} if name == 'cross' else {f'f1_{name}': counts.f1})
    return result


def score_table(results: Sequence[ImageResult]) -> str:
    """Category, images, counts and F1 at IoU 0.5 a line, then the means, in percent."""
    lines = [f'{"category":<10}{"images":>8}{"TP":>9}{"FP":>9}{"FN":>9}{"F1 [%]":>9}']
    groups = {name: [image for image in results if image.category == name] for name in CATEGORIES}
    for name, group in {**groups, 'all': results}.items():
        if group:
            counts = count(group)
            f1 = f'{"FP only":>9}' if name == 'cross' else f'{100 * counts.f1:9.2f}'
            lines.append(f'{name:<10}{len(group):8,}{counts.tp:9,}{counts.fp:9,}{counts.fn:9,}{f1}')
    result = scores(results)
    return '\n'.join([*lines, f'F1@75 {100 * result["f1_75"]:.2f}, mF1 {100 * result["mf1"]:.2f}'])


# ------------------------------------------------------------------------------------------------------- in training


@METRICS.register_module()
class CULaneMetric(BaseMetric):
    """F1 at IoU 0.5 and 0.75, mF1 and F1 per category, as the original tool scores the text files of a submission.

    Each image leaves the IoUs of its matched lanes, so results of several processes merge without loss and the images
    that a sampler repeats to fill the last round are dropped.

    Args:
        size: (rows, columns) of the canvas; each image's own by default, CULane's where a sample does not tell it.
        width: of a drawn lane, in pixels; by default CULane's 30, in proportion to the width of the canvas.
        num_threads: images compared at once.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning
    less_is_better = ('fp_cross',)  # of its results, see ExportHook

    def __init__(self, size: tuple[int, int] | None = None, width: int | None = None, num_threads: int = 2,
                 collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.size, self.width, self.num_threads = size, width, num_threads

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Compare the lanes of some images.

        Args:
            data_batch: not used.
            data_samples: for each image a dict with `lanes` and `pred_lanes`, lists of (P, 2), `original_shape`, and
                `category` if it has one. A predicted lane without points is a slot without lane, but one of a file
                (`stored`) counts, as in the original.

        Raises:
            DataError: lanes or predictions are missing or broken, or an unknown category.
        """
        images = [self._check(sample) for sample in data_samples]
        with ThreadPoolExecutor(self.num_threads) as pool:
            self.results.extend(pool.map(lambda image: compare_image(*image), images))

    def _check(self, sample: dict) -> tuple:
        """Arguments of `compare_image`."""
        name, category = sample.get('sample_id', 'an image'), sample.get('category') or ''
        lanes, preds = (in_label_pixels(need(sample, key, 'CULaneMetric'), sample) for key in ('lanes', 'pred_lanes'))
        if category and category not in CATEGORIES:
            raise DataError(f'CULaneMetric: {name} has the category {category!r}, expected a category of CULane. '
                            f'{close_matches(category, CATEGORIES)}')
        size = self.size or (label_frame(sample)[0] if sample.get('original_shape') else SIZE)
        if not sample.get('stored'):
            preds = [quantise(lane, f'CULaneMetric: {name}') for lane in preds if len(lane)]
        return lanes, preds, tuple(size), self.width or lane_width(size), category

    def compute_metrics(self, results: list[ImageResult]) -> dict[str, float]:
        """Scores over all images; the table goes to the log."""
        print_log(f'{len(results):,} images\n{score_table(results)}', 'current')
        return scores(results)


# ----------------------------------------------------------------------------------------------------------- folders


def evaluate_folders(anno_dir: str | Path, pred_dir: str | Path, list_path: str | Path,
                     num_threads: int = 2) -> list[ImageResult]:
    """Compare two folders of `.lines.txt` files, as the original tool does.

    Args:
        anno_dir, pred_dir: hold `<image without extension>.lines.txt`; a missing file means no lanes.
        list_path: names of the images.
        num_threads: images compared at once.

    Returns:
        a result for each image of the list; `count`, `scores` and `score_table` sum them up.

    Raises:
        DataError: no list, or a damaged file.
    """
    names = [str(Path(name).with_suffix('.lines.txt')) for name in read_list(list_path)]

    def compare(name: str) -> ImageResult:
        return compare_image(read_lanes(Path(anno_dir, name)), read_lanes(Path(pred_dir, name)))

    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(compare, names))
