"""nuScenes-lidarseg: Panoptic nuScenes, a large-scale benchmark for LiDAR panoptic segmentation (RA-L 2022).

Whye Kit Fong, Rohit Mohan, Juana Valeria Hurtado, Lubing Zhou, Holger Caesar, Oscar Beijbom, Abhinav Valada.

The official folders are read as they are unpacked; nuscenes-devkit knows the splits:

    <data_root>/v1.0-{trainval,test,mini}/*.json                     tables, with lidarseg.json and its category.json
    <data_root>/samples/LIDAR_TOP/*.pcd.bin                          five float32 a point: x, y, z, intensity, ring
    <data_root>/lidarseg/v1.0-{trainval,mini}/<token>_lidarseg.bin   one uint8 a point

Train ids 0..15 are the official classes 1..16 of the challenge; the official class 0, ignore, is 255. Fine ids of the
files are mapped through the names in category.json. The frame of the points is x right, y forward, z up; nets get x, y,
z [m] and the intensity as it is, 0 to 255. Returns that never came and hits of the ego vehicle are points of the files
too, less than 1.3 m from the sensor.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from perception.common.formats.kinds import check_size
from perception.common.formats.kitti import read_points
from perception.common.formats.point_columns import NUSCENES_COLUMNS
from perception.common.formats.points import Frame
from perception.common.nuscenes.index import Index, KeyFrame
from perception.common.nuscenes.reader import read_index, read_split
from perception.common.nuscenes.tables import CATEGORIES, DOWNLOAD, VERSIONS
from perception.lidarseg.datasets.base import IGNORE, LidarScans
from perception.registry import DATASETS
from perception.utils.checks import close_matches
from perception.utils.errors import DataError
from perception.utils.paths import data_path

OFFICIAL_SIZES = dict(train=28130, val=6019, test=6008, mini_train=323, mini_val=81)  # key frames
POINT_BYTES = 20  # x, y, z, intensity, ring as little-endian float32
LONGEST_GAP, FASTEST = 20.0, 60.0  # s and m/s from one scan of a drive to the next
_UNKNOWN = 254    # in look-up tables

CLASSES = ('barrier', 'bicycle', 'bus', 'car', 'construction_vehicle', 'motorcycle', 'pedestrian', 'traffic_cone',
           'trailer', 'truck', 'driveable_surface', 'other_flat', 'sidewalk', 'terrain', 'manmade', 'vegetation')
PALETTE = ((112, 128, 144), (220, 20, 60), (255, 127, 80), (255, 158, 0), (233, 150, 70), (255, 61, 99), (0, 0, 230),
           (47, 79, 79), (255, 140, 0), (255, 99, 71), (0, 207, 191), (175, 0, 75), (75, 0, 75), (112, 180, 60),
           (222, 184, 135), (0, 175, 0))
CHALLENGE = {  # category -> class of the challenge; all other categories are ignored
    'human.pedestrian.adult': 'pedestrian',
    'human.pedestrian.child': 'pedestrian',
    'human.pedestrian.construction_worker': 'pedestrian',
    'human.pedestrian.police_officer': 'pedestrian',
    'movable_object.barrier': 'barrier',
    'movable_object.trafficcone': 'traffic_cone',
    'vehicle.bicycle': 'bicycle',
    'vehicle.bus.bendy': 'bus',
    'vehicle.bus.rigid': 'bus',
    'vehicle.car': 'car',
    'vehicle.construction': 'construction_vehicle',
    'vehicle.motorcycle': 'motorcycle',
    'vehicle.trailer': 'trailer',
    'vehicle.truck': 'truck',
    'flat.driveable_surface': 'driveable_surface',
    'flat.other': 'other_flat',
    'flat.sidewalk': 'sidewalk',
    'flat.terrain': 'terrain',
    'static.manmade': 'manmade',
    'static.vegetation': 'vegetation',
}


def learning_map(categories: dict[int, str], where: str | Path) -> np.ndarray:
    """Look-up table (256,) uint8 from fine ids to train ids; 255 = ignored, 254 = unknown id.

    Args:
        categories: fine id -> name, as category.json says.
        where: that file, for messages.

    Raises:
        DataError: a name or an id that nuScenes-lidarseg does not have.
    """
    table = np.full(256, _UNKNOWN, np.uint8)
    for fine, name in categories.items():
        if name not in CATEGORIES:
            raise DataError(f'{where}: unknown category {name!r}, expected the {len(CATEGORIES)} of nuScenes-lidarseg. '
                            f'{close_matches(name, CATEGORIES)}')
        if not 0 <= fine < _UNKNOWN:
            raise DataError(f'{where}: index {fine} of {name}, expected 0 to {_UNKNOWN - 1}, for labels are bytes. '
                            f'Unpack nuScenes-lidarseg again.')
        table[fine] = CLASSES.index(CHALLENGE[name]) if name in CHALLENGE else IGNORE
    return table


def to_train_ids(labels: np.ndarray, table: np.ndarray, where: str | Path) -> np.ndarray:
    """Train ids of fine labels.

    Args:
        labels: (N,) uint8 as in a label file.
        table: see `learning_map`.
        where: the file, for messages.

    Returns:
        (N,) uint8 train ids, 255 = ignored.

    Raises:
        DataError: an id that category.json does not have; the official evaluation stops there too.
    """
    train_ids = table[labels]
    unknown = train_ids == _UNKNOWN
    if unknown.any():
        ids = np.unique(labels[unknown])
        raise DataError(f'{where}: unknown label {", ".join(map(str, ids[:8]))} at {unknown.sum():,} points, expected '
                        f'the indices of category.json. Unpack nuScenes-lidarseg again.')
    return train_ids


def to_official_ids(train_ids: np.ndarray, where: str | Path) -> np.ndarray:
    """Official class ids 1..16 (N,) uint8 of train ids 0..15, as submissions need them.

    Raises:
        DataError: something else, such as an ignored point, which the official evaluation refuses.
    """
    train_ids = np.asarray(train_ids)
    wrong = (train_ids < 0) | (train_ids >= len(CLASSES))
    if wrong.any():
        raise DataError(f'{where}: predicted class {train_ids[wrong][0]}, expected train ids 0..{len(CLASSES) - 1}. '
                        f'Check the number of classes of the model; every point needs a class.')
    return (train_ids + 1).astype(np.uint8)


def read_sweep(path: str | Path) -> np.ndarray:
    """Read a sweep, `*.pcd.bin`.

    Returns:
        (N, 5) float32: x right, y forward, z up [m], intensity 0..255, ring 0..31 from the lowest.

    Raises:
        DataError: no such file, a size that is no multiple of 20 bytes, NaN or infinite values.
    """
    return read_points(path, NUSCENES_COLUMNS)


def read_point_labels(path: str | Path, num_points: int | None) -> np.ndarray:
    """Read the fine labels of a sweep, `<token>_lidarseg.bin`: (N,) uint8; None as their number does not check it.

    Raises:
        DataError: no such file, another number of labels than points.
    """
    labels = _read(path)
    if num_points is not None and len(labels) != num_points:
        wide = f' It looks like uint{8 * len(labels) // num_points}; write uint8.' if num_points and \
            len(labels) / num_points in (2, 4, 8) else ''
        raise DataError(f'{path}: {len(labels):,} labels for {num_points:,} points, expected equal numbers. One of the '
                        f'files is probably truncated or belongs to another key frame.{wide}')
    return labels


def _read(path: str | Path) -> np.ndarray:
    try:
        check_size(path)
        return np.fromfile(path, np.uint8)
    except OSError as error:
        reason = getattr(error, 'strerror', None) or error
        raise DataError(f'{path}: {reason}, expected a readable file. Check the path and the copy of the data '
                        f'set.') from error


@DATASETS.register_module()
class NuScenesLidarSeg(LidarScans):
    """Key frames of nuScenes with a class for each point, in the official layout.

    Samples are those of `SemanticKITTI`; `sample_id` is the token of the LiDAR's record, which names predictions.

    Args:
        data_root: folder that holds `v1.0-...`, `samples` and `lidarseg`; a leading `data` gives way to the variable
            PERCEPTION_DATA.
        split: official scenes: 'train', 'val' (of v1.0-trainval), 'test' (v1.0-test, no labels), 'mini_train' or
            'mini_val' (v1.0-mini).
        training: refuse key frames with fewer than two points; by default, for the two train splits.
        pipeline: augmentations, callables or their configs, applied in turn.
        seed: of the augmentation.

    Raises:
        ConfigError: an unknown split.
        DataError: missing or damaged tables, no scene of the split, key frames without labels.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE, forward=np.pi / 2, rate=2.0)  # rad from x to y; a second
    FRAME = Frame(NUSCENES_COLUMNS, forward=np.pi / 2, height=1.84, strongest=255.0)
    POSES = 'scans of one scene, under their official names, of which the tables tell'

    def __init__(self, data_root: str | Path = 'data/nuscenes', split: str = 'train', training: bool | None = None,
                 pipeline: Sequence[dict | Callable] = (), seed: int = 0) -> None:
        super().__init__(pipeline, seed)
        self.data_root = data_path(data_root)
        self.split = split
        self.training = split.endswith('train') if training is None else training
        index, self.frames = read_split(self.data_root, split)
        self.points = self.reader({})
        if split != 'test':
            self.table = _label_table(self.data_root, split, index, self.frames)
        if self.training and split != 'test':
            self.check_labelled(self.labels)
        self.metainfo = dict(self.METAINFO, data_root=str(self.data_root), split=split)
        self.official_size = OFFICIAL_SIZES[split]

    def __len__(self) -> int:
        return len(self.frames)

    def path(self, index: int) -> str:
        return str(self.data_root / self.frames[index].points)

    def read(self, index: int) -> dict:
        """A key frame as it is in its files: `points` (N, 4) float32, `sample_id`, unless testing `labels` (N,) int64.

        Raises:
            DataError: damaged files, unknown labels or fewer than two points in training.
        """
        frame = self.frames[index]
        path = self.data_root / frame.points
        points = self.points.read(path).points
        if self.training and len(points) < 2:
            raise DataError(f'{path}: {len(points)} points in a training key frame, expected at least 2. Take it '
                            'out of the training split.')
        sample = dict(points=points, sample_id=frame.token)
        if self.split != 'test':
            sample['labels'] = self.labels(index, len(points))
        return sample

    def labels(self, index: int, num_points: int | None = None) -> np.ndarray:
        """Train ids (N,) int64 of a key frame, 255 = ignored; the number of points is checked where it is given.

        Raises:
            DataError: a damaged file, or unknown labels.
        """
        path = self.data_root / self.frames[index].labels
        labels = read_point_labels(path, num_points)
        return to_train_ids(labels, self.table, path).astype(np.int64)

    @classmethod
    def scan_poses(cls, files: Sequence[Path], data: Mapping) -> np.ndarray | None:
        """See LidarScans; key frames and sweeps that lie anywhere under their official names.

        Tables are looked for above the scans and in the data set's folder. None where a scan is of no table, or two in
        a row are of other drives.
        """
        real = files[0].resolve()
        roots = dict.fromkeys([*real.parents[2:3], data_path(data.get('data_root', 'data/nuscenes'))])
        for root in roots:
            for version in dict.fromkeys(VERSIONS.values()):
                try:
                    found = (root / version).is_dir() and read_index(root, version).lidar_poses(
                        [file.resolve().name for file in files])
                except DataError as error:
                    print_log(f'Scans without poses: {error}', 'current', logging.WARNING)
                    found = None
                if found:
                    poses, times = found
                    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
                    seconds = np.abs(np.diff(times)) / 1e6
                    return poses if (seconds <= LONGEST_GAP).all() and (steps <= FASTEST * seconds).all() else None
        return None


def _label_table(root: Path, split: str, index: Index, frames: list[KeyFrame]) -> np.ndarray:
    """The look-up table from fine ids to train ids, once it is sure that each key frame has labels."""
    folder = root / VERSIONS[split]
    missing = [frame for frame in frames if frame.labels is None]
    if missing:
        raise DataError(f'{folder / "lidarseg.json"}: no labels for {missing[0].token} ({len(missing):,} of '
                        f'{len(frames):,} key frames have none), expected labels for each. Unpack nuScenes-lidarseg '
                        f"from {DOWNLOAD} into {root}, or use split='test', which needs none.")
    return learning_map(index.categories, folder / 'category.json')
