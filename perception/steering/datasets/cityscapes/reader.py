"""Cityscapes: street segmentation with 19 classes, for the net whose features a steering net mimics (CVPR 2016).

The official folders are read as they are unpacked (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip):

    <data_root>/leftImg8bit/<split>/<city>/<city>_SSSSSS_FFFFFF_leftImg8bit.png        2048 x 1024
    <data_root>/gtFine/<split>/<city>/<city>_SSSSSS_FFFFFF_gtFine_labelIds.png         official ids, not train ids

Official ids become the 19 train ids; all other ones are 255, ignored. The labels of the test split are not public.
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from perception.common.dataset import SeededDataset
from perception.common.formats.images import read_image, read_label_image
from perception.common.structures import LaneSample
from perception.registry import DATASETS
from perception.steering.datasets.base import missing_root
from perception.utils.checks import check_choice, rows_and_columns
from perception.utils.errors import DataError
from perception.utils.paths import data_path, walk

DOWNLOAD = 'https://www.cityscapes-dataset.com'
LAYOUT = 'leftImg8bit/<split>/<city>/*_leftImg8bit.png, gtFine/<split>/<city>/*_gtFine_labelIds.png'
IMAGE, LABEL = '_leftImg8bit.png', '_gtFine_labelIds.png'
IGNORE, UNKNOWN = 255, 254
SIZE = (1024, 2048)  # rows, columns of an official image


class StreetClass(NamedTuple):
    """A class that is scored: its official id, name, category and colour."""
    id: int
    name: str
    category: str
    color: tuple[int, int, int]


CLASSES = (
    StreetClass(7, 'road', 'flat', (128, 64, 128)), StreetClass(8, 'sidewalk', 'flat', (244, 35, 232)),
    StreetClass(11, 'building', 'construction', (70, 70, 70)), StreetClass(12, 'wall', 'construction', (102, 102, 156)),
    StreetClass(13, 'fence', 'construction', (190, 153, 153)), StreetClass(17, 'pole', 'object', (153, 153, 153)),
    StreetClass(19, 'traffic light', 'object', (250, 170, 30)),
    StreetClass(20, 'traffic sign', 'object', (220, 220, 0)),
    StreetClass(21, 'vegetation', 'nature', (107, 142, 35)), StreetClass(22, 'terrain', 'nature', (152, 251, 152)),
    StreetClass(23, 'sky', 'sky', (70, 130, 180)), StreetClass(24, 'person', 'human', (220, 20, 60)),
    StreetClass(25, 'rider', 'human', (255, 0, 0)), StreetClass(26, 'car', 'vehicle', (0, 0, 142)),
    StreetClass(27, 'truck', 'vehicle', (0, 0, 70)), StreetClass(28, 'bus', 'vehicle', (0, 60, 100)),
    StreetClass(31, 'train', 'vehicle', (0, 80, 100)), StreetClass(32, 'motorcycle', 'vehicle', (0, 0, 230)),
    StreetClass(33, 'bicycle', 'vehicle', (119, 11, 32)))
TRAIN_TO_ID = np.array([entry.id for entry in CLASSES], np.uint8)  # for submissions
ID_TO_TRAIN = np.full(256, UNKNOWN, np.uint8)
ID_TO_TRAIN[:34] = ID_TO_TRAIN[255] = IGNORE  # 255 stands for the licence plate's -1
ID_TO_TRAIN[TRAIN_TO_ID] = np.arange(len(CLASSES))


@DATASETS.register_module()
class Cityscapes(SeededDataset):
    """Images of Cityscapes in their official layout.

    `dataset[i]` or `dataset[epoch, i]` gives `dict(inputs=dict(image=(3, H, W) uint8 RGB), data_samples=LaneSample)`
    with `labels` at the size of the image and, in val, `full_labels` as they are in their file. The pipeline sees
    `image` (H0, W0, 3) and `labels` (H0, W0) as arrays.

    Args:
        data_root: folder that holds `leftImg8bit` and `gtFine`; a leading `data` gives way to PERCEPTION_DATA.
        split: 'train', 'val' or 'test', which has no labels.
        pipeline: augmentations, callables or their configs, applied in turn.
        input_size: (H, W) of the network's images; None keeps what the pipeline leaves.
        seed: of the augmentation.

    Raises:
        ConfigError: an unknown split, or a size that no image has.
        DataError: missing folders, or images without labels.
    """

    METAINFO = dict(classes=tuple(entry.name for entry in CLASSES), palette=tuple(entry.color for entry in CLASSES))

    def __init__(self, data_root: str | Path = 'data/cityscapes', split: str = 'train',
                 pipeline: Sequence[dict | Callable] = (), input_size: Sequence[int] | None = None,
                 seed: int = 0) -> None:
        check_choice('Cityscapes: split', split, ('train', 'val', 'test'))
        super().__init__(pipeline, seed)
        self.data_root, self.split = data_path(data_root), split
        self.input_size = None if input_size is None else rows_and_columns('Cityscapes: input_size', input_size)
        self.metainfo = dict(self.METAINFO, data_root=str(self.data_root))
        images = self.data_root / 'leftImg8bit' / split
        self.images = walk(images, IMAGE)
        if not self.images:
            raise missing_root(images / '<city>' / f'*{IMAGE}', self.data_root, f'images of the {split} split of '
                               'Cityscapes', LAYOUT, DOWNLOAD)
        self.names = [path.name[:-len(IMAGE)] for path in self.images]
        self.labels = []
        if split != 'test':
            labels = self.data_root / 'gtFine' / split
            self.labels = [labels / path.parent.relative_to(images) / f'{name}{LABEL}'
                           for path, name in zip(self.images, self.names)]
            there = set(walk(labels, LABEL))
            absent = [path for path in self.labels if path not in there]
            if absent:
                raise DataError(f'{absent[0]}: no such file ({len(absent):,} of {len(self.labels):,} images of the '
                                f'{split} split have no labels), expected one for each image. Unpack '
                                'gtFine_trainvaltest.zip there.')

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> dict:
        """An image with its train ids, where the split has any.

        Raises:
            DataError: a file that cannot be read, or is no file of this data set.
        """
        path = self.images[index]
        image = read_image(path)
        info = dict(sample_id=self.names[index], image_path=str(path), original_shape=image.shape[:2],
                    label_shape=image.shape[:2], crop_top=0)
        sample = dict(image=image, sample_id=self.names[index], info=info)
        if self.split == 'test':
            return sample
        labels = train_ids(read_label_image(self.labels[index]), self.labels[index])
        if labels.shape != image.shape[:2]:
            raise DataError(f'{self.labels[index]}: labels of {labels.shape[0]} x {labels.shape[1]} pixels for an '
                            f'image of {image.shape[0]} x {image.shape[1]}, expected equal sizes. Scale both alike.')
        return dict(sample, labels=labels, **(dict(full_labels=labels) if self.split == 'val' else {}))

    def pack(self, sample: dict, index: int) -> dict:
        """An image at `input_size`, as the tensors that the collate function takes."""
        image, labels = sample['image'], sample.get('labels')
        size = self.input_size or image.shape[:2]
        if image.shape[:2] != size:
            image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        truth = LaneSample(metainfo=dict(sample['info'], input_shape=tuple(size)))
        if labels is not None:
            if labels.shape != size:
                labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
            truth.labels = torch.from_numpy(labels.astype(np.int64))
        if 'full_labels' in sample:
            truth.full_labels = torch.from_numpy(sample['full_labels'])
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return dict(inputs=dict(image=tensor), data_samples=truth)


def train_ids(ids: np.ndarray, where: str | Path) -> np.ndarray:
    """Train ids 0..18 of official ids, 255 for those that are not scored.

    Args:
        ids: (H, W) uint8.
        where: the file, for messages.

    Raises:
        DataError: a number that is no official id.
    """
    labels = ID_TO_TRAIN[ids]
    unknown = np.flatnonzero(np.bincount(ids[labels == UNKNOWN], minlength=256))
    if len(unknown):
        raise DataError(f'{where}: ids {unknown[:8].tolist()} at {(labels == UNKNOWN).sum():,} pixels, expected 0 to '
                        '33. Take the images that end in _gtFine_labelIds.png.')
    return labels
