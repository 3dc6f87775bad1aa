"""The two scores of BDD100K's lane markings: that of the SAD paper, and the official one.

SAD: per image of 1280 x 720, the recall of lane pixels (called accuracy) and the IoU of the lane class; means over all
images. True lanes are 2 pixels wide and predicted ones about 8, so the IoU stays below about 25 %.

Official: for each class of each sub-task, the F-score of lines that may lie 1, 2 or 5 pixels apart; means over images,
classes and sub-tasks.
"""
from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from perception.lanes.datasets.base import need
from perception.lanes.datasets.bdd100k.reader import BDD100K, CLASSES, check_codes, mask_labels, to_mask
from perception.lanes.decode import restore_labels, restore_probs
from perception.registry import METRICS

RADII = (1, 2, 5)  # pixels between lines that still agree


# ------------------------------------------------------------------------------------------------------ SAD's protocol

def lane_scores(pred: Tensor, true: Tensor) -> tuple[float, float]:
    """Recall and IoU of the lane pixels of an image; both 0 where there is no true lane pixel.

    Args:
        pred, true: (H, W) bool.
    """
    hits, num_true, num_pred = (int(x.sum()) for x in (pred & true, true, pred))
    if not num_true:
        return 0.0, 0.0
    return hits / num_true, hits / (num_true + num_pred - hits)


@METRICS.register_module()
class BDD100KMetric(BaseMetric):
    """Accuracy and IoU of lane pixels in SAD's protocol, in [0, 1].

    Each image leaves its two numbers, so results of several processes merge without loss and the images that a sampler
    repeats to fill the last round are dropped.

    Args:
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Compare some images.

        Args:
            data_batch: not used.
            data_samples: for each image a dict with `full_labels` (H0, W0) 0 and 1, and with `lane_probs` (2, h, w) or,
                from a network or a file that gives only classes, `pred_labels` (h, w).

        Raises:
            DataError: labels or predictions are missing.
        """
        for sample in data_samples:
            true = need(sample, 'full_labels', 'BDD100KMetric')
            pred = full_classes(sample, true.shape, 'BDD100KMetric')
            self.results.append(lane_scores(pred.cpu() > 0, true.cpu() > 0))

    def compute_metrics(self, results: list[tuple[float, float]]) -> dict[str, float]:
        """Means over all images; a line goes to the log."""
        accuracy, iou = (float(value) for value in np.mean(results, axis=0))
        print_log(f'{len(results):,} images: accuracy {100 * accuracy:.2f} %, lane IoU {100 * iou:.2f} %', 'current')
        return dict(accuracy=accuracy, iou=iou)


def full_classes(sample: dict, shape: Sequence[int], where: str) -> Tensor:
    """(H0, W0) class of each pixel of the original image: the largest of the enlarged probabilities.

    Args:
        sample: with `lane_probs` or `pred_labels`, and `crop_top`.
        shape: (H0, W0).
        where: who asks, for messages.

    Raises:
        DataError: no predictions.
    """
    shape, crop_top = tuple(shape), int(sample.get('crop_top', 0))
    if sample.get('lane_probs') is not None:
        return restore_probs(sample['lane_probs'], shape, crop_top).argmax(dim=0)
    return restore_labels(need(sample, 'pred_labels', where), shape, crop_top)


# --------------------------------------------------------------------------------------------------- official protocol

def boundary_f(pred: np.ndarray, true: np.ndarray, radius: float) -> float:
    """F-score of lines that may lie `radius` pixels apart; 1 where there are none in both, 0 where in one only.

    Args:
        pred, true: (H, W) bool.
        radius: of the disk that widens the lines, in pixels.
    """
    num_pred, num_true = int(pred.sum()), int(true.sum())
    if not num_pred or not num_true:
        return float(num_pred == num_true)
    across = np.arange(-int(radius), int(radius) + 1)
    disk = (across[:, None] ** 2 + across ** 2 <= radius ** 2).astype(np.uint8)
    wide_pred, wide_true = (cv2.dilate(x.astype(np.uint8), disk).astype(bool) for x in (pred, true))
    precision, recall = int((pred & wide_true).sum()) / num_pred, int((true & wide_pred).sum()) / num_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mask_scores(pred: np.ndarray, true: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """F-scores of an image, per class of the three sub-tasks and per radius.

    Args:
        pred, true: (H, W) uint8 masks, see `mask_labels`.
        scale: of the radii, width of the image as a multiple of BDD100K's.

    Returns:
        (12, 3) float64: 8 categories, 2 directions, 2 styles.
    """
    result = []
    for task, classes in CLASSES.items():
        pred_labels, labels = mask_labels(pred, task), mask_labels(true, task)
        result += [[boundary_f(pred_labels == k, labels == k, scale * radius) for radius in RADII]
                   for k in range(1, len(classes) + 1)]
    return np.array(result)


def official_scores(results: Sequence[np.ndarray]) -> dict[str, float]:
    """Means over images, then classes, then sub-tasks, in [0, 1].

    Returns:
        `f<radius>` (the mean over sub-tasks) and `f<radius>_<task>` for the radii 1, 2 and 5.
    """
    means = np.mean(results, axis=0)  # (12, 3)
    splits = np.split(means, np.cumsum([len(classes) for classes in CLASSES.values()])[:-1])
    tasks = {task: part.mean(axis=0) for task, part in zip(CLASSES, splits)}
    result = {}
    for i, radius in enumerate(RADII):
        result[f'f{radius}'] = float(np.mean([value[i] for value in tasks.values()]))
        result.update({f'f{radius}_{task}': float(value[i]) for task, value in tasks.items()})
    return result


@METRICS.register_module()
class BDD100KOfficialMetric(BaseMetric):
    """The official F-scores, in [0, 1], of a network that tells classes of one sub-task apart.

    Args:
        codes: byte that the official mask holds for each class of the network from 1 on: category in bits 2..0, 16 if
            dashed, 32 if across the road. The default is that of a network that tells lanes from background.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, codes: Sequence[int] = (6,), collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.codes = check_codes('BDD100KOfficialMetric', codes)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Compare some images: `full_labels` are official masks; a `pred_mask`, or what `BDD100KMetric` takes."""
        for sample in data_samples:
            true = np.asarray(need(sample, 'full_labels', 'BDD100KOfficialMetric').cpu())
            pred = sample.get('pred_mask')
            if pred is None:
                pred = to_mask(full_classes(sample, true.shape, 'BDD100KOfficialMetric').cpu().numpy(), self.codes)
            scale = sample.get('original_shape', BDD100K.IMAGE_SIZE)[1] / BDD100K.IMAGE_SIZE[1]
            self.results.append(mask_scores(pred, true, scale))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Means over all images; a line goes to the log."""
        result = official_scores(results)
        print_log(f'{len(results):,} images: ' + ', '.join(f'F at {radius} px {100 * result[f"f{radius}"]:.2f} %'
                                                           for radius in RADII), 'current')
        return result


