"""Pictures of lanes on images: smooth curves, segmentation overlays, a sheet of a whole test run.

Lanes are (P, 2) arrays u, v in pixels of the original image, bottom to top. A lane gets the colour and the name of its
slot, which is found in the map of the slots or labels where there is one, and otherwise by counting from the middle.
Where the lanes of the prediction or of the truth have no slots that tell them apart, both are numbered from the left.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from scipy.interpolate import UnivariateSpline

from perception.common.formats.images import read_image
from perception.common.visual import canvas
from perception.lanes.polylines import angle_order
from perception.registry import METRICS
from perception.utils.errors import ConfigError

IGNORED = (58, 58, 64)
PALETTE = ((255, 86, 48), (54, 214, 99), (56, 150, 255), (255, 196, 0), (190, 92, 255), (0, 215, 215), (255, 105, 180),
           (170, 220, 60))  # of lanes without slots, from left to right
SUBPIXEL = 4  # bits
FAR = 2e4  # pixels; what lies farther out is drawn there
MAX_DRAWN = 1 << 22  # pixels of an image that curves are drawn on
SHEET = 'contact_sheet.png'
MAPS = ('labels', 'slots')  # of what is drawn, (H0, W0)


def smooth_curve(lane: np.ndarray, step: float = 4., noise: float = 2.) -> np.ndarray:
    """Dense points of a smooth curve along a lane.

    Args:
        lane: (P, 2) points in order, pixels; points that are not finite are left out.
        step: distance of the new points, pixels.
        noise: how far the curve may pass by the points, pixels (root mean square).

    Returns:
        (Q, 2) points; the lane itself where it has fewer than four different points.
    """
    lane = np.asarray(lane, np.float64).reshape(-1, 2)
    lane = lane[np.isfinite(lane).all(1)]
    if len(lane) > 1:
        lane = lane[np.append(True, np.abs(np.diff(lane, axis=0)).sum(1) > 1e-6)]
    if len(lane) < 4:
        return lane
    along = np.append(0, np.cumsum(np.linalg.norm(np.diff(lane, axis=0), axis=1)))
    at = np.linspace(0, along[-1], int(np.clip(along[-1] / step, 8, 4000)))
    return np.stack([UnivariateSpline(along, lane[:, i], k=3, s=len(lane) * noise ** 2)(at) for i in range(2)], 1)


def draw_lanes(image: np.ndarray, lanes: Sequence[np.ndarray], colors: Sequence[Sequence[int]],
               names: Sequence[str] = ()) -> np.ndarray:
    """Lanes over an image as smooth anti-aliased curves, each with its name at its lower end.

    Args:
        image: (H, W, 3) uint8 RGB; it stays as it is.
        lanes: (P, 2) arrays u, v; those with fewer than two points are left out.
        colors: RGB of each lane.
        names: of each lane; none are written by default.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    width = max(2, round(image.shape[1] / 320))
    curves = [smooth_curve(np.clip(lane, -FAR, FAR)) for lane in lanes]
    drawn = image.copy()
    for thick, faded in ((3 * width, True), (width, False)):
        layer = drawn.copy()
        for curve, color in zip(curves, colors):
            if len(curve) > 1:
                points = np.round(curve * (1 << SUBPIXEL)).astype(np.int32)
                cv2.polylines(layer, [points[:, None]], False, tuple(map(int, color)), thick, cv2.LINE_AA, SUBPIXEL)
        drawn = cv2.addWeighted(layer, 0.35, drawn, 0.65, 0) if faded else layer
    for curve, color, name in zip(curves, colors, names):
        _tag(drawn, curve, color, name)
    return drawn


def _tag(image: np.ndarray, curve: np.ndarray, color: Sequence[int], name: str) -> None:
    """Write the name of a lane beside the lowest of its points that is well inside the image, in place."""
    size = max(14, image.shape[1] // 60)
    height, width = image.shape[:2]
    text = canvas.text_width(name, size)
    inside = curve[(curve[:, 0] >= 0) & (curve[:, 0] < width) & (curve[:, 1] >= 0) & (curve[:, 1] < height - size)]
    if not len(inside) or not name:
        return
    left = int(np.clip(inside[0, 0] - text / 2, 2, max(width - text - 10, 2)))
    middle = int(np.clip(inside[0, 1] - size, size, height - size))
    cv2.rectangle(image, (left - 4, middle - size // 2 - 3), (left + text + 4, middle + size // 2 + 3),
                  tuple(map(int, color)), -1, cv2.LINE_AA)
    canvas.write(image, name, left, middle, size, (0, 0, 0) if np.dot(color, (.3, .6, .1)) > 110 else canvas.INK)


def overlay_labels(image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]],
                   opacity: float = 0.65) -> np.ndarray:
    """A label map over an image; background (0) stays clear, ignored pixels are darkened.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) train ids; whatever is no class, such as 255, is ignored.
        palette: (C, 3) RGB.
        opacity: of the classes, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    labels = np.asarray(labels).astype(np.int64)
    known = (labels >= 0) & (labels < len(palette))
    colors = np.array([*palette, IGNORED], np.uint8)[np.where(known, labels, len(palette))]
    mixed = cv2.addWeighted(colors, opacity, image, 1 - opacity, 0)
    return np.where((labels == 0)[..., None], image, mixed)


def to_original(labels: np.ndarray, original_shape: Sequence[int], crop_top: int = 0) -> np.ndarray:
    """A label map of the net's input size laid over the original image.

    Args:
        labels: (h, w).
        original_shape: (H0, W0).
        crop_top: rows of the original image that the net does not see.

    Returns:
        (H0, W0), 0 in the rows that were cut off.
    """
    height, width = (int(n) for n in original_shape[:2])
    whole = np.zeros((height, width), np.asarray(labels).dtype)
    whole[crop_top:] = cv2.resize(np.asarray(labels), (width, height - crop_top), interpolation=cv2.INTER_NEAREST)
    return whole


def slots_of(lanes: Sequence[np.ndarray], labels: np.ndarray | None, num_slots: int) -> list[int]:
    """Slot of each lane, 1..L: the class that most of its points lie on, else counted as labels are, see `ego_slots`.

    The slots L/2 and L/2 + 1 are the borders of the own lane, so a lane that leads to the right, upwards, has one of
    the first L/2 slots. Where there are no slots to tell apart (L = 1), lanes are numbered from the left.

    Args:
        lanes: (P, 2) arrays in pixels of the image, bottom to top.
        labels: (H, W) with 0 for background and 1..L for slots, or None.
        num_slots: L.
    """
    order, num_left = angle_order(lanes)  # not by where they begin: at the side of an image all begin in one column
    order = [*order, *(i for i, lane in enumerate(lanes) if len(lane) < 2)]
    first = 1 + (num_slots // 2 - num_left if num_slots > 1 else 0)
    slots = (np.argsort(order) + first).tolist()
    if labels is None or num_slots < 2:
        return slots
    for i, lane in enumerate(lanes):
        lane = np.round(np.asarray(lane, np.float64)[np.isfinite(lane).all(1)]).astype(np.int64)
        inside = (lane >= 0).all(1) & (lane[:, 0] < labels.shape[1]) & (lane[:, 1] < labels.shape[0])
        found = labels[lane[inside, 1], lane[inside, 0]]
        found = found[(found > 0) & (found <= num_slots)]
        if len(found):
            slots[i] = int(np.bincount(found).argmax())
    return slots


def named_slots(lanes: Sequence[np.ndarray], found: Mapping, classes: Sequence[str]) -> tuple[list[int], bool]:
    """Slot of each lane, see `slots_of`, and whether the slots are classes that tell the lanes apart.

    Where they are not, the lanes are numbered 1, 2, ... from the left.

    Args:
        lanes: see `slots_of`.
        found: what else is known of the image, see `drawable`.
        classes: names of those of the data set.
    """
    classes = classes[:2] if found.get('own_classes') else classes
    labels = found.get('labels') if found.get('slots') is None else found['slots']
    slots = slots_of(lanes, labels, len(classes) - 1)
    if len(classes) > 2 and len(set(slots)) == len(slots) and all(0 < s < len(classes) for s in slots):
        return slots, True
    return slots_of(lanes, None, 1), False


def draw_sample(image: np.ndarray, classes: Sequence[str], palette: Sequence[Sequence[int]],
                prediction: Mapping | None = None, truth: Mapping | None = None, title: str = '', note: str = '',
                width: int = 960) -> np.ndarray:
    """Prediction and ground truth of one image, side by side or, for wide images, one above the other.

    Lanes are drawn where there are any to be drawn, otherwise the label map.

    Args:
        image: (H0, W0, 3) uint8 RGB, the original.
        classes: C names in the order of the train ids, background first.
        palette: C RGB colours.
        prediction, truth: what is known of each, `lanes` (a list of (P, 2) arrays), `labels` (H0, W0) and the rest that
            `drawable` tells.
        title, note: written above, at the left and at the right.
        width: of one panel, pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    panels, seen = [], set()
    shrink = min(1., (MAX_DRAWN / (image.shape[0] * image.shape[1])) ** .5)
    if shrink < 1:  # curves on a photograph of 48 megapixels would take seconds
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        prediction, truth = (_shrunk(found, shrink, image.shape) for found in (prediction, truth))
    if prediction is not None and truth is not None and prediction.get('lanes') is None:
        truth = dict(truth, lanes=truth.get('lanes') if truth.get('labels') is None else None)  # alike in both panels
    known = [found for found in (prediction, truth) if found is not None and found.get('lanes') is not None]
    numbered = not all(named_slots(_whole(found['lanes']), found, classes)[1] for found in known)
    for name, found in (('prediction', prediction), ('ground truth', truth)):
        if found is not None:
            drawn, words, used = _paint(image, classes, palette, found, numbered)
            seen |= used
            panels.append(canvas.titled(scaled(drawn, width), name, words))
    panels = panels or [scaled(image, width)]
    body = canvas.stacked(panels) if image.shape[1] > 2 * image.shape[0] else canvas.beside(panels)
    rows = [canvas.bar(body.shape[1], title, note), body]
    if seen:
        rows.append(canvas.legend(classes[1:], np.array(palette[1:], np.uint8), body.shape[1],
                                  [i in seen for i in range(1, len(classes))]))
    return canvas.stacked(rows, gap=0)


def _shrunk(found: Mapping | None, shrink: float, shape: Sequence[int]) -> dict | None:
    """Lanes and labels on a smaller image."""
    if found is None:
        return None
    lanes = found.get('lanes')
    maps = {key: None if found.get(key) is None else
            cv2.resize(found[key], shape[1::-1], interpolation=cv2.INTER_NEAREST) for key in MAPS}
    return dict(found, lanes=None if lanes is None else [np.asarray(lane, np.float64) * shrink for lane in lanes],
                **maps)


def _paint(image: np.ndarray, classes: Sequence[str], palette: Sequence[Sequence[int]],
           found: Mapping, numbered: bool) -> tuple[np.ndarray, str, set[int]]:
    """The image with lanes, of their slots or `numbered`, or labels, words about them, and the classes that are used.
    """
    lanes, labels = found.get('lanes'), found.get('labels')
    if lanes is None and labels is None:
        return image, '', set()
    if lanes is None:
        seen = set(np.unique(labels).tolist()) - {0}
        return overlay_labels(image, labels, palette), '', seen & set(range(len(classes)))
    lanes = _whole(lanes)
    words = f'{len(lanes)} lane{"" if len(lanes) == 1 else "s"}'
    if numbered:
        slots = slots_of(lanes, None, 1)
        colors, names = [PALETTE[(s - 1) % len(PALETTE)] for s in slots], [f'lane {s}' for s in slots]
        return draw_lanes(image, lanes, colors, names), words, set()
    slots, _ = named_slots(lanes, found, classes)
    return draw_lanes(image, lanes, [palette[s] for s in slots], [classes[s] for s in slots]), words, set(slots)


def _whole(lanes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The lanes that can be drawn, of two points at least."""
    return [lane for lane in lanes if len(lane) > 1]


def scaled(image: np.ndarray, width: int) -> np.ndarray:
    """The image in that width; a tall one is made narrower, so that it is at most three times as high as `width`."""
    scale = min(width / image.shape[1], 3 * width / image.shape[0])
    width, height = (max(round(n * scale), 1) for n in image.shape[1::-1])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


# --- test runs -------------------------------------------------------------------------------------------------------
@METRICS.register_module()
class DrawLanes(BaseMetric):
    """Draws each image that is evaluated into a PNG, and a contact sheet at the end; it adds no score.

    Class names and colours come from the data set. Each process draws its own share of the images.

    Args:
        out_dir: folder of the pictures, `<sample_id>.png` with `/` replaced by `__`, and of `contact_sheet.png`.
        max_images: draw only so many images in each process; all by default.
        width: of one panel, pixels.
        sheet_rows, sheet_columns: most rows and columns of the sheet; images of one category fill rows of their own.
        num_colors: reduce each picture to a palette of so many colours, for smaller files.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, out_dir: str | Path, max_images: int | None = None, width: int = 960, sheet_rows: int = 12,
                 sheet_columns: int = 4, num_colors: int | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_dir = Path(out_dir).expanduser()
        self.max_images, self.width, self.num_colors = max_images, width, num_colors
        self.sheet_rows, self.sheet_columns = sheet_rows, sheet_columns

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Draw the images of a batch.

        Args:
            data_batch: not used; the original image is read again.
            data_samples: for each image a dict with the fields of a LaneSample.
        """
        meta = self.dataset_meta or {}
        if 'classes' not in meta or 'palette' not in meta:
            raise ConfigError(f'DrawLanes: the data set describes itself by {sorted(meta)}, expected classes and '
                              'palette. Add both to its METAINFO.')
        for sample in data_samples:
            if self.max_images is not None and len(self.results) >= self.max_images:
                return
            image = read_image(sample['image_path'])
            prediction, truth = drawable(sample, 'pred_'), drawable(sample, '')
            category = sample.get('category') or ''
            picture = draw_sample(image, meta['classes'], meta['palette'], prediction, truth, sample['sample_id'],
                                  category, self.width)
            path = self.out_dir / f'{sample["sample_id"].strip("/").replace("/", "__")}.png'
            self.results.append((category, str(canvas.save_png(path, picture, self.num_colors))))

    def compute_metrics(self, results: list[tuple[str, str]]) -> dict:
        """Make the contact sheet; no score comes from pictures."""
        if results:
            canvas.save_png(self.out_dir / SHEET, contact_sheet(results, self.sheet_rows, self.sheet_columns))
        return {}


def drawable(sample: Mapping, prefix: str = '') -> dict | None:
    """Lanes and labels of a sample in pixels of its original image, as `draw_sample` takes them.

    Args:
        sample: fields of a LaneSample, as a dict.
        prefix: '' for the truth, 'pred_' for predictions.

    Returns:
        `lanes`, `labels` and of predictions `slots`, the most probable slot of each pixel, background or not, each None
        where unknown, and `own_classes`, whether the labels are of other classes than the data set names; None if
        neither lanes nor labels are known.
    """
    lanes, labels = sample.get(f'{prefix}lanes'), sample.get(f'{prefix}labels')
    if not prefix and sample.get('full_labels') is not None and not sample.get('masks'):
        labels = _array(sample['full_labels'])
    elif labels is not None:
        labels = to_original(_array(labels).astype(np.uint8), sample['original_shape'], sample.get('crop_top') or 0)
    if lanes is None and labels is None:
        return None
    probs, slots = sample.get('lane_probs') if prefix else None, None
    if lanes is not None and probs is not None:
        slots = to_original((_array(probs)[1:].argmax(0) + 1).astype(np.uint8), sample['original_shape'],
                            sample.get('crop_top') or 0)
    return dict(lanes=None if lanes is None else [_array(lane).reshape(-1, 2) for lane in lanes], labels=labels,
                slots=slots, own_classes=bool(prefix and sample.get('own_classes')))


def contact_sheet(pictures: Sequence[tuple[str, str]], rows: int = 12, columns: int = 4,
                  width: int = 400) -> np.ndarray:
    """Small versions of pictures on one sheet; those of one category fill rows of their own, under its name.

    Args:
        pictures: category ('' for none) and file of each.
        rows, columns: most of them; every category gets at least one row.
        width: of one small picture, pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    groups: dict[str, list[str]] = {}
    for category, path in pictures:
        groups.setdefault(category, []).append(path)
    columns = min(columns, max(len(paths) for paths in groups.values()))
    share = max(rows // len(groups), 1) * columns
    parts = []
    for category, paths in sorted(groups.items()):
        small = [scaled(read_image(path), width) for path in paths[:share]]
        if category:
            parts.append(canvas.bar(columns * (width + 4) - 4, category, f'{len(paths)} images'))
        parts += [canvas.beside(small[i:i + columns]) for i in range(0, len(small), columns)]
    return canvas.stacked(parts)


def _array(values: object) -> np.ndarray:
    """A tensor or a sequence as an array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
