"""The TuSimple score, as the benchmark's `lane.py` computes it.

Each true lane takes the accuracy of the predicted lane that fits best: the share of the rows where both lie within
20 px / cos(angle of the true lane), rows where both are absent included. Lanes are lists of u, one for each row of
`h_samples`, negative where the lane is absent. No exclusive matching takes place, so the rate of false positives can
become negative.
"""
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.common.formats.text import read_json_lines
from perception.lanes.datasets.base import in_label_pixels, label_frame, need
from perception.lanes.datasets.tusimple.reader import ROWS, SIZE, file_rows
from perception.lanes.polylines import at_rows, checked, quantise
from perception.registry import METRICS
from perception.utils.errors import DataError

MIN_ACCURACY = 0.85  # of a lane that counts as found
MAX_EXTRA = 2  # predicted lanes beyond the true ones
MAX_MILLISECONDS = 200  # of a prediction that counts
_TOLERANCE = 20  # pixels across the lane
_FAR = -100.0  # what negative u become


class ImageResult(NamedTuple):
    """Accuracy, rate of false positives (of predictions) and of false negatives (of true lanes) of an image."""

    accuracy: float
    fp: float
    fn: float


def angle(u: np.ndarray, rows: np.ndarray) -> float:
    """Angle between a lane and the vertical in radians: least squares of u over v; 0 for fewer than two points."""
    known = u >= 0
    if known.sum() < 2:
        return 0.0
    v, u = rows[known] - rows[known].mean(), u[known] - u[known].mean()
    return float(np.arctan((v * u).sum() / (v * v).sum()))


def refusal(num_lanes: int, num_preds: int, run_time: float) -> str:
    """Why the predictions of an image count as nothing found, '' where they count."""
    if run_time > MAX_MILLISECONDS:
        return f'predicted in more than {MAX_MILLISECONDS} ms'
    return f'with more than {MAX_EXTRA} lanes beyond the true ones' if num_preds > num_lanes + MAX_EXTRA else ''


def compare_image(lanes: np.ndarray, pred_lanes: np.ndarray, rows: Sequence[float], run_time: float = 0.0,
                  scale: float = 1.0) -> ImageResult:
    """Compare the true lanes of an image with the predicted ones.

    Args:
        lanes: (A, R) u of the true lanes at each row, negative = absent.
        pred_lanes: (P, R) u of the predicted lanes.
        rows: (R,) v.
        run_time: milliseconds that the prediction took.
        scale: width of the image as a multiple of TuSimple's.
    """
    num_lanes, num_preds, rows = len(lanes), len(pred_lanes), np.asarray(rows, np.float64)
    if refusal(num_lanes, num_preds, run_time):
        return ImageResult(0.0, 0.0, 1.0)
    if not num_lanes or not num_preds:
        missed = num_lanes - (num_lanes > 4)
        return ImageResult(0.0, float(num_preds > 0), missed / max(min(num_lanes, 4), 1))
    lanes, pred_lanes = np.asarray(lanes, np.float64), np.asarray(pred_lanes, np.float64)
    tolerance = _TOLERANCE * scale / np.cos([angle(u, rows) for u in lanes])
    true, pred = (np.where(x >= 0, x, _FAR * scale) for x in (lanes, pred_lanes))
    near = np.abs(true[:, None] - pred) < tolerance[:, None, None]
    best = near.mean(axis=2).max(axis=1)  # (A,)
    found = int((best >= MIN_ACCURACY).sum())
    missed, total = num_lanes - found, best.sum()
    if num_lanes > 4:  # four lanes are asked for: the worst one is forgiven
        missed, total = max(missed - 1, 0), total - best.min()
    asked = min(num_lanes, 4)
    return ImageResult(float(total / asked), (num_preds - found) / num_preds, missed / asked)


def scores(results: Sequence[ImageResult]) -> dict[str, float]:
    """Means over images.

    Returns:
        `accuracy`, `fp`, `fn`, and `f1` of the mean rates as CLRNet has it: precision 1 - FP, recall (1 - FP) /
        (1 - FP + FN). It does not fall to 0: where nothing is predicted it is 2/3.
    """
    accuracy, fp, fn = np.mean(np.asarray(results, np.float64).reshape(-1, 3), axis=0)
    precision = 1 - fp
    recall = precision / (precision + fn) if precision + fn else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return dict(accuracy=float(accuracy), fp=float(fp), fn=float(fn), f1=float(f1))


@METRICS.register_module()
class TuSimpleMetric(BaseMetric):
    """Official accuracy, rates of false positives and negatives, and their F1.

    Each image leaves its three numbers, so results of several processes merge without loss and the images that a
    sampler repeats to fill the last round are dropped. The time of a prediction is looked at where a file tells it.

    Args:
        rows: v of the points where an image has no `h_samples`.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning
    less_is_better = ('fp', 'fn')  # of its results, see ExportHook

    def __init__(self, rows: Sequence[float] = ROWS, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.rows = tuple(rows)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Compare the lanes of some images.

        Args:
            data_batch: not used.
            data_samples: for each image a dict with `lanes` and `pred_lanes`, lists of (P, 2), `h_samples` and
                `original_shape`. A predicted lane without points is a slot without lane, but one of a file (`stored`)
                counts, as in the benchmark's code, and so does its `run_time`.

        Raises:
            DataError: lanes or predictions are missing or broken.
        """
        for sample in data_samples:
            where = f'TuSimpleMetric: {sample.get("sample_id", "an image")}'
            rows = file_rows(sample, self.rows)
            lanes, preds = (in_label_pixels(need(sample, key, 'TuSimpleMetric'), sample)
                            for key in ('lanes', 'pred_lanes'))
            if not sample.get('stored'):
                preds = [quantise(lane, where) for lane in preds if len(lane)]
            lanes, preds = ([at_rows(checked(lane, where), rows) for lane in group] for group in (lanes, preds))
            scale = label_frame(sample)[0][1] / SIZE[1] if sample.get('original_shape') else 1.0
            run_time = sample.get('run_time') or 0.0
            self.results.append((compare_image(lanes, preds, rows, run_time, scale),
                                 refusal(len(lanes), len(preds), run_time)))

    def compute_metrics(self, results: list[tuple[ImageResult, str]]) -> dict[str, float]:
        """Scores over all images; a line goes to the log, and one on images that count as nothing found."""
        reasons = Counter(reason for _, reason in results if reason)
        if reasons:
            print_log(f'{sum(reasons.values()):,} of {len(results):,} images count as nothing found, by the rules of '
                      'the benchmark: ' + ', '.join(f'{count:,} {reason}' for reason, count in reasons.items()) + '.',
                      'current', logging.WARNING)
        result = scores([image for image, _ in results])
        print_log(f'{len(results):,} images: accuracy {100 * result["accuracy"]:.2f} %, FP {result["fp"]:.4f}, '
                  f'FN {result["fn"]:.4f}, F1 {100 * result["f1"]:.2f} % (66.67 % where nothing is found)', 'current')
        return result


def evaluate_files(pred_path: str | Path, label_path: str | Path) -> list[ImageResult]:
    """Compare a submission with a label file, as `lane.py` does.

    Args:
        pred_path: a JSON object a line with `raw_file`, `lanes` and `run_time`.
        label_path: a JSON object a line with `raw_file`, `lanes` and `h_samples`.

    Returns:
        a result for each line of the label file; `scores` sums them up.

    Raises:
        DataError: a damaged file, or predictions that do not belong to these labels.
    """
    labels = {}
    for where, record in read_json_lines(label_path, 'labels of TuSimple'):
        if not isinstance(record.get('raw_file'), str):
            raise DataError(f'{where}: raw_file {record.get("raw_file")!r}, expected a name. Correct the line.')
        rows = _columns([record.get('h_samples')], None, where)[0]
        if not len(rows):
            raise DataError(f'{where}: no h_samples, expected rows. Correct the line.')
        labels[record['raw_file']] = (_columns(record.get('lanes'), len(rows), where), rows)
    preds = read_predictions(pred_path)
    for name, (where, _, _) in preds.items():
        if name not in labels:
            raise DataError(f'{where}: an unknown raw_file {name[:80]!r}, expected each name of {label_path} once. '
                            'Correct the line.')
    if len(preds) != len(labels):
        raise DataError(f'{pred_path}: {len(preds):,} predictions for {len(labels):,} labelled images, expected as '
                        f'many. Predict every image.')
    return [compare_image(lanes, lane_columns(preds[name], rows), rows, preds[name].run_time)
            for name, (lanes, rows) in labels.items()]


class Prediction(NamedTuple):
    """A line of a submission: where it stands, its lanes as they were read, milliseconds."""

    where: str
    lanes: object
    run_time: float


def read_predictions(path: str | Path) -> dict[str, Prediction]:
    """raw_file -> its line of a submission.

    Raises:
        DataError: a damaged file, or two lines of an image.
    """
    found: dict[str, Prediction] = {}
    for where, record in read_json_lines(path, 'predictions for TuSimple'):
        name, run_time = record.get('raw_file'), record.get('run_time')
        if not isinstance(name, str) or name in found:
            kind = 'a second' if isinstance(name, str) else 'an unknown'
            raise DataError(f'{where}: {kind} raw_file {str(name)[:80]!r}, expected each name of an image once. '
                            'Correct the line.')
        if type(run_time) not in (int, float):
            raise DataError(f'{where}: run_time {str(run_time)[:40]}, expected milliseconds. Correct the line.')
        found[name] = Prediction(where, record.get('lanes'), run_time)
    return found


def lane_columns(prediction: Prediction, rows: Sequence[float]) -> np.ndarray:
    """(P, R) u of the lanes of a prediction at the rows of its image.

    Raises:
        DataError: they are no lists of so many numbers.
    """
    return _columns(prediction.lanes, len(rows), prediction.where)


def _columns(lanes: object, length: int | None, where: str) -> np.ndarray:
    """(A, R) u of the lanes of a line."""
    try:
        arrays = [np.asarray(lane, np.float64) for lane in lanes]
    except (TypeError, ValueError, OverflowError):
        arrays = [np.array(np.nan)]
    if not all(a.ndim == 1 and np.isfinite(a).all() and length in (None, len(a)) for a in arrays):
        raise DataError(f'{where}: lanes {str(lanes)[:60]}, expected lists of {length or "some"} numbers, one for each '
                        f'of h_samples. Correct the line.')
    return np.array(arrays) if arrays else np.zeros((0, length or 0))
