"""Images of one's own rig of cameras with the boxes around it, as a data set by its config alone.

    <data_root>/{train,val,test}/<drive>/<moment>/rig.json, front.jpg, ...    see `perception/bev/rig.py`
    <data_root>/{train,val}/<drive>/boxes/<moment>.json

As for predictions one `rig.json` in the drive will do for all its moments, and each camera may have a folder in the
drive, called as itself, of images that are called as their moment. Boxes are what `tools/visualize.py --save DIR
--save-as json` writes of such a drive, so that predictions can be corrected and learned: in the car's frame, x forward,
y left, z up, its origin on the ground,

    [{"class": "car", "box": [x, y, z, l, w, h, yaw, vx, vy], "attribute": "vehicle.moving", "points": 12}, ...]

with the centre, length, width and height [m], yaw [rad] and, where they are known, velocities [m/s], an attribute of
nuScenes and the number of LiDAR points in it. A moment without anything has an empty list.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log

from perception.bev.datasets.nuscenes.reader import (
    ATTRIBUTES,
    CLASSES,
    FRAMES,
    PALETTE,
    Annotations,
    from_world,
    pack_rig,
    to_world_boxes,
)
from perception.bev.rig import Rig, moments_of, read_images, rig_sample
from perception.common.dataset import SeededDataset
from perception.common.formats.text import read_text
from perception.registry import DATASETS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path, natural_order

SPLITS = ('train', 'val', 'test')
BOXES = 'boxes'  # folder of a drive
FARTHEST, LARGEST = 1000.0, 100.0  # m, of centres and sizes; m/s
_REAL = {int, float}


class Truth(NamedTuple):
    """Boxes of a moment.

    Attributes:
        boxes: (K, 9) float64 in the car's frame, velocities NaN where unknown.
        labels: (K,) int64 rows of `CLASSES`.
        attributes: (K,) int64 rows of `ATTRIBUTES`, -1 none.
        points: (K,) int64, 1 where it is not known.
    """
    boxes: np.ndarray
    labels: np.ndarray
    attributes: np.ndarray
    points: np.ndarray


@DATASETS.register_module()
class RigFolder(SeededDataset):
    """Moments of drives with a rig of one's own; samples are those of NuScenesRig, without points and maps.

    Args:
        data_root: folder that holds the splits; a leading `data` gives way to PERCEPTION_DATA.
        split: 'train', 'val' or 'test'; what has no folder `boxes` is not labelled, which only the test may be.
        drives: names of those of the split to be read, all by default.
        cameras: names of those that the net sees, in this order; all by default.
        bev_frame: `'ego'`, the car's, `'lidar'`, where `rig.json` or nuScenes has it, or `'flat_ego'`.
        label_map: own names of classes -> names of nuScenes' ten, None for those that are left out.
        reduce: 2, 4 or 8 to decode images at a half, quarter or eighth of their size.
        min_points: in a box of the truth; those with fewer are left out of learning.
        training: whether empty truth is refused and what the score needs is left out; by default, for 'train'.
        pipeline: augmentations, callables or their configs, applied in turn.
        seed: of the augmentation.

    Raises:
        ConfigError: an unknown split, frame, class or drive.
        DataError: folders, images or boxes that are missing or broken, other cameras at some moments, nothing to learn.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE, attributes=ATTRIBUTES, map_classes=())

    def __init__(self, data_root: str | Path = 'data/rig_folder', split: str = 'train',
                 drives: Sequence[str] | None = None, cameras: Sequence[str] | None = None, bev_frame: str = 'ego',
                 label_map: Mapping[str, str | None] | None = None, reduce: int = 1, min_points: int = 1,
                 training: bool | None = None, pipeline: Sequence[dict | Callable] = (), seed: int = 0) -> None:
        super().__init__(pipeline, seed)
        check_choice('RigFolder: split', split, SPLITS)
        check_choice('RigFolder: bev_frame', bev_frame, FRAMES)
        check_choice('RigFolder: reduce', reduce, (1, 2, 4, 8))
        for name in (label_map or {}).values():
            check_choice('RigFolder: label_map', name, (*CLASSES, None))
        self.label_map = label_map_of(dict(label_map=label_map))
        self.bev_frame, self.reduce, self.min_points, self.cameras = bev_frame, reduce, min_points, cameras
        self.training = split == 'train' if training is None else training
        self.data_root, self.split = data_path(data_root), split
        self.moments: list[tuple[str, Rig, tuple[Path, ...]]] = []
        self.truths: list[Truth | None] = []
        for drive in self._drives(drives):
            for name, rig, files in moments_of(drive, cameras):
                self.moments.append((f'{drive.name}_{name}', rig, files))
                self.truths.append(self._truth(drive, name))
        self._check()
        self.metainfo = dict(self.METAINFO, data_root=str(self.data_root), split=split, bev_frame=bev_frame,
                             num_samples=len(self))

    @classmethod
    def describe(cls, config: Mapping) -> dict[str, Any]:
        """See SeededDataset."""
        return dict(cls.METAINFO)

    def __len__(self) -> int:
        return len(self.moments)

    def path(self, index: int) -> str:
        """The first image of a moment, which no other one has."""
        return str(self.moments[index][2][0])

    def _drives(self, names: Sequence[str] | None) -> list[Path]:
        folder = self.data_root / self.split
        found = sorted((path for path in folder.glob('*') if path.is_dir() and not path.name.startswith('.')),
                       key=lambda path: natural_order(path.name))
        if not found:
            raise DataError(f'{folder}: no drive in it, expected folders of moments, images of a car with rig.json; '
                            'the head of perception/bev/datasets/folder/reader.py describes them. Put or link them '
                            'there, set PERCEPTION_DATA to the folder that replaces data/, or try simulated data with '
                            '`python tools/train.py CONFIG --mini`.')
        for name in names or ():
            check_choice('RigFolder: drive', name, [path.name for path in found])
        if names is not None and not len(names):
            raise ConfigError('RigFolder: drives=[], expected some, or None for all of the split. Name them.')
        return [path for path in found if names is None or path.name in names]

    def _truth(self, drive: Path, moment: str) -> Truth | None:
        """The boxes of a moment, None where a drive of the test has none."""
        if self.split == 'test' and not (drive / BOXES).is_dir():
            return None
        return read_boxes(drive / BOXES / f'{moment}.json', self.label_map)

    def _check(self) -> None:
        """See that all moments have the same cameras, and that there is something to learn."""
        names = [[camera.name for camera in rig.cameras] for _, rig, _ in self.moments]
        other = next((i for i, own in enumerate(names) if own != names[0]), None)
        if other is not None:
            raise DataError(f'{self.moments[other][1].where}: the cameras {", ".join(names[other])}, and '
                            f'{", ".join(names[0])} in {self.moments[0][1].where}, expected the same in the same '
                            'order. Name those that all have as cameras of the data set.')
        known = [truth for truth in self.truths if truth is not None]
        labels = np.concatenate([np.zeros(0, np.int64), *(truth.labels for truth in known)])
        counts = np.bincount(labels, minlength=len(CLASSES))
        if self.training and not counts.any():
            raise DataError(f'{self.data_root}: no box in {len(self):,} moments of the {self.split} split, expected '
                            'some to learn. Label them.')
        print_log(f'{self.data_root}: {self.split} split, {len(self):,} moments of {len(names[0])} cameras '
                  f'({", ".join(names[0])}), {counts.sum():,} boxes: '
                  + (', '.join(f'{n:,} {name}' for name, n in zip(CLASSES, counts) if n) or 'none'), 'current')

    def read(self, index: int) -> dict:
        """A moment as it is in its files; see NuScenesRig.

        Raises:
            DataError: a damaged file, an image of another size than its camera's.
        """
        name, rig, files = self.moments[index]
        sample = rig_sample(rig, read_images(rig, files, self.reduce), self.bev_frame, name, list(map(str, files)))
        sample['meta']['source'] = self.path(index)
        found = self.truths[index]
        return sample if found is None else dict(sample, **self._boxes(found, sample['meta']))

    def _boxes(self, found: Truth, meta: dict) -> dict:
        """The truth of a moment by the names of RigSample, and `annotations` unless training."""
        world = to_world_boxes(found.boxes, np.asarray(meta['ego_to_world']))
        some, unknown = found.points >= self.min_points, np.zeros(len(world), np.int64)
        truth = dict(boxes=from_world(world[some], meta['frame_to_world']), labels=found.labels[some],
                     attributes=found.attributes[some], visibility=unknown[some], num_points=found.points[some])
        if not self.training:
            truth['annotations'] = Annotations(world, found.labels, found.attributes, found.points, unknown,
                                               np.zeros((0, 9)), np.zeros((0, 4)))
        return truth

    def pack(self, sample: dict, index: int) -> dict:
        """See SeededDataset."""
        return pack_rig(sample)


def label_map_of(config: Mapping) -> dict[str, str | None]:
    """Names of classes that files may have -> those of nuScenes, None for those that are left out; of a data set."""
    return {**{name: name for name in CLASSES}, **(config.get('label_map') or {})}


def read_boxes(path: Path, label_map: Mapping[str, str | None]) -> Truth:
    """Read the boxes of a moment.

    Args:
        path: the file, see above.
        label_map: names of classes -> those of nuScenes, None for those that are left out.

    Raises:
        DataError: no such file, or one that says what cannot be, with the number of the box.
    """
    advice = 'Correct it; the head of perception/bev/datasets/folder/reader.py describes it.'
    try:
        content = json.loads(read_text(path, 'the boxes of a moment, an empty list where there are none'))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f'{path}: no valid JSON ({error}), expected the boxes of a moment. {advice}') from error
    if not isinstance(content, list):
        raise DataError(f'{path}: a {type(content).__name__} came, expected a list of boxes. {advice}')
    rows = []
    for number, item in enumerate(content):
        row = _box(item, label_map)
        if isinstance(row, str):
            raise DataError(f'{path}, box {number}: {row}. {advice}')
        rows += [row] if row else []
    boxes = np.array([row[0] for row in rows], np.float64).reshape(-1, 9)
    return Truth(boxes, *(np.array([row[k] for row in rows], np.int64) for k in (1, 2, 3)))


def _box(item: Any, label_map: Mapping[str, str | None]) -> tuple[list[float], int, int, int] | tuple[()] | str:
    """Numbers of a box, its label, attribute and points; nothing where its class is left out; or what is wrong."""
    if not isinstance(item, Mapping):
        return f'a {type(item).__name__} came, expected an object with class and box'
    name, box = item.get('class'), item.get('box')
    if not isinstance(name, str) or name not in label_map:
        return f'class {str(name)[:40]!r}, expected one of {", ".join(label_map)}, or its name in label_map'
    if label_map[name] is None:
        return ()
    if not isinstance(box, list) or len(box) not in (7, 9):
        return f'box {str(box)[:60]}, expected 7 or 9 numbers x, y, z, l, w, h, yaw, vx, vy'
    values = [np.nan if k >= 7 and v is None else v for k, v in enumerate(box)] + [np.nan] * (9 - len(box))
    if not _REAL.issuperset(map(type, values)) or not all(abs(v) <= FARTHEST for v in values[:7]) or \
            not all(0 < v <= LARGEST for v in values[3:6]) or any(abs(v) > LARGEST for v in values[7:]):
        return (f'box {str(box)[:120]}, expected a centre within {FARTHEST:g} m, sizes above 0 and up to {LARGEST:g} '
                'm, a yaw, and velocities or null')
    attribute, points = item.get('attribute') or '', item.get('points', 1)
    if attribute and attribute not in ATTRIBUTES:
        return f'attribute {str(attribute)[:40]!r}, expected one of {", ".join(ATTRIBUTES)}, or an empty text'
    if type(points) is not int or not 0 <= points < 1 << 31:
        return f'points {str(points)[:40]}, expected how many points of the LiDAR are in it'
    return values, CLASSES.index(label_map[name]), ATTRIBUTES.index(attribute) if attribute else -1, points
