"""One picture per scan: prediction, ground truth, errors, and a legend with the class names."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perception.common.visual import canvas
from perception.common.visual.points import BEHIND, TOP, paint, visible_points
from perception.utils.errors import DataError

UNLABELED = (70, 70, 76)
RIGHT, WRONG, IGNORED = (150, 150, 156), (255, 40, 40), (52, 52, 58)


def label_colors(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colour of each point by its class.

    Args:
        labels: (N,) train ids; whatever is not in 0..C-1, such as 255, is drawn as unlabelled.
        palette: (C, 3) RGB.

    Returns:
        (N, 3) uint8 RGB.
    """
    table = np.concatenate([np.asarray(palette, np.uint8).reshape(-1, 3), np.array([UNLABELED], np.uint8)])
    return table[np.where((labels >= 0) & (labels < len(palette)), labels, len(palette))]


def error_colors(pred_labels: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Red where the prediction is wrong, grey where it is right, dark where the truth is ignored; (N, 3) uint8 RGB."""
    counted = (labels >= 0) & (labels < num_classes)
    kind = np.where(counted, np.where(pred_labels == labels, 0, 1), 2)
    return np.array([RIGHT, WRONG, IGNORED], np.uint8)[kind]


def scan_score(pred_labels: np.ndarray, labels: np.ndarray, num_classes: int) -> str:
    """Accuracy and mean IoU of one scan, over the classes that occur in its truth, as one line."""
    counted = (labels >= 0) & (labels < num_classes)
    labels, pred_labels = labels[counted], pred_labels[counted]
    if not len(labels):
        return 'no labelled point'
    hit = np.bincount(labels[pred_labels == labels], minlength=num_classes)
    truth = np.bincount(labels, minlength=num_classes)
    valid = (pred_labels >= 0) & (pred_labels < num_classes)
    union = truth + np.bincount(pred_labels[valid], minlength=num_classes) - hit
    present = truth > 0
    return (f'accuracy {100 * hit.sum() / len(labels):.1f} %, mIoU {100 * (hit[present] / union[present]).mean():.1f} % '
            f'over the {present.sum()} classes of this scan')


def draw_scan(points: np.ndarray, classes: Sequence[str], palette: Sequence[Sequence[int]],
              pred_labels: np.ndarray | None = None, labels: np.ndarray | None = None, title: str = '',
              panel: tuple[int, int] = (640, 360)) -> np.ndarray:
    """Panels of a scan from behind the car and from above (forward is right), with a legend.

    Args:
        points: (N, 4) x, y, z [m], intensity; N may be 0.
        classes: C class names in the order of the train ids.
        palette: C RGB colours.
        pred_labels: (N,) predicted train ids, if there are any.
        labels: (N,) true train ids, 255 = ignored, if there are any. With both, an error panel is added.
        title: written above the picture, such as the file's name.
        panel: width and height of one view in pixels.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: labels and points differ in number.
        MissingDependency: Open3D or its Vulkan libraries are missing.
    """
    num_classes = len(classes)
    pred_labels, labels = (_as_labels(values, len(points), name) for values, name in
                           ((pred_labels, 'predictions'), (labels, 'labels')))
    kinds = []
    if pred_labels is not None:
        kinds.append(('prediction', '', label_colors(pred_labels, palette)))
    if labels is not None:
        kinds.append(('ground truth', '', label_colors(labels, palette)))
    score = ''
    if len(kinds) == 2:
        kinds.append(('errors', 'wrong red, right grey, ignored dark', error_colors(pred_labels, labels, num_classes)))
        score = scan_score(pred_labels, labels, num_classes)
    if not kinds:
        kinds.append(('points', 'coloured by height', height_colors(points)))
    views = [visible_points(points, view, *panel) for view in (BEHIND, TOP)]
    arrange = canvas.stacked if len(kinds) > 1 else canvas.beside
    body = canvas.beside([canvas.titled(arrange([paint(view, colors) for view in views]), name, note)
                          for name, note, colors in kinds])
    seen = np.concatenate([np.zeros(0, np.int64), *(v for v in (pred_labels, labels) if v is not None)])
    present = np.isin(np.arange(num_classes), seen)
    rest = bool(((seen < 0) | (seen >= num_classes)).any())
    width = body.shape[1]
    return canvas.stacked([
        canvas.bar(width, f'{title}   {len(points):,} points', score, height=32, size=16), body,
        canvas.legend([*classes, 'unlabeled'], np.concatenate([np.asarray(palette, np.uint8).reshape(-1, 3), [UNLABELED]]), width,
                      [*present, rest])], gap=0)


def height_colors(points: np.ndarray) -> np.ndarray:
    """Colour of each point by its height above the lowest of the ground, (N, 3) uint8 RGB."""
    import cv2
    z = np.clip((np.asarray(points)[:, 2] + 3) / 6, 0, 1)
    shades = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    return shades[(z * 255).astype(np.uint8)]


def _as_labels(values: np.ndarray | None, num_points: int, name: str) -> np.ndarray | None:
    if values is None:
        return None
    values = np.asarray(values).astype(np.int64)
    if values.shape != (num_points,):
        raise DataError(f'drawing a scan: {name} of shape {values.shape} for {num_points:,} points, expected '
                        f'({num_points},). Pass one label per point.')
    return values
