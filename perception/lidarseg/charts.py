"""Pictures of a whole test: IoU per class, confusion of classes, and where around the car the errors lie."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.common.visual.charts import bar_chart, matrix_chart, polar_chart, polar_index, save_chart
from perception.lidarseg.datasets.base import labels_of, official_confusion, scores
from perception.registry import METRICS
from perception.utils.errors import ConfigError

RADIUS, RINGS, SECTORS = 60.0, 30, 72  # m; the error map has rings of 2 m and sectors of 5 degrees
FEW = 10  # labelled points below which a cell of the error map stays empty


@METRICS.register_module()
class DrawCharts(BaseMetric):
    """Draws what a whole test shows: `iou`, `confusion` and `error_map`, each as PNG and as SVG; it adds no score.

    Class names, colours and the direction of travel come from the data set.

    Args:
        out_dir: folder of the charts.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning
    needs_labels = True

    def __init__(self, out_dir: str | Path, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_dir = Path(out_dir).expanduser()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the points of some scans.

        Args:
            data_batch: `inputs.points`, a list of (N', 3+) tensors x, y, z [m], the labelled points first.
            data_samples: for each scan a dict with `pred_labels` (N,) and `labels` (N,), tensors of train ids.

        Raises:
            ConfigError: the data set does not name its classes and colours.
            DataError: a scan without labels, or labels, predictions and points differ in number.
        """
        meta = self.dataset_meta or {}
        if not {'classes', 'palette'} <= set(meta):
            raise ConfigError(f'DrawCharts: the data set describes itself by {sorted(meta)}, expected classes and '
                              'palette. Add both to its METAINFO.')
        for points, sample in zip(data_batch['inputs']['points'], data_samples):
            pred_labels, labels = labels_of(sample, 'DrawCharts', len(points))
            self.results.append(count_scan(points[:len(labels)].cpu().numpy(), pred_labels, labels,
                                           len(meta['classes']), meta.get('forward', 0.0)))

    def compute_metrics(self, results: list[tuple[np.ndarray, np.ndarray]]) -> dict:
        """Draw the charts of all scans; no score comes from pictures."""
        confusion, errors = (np.sum(parts, axis=0, dtype=np.int64) for parts in zip(*results))
        meta = self.dataset_meta
        files = draw_charts(self.out_dir, confusion, errors, meta['classes'], meta['palette'], len(results))
        print_log(f'Charts: {", ".join(map(str, files))}', 'current')
        return {}


def count_scan(points: np.ndarray, pred_labels: np.ndarray, labels: np.ndarray, num_classes: int,
               forward: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """What the charts need of one scan; counts of scans add up.

    Args:
        points: (N, 3+) x, y, z [m].
        pred_labels, labels: (N,) train ids 0..C-1, 255 = unlabelled.
        num_classes: C.
        forward: direction of travel in the LiDAR's frame, rad from x to y.

    Returns:
        confusion matrix (C + 1, C + 1), see `official_confusion`, and (2, R, S) uint32 wrong and all labelled points
        by ring and sector.
    """
    confusion = official_confusion(pred_labels, labels, num_classes)
    labelled = labels != 255
    x, y = points[labelled, 0], points[labelled, 1]
    angle = np.arctan2(y, x) - forward
    angle = np.arctan2(np.sin(angle), np.cos(angle))
    cells = polar_index(np.hypot(x, y), angle, RINGS, SECTORS, RADIUS)
    wrong = cells[pred_labels[labelled] != labels[labelled]]
    counts = [np.bincount(part, minlength=RINGS * SECTORS + 1)[:-1].reshape(RINGS, SECTORS) for part in (wrong, cells)]
    return confusion, np.array(counts, np.uint32)


def draw_charts(out_dir: str | Path, confusion: np.ndarray, errors: np.ndarray, classes: Sequence[str],
                palette: Sequence[Sequence[int]], num_scans: int) -> list[Path]:
    """Write `iou`, `confusion` and `error_map`, each as PNG and as SVG.

    Args:
        out_dir: folder.
        confusion: (C + 1, C + 1), sum of `count_scan`.
        errors: (2, R, S), sum of `count_scan`.
        classes: C names.
        palette: C RGB colours.
        num_scans: that were counted.

    Returns:
        the files.

    Raises:
        DataError: they cannot be written.
    """
    charts = dict(iou=iou_chart(confusion, classes, palette, num_scans), confusion=confusion_chart(confusion, classes),
                  error_map=error_map(errors, num_scans))
    return [file for name, chart in charts.items() for file in save_chart(Path(out_dir, name), chart)]


def iou_chart(confusion: np.ndarray, classes: Sequence[str], palette: Sequence[Sequence[int]],
              num_scans: int) -> Figure:
    """Bars of the IoU of each class."""
    result = scores(confusion, classes)
    iou = np.array([result[f'iou_{name}'] for name in classes])
    counted = confusion[:, 1:]
    iou[counted[1:].sum(axis=1) + counted.sum(axis=0) == 0] = np.nan
    present = int((counted.sum(axis=0) > 0).sum())
    note = f'mean of the {present} classes that occur: {100 * result["miou_present"]:.1f} %'
    return bar_chart(classes, iou, np.array(palette, np.uint8), f'IoU per class, {num_scans:,} scans', note,
                     result['miou_present'])


def confusion_chart(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """What the points of each true class are predicted as, in percent."""
    counts = confusion[:, 1:].T  # rows = true class without the unlabelled, columns = predicted
    counts = np.concatenate([counts[:, 1:], counts[:, :1]], axis=1)  # "unlabelled" last
    names = [*classes, 'unlabeled']
    if not counts[:, -1].any():
        counts, names = counts[:, :-1], names[:-1]
    true = counts.sum(axis=1)
    shares = np.where(true[:, None] > 0, counts / np.maximum(true, 1)[:, None], np.nan)
    return matrix_chart(shares, classes, names, 'Confusion: what the points of each true class are predicted as [%]',
                        [f'{number:,}' for number in true], ('true class', 'predicted as', 'points'))


def error_map(errors: np.ndarray, num_scans: int) -> Figure:
    """Share of wrong points by place around the car.

    Args:
        errors: (2, R, S) wrong and all labelled points.
        num_scans: that were counted.
    """
    wrong, every = errors.astype(np.float64)
    shares = np.where(every >= FEW, wrong / np.maximum(every, 1), np.nan)
    note = f'{100 * wrong.sum() / max(every.sum(), 1):.1f} % of the points within {RADIUS:g} m'
    return polar_chart(shares, RADIUS, f'Wrong points around the car, {num_scans:,} scans', note)
