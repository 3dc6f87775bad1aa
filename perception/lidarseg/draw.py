"""One picture per scan: prediction, ground truth, errors, and a legend with the class names."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.common.visual import canvas
from perception.common.visual.points import BEHIND, TOP, paint, shaded, visible_points
from perception.lidarseg.datasets.base import labels_of, other_predictions, rows_of
from perception.registry import METRICS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError, DataError

UNLABELED = (78, 78, 84)
RIGHT, WRONG, IGNORED = (150, 150, 156), (255, 40, 40), (58, 58, 64)


def label_colors(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Colour of each point by its class.

    Args:
        labels: (N,) train ids; whatever is not in 0..C-1, such as 255, is drawn as unlabelled.
        palette: (C, 3) RGB.

    Returns:
        (N, 3) uint8 RGB.
    """
    return _with_unlabeled(palette)[np.where(_is_class(labels, len(palette)), labels, len(palette))]


def error_colors(pred_labels: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Colour of each of N points: red where its prediction is wrong, grey where right, dark where the truth is ignored.

    Args:
        pred_labels: (N,) predicted train ids.
        labels: (N,) true train ids; whatever is not in 0..C-1 is ignored.
        num_classes: C.

    Returns:
        (N, 3) uint8 RGB.
    """
    kind = np.where(_is_class(labels, num_classes), pred_labels != labels, 2)
    return np.array([RIGHT, WRONG, IGNORED], np.uint8)[kind]


def height_colors(points: np.ndarray) -> np.ndarray:
    """Colour of each of (N, 3+) points by z from 3 m below the sensor to 3 m above it, (N, 3) uint8 RGB."""
    shades = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    return shades[(np.clip((np.asarray(points)[:, 2] + 3) / 6, 0, 1) * 255).astype(np.uint8)]


def scan_score(pred_labels: np.ndarray, labels: np.ndarray, num_classes: int) -> str:
    """Accuracy and mean IoU of one scan as a line; the mean is taken over the classes that occur in its truth."""
    counted = _is_class(labels, num_classes)
    labels, pred_labels = labels[counted], pred_labels[counted]
    if not len(labels):
        return 'no labelled point'
    hit = np.bincount(labels[pred_labels == labels], minlength=num_classes)
    truth = np.bincount(labels, minlength=num_classes)
    predicted = np.bincount(pred_labels[_is_class(pred_labels, num_classes)], minlength=num_classes)
    present = truth > 0
    miou = (hit[present] / (truth + predicted - hit)[present]).mean()
    return (f'accuracy {100 * hit.sum() / len(labels):.1f} %, mIoU {100 * miou:.1f} % over the {present.sum()} classes '
            'of this scan')


def draw_scan(points: np.ndarray, classes: Sequence[str], palette: Sequence[Sequence[int]],
              pred_labels: np.ndarray | None = None, labels: np.ndarray | None = None, title: str = '',
              panel: tuple[int, int] = (640, 360), forward: float = 0.0,
              other: np.ndarray | None = None) -> np.ndarray:
    """Views of a scan from behind the car and from above (forward is right), with a legend.

    Args:
        points: (N, 4) x, y, z [m], intensity; N may be 0.
        classes: C class names in the order of the train ids.
        palette: C RGB colours.
        pred_labels: (N,) predicted train ids, if there are any.
        labels: (N,) true train ids, 255 = ignored, if there are any. With both, an error panel is added; with none,
            the points are coloured by height.
        title: written above the picture, such as the file's name.
        panel: width and height of one view in pixels.
        forward: direction of travel in the LiDAR's frame, rad from x to y.
        other: (N,) train ids that another model predicted; beside predictions and labels its errors are drawn too.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: labels and points differ in number.
        MissingDependency: Open3D or its Vulkan libraries are missing.
    """
    pred_labels = _checked(pred_labels, len(points), 'predictions')
    labels = _checked(labels, len(points), 'labels')
    kinds, score = [], ''
    if pred_labels is not None:
        kinds.append(('prediction', '', label_colors(pred_labels, palette)))
    if labels is not None:
        kinds.append(('ground truth', '', label_colors(labels, palette)))
    if len(kinds) == 2:
        if other is not None:
            colors = error_colors(_checked(other, len(points), 'predictions of the other model'), labels, len(classes))
            kinds.append(('errors of the other', scan_score(other, labels, len(classes)).partition(',')[0], colors))
        colors = error_colors(pred_labels, labels, len(classes))
        kinds.append(('errors', 'wrong red, right grey, ignored dark', colors))
        score = scan_score(pred_labels, labels, len(classes))
    if not kinds:
        kinds.append(('points', 'coloured by height', height_colors(points)))
    remission = points[:, 3] if np.ndim(points) == 2 and np.shape(points)[1] > 3 else None
    kinds = [(name, note, colors if 'errors' in name else shaded(colors, remission)) for name, note, colors in kinds]
    if forward:
        cos, sin = np.cos(forward), np.sin(forward)
        points = np.asarray(points)[:, :3] @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    views = [visible_points(points, view, *panel) for view in (BEHIND, TOP)]
    arrange = canvas.stacked if len(kinds) > 1 else canvas.beside
    body = canvas.beside([canvas.titled(arrange([paint(views[0], colors), _from_above(views[1], colors)]), name, note)
                          for name, note, colors in kinds])
    rows = [canvas.bar(body.shape[1], f'{title}   {len(points):,} points', score), body]
    drawn = [values for values in (pred_labels, labels) if values is not None]
    if drawn:
        seen = np.concatenate(drawn)
        present = [*np.isin(np.arange(len(classes)), seen), not _is_class(seen, len(classes)).all()]
        rows.append(canvas.legend([*classes, 'unlabeled'], _with_unlabeled(palette), body.shape[1], present))
    return canvas.stacked(rows, gap=0)


def _from_above(visible: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """The view from above with a scale and an arrow to where forward is."""
    picture, size = paint(visible, colors), canvas.text_size(visible.shape[1])
    canvas.scale_bar(picture, TOP.height / len(picture), size)
    canvas.arrow(picture, size=size)
    return picture


@METRICS.register_module()
class DrawScans(BaseMetric):
    """Draws each scan that is evaluated into a PNG; it stands beside the metrics and adds no score.

    Class names and colours come from the data set. Each process draws its own share of the scans.

    Args:
        out_dir: folder of the pictures, `<sample_id>.png`.
        max_scans: draw only so many scans in each process; all by default.
        num_colors: reduce each picture to a palette of so many colours, for smaller files.
        panel: width and height of one view in pixels.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, out_dir: str | Path, max_scans: int | None = None, num_colors: int | None = None,
                 panel: tuple[int, int] = (640, 360), collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_dir = Path(out_dir).expanduser()
        self.max_scans = max_scans
        self.num_colors = num_colors
        self.panel = panel

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Draw the scans of a batch.

        Args:
            data_batch: `inputs.points`, a list of (N', 3+) tensors as the data set gave them, the N points with
                predictions first.
            data_samples: for each scan a dict with `pred_labels` (N,), `sample_id` and, if known, `labels` (N,).
        """
        meta = self.dataset_meta or {}
        if 'classes' not in meta or 'palette' not in meta:
            raise ConfigError(f'DrawScans: the data set describes itself by {sorted(meta)}, expected classes and '
                              'palette. Add both to its METAINFO.')
        for points, sample in zip(data_batch['inputs']['points'], data_samples):
            if self.max_scans is not None and len(self.results) >= self.max_scans:
                return
            pred_labels, labels = (rows_of(_array(sample.get(key)), sample) for key in ('pred_labels', 'labels'))
            image = self.picture(points[:len(pred_labels)].cpu().numpy(), pred_labels, labels, sample['sample_id'])
            path = canvas.save_png(self.out_dir / f'{sample["sample_id"]}.png', image, self.num_colors)
            self.results.append(str(path))

    def picture(self, points: np.ndarray, pred_labels: np.ndarray, labels: np.ndarray | None,
                sample_id: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB of a scan of (N, 3+) points with predicted and, if known, true train ids (N,)."""
        meta = self.dataset_meta
        return draw_scan(points, meta['classes'], meta['palette'], pred_labels, labels, sample_id, self.panel,
                         meta.get('forward', 0.0))

    def compute_metrics(self, results: list[str]) -> dict:
        """No score comes from pictures."""
        return {}


@METRICS.register_module()
class DrawGains(DrawScans):
    """Draws the scans on which a model betters another one the most, with the errors of both.

    `tools/test.py CONFIG CKPT --draw DIR --cfg-options draw="[dict(type='DrawGains', against='OTHER')]"` draws them,
    after `tools/test.py CONFIG OTHER_CKPT --save OTHER` has kept what the other one predicts.

    Args:
        out_dir: folder of the pictures, `<sample_id>.png`.
        against: folder with the predictions of the other model for the same scans.
        most: how many scans to draw in each process, those with the largest gain in points that are right.
        num_colors, panel, collect_device, prefix: see DrawScans.
    """

    needs_labels = True

    def __init__(self, out_dir: str | Path, against: str | Path, most: int = 1, num_colors: int | None = None,
                 panel: tuple[int, int] = (480, 300), collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(out_dir, None, num_colors, panel, collect_device, prefix)
        check_positive('DrawGains', most=most)
        self.against, self.most = Path(against).expanduser(), most
        self._best: list[tuple[int, str, tuple[np.ndarray, ...]]] = []

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Remember the scans with the largest gains so far.

        Args:
            data_batch: `inputs.points`, see DrawScans.
            data_samples: for each scan a dict with `pred_labels`, `labels` (N,) and `sample_id`.

        Raises:
            DataError: a scan without labels, or without predictions of the other model for its points.
        """
        for points, sample in zip(data_batch['inputs']['points'], data_samples):
            pred_labels, labels = labels_of(sample, 'DrawGains')
            other = other_predictions(self.against, sample).numpy()
            counted = _is_class(labels, len(self.dataset_meta['classes']))
            gain = int(((pred_labels == labels) & counted).sum()) - int(((other == labels) & counted).sum())
            self._best.append((gain, sample['sample_id'],
                               (points[:len(labels)].cpu().numpy(), pred_labels, labels, other)))
            self._best = sorted(self._best, key=lambda best: -best[0])[:self.most]
            self.results.append(sample['sample_id'])  # mmengine warns of a metric that has none

    def evaluate(self, size: int) -> dict:
        """Draw them, in each process its own; no score comes from pictures."""
        meta = self.dataset_meta
        for gain, name, (points, pred_labels, labels, other) in self._best:
            image = draw_scan(points, meta['classes'], meta['palette'], pred_labels, labels,
                              f'{name}, {gain:+,} points', self.panel, meta.get('forward', 0.0), other)
            path = canvas.save_png(self.out_dir / f'{name}.png', image, self.num_colors)
            print_log(f'{path}: {gain:+,} points are right that the other model of {self.against} has wrong', 'current')
        self._best = []
        return super().evaluate(size)


def _is_class(labels: np.ndarray, num_classes: int) -> np.ndarray:
    return (labels >= 0) & (labels < num_classes)


def _with_unlabeled(palette: Sequence[Sequence[int]]) -> np.ndarray:
    """(C + 1, 3) uint8 RGB."""
    return np.array([*palette, UNLABELED], np.uint8)


def _array(values: object) -> np.ndarray | None:
    """A tensor, or nothing, as an array."""
    return None if values is None else values.cpu().numpy()


def _checked(values: np.ndarray | None, num_points: int, name: str) -> np.ndarray | None:
    if values is None:
        return None
    values = np.asarray(values)
    if values.shape != (num_points,):
        raise DataError(f'drawing a scan: {name} of shape {values.shape}, expected ({num_points},) for {num_points:,} '
                        'points. Pass one label per point.')
    return values.astype(np.int64)
