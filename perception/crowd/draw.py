"""One picture per scan: people in the image, from above and in space; what was found, missed and found wrongly."""
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.common.formats.images import read_image
from perception.common.metrics.detection import match, rank
from perception.common.visual import canvas
from perception.common.visual.bev import BirdsEye, Trails
from perception.common.visual.boxes import (
    BoxLayer,
    bright,
    draw_boxes,
    draw_boxes_in_view,
    draw_trails_on_image,
    legend,
    track_colors,
)
from perception.common.visual.points import View, height_greys, paint, visible_points
from perception.common.visual.renderer import LARGEST
from perception.crowd.datasets.stcrowd.metric import Filters
from perception.registry import METRICS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

FOUND, WRONG, MISSED = (60, 225, 140), (255, 85, 200), (255, 165, 20)
TRUTH, IGNORED = (215, 215, 220), (120, 120, 128)
VIEWS = ('image', 'bev', '3d')
TITLES = {'image': 'camera', 'bev': 'from above, forward up', '3d': 'from behind'}
BEHIND = View(eye=(-6.0, 0.0, 6.0), target=(14.0, 0.0, -1.5))


class Look(NamedTuple):
    """How people are drawn.

    Attributes:
        min_score: predictions below it are left out.
        distance: m in the plane that the centre of a prediction may lie from that of a person and still be found.
        front, back, side: m before, behind and at each side of the sensor that the view from above shows.
        forward: direction of travel in the LiDAR's frame, rad from x to y.
        width: of the view from above in pixels; other views beside it are narrower.
        counts: whom the test counts, which is whom the line above a picture counts.
    """
    min_score: float = 0.3
    distance: float = 0.5
    front: float = 36.0
    back: float = 2.0
    side: float = 36.0
    forward: float = 0.0
    width: int = 1280
    counts: Filters = Filters()


LOOK = Look()


class Outcome(NamedTuple):
    """What became of P predictions and K people.

    Attributes:
        found: (P,) bool, right.
        wrong: (P,) bool; neither where a prediction lies where nobody is scored.
        missed: (K,) bool; never of a person that is ignored.
        ignored: (K,) bool, people who are not scored, such as those who sit or are too far.
    """
    found: np.ndarray
    wrong: np.ndarray
    missed: np.ndarray
    ignored: np.ndarray


def outcome(sample: Mapping, distance: float, counts: Filters = LOOK.counts) -> Outcome:
    """Match predictions with people, the best first, by the distance of their centres in the plane, as the score does.

    Args:
        sample: arrays of a BoxSample with `boxes` (K, 7+) and `pred_boxes` (P, 7+), see `arrays_of`.
            Where `counts` ask for the view of the camera, also its `lidar_to_image`.
        distance, counts: see Look.
    """
    boxes, preds = sample['boxes'], sample['pred_boxes']
    ignored = sample['ignore'] | ~counts.people(boxes, sample.get('num_points', np.full(len(boxes), -1)))
    ignored |= ~counts.region(boxes, sample)
    own, counted = np.flatnonzero(counts.region(preds, sample)), np.flatnonzero(~ignored)
    order = own[rank(sample['pred_scores'][own])]
    rows = match(preds[order, :2], sample['pred_labels'][order], boxes[counted, :2], sample['labels'][counted],
                 [distance])[0]
    found = np.zeros(len(preds), bool)
    found[order] = rows >= 0
    missed, wrong = ~ignored, np.zeros(len(preds), bool)
    missed[counted[rows[rows >= 0]]] = False
    wrong[own] = ~found[own]
    return Outcome(found, wrong, missed, ignored)


def arrays_of(sample: Mapping, min_score: float = 0.0) -> dict[str, np.ndarray]:
    """Boxes of a BoxSample as arrays, those that are there; of predictions those of at least a score.

    Args:
        sample: a BoxSample or its dict.
        min_score: of predictions.

    Raises:
        DataError: a field that has another number of rows than its boxes.
    """
    found = {key: np.asarray(value.cpu() if hasattr(value, 'cpu') else value) for key in (
        'boxes', 'labels', 'ignore', 'track_ids', 'num_points', 'pred_boxes', 'pred_scores', 'pred_labels',
        'pred_track_ids') if (value := sample.get(key)) is not None}
    for boxes, fields in (('boxes', ('labels', 'ignore', 'track_ids', 'num_points')),
                          ('pred_boxes', ('pred_scores', 'pred_labels', 'pred_track_ids'))):
        for key in fields:
            if key in found and len(found[key]) != len(found.get(boxes, ())):
                raise DataError(f'drawing {sample.get("sample_id", "a scan")}: {len(found[key])} {key} for '
                                f'{len(found.get(boxes, ()))} {boxes}, expected equal numbers. Give each box one.')
    if 'boxes' in found:
        num = len(found['boxes'])
        found.setdefault('ignore', np.zeros(num, bool))
        found.setdefault('labels', np.zeros(num, np.int64))
    if 'pred_boxes' in found:
        num = len(found['pred_boxes'])
        found.setdefault('pred_labels', np.zeros(num, np.int64))
        scores = found.setdefault('pred_scores', np.ones(num))
        kept = scores >= min_score
        found.update({key: found[key][kept] for key in ('pred_boxes', 'pred_labels', 'pred_scores', 'pred_track_ids')
                      if key in found})
    return found


def layers_of(sample: Mapping, palette: Sequence[Sequence[int]], look: Look) -> tuple[list[BoxLayer], str]:
    """What is drawn of a sample, and its score as a line.

    With truth and predictions, people that were found are dashed and light, missed ones dashed in a warning colour
    with the number of their points, right and wrong predictions have a colour each, and their score. The truth alone
    is drawn in the colours of the tracks with their ids, predictions alone in those of their classes. Predictions with
    tracks have the colours and ids of these, above all people, dashed.

    Args:
        sample: see `arrays_of`.
        palette: (C, 3) RGB.
        look: see Look.
    """
    values = arrays_of(sample, look.min_score)
    true, predicted = 'boxes' in values, 'pred_boxes' in values
    scores = [f'{score:.2f}' for score in values.get('pred_scores', ())]
    if not predicted:
        return _truth(values, palette) if true else [], _count(values['boxes'], 'person', 'people') if true else ''
    boxes, preds = values.get('boxes'), values['pred_boxes']
    if 'pred_track_ids' in values:
        return _followed(values)
    if not true:
        colors = bright(np.array(palette)[values['pred_labels'] % len(palette)])
        name = f'prediction, score {look.min_score:g} or more'
        return [BoxLayer(preds, colors, scores, name=name, ink=bright(np.array(palette[:1]))[0])], \
            _count(preds, 'prediction', 'predictions')
    seen = {key: value for key in ('sample_id', 'lidar_to_image', 'image_path', 'image_size')
            if (value := sample.get(key)) is not None}
    found, wrong, missed, ignored = outcome({**seen, **values}, look.distance, look.counts)
    points = values.get('num_points')
    texts = [''] * len(boxes) if points is None else [f'{n} pt' for n in points]
    layers = [
        BoxLayer(boxes[ignored], IGNORED, dashed=True, name='ignored'),
        BoxLayer(boxes[~missed & ~ignored], TRUTH, dashed=True, name='person'),
        BoxLayer(preds[~found & ~wrong], IGNORED, [scores[i] for i in np.flatnonzero(~found & ~wrong)],
                 name='ignored prediction'),
        BoxLayer(preds[found], FOUND, [scores[i] for i in np.flatnonzero(found)], name='found'),
        BoxLayer(preds[wrong], WRONG, [scores[i] for i in np.flatnonzero(wrong)], name='wrong'),
        BoxLayer(boxes[missed], MISSED, [texts[i] for i in np.flatnonzero(missed)], True, 'missed, with its points')]
    score = (f'found {found.sum()} of {(~ignored).sum()}, {missed.sum()} missed, {wrong.sum()} wrong '
             f'(within {look.distance:g} m, score {look.min_score:g} or more)')
    return layers, score


def _followed(values: Mapping) -> tuple[list[BoxLayer], str]:
    """Predictions in the colours of their tracks, those of none in grey, and people dashed."""
    preds, ids = values['pred_boxes'], values['pred_track_ids']
    own = ids >= 0
    people = [BoxLayer(values['boxes'][~values['ignore']], TRUTH, dashed=True, name='person')] if 'boxes' in values \
        else []
    return [*people, BoxLayer(preds[~own], IGNORED, name='of no track (yet)'),
            BoxLayer(preds[own], track_colors(ids[own]), [str(i) for i in ids[own]], name='followed, with its number',
                     ink=FOUND)], f'{own.sum()} followed, {_count(preds, "prediction", "predictions")}'


def _count(things: Sequence, one: str, more: str) -> str:
    return f'{len(things):,} {one if len(things) == 1 else more}'


def _truth(values: Mapping, palette: Sequence[Sequence[int]]) -> list[BoxLayer]:
    """People in the colours of their tracks, or of their classes."""
    ids, ignored = values.get('track_ids'), values['ignore']
    colors = bright(np.array(palette)[values['labels'] % len(palette)]) if ids is None else track_colors(ids)
    texts = [] if ids is None else [str(i) if i >= 0 else '' for i in ids[~ignored]]  # people who were added have none
    return [BoxLayer(values['boxes'][ignored], IGNORED, dashed=True, name='ignored'),
            BoxLayer(values['boxes'][~ignored], colors[~ignored], texts, name='person', ink=TRUTH)]


def draw_view(view: str, points: np.ndarray, layers: Sequence[BoxLayer], look: Look, image: np.ndarray | None = None,
              lidar_to_image: np.ndarray | None = None, trails: Trails | None = None,
              size: tuple[int, int] | None = None) -> np.ndarray:
    """One view of a scan.

    Args:
        view: of `VIEWS`.
        points: (N, 3+) [m].
        layers: of `layers_of`.
        look: see Look.
        image, lidar_to_image: (H, W, 3) uint8 RGB and its (4, 4) projection.
        trails: where tracks have been, drawn from above.
        size: width and height in pixels of the image or of the view in space.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if view == 'bev':
        above = BirdsEye(look.width, look.front, look.back, look.side, look.forward)
        above.draw_points(points)
        above.draw_rings()
        if trails is not None:
            lines, ids, ages = trails.lines()
            above.draw_trails(lines, track_colors(ids), ages)
        for layer in layers:
            above.draw_boxes(layer)
        return above.picture()
    if view == 'image':
        scale = np.divide(size, image.shape[1::-1])
        picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale[0] < 1 else cv2.INTER_LINEAR)
        # u and v of the middle of the first pixel are 0 before and after
        matrix = np.array([[scale[0], 0, (scale[0] - 1) / 2], [0, scale[1], (scale[1] - 1) / 2], [0, 0, 1]])
        matrix = matrix @ np.asarray(lidar_to_image, np.float64)[:3]
        if trails is not None:
            lines, ids, ages = trails.lines()
            draw_trails_on_image(picture, lines, track_colors(ids), ages, matrix)
        draw_boxes(picture, layers, matrix)
        return picture
    cos, sin = np.cos(look.forward), np.sin(look.forward)
    eye, target = (tuple(np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ place)
                   for place in (BEHIND.eye, BEHIND.target))
    wide = np.tan(np.radians(BEHIND.fov) / 2) * max(16 / 9 * size[1] / size[0], 1)  # as much to the sides at least
    camera = View(eye, target, fov=float(np.degrees(2 * np.arctan(wide))))
    visible = visible_points(points, camera, *size)
    low = np.percentile(points[:, 2], 5) if len(points) else 0.0
    picture = paint(visible, height_greys(points, low, low + 3))
    draw_boxes_in_view(picture, visible, points, layers, camera)
    return picture


def draw_people(points: np.ndarray, sample: Mapping, palette: Sequence[Sequence[int]], look: Look = LOOK,
                image: np.ndarray | None = None, title: str = '', views: Sequence[str] = VIEWS,
                trails: Trails | None = None) -> np.ndarray:
    """Views of a scan beside each other, with a legend and what was found.

    Args:
        points: (N, 3+) x, y, z [m]; N may be 0.
        sample: a BoxSample or its dict, with truth, predictions, both or none.
        palette: C RGB colours of the classes.
        look: see Look.
        image: (H, W, 3) uint8 RGB; without, or without `lidar_to_image` of the sample, there is no such view.
        title: written above the picture, such as the file's name.
        views: of `VIEWS`.
        trails: where tracks have been.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: arrays that do not belong together.
        MissingDependency: for '3d', Open3D or its Vulkan libraries are missing.
    """
    layers, score = layers_of(sample, palette, look)
    matrix = sample.get('lidar_to_image')
    shown = [view for view in VIEWS if view in views and (view != 'image' or image is not None and matrix is not None)]
    panels = {'bev': draw_view('bev', points, layers, look, trails=trails)} if 'bev' in shown else {}
    width = look.width if len(shown) < 3 else round(0.6 * look.width)
    if 'image' in shown:
        size = (width, round(width * image.shape[0] / image.shape[1]))
        panels['image'] = draw_view('image', points, layers, look, image, matrix, trails, size)
    if '3d' in shown:
        height = width * 9 // 16
        if 'bev' in panels:  # as high as what is beside it
            height = max(height, panels['bev'].shape[0] - (panels['image'].shape[0] if 'image' in panels else 0))
        panels['3d'] = draw_view('3d', points, layers, look, size=(width, min(height, LARGEST[1])))
    key = legend(layers, look.width, canvas.text_size(look.width))
    left = [canvas.titled(panels[view], TITLES[view]) for view in ('bev',) if view in panels] + [key]
    right = [canvas.titled(panels[view], TITLES[view]) for view in ('image', '3d') if view in panels]
    body = canvas.beside([canvas.stacked(column, 0) for column in (left, right) if column]) if 'bev' in panels else \
        canvas.stacked([canvas.beside(right), key], 0)
    title = f'{title}   {_count(points, "point", "points")}'
    return canvas.stacked([canvas.bar(body.shape[1], title, score), body], gap=0)


@METRICS.register_module()
class DrawPeople(BaseMetric):
    """Draws each scan that is evaluated into a PNG; it stands beside the metrics and adds no score.

    Colours of the classes come from the data set. Each process draws its own share of the scans.

    Args:
        out_dir: folder of the pictures, `<sample_id>.png`.
        max_scans: draw only so many scans in each process; all by default.
        num_colors: reduce each picture to a palette of so many colours, for smaller files.
        views: of 'image', 'bev' and '3d'; the last one needs Open3D with Vulkan.
        look: what Look says, such as `dict(min_score=0.5, side=20)`.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, out_dir: str | Path, max_scans: int | None = None, num_colors: int | None = None,
                 views: Sequence[str] = VIEWS, look: Mapping | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_dir = Path(out_dir).expanduser()
        self.max_scans, self.num_colors = max_scans, num_colors
        self.views, self.look = check_views(views), make_look(look or {})

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Draw the scans of a batch.

        Args:
            data_batch: `inputs.points`, a list of (N, 3+) tensors.
            data_samples: for each scan the dict of a BoxSample.
        """
        meta = self.dataset_meta or {}
        if 'palette' not in meta:
            raise ConfigError(f'DrawPeople: the data set describes itself by {sorted(meta)}, expected classes and '
                              'palette. Add both to its METAINFO.')
        look = self.look._replace(forward=meta.get('forward', 0.0))
        for points, sample in zip(data_batch['inputs']['points'], data_samples):
            if self.max_scans is not None and len(self.results) >= self.max_scans:
                return
            image = self._image(sample) if 'image' in self.views else None
            picture = draw_people(points.cpu().numpy(), sample, meta['palette'], look, image, sample['sample_id'],
                                  self.views)
            path = canvas.save_png(self.out_dir / f'{sample["sample_id"]}.png', picture, self.num_colors)
            self.results.append(str(path))

    @staticmethod
    def _image(sample: Mapping) -> np.ndarray | None:
        """The image of a sample, None where it has none or a damaged one, which ends no test of a net of scans."""
        try:
            return image_of(sample)
        except DataError as error:
            print_log(f'{error} The scan is drawn without it.', 'current', logging.WARNING)
            return None

    def compute_metrics(self, results: list[str]) -> dict:
        """No score comes from pictures."""
        return {}


def check_views(views: Sequence[str]) -> tuple[str, ...]:
    """The views, once it is sure that each is one.

    Raises:
        ConfigError: none, or an unknown one.
    """
    if isinstance(views, str) or not len(views):
        raise ConfigError(f'views={views!r}, expected some of {", ".join(VIEWS)}. Name them in a list.')
    for view in views:
        check_choice('view', view, VIEWS)
    return tuple(views)


def make_look(options: Mapping) -> Look:
    """Look of some options.

    Raises:
        ConfigError: an option that it does not have, or one that cannot be.
    """
    for name in options:
        check_choice('look', name, Look._fields)
    counts = dict(options.get('counts') or {})
    for name in counts:
        check_choice('counts', name, asdict(Filters()))
    look = Look(**{**options, 'counts': Filters(**counts)})
    check_positive('look', distance=look.distance, side=look.side, width=look.width)
    return look


def image_of(sample: Mapping) -> np.ndarray | None:
    """The image (H, W, 3) uint8 RGB of a sample, None where it has none; where its file is absent that is said.

    Raises:
        DataError: a file that cannot be read.
    """
    path = sample.get('image_path')
    if not path:
        return None
    if not Path(path).exists():
        print_log(f'{path}: no such image, expected that of {sample.get("sample_id", "the scan")}; it is drawn '
                  'without. Unpack the images too.', 'current', logging.WARNING)
        return None
    return read_image(path, upright=True)
