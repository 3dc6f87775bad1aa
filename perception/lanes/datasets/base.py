"""What all road image data sets share: splits, cutting, augmentation, resizing, samples."""
import contextlib
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from perception.common.dataset import SeededDataset
from perception.common.formats.images import read_header, read_image
from perception.common.structures import LaneSample
from perception.utils.checks import close_matches, rows_and_columns
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path, missing_files

IGNORE = 255
_IMAGE = re.compile(r'(.+?\.(?:jpe?g|png|bmp|webp|tiff?))(?=\s|$)', re.IGNORECASE)
BELOW = 1.02  # share of an image's rows that its labels may reach
PROBED = 32  # images whose labels tell which pixels the labels of a data set count in


class Truth(NamedTuple):
    """What is known of an image, in pixels of the image or of a scaled one, see `RoadImages.label_size`.

    Attributes:
        labels: (H0, W0) uint8, the target of the network, or None; of the image's shape at any size.
        exist: flags of the lane slots, or None.
        lanes: (P, 2) float64 arrays u, v [pixel], bottom to top, or None.
        full_labels: (H0, W0) uint8 that a metric needs, or None.
    """

    labels: np.ndarray | None = None
    exist: Sequence[float] | None = None
    lanes: list[np.ndarray] | None = None
    full_labels: np.ndarray | None = None


class RoadImages(SeededDataset):
    """Base of the readers. A reader fills `METAINFO` and the like and writes `list_samples` and `read_truth`.

    `dataset[i]` or `dataset[epoch, i]` gives `dict(inputs=dict(image=(3, H, W) uint8 RGB), data_samples=LaneSample)`.
    `crop_top` rows are cut off the top, the pipeline sees `image` and, where known, `labels` as arrays, and the result
    is resized to `input_size`, the image bilinearly, labels to the nearest.

    Images may have any size: a sample carries its own, and everything in it is in pixels of its image. Images that were
    scaled while their labels stayed as published get their labels scaled along, see `label_size`.

    Args:
        data_root: folder of the data set; a leading `data` gives way to the variable PERCEPTION_DATA.
        split: 'train', 'val' or 'test'.
        pipeline: augmentations, callables or their configs, applied in turn.
        input_size: (H, W) of the network's images; None keeps what the pipeline leaves.
        crop_top: rows cut off the top of the original image, in the pixels that its labels count in.
        seed: of the augmentation.

    Raises:
        ConfigError: an unknown split, a size or cut that no image has.
        DataError: missing folders or lists.
    """

    METAINFO = dict(classes=('background',), palette=((0, 0, 0),))
    IMAGE_SIZE: tuple[int, int] | None = (720, 1280)  # rows, columns of the official images; None: there is no such
    HORIZON: float | None = None  # row of the horizon in an image of that size, about
    OFFICIAL_SIZES = dict(train=0, val=0, test=0)  # images of each split

    def __init__(self, data_root: str | Path, split: str = 'train', pipeline: Sequence[dict | Callable] = (),
                 input_size: Sequence[int] | None = None, crop_top: int = 0, seed: int = 0) -> None:
        name = type(self).__name__
        if split not in self.OFFICIAL_SIZES:
            raise ConfigError(f'{name}: split={split!r}, expected one of {", ".join(self.OFFICIAL_SIZES)}. '
                              f'{close_matches(split, self.OFFICIAL_SIZES)}')
        if not isinstance(crop_top, Real) or crop_top < 0:
            raise ConfigError(f'{name}: crop_top={crop_top!r}, expected 0 or more rows. Correct it.')
        super().__init__(pipeline, seed)
        self.data_root = data_path(data_root)
        self.split, self.crop_top = split, crop_top
        self.input_size = None if input_size is None else rows_and_columns(f'{name}: input_size', input_size)
        self.metainfo = dict(self.METAINFO, data_root=str(self.data_root))
        self.official_size = self.OFFICIAL_SIZES[split]
        self._stayed: dict[tuple[int, int], bool] = {}
        self.samples = self.list_samples()

    def list_samples(self) -> list:
        """One entry for each image of the split, in order; the first two items are sample id and image path.

        Raises:
            DataError: missing folders or lists.
        """
        raise NotImplementedError(f'{type(self).__name__} has no list_samples; write one.')

    def read_truth(self, entry: Sequence, size: tuple[int, int]) -> tuple[Truth, dict]:
        """Labels of an image, and further meta information.

        Args:
            entry: of `list_samples`.
            size: (H0, W0) of the pixels that lanes count in, see `label_size`.
        """
        raise NotImplementedError(f'{type(self).__name__} has no read_truth; write one.')

    def label_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the image that the labels of an image belong to.

        That is the image itself, unless it is a scaled copy of an official image whose labels still count in official
        pixels: people shrink the pictures of a data set and leave its labels.

        Args:
            size: (H0, W0) of the image.
        """
        official = self.IMAGE_SIZE
        if official is None or size == official or not same_shape(size, official):
            return size
        if size not in self._stayed:
            self._stayed[size] = self._labels_stayed(size)
        return official if self._stayed[size] else size

    def line_width(self, pixels: float, size: Sequence[int]) -> int:
        """Pixels that a line is wide in an image of (rows, columns), given its width in an official image."""
        return max(1, round(pixels * size[1] / self.IMAGE_SIZE[1]))

    def label_rows(self, entry: Sequence) -> list[float]:
        """Rows of an image to which its labels reach, by which one tells the pixels that they count in.

        Args:
            entry: of `list_samples`.
        """
        truth, info = self.read_truth(entry, self.IMAGE_SIZE)
        return [*(float(lane[:, 1].max()) for lane in truth.lanes or () if len(lane)), *info.get('h_samples', ())]

    def _labels_stayed(self, size: tuple[int, int]) -> bool:
        """Whether the labels of images scaled to a size count in official pixels, as the lowest of their rows tells."""
        step = -(-len(self.samples) // PROBED)
        spread = itertools.chain.from_iterable(self.samples[k::step] for k in range(step))
        lowest = 0.0
        for entry in itertools.islice((entry for entry in spread if _has_size(entry[1], size)), PROBED):
            with contextlib.suppress(DataError):  # what is wrong with it is said when it is read
                lowest = max([lowest, *self.label_rows(entry)])
        near = [abs(np.log(lowest / rows)) if lowest > 0 else 0 for rows in (size[0], self.IMAGE_SIZE[0])]
        stayed = lowest > BELOW * size[0] or near[1] <= near[0]
        worker = get_worker_info()
        if stayed and (worker is None or worker.id == 0):
            print_log(f'{self.data_root}: images of the {self.split} split have {size[0]} x {size[1]} pixels; their '
                      f'labels count in the official {self.IMAGE_SIZE[0]} x {self.IMAGE_SIZE[1]} (lowest row '
                      f'{lowest:.0f}) and are scaled.', 'current', logging.WARNING)
        return stayed

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> dict:
        """The image without the rows that are cut off, its labels, and `truth` and `info` for `pack`.

        Raises:
            DataError: a file that cannot be read, or is no file of this data set.
        """
        entry = self.samples[index]
        sample_id, path = entry[:2]
        image = read_image(path)
        size = image.shape[:2]
        label_size = self.label_size(size)
        crop_top = round(self.crop_top * size[0] / label_size[0])
        if crop_top >= size[0]:
            raise DataError(f'{path}: {size[0]} rows, expected more than crop_top={self.crop_top}. Give one that fits '
                            f'these images{self._official}.')
        truth, info = self.read_truth(entry, label_size)
        if size == label_size != self.IMAGE_SIZE:
            self._check_rows(truth, size, path)
        truth, info = _fitted(truth, info, label_size, size)
        info = dict(sample_id=sample_id, image_path=str(path), original_shape=size, label_shape=label_size,
                    crop_top=crop_top, **info)
        sample = dict(image=image[crop_top:], sample_id=sample_id, truth=truth, info=info)
        return sample if truth.labels is None else dict(sample, labels=truth.labels[crop_top:])

    @property
    def _official(self) -> str:
        """The official size, for messages."""
        size = self.IMAGE_SIZE
        return '' if size is None else f"; the data set's have {size[0]} x {size[1]} pixels"

    def _check_rows(self, truth: Truth, size: tuple[int, int], path: str | Path) -> None:
        """See that the lanes of an image that is none of the official size can be its own."""
        lowest = max((float(lane[:, 1].max()) for lane in truth.lanes or () if len(lane) > 1), default=0.0)
        if lowest > BELOW * size[0]:
            raise DataError(f'{path}: {size[0]} x {size[1]} pixels with lanes down to row {lowest:.0f}, expected '
                            'labels of this image. Scale images and labels alike, and keep the shape of the images'
                            f'{self._official}.')

    def pack(self, sample: dict, index: int) -> dict:
        """A sample at `input_size`, as the tensors that the collate function takes."""
        if self.input_size is not None:
            sample = resize(sample, self.input_size)
        return to_tensors(sample, sample['truth'], sample['info'])


def _has_size(path: str, size: tuple[int, int]) -> bool:
    """Whether an image that can be read has so many rows and columns."""
    try:
        return read_header(path).size == size
    except DataError:
        return False


def same_shape(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sizes, (rows, columns), are in the same proportion, but for what rounding and 8-pixel grids do."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) < 0.01


def _fitted(truth: Truth, info: dict, label_size: tuple[int, int], size: tuple[int, int]) -> tuple[Truth, dict]:
    """What is known of an image in pixels of the image."""
    images = {key: value if value is None or value.shape == size else
              cv2.resize(value, size[::-1], interpolation=cv2.INTER_NEAREST)
              for key, value in (('labels', truth.labels), ('full_labels', truth.full_labels))}
    if label_size == size:
        return truth._replace(**images), info
    scale = np.array([size[1] / label_size[1], size[0] / label_size[0]])
    lanes = None if truth.lanes is None else [lane * scale for lane in truth.lanes]
    if 'h_samples' in info:
        info = dict(info, h_samples=tuple(float(row * scale[1]) for row in info['h_samples']))
    return truth._replace(lanes=lanes, **images), info


def label_frame(sample: Mapping) -> tuple[tuple[int, int], int]:
    """Size of the image that the files of a data set count in, and the rows cut off its top.

    Args:
        sample: with `original_shape` and, where images were scaled, `label_shape`; `crop_top` is 0 by default.
    """
    own, crop_top = sample['original_shape'], int(sample.get('crop_top') or 0)
    label = sample.get('label_shape') or own
    return (int(label[0]), int(label[1])), round(crop_top * label[0] / own[0])


def in_label_pixels(lanes: Sequence[np.ndarray], sample: Mapping) -> list[np.ndarray]:
    """Lanes of a sample in the pixels that the files of its data set count in; those of a scaled image to a millionth
    of them, so that whole rows are whole again.

    Args:
        lanes: (P, 2) in pixels of its image.
        sample: with `original_shape` and, where images were scaled, `label_shape`.
    """
    own, label = sample.get('original_shape'), sample.get('label_shape')
    if own is None or label is None or tuple(own) == tuple(label):
        return list(lanes)
    return [np.round(np.asarray(lane, np.float64) * (label[1] / own[1], label[0] / own[0]), 6) for lane in lanes]


def in_image_pixels(lanes: Sequence[np.ndarray], sample: Mapping) -> list[np.ndarray]:
    """Lanes of a file of the data set in the pixels of the image of a sample; arguments as of `in_label_pixels`."""
    own, label = sample.get('original_shape'), sample.get('label_shape')
    if own is None or label is None or tuple(own) == tuple(label):
        return list(lanes)
    return [lane * (own[1] / label[1], own[0] / label[0]) for lane in lanes]


def resize(sample: dict, size: Sequence[int]) -> dict:
    """A sample of (H, W), the image resized bilinearly, the labels to the nearest, as published."""
    height, width = size
    result = dict(sample)
    if sample['image'].shape[:2] != (height, width):
        result['image'] = cv2.resize(sample['image'], (width, height), interpolation=cv2.INTER_LINEAR)
    if 'labels' in sample and sample['labels'].shape != (height, width):
        result['labels'] = cv2.resize(sample['labels'], (width, height), interpolation=cv2.INTER_NEAREST)
    return result


def to_tensors(sample: dict, truth: Truth | None = None, info: dict | None = None) -> dict:
    """A sample of arrays as the tensors that the collate function takes.

    Args:
        sample: `image` (H, W, 3) uint8 and, if known, `labels` (H, W).
        truth: the rest that is known; its `labels` are not looked at.
        info: meta information, to which `input_shape` is added.

    Returns:
        dict(inputs=dict(image=Tensor), data_samples=LaneSample).
    """
    truth = truth or Truth()
    image = torch.from_numpy(np.ascontiguousarray(sample['image'].transpose(2, 0, 1)))
    data_sample = LaneSample(metainfo=dict(info or {}, input_shape=tuple(image.shape[1:])))
    if 'labels' in sample:
        data_sample.labels = torch.from_numpy(sample['labels'].astype(np.int64))
    if truth.exist is not None:
        data_sample.exist = torch.tensor(truth.exist, dtype=torch.float32)
    if truth.lanes is not None:
        data_sample.lanes = truth.lanes
    if truth.full_labels is not None:
        data_sample.full_labels = torch.from_numpy(np.ascontiguousarray(truth.full_labels))
    return dict(inputs=dict(image=image), data_samples=data_sample)


def missing_root(folder: Path, root: Path, name: str, layout: str, download: str) -> DataError:
    """The error for a data set that is not there.

    Args:
        folder: a folder or file that is missing.
        root: of the data set.
        name: of the data set.
        layout: how its official files lie.
        download: official page.
    """
    return DataError(f'{root}: no {folder}, expected {name} in its official layout ({layout}). Download it from '
                     f'{download} and unpack or link it there, set PERCEPTION_DATA to the folder that replaces '
                     'data/, or try simulated data with `python tools/train.py CONFIG --mini`.')


def image_name(line: str, where: str, expected: str = 'the name of an image') -> str:
    """The name of an image with which a line of a list begins; it may hold spaces.

    Raises:
        DataError: there is none.
    """
    found = _IMAGE.match(line)
    if found is None:
        raise DataError(f'{where}: {line[:120]!r}, expected {expected}. This is another list, or its images are none '
                        'that are read.')
    return found[1]


def inside(root: Path, name: str, where: str) -> str:
    """Path of a file that a list names, such as `/clips/x.jpg`, below the root.

    Raises:
        DataError: the name leads out of the root.
    """
    relative = name.lstrip('/')
    if not relative or '..' in relative.split('/') or not name.isprintable():
        raise DataError(f'{where}: the file name {name!r}, expected one below {root}. Correct the list.')
    return f'{root}/{relative}'  # no Path: lists have tens of thousands of lines


def check_files(paths: Sequence[str], where: str | Path, noun: str = 'images') -> None:
    """Make sure that the files are there that a list names, before a training finds out in its first epoch.

    Args:
        paths: of the files.
        where: the list.
        noun: what they are.

    Raises:
        DataError: some are not there.
    """
    missing = missing_files(paths)
    if missing:
        raise DataError(f'{missing[0]}: no such file, expected the {len(paths):,} {noun} that {where} names, of which '
                        f'{len(missing):,} are missing. Unpack the missing archives, use the list that belongs to '
                        'these images, or take the lines of those that are missing out of it.')


def check_size(labels: np.ndarray, size: tuple[int, int], path: str | Path) -> np.ndarray:
    """The label image, if it has the shape of its image; at another size it is scaled later.

    Raises:
        DataError: it has not.
    """
    if labels.shape[:2] != tuple(size) and not same_shape(labels.shape, size):
        raise DataError(f'{path}: labels of {labels.shape[0]} x {labels.shape[1]} pixels for an image of {size[0]} x '
                        f'{size[1]}, expected equal sizes or the same shape. They belong to another image, or one of '
                        'both was cut.')
    return labels


def need(sample: Mapping, key: str, where: str) -> Any:
    """A field of a sample that a score is made of.

    Args:
        sample: a sample with its predictions.
        key: of the field.
        where: who needs it, for the message.

    Raises:
        DataError: it is not there.
    """
    if sample.get(key) is None:
        raise DataError(f'{where}: {sample.get("sample_id", "an image")} has no {key}, expected labels and predictions.'
                        ' Evaluate a split that has labels, with a model, and where it has one a decoder, of this data '
                        'set.')
    return sample[key]
