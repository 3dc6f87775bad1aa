"""Images of one kind: a folder of files (FFHQ, with or without its folders), rosinality's LMDB (LSUN, FFHQ), or a ZIP
file, such as NVIDIA's dataset_tool writes.

    data/ffhq/**/*.{png,jpg,jpeg,webp,bmp}
    data/ffhq256.zip                     00000/img00000000.png, ... (what else it holds is left out)
    data/church/data.mdb, lock.mdb       keys `length` and `256-00000`, ..., values are JPEG files
"""
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image

from perception.common.dataset import SeededDataset
from perception.common.formats.images import decode_image, read_image
from perception.common.visual.video import IMAGES
from perception.plugins.gan.structures import ImageSample
from perception.registry import DATASETS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError
from perception.utils.optional import import_optional
from perception.utils.paths import data_path, natural_order, walk

_OPEN: dict[Path, Any] = {}  # LMDBs and ZIP files of this process
FILTERS = dict(lanczos=Image.Resampling.LANCZOS, area=None, bilinear=Image.Resampling.BILINEAR)


@DATASETS.register_module()
class ImageSet(SeededDataset):
    """Images that a generator learns to make.

    Those of other proportions lose equal parts at both sides, smaller ones are enlarged, of which it warns. Grey images
    are repeated, transparency is dropped, of 16 bits the upper ones count.

    Args:
        data_root: the folder or the ZIP file; a leading `data` gives way to the variable PERCEPTION_DATA.
        size: rows and columns of the images.
        filter: how larger images are made smaller, `'lanczos'` as FFHQ was, `'area'` or `'bilinear'`; scores depend on
            it.
        flip: mirror every second image, by chance.
        first, count: of the images in order, how many are left out and how many follow at most; None for all.
        pipeline, seed: see SeededDataset.

    Raises:
        ConfigError: an argument out of its range.
        DataError: no images there, an LMDB of another size, or a damaged ZIP file.
    """

    def __init__(self, data_root: str | Path, size: int = 256, filter: str = 'lanczos', flip: bool = False,
                 first: int = 0, count: int | None = None, pipeline: Sequence[dict | Callable] = (),
                 seed: int = 0) -> None:
        super().__init__(pipeline, seed)
        check_choice('ImageSet: filter', filter, FILTERS)
        if not 4 <= size <= 2048 or first < 0 or (count is not None and count < 1):
            raise ConfigError(f'ImageSet: size={size}, first={first}, count={count}, expected 4 to 2048 pixels, none '
                              'or more images to leave out and at least one to follow. Correct them.')
        self.root, self.size, self.filter, self.flip = data_path(data_root), size, filter, flip
        self.enlarged = False  # a picture was, and that was said
        self.in_zip = self.root.suffix.lower() == '.zip' and self.root.is_file()
        if not self.root.is_dir() and not self.in_zip:
            raise DataError(f'{self.root}: no such folder, expected images, an LMDB or a ZIP file. See data/README.md, '
                            'or train with --mini, on simulated data.')
        self.in_lmdb = (self.root / 'data.mdb').is_file()
        found = self._in_zip() if self.in_zip else self._in_lmdb() if self.in_lmdb else self._in_folder()
        self.names = found[first:None if count is None else first + count]
        if not self.names:
            raise DataError(f'{self.root}: {len(found):,} images ({", ".join(IMAGES)}), expected more than the '
                            f'{first:,} that are left out. Unpack the data set there, or correct `first`.')

    def _in_folder(self) -> list[str]:
        files = (path.relative_to(self.root) for path in walk(self.root) if path.suffix.lower() in IMAGES)
        return [path.as_posix() for path in sorted(files, key=natural_order)]

    def _in_zip(self) -> list[str]:
        return sorted((name for name in open_zip(self.root).namelist() if name.lower().endswith(tuple(IMAGES))
                       and not any(part.startswith(('.', '__MACOSX')) for part in name.split('/'))), key=natural_order)

    def _in_lmdb(self) -> list[str]:
        with open_lmdb(self.root).begin() as transaction:
            length = transaction.get(b'length')
            if length is None or not length.isdigit():
                raise DataError(f'{self.root}: an LMDB whose `length` is {length}, expected a number of images. Write '
                                "it by prepare_data.py of rosinality's stylegan2-pytorch.")
            names = [f'{self.size}-{i:05d}' for i in range(int(length))]
            if names and transaction.get(names[0].encode()) is None:
                cursor = transaction.cursor()
                sizes = sorted({int(key.split(b'-')[0]) for key in cursor.iternext(values=False)
                                if key.split(b'-')[0].isdigit()})
                raise DataError(f'{self.root}: an LMDB with images of {", ".join(map(str, sizes)) or "no"} pixels, '
                                f'expected {self.size}. Write it for that size, or set `size`.')
        return names

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> dict:
        """An image, (size, size, 3) uint8 RGB.

        Raises:
            DataError: it cannot be read.
        """
        name = self.names[index]
        if self.in_lmdb:
            with open_lmdb(self.root).begin() as transaction:
                data = transaction.get(name.encode())
            if data is None:
                raise DataError(f'{self.root}: no image {name} in the LMDB, expected as many as its `length` says. '
                                'Write it again.')
            image = decode_image(data, f'{self.root}: {name}', upright=True)
        elif self.in_zip:
            try:
                data = open_zip(self.root).read(name)
            except (OSError, RuntimeError, NotImplementedError, EOFError, zlib.error, zipfile.BadZipFile) as error:
                raise DataError(f'{self.root}: {name}: {error}, expected an image that is stored whole and without a '
                                'password. Write the file again.') from error
            image = decode_image(data, f'{self.root}: {name}', upright=True)
        else:
            image = read_image(self.root / name, upright=True)
        if min(image.shape[:2]) < self.size and not self.enlarged:
            self.enlarged = True
            print_log(f'{self.root}: {name} has {image.shape[0]} x {image.shape[1]} pixels, expected {self.size} or '
                      'more; it is enlarged, and others may be, of which this is not said again. Take small pictures '
                      'out, such as thumbnails, or set `size`.', 'current', logging.WARNING)
        return dict(image=square(image, self.size, self.filter), sample_id=name)

    def pack(self, sample: dict, index: int) -> dict:
        """`image` (3, size, size) uint8 and an ImageSample whose `source`, a seed, is the index."""
        image = sample['image']
        if self.flip and sample['rng'].random() < 0.5:
            image = image[:, ::-1]
        path = self.root if self.in_lmdb or self.in_zip else self.root / sample['sample_id']
        info = dict(sample_id=Path(sample['sample_id']).with_suffix('').as_posix(), image_path=str(path), source=index)
        return dict(inputs=dict(image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))),
                    data_samples=ImageSample(metainfo=info))


def open_lmdb(root: Path) -> Any:
    """The LMDB of a folder, open to be read; a process opens it once, for all data sets that read it.

    Args:
        root: the folder.

    Raises:
        DataError: it cannot be read.
        MissingDependency: lmdb is not installed.
    """
    if root in _OPEN:
        return _OPEN[root]
    lmdb = import_optional('lmdb', f'{root}: an LMDB', 'pip install lmdb')
    try:
        _OPEN[root] = lmdb.open(str(root), readonly=True, lock=False, readahead=False)
        return _OPEN[root]
    except lmdb.Error as error:
        raise DataError(f'{root}: an LMDB that cannot be read ({error}), expected a whole one. Copy it again.'
                        ) from error


def open_zip(path: Path) -> zipfile.ZipFile:
    """A ZIP file, open to be read; a process opens it once.

    Args:
        path: the file.

    Raises:
        DataError: it is none, or damaged.
    """
    if path not in _OPEN:
        try:
            _OPEN[path] = zipfile.ZipFile(path)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise DataError(f'{path}: no ZIP file that can be read ({error}), expected a whole one. Copy it again.'
                            ) from error
    return _OPEN[path]


def _close() -> None:
    """Close all, for a process that is forked must not use them."""
    while _OPEN:
        _OPEN.popitem()[1].close()


os.register_at_fork(before=_close)


def square(image: np.ndarray, size: int, filter: str = 'lanczos') -> np.ndarray:
    """The middle of an image (H, W, 3) as (size, size, 3); what is smaller is enlarged."""
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    image = image[top:top + side, left:left + side]
    if side == size:
        return image
    if side < size or filter == 'area':
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
    return np.array(Image.fromarray(image).resize((size, size), FILTERS[filter]))  # OpenCV's do not widen with the step
