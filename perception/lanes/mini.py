"""Mini data sets of road images: toy streets in the official layouts of five data sets.

Every set has the files that its official archives have, at the official image size; `mini.json` beside them says what
they were made from. Images are rendered smaller and enlarged (`detail`), labels come from geometry at full size. The
splits never share a street. The readers in `datasets/` say how the folders are laid out.

Left out: frames 1 to 19 of TuSimple's clips, which have no labels; grey-scale images of LLAMAS.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.common.scene.camera import APOLLOSCAPE, BDD100K, CULANE, LLAMAS, TUSIMPLE, CameraSpec, label_maps
from perception.common.scene.labels import APOLLOSCAPE_IDS
from perception.common.scene.street import JUNCTION, LaneBoundary
from perception.common.scene.world import SCENE_VERSION
from perception.common.visual import canvas
from perception.lanes.datasets.apolloscape.reader import MARK_CLASSES
from perception.lanes.datasets.base import RoadImages
from perception.lanes.datasets.bdd100k.reader import CATEGORIES
from perception.lanes.datasets.culane.metric import CATEGORIES as CULANE_CATEGORIES
from perception.lanes.draw import PALETTE, overlay_labels
from perception.lanes.shots import (
    FAR,
    HEIGHT,
    NEAR,
    Plan,
    Save,
    Trace,
    View,
    in_image,
    lower_end,
    pixels,
    take_all,
    trace,
)
from perception.utils.errors import DataError
from perception.utils.paths import data_path

CODES = dict(culane=2, tusimple=3, bdd100k=4, llamas=5, apolloscape=6)  # keep the streets of the sets apart
WRITER_VERSIONS = dict(culane=1, tusimple=2, bdd100k=2, llamas=2, apolloscape=2)     # go up when files change
SPLITS = ('train', 'val', 'test')
LOOKS = ('day', 'shadow', 'night', 'day', 'glare')   # of streets, in turn
PER_STREET = 3                                      # images of one street
KERB = .16                                          # metres, width of a kerb
DASH = 3.0                                          # metres, length of a dash and of a marker of LLAMAS
LABEL_SCALE = .5                                    # of ApolloScape's label images, in rays a pixel

# what makes a street one of CULane's categories
_CULANE_TEST = dict(
    normal={}, crowd=dict(traffic=2.5), hlight=dict(look='glare'), shadow=dict(look='shadow'),
    noline=dict(painted=False), arrow=dict(place='arrow'),
    curve=dict(place='curve', max_curvature=1 / 70), cross=dict(place='junction'),
    night=dict(look='night'))
CULANE_TEST_DRIVERS = ('driver_37_30frame', 'driver_100_30frame', 'driver_193_90frame')
_H_SAMPLES = list(range(160, 720, 10))


@dataclass(frozen=True)
class Streets:
    """What the streets of a data set are like; styles, places and looks of numbers without common factor all meet.

    Attributes:
        styles: of the streets, in turn.
        places: of the ego, in turn; every fourth street is seen where it bends most.
        marks: whether arrows and other marks are painted on the lanes.
        crowds: every so many-th street is full of vehicles; 0 for none.
        images: of one street.
    """
    styles: tuple[str, ...]
    places: tuple[str, ...] = ('lane', 'lane', 'change')
    marks: bool = False
    crowds: int = 0
    images: int = PER_STREET


_MOTORWAYS = ('highway', 'wide_highway', 'highway', 'highway', 'wide_highway', 'highway', 'wide_highway')
STREETS = dict(
    culane=Streets(('urban', 'urban', 'residential')),
    tusimple=Streets(_MOTORWAYS),
    many_lanes=Streets(('wide_highway', 'boulevard', 'highway', 'wide_highway', 'boulevard', 'wide_highway', 'urban'),
                       ('lane', 'change', 'change')),
    bdd100k=Streets(('avenue', 'highway', 'urban', 'residential', 'boulevard', 'avenue', 'wide_highway'),
                    ('lane', 'approach', 'change')),
    llamas=Streets(_MOTORWAYS),
    apolloscape=Streets(('avenue', 'urban', 'highway', 'boulevard', 'residential', 'urban', 'avenue'),
                        ('approach', 'lane', 'lane'), marks=True, crowds=3, images=1))


def write_culane_mini(root: str | Path = 'data/mini/culane', seed: int = 0, train: int = 42, val: int = 12,
                      test: int = 18, detail: float = .5, length: float = 260.0, workers: int = 2,
                      force: bool = False) -> Path:
    """Writes a mini CULane, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train, val, test: images of each split; the test images are dealt to the nine categories in turn.
        detail: share of the official width at which images are rendered; files have the official size all the same.
            Tests that look at no image use .1, which is fast.
        length: metres of each street, 180 or more; shorter ones are faster.
        workers: processes that take images; the result does not depend on it.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    return _write('culane', 'CULane', 40, root, seed, (train, val, test), detail, length, workers, force, _culane)


def write_tusimple_mini(root: str | Path = 'data/mini/tusimple', seed: int = 0, train: int = 42, val: int = 12,
                        test: int = 18, detail: float = .5, length: float = 260.0, workers: int = 2,
                        force: bool = False, streets: str = 'tusimple') -> Path:
    """Writes a mini TuSimple; see `write_culane_mini`.

    Args:
        streets: `'tusimple'` for motorways with the five nearest lanes labelled, as in the official files;
            `'many_lanes'` for wide motorways and boulevards, half of them seen while the ego changes lanes, with all
            lanes labelled.

    Raises:
        DataError: other streets.
    """
    if streets not in ('tusimple', 'many_lanes'):
        raise DataError(f'write_tusimple_mini: streets={streets!r}, expected tusimple or many_lanes. Correct it.')
    save = _save_tusimple if streets == 'tusimple' else _save_all_lanes
    return _write('tusimple', 'TuSimple', 40, root, seed, (train, val, test), detail, length, workers, force,
                  partial(_tusimple, save=save), streets=streets)


def write_bdd100k_mini(root: str | Path = 'data/mini/bdd100k', seed: int = 0, train: int = 49, val: int = 18,
                       test: int = 6, detail: float = .5, length: float = 260.0, workers: int = 2,
                       force: bool = False) -> Path:
    """Writes a mini BDD100K; see `write_culane_mini`.

    The splits are the official ones: SAD's protocol validates with a seventh of `train` and tests with `val`.
    """
    return _write('bdd100k', 'BDD100K', 40, root, seed, (train, val, test), detail, length, workers, force, _bdd100k,
                  least=7)


def write_llamas_mini(root: str | Path = 'data/mini/llamas', seed: int = 0, train: int = 42, val: int = 12,
                      test: int = 6, detail: float = .5, length: float = 260.0, workers: int = 2,
                      force: bool = False) -> Path:
    """Writes a mini LLAMAS; see `write_culane_mini`. Test labels are not public, so there are none."""
    return _write('llamas', 'LLAMAS', 120, root, seed, (train, val, test), detail, length, workers, force, _llamas)


def write_apolloscape_mini(root: str | Path = 'data/mini/apolloscape', seed: int = 0, train: int = 14, val: int = 4,
                           test: int = 2, detail: float = .25, length: float = 260.0, workers: int = 2,
                           force: bool = False) -> Path:
    """Writes a mini ApolloScape lane mark; see `write_culane_mini`. Label images are cast at half size."""
    return _write('apolloscape', 'ApolloScape', 60, root, seed, (train, val, test), detail, length, workers,
                  force, _apolloscape)


def _write(name: str, title: str, megabytes: int, root: str | Path, seed: int, counts: tuple[int, int, int],
           detail: float, length: float, workers: int, force: bool, fill: Callable[[_Order], None],
           least: int = 1, **more) -> Path:
    """The files of `fill`, stamped with all arguments; `more` are those of one data set alone."""
    where = f'write_{name}_mini'
    if min(counts) < 1 or max(counts) > 1000 or counts[0] < least:
        raise DataError(f'{where}: train, val, test = {counts}, expected {least} or more training images, 1 to 1000 of '
                        'each split. Give other numbers.')
    if seed < 0 or not .02 <= detail <= 1 or not 180 <= length <= 1000 or not 1 <= workers <= 64:
        raise DataError(f'{where}: seed={seed}, detail={detail}, length={length}, workers={workers}, expected a seed '
                        'of 0 or more, a detail of 0.02 to 1, streets of 180 to 1000 m and 1 to 64 workers. Give '
                        'numbers in these ranges.')
    images = dict(zip(SPLITS, counts))
    stamp = dict(dataset=name, simulated=True, scene_version=SCENE_VERSION, writer_version=WRITER_VERSIONS[name],
                 seed=seed, images=images, detail=detail, length=length, **more)

    def write(folder: Path) -> None:
        take = partial(take_all, root=folder, detail=detail, workers=workers, title=title)
        fill(_Order(folder, (seed, CODES[name]), STREETS[more.get('streets', name)], images, length, take))
    return write_stamped(data_path(root), stamp, write, title, megabytes, force)


@dataclass(frozen=True)
class _Order:
    """What a data set is written from: its folder, seed, kind of streets and their length, images of each split."""
    root: Path
    seed: tuple[int, int]
    streets: Streets
    images: dict[str, int]
    length: float
    take: Callable[..., list[list]]

    def plans(self, split: str, names: Sequence[str], **kinds) -> list[Plan]:
        """Some images a street; looks, styles and places in turn unless `kinds` sets them."""
        plans, streets = [], self.streets
        for index, first in enumerate(range(0, len(names), streets.images)):
            kind = dict(look=LOOKS[index % len(LOOKS)], style=streets.styles[index % len(streets.styles)],
                        place='curve' if index % 4 == 3 else streets.places[index % len(streets.places)],
                        special_marks=streets.marks, crowd=bool(streets.crowds) and index % streets.crowds == 0)
            plans.append(Plan((*self.seed, SPLITS.index(split), index), tuple(names[first:first + streets.images]),
                              length=self.length, **dict(kind, **kinds)))
        return plans


def _flat(records: list[list]) -> list:
    return [record for street in records for record in street]


def _save(path: Path, image: np.ndarray, *options: int) -> None:
    """Writes an RGB or a grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix, image[..., ::-1] if image.ndim == 3 else image, options)
    if not ok:
        raise DataError(f'{path}: OpenCV could not encode it, expected a picture. This is a bug; please report it.')
    path.write_bytes(data.tobytes())


def _jpeg(path: Path, image: np.ndarray) -> None:
    _save(path, image, cv2.IMWRITE_JPEG_QUALITY, 90)


def beside_ego(traces: Sequence[Trace], spec: CameraSpec, each: int) -> dict[int, Trace]:
    """The boundaries next to the ego: 0 and up to the right, -1 and down to the left, at most `each` on a side."""
    ends = [lower_end(found, spec) for found in traces]
    left = [found for end, found in zip(ends, traces) if end < spec.width / 2][::-1][:each]
    right = [found for end, found in zip(ends, traces) if end >= spec.width / 2][:each]
    return dict(sorted({**{-1 - i: found for i, found in enumerate(left)}, **dict(enumerate(right))}.items()))


def _polyline(image: np.ndarray, points: np.ndarray, value: int | Sequence[int], thickness: int) -> None:
    cv2.polylines(image, [np.rint(np.clip(points, -9e3, 9e3)).astype(np.int32)[:, None]], False, value, thickness,
                  cv2.LINE_8)


# ---- CULane
def _culane(order: _Order) -> None:
    lists = {}
    for split, drivers in (('train', ('driver_161_90frame', 'driver_182_30frame')), ('val', ('driver_23_30frame',))):
        names = [_culane_name(drivers, i) for i in range(order.images[split])]
        lists[f'{split}_gt'] = _flat(order.take(order.plans(split, names), CULANE, save=_save_culane))
        lists[split] = [line.split()[0] for line in lists[f'{split}_gt']]
    plans, lists['test'] = [], []
    for number, category in enumerate(CULANE_CATEGORIES):
        count = len(range(number, order.images['test'], len(CULANE_CATEGORIES)))
        names = [_culane_name(CULANE_TEST_DRIVERS, 60 * number + i) for i in range(count)]
        kind = dict(dict(look='day', style='urban', place='lane'), **_CULANE_TEST[category])
        plans += [replace(plan, seed=(*plan.seed, number))
                  for plan in order.plans('test', names, **kind)]
        lists[f'test_split/test{number}_{category}'] = [f'/{name}.jpg' for name in names]
        lists['test'] += [f'/{name}.jpg' for name in names]
    order.take(plans, CULANE, save=_save_culane)
    for name, lines in lists.items():
        if lines:
            _write_lines(order.root / 'list' / f'{name}.txt', lines)


def _culane_name(drivers: Sequence[str], index: int) -> str:
    street, frame = divmod(index, PER_STREET)
    return f'{drivers[street % len(drivers)]}/0516{1000 + street:04d}_{400 + street:04d}.MP4/{30 * frame + 30:05d}'


def _save_culane(root: Path, name: str, view: View) -> str:
    """Image, points and, except for test, label image; returns the line of the list."""
    _jpeg(root / f'{name}.jpg', view.frame.image)
    labels = np.zeros(view.frame.part.shape, np.uint8)
    lines, rows = [], np.arange(590, 0, -10)
    for side, found in beside_ego(view.traces, view.spec, 2).items():
        points = np.stack([found.at(rows), rows], -1)
        points = points[np.abs(points[:, 0] - view.spec.width / 2) < .75 * view.spec.width]       # NaN is left out, too
        lines.append(' '.join(f'{u:.3f} {v:.0f}' for u, v in points) + ' ')
        _polyline(labels, points, side + 3, 16)
    (root / f'{name}.lines.txt').write_text(''.join(f'{line}\n' for line in lines))
    if not name.startswith(CULANE_TEST_DRIVERS):
        _save(root / 'laneseg_label_w16' / f'{name}.png', labels)
    flags = ' '.join(f'{(labels == slot).any():d}' for slot in range(1, 5))
    return f'/{name}.jpg /laneseg_label_w16/{name}.png {flags}'


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


# ---- TuSimple
def _tusimple(order: _Order, save: Save) -> None:
    half = (order.images['train'] + 1) // 2
    for split, start, files in (('train', 0, (('label_data_0313', '0313-1', 0, half),
                                              ('label_data_0601', '0601', half, order.images['train']))),
                                ('val', 0, (('label_data_0531', '0531', 0, order.images['val']),)),
                                ('test', 0, (('test_label', '0530', 0, order.images['test']),))):
        names = [f'clips/{date}/{start + 1494452000 + 7 * i}/20.jpg' for _, date, first, stop in files
                 for i in range(first, stop)]
        records = _flat(order.take(order.plans(split, names), TUSIMPLE, save=save))
        for file, _, first, stop in files:
            if first < stop:
                _write_lines(order.root / f'{file}.json', [json.dumps(record) for record in records[first:stop]])
    tasks = [dict(h_samples=record['h_samples'], raw_file=record['raw_file']) for record in records]
    _write_lines(order.root / 'test_tasks_0627.json', [json.dumps(task) for task in tasks])


def _save_tusimple(root: Path, name: str, view: View) -> dict:
    """The image; returns the line of the label file with the five nearest lanes."""
    nearest = sorted(view.traces, key=lambda found: abs(lower_end(found, view.spec) - view.spec.width / 2))[:5]
    return _save_all_lanes(root, name, view._replace(traces=sorted(nearest, key=lambda found: lower_end(
        found, view.spec))))


def _save_all_lanes(root: Path, name: str, view: View) -> dict:
    """The image; returns the line of the label file with all lanes in view."""
    _jpeg(root / name, view.frame.image)
    lanes = []
    for found in view.traces:
        columns = np.rint(found.at(np.array(_H_SAMPLES)))
        inside = (columns >= 0) & (columns < view.spec.width)
        if inside.sum() > 3:
            lanes.append(np.where(inside, columns, -2).astype(int).tolist())
    return dict(lanes=lanes, h_samples=_H_SAMPLES, raw_file=name)


# ---- BDD100K
def _bdd100k(order: _Order) -> None:
    for split in SPLITS:
        names = [f'{split}/{i:04x}{order.seed[0] % 65536:04x}-{0xb1d + 977 * i:08x}'
                 for i in range(order.images[split])]
        frames = _flat(order.take(order.plans(split, names), BDD100K, save=_save_bdd100k))
        if split != 'test':
            path = order.root / 'labels' / 'lane' / 'polygons' / f'lane_{split}.json'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(frames, indent=1) + '\n')


def _save_bdd100k(root: Path, name: str, view: View) -> dict:
    """Image and mask; returns the frame of the label file, each marking as its two border lines."""
    _jpeg(root / 'images' / '100k' / f'{name}.jpg', view.frame.image)
    mask = np.full(view.frame.part.shape[:2], 255, np.uint8)
    labels = []
    for category, direction, style, points in _bdd_lines(view):
        points = np.round(points[::max(1, len(points) // 24)], 3)
        bits = CATEGORIES.index(category) | (direction == 'vertical') << 5 | (style == 'dashed') << 4
        _polyline(mask, points, bits, 2)
        attributes = dict(laneDirection=direction, laneStyle=style, laneTypes=category)
        labels.append(dict(id=str(len(labels)), attributes=attributes, category=category, poly2d=[dict(
            vertices=points.tolist(), types='L' * len(points), closed=False)]))
    if not name.startswith('test/'):
        _save(root / 'labels' / 'lane' / 'masks' / f'{name}.png', mask)
    return dict(name=f'{name.split("/")[1]}.jpg', labels=labels)


def _bdd_lines(view: View) -> list[tuple[str, str, str, np.ndarray]]:
    """Category, direction, style and (P, 2) points of each border line in view."""
    lines = []
    for found in view.traces:
        line = found.line
        half = line.width / 2 + (.12 if line.kind == 'double' else 0)
        category = f'{"double" if line.kind == "double" else "single"} {line.colour}'
        lines += [(category, line, shift) for shift in (half, -half)]
    for block in view.world.street.blocks:
        for side, strips in block.sides.items():
            kerb = next((strip for strip in strips if strip.name == 'kerb'), None)
            if kerb:
                knots = np.array([[block.s0, side * kerb.inner], [block.s1, side * kerb.inner]])
                line = LaneBoundary(block.s0, block.s1, knots, 'solid', 'white')
                lines += [('road curb', line, shift) for shift in (0.0, side * KERB)]
    seen = [(category, 'parallel', 'dashed' if line.kind == 'dashed' else 'solid', trace(view, line, shift))
            for category, line, shift in lines]
    result = [(*kind, found.points[in_image(found.points, view.spec)]) for *kind, found in seen if found is not None]
    return result + [('crosswalk', 'vertical', 'solid', points) for points in _crosswalks(view)]


def _crosswalks(view: View) -> list[np.ndarray]:
    """(P, 2) points of the border lines of the zebra crossings 4 to 35 m ahead."""
    street, found = view.world.street, []
    for junction in street.junctions:
        for end in (1, -1):
            for s in junction + end * (JUNCTION + 2) + np.array([-1.4, 1.4]):
                if 4 < s - view.s < 35:
                    d = np.linspace(-street.half + .25, street.half - .25, 16)
                    points, depth = pixels(street.at(np.full(16, s), d), view.pose, view.spec)
                    points = points[in_image(points, view.spec) & (depth > NEAR)]
                    found += [points] if len(points) > 1 else []
    return found


# ---- LLAMAS
def _llamas(order: _Order) -> None:
    for split, folder, first in (('train', 'train', 0), ('val', 'valid', 1000), ('test', 'test', 2000)):
        streets = [first + i // PER_STREET for i in range(order.images[split])]
        names = [f'{folder}/images-2014-12-22-12-{street % 60:02d}-{street // 60:02d}_mapping_280S_2nd_lane/'
                 f'{1419280000 + 7 * i}_{417 * i:010d}' for i, street in enumerate(streets)]
        order.take(order.plans(split, names), LLAMAS, save=_save_llamas)


def _save_llamas(root: Path, name: str, view: View) -> None:
    """Image and, except for test, the label file with the markers of each lane, the nearest first."""
    _save(root / 'color_images' / f'{name}_color_rect.png', view.frame.image)
    if name.startswith('test/'):
        return
    lanes = [dict(lane_id=f'l{-1 - side}' if side < 0 else f'r{side}', markers=_markers(found, view, side))
             for side, found in beside_ego(view.traces, view.spec, 3).items()]
    focal, (u, v) = view.spec.focal, ((view.spec.width - 1) / 2, (view.spec.height - 1) / 2)
    record = dict(image_name=name.split('/')[-1], projection_matrix=[[focal, 0, u], [0, focal, v], [0, 0, 1]],
                  lanes=[lane for lane in lanes if lane['markers']])
    path = root / 'labels' / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + '\n')


def _markers(found: Trace, view: View, side: int) -> list[dict]:
    """The dashes of a line, solid ones cut every 3 m, as far as they are in the image."""
    line = found.line
    begin = np.arange(line.paint_start, line.paint_stop - DASH, line.period if line.kind == 'dashed' else DASH)
    s = begin[:, None] + np.linspace(0, DASH, 25)
    world = view.world.street.at(s, line.d(s), HEIGHT)
    points, depth = pixels(world.reshape(-1, 3), view.pose, view.spec)
    inside = (in_image(points, view.spec) & (depth > NEAR) & (depth < FAR)).reshape(s.shape)
    local = (world - view.pose[:3, 3]) @ view.pose[:3, :3]
    points = np.rint(points).astype(int).reshape(*s.shape, 2)
    ends = np.stack([inside.argmax(1), s.shape[1] - 1 - inside[:, ::-1].argmax(1)])      # first and last sample inside
    start, stop = points[np.arange(len(s)), ends]
    label = f'l{-1 - side}' if side < 0 else f'r{side}'
    return [dict(lane_marker_id=f'{label}_marker_{i:03d}', world_start=_axes(near), world_end=_axes(far),
                 pixel_start=_axes(start[k]), pixel_end=_axes(stop[k]))
            for i, k in enumerate(np.flatnonzero(inside.any(1) & (start[:, 1] > stop[:, 1])))
            for near, far in [local[k, ends[:, k]]]]


def _axes(values: np.ndarray) -> dict[str, str]:
    """Numbers as the official label files have them: strings, metres with six decimals."""
    return {axis: f'{value:d}' if values.dtype.kind == 'i' else f'{value:.6f}' for axis, value in zip('xyz', values)}


# ---- ApolloScape
def _apolloscape(order: _Order) -> None:
    for split, road, record in (('train', 'road02', 1), ('val', 'road04', 15), ('test', 'road05', 1)):
        names = []
        for i in range(order.images[split]):
            camera = f'Camera_{5 + i % 2}'
            names.append(f'{road}/Record{record + 2 * (i // order.streets.images % 2):03d}/{camera}/'
                         f'171206_{61000000 + 1000 * i:09d}_{camera}')
        order.take(order.plans(split, names), APOLLOSCAPE, save=_save_apolloscape)


def _save_apolloscape(root: Path, name: str, view: View) -> None:
    """Image and, except for test, the label image in the official colours."""
    road, rest = name.split('/', 1)
    _jpeg(root / f'ColorImage_{road}' / 'ColorImage' / f'{rest}.jpg', view.frame.image)
    if road != 'road05':
        labels = _COLOURS[APOLLOSCAPE_IDS[label_maps(view.caster, view.pose, view.spec, LABEL_SCALE).mark]]
        _save(root / f'Labels_{road}' / 'Label' / f'{rest}_bin.png', labels, cv2.IMWRITE_PNG_COMPRESSION, 3)


_COLOURS = np.zeros((256, 3), np.uint8)
for _entry in MARK_CLASSES:
    _COLOURS[_entry.id] = _entry.color


# ---- for people to look at
def draw_sheet(root: str | Path, path: str | Path, dataset: type[RoadImages], most: int = 12, width: int = 480) -> Path:
    """Draws images of each split with their labels over them.

    Args:
        root: folder of a data set.
        path: PNG file to write.
        dataset: its reader.
        most: images of a split.
        width: of an image on the sheet, pixels.

    Raises:
        DataError: a data set that cannot be read, or a picture that cannot be written.
    """
    rows = []
    for split in SPLITS:
        samples = dataset(root, split)
        picked = np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).astype(int))
        tiles = [_tile(samples[int(i)], samples.metainfo['palette'], width) for i in picked]
        rows.append(canvas.bar(4 * width, f'{split}: {len(samples)} images', dataset.__name__))
        rows += [canvas.beside(tiles[i:i + 4]) for i in range(0, len(tiles), 4)]
    return canvas.save_png(path, canvas.stacked(rows))


def _tile(sample: dict, palette: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """A small picture with labels and lanes over it."""
    image, truth = sample['inputs']['image'].permute(1, 2, 0).numpy(), sample['data_samples']
    scale = width / image.shape[1]
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if 'labels' in truth:
        labels = cv2.resize(truth.labels.numpy().astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        image = overlay_labels(image, labels, palette, .5)
    for index, lane in enumerate(truth.lanes if 'lanes' in truth else ()):
        _polyline(image, lane * scale, PALETTE[index % len(PALETTE)], 1)
    category = truth.metainfo.get('category')
    return canvas.titled(image, f'{category}: {truth.sample_id}' if category else truth.sample_id)
