"""ApolloScape lane mark segmentation, of The ApolloScape Open Dataset for Autonomous Driving (TPAMI 2020).

Xinyu Huang, Peng Wang, Xinjing Cheng, Dingfu Zhou, Qichuan Geng, Ruigang Yang.

The official folders are read as they are unpacked, with `Camera 5` or `Camera_5`, `Label` or `Labels`:

    <data_root>/ColorImage_road02/ColorImage/Record001/Camera 5/<stamp>_Camera_5.jpg        3384 x 2710
    <data_root>/Labels_road02/Label/Record001/Camera 5/<stamp>_Camera_5_bin.png             colours of the 38 labels

IntRA-KD's use of it: 37 classes (noise and ignored are one), the upper 1,700 rows cut off, half the size.
"""
import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

from perception.common.formats.images import read_header, read_image, read_label_image
from perception.lanes.datasets.base import RoadImages, Truth, check_files, check_size, missing_root
from perception.registry import DATASETS
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import walk

DOWNLOAD = 'https://apolloscape.auto/lane_segmentation.html'
LAYOUT = ('ColorImage_road02/ColorImage/Record001/Camera 5/*.jpg, '
          'Labels_road02/Label/Record001/Camera 5/*_bin.png')
_UNKNOWN = 254


class MarkClass(NamedTuple):
    """A label: class of the network, id in submissions, name, RGB in label images, whether the score counts it."""

    train_id: int
    id: int
    name: str
    color: tuple[int, int, int]
    scored: bool


MARK_CLASSES = (
    MarkClass(0, 0, 'void', (0, 0, 0), True),
    MarkClass(1, 200, 's_w_d', (70, 130, 180), True),
    MarkClass(2, 204, 's_y_d', (220, 20, 60), True),
    MarkClass(3, 213, 'ds_w_dn', (128, 0, 128), False),
    MarkClass(4, 209, 'ds_y_dn', (255, 0, 0), True),
    MarkClass(5, 206, 'sb_w_do', (0, 0, 60), False),
    MarkClass(6, 207, 'sb_y_do', (0, 60, 100), False),
    MarkClass(7, 201, 'b_w_g', (0, 0, 142), True),
    MarkClass(8, 203, 'b_y_g', (119, 11, 32), True),
    MarkClass(9, 211, 'db_w_g', (244, 35, 232), False),
    MarkClass(10, 208, 'db_y_g', (0, 0, 160), False),
    MarkClass(11, 216, 'db_w_s', (153, 153, 153), False),
    MarkClass(12, 217, 's_w_s', (220, 220, 0), True),
    MarkClass(13, 215, 'ds_w_s', (250, 170, 30), False),
    MarkClass(14, 218, 's_w_c', (102, 102, 156), False),
    MarkClass(15, 219, 's_y_c', (128, 0, 0), False),
    MarkClass(16, 210, 's_w_p', (128, 64, 128), True),
    MarkClass(17, 232, 's_n_p', (238, 232, 170), False),
    MarkClass(18, 214, 'c_wy_z', (190, 153, 153), True),
    MarkClass(19, 202, 'a_w_u', (0, 0, 230), False),
    MarkClass(20, 220, 'a_w_t', (128, 128, 0), True),
    MarkClass(21, 221, 'a_w_tl', (128, 78, 160), True),
    MarkClass(22, 222, 'a_w_tr', (150, 100, 100), True),
    MarkClass(23, 231, 'a_w_tlr', (255, 165, 0), False),
    MarkClass(24, 224, 'a_w_l', (180, 165, 180), True),
    MarkClass(25, 225, 'a_w_r', (107, 142, 35), True),
    MarkClass(26, 226, 'a_w_lr', (201, 255, 229), True),
    MarkClass(27, 230, 'a_n_lu', (0, 191, 255), False),
    MarkClass(28, 228, 'a_w_tu', (51, 255, 51), False),
    MarkClass(29, 229, 'a_w_m', (250, 128, 114), False),
    MarkClass(30, 233, 'a_y_t', (127, 255, 0), False),
    MarkClass(31, 205, 'b_n_sr', (255, 128, 0), True),
    MarkClass(32, 212, 'd_wy_za', (0, 255, 255), False),
    MarkClass(33, 227, 'r_wy_np', (178, 132, 190), True),
    MarkClass(34, 223, 'vom_wy_n', (128, 128, 64), False),
    MarkClass(35, 250, 'om_n_n', (102, 0, 204), True),
    MarkClass(36, 249, 'noise', (0, 153, 153), False),
    MarkClass(36, 255, 'ignored', (255, 255, 255), False),
)
NUM_CLASSES = 37
TRAIN_TO_ID = np.array([entry.id for entry in MARK_CLASSES[:NUM_CLASSES]], np.uint8)  # for submissions; 36 -> 249
_ID_TO_TRAIN = np.full(256, _UNKNOWN, np.uint8)
_ID_TO_TRAIN[[entry.id for entry in MARK_CLASSES]] = [entry.train_id for entry in MARK_CLASSES]
SCORED = tuple(entry.train_id for entry in MARK_CLASSES if entry.scored)  # void and 17 markings
TRAIN_ROADS = ('road02', 'road04')
VAL_RECORDS = ('Record015', 'Record017')  # of road04
VAL_ROAD, TEST_ROAD = 'road04', 'road05'


@DATASETS.register_module()
class ApolloScapeLaneMark(RoadImages):
    """Lane mark segmentation of ApolloScape; see `RoadImages` for the other arguments.

    Train and val have `labels` (0..36), val has `full_labels`, too; test has none. Half the size is the business of the
    pipeline (`RandomImageScale(0.5, 0.5)`) in training, of `input_size=(505, 1692)` otherwise.

    Args:
        roads: of the training split; the official ones are road02, road03 and road04. IntRA-KD seems to leave out
            road03. Records 15 and 17 of road04 validate.
    """

    METAINFO = dict(classes=tuple(entry.name for entry in MARK_CLASSES[:NUM_CLASSES]),
                    palette=tuple(entry.color for entry in MARK_CLASSES[:NUM_CLASSES]))
    IMAGE_SIZE = (2710, 3384)
    HORIZON = 1617
    OFFICIAL_SIZES = dict(train=0, val=1000, test=835)  # the training list is not published

    def __init__(self, data_root: str | Path = 'data/apolloscape', split: str = 'train',
                 pipeline: Sequence[dict | Callable] = (), input_size: Sequence[int] | None = None,
                 crop_top: int = 1700, seed: int = 0, roads: Sequence[str] = TRAIN_ROADS) -> None:
        if not roads or isinstance(roads, str):
            raise ConfigError(f'ApolloScapeLaneMark: roads={roads!r}, expected a list such as {list(TRAIN_ROADS)}. '
                              'Correct it.')
        self.roads = dict(train=tuple(roads), val=(VAL_ROAD,), test=(TEST_ROAD,)).get(split, ())
        super().__init__(data_root, split, pipeline, input_size, crop_top, seed)

    def list_samples(self) -> list[tuple]:
        entries = [entry for road in self.roads for entry in self._road(road)]
        if self.split == 'test':
            check_files([entry[1] for entry in entries], self.data_root)
            return entries
        labelled = [entry for entry in entries if entry[2]]
        if not labelled:
            raise missing_root(self.data_root / f'Labels_{self.roads[0]}', self.data_root, 'the labels of ApolloScape',
                               LAYOUT, DOWNLOAD)
        if len(labelled) < len(entries):
            print_log(f'{self.data_root}: {len(entries) - len(labelled):,} of {len(entries):,} images of the '
                      f'{self.split} split have no labels and are left out.', 'current', logging.WARNING)
        return labelled

    def _road(self, road: str) -> list[tuple]:
        folder = self.data_root / f'ColorImage_{road}'
        validates = self.split == 'val'
        images = walk(folder, '.jpg')
        if not images:
            raise missing_root(folder / '**/*.jpg', self.data_root, f'images of {road} of ApolloScape', LAYOUT,
                               DOWNLOAD)
        if self.split != 'test':
            images = [path for path in images
                      if (road == VAL_ROAD and not set(VAL_RECORDS).isdisjoint(path.parts)) == validates]
        labels = {}
        if self.split != 'test':
            labels = {_key(path, '_bin.png'): str(path)
                      for path in walk(self.data_root / f'Labels_{road}', '_bin.png')}
        return [(path.relative_to(self.data_root).with_suffix('').as_posix(), str(path), labels.get(_key(path, '.jpg')))
                for path in images]

    def read_truth(self, entry: Sequence, size: tuple[int, int]) -> tuple[Truth, dict]:
        if self.split == 'test':
            return Truth(), {}
        stored = check_size(read_marks(entry[2]), size, entry[2])
        # a training never sees the rows above
        first = 0 if self.split == 'val' else self.crop_top * len(stored) // size[0]
        labels = np.zeros(stored.shape[:2], np.uint8)
        labels[first:] = train_ids(stored[first:], entry[2])
        return Truth(labels, full_labels=labels if self.split == 'val' else None), {}


def _key(path: Path, suffix: str) -> tuple[str, str]:
    """Record and file name, which an image shares with its labels."""
    return path.parent.parent.name, path.name[:-len(suffix)]


def read_marks(path: str | Path) -> np.ndarray:
    """A label image in either of its official forms.

    Returns:
        (H, W, 3) uint8 colours, or (H, W) uint8 ids: those of an image of numbers, or the indices of a palette image,
        whose colours are for people to look at. A palette image whose indices are no ids is one of colours, made
        smaller.

    Raises:
        DataError: it cannot be read.
    """
    mode = read_header(path).mode
    stored = read_image(path) if mode in ('RGB', 'RGBA') else read_label_image(path)
    if stored.ndim == 3 and (stored == stored[..., :1]).all():
        stored = stored[..., 0]  # some tools save grey images with three equal channels
    if stored.ndim == 2 and (_ID_TO_TRAIN[np.unique(stored)] == _UNKNOWN).any():
        return read_image(path) if mode == 'P' else stored[..., None].repeat(3, axis=2)
    return stored


def train_ids(stored: np.ndarray, where: str | Path) -> np.ndarray:
    """Classes of a label image.

    The released code tells the 38 colours apart by 5 B + 3 G + R; here the whole colour counts, so that none is
    mistaken for another.

    Args:
        stored: (H, W, 3) uint8 RGB or (H, W) uint8 ids, see `read_marks`.
        where: the file, for messages.

    Returns:
        (H, W) uint8, 0..36.

    Raises:
        DataError: a colour that is none of the labels; early versions of the data set had other colours.
    """
    if stored.ndim == 2:
        return _ID_TO_TRAIN[stored]
    red, green, blue = (stored[..., channel].astype(np.int32) for channel in range(3))
    codes = (red << 16) + (green << 8) + blue
    result = _table()[codes]
    unknown = result == _UNKNOWN
    if unknown.any():
        found, counts = np.unique(codes[unknown], return_counts=True)
        named = ', '.join(f'{_rgb(code)} at {count:,} pixels' for code, count in zip(found[:4], counts))
        raise DataError(f'{where}: {len(found)} unknown colours (RGB {named}), expected the 38 colours of the official '
                        'table. Download the labels again; early versions had wrong colours.')
    return result


@cache
def _table() -> np.ndarray:
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    for entry in MARK_CLASSES:
        red, green, blue = entry.color
        table[(red << 16) + (green << 8) + blue] = entry.train_id
    return table


def _rgb(code: int) -> tuple[int, int, int]:
    return int(code) >> 16, int(code) >> 8 & 255, int(code) & 255
