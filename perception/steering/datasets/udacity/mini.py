"""Toy drives in the official layout of Udacity's challenge 2, as folders exported from its bags."""
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
from perception.steering.datasets.udacity.bags import CENTER, COLUMNS
from perception.steering.datasets.udacity.reader import EVALUATION, FLOW, UdacityCh2
from perception.steering.drives import Journey, check_drives, drive_along, encode, plans
from perception.utils.paths import data_path

CODE, WRITER_VERSION = 8, 4  # the code keeps its streets apart from those of other sets
CAMERA = CameraSpec(**UdacityCh2.METAINFO['camera'], smooth=False)
START = 1479425441182877835  # ns, first frame of the official test
BETWEEN = 100  # s from the start of a drive to that of the next
FEWER = 4  # rows and columns of an image for one of the true flow
HALF = 5  # frames of one half of the test before some of the other one come


def write_udacity_mini(root: str | Path = 'data/mini/udacity', seed: int = 0, train_drives: int = 36,
                       train_frames: int = 25, test_drives: int = 8, test_frames: int = 20, rate: float = 5.0,
                       detail: float = .2, workers: int = 0, force: bool = False) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Streets count more than frames: nets that saw 12 streets for five seconds each found nothing of the road on others.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_drives, train_frames: recordings `HMB_1`, `HMB_2`, `HMB_4` and so on, and frames of each.
        test_drives, test_frames: drives of the folder `test`, one after the other, and frames of each.
        rate: frames a second; the official one is about 20.
        detail: share of the width of 640 pixels at which images are rendered; files have the official size all the
            same.
        workers: processes that write drives, 0 for as many as there are cores; the files do not depend on it.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    counts = dict(train=[train_drives, train_frames], test=[test_drives, test_frames])
    check_drives('write_udacity_mini', seed, detail, workers, **counts)
    stamp = dict(dataset='udacity', simulated=True, scene_version=SCENE_VERSION, writer_version=WRITER_VERSION,
                 seed=seed, drives=counts, rate=rate, detail=detail)
    megabytes = 2 + round(.06 * train_drives * train_frames + .08 * test_drives * test_frames)
    return write_stamped(data_path(root), stamp, partial(_write, seed=seed, counts=counts, rate=rate, detail=detail,
                                                         workers=workers), 'Udacity challenge 2', megabytes, force)


def _write(root: Path, seed: int, counts: dict, rate: float, detail: float, workers: int) -> None:
    train = plans((seed, CODE, 0), *counts['train'], rate, detail)
    test = plans((seed, CODE, 1), *counts['test'], rate, detail)
    names = [f'HMB_{k if k < 3 else k + 1}' for k in range(1, len(train) + 1)]  # the official test is HMB_3
    starts = [START + BETWEEN * 10 ** 9 * k for k in range(len(train) + len(test))]
    orders = [*zip(names, starts), *(('test', start) for start in starts[len(train):])]
    jobs = [(plan, CAMERA, _save, root, order) for plan, order in zip([*train, *test], orders)]
    rows = write_streets(drive_along, jobs, [job[0].frames for job in jobs], workers, 'Udacity challenge 2', 'frame')
    answers = [row for found in rows[len(train):] for row in found]
    lines = [f'{stamp},{angle:.12f},{i // HALF % 2 ^ 1}\n' for i, (stamp, angle) in enumerate(answers)]
    (root / 'test' / EVALUATION).write_text(''.join(lines))
    tests = ['test'] if len(test) == 1 else [f'test_{k}' for k in range(1, len(test) + 1)]
    looks = {name: plan.look for name, plan in zip([*names, *tests], [*train, *test])}
    (root / CONDITIONS).write_text(json.dumps(looks, indent=1) + '\n')


def _save(root: Path, journey: Journey, order: tuple[str, int]) -> list[tuple[int, float]]:
    """Images and list of a recording, or images and true flow of the test; returns time stamps and angles."""
    name, start = order
    folder = root / name
    (folder / CENTER).mkdir(parents=True, exist_ok=True)
    stamps = start + np.rint(journey.times * 1e9).astype(np.int64)
    rows, depth = [','.join(COLUMNS)], None
    if name == 'test':
        (folder / FLOW).mkdir(exist_ok=True)
    for i, stamp in enumerate(stamps.tolist()):
        file = f'{CENTER}/{stamp}.jpg'
        picture = journey.picture(i)
        (folder / file).write_bytes(encode(picture.image))
        if name == 'test' and depth is not None:
            flow, known = journey.flow(i - 1, depth)
            flow[~known] = np.nan
            few = flow[FEWER // 2::FEWER, FEWER // 2::FEWER].transpose(2, 0, 1) / FEWER
            np.savez_compressed(folder / FLOW / f'{stamp}.npz', flow=few.astype(np.float16))
        depth = picture.depth
        moment = np.datetime64(stamp, 'ns').astype('datetime64[us]').item().isoformat(' ')
        rows.append(f'{moment},{stamp},{CAMERA.width},{CAMERA.height},center_camera,{file},{journey.angles[i]:.12f},'
                    f'{journey.torques[i]:.6f},{journey.speeds[i]:.6f},0.0,0.0,0.0')
    if name != 'test':
        (folder / 'interpolated.csv').write_text(''.join(f'{row}\n' for row in rows))
    return list(zip(stamps.tolist(), journey.angles.tolist()))
