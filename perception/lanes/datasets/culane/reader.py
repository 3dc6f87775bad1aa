"""CULane, published with Spatial As Deep: Spatial CNN for Traffic Scene Understanding (AAAI 2018).

Xingang Pan, Jianping Shi, Ping Luo, Xiaogang Wang, Xiaoou Tang.

The official folders are read as they are unpacked:

    <data_root>/driver_*/<video>.MP4/FFFFF.jpg          1640 x 590
    <data_root>/driver_*/<video>.MP4/FFFFF.lines.txt    a lane a line, u v u v ..., bottom to top
    <data_root>/laneseg_label_w16/driver_*/...png       0 = background, 1..4 = lane slots from left to right
    <data_root>/list/{train_gt.txt, val_gt.txt}         /image.jpg /label.png e1 e2 e3 e4
    <data_root>/list/test.txt, list/test_split/*.txt    /image.jpg

Train and val labels were corrected on 16 April 2018 (`annotations_new`).
"""
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from perception.common.formats.images import read_label_image
from perception.common.formats.text import read_rows
from perception.lanes.datasets.base import (
    RoadImages,
    Truth,
    check_files,
    check_size,
    image_name,
    inside,
    missing_root,
)
from perception.lanes.polylines import draw_instances
from perception.registry import DATASETS
from perception.utils.errors import DataError
from perception.utils.paths import missing_files

DOWNLOAD = 'https://xingangpan.github.io/projects/CULane.html'
LAYOUT = 'driver_*/*.MP4/*.jpg, laneseg_label_w16/, list/'
SIZE = (590, 1640)  # rows, columns of an image
NUM_LANES = 4
LABEL_WIDTH = 16  # pixels of a lane in the label images
CATEGORIES = ('normal', 'crowd', 'hlight', 'shadow', 'noline', 'arrow', 'curve', 'cross', 'night')  # of test images


@DATASETS.register_module()
class CULane(RoadImages):
    """CULane in its official layout; see `RoadImages` for the other arguments.

    Train and val have `labels` (0..4), `exist` (4,) and `lanes`; test has `lanes` and, from `list/test_split`, the
    meta information `category`. A missing or empty `.lines.txt` means no lanes, as in the official tool, but where all
    are missing val is refused, and so is train with `all_lanes`, and test has no `lanes`; every line of the file is a
    lane, also an empty one.

    Args:
        all_lanes: number the lanes of the `.lines.txt` 1, 2, ... from left to right, however many there are, instead of
            the slots of the label images; without `exist`. For networks that tell any number of lanes apart.
        check_flags: refuse images whose label image has pixels of other slots than the list's flags name; False takes
            both as they are.
    """

    METAINFO = dict(classes=('background', 'left-left', 'left', 'right', 'right-right'),
                    palette=((0, 0, 0), (255, 140, 0), (255, 60, 60), (60, 190, 75), (60, 120, 255)))
    IMAGE_SIZE = SIZE
    HORIZON = 263
    OFFICIAL_SIZES = dict(train=88880, val=9675, test=34680)

    def __init__(self, data_root: str | Path = 'data/culane', split: str = 'train',
                 pipeline: Sequence[dict | Callable] = (), input_size: Sequence[int] | None = None, crop_top: int = 0,
                 seed: int = 0, all_lanes: bool = False, check_flags: bool = True) -> None:
        self.all_lanes, self.check_flags = all_lanes, check_flags
        super().__init__(data_root, split, pipeline, input_size, crop_top, seed)

    def list_samples(self) -> list[tuple]:
        lists = self.data_root / 'list'
        path = lists / ('test.txt' if self.split == 'test' else f'{self.split}_gt.txt')
        if not lists.is_dir():
            raise missing_root(lists, self.data_root, 'CULane', LAYOUT, DOWNLOAD)
        rows = [(where, ' '.join(words)) for where, words in read_rows(path, f"CULane's list of {self.split} images")]
        if self.split == 'test':
            categories = read_categories(lists / 'test_split')
            entries = [self._image(line, where) for where, line in rows]
            entries = [(*entry, categories.get(line.lstrip('/'))) for entry, (_, line) in zip(entries, rows)]
        else:
            entries = [self._labelled(line, where) for where, line in rows]
        check_files([entry[1] for entry in entries], path)
        if self.split != 'test' and not self.all_lanes:
            check_files([entry[2] for entry in entries], path, 'label images')
        self._check_lines(entries)
        return entries

    def _check_lines(self, entries: Sequence[tuple]) -> None:
        """See whether the `.lines.txt` are there; an image without lanes has an empty one."""
        missing = missing_files([str(_lines_path(entry[1])) for entry in entries])
        self.has_lines = len(missing) < len(entries)
        if not missing or self.split == 'train' and not self.all_lanes:  # learns from label images
            return
        some = f'as {len(missing):,} of {len(entries):,}' if self.has_lines else f'nor any of {len(entries):,}'
        came = f'{missing[0]}: no such file, {some} of the {self.split} split'
        if not self.has_lines and self.split != 'test':
            raise DataError(f"{came}, expected the lanes of its images. Unpack CULane's annotations_new into "
                            f'{self.data_root}.')
        print_log(f'{came}. ' + ('These images count as without lanes, as in the official tool.' if self.has_lines else
                                 'There are no lanes to compare with.'), 'current', logging.WARNING)

    def _image(self, line: str, where: str, expected: str = '/image.jpg') -> tuple[str, str]:
        name = image_name(line, where, expected)
        if self.split == 'test' and name != line:
            raise DataError(f'{where}: {line[:120]!r}, expected {expected} alone. This is another list than that of '
                            "the test split; use CULane's own.")
        return name.lstrip('/').rsplit('.', 1)[0], inside(self.data_root, name, where)

    def _labelled(self, line: str, where: str) -> tuple[str, str, str, tuple[float, ...]]:
        expected = '/image.jpg /label.png e1 e2 e3 e4'
        sample_id, path = self._image(line, where, expected)
        rest = line[len(image_name(line, where)):].strip()
        label = image_name(rest, where, expected) if rest else ''
        flags = rest[len(label):].split()
        if not label or len(flags) != NUM_LANES:
            raise DataError(f'{where}: {line[:120]!r} with {len(flags)} flags, expected {expected}. This is another '
                            f"list than that of the {self.split} split; use CULane's own.")
        if any(flag not in ('0', '1') for flag in flags):
            raise DataError(f'{where}: flags {" ".join(flags)[:60]!r}, expected {NUM_LANES} of 0 and 1. Correct the '
                            'list.')
        return sample_id, path, inside(self.data_root, label, where), tuple(float(flag) for flag in flags)

    def label_rows(self, entry: Sequence) -> list[float]:
        return [float(lane[:, 1].max()) for lane in read_lanes(_lines_path(entry[1])) if len(lane)]

    def read_truth(self, entry: Sequence, size: tuple[int, int]) -> tuple[Truth, dict]:
        lanes = read_lanes(_lines_path(entry[1])) if self.has_lines else None
        if self.split == 'test':
            return Truth(lanes=lanes), dict(category=entry[2]) if entry[2] else {}
        if self.all_lanes:
            return Truth(draw_instances(lanes, size, self.line_width(LABEL_WIDTH, size)), None, lanes), {}
        labels = check_size(read_label_image(entry[2]), size, entry[2])
        check_slots(labels, NUM_LANES, entry[2])
        if self.check_flags:
            check_flags(labels, entry[3], entry[2])
        return Truth(labels, entry[3], lanes), {}


def _lines_path(image: str) -> Path:
    return Path(image).with_suffix('.lines.txt')


def check_slots(labels: np.ndarray, num_lanes: int, where: str | Path) -> None:
    """Make sure that a label image holds lane slots.

    Raises:
        DataError: a number that is no slot.
    """
    highest = int(labels.max(initial=0))
    if highest > num_lanes:
        raise DataError(f'{where}: label {highest} at {(labels == highest).sum():,} pixels, expected 0..{num_lanes}. '
                        'These are no lane slots of this data set; use its own label images.')


def check_flags(labels: np.ndarray, flags: Sequence[float], where: str | Path) -> None:
    """Make sure that a label image has pixels of those lane slots that its flags name.

    Raises:
        DataError: it has not.
    """
    present = np.bincount(labels.ravel(), minlength=len(flags) + 1)[1:] > 0
    if (present != np.asarray(flags, bool)).any():
        raise DataError(f'{where}: flags {" ".join(f"{flag:.0f}" for flag in flags)} for an image with pixels of the '
                        f'slots {(np.flatnonzero(present) + 1).tolist()}, expected the same slots in both. Draw the '
                        'label image anew, correct the list, or take both as they are by check_flags=False.')


def read_categories(folder: str | Path) -> dict[str, str]:
    """Category of each test image that the lists `test<k>_<category>.txt` name; empty when there is no such folder.

    Raises:
        DataError: a damaged list.
    """
    categories = {}
    for number, name in enumerate(CATEGORIES):
        path = Path(folder, f'test{number}_{name}.txt')
        if path.is_file():
            categories.update({' '.join(words).lstrip('/'): name
                               for _, words in read_rows(path, f'a list of {name} images')})
    return categories


def read_lanes(path: str | Path) -> list[np.ndarray]:
    """Lanes of a `.lines.txt` file: a line each, `u v u v ...`; a last number without partner is ignored.

    Returns:
        (P, 2) float64 arrays, one for every line of text, empty ones too; no lane when there is no such file.

    Raises:
        DataError: something that is no finite number.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f'{path}: not readable ({error}), expected lines of numbers. Replace the file.') from error
    data = data.removeprefix(b'\xef\xbb\xbf')  # a mark that Windows editors set
    if not data.isascii():
        raise DataError(f'{path}: not readable (bytes that are no ASCII), expected lines of numbers. Replace the file.')
    lines = data.split(b'\n')  # a carriage return alone is a space, as for the official tool
    return [_parse(line, path, number) for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1)]


def _parse(line: bytes, path: Path, number: int) -> np.ndarray:
    try:
        values = np.array(line.split(), np.float64) if b'_' not in line else np.array([np.nan])
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise DataError(f'{path}:{number}: {line[:60].decode("ascii")!r}, expected coordinates u v u v ... in pixels. '
                        'Correct the line.')
    return values[:len(values) // 2 * 2].reshape(-1, 2)


def read_list(path: str | Path) -> list[str]:
    """Names of images in an official list: `/folder/.../00000.jpg` a line, what follows does not count.

    Raises:
        DataError: no such file, or it names no image.
    """
    return [image_name(' '.join(words), where).lstrip('/') for where, words in read_rows(path, 'a list of images')]
