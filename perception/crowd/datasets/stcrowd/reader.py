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
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log

from perception.common.dataset import SeededDataset
from perception.common.formats.images import read_header, read_image
from perception.common.formats.kitti import read_points
from perception.common.formats.points import Frame
from perception.common.formats.text import read_json
from perception.common.structures import PER_BOX, BoxSample
from perception.crowd.datasets.stcrowd.annotations import (
    INTERVAL,
    Annotations,
    bare_annotations,
    given_by_centre,
    read_annotations,
    seconds_of,
    sequence_name,
    short,
)
from perception.crowd.density import count_neighbours
from perception.crowd.transforms import WithinBounds
from perception.registry import DATASETS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path, missing_files, natural_order

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
        incomplete: what becomes of frames whose scan, or image where it is read, is named and not there: `'refuse'` the
            data set, or `'leave_out'`.

    Raises:
        ConfigError: an unknown split, a height, scale or division that none has.
        DataError: missing files, annotations that are none, a training split without people.
    """

    METAINFO = dict(classes=('pedestrian',), palette=((0, 0, 230),))
    FRAME = Frame(height=1.6, strongest=255.0)

    def __init__(self, data_root: str | Path = 'data/stcrowd', split: str = 'train',
                 sequences: Sequence[int | str] | None = None, min_height: float = 1.2,
                 intensity_scale: float = 255.0, pipeline: Sequence[dict | Callable] = (), seed: int = 0,
                 image_reduce: int | None = None, incomplete: str = 'refuse') -> None:
        check_choice('STCrowd: split', split, SPLITS)
        check_choice('STCrowd: incomplete', incomplete, ('refuse', 'leave_out'))
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
        camera = self.data_root / 'camera.json'
        self.lidar_to_image = read_camera(camera)
        if not camera.exists():
            print_log(f"{camera}: no such file; the projection to STCrowd's own images is taken.", 'current',
                      logging.WARNING if image_reduce else logging.INFO)
        self.annotations = [self._annotations(name, names) for name in names]
        self.frames = [(name, a, f) for name, a in zip(names, self.annotations) for f in range(len(a.points))]
        if not self.frames:
            raise DataError(f'{self.data_root}: no frames in {len(names)} sequences of the {split} split, expected '
                            f'some. Unpack the archives of STCrowd again ({DOWNLOAD}).')
        self.frames = self._complete(incomplete == 'leave_out')
        self._check()

    def _annotations(self, name: str, names: Sequence[str]) -> Annotations:
        """Of a sequence, or its scans alone where it belongs to the test split and has none."""
        path = self.data_root / 'anno' / f'{name}.json'
        if path.is_file():
            return read_annotations(path)
        scans = self.data_root / 'pcd' / name
        if self.split == 'test' and scans.is_dir():
            files = [f'pcd/{name}/{p.name}' for p in scans.glob('*.bin') if not p.name.startswith('.')]
            return bare_annotations(sorted(files, key=lambda f: (np.nan_to_num(seconds_of(f)), natural_order(f))))
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

    def _complete(self, leave_out: bool) -> list[tuple[str, Annotations, int]]:
        """The frames of which the scan, and the image where it is read and named, are there.

        Raises:
            DataError: there are others, which are not to be left out, or no such.
        """
        files = [[a.points[f], *([a.images[f]] if self.image_reduce and a.images[f] else [])]
                 for _, a, f in self.frames]
        absent = set(missing_files((file for row in files for file in row), self.data_root))
        whole = [absent.isdisjoint(row) for row in files]
        if all(whole):
            return self.frames
        first = next(file for row in files for file in row if file in absent)
        said = (f'{self.data_root / first}: no such file, and {whole.count(False):,} of {len(files):,} frames of the '
                f'{self.split} split lack theirs')
        if not leave_out or not any(whole):
            cure = ", or give the data set incomplete='leave_out' to do without these frames" if any(whole) else ''
            raise DataError(f'{said}, expected all scans{" and images" if self.image_reduce else ""}. Unpack the '
                            f'missing archive of STCrowd from {DOWNLOAD}{cure}.')
        print_log(f'{said}; these are left out, so that scores are of the rest.', 'current', logging.WARNING)
        return [frame for frame, good in zip(self.frames, whole) if good]

    def _check(self) -> None:
        """See that there is something to learn; say what was found."""
        self._check_reflections(Path(self.path(0)))
        without = sum(not annotations.images[frame] for _, annotations, frame in self.frames)
        if self.image_reduce and without == len(self):
            raise DataError(f'{self.data_root}: no frame of the {self.split} split has an image, expected left images '
                            'for image_reduce. Take a split whose annotations name them, or leave image_reduce out.')
        steps = np.concatenate([np.diff([seconds_of(path) for path in a.points]) for a in self.annotations])
        step = float(np.median(steps[np.isfinite(steps)])) if np.isfinite(steps).any() else INTERVAL
        if not 0.75 < step / INTERVAL < 1.5:
            print_log(f'{self.data_root}: the scans of the {self.split} split are {step:.3g} s apart by their names, '
                      f'expected {INTERVAL} s, by which velocities are reckoned. Leave frames out or rename the scans, '
                      'or do without velocities (model.head.velocity=False) and give the tracker its interval.',
                      'current', logging.WARNING)
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
        step = next((step for step in self.pipeline if isinstance(step, WithinBounds) and step.people), None)
        if self.split == 'train' and step is not None:
            beyond = int((tall & ~step.holds(boxes)).sum())
            if beyond == tall.sum():
                (x, y), (far_x, far_y) = boxes[:, :2].min(axis=0), boxes[:, :2].max(axis=0)
                raise DataError(f'{self.data_root}: none of {len(boxes):,} people within {step}, but at x {x:g} to '
                                f'{far_x:g}, y {y:g} to {far_y:g} m, expected people to learn. Bring boxes and points '
                                "into the LiDAR's frame, x forward, y left, in metres, or widen the bounds.")
            if beyond:
                print_log(f'{self.data_root}: {beyond:,} of {tall.sum():,} people stand beyond {step} and are not '
                          'learned.', 'current')
        self.by_centre, *overlaps = given_by_centre(np.concatenate([a.image_boxes for a in self.annotations]),
                                                    np.concatenate([a.hulls for a in self.annotations]))
        told = 'centre {:.2f}, corner {:.2f}'.format(*overlaps) if overlaps[0] == overlaps[0] else 'there are none'
        print_log(f'{self.data_root}: {self.split} split, {len(self.annotations)} sequences (official: '
                  f'{len(SPLITS[self.split])}), {len(self):,} frames, {len(boxes):,} people, {low:,} of them lower '
                  f'than {self.min_height:g} m and ignored; 2D boxes are read as given by their '
                  f'{"centre" if self.by_centre else "upper left corner"} (IoU with the projected 3D boxes: {told}).',
                  'current')

    def _check_reflections(self, path: Path) -> None:
        """Warn of a scale by which nets see nearly the same reflection of all points of a scan."""
        with contextlib.suppress(DataError):  # said where it is looked at
            seen = read_scan(path, self.intensity_scale)[:, 3]
            if len(seen) >= 100 and np.diff(np.percentile(seen, (5, 95))) < 0.01:
                print_log(f'{path}: reflections that intensity_scale={self.intensity_scale:g} brings to '
                          f'{seen.min():.3g} to {seen.max():.3g}, nearly all alike, so that nets learn little of them. '
                          'Give the largest usual reflection as intensity_scale.', 'current', logging.WARNING)

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
            timestamp=seconds_of(annotations.points[frame]), lidar_to_image=sample['lidar_to_image'],
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
        raise DataError(f'{path}: {split!r} is {short(found)}, expected a list of sequences. Take split.json of the '
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
