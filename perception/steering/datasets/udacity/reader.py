"""Udacity's challenge 2: steering-wheel angles of a Lincoln MKZ, November 2016, about 20 frames a second.

The official folders are read as they are exported from the ROS bags; a bag that lies there is exported at first use
(see `bags.py`):

    <data_root>/<HMB_1 ...>/interpolated.csv         index,timestamp,width,height,frame_id,filename,angle,torque,...
    <data_root>/<HMB_1 ...>/center/<ns>.jpg or png   640 x 480; <ns> is the time stamp in nanoseconds
    <data_root>/<HMB_1 ...>.bag                      instead of both
    <data_root>/test/center/<ns>.jpg or png
    <data_root>/test/CH2_final_evaluation.csv        <ns>,angle [rad],1 = public or 0 = private half; no header

Instead of folders the root may hold one list, `interpolated.csv` or `complete_dataset.csv` (13 columns without header,
as FM-Net's code reads it), whose images it names. Angles are those of the wheel, in radians, positive to the left; a
sample has degrees. Only centre frames are read. A gap of more than a second ends a recording; in training and
validation pieces that are too short for clips are left out.
"""
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from perception.common.formats.images import read_image
from perception.common.formats.text import read_text
from perception.registry import DATASETS
from perception.steering.datasets.base import DrivingClips, Recording, check_times, missing_root, split_at_gaps
from perception.steering.datasets.udacity.bags import CENTER, COLUMNS, export_bag, find_bags
from perception.utils.errors import DataError
from perception.utils.paths import natural_order

DOWNLOAD = 'https://github.com/udacity/self-driving-car/tree/master/datasets/CH2'
LAYOUT = 'HMB_*/interpolated.csv, HMB_*/center/*.jpg, test/CH2_final_evaluation.csv, test/center/*.jpg'
TEST = ('test', 'HMB_3')  # the second one is the recording that the first is made of
LISTS = ('interpolated.csv', 'complete_dataset.csv')
EVALUATION = 'CH2_final_evaluation.csv'
FLOW = 'flow'  # folder of simulated tests: <ns>.npz, the true flow from the frame before
ENDINGS = ('.jpg', '.png', '.jpeg')
RATE = 20.0  # frames a second
LARGEST = 30.0  # rad; a wheel turns less than five times


@DATASETS.register_module()
class UdacityCh2(DrivingClips):
    """Clips of the challenge; see `DrivingClips` for the arguments.

    Train and val are parts of all recordings but `test`. Test frames have an angle but neither torque nor speed, and
    the meta information `public`; without `CH2_final_evaluation.csv` they have no targets and can be submitted only.

    Args:
        true_flow: samples have the `flow` (T, 2, H, W) of things that stand still, from the frame before, in pixels of
            `input_size`, NaN where it is not known. Simulated test drives have it.

    Raises:
        ConfigError, DataError: see DrivingClips.
    """

    METAINFO = dict(  # the calibration is not published; focal length and horizon as pictures suggest
        DrivingClips.METAINFO, rate=RATE,
        camera=dict(width=640, height=480, focal=480, height_above_ground=1.35, pitch=-2.0, forward=0.6),
        car=dict(wheelbase=2.85, ratio=14.8, understeer=0.0025))  # Lincoln MKZ

    def __init__(self, data_root: str, split: str = 'train', true_flow: bool = False, **arguments) -> None:
        super().__init__(data_root, split, **arguments)
        self.true_flow = true_flow

    def more(self, recording: Recording, steps: np.ndarray, phase: int) -> dict[str, np.ndarray]:
        """See DrivingClips; the true flow of frames that are no recording's first."""
        if not self.true_flow:
            return {}
        height, width = self.input_size
        flow = np.full((len(steps), 2, height, width), np.nan, np.float32)
        for row, i in zip(flow, steps):
            if i > 0:
                image = Path(recording.image_paths[i])
                row[:] = read_flow(image.parents[1] / FLOW / f'{image.stem}.npz', (height, width))
        return dict(flow=flow)

    def list_recordings(self) -> list[Recording]:
        if self.split == 'test':
            return split_at_gaps(self._test())
        found = []
        for table in self._tables():
            folder = table.parent
            name = folder.name if folder != self.data_root else table.stem
            found += self.whole_pieces(self._recording(read_table(table), folder, name))
        return found

    def _tables(self) -> list[Path]:
        """The list of each recording."""
        for bag in find_bags(self.data_root):
            export_bag(bag, self.data_root / bag.stem)
        own = [self.data_root / name for name in LISTS if (self.data_root / name).is_file()]
        tables = own[:1] or sorted((path for path in self.data_root.glob(f'*/{LISTS[0]}')
                                    if path.parent.name not in TEST), key=natural_order)
        if not tables:
            raise missing_root(self.data_root / 'HMB_1' / LISTS[0], self.data_root, 'Udacity challenge 2', LAYOUT,
                               DOWNLOAD)
        return tables

    def _recording(self, table: 'Table', folder: Path, name: str) -> Recording:
        paths = image_paths(folder, table.files, table.rows)
        check_times(table.stamps, table.rows)
        targets = np.stack([np.degrees(table.angles), table.torques, table.speeds], 1).astype(np.float32)
        return Recording(name, [Path(path).stem for path in paths], table.stamps / 1e9, targets, paths, paths)

    def _test(self) -> Recording:
        folder = self.data_root / 'test'
        path = folder / EVALUATION
        if path.is_file():
            stamps, angles, public, rows = read_evaluation(path)
            paths = image_paths(folder, [f'{CENTER}/{stamp}' for stamp in stamps], rows)
        else:
            found = sorted(p for p in (folder / CENTER).glob('*')
                           if p.suffix.lower() in ENDINGS and not p.name.startswith('.'))
            if not found:
                raise missing_root(path, self.data_root, "the test split of Udacity's challenge 2", LAYOUT, DOWNLOAD)
            paths, rows = [str(p) for p in found], [str(p) for p in found]
            stamps = np.array([_stamp(p.stem, str(p)) for p in found])
            angles, public = np.full(len(found), np.nan), np.full(len(found), -1)
        check_times(stamps, rows)
        targets = np.full((len(stamps), 3), np.nan, np.float32)
        targets[:, 0] = np.degrees(angles)
        return Recording('test', [str(stamp) for stamp in stamps], stamps / 1e9, targets, paths, paths, public)

    def read_frames(self, recording: Recording, indices: Sequence[int]) -> list[np.ndarray]:
        return [read_image(recording.source[i]) for i in indices]


def read_flow(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A flow (2, H, W) float32 for images of another size, in their pixels.

    Raises:
        DataError: no such file, or it holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            flow = arrays['flow'].astype(np.float32)
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise DataError(f'{path}: {error}, expected the true flow (2, h, w) of a simulated frame. Leave out true_flow, '
                        'or write the simulated data again.') from error
    if flow.ndim != 3 or len(flow) != 2:
        raise DataError(f'{path}: an array of shape {flow.shape}, expected (2, h, w). Write the simulated data again.')
    rows, columns = ((np.arange(n) + .5) * old / n for n, old in zip(size, flow.shape[1:]))  # nearest: NaN stays
    scale = np.float32([size[1] / flow.shape[2], size[0] / flow.shape[1]])[:, None, None]
    return flow[:, rows.astype(int)[:, None], columns.astype(int)] * scale


class Table(NamedTuple):
    """Centre frames of a list, N rows.

    Attributes:
        rows: `file:row` of each.
        stamps: (N,) int64 [ns].
        files: of the images, below the folder.
        angles, torques, speeds: (N,) float64 [rad, -, m/s].
    """
    rows: list[str]
    stamps: np.ndarray
    files: list[str]
    angles: np.ndarray
    torques: np.ndarray
    speeds: np.ndarray


def read_cells(path: str | Path, what: str) -> list[tuple[str, list[str]]]:
    """`file:row` and the cells of each row of a CSV file that is not empty.

    Raises:
        DataError: no such file, no text, or nothing in it.
    """
    text = read_text(path, what)
    try:
        rows = [(number, [cell.strip() for cell in row])
                for number, row in enumerate(csv.reader(io.StringIO(text)), 1) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f'{path}: no CSV text ({error}), expected {what}. Copy the file again.') from error
    if not rows:
        raise DataError(f'{path}: an empty file, expected {what}. Copy the file again.')
    return [(f'{path}:{number}', row) for number, row in rows]


def read_table(path: str | Path) -> Table:
    """The centre frames of `interpolated.csv`, with its header or without, or of the list of 13 columns.

    The time stamp is that of the file's name, for spreadsheets round the one in the column.

    Raises:
        DataError: it cannot be read, a row with other columns, an angle that is no number, or no centre frame.
    """
    cells = read_cells(path, "a list of frames with columns such as timestamp, filename, angle")
    head = [name.lower() for name in cells[0][1]]
    if 'filename' in head:
        names, cells = head, cells[1:]
        absent = [name for name in ('filename', 'angle') if name not in names]
        if absent:
            raise DataError(f'{path}:1: columns {", ".join(names)}, expected {" and ".join(absent)} too. Export the '
                            'recording again.')
    else:
        names = [*COLUMNS] if len(head) == len(COLUMNS) else ['num', *COLUMNS]
    place = {name: k for k, name in enumerate(names)}
    rows, files, values = [], [], []
    for where, row in cells:
        if len(row) != len(names):
            raise DataError(f'{where}: {len(row)} columns, expected {len(names)} ({", ".join(names)}). The row is '
                            'damaged, or the file is another one.')
        file = row[place['filename']]
        kind = row[place['frame_id']] if 'frame_id' in place else ''
        if kind.startswith(('left', 'right')) or file.startswith(('left/', 'right/')):
            continue
        rows.append(where)
        files.append(file)
        values.append([_number(row[place[name]], name, where, name == 'angle') if name in place else np.nan
                       for name in ('angle', 'torque', 'speed')])
    if not rows:
        raise DataError(f'{path}: no frame of the centre camera in {len(cells):,} rows, expected some. Take the list '
                        'of all cameras, or of the centre one.')
    stamps = np.array([_stamp(Path(file).stem, where) for file, where in zip(files, rows)], np.int64)
    return Table(rows, stamps, files, *np.array(values).T)


def read_evaluation(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """The truth of the test.

    Returns:
        (N,) int64 time stamps [ns]; (N,) float64 angles [rad]; (N,) int64, 1 in the public half, 0 in the private one,
        -1 where the file does not say; `file:row` of each.

    Raises:
        DataError: it cannot be read, or a cell that is no number.
    """
    cells = read_cells(path, 'the answers, a time stamp, an angle and 0 or 1 in each row')
    if cells[0][1][0].lower() == 'frame_id':
        cells = cells[1:]
    stamps, angles, public, rows = [], [], [], []
    for where, row in cells:
        if len(row) not in (2, 3):
            raise DataError(f'{where}: {len(row)} columns, expected a time stamp, an angle and 0 or 1. The row is '
                            'damaged, or the file is another one.')
        if len(row) == 3 and row[2] not in ('0', '1'):
            raise DataError(f'{where}: {row[2][:20]!r} in the third column, expected 1 (public) or 0 (private). '
                            'Correct the row.')
        rows.append(where)
        stamps.append(_stamp(row[0], where))
        angles.append(_number(row[1], 'angle', where, True))
        public.append(int(row[2]) if len(row) == 3 else -1)
    if not rows:
        raise DataError(f'{path}: no row, expected the answers. Copy the file again.')
    return np.array(stamps, np.int64), np.array(angles), np.array(public), rows


def _stamp(text: str, where: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 19:
        raise DataError(f'{where}: {text[:40]!r} as a time stamp, expected whole nanoseconds such as '
                        '1479425441182877835. A spreadsheet may have rounded it; take the original file.')
    return int(text)


def _number(text: str, name: str, where: str, needed: bool) -> float:
    """A number of a cell; NaN where it is not needed and not there."""
    try:
        value = float(text) if text and '_' not in text else np.nan
    except ValueError:
        value = np.inf
    if np.isinf(value) or needed and not abs(value) < LARGEST:
        raise DataError(f'{where}: {name} {text[:40]!r}, expected a number'
                        f'{f" of less than {LARGEST:g} rad" * needed}. Correct the row or take it out.')
    return value


def image_paths(folder: Path, files: Sequence[str], rows: Sequence[str]) -> list[str]:
    """The image of each row, whose ending on the disk may be another one than in the list.

    Args:
        folder: of the list.
        files: that it names, such as `center/1479425441182877835.jpg`.
        rows: `file:row` of each.

    Raises:
        DataError: one is not there, or its name leads out of the folder.
    """
    places: dict[str, dict[str, str]] = {}
    paths = []
    for file, where in zip(files, rows):
        parent, _, name = file.rpartition('/')
        if '..' in file.split('/') or file.startswith('/'):
            raise DataError(f'{where}: the file name {file[:80]!r}, expected one below {folder}. Correct the row.')
        if parent not in places:
            found = sorted((folder / parent).glob('*'), key=lambda p: p.suffix.lower() not in ENDINGS[:1])
            places[parent] = {p.stem: str(p) for p in found[::-1] if p.suffix.lower() in ENDINGS}
        paths.append(places[parent].get(name.rpartition('.')[0] if name.lower().endswith(ENDINGS) else name))
    missing = [k for k, path in enumerate(paths) if path is None]
    if missing:
        raise DataError(f'{rows[missing[0]]}: no image {folder / files[missing[0]]} ({len(missing):,} of '
                        f'{len(files):,} are missing), expected it as .jpg or .png. Unpack the images again, or take '
                        'the rows out.')
    return paths
