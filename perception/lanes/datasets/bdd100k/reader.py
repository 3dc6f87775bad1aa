"""BDD100K: A Diverse Driving Dataset for Heterogeneous Multitask Learning (CVPR 2020), its lane markings.

Fisher Yu, Haofeng Chen, Xin Wang, Wenqi Xian, Yingying Chen, Fangchen Liu, Vashisht Madhavan, Trevor Darrell.

The official folders are read as they are unpacked, `data_root` is the folder `bdd100k` of the archives:

    <data_root>/images/100k/{train,val,test}/<id>.jpg               1280 x 720
    <data_root>/labels/lane/polygons/{lane_train,lane_val}.json     border lines of each marking, Scalabel format
    <data_root>/labels/lane/masks/{train,val}/<id>.png              8 bits: direction, style, background, category

Where there are no polygons, lanes are taken from the labels of the first years, which hold all objects of an image:

    <data_root>/labels/bdd100k_labels_images_{train,val}.json       2018
    <data_root>/labels/100k/{train,val}/<id>.json                   an image a file

SAD's protocol tells lanes from background. Its test images are the official validation set, its validation images are
a seventh of the official training set (10,000 of 70,000; the published list is not available, here it is every seventh
name), and its labels are the centre lines of pairs of border lines.
"""
import json
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np

from perception.common.formats.images import read_label_image
from perception.common.formats.text import read_json, read_json_array
from perception.lanes.datasets.base import RoadImages, Truth, check_files, check_size, inside, missing_root
from perception.lanes.polylines import dilate, draw_instances
from perception.registry import DATASETS
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError, DataError

DOWNLOAD = 'https://bdd-data.berkeley.edu'
LAYOUT = 'images/100k/train/*.jpg, labels/lane/polygons/lane_train.json, labels/lane/masks/train/*.png'
PROTOCOLS = ('sad', 'official')
CATEGORIES = ('crosswalk', 'double other', 'double white', 'double yellow', 'road curb', 'single other', 'single white',
              'single yellow')  # bits 2..0 of a mask
DIRECTIONS = ('parallel', 'vertical')  # bit 5
STYLES = ('solid', 'dashed')  # bit 4
BACKGROUND_BIT = 8
CLASSES = dict(category=CATEGORIES, direction=DIRECTIONS, style=STYLES)
PALETTE = ((0, 0, 0), (60, 190, 75), (255, 140, 0), (255, 60, 60), (255, 220, 0), (160, 60, 220), (0, 200, 200),
           (60, 120, 255), (240, 100, 190))
OBJECTS = ('bicycle', 'bike', 'bus', 'car', 'motor', 'motorcycle', 'other person', 'other vehicle', 'pedestrian',
           'person', 'rider', 'traffic light', 'traffic sign', 'trailer', 'train', 'truck', 'drivable area',
           'area/drivable', 'area/alternative', 'area/unknown')  # in labels of the first years, beside lanes
OTHER = "It is none of BDD100K's forms of lane labels; correct it, or take the official file."
VAL_SHARE = 7  # every seventh training image validates in SAD's protocol
TRAIN_WIDTH, TEST_WIDTH = 8, 2  # pixels of a centre line
_SAMPLES = 50  # along each line, to measure distances
_CURVE_STEPS = 16  # of a Bezier curve


@DATASETS.register_module()
class BDD100K(RoadImages):
    """Lane markings of BDD100K; see `RoadImages` for the other arguments.

    `protocol='sad'`: `labels` 0 and 1 with lines of 8 pixels, `full_labels` 0 and 1 with lines of 2 pixels for val and
    test, `lanes` the centre lines. `protocol='official'`: `labels` of one sub-task, 0 = background, `full_labels` the
    8-bit mask for val; train, val and test are the official ones, test has no labels. `sample_id` is `<folder>/<id>`.

    Args:
        protocol: 'sad' or 'official'.
        task: sub-task of the official protocol: 'category' (8 classes), 'direction' (2) or 'style' (2).
        exclude: categories that are no lanes in SAD's protocol; lines across the road never are.
        max_distance: largest mean distance of two border lines of one marking in pixels.
        all_lanes: number the lanes of SAD's protocol 1, 2, ... from left to right in `labels`, instead of 1 for all.
            For networks that tell any number of lanes apart.
    """

    METAINFO = dict(classes=('background', 'lane'), palette=PALETTE[:2])
    IMAGE_SIZE = (720, 1280)
    HORIZON = 343
    OFFICIAL_SIZES = dict(train=60000, val=10000, test=10000)

    def __init__(self, data_root: str | Path = 'data/bdd100k', split: str = 'train',
                 pipeline: Sequence[dict | Callable] = (), input_size: Sequence[int] | None = None, crop_top: int = 0,
                 seed: int = 0, protocol: str = 'sad', task: str = 'category',
                 exclude: Sequence[str] = ('crosswalk',), max_distance: float = 40.0,
                 all_lanes: bool = False) -> None:
        for name, value, known in (('protocol', protocol, PROTOCOLS), ('task', task, CLASSES)):
            if value not in known:
                raise ConfigError(f'BDD100K: {name}={value!r}, expected one of {", ".join(known)}. '
                                  f'{close_matches(value, known)}')
        self.protocol, self.task, self.exclude, self.max_distance = protocol, task, tuple(exclude), max_distance
        self.all_lanes = all_lanes
        super().__init__(data_root, split, pipeline, input_size, crop_top, seed)
        self.metainfo.update(self.describe(dict(protocol=protocol, task=task)))
        if protocol == 'official':
            self.official_size = dict(train=70000, val=10000, test=20000)[split]

    @classmethod
    def describe(cls, config: Mapping) -> dict:
        """Classes and palette: a lane, or the classes of the official protocol's sub-task."""
        if config.get('protocol', 'sad') != 'official':
            return cls.METAINFO
        classes = ('background', *CLASSES[config.get('task', 'category')])
        return dict(classes=classes, palette=PALETTE[:len(classes)])

    def list_samples(self) -> list[tuple]:
        folder = self.split
        if self.protocol == 'sad':
            folder = 'val' if self.split == 'test' else 'train'
        images, labels = self.data_root / 'images' / '100k' / folder, self.data_root / 'labels'
        listed = labels / 'lane' / 'polygons' / f'lane_{folder}.json'
        if self.protocol == 'official':
            listed = images if self.split == 'test' else labels / 'lane' / 'masks' / folder
        else:
            forms = (listed, labels / f'bdd100k_labels_images_{folder}.json', labels / '100k' / folder)
            listed = next((path for path in forms if path.exists()), listed)
        if not listed.exists():
            raise missing_root(listed, self.data_root, 'BDD100K', LAYOUT, DOWNLOAD)
        if self.protocol == 'official':
            names = sorted(path.stem for path in listed.glob('*.jpg' if listed == images else '*.png')
                           if not path.name.startswith('.'))
            entries = [(f'{folder}/{name}', str(images / f'{name}.jpg'), str(listed / f'{name}.png')) for name in names]
        elif listed.is_dir():
            files = sorted(path for path in listed.glob('*.json') if not path.name.startswith('.'))
            entries = [self._entry(dict(name=path.stem), '', folder, str(path)) for path in files]
        else:
            frames = read_json_array(listed, 'lane labels of BDD100K')
            entries = sorted((self._entry(frame, text, folder, where) for where, frame, text in frames),
                             key=lambda entry: entry[0])
        if not entries:
            raise missing_root(listed / '*', self.data_root, 'BDD100K', LAYOUT, DOWNLOAD)
        if self.protocol == 'sad' and self.split != 'test':
            entries = [entry for i, entry in enumerate(entries)
                       if (i % VAL_SHARE == VAL_SHARE - 1) == (self.split == 'val')]
            if not entries:
                raise DataError(f'{listed}: fewer than {VAL_SHARE} images, expected enough for a training and a '
                                'validation split. Unpack the whole data set.')
        check_files([entry[1] for entry in entries], listed)
        return entries

    def _entry(self, frame: dict, text: str, folder: str, where: str) -> tuple:
        """The frame stays text until it is needed: 70,000 of them as objects take gigabytes."""
        name = frame.get('name')
        if not isinstance(name, str) or not name or '/' in name:
            raise DataError(f'{where}: name {str(name)[:60]!r}, expected "<id>.jpg". {OTHER}')
        stem = name.removesuffix('.jpg')
        path = inside(self.data_root, f'images/100k/{folder}/{stem}.jpg', where)
        return f'{folder}/{stem}', path, text, where

    def read_truth(self, entry: Sequence, size: tuple[int, int]) -> tuple[Truth, dict]:
        if self.protocol == 'sad':
            frame = json.loads(entry[2]) if entry[2] else read_json(entry[3], 'labels of BDD100K')
            where = f'{entry[3]} ({Path(entry[1]).name})'
            lines, kinds = parse_lines(labels_of(frame, where), where, self.exclude)
            lanes = centre_lines(lines, kinds, self.max_distance * size[1] / self.IMAGE_SIZE[1])
            thin = draw_instances(lanes, size, 1)
            any_lane = (thin > 0).astype(np.uint8)
            full = None if self.split == 'train' else dilate(any_lane, self.line_width(TEST_WIDTH, size))
            labels = dilate(thin if self.all_lanes else any_lane, self.line_width(TRAIN_WIDTH, size))
            return Truth(labels, None, lanes, full), {}
        if self.split == 'test':
            return Truth(), {}
        mask = check_size(read_label_image(entry[2]), size, entry[2])
        full = mask if self.split == 'val' else None
        return Truth(mask_labels(mask, self.task), full_labels=full), dict(masks=self.task)


def mask_labels(mask: np.ndarray, task: str) -> np.ndarray:
    """Labels of a sub-task from an official mask.

    Args:
        mask: (H, W) uint8: bit 5 direction, bit 4 style, bit 3 background, bits 2..0 category.
        task: 'category', 'direction' or 'style'.

    Returns:
        (H, W) uint8, 0 = background, then the classes in official order.
    """
    shift, bits = dict(category=(0, 7), direction=(5, 1), style=(4, 1))[task]
    return np.where(mask & BACKGROUND_BIT, 0, (mask >> shift & bits) + 1).astype(np.uint8)


def to_mask(classes: np.ndarray, codes: Sequence[int]) -> np.ndarray:
    """Official 8-bit mask of predicted classes, their lines one pixel wide.

    Args:
        classes: (H, W) integers, 0 = background.
        codes: byte of each class from 1 on, such as 6, a solid single white line along the road.

    Raises:
        DataError: a class without a code.
    """
    if classes.max(initial=0) > len(codes):
        raise DataError(f'BDD100K: class {classes.max()} in a prediction, expected 0..{len(codes)}. Pass a code for '
                        f'each class of the network.')
    mask = np.full(classes.shape, BACKGROUND_BIT, np.uint8)
    for k, code in enumerate(codes, 1):
        if (classes == k).any():
            mask[thin(classes == k)] = code
    return mask


def check_codes(where: str, codes: Sequence[int]) -> tuple[int, ...]:
    """Bytes of classes as a tuple.

    Raises:
        ConfigError: one that stands for background, or for nothing.
    """
    wrong = [code for code in codes if not isinstance(code, Integral) or not 0 <= code < 64 or code & BACKGROUND_BIT]
    if wrong:
        raise ConfigError(f'{where}: codes={[*codes]}, expected 0..63 without {BACKGROUND_BIT}, the bit of the '
                          f'background, which {wrong[0]!r} is not. Give category + 16 (dashed) + 32 (across the road).')
    return tuple(codes)


def thin(mask: np.ndarray) -> np.ndarray:
    """Lines reduced to a width of one pixel (Zhang and Suen, 1984), as the official score wants predictions.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    result, changed = np.zeros_like(mask), True
    if not len(rows):
        return result
    box = np.s_[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    image = np.pad(mask[box], 1)
    while changed:
        changed = False
        for step in range(2):
            n = [image[1 + dy:image.shape[0] - 1 + dy, 1 + dx:image.shape[1] - 1 + dx]
                 for dy, dx in ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))]
            neighbours = np.sum(n, axis=0, dtype=np.uint8)
            starts = np.sum([~a & b for a, b in zip(n, n[1:] + n[:1])], axis=0, dtype=np.uint8)
            up, right, down, left = n[::2]
            corners = ((up & right & down) | (right & down & left) if step == 0
                       else (up & right & left) | (up & down & left))
            remove = image[1:-1, 1:-1] & (neighbours >= 2) & (neighbours <= 6) & (starts == 1) & ~corners
            if remove.any():
                image[1:-1, 1:-1] &= ~remove
                changed = True
    result[box] = image[1:-1, 1:-1]
    return result


def labels_of(frame: dict, where: str) -> object:
    """The labels of an image, in today's form or in the first, whose `frames` hold `objects`.

    Raises:
        DataError: no such form.
    """
    if 'frames' not in frame:
        return frame.get('labels')
    first = next(iter(_list(frame['frames'], f'{where}: frames')), None)
    if not isinstance(first, dict):
        raise DataError(f'{where}: frames {str(frame["frames"])[:60]}, expected an object with `objects`. {OTHER}')
    return first.get('objects')


def parse_lines(labels: object, where: str, exclude: Sequence[str] = ()) -> tuple[list[np.ndarray], list[tuple]]:
    """Border lines along the road from the labels of a frame.

    Args:
        labels: list of Scalabel labels, or None: an image without markings. Objects that are none, such as cars, are
            left out.
        where: file and frame, for messages.
        exclude: categories that are left out.

    Returns:
        (P, 2) float64 lines u, v [pixel], and category and style of each.

    Raises:
        DataError: fields that are missing or no numbers.
    """
    lines, kinds = [], []
    if labels is not None and not isinstance(labels, list):
        raise DataError(f'{where}: labels of type {type(labels).__name__}, expected a list. {OTHER}')
    for i, label in enumerate(labels or []):
        attributes = label.get('attributes') or {} if isinstance(label, dict) else None
        if not isinstance(attributes, dict):
            raise DataError(f'{where}, label {i}: {str(label)[:60]}, expected an object. {OTHER}')
        if str(label.get('category')) in OBJECTS:
            continue
        category = attributes.get('laneTypes', attributes.get('laneType', label.get('category')))
        category = category.removeprefix('lane/') if isinstance(category, str) else category
        direction = attributes.get('laneDirection', attributes.get('direction', 'parallel'))
        style = attributes.get('laneStyle', attributes.get('style', 'solid'))
        for name, value, known in (('category', category, CATEGORIES), ('laneDirection', direction, DIRECTIONS),
                                   ('laneStyle', style, STYLES)):
            if value not in known:
                raise DataError(f'{where}, label {i}: {name} {str(value)[:40]!r}, expected one of {", ".join(known)}. '
                                f'{OTHER}')
        if direction == 'parallel' and category not in exclude:
            polygons = _list(label.get('poly2d'), f'{where}, label {i}: poly2d')
            if polygons and all(isinstance(point, list) and len(point) == 3 for point in polygons):  # the first form
                polygons = [dict(vertices=[point[:2] for point in polygons],
                                 types=''.join(str(point[2]) for point in polygons))]
            for poly in polygons:
                lines.append(_line(poly, f'{where}, label {i}'))
                kinds.append((category, style))
    return lines, kinds


def _line(poly: object, where: str) -> np.ndarray:
    vertices = _list(poly.get('vertices') if isinstance(poly, dict) else None, f'{where}: vertices')
    types = poly.get('types', 'L' * len(vertices))
    try:
        points = np.array(vertices).astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.array([np.nan])
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) < 1e5).all():
        raise DataError(f'{where}: vertices {str(vertices)[:60]}, expected [u, v] pixels, one at least. {OTHER}')
    if not isinstance(types, str) or len(types) != len(points) or set(types) - set('LC'):
        raise DataError(f'{where}: types {str(types)[:60]!r} for {len(points)} vertices, expected a letter L or C for '
                        f'each. {OTHER}')
    return curve(points, types)


def _list(values: object, where: str) -> list:
    if not isinstance(values, list):
        raise DataError(f'{where} {str(values)[:60]}, expected a list. {OTHER}')
    return values


def curve(vertices: np.ndarray, types: str) -> np.ndarray:
    """Points of a line of BDD100K, whose parts may be Bezier curves.

    Args:
        vertices: (P, 2) pixels.
        types: a letter for each vertex, 'L' on the line, 'C' control point; two between ends make a cubic curve.

    Returns:
        (Q, 2) points of the line; control points that are not in pairs count as points of it.
    """
    parts, i = [vertices[:1]], 1
    t = np.arange(1, _CURVE_STEPS + 1)[:, None] / _CURVE_STEPS
    while i < len(vertices):
        if types[i:i + 2] == 'CC' and i + 2 < len(vertices):
            a, b, c, d = vertices[i - 1:i + 3]
            parts.append((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t ** 2 * c + t ** 3 * d)
            i += 3
        else:
            parts.append(vertices[i:i + 1])
            i += 1
    return np.concatenate(parts)


def centre_lines(lines: Sequence[np.ndarray], kinds: Sequence, max_distance: float = 40.0) -> list[np.ndarray]:
    """One line in the middle of each pair of border lines; lines without a partner stay (BDD100K in SAD).

    Two lines of one kind make a pair if their mean distance is at most `max_distance`; the nearest are paired first.
    The middle goes along the shorter one, half-way to the nearest points of the other.

    Args:
        lines: (P, 2) arrays u, v in pixels, each with a point at least.
        kinds: of each line, anything that can be compared.
        max_distance: in pixels.

    Returns:
        (Q, 2) float64 arrays, bottom to top.
    """
    samples = [_evenly(line) for line in lines]
    pairs = []
    for i, first in enumerate(samples):
        for j in range(i):
            if kinds[i] == kinds[j]:
                distances = np.linalg.norm(first[:, None] - samples[j][None], axis=2)
                pairs.append((min(distances.min(1).mean(), distances.min(0).mean()), j, i))
    free, result = set(range(len(lines))), []
    for distance, j, i in sorted(pairs):
        if distance <= max_distance and {i, j} <= free:
            free -= {i, j}
            result.append(_middle(samples[j], samples[i]))
    result += [np.asarray(lines[i], np.float64) for i in sorted(free)]
    return [line if line[0, 1] >= line[-1, 1] else line[::-1] for line in result]


def _evenly(line: np.ndarray) -> np.ndarray:
    """(S, 2) points at equal distances along a line."""
    line = np.asarray(line, np.float64)
    along = np.concatenate([[0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])
    steps = np.linspace(0, along[-1], _SAMPLES)
    return np.stack([np.interp(steps, along, line[:, axis]) for axis in (0, 1)], axis=1)


def _middle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(S, 2) points half-way between the shorter of two lines and the nearest points of the other."""
    if np.linalg.norm(np.diff(first, axis=0), axis=1).sum() > np.linalg.norm(np.diff(second, axis=0), axis=1).sum():
        first, second = second, first
    nearest = np.linalg.norm(first[:, None] - second[None], axis=2).argmin(1)
    return (first + second[nearest]) / 2
