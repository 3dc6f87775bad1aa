"""One picture of a sample: boxes in the images of all cameras, and below them from above what is predicted and true.

Images stand as the cameras do: those that look ahead in the first row, those that look back in the second, from left to
right. From above the map lies in nuScenes' colours under points and boxes, forward is up.
"""
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric

from perception.bev.datasets.nuscenes.metric import RANGES, in_range
from perception.bev.rig import undistorted
from perception.bev.transforms import image_matrices
from perception.common.formats.images import read_image
from perception.common.metrics.detection import match, rank
from perception.common.visual import canvas
from perception.common.visual.bev import BirdsEye
from perception.common.visual.boxes import BoxLayer, bright, draw_boxes, legend
from perception.common.visual.points import BACKGROUND
from perception.registry import METRICS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

TRUTH, MISSED, BEYOND = (215, 215, 220), (0, 230, 255), (96, 98, 108)  # no class has such a colour
VIEWS = ('image', 'bev', 'depth')
FAR = 60.0  # m, from which on depths have one colour
FORWARD = dict(lidar=np.pi / 2, ego=0.0, flat_ego=0.0)  # rad from x to y of each frame
MAP_COLORS = dict(  # of nuScenes' own drawings, and of layers that join some of theirs
    drivable_area=(166, 206, 227), road_segment=(31, 120, 180), lane=(51, 160, 44), ped_crossing=(251, 154, 153),
    walkway=(227, 26, 28), stop_line=(253, 191, 111), carpark_area=(255, 127, 0), road_divider=(202, 178, 214),
    lane_divider=(106, 61, 154), divider=(106, 61, 154), lane_boundary=(106, 61, 154), road=(166, 206, 227),
    vehicle=(255, 158, 0))
OTHER = (150, 150, 150)
PAINT = 0.65  # strength of map colours on the background
ROWS = 2  # of images
LABELLED = 60  # predictions beside which the score stands, the best ones
SHARPEST = 2  # files are drawn at half their size


class Look(NamedTuple):
    """How a sample is drawn.

    Attributes:
        min_score: predictions below it are left out.
        distance: m between centres up to which a box of its class counts as found.
        reach: m around the car that the view from above shows.
        width: of the whole picture in pixels.
        min_map: probability from which on a cell of the map is drawn.
        max_range: m from the car up to which truth counts, as in NuScenesDetectionMetric; None for the official range
            of each class.
    """
    min_score: float = 0.3
    distance: float = 2.0
    reach: float = 52.0
    width: int = 1600
    min_map: float = 0.5
    max_range: float | None = None


LOOK = Look()


class CameraView(NamedTuple):
    """An image and how it sees the frame.

    Attributes:
        name: of the camera.
        image: (H, W, 3) uint8 RGB.
        matrix: (3, 4) from x, y, z, 1 of the boxes' frame [m] to u w, v w, w.
    """
    name: str
    image: np.ndarray
    matrix: np.ndarray

    def resized(self, width: int, height: int) -> 'CameraView':
        """The same at another size."""
        scale = np.divide((width, height), self.image.shape[1::-1])
        image = cv2.resize(self.image, (width, height),
                           interpolation=cv2.INTER_AREA if scale[0] < 1 else cv2.INTER_LINEAR)
        # u and v of the middle of the first pixel are 0 before and after
        zoom = np.array([[scale[0], 0, (scale[0] - 1) / 2], [0, scale[1], (scale[1] - 1) / 2], [0, 0, 1]])
        return CameraView(self.name, image, zoom @ self.matrix)


def file_views(sample: Mapping, inputs: Mapping) -> list[CameraView]:
    """The images of a sample as their files have them, undistorted, at half their size.

    Args:
        sample: a RigSample or its dict, with `image_paths` and `cameras`.
        inputs: `cam_to_img` and `frame_to_cam` of it.

    Raises:
        DataError: a file that cannot be read.
    """
    share = 1 / SHARPEST
    shrink = np.array([[share, 0, (share - 1) / 2], [0, share, (share - 1) / 2], [0, 0, 1]])
    matrices = image_matrices(*(_array(inputs[key]) for key in ('cam_to_img', 'frame_to_cam')), shrink)
    names, paths = sample.get('cameras'), sample.get('image_paths')
    distortions = sample.get('distortions') or [()] * len(names)
    return [CameraView(name, undistorted(read_image(path, reduce=SHARPEST), cam_to_img, distortion, SHARPEST), matrix)
            for name, path, matrix, cam_to_img, distortion in zip(
                names, paths, matrices, _array(inputs['cam_to_img']), distortions)]


def input_views(sample: Mapping, inputs: Mapping) -> list[CameraView]:
    """The images of a sample as the net sees them, after augmentation; see NuScenesRig for `inputs`."""
    to_cam = _array(inputs['frame_to_cam']) @ np.linalg.inv(_array(inputs['bev_aug']))
    matrices = image_matrices(_array(inputs['cam_to_img']), to_cam, _array(inputs['image_aug']))
    return [CameraView(name, np.ascontiguousarray(image.transpose(1, 2, 0)), matrix) for name, image, matrix in zip(
        sample.get('cameras'), np.asarray(inputs['images'].cpu()), matrices)]


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.cpu() if hasattr(value, 'cpu') else value, np.float64)


def in_rows(views: Sequence[CameraView], forward: float) -> list[list[CameraView]]:
    """Views in one or two rows: those that look ahead, then those that look back, each from left to right.

    Args:
        views: N cameras.
        forward: direction of travel in the frame, rad from x to y.
    """
    axes = np.array([view.matrix[2, :3] for view in views])
    turn = np.array([[np.cos(forward), np.sin(forward)], [-np.sin(forward), np.cos(forward)]])
    ahead, left = turn @ axes[:, :2].T
    angle = np.arctan2(left, ahead)  # positive to the left
    if len(views) <= 3:
        return [[views[i] for i in np.argsort(-angle, kind='stable')]]
    # as many in the first row as in the second; those of the second as a mirror shows them
    order = np.argsort(np.abs(angle), kind='stable')
    first, second = np.array_split(order, ROWS)
    return [[views[i] for i in first[np.argsort(-angle[first], kind='stable')]],
            [views[i] for i in second[np.argsort(-np.sin(angle[second]), kind='stable')]]]


def arrays_of(sample: Mapping, min_score: float = 0.0) -> dict[str, np.ndarray]:
    """What is drawn of a RigSample as arrays, those that are there, and its poses; predictions of at least a score.

    Raises:
        DataError: a field that has another number of rows than its boxes.
    """
    found = {key: np.asarray(value.cpu() if hasattr(value, 'cpu') else value) for key in (
        'boxes', 'labels', 'pred_boxes', 'pred_scores', 'pred_labels', 'map_labels', 'pred_map', 'depth', 'pred_depth',
        'frame_to_world', 'ego_to_world')
        if (value := sample.get(key)) is not None}
    for boxes, fields in (('boxes', ('labels',)), ('pred_boxes', ('pred_scores', 'pred_labels'))):
        for key in fields if boxes in found else ():
            if key not in found or len(found[key]) != len(found[boxes]):
                came = len(found[key]) if key in found else 'no'
                raise DataError(f'drawing {sample.get("sample_id", "a sample")}: {came} {key} for {len(found[boxes])} '
                                f'{boxes}, expected equal numbers. Give each box one.')
    if 'pred_boxes' in found:
        kept = found['pred_scores'] >= min_score
        found.update({key: found[key][kept] for key in ('pred_boxes', 'pred_scores', 'pred_labels')})
    return found


def counted(values: Mapping, look: Look, kind: str = '') -> np.ndarray:
    """(K,) bool, which boxes (or with `kind` 'pred_' predictions) lie in the range of the official score."""
    boxes, labels = values[f'{kind}boxes'], values[f'{kind}labels']
    if 'frame_to_world' not in values:
        return np.ones(len(boxes), bool)
    to_world = values['frame_to_world']
    ranges = np.minimum(RANGES, np.inf if look.max_range is None else look.max_range)
    return in_range(boxes[:, :3] @ to_world[:3, :3].T + to_world[:3, 3], labels, values['ego_to_world'], ranges)


def found_boxes(values: Mapping, look: Look) -> tuple[np.ndarray, np.ndarray]:
    """(K,) bool, which boxes of the truth count, and which of these a prediction of their class finds."""
    pred, true = (np.flatnonzero(counted(values, look, kind)) for kind in ('pred_', ''))
    pred = pred[rank(values['pred_scores'][pred])]
    rows = match(values['pred_boxes'][pred, :2], values['pred_labels'][pred], values['boxes'][true, :2],
                 values['labels'][true], [look.distance])[0]
    numbers = np.arange(len(values['boxes']))
    return np.isin(numbers, true), np.isin(numbers, true[rows[rows >= 0]])


def layers_of(values: Mapping, palette: Sequence[Sequence[int]], look: Look = LOOK) -> tuple[list[BoxLayer],
                                                                                         list[BoxLayer], str]:
    """Boxes that are drawn of a sample: predictions, the truth, and a line that says how many were found.

    Predictions have the colours of their classes and their scores; with them the truth is dashed, in a warning colour
    where it was missed, faint beyond the range of the score; alone it has the colours of its classes too.

    Args:
        values: of `arrays_of`.
        palette: (C, 3) RGB.
        look: see Look.
    """
    colors = bright(np.array(palette))
    predicted, true, score = [], [], ''
    if 'pred_boxes' in values:
        predicted = [BoxLayer(values['pred_boxes'], colors[values['pred_labels'] % len(colors)],
                              [f'{s:.2f}' if place < LABELLED else '' for s, place in zip(
                                  values['pred_scores'], np.argsort(rank(values['pred_scores'])))],
                              name=f'prediction, score {look.min_score:g} or more', ink=colors[0])]
        score = f'{len(values["pred_boxes"])} predictions'
    if 'boxes' in values and not predicted:
        true = [BoxLayer(values['boxes'], colors[values['labels'] % len(colors)], name='truth', ink=colors[0])]
        score = f'{len(values["boxes"])} true boxes'
    elif 'boxes' in values:
        counts, found = found_boxes(values, look)
        true = [BoxLayer(values['boxes'][found], TRUTH, dashed=True, name='truth'),
                BoxLayer(values['boxes'][counts & ~found], MISSED, dashed=True, name='missed')]
        if not counts.all():
            far = BoxLayer(values['boxes'][~counts], BEYOND, dashed=True, name='beyond the range of the score')
            true.insert(0, far)
        score = (f'found {found.sum()} of {counts.sum()} within {look.distance:g} m, {len(values["pred_boxes"])} '
                 'predictions')
    return predicted, true, score


def paint_map(view: BirdsEye, layers: np.ndarray, bounds: Sequence[float], names: Sequence[str]) -> None:
    """Paint layers of a map into a view from above, in place; later ones hide earlier ones.

    Args:
        view: the picture.
        layers: (M, Y, X) bool.
        bounds: least x, y, greatest x, y [m].
        names: M, whose colours `MAP_COLORS` has.
    """
    rows, columns = layers.shape[1:]
    step = np.array([bounds[2] - bounds[0], bounds[3] - bounds[1]]) / (columns, rows)
    # middle of a cell x, y -> column and row of the picture
    to_frame = np.array([[step[0], 0, bounds[0] + step[0] / 2], [0, step[1], bounds[1] + step[1] / 2], [0, 0, 1]])
    matrix = (view.matrix @ to_frame)[:2]
    size = view.image.shape[1::-1]
    for layer, name in zip(layers, names):
        shown = cv2.warpAffine(layer.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST) > 0
        view.image[shown] = map_colors([name])[0]


def map_colors(names: Sequence[str]) -> np.ndarray:
    """(M, 3) uint8 RGB of layers of a map as they are painted."""
    colors = np.array([MAP_COLORS.get(name, OTHER) for name in names], np.float64).reshape(-1, 3)
    return np.round((1 - PAINT) * np.array(BACKGROUND) + PAINT * colors).astype(np.uint8)


def from_above(layers: Sequence[BoxLayer], frame: str, look: Look, width: int, points: np.ndarray | None = None,
               layer_map: np.ndarray | None = None, bounds: Sequence[float] | None = None,
               names: Sequence[str] = ()) -> np.ndarray:
    """A view from above, (width, width, 3) uint8 RGB.

    Args:
        layers: of boxes.
        frame: see NuScenesRig.
        look: see Look.
        width: in pixels.
        points: (P, 3+) [m].
        layer_map, bounds, names: see `paint_map`.
    """
    view = BirdsEye(width, look.reach, look.reach, look.reach, FORWARD[frame])
    if layer_map is not None and bounds is not None:
        paint_map(view, layer_map, bounds, names)
    if points is not None:
        view.draw_points(points)
    view.draw_rings()
    for layer in layers:
        view.draw_boxes(layer)
    return view.picture()


def depth_picture(depths: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Depths (h, w) [m], 0 where unknown, in colours on a darkened image (H, W, 3), near ones warm."""
    size = image.shape[1::-1]
    shown = cv2.resize(depths.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    dark = image // 3
    return np.where(shown[..., None] > 0, _depth_colors(shown) // 4 * 3 + dark // 4 * 3, dark).astype(np.uint8)


def _depth_colors(metres: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB of depths (h, w)."""
    level = np.clip(255 * (1 - metres / FAR), 0, 255).astype(np.uint8)
    return cv2.applyColorMap(level, cv2.COLORMAP_TURBO)[..., ::-1]


def draw_rig(views: Sequence[CameraView], sample: Mapping, palette: Sequence[Sequence[int]], look: Look = LOOK,
             title: str = '', kinds: Sequence[str] = ('image', 'bev'), points: np.ndarray | None = None,
             map_names: Sequence[str] = (), classes: Sequence[str] = ()) -> np.ndarray:
    """Images with boxes and views from above, with a legend and what was found.

    Args:
        views: of `file_views` or `input_views`.
        sample: a RigSample or its dict, with truth, predictions, both or none, `bev_frame` and perhaps `map_bounds`.
        palette: C RGB colours of the classes.
        look: see Look.
        title: written above the picture.
        kinds: of `VIEWS`.
        points: (P, 3+) in the frame of the boxes [m], drawn from above.
        map_names: of the M layers of maps.
        classes: C names, for the legend.

    Returns:
        (H, W, 3) uint8 RGB, of one size for samples with as many cameras of one size.

    Raises:
        DataError: arrays that do not belong together, or nothing that the kinds show.
    """
    values, frame = arrays_of(sample, look.min_score), sample.get('bev_frame', 'lidar')
    predicted, true, score = layers_of(values, palette, look)
    rows = in_rows(views, FORWARD[frame]) if views else []
    parts = []
    if 'image' in kinds:
        parts += sheet(rows, look.width, lambda view: _with_boxes(view, [*true, *predicted]))
    if 'depth' in kinds:
        for key, name in (('pred_depth', 'predicted depth'), ('depth', 'depth of the sweep')):
            if key in values:
                order = {id(view): depth for view, depth in zip(views, values[key])}
                parts += sheet(rows, look.width, lambda view, d=order: depth_picture(d[id(view)], view.image), name,
                                keep=True)
        if not parts:
            raise DataError(f'--view depth: {sample.get("sample_id", "a sample")} has no depths, expected some of a '
                            'net that predicts them. Take --view plain.')
        metres = np.linspace(0, FAR, 7)
        parts.append(canvas.legend([f'{depth:g} m' for depth in metres], _depth_colors(metres[None])[0], look.width,
                                   None, 22))
    if 'bev' in kinds:
        parts.append(canvas.beside(_above(values, sample, predicted, true, frame, look, points, map_names)))
    named = [layer for layer in (*predicted, *true) if layer.name]
    boxes = 'image' in kinds or 'bev' in kinds
    if named and boxes:
        parts.append(legend(named, look.width))
        present = np.isin(np.arange(len(classes)), [*values.get('labels', ()), *values.get('pred_labels', ())])
        if len(classes):
            parts.append(canvas.legend(classes, bright(np.array(palette)), look.width, present, 22))
    if len(map_names) and 'bev' in kinds and ('map_labels' in values or 'pred_map' in values):
        parts.append(canvas.legend(map_names, map_colors(map_names), look.width, None, 22))
    return canvas.stacked([canvas.bar(look.width, title, score if boxes else ''), *parts], gap=0)


def _above(values: Mapping, sample: Mapping, predicted: list[BoxLayer], true: list[BoxLayer], frame: str, look: Look,
           points: np.ndarray | None, names: Sequence[str]) -> list[np.ndarray]:
    """The views from above: of the prediction and of the truth where there are both."""
    maps = dict(prediction=values['pred_map'] >= look.min_map if 'pred_map' in values else None,
                truth=values['map_labels'] > 0 if 'map_labels' in values else None)
    # of a net that finds no boxes the true ones would look like its own
    boxes = dict(prediction=[*true, *predicted] if predicted else [], truth=true)
    shown = [name for name in boxes if maps[name] is not None or (predicted if name == 'prediction' else true)]
    shown = shown or ['truth']
    width = (look.width - 4 * (len(shown) - 1)) // len(shown) if len(shown) > 1 else look.width // 2
    return [canvas.titled(from_above(boxes[name], frame, look, width, points, maps[name], sample.get('map_bounds'),
                                     names), f'{name}, from above, forward up') for name in shown]


def _with_boxes(view: CameraView, layers: Sequence[BoxLayer]) -> np.ndarray:
    image = view.image.copy()
    draw_boxes(image, layers, view.matrix)
    return image


def sheet(rows: list[list[CameraView]], width: int, draw: Callable, note: str = '',
           keep: bool = False) -> list[np.ndarray]:
    """Rows of pictures that fill a width; with `keep` views are drawn as they are and resized thereafter."""
    most, strips = max(len(row) for row in rows), []
    wide = (width - 4 * (most - 1)) // most
    for row in rows:
        panels = []
        for view in row:
            high = round(wide * view.image.shape[0] / view.image.shape[1])
            picture = cv2.resize(draw(view), (wide, high), interpolation=cv2.INTER_AREA) if keep else \
                draw(view.resized(wide, high))
            panels.append(canvas.titled(picture, f'{view.name}{"  " if note else ""}{note}'))
        strips.append(canvas.beside(panels))
    return strips


@METRICS.register_module()
class DrawRig(BaseMetric):
    """Draws each sample that is evaluated into a PNG; it stands beside the metrics and adds no score.

    Args:
        out_dir: folder of the pictures, `<sample_id>.png`.
        max_samples: draw only so many in each process; all by default.
        num_colors: reduce each picture to a palette of so many colours, for smaller files.
        kinds: of 'image', 'bev' and 'depth'.
        look: what Look says, such as `dict(min_score=0.5, reach=30)`.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, out_dir: str | Path, max_samples: int | None = None, num_colors: int | None = None,
                 kinds: Sequence[str] = ('image', 'bev'), look: Mapping | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_dir = Path(out_dir).expanduser()
        for kind in kinds:
            check_choice('DrawRig: kind', kind, VIEWS)
        self.max_samples, self.num_colors, self.kinds = max_samples, num_colors, tuple(kinds)
        self.look = make_look(look or {})

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Draw the samples of a batch.

        Args:
            data_batch: with `inputs` of NuScenesRig, a list for each.
            data_samples: for each the dict of a RigSample.
        """
        meta = self.dataset_meta or {}
        if 'palette' not in meta:
            raise ConfigError(f'DrawRig: the data set describes itself by {sorted(meta)}, expected classes and '
                              'palette. Add both to its METAINFO.')
        for number, sample in enumerate(data_samples):
            if self.max_samples is not None and len(self.results) >= self.max_samples:
                return
            inputs = {key: values[number] for key, values in data_batch['inputs'].items()}
            picture = draw_rig(file_views(sample, inputs), sample, meta['palette'], self.look, sample['sample_id'],
                               self.kinds, map_names=meta.get('map_classes', ()), classes=meta['classes'])
            path = canvas.save_png(self.out_dir / f'{sample["sample_id"]}.png', picture, self.num_colors)
            self.results.append(str(path))

    def compute_metrics(self, results: list[str]) -> dict:
        """No score comes from pictures."""
        return {}


def make_look(options: Mapping) -> Look:
    """Look of some options.

    Raises:
        ConfigError: an option that it does not have, or one that cannot be.
    """
    for name in options:
        check_choice('look', name, Look._fields)
    look = Look(**options)
    check_positive('look', distance=look.distance, reach=look.reach, width=look.width)
    if look.max_range is not None:
        check_positive('look', max_range=look.max_range)
    return look
