"""Waymo Open Dataset, 3D semantic segmentation: one folder of arrays for each labelled frame.

    <data_root>/{training,validation,testing}/segment-CONTEXT_with_camera_labels/TIMESTAMP/
        coord.npy      (N, 3) x, y, z [m] in the vehicle's frame: z = 0 on the ground, x forward, y left
        strength.npy   (N, 1) tanh(intensity)
        segment.npy    (N,) official type minus 1, so -1 = undefined; not in testing
        mask.npy       pixels of the range images that are points, [return][LiDAR]; not needed for training
        pose.npy       (4, 4) from the vehicle to the world; for films alone

The official files are TFRecords that only Waymo's own package reads; these arrays are what Pointcept's
`preprocess_waymo.py` makes of them, for the frames that have labels and the official test frames. Points come range
image by range image, row by row: the first returns of all five LiDARs (TOP first), then the second returns. Only those
of the TOP LiDAR have labels; all others are undefined and count nowhere.

Train ids 0..21 are the official types 1..22; undefined is 255.
"""
import io
import logging
import math
import pickletools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from perception.common.formats.kinds import check_size
from perception.common.formats.points import Cloud, Frame, PointReader, find_points
from perception.common.formats.text import read_text
from perception.lidarseg.datasets.base import IGNORE, LidarScans, check_rigid
from perception.registry import DATASETS
from perception.utils.checks import check_choice
from perception.utils.errors import DataError
from perception.utils.paths import data_path

DOWNLOAD = 'https://waymo.com/open'
SPLITS = dict(train='training', val='validation', test='testing')
OFFICIAL_FRAMES = dict(train=23_691, val=5_976, test=2_982)
FRAME_LIST = '3d_semseg_test_set_frames.txt'  # official, CONTEXT,TIMESTAMP a line
CLASSES = ('car', 'truck', 'bus', 'other-vehicle', 'motorcyclist', 'bicyclist', 'pedestrian', 'sign', 'traffic-light',
           'pole', 'construction-cone', 'bicycle', 'motorcycle', 'building', 'vegetation', 'tree-trunk', 'curb', 'road',
           'lane-marker', 'other-ground', 'walkable', 'sidewalk')  # segmentation.proto, types 1..22
# Waymo publishes colours for its camera classes; those are taken where a class has the same name, the rest is chosen,
# and that of buildings, whose grey is nearly that of points without a class
PALETTE = ((0, 0, 142), (0, 0, 70), (0, 60, 100), (61, 133, 198), (180, 0, 0), (255, 0, 0), (220, 20, 60),
           (246, 178, 107), (250, 170, 30), (153, 153, 153), (230, 145, 56), (119, 11, 32), (0, 0, 230), (0, 190, 190),
           (107, 142, 35), (111, 78, 55), (234, 153, 153), (128, 64, 128), (234, 209, 220), (217, 210, 233),
           (152, 251, 152), (244, 35, 232))
LIDARS = ('TOP', 'FRONT', 'SIDE_LEFT', 'SIDE_RIGHT', 'REAR')  # in the order of their official numbers
PREFIX, SUFFIX = 'segment-', '_with_camera_labels'


@DATASETS.register_module()
class Waymo(LidarScans):
    """Frames of all five LiDARs with both returns.

    `dataset[i]` or `dataset[epoch, i]` gives `dict(inputs=dict(points=(N, 4) float32), data_samples=PointSegSample)`;
    the fourth column is tanh(intensity). In validation and testing, which need `mask.npy`, the sample's `first_len`
    tells how many points are first returns. The pipeline is that of SemanticKITTI.

    Args:
        data_root: folder of the three splits; a leading `data` gives way to the variable PERCEPTION_DATA.
        split: 'train', 'val' or 'test'; 'test' reads no labels, and only the frames of the official list where that
            lies in `data_root` as `3d_semseg_test_set_frames.txt`.
        pipeline: augmentations, callables or their configs, applied in turn.
        seed: of the augmentation.

    Raises:
        ConfigError: an unknown split.
        DataError: missing folders, frames without labels.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE, ahead=1.43)  # m from the vehicle's origin to the TOP LiDAR
    FRAME = Frame(height=0.0)
    LABEL_SUFFIX = '/segment.npy'  # in the folder of a frame
    POSES = 'frames of one segment, each with its pose.npy'

    def __init__(self, data_root: str | Path = 'data/waymo', split: str = 'train',
                 pipeline: Sequence[dict | Callable] = (), seed: int = 0) -> None:
        check_choice('Waymo: split', split, SPLITS)
        super().__init__(pipeline, seed)
        self.data_root, self.split = data_path(data_root), split
        self.metainfo = dict(self.METAINFO, data_root=str(self.data_root))
        self.frames = list_frames(self.data_root, split)
        if split == 'train':
            self.check_labelled(lambda index: read_labels(self.frames[index]))
        self.official_size = OFFICIAL_FRAMES[split]

    def __len__(self) -> int:
        return len(self.frames)

    def path(self, index: int) -> str:
        return str(self.frames[index])

    def read(self, index: int) -> dict:
        """A frame as it is in its files: `points` (N, 4) float32, `sample_id` and what the split has of `labels` (N,)
        int64 and `first_len`.

        Raises:
            DataError: damaged arrays, arrays that do not fit each other, fewer than two points in training.
        """
        folder = self.frames[index]
        points = read_points(folder)
        sample = dict(points=points, sample_id=frame_id(folder))
        if self.split != 'test':
            sample['labels'] = read_labels(folder, len(points))
        if self.split == 'train':
            if len(points) < 2:
                raise DataError(f'{folder}: {len(points)} points in a frame for training, expected at least 2. Take '
                                'this frame out of the training split.')
        else:
            sample['first_len'] = sum(int(mask.sum()) for mask in read_masks(folder, len(points))[0])
        return sample

    @classmethod
    def find_scans(cls, path: str | Path) -> list[Path]:
        """The frame's folder itself, or those in the folder of a segment; else scans of any format.

        Raises:
            DataError: none is there.
        """
        path = frame_folder(path)
        folders = [path] if (path / 'coord.npy').is_file() else sorted(p.parent for p in path.glob('*/coord.npy'))
        if not folders and path.is_dir() and not any(path.glob('*.*')):
            raise DataError(f'{path}: no coord.npy in it, expected the folder of a frame or of a segment of frames. '
                            'Check the path.')
        return folders or find_points(path)

    @classmethod
    def read_scan(cls, path: str | Path, reader: PointReader) -> Cloud:
        """A frame's folder, or the `coord.npy` in it; else a scan of any format."""
        folder = frame_folder(path)
        if not folder.is_dir():
            return reader.read(path)
        points = read_points(folder)
        return reader.cloud(dict(zip(('x', 'y', 'z', 'intensity'), points.T)), folder)

    @classmethod
    def scan_labels(cls, path: Path, num_points: int, data: Mapping) -> np.ndarray:
        """See LidarScans; `--labels` names the folder of a segment, of a frame, or a frame's segment.npy."""
        own = path.parent.parent / path.name  # of the folder of a frame, in which another one was looked for
        return read_labels(own if own.is_file() and not path.is_file() else path, num_points)

    @classmethod
    def scan_poses(cls, files: Sequence[Path], data: Mapping) -> np.ndarray | None:
        """See LidarScans; None where frames are of several segments, or one has no `pose.npy`.

        Raises:
            DataError: a damaged pose.
        """
        paths = [frame_folder(file).absolute() / 'pose.npy' for file in files]
        if len({path.parent.parent for path in paths}) > 1 or not all(path.is_file() for path in paths):
            return None
        return np.stack([read_pose(path) for path in paths])


def list_frames(data_root: str | Path, split: str) -> list[Path]:
    """Folders of all frames of a split, in order.

    Args:
        data_root: folder of the data set.
        split: a key of `SPLITS`.

    Raises:
        DataError: the split is not there, or a frame of the official test list is missing.
    """
    root = Path(data_root, SPLITS[split])
    frames = sorted(path.parent for path in root.glob(f'{PREFIX}*/*/coord.npy'))
    if not frames:
        came = f'no {PREFIX}CONTEXT{SUFFIX}/TIMESTAMP/coord.npy in it' if root.is_dir() else 'no such folder'
        raise DataError(f'{root}: {came}, expected the arrays of labelled frames. Get the data set from {DOWNLOAD}, '
                        'make the arrays with preprocess_waymo.py of Pointcept (see data/README.md), set '
                        'PERCEPTION_DATA to the folder that replaces data/, or try simulated data with '
                        '`python tools/train.py CONFIG --mini`.')
    for frame in frames:
        frame_id(frame)  # refuses other names
    wanted = Path(data_root, FRAME_LIST)
    if split == 'test' and wanted.is_file():
        by_id = {frame_id(frame): frame for frame in frames}
        ids = read_frame_list(wanted)
        missing = [name for name in ids if name not in by_id]
        if missing:
            raise DataError(f'{root}: frame {missing[0]} is missing ({len(missing):,} of {len(ids):,}), expected every '
                            f'frame of {wanted}. Make the arrays of the whole testing split.')
        frames = [by_id[name] for name in ids]
    return frames


def read_frame_list(path: Path) -> list[str]:
    """Ids `CONTEXT_TIMESTAMP` of the frames that a list names by `CONTEXT,TIMESTAMP` lines, sorted.

    Raises:
        DataError: the file cannot be read or holds another line.
    """
    lines = read_text(path, 'the official list of test frames').split()
    wrong = [line for line in lines if line.count(',') != 1 or not line.partition(',')[2].isdecimal()]
    if wrong or not lines:
        raise DataError(f'{path}: {"a line " + repr(wrong[0][:60]) if wrong else "nothing in it"}, expected lines '
                        'CONTEXT,TIMESTAMP. Take the official list of waymo-open-dataset.')
    return sorted({line.replace(',', '_') for line in lines})


def frame_id(folder: Path) -> str:
    """`CONTEXT_TIMESTAMP` of a frame's folder.

    Raises:
        DataError: it is named otherwise.
    """
    context = folder.parent.name
    if not (context.startswith(PREFIX) and folder.name.isascii() and folder.name.isdigit()):
        raise DataError(f'{folder}: a frame of this name, expected {PREFIX}CONTEXT{SUFFIX}/TIMESTAMP. Keep the names '
                        'that preprocess_waymo.py gives.')
    return f'{context.removeprefix(PREFIX).removesuffix(SUFFIX)}_{folder.name}'


def frame_folder(path: str | Path) -> Path:
    """The folder of a frame that is named by itself or by the `coord.npy` in it."""
    path = Path(path).expanduser()
    return path.parent if path.name == 'coord.npy' else path


def read_points(folder: Path) -> np.ndarray:
    """Points of a frame, (N, 4) float32: x, y, z [m], tanh(intensity).

    Raises:
        DataError: an array is missing, damaged, of another shape, not finite, or intensities are not in [-1, 1].
    """
    coord, strength = read_array(folder / 'coord.npy'), read_array(folder / 'strength.npy')
    _check(coord.ndim == 2 and coord.shape[1] == 3 and coord.dtype.kind == 'f', folder / 'coord.npy', coord,
           '(N, 3) floats: x, y, z')
    _check(strength.size == len(coord) == len(strength) and strength.dtype.kind == 'f', folder / 'strength.npy',
           strength, f'({len(coord)}, 1) floats, one for each point')
    points = np.empty((len(coord), 4), np.float32)
    with np.errstate(over='ignore'):
        points[:, :3], points[:, 3] = coord, strength.reshape(-1)
    if not np.isfinite(points).all():
        good = np.isfinite(points).all(axis=1)
        row = int(np.argmin(good))
        raise DataError(f'{folder}: {points[row].tolist()} in row {row} of coord.npy and strength.npy '
                        f'({(~good).sum():,} such rows), expected finite numbers. Make the arrays of this frame anew.')
    if len(points) and np.abs(points[:, 3]).max() > 1:
        raise DataError(f'{folder / "strength.npy"}: {points[:, 3].max():.4g} is the largest value, expected '
                        'tanh(intensity), at most 1. Take the hyperbolic tangent of the intensities once.')
    return points


def read_labels(folder: Path, num_points: int | None = None) -> np.ndarray:
    """Train ids of a frame, its folder or `segment.npy`, (N,) int64, 255 = undefined; the number of points is checked
    where it is given.

    Raises:
        DataError: the array is missing, damaged, of another length, or holds an unknown type.
    """
    path = folder if folder.suffix == '.npy' else folder / 'segment.npy'
    segment = read_array(path)
    _check(num_points in (None, segment.size) and segment.dtype.kind in 'iu', path, segment,
           f'({"N" if num_points is None else num_points},) integers, one for each point')
    segment = segment.reshape(-1).astype(np.int64)
    wrong = (segment < -1) | (segment >= len(CLASSES))
    if wrong.any():
        raise DataError(f'{path}: class {segment[wrong][0]} at {wrong.sum():,} points, expected -1..{len(CLASSES) - 1} '
                        '(official type minus 1). Make the arrays of this frame anew.')
    return np.where(segment < 0, IGNORE, segment)


def read_pose(path: Path) -> np.ndarray:
    """Pose of a frame, (4, 4) float64 from the vehicle to the world.

    Raises:
        DataError: the array is damaged, of another shape, or no rigid motion.
    """
    pose = read_array(path)
    _check(pose.shape == (4, 4) and pose.dtype.kind == 'f', path, pose, '(4, 4) floats')
    check_rigid(pose[None], f'{path}: it')
    return pose.astype(np.float64)


def read_masks(folder: Path, num_points: int | None = None) -> list[list[np.ndarray]]:
    """Pixels of the range images that are points: for both returns, for each LiDAR an (H, W) bool array.

    Args:
        folder: of the frame.
        num_points: how many the frame has; None does not check it.

    Raises:
        DataError: the array is missing, damaged, of another shape, or has another number of points.
    """
    path = folder / 'mask.npy'
    masks = read_array(path, objects=True)
    shape = masks.shape
    good = len(shape) in (2, 4) and shape[0] == 2 and 1 <= shape[1] <= len(LIDARS)
    nested = [[masks[r, k] for k in range(shape[1])] for r in range(2)] if good else []
    if masks.dtype == object and len(shape) == 4:  # numpy unpacks equally large images into objects
        nested = [[np.array(mask.tolist()) for mask in returns] for returns in nested]
    if not (good and all(isinstance(mask, np.ndarray) and mask.ndim == 2 and mask.dtype == bool
                         for returns in nested for mask in returns)
            and all(a.shape == b.shape for a, b in zip(*nested))):
        raise DataError(f'{path}: an array of shape {masks.shape} and type {masks.dtype}, expected (2, LiDARs) bool '
                        'images of equal size for both returns. Make the arrays of this frame anew.')
    total = sum(int(mask.sum()) for returns in nested for mask in returns)
    if num_points is not None and total != num_points:
        raise DataError(f'{path}: {total:,} pixels for {num_points:,} points, expected equal numbers. The arrays are '
                        'of different frames; make them anew.')
    return nested


def read_array(path: Path, objects: bool = False) -> np.ndarray:
    """An array of an `.npy` file; nothing in it is executed.

    Args:
        path: the file.
        objects: whether the array may hold arrays of bool, which NumPy writes as a pickle. That is not unpickled but
            read as text, see `_array_of_arrays`.

    Raises:
        DataError: no such file, or a damaged one.
    """
    check_exists(path)
    check_size(path)
    try:
        with open(path, 'rb') as file:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else \
                np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read_header(file)
            if objects and dtype.kind == 'O':
                found = _array_of_arrays(file.read())
                if found.shape != shape:
                    raise ValueError(f'a pickle of shape {found.shape}, expected {shape} of the header')
                return found
            rest, wanted = path.stat().st_size - file.tell(), math.prod(shape) * dtype.itemsize
            if dtype.kind not in 'biuf' or rest < wanted:
                raise ValueError(f'{rest:,} bytes for shape {shape} and type {dtype}')
            file.seek(0)
            found = np.load(file, allow_pickle=False)
            if dtype.kind == 'b' and found.view(np.uint8).max(initial=0) > 1:
                raise ValueError('a truth value that is neither 0 nor 1')
            return found
    except (Exception, MemoryError) as error:  # a damaged header may raise anything
        said = ' '.join(str(error).split())[:200]
        raise DataError(f'{path}: it cannot be read ({type(error).__name__}: {said}), expected an array as numpy.save '
                        'writes it. Make the arrays of this frame anew.') from error


def check_exists(path: Path) -> None:
    """Say which array of a frame is missing.

    Raises:
        DataError: it is.
    """
    if not path.exists():
        raise DataError(f'{path}: no such file, expected it beside coord.npy. Make the arrays of this frame anew with '
                        'preprocess_waymo.py.')


class _Call(list):
    """What a pickle would call, `[name, arguments, state]`; it is never called."""


def _array_of_arrays(data: bytes) -> np.ndarray:
    """The array of bool arrays, or of bools, that the text of a pickle describes; the pickle itself is never loaded.

    Raises:
        ValueError: it describes anything else.
    """
    stack, marks, memo = [], [], {}
    for code, value, _ in pickletools.genops(io.BytesIO(data)):
        name = code.name
        if name == 'MARK':
            marks.append(len(stack))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ('BININT', 'BININT1', 'BININT2') or name.endswith(('BINBYTES', 'BINUNICODE')):
            stack.append(value)
        elif name == 'EMPTY_LIST':
            stack.append([])
        elif name in ('TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'APPENDS', 'APPEND'):
            start = marks.pop() if name in ('TUPLE', 'APPENDS') else len(stack) - int(name[-1:].replace('D', '1'))
            items = stack[start:]
            del stack[start:]
            stack[-1].extend(items) if name.startswith('APPEND') else stack.append(tuple(items))
        elif name in ('GLOBAL', 'STACK_GLOBAL'):
            words = value.split(' ') if value else [stack.pop(-2), stack.pop()]
            stack.append(_named(*words))
        elif name == 'REDUCE':
            arguments = stack.pop()
            stack.append(_Call([stack.pop(), arguments, None]))
        elif name == 'BUILD':
            state = stack.pop()
            stack[-1][2] = state
        elif name in ('MEMOIZE', 'BINPUT', 'LONG_BINPUT'):
            memo[len(memo) if name == 'MEMOIZE' else value] = stack[-1]
        elif name in ('BINGET', 'LONG_BINGET'):
            stack.append(memo[value])
        elif name not in ('PROTO', 'FRAME', 'STOP'):
            raise ValueError(f'a pickle with {name}, expected arrays of bool alone')
    return _described(stack.pop())


_CONSTANTS = dict(NEWTRUE=True, NEWFALSE=False, NONE=None, EMPTY_TUPLE=())
_NAMES = {('numpy', 'ndarray'), ('numpy', 'dtype'), ('numpy.core.multiarray', '_reconstruct'),
          ('numpy._core.multiarray', '_reconstruct')}


def _named(module: str, name: str) -> str:
    """The last part of a name in a pickle of an array."""
    if (module, name) not in _NAMES:
        raise ValueError(f'it asks for {module}.{name}, which is no array')
    return name


def _described(call: Any, objects: bool = True) -> np.ndarray:
    """The array that a call in a pickle stands for; one of objects holds bools and arrays of bool, each made once."""
    if not isinstance(call, _Call) or call[0] != '_reconstruct':
        raise ValueError(f'{type(call).__name__} instead of an array')
    _, shape, dtype, fortran, content = call[2]
    kind = dtype[1][0] if isinstance(dtype, _Call) and dtype[0] == 'dtype' else None
    order = 'F' if fortran else 'C'
    if kind in ('b1', '?') and isinstance(content, bytes):
        bits = np.frombuffer(content, np.uint8)
        if bits.max(initial=0) > 1:
            raise ValueError('a truth value that is neither 0 nor 1')
        return bits.astype(bool).reshape(shape, order=order)
    if not objects or kind not in ('O', 'O8') or not isinstance(content, list):
        raise ValueError(f'an array of {kind!r}, expected bool')
    made = {key: item if isinstance(item, bool) else _described(item, objects=False)
            for key, item in {id(item): item for item in content}.items()}
    items = np.empty(len(content), object)
    for k, item in enumerate(content):
        items[k] = made[id(item)]
    return items.reshape(shape, order=order)


def count_classes(dataset: Waymo) -> np.ndarray:
    """Points of each class in a data set, (22,) int64; tells which classes are rare.

    Args:
        dataset: of a labelled split, without a pipeline that drops points.
    """
    total = np.zeros(len(CLASSES), np.int64)
    for folder in dataset.frames:
        labels = read_labels(folder, read_array(folder / 'coord.npy').shape[0])
        total += np.bincount(labels[labels != IGNORE], minlength=len(CLASSES))
    share = total / max(total.sum(), 1)
    lines = [f'{name:<20}{100 * part:10.5f} %' for name, part in zip(CLASSES, share)]
    print_log('\n'.join([f'{len(dataset):,} frames', *lines]), 'current', logging.INFO)
    return total


def _check(good: bool, path: Path, array: np.ndarray, wanted: str) -> None:
    if not good:
        raise DataError(f'{path}: an array of shape {array.shape} and type {array.dtype}, expected {wanted}. Make the '
                        'arrays of this frame anew.')
