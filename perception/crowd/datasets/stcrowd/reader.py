"""STCrowd: A Multimodal Dataset for Pedestrian Perception in Crowded Scenes (CVPR 2022).

Peishan Cong, Xinge Zhu, Feng Qiao, Yiming Ren, Xidong Peng, Yuenan Hou, Lan Xu, Ruigang Yang, Dinesh Manocha,
Yuexin Ma.

The official folders are read as they are unpacked, without the official converter and its pickles:

    <data_root>/split.json                        {"train": [ids], "val": [...], "test": [...]} of sequences 1..84
    <data_root>/camera.json                       p (3 x 4), r and t (4 x 4): p r t projects LiDAR points to `left`
    <data_root>/anno/<seq>.json                   people of each frame, of train and val
    <data_root>/pcd/<seq>/<seconds>.bin           four float32 a point: x, y, z [m], reflection
    <data_root>/left/<seq>/<n>_<seconds>.jpg      1280 x 720; stamps differ from those of the scans, the JSON pairs them

Both small files at the root come from the official repository, not with the archives; where one is absent, what it
holds is known here. The frame of the points is x forward, y left, z up. People are labelled in front (x >= 0), within
35 m and with 15 points or more. Those whose box is less than 1.2 m high (who sit) are left out officially: here they
are kept as `ignore`.

The official converter's `velocity` is the previous minus the current position in metres a frame, the opposite of what
it says, and 0 where there is no previous one. Here it is (current - previous) / 0.4 s, and NaN without a previous one,
also where the names of the scans tell that a frame between them is missing.
A frame without people gets a box of 0.001 m there; such boxes are left out here.
"""
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log

from perception.common.dataset import SeededDataset
from perception.common.formats.images import read_header, read_image
from perception.common.formats.kitti import read_points
from perception.common.formats.points import Frame
from perception.common.formats.text import read_json
from perception.common.structures import PER_BOX, BoxSample
from perception.crowd.density import count_neighbours
from perception.crowd.transforms import WithinBounds
from perception.registry import DATASETS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path, natural_order

DOWNLOAD = 'https://4dvlab.github.io/STCrowd/index.html'
LAYOUT = 'split.json, camera.json, anno/<seq>.json, pcd/<seq>/<seconds>.bin, left/<seq>/*.jpg'
SPLITS = dict(
    train=tuple(range(1, 32)),
    val=(33, 35, 39, 43, 47, 50, 51, 52, 53, 55, 56, 59, 62, 63, 64, 69, 70, 71, 73, 74, 76, 77, 78, 79, 82, 84),
    test=(32, 34, 36, 37, 38, 40, 41, 42, 44, 45, 46, 48, 49, 54, 57, 58, 60, 61, 65, 66, 67, 68, 72, 75, 80, 81, 83))
CAMERA = dict(  # the official camera.json
    p=((683.8, 0, 673.5907, 0), (0, 684.147, 372.8048, 0), (0, 0, 1, 0)), r=np.eye(4),
    t=((0.00852965, -0.999945, -0.00606215, 0.0609592), (-0.0417155, 0.00570127, -0.999113, -0.144364),
       (0.999093, 0.00877497, -0.0416646, -0.0731114), (0, 0, 0, 1)))
IMAGE_SIZE = (1280, 720)  # width and height of its images
INTERVAL = 0.4  # s between annotated frames
FAKE = 0.01  # m; a box that is smaller in all directions is the converter's stand-in for none
FARTHEST, SMALLEST, LARGEST = 1000.0, 1e-6, 100.0  # m, of a position and of sizes that can be meant so
PROBED = 200  # 2D boxes that tell whether they are given by their centre or by their corner


class Annotations(NamedTuple):
    """What the file of a sequence says: F frames, K people in the LiDAR's lists, M in those of the left image.

    Attributes:
        points: F paths of scans below the root.
        images: F paths of left images, empty where a frame has none.
        rows: (F + 1,) int64, where the people of each frame begin.
        boxes: (K, 9) float32, see BoxSample.
        occlusion: (K,) int64 levels 0..2.
        track_ids: (K,) int64, numbered in order of appearance in the sequence.
        num_points: (K,) int64.
        joint: (K,) int64, row of the same person in the image's list of the frame, -1 where there is none.
        image_rows: (F + 1,) int64, where the image's list of each frame begins.
        image_boxes: (M, 4) float64 as in the file: two places, width and height [pixel].
        hulls: (M, 4) float64 u1, v1, u2, v2 around the projected corners of the 3D box, NaN where they are not given.
    """

    points: list[str]
    images: list[str]
    rows: np.ndarray
    boxes: np.ndarray
    occlusion: np.ndarray
    track_ids: np.ndarray
    num_points: np.ndarray
    joint: np.ndarray
    image_rows: np.ndarray
    image_boxes: np.ndarray
    hulls: np.ndarray


@DATASETS.register_module()
class STCrowd(SeededDataset):
    """Scans of STCrowd with the people in them, in the official layout.

    `dataset[i]` or `dataset[epoch, i]` gives `dict(inputs=dict(points=(N, 4) float32), data_samples=BoxSample)`. The
    pipeline sees `points`, `lidar_to_image`, what `PER_BOX` names, `image_boxes` and `sample_id`, see SeededDataset.
    With `image_reduce` it also sees `image`, (H, W, 3) uint8, None where a frame has none, and `inputs` has what
    `camera_inputs` gives. `image_size`, width and height of the images in their files, is that of the first one.

    Args:
        data_root: folder that holds `anno` and `pcd`; a leading `data` gives way to the variable PERCEPTION_DATA.
        split: 'train', 'val' or 'test'. Test has no annotations: its frames are the scans, in order of time.
        sequences: other sequences instead of those of the split, such as `[8]`, numbers or names of files in `anno`.
        min_height: m; people whose box is lower are `ignore`.
        intensity_scale: reflections r become tanh(r / scale), for Ouster's are not bounded; `measure_intensity_scale`
            tells one that fits.
        pipeline: augmentations, callables or their configs, applied in turn.
        seed: of the augmentation.
        image_reduce: read the left image too, with 1, 2, 4 or 8 times fewer rows and columns; None: it is not read.

    Raises:
        ConfigError: an unknown split, a height, scale or division that none has.
        DataError: missing files, annotations that are none, a training split without people.
    """

    METAINFO = dict(classes=('pedestrian',), palette=((0, 0, 230),))
    FRAME = Frame(height=1.6, strongest=255.0)

    def __init__(self, data_root: str | Path = 'data/stcrowd', split: str = 'train',
                 sequences: Sequence[int | str] | None = None, min_height: float = 1.2,
                 intensity_scale: float = 255.0, pipeline: Sequence[dict | Callable] = (), seed: int = 0,
                 image_reduce: int | None = None) -> None:
        check_choice('STCrowd: split', split, SPLITS)
        check_choice('STCrowd: image_reduce', image_reduce, (None, 1, 2, 4, 8))
        check_positive('STCrowd', intensity_scale=intensity_scale)
        super().__init__(pipeline, seed)
        self.data_root, self.split = data_path(data_root), split
        self.min_height, self.intensity_scale, self.image_reduce = min_height, intensity_scale, image_reduce
        self.metainfo = dict(self.METAINFO, data_root=str(self.data_root), min_height=min_height)
        names = read_split(self.data_root, split) if sequences is None else [sequence_name(s) for s in sequences]
        if not names:
            raise ConfigError(f'STCrowd: sequences={sequences!r}, expected at least one. Name some, such as [8].')
        twice = [name for name in names if [other.zfill(2) for other in names].count(name.zfill(2)) > 1]
        if twice:  # a frame that counts twice, or two of one name
            raise ConfigError(f'STCrowd: sequence {twice[0]} twice, expected each once. Correct sequences.')
        self.lidar_to_image = read_camera(self.data_root / 'camera.json')
        self.annotations = [self._annotations(name, names) for name in names]
        self.frames = [(name, a, f) for name, a in zip(names, self.annotations) for f in range(len(a.points))]
        if not self.frames:
            raise DataError(f'{self.data_root}: no frames in {len(names)} sequences of the {split} split, expected '
                            f'some. Unpack the archives of STCrowd again ({DOWNLOAD}).')
        self._check()

    def _annotations(self, name: str, names: Sequence[str]) -> Annotations:
        """Of a sequence, or its scans alone where it belongs to the test split and has none."""
        path = self.data_root / 'anno' / f'{name}.json'
        if path.is_file():
            return read_annotations(path)
        scans = self.data_root / 'pcd' / name
        if self.split == 'test' and scans.is_dir():
            files = [f'pcd/{name}/{p.name}' for p in scans.glob('*.bin') if not p.name.startswith('.')]
            return bare_annotations(sorted(files, key=lambda f: (np.nan_to_num(_seconds(f)), natural_order(f))))
        missing, things, ending = (scans, 'scans', '') if self.split == 'test' else (path, 'annotations', '.json')
        absent = [n for n in names if not (missing.parent / f'{n}{ending}').exists()]
        if not missing.parent.is_dir():
            raise DataError(f'{self.data_root}: no {missing}, expected STCrowd in its official layout ({LAYOUT}). '
                            f'Download it from {DOWNLOAD} and unpack or link it there, set PERCEPTION_DATA to the '
                            'folder that replaces data/, or try simulated data with `python tools/train.py CONFIG '
                            '--mini`.')
        raise DataError(f'{missing}: no such file or folder, expected {things} of sequence {name} of the '
                        f'{self.split} split ({len(absent)} of {len(names)} are missing). Unpack the {things} '
                        f'again from {DOWNLOAD}, or name other sequences.')

    def _check(self) -> None:
        """See that the first scan is there and that there is something to learn; say what was found."""
        first = Path(self.path(0))
        if not first.is_file():
            raise DataError(f'{first}: no such file, expected the first of {len(self):,} scans of the {self.split} '
                            f'split. Unpack the missing archive of STCrowd from {DOWNLOAD}.')
        without = sum(not annotations.images[frame] for _, annotations, frame in self.frames)
        if self.image_reduce and without == len(self):
            raise DataError(f'{self.data_root}: no frame of the {self.split} split has an image, expected left images '
                            'for image_reduce. Take a split whose annotations name them, or leave image_reduce out.')
        if self.image_reduce and without:
            print_log(f'{self.data_root}: {without:,} of {len(self):,} frames of the {self.split} split have no image.',
                      'current', logging.WARNING)
        self.image_size = self._image_size()
        boxes = np.concatenate([a.boxes for a in self.annotations])
        tall = boxes[:, 5] >= self.min_height
        low = len(boxes) - int(tall.sum())
        if self.split == 'train' and not tall.any():
            raise DataError(f'{self.data_root}: no person of at least {self.min_height} m in {len(self):,} training '
                            'frames, expected people to learn. Check the annotations.')
        for step in self.pipeline:
            if self.split == 'train' and isinstance(step, WithinBounds) and not (tall & step.holds(boxes)).any():
                (x, y), (far_x, far_y) = boxes[:, :2].min(axis=0), boxes[:, :2].max(axis=0)
                raise DataError(f'{self.data_root}: none of {len(boxes):,} people within {step}, but at x {x:g} to '
                                f'{far_x:g}, y {y:g} to {far_y:g} m, expected people to learn. Bring boxes and points '
                                "into the LiDAR's frame, x forward, y left, in metres, or widen the bounds.")
        self.by_centre, *overlaps = given_by_centre(np.concatenate([a.image_boxes for a in self.annotations]),
                                                    np.concatenate([a.hulls for a in self.annotations]))
        told = 'centre {:.2f}, corner {:.2f}'.format(*overlaps) if overlaps[0] == overlaps[0] else 'there are none'
        print_log(f'{self.data_root}: {self.split} split, {len(self.annotations)} sequences (official: '
                  f'{len(SPLITS[self.split])}), {len(self):,} frames, {len(boxes):,} people, {low:,} of them lower '
                  f'than {self.min_height:g} m and ignored; 2D boxes are read as given by their '
                  f'{"centre" if self.by_centre else "upper left corner"} (IoU with the projected 3D boxes: {told}).',
                  'current')

    def _image_size(self) -> tuple[int, int]:
        """Width and height of the first image that is there, the official ones where none is."""
        for annotations in self.annotations:
            path = self.data_root / next(filter(None, annotations.images), '')
            try:
                return read_header(path).size[::-1] if path.is_file() else IMAGE_SIZE
            except DataError:  # said where it is looked at
                continue
        return IMAGE_SIZE

    def __len__(self) -> int:
        return len(self.frames)

    def path(self, index: int) -> str:
        """Where the points of a frame are."""
        _, annotations, frame = self.frames[index]
        return str(self.data_root / annotations.points[frame])

    def read(self, index: int) -> dict:
        """A frame as it is in its files.

        Returns:
            `points` (N, 4) float32, `sample_id`, `lidar_to_image` (4, 4) float64, `image_size`, with `image_reduce` the
            `image` and, unless it has no annotations, what BoxSample says of the truth.

        Raises:
            DataError: a damaged scan or image, or a scan without points in training.
        """
        name, annotations, frame = self.frames[index]
        points = read_scan(self.path(index), self.intensity_scale)
        if self.split == 'train' and not len(points):
            raise DataError(f'{self.path(index)}: 0 points in a training scan, expected some. Copy the file again, or '
                            f'leave sequence {name} out.')
        sample = dict(points=points, sample_id=f'{name.zfill(2)}_{frame:04d}', lidar_to_image=self.lidar_to_image,
                      image_size=self.image_size)
        if self.image_reduce:
            image = annotations.images[frame]
            sample['image'] = read_image(self.data_root / image, reduce=self.image_reduce) if image else None
        return sample if self.bare(index) else dict(sample, **self.people(index))

    def bare(self, index: int) -> bool:
        """Whether a frame has no annotations, as those of the test split have none."""
        return self.frames[index][1].rows is None

    def people(self, index: int) -> dict:
        """The truth of a frame without its points, as arrays; see BoxSample."""
        _, annotations, frame = self.frames[index]
        own = slice(*annotations.rows[frame:frame + 2])
        boxes = annotations.boxes[own]
        found = {key: getattr(annotations, key)[own] for key in ('occlusion', 'track_ids', 'num_points', 'joint')}
        u, v, width, height = annotations.image_boxes[slice(*annotations.image_rows[frame:frame + 2])].T
        if self.by_centre:
            u, v = u - width / 2, v - height / 2
        return dict(found, boxes=boxes, labels=np.zeros(len(boxes), np.int64), ignore=boxes[:, 5] < self.min_height,
                    density=count_neighbours(boxes),
                    image_boxes=np.stack([u, v, u + width, v + height], axis=1).astype(np.float32))

    def pack(self, sample: dict, index: int) -> dict:
        """See SeededDataset."""
        name, annotations, frame = self.frames[index]
        image = annotations.images[frame]
        data_sample = BoxSample(metainfo=dict(
            sample_id=sample['sample_id'], points_path=self.path(index),
            image_path=str(self.data_root / image) if image else '', sequence=name.zfill(2), frame=frame,
            timestamp=_seconds(annotations.points[frame]), lidar_to_image=sample['lidar_to_image'],
            image_size=self.image_size))
        for key in (*PER_BOX, 'image_boxes'):
            if key in sample:
                data_sample.set_field(torch.from_numpy(np.ascontiguousarray(sample[key])), key)
        inputs = dict(points=torch.from_numpy(np.ascontiguousarray(sample['points'], np.float32)))
        if self.image_reduce:
            inputs.update(camera_inputs(sample['image'], sample['lidar_to_image'], self.image_reduce,
                                        sample.get('image_move'), data_sample.image_path))
        return dict(inputs=inputs, data_samples=data_sample)


def camera_inputs(image: np.ndarray | None, lidar_to_image: np.ndarray, reduce: int = 1,
                  move: tuple[float, float, float] | None = None,
                  where: str | Path = 'an image') -> dict[str, torch.Tensor]:
    """An image and its projection as `perception/crowd/models/camera.py` takes them.

    Args:
        image: (H, W, 3) uint8 RGB, or None.
        lidar_to_image: (4, 4), see BoxSample, in pixels of the image before it was reduced.
        reduce: so many times smaller is the image.
        move: f, a, b: the image was moved so that a place p, from 0 to 1 across it, is at f p + a from the left, and at
            f p + b from above.
        where: the file, for messages.

    Returns:
        `image` (3, H, W) uint8 and `to_image` (3, 4) float32, see CameraEncoder; without an image no pixels and NaN.

    Raises:
        DataError: a projection whose axis does not meet the image, such as one for images of another size, or
            STCrowd's own with such.
    """
    if image is None:
        return dict(image=torch.zeros(3, 0, 0, dtype=torch.uint8), to_image=torch.full((3, 4), torch.nan))
    matrix, (factor, right, down) = np.array(lidar_to_image, np.float64)[:3], move or (1.0, 0.0, 0.0)
    height, width = (reduce * n for n in image.shape[:2])
    axis = matrix[:2, :3] @ matrix[2, :3] / (matrix[2, :3] ** 2).sum()
    official = np.allclose(axis, [row[2] for row in CAMERA['p'][:2]], atol=1e-2)  # however the scene was moved
    if not (0 <= axis[0] < width and 0 <= axis[1] < height) or official and (width, height) != IMAGE_SIZE:
        expected = 'the 1280 x 720 of STCrowd, whose that is' if official else 'it within'
        raise DataError(f'{where}: {width} x {height} pixels came with a projection whose axis is at {axis[0]:.0f}, '
                        f'{axis[1]:.0f}, expected {expected}. Take the camera.json of these images, or images of the '
                        'size that it was made for.')
    for row, size, shift in ((0, image.shape[1], right), (1, image.shape[0], down)):
        matrix[row] = factor * (matrix[row] + 0.5 * matrix[2]) / (size * reduce) + shift * matrix[2]
    return dict(image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
                to_image=torch.from_numpy(matrix.astype(np.float32)))


def read_scan(path: str | Path, intensity_scale: float = 255.0) -> np.ndarray:
    """Read a scan, `pcd/<seq>/<seconds>.bin`, as nets take it.

    Args:
        path: the file.
        intensity_scale: s in tanh(r / s) of the reflections r.

    Returns:
        (N, 4) float32: x forward, y left, z up [m], tanh of the reflection in [-1, 1].

    Raises:
        DataError: no such file, a size that is no multiple of 16 bytes, NaN or infinite values.
    """
    points = read_points(path)
    np.tanh(points[:, 3] / np.float32(intensity_scale), out=points[:, 3])
    return points


def measure_intensity_scale(dataset: STCrowd, frames: int = 200, seed: int = 0) -> float:
    """The `intensity_scale` that fits a data set: the 95th percentile of the reflections in some frames.

    Args:
        dataset: of the training split.
        frames: how many are looked at.
        seed: another one chooses others.
    """
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:frames]
    return float(np.percentile(np.concatenate([read_points(dataset.path(int(i)))[:, 3] for i in chosen]), 95))


def read_split(root: Path, split: str) -> list[str]:
    """Names of the sequences of a split, in the order of `split.json`, or the official ones where that is absent.

    Raises:
        DataError: a file that names no sequences of the split, or one twice.
    """
    path = root / 'split.json'
    if not path.exists():
        print_log(f'{path}: no such file; the official {split} split is taken.', 'current')
        return [str(number) for number in SPLITS[split]]
    found = read_json(path, 'the split of STCrowd').get(split)
    if not isinstance(found, list) or not found:
        raise DataError(f'{path}: {split!r} is {_short(found)}, expected a list of sequences. Take split.json of the '
                        'official repository.')
    try:
        names = [sequence_name(name) for name in found]
    except ConfigError as error:
        raise DataError(f'{path}: {error}') from error
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f'{path}: sequence {twice} twice in {split!r}, expected each once. Take split.json of the '
                        'official repository.')
    return names


def read_camera(path: Path) -> np.ndarray:
    """The projection of LiDAR points to the left image of `camera.json`, or the official one where that is absent.

    Returns:
        (4, 4) float64, see BoxSample.

    Raises:
        DataError: a file whose `p`, `r` and `t` are no matrices of finite numbers.
    """
    camera = read_json(path, 'the calibration of STCrowd') if path.exists() else CAMERA
    result = np.eye(4)
    for name, rows in (('p', 3), ('r', 4), ('t', 4)):
        try:
            matrix = np.array(camera.get(name), np.float64).reshape(rows, 4)
        except (ValueError, TypeError, OverflowError):
            matrix = np.full((rows, 4), np.nan)
        if not (np.abs(matrix) < 1e6).all():
            raise DataError(f'{path}: {name} is no {rows} x 4 matrix of finite numbers, expected the calibration of '
                            'the left camera. Take camera.json of the official repository.')
        result[:] = result @ np.concatenate([matrix, np.eye(4)[rows:]])
    return result


# --- annotations -----------------------------------------------------------------------------------------------------
_NUMBERS = {int, float}  # bool is none


class _Misfit(Exception):
    """A value is not what a field asks for: what came, and what was expected."""


def bare_annotations(points: list[str]) -> Annotations:
    """Those of frames of which nothing but the scans is known."""
    none, numbers = np.zeros((0, 9), np.float32), np.zeros(0, np.int64)
    return Annotations(points, [''] * len(points), None, none, numbers, numbers, numbers, numbers, None,
                       np.zeros((0, 4)), np.zeros((0, 4)))


def read_annotations(path: Path) -> Annotations:
    """Read `anno/<seq>.json`; lists that are absent are empty, ids may be numbers or text.

    Whoever has an id that somebody before in the same frame has is kept as another person, with a warning, since boxes
    can be learned without tracks.

    Raises:
        DataError: something that is no annotation, with file, frame and item.
    """
    record = read_json(path, 'annotations of STCrowd')
    frames = record.get('frames')
    if not isinstance(frames, list):
        raise DataError(f'{path}: frames is {_short(frames)}, expected a list. Unpack the annotations again.')
    try:
        total = _whole(record, 'total_number', 10 ** 6) if 'total_number' in record else len(frames)
    except _Misfit as error:
        raise DataError(f'{path}: {error}. Unpack the annotations again.') from error
    if total > len(frames):
        raise DataError(f'{path}: {len(frames):,} frames, expected {total:,}, as its total_number says. The file was '
                        'probably cut; unpack the annotations again.')
    points, images, counts, image_counts = [], [], [], []
    people, image_people, tracks = [], [], {}
    for number, frame in enumerate(frames[:total]):  # as the official converter counts
        where = f'{path}: frame {number}'
        if not isinstance(frame, dict):
            raise DataError(f'{where}: {_short(frame)}, expected an object with frame_name and items. Unpack the '
                            'annotations again.')
        points.append(_file(frame, 'frame_name', 'pcd', where))
        image, in_image = _left_image(frame, where)
        images.append(image)
        seen_in_image = _each(in_image, _image_person, f'{where}, left image')
        rows = {entry[0]: row for row, entry in reversed([*enumerate(seen_in_image)]) if entry[0] is not None}
        entries = [entry for entry in _each(_list(frame, 'items', where), _person, where) if max(entry[3][3:6]) > FAKE]
        seen = set()
        for row, (track, joint, whole, box) in enumerate(entries):
            if track in seen:
                print_log(f'{where}, item {row}: id {track!r} again, expected each once in a frame; it is taken as '
                          'another person.', 'current', logging.WARNING)
                track = (track, number, row)
            seen.add(track)
            people.append((number, tracks.setdefault(track, len(tracks)), rows.get(joint, -1), *whole, *box))
        counts.append(len(entries))
        image_counts.append(len(seen_in_image))
        image_people += [entry[1] for entry in seen_in_image]
    table = np.array(people, np.float64).reshape(-1, 12)
    number, track, joint, occlusion, num_points = table[:, :5].astype(np.int64).T
    on_image = np.array(image_people, np.float64).reshape(-1, 8)
    late = np.diff([_seconds(path) for path in points], prepend=np.nan) > 1.5 * INTERVAL
    boxes = np.concatenate([table[:, 5:], _velocities(number, track, table[:, 5:7], late)], axis=1).astype(np.float32)
    return Annotations(points, images, _starts(counts), boxes, occlusion, track, num_points, joint,
                       _starts(image_counts), on_image[:, :4], on_image[:, 4:])


def _velocities(frame: np.ndarray, track: np.ndarray, xy: np.ndarray, late: np.ndarray) -> np.ndarray:
    """(K, 2) m/s since the frame before, NaN where a track is not in it or the frame (F,) is late: one is missing."""
    result = np.full((len(frame), 2), np.nan)
    order = np.lexsort((frame, track))
    before, after = order[:-1], order[1:]
    follows = (track[before] == track[after]) & (frame[before] + 1 == frame[after]) & ~late[frame[after]]
    result[after[follows]] = (xy[after[follows]] - xy[before[follows]]) / INTERVAL
    return result


def _starts(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def _each(items: list, read: Callable[[dict], tuple], where: str) -> list[tuple]:
    """What is read of each item of a list."""
    found = []
    for number, item in enumerate(items):
        try:
            if not isinstance(item, dict):
                raise _Misfit(f'{_short(item)}, expected an object that describes a person')
            found.append(read(item))
        except _Misfit as error:
            raise DataError(f'{where}, item {number}: {error}. Correct it, or unpack the annotations again.') from error
    return found


def _person(item: dict) -> tuple:
    """Track and joint id, occlusion and number of points, and the box of an item of the LiDAR's list."""
    category = item.get('category', 'person')
    if category != 'person':
        raise _Misfit(f"category {_short(category)}, expected 'person'")
    turned = item.get('rotation')
    turned = _numbers(turned, 'rotation', 'z') if isinstance(turned, dict) else _numbers(item, 'rotation', ['rotation'])
    box = (*_numbers(item.get('position'), 'position', 'xyz'),
           *_numbers(item.get('boundingbox'), 'boundingbox', 'xyz', SMALLEST, LARGEST), *turned)
    return _id(item, 'id'), _joint(item), (_whole(item, 'occlusion', 2), _whole(item, 'pointCount', 10 ** 8)), box


def _image_person(item: dict) -> tuple:
    """Joint id, and the box with the hull of the projected corners, of an item of the image's list."""
    place, size = _numbers(item.get('boundingbox'), 'boundingbox', 'xy', -1e5, 1e5), \
        _numbers(item.get('dimension'), 'dimension', 'xy', 0, 1e5)
    corners = item.get('points')
    if corners is None or corners == []:
        return _joint(item), (*place, *size, *[np.nan] * 4)
    try:
        uv = [corner[axis] for axis in 'xy' for corner in corners]
    except (TypeError, KeyError, IndexError):
        uv = []
    if len(uv) != 16 or not _between(uv, -1e7, 1e7):
        raise _Misfit(f'points {_short(corners)}, expected 8 corners with numbers x, y between -1e+07 and 1e+07')
    return _joint(item), (*place, *size, min(uv[:8]), min(uv[8:]), max(uv[:8]), max(uv[8:]))


def _numbers(values: Any, name: str, keys: Sequence[str], low: float = -FARTHEST, high: float = FARTHEST) -> list:
    """Values of an object, once it is sure that they are numbers between two others."""
    found = [values.get(key) for key in keys] if isinstance(values, dict) else [values]
    if len(found) != len(keys) or not _between(found, low, high):
        came = _short(values if len(keys) > 1 and not isinstance(values, dict) else found)
        raise _Misfit(f'{name} {came}, expected {len(keys)} number{"s" * (len(keys) > 1)} ({", ".join(keys)}) between '
                      f'{low:g} and {high:g}')
    return found


def _between(values: list, low: float, high: float) -> bool:
    """Whether all are numbers from one to another; NaN is not."""
    return _NUMBERS.issuperset(map(type, values)) and all(low <= value <= high for value in values)


def _whole(item: dict, name: str, most: int) -> int:
    """A whole number from 0 on, which the files may hold as text."""
    value = item.get(name)
    if type(value) is str and value.isdecimal() and len(value) < 10 or type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= most:
        raise _Misfit(f'{name} {_short(item.get(name))}, expected a whole number from 0 to {most:,}')
    return value


def _id(item: dict, name: str) -> str:
    """An id, which the files hold as a number or as text."""
    value = item.get(name)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) not in (int, str) or value == '' or abs(value if type(value) is int else 0) > 10 ** 18:
        raise _Misfit(f'{name} {_short(item.get(name))}, expected a number or a text')
    return str(value)


def _joint(item: dict) -> str | None:
    """The id that is the same for a person in both lists; None where it is not given."""
    return None if item.get('number') is None else _id(item, 'number')


def _list(record: dict, name: str, where: str) -> list:
    """A list of a record, empty where it is absent.

    Raises:
        DataError: it is something else.
    """
    found = record.get(name)
    if not isinstance(found, (list, type(None))):
        raise DataError(f'{where}: {name} is {_short(found)}, expected a list. Unpack the annotations again.')
    return found or []


def _left_image(frame: dict, where: str) -> tuple[str, list]:
    """Path and people of the left image of a frame; empty where it has none. The right one's `class` says left too."""
    for number, image in enumerate(_list(frame, 'images', where)):
        if not isinstance(image, dict):
            raise DataError(f'{where}, image {number}: {_short(image)}, expected an object with image_name and items. '
                            'Unpack the annotations again.')
        name = image.get('image_name')
        if not isinstance(name, str) or 'right' not in name.replace('\\', '/').split('/')[:-1]:
            inner = f'{where}, image {number}'
            return _file(image, 'image_name', 'left', inner), _list(image, 'items', inner)
    return '', []


def _file(record: dict, key: str, folder: str, where: str) -> str:
    """Path of a file below the root, of which the files hold some folders before, too.

    Raises:
        DataError: there is none, or it leads out of the folder.
    """
    name = record.get(key)
    parts = name.replace('\\', '/').split('/') if isinstance(name, str) and name.isprintable() else []
    own = parts[len(parts) - 1 - parts[::-1].index(folder):] if folder in parts else []
    if len(own) < 2 or '' in own or '..' in own or len(name) > 1000:
        raise DataError(f'{where}: {key} {_short(name)}, expected the path of a file in {folder}/. Unpack the '
                        'annotations again.')
    return '/'.join(own)


def sequence_name(name: Any) -> str:
    """Name of a sequence, a number or a text.

    Raises:
        ConfigError: it is something else.
    """
    good = type(name) in (int, str) and str(name).isprintable() and str(name).strip('.') and '/' not in str(name) \
        and '_' not in str(name) and len(str(name)) < 100
    if not good:
        raise ConfigError(f'sequence {_short(name)}, expected a number or the name of a file in anno, without _. '
                          'Correct it.')
    return str(name)


def _seconds(path: str) -> float:
    """The time in the name of a scan, NaN where there is none."""
    try:
        return float(path.rpartition('/')[2].removesuffix('.bin'))
    except ValueError:
        return float('nan')


def _short(value: Any) -> str:
    """A value for a message."""
    if isinstance(value, (dict, list)) and not all(isinstance(v, (int, float, str, type(None))) for v in
                                                   (value.values() if isinstance(value, dict) else value)):
        return f'a {type(value).__name__} of {len(value):,}'
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else 'a huge number'
    return text if len(text) <= 80 else f'{text[:80]}...'


# --- 2D boxes --------------------------------------------------------------------------------------------------------
def given_by_centre(boxes: np.ndarray, hulls: np.ndarray) -> tuple[bool, float, float]:
    """Whether the 2D boxes of a data set are given by their centre rather than by their upper left corner.

    No document says so; each is compared with the hull of the projected corners of the same person's 3D box.

    Args:
        boxes: (M, 4) two places, width and height [pixel].
        hulls: (M, 4) u1, v1, u2, v2, NaN where unknown.

    Returns:
        whether by the centre, also where nothing tells, and the mean IoU of both readings over at most 200 boxes, NaN
        where there are none.
    """
    known = np.flatnonzero(np.isfinite(hulls).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1))
    chosen = known[np.linspace(0, len(known) - 1, min(len(known), PROBED)).astype(np.int64)]
    if not len(chosen):
        return True, float('nan'), float('nan')
    place, size, hull = boxes[chosen, :2], boxes[chosen, 2:], hulls[chosen]
    overlaps = []
    for start in (place - size / 2, place):
        common = np.minimum(start + size, hull[:, 2:]) - np.maximum(start, hull[:, :2])
        common = common.clip(0).prod(axis=1)
        union = size.prod(axis=1) + (hull[:, 2:] - hull[:, :2]).prod(axis=1) - common
        overlaps.append(float((common / union).mean()))
    return overlaps[0] >= overlaps[1], *overlaps
