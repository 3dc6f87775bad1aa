"""ImageNet's folders (ILSVRC 2012), and those of one's own images of classes.

    train/<class>/*.JPEG        classes in the order of their names are 0, 1, ...; ImageNet's are called n01440764, ...
    val/<class>/*.JPEG          or flat, with the list of labels:
    val/ILSVRC2012_val_00000001.JPEG
    meta/val.txt                ILSVRC2012_val_00000001.JPEG 65
"""
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from perception.common.dataset import SeededDataset
from perception.common.formats.images import SUFFIXES, read_image
from perception.common.formats.text import read_text
from perception.prune.models.classifier import ImageSample
from perception.registry import DATASETS
from perception.utils.checks import check_choice
from perception.utils.errors import DataError
from perception.utils.paths import data_path, walk

SPLITS = ('train', 'val', 'test')


@DATASETS.register_module()
class ImageNet(SeededDataset):
    """Images with a class each; inputs `image` (3, H, W) uint8 RGB, samples are an ImageSample with `label`.

    A class without an image is warned of.

    Args:
        data_root: the folder; a leading `data` gives way to the variable PERCEPTION_DATA.
        split: 'train' or 'val'; 'test' is 'val' where there is no folder of that name.
        pipeline: see `transforms.py`.
        seed: see SeededDataset.

    Raises:
        DataError: no images, a list that names a file which is not there or holds a wrong line, or a class that the
            training folder does not have.
    """

    def __init__(self, data_root: str = 'data/imagenet', split: str = 'train', pipeline: Sequence = (), seed: int = 0):
        super().__init__(pipeline, seed)
        check_choice('ImageNet: split', split, SPLITS)
        root = data_path(data_root)
        classes = class_names(root)
        self.metainfo = dict(classes=classes)
        folder = root / ('val' if split == 'test' and not (root / 'test').is_dir() else split)
        lists = root / 'meta' / f'{folder.name}.txt'
        self.items = _listed(lists, folder, len(classes)) if lists.is_file() else _in_folders(folder, classes)
        if not self.items:
            raise DataError(f'{folder}: no images ({", ".join(SUFFIXES)}) found, expected <class>/<image>, or a list '
                            f'{lists} beside flat ones. Unpack the data set there.')
        empty = sorted({*range(len(classes))} - {label for _, label in self.items})
        if empty:
            print_log(f'{folder}: {len(empty):,} of {len(classes):,} classes have no image ({classes[empty[0]]}). '
                      'Unpack theirs, unless they are to have none.', 'current', logging.WARNING)

    @classmethod
    def describe(cls, config: Mapping) -> dict[str, Any]:
        """The `classes` are the names of the training folders, where the data lie there."""
        try:
            return dict(classes=class_names(data_path(config.get('data_root', 'data/imagenet'))))
        except DataError:
            return {}

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> dict:
        """`image` (H, W, 3) uint8 RGB, `label` and `sample_id`."""
        path, label = self.items[index]
        return dict(image=read_image(path, upright=True), label=label, sample_id=f'{path.parent.name}/{path.stem}',
                    image_path=str(path))

    def pack(self, sample: dict, index: int) -> dict:
        """See SeededDataset."""
        packed = ImageSample(metainfo=dict(sample_id=sample['sample_id'], image_path=sample['image_path']))
        packed.label = torch.tensor(sample['label'])
        image = torch.from_numpy(sample['image'].transpose(2, 0, 1).copy())
        return dict(inputs=dict(image=image), data_samples=packed)


def class_names(root: Path) -> tuple[str, ...]:
    """Names of the classes: the training folders in order, without hidden ones such as a notebook's checkpoints.

    Raises:
        DataError: there are none.
    """
    folder = root / 'train'
    names = sorted(path.name for path in folder.glob('*') if path.is_dir() and not path.name.startswith('.'))
    if not names:
        raise DataError(f'{folder}: no folders of classes, expected train/<class>/<image>. Unpack the data set there.')
    return tuple(names)


def _in_folders(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    number = {name: i for i, name in enumerate(classes)}
    items = []
    for path in (file for file in walk(folder) if file.suffix.lower() in SUFFIXES):
        name = path.relative_to(folder).parts[0]
        if name not in number:
            raise DataError(f'{path}: class {name!r}, expected one of the {len(classes)} training folders. Flat images '
                            f'need a list meta/{folder.name}.txt with a line `<image> <number>` for each.')
        items.append((path, number[name]))
    return items


def _listed(file: Path, folder: Path, num_classes: int) -> list[tuple[Path, int]]:
    items = []
    for i, line in enumerate(read_text(file, 'the class of each image').splitlines(), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(' ')
        path = folder / name.strip()
        if not label.isdecimal() or not name or int(label) >= num_classes:
            raise DataError(f'{file}: line {i} is {line[:60]!r}, expected `<image> <number>` with a class of 0 to '
                            f'{num_classes - 1}. Correct it.')
        items.append((path, int(label)))
    there = set(walk(folder))
    absent = [path for path, _ in items if path not in there and not path.is_file()]
    if absent:
        raise DataError(f'{file}: names {absent[0]}, which is not there ({len(absent):,} of {len(items):,} images), '
                        f'expected them in {folder}. Unpack them there.')
    return items
