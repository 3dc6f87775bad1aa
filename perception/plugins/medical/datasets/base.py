"""What data sets of images with one class each have in common: folds, checks, samples."""
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.logging import print_log

from perception.common.dataset import SeededDataset
from perception.common.folders import named_files
from perception.common.formats.images import SUFFIXES, read_image
from perception.plugins.medical.folds import COUNT, grouped_folds, read_folds, stratified_folds
from perception.plugins.medical.structures import ClassSample
from perception.utils.checks import check_choice, rows_and_columns
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path


@dataclass
class Images:
    """Images in the order of their official file.

    Attributes:
        where: that file, for messages.
        ids: names without an ending.
        paths: files.
        labels: (n,) int64 classes, None where nobody knows them.
        groups: such as the lesion of each, None where nobody knows it.
    """

    where: Path
    ids: list[str]
    paths: list[str]
    labels: np.ndarray | None = None
    groups: list[str] | None = None


class ClassImages(SeededDataset):
    """Base of the data sets; one writes `labelled` and `unlabelled`.

    Attributes:
        labels: (n,) int64 classes of the samples, absent in the test split.
        official_size: samples of the whole, for the log.

    Args:
        data_root: the folder; a leading `data` gives way to the variable PERCEPTION_DATA.
        split: `'train'`, all folds but one; `'val'`, that one; `'all'`, all labelled images; `'test'`, the official
            images without labels.
        fold: which one is held out, 0..4.
        folds: `'stratified'` by class, as published; `'grouped'`, so that no lesion stands in two; or a folder below
            `data_root` with files of folds, see `read_folds`.
        input_size: (H, W) in pixels that images are resized to.
        pipeline: augmentations of `image`.
        seed: of the augmentation.

    Raises:
        ConfigError: a split, fold or size that cannot be.
        DataError: files are missing or contradict each other.
    """

    LABELLED = 0  # images of the official training set
    TESTED = 0  # of the test set
    SCORED = 0  # of those, with classes that are public
    num_folds = COUNT
    splits = ('train', 'val', 'all', 'test')

    def __init__(self, data_root: str | Path, split: str = 'train', fold: int = 0, folds: str = 'stratified',
                 input_size: Sequence[int] = (224, 224), pipeline: Sequence[dict | Callable] = (),
                 seed: int = 0) -> None:
        super().__init__(pipeline, seed)
        name = type(self).__name__
        check_choice(f'{name}: split', split, self.splits)
        if not 0 <= fold < COUNT:
            raise ConfigError(f'{name}: fold={fold}, expected 0..{COUNT - 1}. Correct it.')
        self.data_root, self.split, self.fold, self.folds = data_path(data_root), split, fold, folds
        self.input_size = rows_and_columns(f'{name}: input_size', input_size)
        if not self.data_root.is_dir():
            raise DataError(f'{self.data_root}: no such folder, expected {name}. {self.advice()} '
                            'Or train with --mini, on simulated data.')
        images = dict(test=self.unlabelled, scored=self.scored).get(split, self.labelled)()
        rows = self.rows(images)
        self.ids, self.paths = [images.ids[i] for i in rows], [images.paths[i] for i in rows]
        if images.labels is not None:
            self.labels = images.labels[rows]
            classes = self.metainfo['classes']
            absent = sorted(set(range(len(classes))) - set(self.labels.tolist()))
            if absent:
                names = ', '.join(classes[i] for i in absent)
                print_log(f'{images.where}: no sample of {names} in the split {split} of fold {fold}.', 'current',
                          logging.WARNING)
        self.official_size = self.official()
        self.metainfo['sample_ids'] = self.ids

    def advice(self) -> str:
        """Where the official data come from, a sentence."""
        raise NotImplementedError(f'{type(self).__name__} has no advice; write one.')

    def labelled(self) -> Images:
        """The images of the official training set, checked by `check_images`."""
        raise NotImplementedError(f'{type(self).__name__} has no labelled; write one that gives Images.')

    def unlabelled(self) -> Images:
        """Those of the official test set."""
        raise NotImplementedError(f'{type(self).__name__} has no unlabelled; write one that gives Images.')

    def scored(self) -> Images:
        """Those of the official test set that count, with their classes, for data sets with the split `scored`."""
        raise NotImplementedError(f'{type(self).__name__} has no scored; write one that gives Images.')

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, index: int) -> str:
        """File of an image."""
        return str(self.paths[index])

    def read(self, index: int) -> dict:
        """An image resized to `input_size`, (H, W, 3) uint8 RGB.

        Grey images are repeated, transparency is dropped, of 16 bits the upper ones count.

        Raises:
            DataError: it cannot be read.
        """
        image = read_image(self.paths[index], upright=True)
        return dict(image=resize(image, self.input_size), original_shape=image.shape[:2], sample_id=self.ids[index])

    def pack(self, sample: dict, index: int) -> dict:
        """`image`, and `second` where the pipeline made one, (3, H, W) uint8 tensors, and a ClassSample."""
        inputs = {key: torch.from_numpy(np.ascontiguousarray(sample[key].transpose(2, 0, 1)))
                  for key in ('image', 'second') if key in sample}
        info = dict(sample_id=sample['sample_id'], image_path=self.paths[index], index=index,
                    original_shape=sample['original_shape'])
        known = ClassSample(metainfo=info)
        if hasattr(self, 'labels'):
            known.label = torch.tensor(self.labels[index])
        return dict(inputs=inputs, data_samples=known)

    def rows(self, images: Images) -> np.ndarray:
        """Which of the images belong to the split, their numbers in order."""
        if self.split not in ('train', 'val'):
            return np.arange(len(images.ids))
        held_out = self._folds(images) == self.fold
        return np.flatnonzero(held_out if self.split == 'val' else ~held_out)

    def official(self) -> int | None:
        """Samples of the split of the official data, None where the folds are not those that are published."""
        held_out = self.LABELLED // COUNT + (self.fold < self.LABELLED % COUNT)
        sizes = dict(test=self.TESTED, scored=self.SCORED, all=self.LABELLED)
        if self.folds == 'stratified':
            sizes |= dict(train=self.LABELLED - held_out, val=held_out)
        return sizes.get(self.split)

    def _folds(self, images: Images) -> np.ndarray:
        if self.folds == 'stratified':
            return stratified_folds(images.labels)
        if self.folds == 'grouped':
            if images.groups is None:
                raise DataError(f'{images.where}: nobody says which images show the same, expected groups for '
                                "folds='grouped'. Take folds='stratified', or a layout with groups.")
            alone = [name for name, group in zip(images.ids, images.groups) if not group]
            if alone:
                raise DataError(f'{images.where}: {len(alone):,} images have no lesion ({alone[0]}), expected one for '
                                "each for folds='grouped'. Take the file of the training images, or "
                                "folds='stratified'.")
            return grouped_folds(images.labels, images.groups)
        folder = self.data_root / self.folds
        if not folder.is_dir():
            raise ConfigError(f'{type(self).__name__}: folds={self.folds!r}, expected stratified, grouped or a folder '
                              f'in {self.data_root}. Correct it.')
        return read_folds(folder, images.ids)


def check_images(images: Images, folders: Sequence[Path], ending: str, num_classes: int) -> Images:
    """See that names are there once, with an image each, and that all classes occur; fills `paths`.

    Args:
        images: with `where`, `ids` and maybe `labels`. Endings of images are taken off the names.
        folders: with the images, also in folders inside.
        ending: of their files, where those of another kind have the same name.
        num_classes: classes that must occur where there are labels.

    Raises:
        DataError: they are not, or no folder is there.
    """
    images.ids = [os.path.splitext(name)[0] if name.lower().endswith(SUFFIXES) else name for name in images.ids]
    where, ids = images.where, images.ids
    if not ids:
        raise DataError(f'{where}: no rows below the header, expected one for each image. Unpack the official '
                        'file again.')
    twice = len(ids) - len(set(ids))
    if twice:
        seen: set[str] = set()
        name = next(name for name in ids if name in seen or seen.add(name))
        raise DataError(f'{where}: {twice:,} names come twice ({name}), expected one row for each image. Remove the '
                        'others.')
    files = named_files(folders, SUFFIXES)
    found = [files.get(f'{name}{ending}') or files.get(name) for name in ids]
    unknown = [name for name, paths in zip(ids, found) if not paths]
    if unknown:
        lie = ' or '.join(str(folder) for folder in folders)
        raise DataError(f'{where}: {len(unknown):,} of {len(ids):,} names have no image ({unknown[0]}{ending}), '
                        f'expected each in {lie}. Unpack the missing archive, or correct the table.')
    images.paths = [str(paths[0]) for paths in found]
    if images.labels is not None:
        absent = sorted(set(range(num_classes)) - set(images.labels.tolist()))
        if absent:
            raise DataError(f'{where}: no image of class {", ".join(map(str, absent))} of {num_classes}, expected some '
                            'of each. Use the whole official table.')
    return images


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (H0, W0, 3) as (H, W, 3), its proportions not kept; what is made smaller is averaged."""
    shrinks = image.shape[0] > size[0] or image.shape[1] > size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
