"""TuSimple lane detection challenge (2017).

The official folders are read as they are unpacked, both archives into one folder, or each into its own, `train_set` and
`test_set`, as the copy on Kaggle has them:

    <data_root>/clips/<date>/<clip>/20.jpg                              1280 x 720
    <data_root>/label_data_{0313,0531,0601}.json, test_label.json       a JSON object a line
    <data_root>/test_tasks_0627.json                                    the same without lanes

A line is `{"lanes": [[x, ...], ...], "h_samples": [y, ...], "raw_file": "clips/.../20.jpg"}`, -2 where a lane has no
point. Label images are drawn on the fly: six slots from left to right, 3 and 4 are the borders of the own lane.
"""
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from perception.common.formats.text import read_json_lines
from perception.lanes.datasets.base import RoadImages, Truth, check_files, image_name, inside, missing_root
from perception.lanes.polylines import DECIMALS, draw_instances, draw_lanes, ego_slots
from perception.registry import DATASETS
from perception.utils.errors import DataError

DOWNLOAD = 'https://github.com/TuSimple/tusimple-benchmark/issues/3'
LAYOUT = 'clips/, label_data_*.json, test_label.json'
NUM_LANES = 6
MIN_POINTS = 4  # of a lane that the official label generator draws
SIZE = (720, 1280)  # rows, columns of an image
ROWS = tuple(range(160, 720, 10))  # of the test set
LABEL_FILES = dict(train=('label_data_0313.json', 'label_data_0601.json'), val=('label_data_0531.json',),
                   test=('test_label.json',))
TASKS = 'test_tasks_0627.json'
ARCHIVES = ('train_set', 'test_set')  # folders of those who unpack each archive into its own


@DATASETS.register_module()
class TuSimple(RoadImages):
    """TuSimple in its official layout; see `RoadImages` for the other arguments.

    Every sample has `lanes`, one for each list of the file, points where x >= 0, and the meta information `h_samples`,
    so that the file's lists can be made again: -2 where a lane has no point at a row. Train and val have `labels` and
    `exist`, too. A test split without `test_label.json` has no `lanes`.

    Args:
        label_files: other label files than the split's, such as all three for a final training.
        thickness: of the drawn lanes in pixels of an image of TuSimple's width.
        all_lanes: number all lanes 1, 2, ... from left to right, however many there are, instead of the six slots;
            without `exist`. For networks that tell any number of lanes apart.
    """

    METAINFO = dict(classes=('background', *(f'lane {slot}' for slot in range(1, NUM_LANES + 1))),
                    palette=((0, 0, 0), (160, 60, 220), (255, 140, 0), (255, 60, 60), (60, 190, 75), (60, 120, 255),
                             (0, 200, 200)), rate=20.0)  # images of a clip a second
    IMAGE_SIZE = SIZE
    HORIZON = 255
    OFFICIAL_SIZES = dict(train=3268, val=358, test=2782)

    def __init__(self, data_root: str | Path = 'data/tusimple', split: str = 'train',
                 pipeline: Sequence[dict | Callable] = (), input_size: Sequence[int] | None = None, crop_top: int = 0,
                 seed: int = 0, label_files: Sequence[str] | None = None, thickness: int = 15,
                 all_lanes: bool = False) -> None:
        self.label_files = tuple(LABEL_FILES.get(split, ()) if label_files is None else label_files)
        self.thickness, self.all_lanes = thickness, all_lanes
        super().__init__(data_root, split, pipeline, input_size, crop_top, seed)

    def list_samples(self) -> list[tuple]:
        files = [self._find(name) for name in self.label_files]
        if self.split == 'test' and not files[0].is_file() and self._find(TASKS).is_file():
            print_log(f'{files[0]}: no such file; the test split has no lanes to compare with.', 'current',
                      logging.WARNING)
            files = [self._find(TASKS)]
        if not self.data_root.is_dir() or not files or not files[0].is_file():
            raise missing_root(files[0] if files else self.data_root, self.data_root, 'TuSimple', LAYOUT, DOWNLOAD)
        entries = []
        for path in files:
            rows = read_json_lines(path, 'labels of TuSimple')
            home = self._home(path, str(rows[0][1].get('raw_file')))
            entries += [self._entry(record, where, home) for where, record in rows]
        check_files([entry[1] for entry in entries], ', '.join(map(str, files)))
        return entries

    def _find(self, name: str) -> Path:
        """A label file, at the root or in the folder of an archive."""
        places = [self.data_root / folder / name for folder in ('', *ARCHIVES)]
        return next((path for path in places if path.is_file()), places[0])

    def _home(self, file: Path, first: str) -> Path:
        """The folder with the images of a label file, of which `first` is one: beside it, or that of an archive."""
        places = [file.parent, *(self.data_root / folder for folder in ('', *ARCHIVES))]
        return next((place for place in places if (place / first.lstrip('/')).is_file()), places[0])

    def _entry(self, record: dict, where: str, home: Path) -> tuple:
        name = record.get('raw_file')
        if not isinstance(name, str) or image_name(name, f'{where}: raw_file', '"clips/.../20.jpg"') != name:
            raise DataError(f'{where}: raw_file {name!r:.80}, expected "clips/.../20.jpg". Correct the line.')
        rows, lanes = parse_lanes(record, where)
        return name.lstrip('/').rsplit('.', 1)[0], inside(home, name, where), rows, lanes

    def read_truth(self, entry: Sequence, size: tuple[int, int]) -> tuple[Truth, dict]:
        _, _, rows, lanes = entry
        info, thickness = dict(h_samples=rows), self.line_width(self.thickness, size)
        if lanes is None or self.split == 'test':
            return Truth(lanes=lanes), info
        if self.all_lanes:
            return Truth(draw_instances(lanes, size, thickness), None, lanes), info
        slots = tusimple_slots(lanes)
        labels = draw_lanes([lanes[i] for i in slots], list(slots.values()), size, thickness)
        exist = np.isin(np.arange(1, NUM_LANES + 1), list(slots.values())).astype(np.float32)
        return Truth(labels, exist, lanes), info


def file_rows(sample: Mapping, default: Sequence[float] = ROWS) -> tuple[float, ...]:
    """Rows of the lanes of a sample in the pixels that its label file counts in.

    Args:
        sample: with `h_samples` in pixels of its image, `original_shape` and, where images were scaled, `label_shape`.
        default: where it has no `h_samples`.
    """
    rows, own, label = sample.get('h_samples'), sample.get('original_shape'), sample.get('label_shape')
    if not rows:
        return tuple(default)
    if own is None or label is None or tuple(own) == tuple(label):
        return tuple(rows)
    rows = np.round(np.array(rows) * (label[0] / own[0]), DECIMALS).tolist()
    return tuple(int(row) if row == int(row) else row for row in rows)


def parse_lanes(record: dict, where: str) -> tuple[tuple[float, ...], list[np.ndarray] | None]:
    """Rows and lanes of a line of a label file.

    Args:
        record: with `h_samples` and, unless it is a task, `lanes`.
        where: file and line, for messages.

    Returns:
        `h_samples`, and for each lane its (P, 2) points u, v with u >= 0, bottom to top; None without `lanes`.

    Raises:
        DataError: lists of unequal lengths, or something that is no finite number.
    """
    rows = _numbers(record.get('h_samples'), 'h_samples', where)
    if len(rows) == 0 or (np.diff(rows) <= 0).any():
        raise DataError(f'{where}: h_samples {str(record["h_samples"])[:60]}, expected increasing rows. Correct the '
                        'line.')
    rows_as_read = tuple(record['h_samples'])
    if 'lanes' not in record:
        return rows_as_read, None
    if not isinstance(record['lanes'], list):
        raise DataError(f'{where}: lanes of type {type(record["lanes"]).__name__}, expected a list of lists. Correct '
                        'the line.')
    lanes = []
    for i, lane in enumerate(record['lanes']):
        columns = _numbers(lane, f'lanes[{i}]', where)
        if len(columns) != len(rows):
            raise DataError(f'{where}: {len(columns)} values in lanes[{i}] for {len(rows)} h_samples, expected equal '
                            'numbers. Correct the line.')
        lanes.append(np.stack([columns, rows], axis=1)[columns >= 0][::-1])
    return rows_as_read, lanes


def _numbers(values: object, name: str, where: str) -> np.ndarray:
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise DataError(f'{where}: {name} {str(values)[:60]}, expected a list of numbers. Correct the line.')
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        numbers = np.array([np.inf])
    if not (np.abs(numbers) < 1e6).all():
        raise DataError(f'{where}: {name} {str(values)[:60]}, expected pixels. Correct the line.')
    return numbers


def tusimple_slots(lanes: Sequence[np.ndarray]) -> dict[int, int]:
    """The slot 1..6 of each lane, by the rule with which labels of TuSimple are generated (CLRNet, SCNN).

    The last lane from the left with an angle of at most 90 degrees is the left one of the own lane, slot 3; those
    before it are 2 and 1. The next is slot 4, then 5 and 6. Lanes of fewer than four points keep their slot empty.

    Args:
        lanes: (P, 2) arrays u, v, bottom to top.

    Returns:
        index of the lane -> slot.
    """
    return ego_slots(lanes, NUM_LANES, MIN_POINTS)
