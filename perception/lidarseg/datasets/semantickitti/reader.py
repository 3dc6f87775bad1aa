"""SemanticKITTI: A Dataset for Semantic Scene Understanding of LiDAR Sequences (ICCV 2019).

Jens Behley, Martin Garbade, Andres Milioto, Jan Quenzel, Sven Behnke, Cyrill Stachniss, Juergen Gall.

The official folders are read as they are unpacked:

    <data_root>/sequences/SS/velodyne/FFFFFF.bin    SS = 00..21, four float32 a point
    <data_root>/sequences/SS/labels/FFFFFF.label    SS = 00..10, one uint32 a point
    <data_root>/sequences/SS/{calib,poses}.txt      for the multi-scan task alone

Train ids 0..18 are the official classes 1..19, of the multi-scan task 0..24 the classes 1..25; the official class 0,
unlabelled, is 255. Intensity (remission) lies in [0, 1] and is passed on as it is.
"""
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

from perception.common.formats.kitti import POINT_BYTES, read_calib, read_labels, read_poses
from perception.common.formats.points import PointReader
from perception.lidarseg.datasets.base import IGNORE, LidarScans, Scan, check_rigid
from perception.registry import DATASETS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path

DOWNLOAD = 'https://www.semantic-kitti.org/dataset.html'
SPLITS = dict(train=(0, 1, 2, 3, 4, 5, 6, 7, 9, 10), val=(8,), test=tuple(range(11, 22)))
OFFICIAL_SCANS = (4541, 1101, 4661, 801, 271, 2761, 1101, 1101, 4071, 1591, 1201,  # sequences 00..10
                  921, 1061, 3281, 631, 1901, 1731, 491, 1801, 4981, 831, 2721)  # 11..21
_UNKNOWN = 254  # in look-up tables


class RawClass(NamedTuple):
    """A class of the label files: name, official RGB colour, official class of the single-scan and multi-scan task."""

    name: str
    color: tuple[int, int, int]
    single: int
    multi: int


RAW_CLASSES = {  # raw id -> class, as in semantic-kitti.yaml and semantic-kitti-all.yaml
    0: RawClass('unlabeled', (0, 0, 0), 0, 0),
    1: RawClass('outlier', (255, 0, 0), 0, 0),
    10: RawClass('car', (100, 150, 245), 1, 1),
    11: RawClass('bicycle', (100, 230, 245), 2, 2),
    13: RawClass('bus', (100, 80, 250), 5, 5),
    15: RawClass('motorcycle', (30, 60, 150), 3, 3),
    16: RawClass('on-rails', (0, 0, 255), 5, 5),
    18: RawClass('truck', (80, 30, 180), 4, 4),
    20: RawClass('other-vehicle', (0, 0, 255), 5, 5),
    30: RawClass('person', (255, 30, 30), 6, 6),
    31: RawClass('bicyclist', (255, 40, 200), 7, 7),
    32: RawClass('motorcyclist', (150, 30, 90), 8, 8),
    40: RawClass('road', (255, 0, 255), 9, 9),
    44: RawClass('parking', (255, 150, 255), 10, 10),
    48: RawClass('sidewalk', (75, 0, 75), 11, 11),
    49: RawClass('other-ground', (175, 0, 75), 12, 12),
    50: RawClass('building', (255, 200, 0), 13, 13),
    51: RawClass('fence', (255, 120, 50), 14, 14),
    52: RawClass('other-structure', (255, 150, 0), 0, 0),
    60: RawClass('lane-marking', (150, 255, 170), 9, 9),
    70: RawClass('vegetation', (0, 175, 0), 15, 15),
    71: RawClass('trunk', (135, 60, 0), 16, 16),
    72: RawClass('terrain', (150, 240, 80), 17, 17),
    80: RawClass('pole', (255, 240, 150), 18, 18),
    81: RawClass('traffic-sign', (255, 0, 0), 19, 19),
    99: RawClass('other-object', (50, 255, 255), 0, 0),
    252: RawClass('moving-car', (100, 150, 245), 1, 20),
    253: RawClass('moving-bicyclist', (255, 40, 200), 7, 21),
    254: RawClass('moving-person', (255, 30, 30), 6, 22),
    255: RawClass('moving-motorcyclist', (150, 30, 90), 8, 23),
    256: RawClass('moving-on-rails', (0, 0, 255), 5, 24),
    257: RawClass('moving-bus', (100, 80, 250), 5, 24),
    258: RawClass('moving-truck', (80, 30, 180), 4, 25),
    259: RawClass('moving-other-vehicle', (0, 0, 255), 5, 24),
}
SINGLE_RAW_IDS = (10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)  # of train ids 0..18
MULTI_RAW_IDS = (*SINGLE_RAW_IDS, 252, 253, 254, 255, 259, 258)  # of train ids 0..24
CLASSES = tuple(RAW_CLASSES[raw].name for raw in SINGLE_RAW_IDS)
MULTI_CLASSES = tuple(RAW_CLASSES[raw].name for raw in MULTI_RAW_IDS)
PALETTE = tuple(RAW_CLASSES[raw].color for raw in SINGLE_RAW_IDS)
# officially a moving class has the colour of the resting one; half of it is white here, to tell them apart in pictures
MULTI_PALETTE = PALETTE + tuple(tuple((255 + c) // 2 for c in RAW_CLASSES[raw].color) for raw in MULTI_RAW_IDS[19:])
PAST_SCANS = 2  # of the published multi-scan nets
OFFICIAL_TABLE_SIZE = max(RAW_CLASSES) + 100  # larger raw ids stop the official tools; unknown smaller ones count as 0


def learning_map(multi: bool = False) -> np.ndarray:
    """Look-up table (65536,) uint8 from raw semantic ids to train ids; 255 = unlabelled, 254 = unknown id.

    Args:
        multi: the 25 classes of the multi-scan task, which tells moving objects apart, instead of 19.
    """
    table = np.full(65536, _UNKNOWN, np.uint8)
    for raw, entry in RAW_CLASSES.items():
        official = entry.multi if multi else entry.single
        table[raw] = official - 1 if official else IGNORE
    return table


def inverse_map(multi: bool = False) -> np.ndarray:
    """Look-up table (256,) int32 from train ids to raw ids; 255 becomes 0; -1 stands where there is no train id."""
    table = np.full(256, -1, np.int32)
    raw_ids = MULTI_RAW_IDS if multi else SINGLE_RAW_IDS
    table[:len(raw_ids)] = raw_ids
    table[IGNORE] = 0
    return table


LEARNING_MAP, INVERSE_MAP = learning_map(), inverse_map()


def to_train_ids(labels: np.ndarray, where: str | Path, strict: bool = True, table: np.ndarray = LEARNING_MAP,
                 ) -> np.ndarray:
    """Train ids of raw labels.

    Args:
        labels: (N,) uint32 as in a label file; instance ids are ignored.
        where: the file, for messages.
        strict: refuse unknown ids. Otherwise they count as unlabelled, with a warning, where the official tools do so.
        table: `learning_map()` of the task.

    Returns:
        (N,) uint8 train ids, 255 = unlabelled.

    Raises:
        DataError: an unknown raw id.
    """
    semantic = (labels & 0xFFFF).astype(np.uint16)
    train_ids = table[semantic]
    unknown = train_ids == _UNKNOWN
    if unknown.any():
        ids = np.unique(semantic[unknown])
        text = f'{where}: unknown raw label {", ".join(map(str, ids[:8]))} at {unknown.sum():,} points'
        if strict or ids[-1] >= OFFICIAL_TABLE_SIZE:
            raise DataError(f'{text}, expected ids of semantic-kitti.yaml ({", ".join(map(str, RAW_CLASSES))}). '
                            f'Correct the labels, or convert them to these ids.')
        print_log(f'{text}; counted as unlabelled, as the official tools do.', 'current', logging.WARNING)
        train_ids[unknown] = IGNORE
    return train_ids


def to_raw_ids(train_ids: np.ndarray, where: str | Path, table: np.ndarray = INVERSE_MAP) -> np.ndarray:
    """Raw labels of train ids, as submissions need them.

    Args:
        train_ids: (N,) integers 0..C-1, or 255.
        where: what they are of, for messages.
        table: `inverse_map()` of the task.

    Returns:
        (N,) uint32 raw ids with instance id 0.

    Raises:
        DataError: a number that is no train id.
    """
    train_ids = np.asarray(train_ids)
    raw = table[train_ids.clip(0, IGNORE)]
    wrong = (raw < 0) | (train_ids < 0) | (train_ids > IGNORE)
    if wrong.any():
        last = np.count_nonzero(table > 0) - 1
        raise DataError(f'{where}: predicted class {train_ids[wrong][0]}, expected train ids 0..{last} or {IGNORE}. '
                        f'Check the number of classes of the model.')
    return raw.astype(np.uint32)


@DATASETS.register_module()
class SemanticKITTI(LidarScans):
    """Single scans of SemanticKITTI in their official layout.

    Args:
        data_root: folder that holds `sequences`, or `dataset/sequences` as the archives unpack; a leading `data` gives
            way to the variable PERCEPTION_DATA.
        split: 'train', 'val' or 'test'. It names the official sequences and how strictly files are read: training
            refuses unknown raw labels and scans with fewer than two points, 'test' reads no labels.
        sequences: other sequences instead of the official ones, such as `[8]`, numbers or names of folders.
        pipeline: augmentations, callables or their configs, applied in turn.
        seed: of the augmentation.

    Raises:
        ConfigError: an unknown split.
        DataError: missing folders, sequences without scans, scans without labels.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE)
    TABLE, RAW_IDS = LEARNING_MAP, INVERSE_MAP
    LABEL_SUFFIX = '.label'
    POSES = 'poses.txt and calib.txt beside the folder of the scans'

    def __init__(self, data_root: str | Path = 'data/semantickitti', split: str = 'train',
                 sequences: Sequence[int | str] | None = None, pipeline: Sequence[dict | Callable] = (),
                 seed: int = 0) -> None:
        check_choice('SemanticKITTI: split', split, SPLITS)
        super().__init__(pipeline, seed)
        self.data_root = unpacked(data_path(data_root))
        self.split = split
        if sequences is None:
            sequences = SPLITS[split]
        self.sequences = tuple(sequences)
        self.metainfo = dict(self.METAINFO, data_root=str(self.data_root))
        self.scans, self.points = list_scans(self.data_root, self.sequences), self.reader({})
        if split != 'test':
            check_labels_exist(self.data_root, self.scans)
        if split == 'train':
            self.check_labelled(lambda k: self.labels(k, Path(self.path(k)).stat().st_size // POINT_BYTES))
        official = [OFFICIAL_SCANS[s] for s in self.sequences if s in range(len(OFFICIAL_SCANS))]
        self.official_size = sum(official) if len(official) == len(self.sequences) else None

    def __len__(self) -> int:
        return len(self.scans)

    def path(self, index: int) -> str:
        return str(scan_paths(self.data_root, self.scans[index])[0])

    def read(self, index: int) -> dict:
        """A scan as it is in its files: `points` (N, 4) float32, `sample_id` and, unless testing, `labels` (N,) int64.

        Raises:
            DataError: damaged files, unknown labels or fewer than two points in training.
        """
        sample_id = self.scans[index]
        points_path = scan_paths(self.data_root, sample_id)[0]
        points = self.points.read(points_path).points
        training = self.split == 'train'
        if training and len(points) < 2:
            raise DataError(f'{points_path}: {len(points)} points in a training scan, expected at least 2. Take this '
                            f'scan out of the training split.')
        sample = dict(points=points, sample_id=sample_id)
        if self.split != 'test':
            sample['labels'] = self.labels(index, len(points))
        return sample

    def labels(self, index: int, num_points: int | None = None) -> np.ndarray:
        """Train ids (N,) int64 of a scan, 255 = unlabelled; the number of points is checked where it is given.

        Raises:
            DataError: a damaged file, or unknown labels in training.
        """
        path = scan_paths(self.data_root, self.scans[index])[1]
        return to_train_ids(read_labels(path, num_points), path, self.split == 'train', self.TABLE).astype(np.int64)

    @classmethod
    def scan_labels(cls, path: Path, num_points: int, data: Mapping) -> np.ndarray:
        """See LidarScans."""
        return to_train_ids(read_labels(path, num_points), path, strict=False, table=cls.TABLE)

    @classmethod
    def scan_poses(cls, files: Sequence[Path], data: Mapping) -> np.ndarray | None:
        """Poses (F, 4, 4) of `.../velodyne/FFFFFF.bin` by `poses.txt` and `calib.txt`; None where one is missing.

        Raises:
            DataError: one of them cannot be read, or has no row for a scan, or a scan is not named by its number.
        """
        folder = files[0].absolute().parent.parent
        if not ((folder / 'poses.txt').is_file() and (folder / 'calib.txt').is_file()):
            return None
        return poses_of(folder, [file.absolute() for file in files])[1]


@DATASETS.register_module()
class SemanticKITTIMultiScan(SemanticKITTI):
    """Scans with those before them, for the 25 classes of the multi-scan task, which tells moving objects apart.

    The points of a scan come first, then those of the scan before, then those of the one before that, all in the
    LiDAR's frame of the first; intensity is kept and there is no channel for the time. The first scans of a sequence,
    which have fewer scans before them than are wanted, stay alone, as in PVKD's code.

    In training all points have labels. Otherwise the sample says by `origin_len` how many points are of the scan
    itself; labels and predictions are of these alone.

    Args:
        data_root, split, sequences, pipeline, seed: see SemanticKITTI.
        past_scans: scans that are added.

    Raises:
        ConfigError: an unknown split, a negative number of scans.
        DataError: see SemanticKITTI; also missing or damaged `calib.txt` and `poses.txt`, or fewer poses than scans.
    """

    METAINFO = dict(classes=MULTI_CLASSES, palette=MULTI_PALETTE)
    TABLE, RAW_IDS = learning_map(multi=True), inverse_map(multi=True)

    def __init__(self, data_root: str | Path = 'data/semantickitti', split: str = 'train',
                 sequences: Sequence[int | str] | None = None, pipeline: Sequence[dict | Callable] = (),
                 seed: int = 0, past_scans: int = PAST_SCANS) -> None:
        if past_scans < 0:
            raise ConfigError(f'SemanticKITTIMultiScan: past_scans={past_scans}, expected 0 or more. The published '
                              f'nets take {PAST_SCANS}.')
        super().__init__(data_root, split, sequences, pipeline, seed)
        self.past_scans = past_scans
        scans: dict[str, list[Path]] = {}
        for scan in self.scans:
            scans.setdefault(scan.partition('_')[0], []).append(scan_paths(self.data_root, scan)[0])
        self.poses = {name: poses_of(self.data_root / 'sequences' / name, files)[0] for name, files in scans.items()}

    def read(self, index: int) -> dict:
        """A scan and those before it; see SemanticKITTI.

        In training also `scan` (N,), which of `scan_ids` a point is of; otherwise `origin_len`.
        """
        sample = super().read(index)
        training, origin_len = self.split == 'train', len(sample['points'])
        names, lengths = [sample['sample_id']], [origin_len]
        for path, points in past_points(scan_paths(self.data_root, sample['sample_id'])[0],
                                        self.poses[sample['sample_id'].partition('_')[0]], self.past_scans,
                                        self.points):
            if training:
                labels_path = path.parents[1] / 'labels' / f'{path.stem}.label'
                labels = to_train_ids(read_labels(labels_path, len(points)), labels_path, training, self.TABLE)
                sample['labels'] = np.concatenate([sample['labels'], labels])
                names.append(f'{path.parents[1].name}_{path.stem}')
                lengths.append(len(points))
            sample['points'] = np.concatenate([sample['points'], points])
        if training:
            return dict(sample, scan=np.repeat(np.arange(len(lengths)), lengths), scan_ids=names)
        return dict(sample, origin_len=origin_len)

    @classmethod
    def past_scans_of(cls, scan: Scan, data: Mapping, reader: PointReader) -> list[np.ndarray]:
        """See LidarScans. Where they cannot be found, a warning says so."""
        count = data.get('past_scans', PAST_SCANS)
        try:
            if not isinstance(scan, (str, Path)):
                raise DataError('an array came, expected the file of a scan to find its neighbours by. Give the file.')
            if isinstance(reader.origin, str):
                raise DataError(f"origin='{reader.origin}' came, of each scan another place, expected one for all of a "
                                "drive. Give origin='x,y,z'.")
            path = Path(scan).absolute()
            poses = poses_of(path.parent.parent, [path])[0]
            return [points for _, points in past_points(path, poses, count, reader)]
        except DataError as error:
            print_log(f'The net was trained on {count + 1} scans at a time but labels this one alone, which tells '
                      f'moving objects badly: {error}', 'current', logging.WARNING)
            return []


def past_points(path: Path, poses: np.ndarray, past_scans: int,
                reader: PointReader | None = None) -> list[tuple[Path, np.ndarray]]:
    """The scans before a scan, in its frame, the nearest first; none where there are fewer than wanted.

    Args:
        path: `sequences/SS/velodyne/FFFFFF.bin`.
        poses: (M, 4, 4) poses of the sequence's scans as their files have them, see `lidar_poses`.
        past_scans: how many.
        reader: of the scans; None for one of official files.

    Returns:
        file and points (N, 4) float32 of each.

    Raises:
        DataError: one of the scans is missing or damaged.
    """
    frame = pose_row(path, len(poses))
    if frame < past_scans:
        return []
    numbered = is_number(path, len(poses))
    found, reader = [], reader or PointReader()
    poses = poses @ np.linalg.inv(reader.to_frame)  # of the points as the reader turns them
    for back in range(1, past_scans + 1):
        past = path.with_name(f'{frame - back:06d}.bin' if numbered else scan_names(path.parent)[frame - back])
        if not past.is_file():
            raise DataError(f'{past}: no such file, expected the {past_scans} scans before {path.name}, which are '
                            f'added to it. Copy all scans of the sequence, or set past_scans=0.')
        found.append((past, move_points(reader.read(past).points, poses[frame - back], poses[frame])))
    return found


def move_points(points: np.ndarray, pose: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Points of one LiDAR frame in another one, computed in float64.

    Args:
        points: (N, 4) float32 x, y, z [m], intensity.
        pose, target: (4, 4) from the frame of the points, and from the wanted one, to a common world.

    Returns:
        (N, 4) float32.
    """
    turn = target[:3, :3].T @ pose[:3, :3]
    shift = target[:3, :3].T @ (pose[:3, 3] - target[:3, 3])
    moved = points.copy()
    moved[:, :3] = points[:, :3].astype(np.float64) @ turn.T + shift
    return moved


def lidar_poses(folder: Path, num_scans: int) -> np.ndarray:
    """Poses of the LiDAR, Tr^-1 P Tr of the camera's poses P, which the file has.

    Args:
        folder: `sequences/SS` with `calib.txt` and `poses.txt`.
        num_scans: scans of the sequence.

    Returns:
        (M, 4, 4) float64 from the LiDAR of each scan to the LiDAR of scan 0.

    Raises:
        DataError: a file is missing or damaged, there are fewer poses than scans, or a matrix is no rigid motion.
    """
    for name in ('calib.txt', 'poses.txt'):
        if not (folder / name).is_file():
            raise DataError(f'{folder / name}: no such file, expected it beside velodyne, since past scans are moved '
                            f'by the poses. Unpack the calibration and the labels (with poses) from {DOWNLOAD}.')
    calib, poses = read_calib(folder / 'calib.txt'), read_poses(folder / 'poses.txt')
    if 'Tr' not in calib:
        images = 'It is that of the image archives, which overwrite the right one. ' if 'P0' in calib else ''
        raise DataError(f'{folder / "calib.txt"}: no matrix Tr among {", ".join(calib) or "nothing"}, expected the one '
                        f'from the LiDAR to camera 0. {images}Unpack data_odometry_calib.zip once more, last of all.')
    if len(poses) < num_scans:
        raise DataError(f'{folder / "poses.txt"}: {len(poses):,} poses for {num_scans:,} scans, expected a line for '
                        'each scan from 000000 on, in the order of the scans. Take the poses of this sequence.')
    check_rigid(calib['Tr'][None], f'{folder / "calib.txt"}: Tr')
    check_rigid(poses, f'{folder / "poses.txt"}: line')
    return np.linalg.inv(calib['Tr']) @ poses @ calib['Tr']


def poses_of(folder: Path, files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Poses of all scans of a sequence, see `lidar_poses`, and those (F, 4, 4) of some of its scans.

    Raises:
        DataError: see `lidar_poses`, or a scan is named by neither its number nor a name with as many poses as scans.
    """
    if not (folder / 'poses.txt').is_file():
        frame_number(files[0])  # a lone file of any name is no scan of a sequence
    poses = lidar_poses(folder, 0)
    rows = [pose_row(file, len(poses)) for file in files]
    if max(rows) >= len(poses):
        poses = lidar_poses(folder, max(rows) + 1)  # says how many are missing
    return poses, poses[rows]


def pose_row(path: Path, num_poses: int) -> int:
    """The line of a scan in `poses.txt`: the number in its name or, where all have other names such as time stamps, its
    place among the scans, if there are as many as poses.

    Raises:
        DataError: it is named by no number, and its place tells nothing.
    """
    if is_number(path, num_poses):
        return frame_number(path)
    names = scan_names(path.parent) if path.is_file() else []
    if len(names) != num_poses or path.name not in names or any(is_number(Path(name), num_poses) for name in names):
        return frame_number(path)
    return names.index(path.name)


def is_number(path: Path, num_poses: int) -> bool:
    """Whether a scan is named by its line in `poses.txt`."""
    return path.stem.isascii() and path.stem.isdigit() and int(path.stem) < num_poses


def scan_names(folder: Path) -> list[str]:
    """Names of the scans of a folder, in order."""
    return _scan_names(folder, folder.stat().st_mtime_ns)


@functools.lru_cache(32)
def _scan_names(folder: Path, changed: int) -> list[str]:
    return sorted(path.name for path in visible(folder, '*.bin'))


def frame_number(path: Path) -> int:
    """The number that a scan's file is named by.

    Raises:
        DataError: it is named otherwise.
    """
    if not (path.stem.isascii() and path.stem.isdigit()):
        raise DataError(f'{path}: a scan named {path.stem!r}, expected six digits, which tell its pose. Rename it as '
                        'in the official archives.')
    return int(path.stem)


def scan_paths(data_root: str | Path, sample_id: str) -> tuple[Path, Path]:
    """Files of the points and of the labels of a scan such as `'08_000700'`."""
    sequence, _, frame = sample_id.partition('_')
    folder = Path(data_root, 'sequences', sequence)
    return folder / 'velodyne' / f'{frame}.bin', folder / 'labels' / f'{frame}.label'


def unpacked(data_root: str | Path) -> Path:
    """The folder that holds `sequences`: the one that is named, its `dataset`, or the parent of `sequences` itself."""
    root = Path(data_root)
    if not (root / 'sequences').is_dir() and (root / 'dataset' / 'sequences').is_dir():
        return root / 'dataset'
    return root.parent if root.name == 'sequences' and any(root.glob('*/velodyne')) else root


def list_scans(data_root: str | Path, sequences: Sequence[int | str]) -> list[str]:
    """Sample ids `'SS_FFFFFF'` of all scans of some sequences, in order.

    Args:
        data_root: folder that holds `sequences`, see `unpacked`.
        sequences: their numbers, or the names of their folders.

    Raises:
        ConfigError: something else, one twice, or a name with `_`, which parts sequence and scan in an id.
        DataError: the data set or a sequence is not there.
    """
    root = unpacked(data_root)
    if not sequences:
        raise ConfigError('sequences: none came, expected numbers or names of folders, such as [8]. Name some.')
    if not (root / 'sequences').is_dir():
        raise DataError(f'{root}: no folder {root / "sequences"}, expected SemanticKITTI in its official layout '
                        f'(sequences/SS/velodyne/FFFFFF.bin). Download it from {DOWNLOAD} and unpack or link it there, '
                        f'set PERCEPTION_DATA to the folder that replaces data/, or try simulated data with '
                        f'`python tools/train.py CONFIG --mini`.')
    scans, names = [], [sequence_name(sequence) for sequence in sequences]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f'sequences: {name} twice, expected each once, for its scans would count twice. Correct '
                              'them.')
        folder = root / 'sequences' / name / 'velodyne'
        frames = sorted(path.stem for path in visible(folder, '*.bin'))
        if not frames:
            there = sorted(path.parent.name for path in (root / 'sequences').glob('*/velodyne'))
            came = 'no .bin file in it' if folder.is_dir() else 'no such folder'
            raise DataError(f'{folder}: {came}, expected the scans of sequence {name} (found sequences: '
                            f'{", ".join(there) or "none"}). Unpack the missing archive from {DOWNLOAD}, or name other '
                            f'sequences in the config.')
        scans += [f'{name}_{frame}' for frame in frames]
    return scans


def sequence_name(sequence: int | str) -> str:
    """The folder of a sequence: two digits at least, or a name.

    Raises:
        ConfigError: neither a number of 0 or more nor a name without `_`.
    """
    if isinstance(sequence, int) and not isinstance(sequence, bool) and sequence >= 0:
        return f'{sequence:02d}'
    if not isinstance(sequence, str) or not re.fullmatch(r'[^_/\\.][^_/\\]*', sequence):
        raise ConfigError(f'sequences: {sequence!r}, expected numbers or names of folders without _, such as [8]. '
                          'Correct it.')
    return sequence


def visible(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder but the hidden ones, such as the `._*` of a Mac."""
    return [path for path in folder.glob(pattern) if not path.name.startswith('.')]


def check_labels_exist(data_root: str | Path, scans: Sequence[str]) -> None:
    """Make sure that every scan has its label file.

    Raises:
        DataError: some have none; the first one is named.
    """
    names = {scan.partition('_')[0] for scan in scans}
    labelled = {f'{name}_{path.stem}' for name in names
                for path in visible(Path(data_root, 'sequences', name, 'labels'), '*.label')}
    missing = [scan for scan in scans if scan not in labelled]
    if missing:
        raise DataError(f'{scan_paths(data_root, missing[0])[1]}: no such file ({len(missing):,} of {len(scans):,} '
                        f"scans have no labels), expected one for each scan. Unpack the labels from {DOWNLOAD}, or use "
                        f"split='test', which needs none.")
