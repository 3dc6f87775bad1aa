"""Comma.ai's driving data set: eleven drives of an Acura ILX, 20 frames a second (commaai/research, 2016).

The official files are read as they are unpacked, by the package h5py:

    <data_root>/camera/<name>.h5    X (N, 3, 160, 320) uint8, red first; <name> such as 2016-01-30--11-24-51
    <data_root>/log/<name>.h5       vectors at 100 Hz: steering_angle [deg], steering_torque (in truth its rate, deg/s),
                                    speed [m/s], cam1_ptr (the frame of each row), times [s]

Frames whose wheel is turned further than 200 degrees are left out, as officially; there, a recording ends.
"""
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from perception.registry import DATASETS
from perception.steering.datasets.base import DrivingClips, Recording, check_times, missing_root
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import DataError
from perception.utils.optional import import_optional

DOWNLOAD = 'https://github.com/commaai/research'
LAYOUT = 'camera/<name>.h5, log/<name>.h5'
TEST = ('2016-06-02--21-39-29', '2016-06-08--11-46-01')  # the validation of the official server.py
KEYS = ('steering_angle', 'steering_torque', 'speed')
POINTER, FRAMES = 'cam1_ptr', 'X'
RATE = 20.0  # frames a second
LARGEST = 2000.0  # deg, deg/s or m/s, of a value that can be meant


@DATASETS.register_module()
class CommaAI(DrivingClips):
    """Clips of Comma.ai; see `DrivingClips` for the other arguments. The torque is the wheel's rate in deg/s.

    Train and val are parts of all recordings but the official two of the test.

    Args:
        align: rows of the log that belong to a frame: 'pointer', the mean of those whose `cam1_ptr` is the frame, which
            is exact, or 'linspace', as the official code takes them: rows spread evenly over the frames.
        max_angle: deg; frames whose wheel is turned further are left out, and a recording ends there.
        test: names of the recordings of the test.
    """

    METAINFO = dict(  # the calibration is not published; focal length and horizon as pictures suggest
        DrivingClips.METAINFO, rate=RATE,
        camera=dict(width=320, height=160, focal=250, height_above_ground=1.2, pitch=-1.5, forward=0.4),
        car=dict(wheelbase=2.67, ratio=15.3, understeer=0.0025))  # Acura ILX

    def __init__(self, data_root: str | Path = 'data/comma', split: str = 'train', clip_length: int = 10,
                 stride: int | None = None, input_size: Sequence[int] = (160, 160), holdout: float = 0.05,
                 memory: float = 4.0, pipeline: Sequence[dict | Callable] = (), seed: int = 0, align: str = 'pointer',
                 max_angle: float = 200.0, test: Sequence[str] = TEST, rate: float | None = None) -> None:
        check_choice('CommaAI: align', align, ('pointer', 'linspace'))
        check_positive('CommaAI', max_angle=max_angle)
        self.align, self.max_angle, self.test = align, max_angle, tuple(test)
        self._open: dict[tuple[int, str], Any] = {}
        super().__init__(data_root, split, clip_length, stride, input_size, holdout, memory, pipeline, seed,
                         rate)

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _open={})  # open files stay in their process

    def list_recordings(self) -> list[Recording]:
        names = sorted(path.stem for path in (self.data_root / 'camera').glob('*.h5') if not path.name.startswith('.'))
        absent = [name for name in self.test if name not in names]
        if names and absent:  # a wrong name would let a recording of the test be trained on
            print_log(f'{self.data_root}: {", ".join(absent)} of the test are not among {len(names):,} recordings, '
                      'expected all of them. Unpack them, or correct test.', 'current', logging.WARNING)
        wanted = [name for name in names if (name in self.test) == (self.split == 'test')]
        if not wanted:
            raise missing_root(self.data_root / 'camera' / f'{(*self.test, "2016-01-30--11-24-51")[0]}.h5',
                               self.data_root, f'recordings of the {self.split} split of Comma.ai', LAYOUT, DOWNLOAD)
        return [piece for name in wanted for piece in self._pieces(name)]

    def _pieces(self, name: str) -> list[Recording]:
        """The pieces of a recording whose wheel is turned no further than allowed, those long enough for the split."""
        camera, log = (self.data_root / kind / f'{name}.h5' for kind in ('camera', 'log'))
        with open_h5(camera) as file, whole(camera, 'a list of contents'):
            frames = check_frames(file, camera)
        times, targets, known = read_log(log, frames, self.align)
        good = known & (np.abs(targets[:, 0]) <= self.max_angle)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], good, [0]])))
        pieces = [(a, b) for a, b in zip(edges[::2].tolist(), edges[1::2].tolist()) if b - a >= self.least]
        if not pieces:
            raise DataError(f'{log}: {good.sum():,} of {frames:,} frames with a wheel within {self.max_angle:g} '
                            f'degrees, never {self.least} in a row, expected so many. Take a smaller clip_length, or '
                            'move the recording away.')
        names = [f'{k:06d}' for k in range(frames)]
        return [Recording(name if len(pieces) == 1 else f'{name}_{number}', names[a:b], times[a:b],
                          targets[a:b].astype(np.float32), [(str(camera), k) for k in range(a, b)])
                for number, (a, b) in enumerate(pieces, 1)]

    def read_frames(self, recording: Recording, indices: Sequence[int]) -> list[np.ndarray]:
        path = recording.source[indices[0]][0]
        key = (os.getpid(), path)  # a forked worker opens its own
        if key not in self._open:
            self._open = {key: open_h5(path)}
        rows = [recording.source[i][1] for i in indices]
        low, high = min(rows), max(rows) + 1
        with whole(path, f'frames {low} to {high - 1}'):
            block = self._open[key][FRAMES][low:high]
        return [np.ascontiguousarray(block[row - low].transpose(1, 2, 0)) for row in rows]


def open_h5(path: str | Path) -> Any:
    """An HDF5 file opened for reading.

    Raises:
        DataError: no such file, or no whole HDF5 file.
        MissingDependency: h5py is absent.
    """
    kit = import_optional('h5py', f'{path}: reading HDF5 files', 'pip install h5py')
    if not Path(path).is_file():
        raise DataError(f'{path}: no such file, expected an HDF5 file. Unpack the missing archive.')
    sys.audit('open', str(path), 'r', 0)  # the library in C says nothing of it; tools/benchmark.py fuzz listens
    with whole(path, f'{Path(path).stat().st_size:,} bytes'):
        return kit.File(path, 'r')


@contextmanager
def whole(path: str | Path, what: str) -> Iterator[None]:
    """Takes what fails in this block for a damaged file, which fails in the library in many ways.

    Args:
        path: the file.
        what: is read of it, for the message.

    Raises:
        DataError: something failed.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f'{path}: {what} that cannot be read ({" ".join(str(error).split())[:120]}), expected a whole '
                        'HDF5 file. It is truncated or damaged; copy it again.') from error


def check_frames(file: Any, path: str | Path) -> int:
    """Number of frames of a camera file.

    Raises:
        DataError: it holds none, or something else.
    """
    found = file.get(FRAMES)
    shape, kind = getattr(found, 'shape', None), getattr(found, 'dtype', None)
    if shape is None or len(shape) != 4 or shape[1] != 3 or kind != np.uint8 or not min(shape):
        came = f'keys {", ".join(list(file)[:8])}' if found is None else f'{FRAMES} of {kind} of shape {shape}'
        raise DataError(f'{path}: {came}, expected {FRAMES} of uint8 of shape (N, 3, 160, 320). Take the camera file '
                        'of this recording.')
    return int(shape[0])


def read_log(path: str | Path, frames: int, align: str = 'pointer') -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a log says of each frame.

    Args:
        path: of the log.
        frames: N, of the camera.
        align: see CommaAI.

    Returns:
        (N,) float64 [s], (N, 3) float64 angle [deg], rate [deg/s], speed [m/s], and (N,) bool, whether the log knows
        of the frame.

    Raises:
        DataError: the log cannot be read, lacks a key, or has values that are no numbers.
    """
    wanted = (*KEYS, POINTER) if align == 'pointer' else KEYS
    columns = {}
    with open_h5(path) as file:
        for key in (*wanted, 'times'):
            with whole(path, key):
                if key in file:
                    columns[key] = np.asarray(file[key][()], np.float64).reshape(-1)
                elif key != 'times':
                    raise DataError(f'{path}: keys {", ".join(sorted(file)[:40])}, expected {key} too. Take the log '
                                    'file of this recording.')
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise DataError(f'{path}: {", ".join(f"{n:,} of {key}" for key, n in lengths.items())}, expected equal numbers '
                        'of rows. The file is damaged; copy it again.')
    for key in columns:
        bad = np.flatnonzero(~np.isfinite(columns[key]) | (np.abs(columns[key]) > LARGEST) & (key in KEYS))
        if len(bad):
            raise DataError(f'{path}: row {bad[0]} of {key} is {columns[key][bad[0]]} ({len(bad):,} such rows), '
                            f'expected a number. Correct the file, or move the recording away.')
    rows = lengths[KEYS[0]]
    values = np.stack([columns[key] for key in KEYS] + [columns.get('times', np.arange(rows) / 100)], 1)
    if align == 'linspace':
        if rows < frames:
            raise DataError(f'{path}: {rows:,} rows for {frames:,} frames, expected a row or more for each. The log '
                            'was cut; copy it again.')
        found, known = values[np.linspace(0, rows - 1, frames).astype(int)], np.ones(frames, bool)
    else:
        pointer = columns[POINTER].astype(np.int64)
        inside = (pointer >= 0) & (pointer < frames)
        count = np.bincount(pointer[inside], minlength=frames)
        total = np.stack([np.bincount(pointer[inside], column, minlength=frames) for column in values[inside].T], 1)
        known = count > 0
        found = total / np.maximum(count, 1)[:, None]
        if not known.any():
            raise DataError(f'{path}: {POINTER} from {pointer.min()} to {pointer.max()} for {frames:,} frames, '
                            'expected frames of the camera file. They belong to different recordings.')
        check_times(found[known, 3], [f'{path}: frame {k}' for k in np.flatnonzero(known)])
    return found[:, 3], found[:, :3], known
