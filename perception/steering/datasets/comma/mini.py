"""Toy drives in the official layout of Comma.ai: HDF5 files of a camera at 20 Hz and of a log at 100 Hz."""
from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.common.scene.camera import CameraSpec
from perception.common.scene.workers import write_streets
from perception.common.scene.world import SCENE_VERSION
from perception.steering.datasets.base import CONDITIONS
from perception.steering.datasets.comma.reader import FRAMES, POINTER, TEST, CommaAI
from perception.steering.drives import Journey, check_drives, drive_along, plans
from perception.utils.errors import DataError
from perception.utils.optional import import_optional
from perception.utils.paths import data_path

CODE, WRITER_VERSION = 9, 2  # the code keeps its streets apart from those of other sets
CAMERA = CameraSpec(**CommaAI.METAINFO['camera'], smooth=False)
LOG_RATE = 100.0  # Hz
TESTS = (*TEST, *(f'2016-06-{day:02d}--11-46-01' for day in range(9, 31)))  # the official ones come first
TRAINS = tuple(f'2016-{month:02d}-{day:02d}--11-24-51' for month in (2, 3, 4) for day in range(1, 29))


def write_comma_mini(root: str | Path = 'data/mini/comma', seed: int = 0, train_drives: int = 36,
                     train_frames: int = 25, test_drives: int = 8, test_frames: int = 20, rate: float = 5.0,
                     detail: float = .4, workers: int = 0, force: bool = False) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Streets count more than frames, see `write_udacity_mini`. The test has more recordings than the official two: a
    reader is told their names, `TESTS`.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_drives, train_frames: recordings, and frames of each.
        test_drives, test_frames: recordings `TESTS` of the test, and frames of each.
        rate: frames a second; the official one is 20.
        detail: share of the width of 320 pixels at which images are rendered; files have the official size all the
            same.
        workers: processes that write drives, 0 for as many as there are cores; the files do not depend on it.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
        MissingDependency: h5py is absent.
    """
    import_optional('h5py', 'writing mini Comma.ai', 'pip install h5py')
    counts = dict(train=[train_drives, train_frames], test=[test_drives, test_frames])
    check_drives('write_comma_mini', seed, detail, workers, **counts)
    if test_drives > len(TESTS) or train_drives > len(TRAINS):
        raise DataError(f'write_comma_mini: train_drives={train_drives}, test_drives={test_drives}, expected at most '
                        f'{len(TRAINS)} and {len(TESTS)}. Give smaller numbers.')
    stamp = dict(dataset='comma', simulated=True, scene_version=SCENE_VERSION, writer_version=WRITER_VERSION, seed=seed,
                 drives=counts, rate=rate, detail=detail)
    megabytes = 2 + round(.16 * (train_drives * train_frames + test_drives * test_frames))
    return write_stamped(data_path(root), stamp, partial(_write, seed=seed, counts=counts, rate=rate, detail=detail,
                                                         workers=workers), 'Comma.ai', megabytes, force)


def _write(root: Path, seed: int, counts: dict, rate: float, detail: float, workers: int) -> None:
    drives = [*plans((seed, CODE, 0), *counts['train'], rate, detail),
              *plans((seed, CODE, 1), *counts['test'], rate, detail, first=1)]
    names = [*TRAINS[:counts['train'][0]], *TESTS[:counts['test'][0]]]
    for folder in ('camera', 'log'):
        (root / folder).mkdir()
    write_streets(drive_along, [(plan, CAMERA, _save, root, name) for plan, name in zip(drives, names)],
                  [plan.frames for plan in drives], workers, 'Comma.ai', 'frame')
    looks = {name: plan.look for name, plan in zip(names, drives)}
    (root / CONDITIONS).write_text(json.dumps(looks, indent=1) + '\n')


def _save(root: Path, journey: Journey, name: str) -> None:
    h5py = import_optional('h5py', 'writing mini Comma.ai', 'pip install h5py')
    count = len(journey.times)
    images = np.stack([journey.picture(i).image.transpose(2, 0, 1) for i in range(count)])
    with h5py.File(root / 'camera' / f'{name}.h5', 'w') as file:
        file.create_dataset(FRAMES, data=images, track_times=False)
    times = np.arange(round(count / journey.plan.rate * LOG_RATE)) / LOG_RATE
    angles, speeds = (np.interp(times, journey.times, x) for x in (np.degrees(journey.angles), journey.speeds))
    columns = dict(steering_angle=angles, steering_torque=np.gradient(angles, 1 / LOG_RATE), speed=speeds, times=times)
    columns[POINTER] = np.floor(times * journey.plan.rate + 1e-6)
    with h5py.File(root / 'log' / f'{name}.h5', 'w') as file:
        for key, values in columns.items():
            file.create_dataset(key, data=values, track_times=False)
