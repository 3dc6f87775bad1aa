"""Toy drives in the layout of BDD's videos: H.264 in .mov files, and GPS once a second in JSON."""
from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.common.scene.camera import BDD100K
from perception.common.scene.workers import write_streets
from perception.common.scene.world import SCENE_VERSION
from perception.steering.datasets.base import CONDITIONS
from perception.steering.datasets.bdd.reader import HZ, SPARE
from perception.steering.drives import Journey, check_drives, drive_along, plans
from perception.utils.errors import DataError
from perception.utils.paths import data_path

CODE, WRITER_VERSION = 10, 3  # the code keeps its streets apart from those of other sets
CAMERA = replace(BDD100K.scaled(.5), smooth=False)  # 640 x 360, as the released code writes videos for training
START = 1503000000000  # ms


def write_bdd_mini(root: str | Path = 'data/mini/bdd_driving', seed: int = 0, train_drives: int = 26,
                   val_drives: int = 5, test_drives: int = 5, seconds: float = 7.0, rate: float = 3.0,
                   detail: float = .2, workers: int = 0, force: bool = False) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Every second drive stops once. Videos have 15 frames a second; `rate` different ones of them are rendered, by
    default as many as clips have.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_drives, val_drives, test_drives: videos of each split.
        seconds: of each video that are used; it is 2.2 s longer, in which nothing moves but its GPS. The official
            ones have 36.
        rate: frames a second that are rendered, a divisor of 15.
        detail: share of the width of 640 pixels at which images are rendered.
        workers: processes that write drives, 0 for as many as there are cores; the files do not depend on it.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    if not rate > 0 or HZ % rate:
        raise DataError(f'write_bdd_mini: rate={rate}, expected a divisor of {HZ}. Give one.')
    frames = int(np.ceil((seconds + SPARE + .2) * rate))
    counts = dict(train=[train_drives, frames], val=[val_drives, frames], test=[test_drives, frames])
    check_drives('write_bdd_mini', seed, detail, workers, **counts)
    stamp = dict(dataset='bdd_driving', simulated=True, scene_version=SCENE_VERSION, writer_version=WRITER_VERSION,
                 seed=seed, drives=counts, rate=rate, detail=detail)
    megabytes = 2 + round(.04 * sum(drives * frames for drives, frames in counts.values()))
    return write_stamped(data_path(root), stamp, partial(_write, seed=seed, counts=counts, rate=rate, detail=detail,
                                                         workers=workers), 'BDD', megabytes, force)


def _write(root: Path, seed: int, counts: dict, rate: float, detail: float, workers: int) -> None:
    jobs, looks = [], {}
    for number, (split, (drives, frames)) in enumerate(counts.items()):
        for folder in ('videos', 'info'):
            (root / split / folder).mkdir(parents=True)
        for k, plan in enumerate(plans((seed, CODE, number), drives, frames, rate, detail, stops=True, first=number)):
            name = f'{number:04x}{k:04x}-{seed:08x}'
            looks[name] = plan.look
            jobs.append((plan, CAMERA, _save, root / split, name))
    write_streets(drive_along, jobs, [job[0].frames for job in jobs], workers, 'BDD', 'frame')
    (root / CONDITIONS).write_text(json.dumps(looks, indent=1) + '\n')


def _save(folder: Path, journey: Journey, name: str) -> None:
    held = round(HZ / journey.plan.rate)
    writer = imageio_ffmpeg.write_frames(
        str(folder / 'videos' / f'{name}.mov'), (CAMERA.width, CAMERA.height), fps=HZ, codec='libx264',
        pix_fmt_out='yuv420p', macro_block_size=2, quality=None, ffmpeg_log_level='quiet',
        output_params=['-crf', '23', '-preset', 'veryfast', '-threads', '1', '-bitexact'])
    with closing(writer):
        writer.send(None)
        used = len(journey.times) - int((SPARE + .2) * journey.plan.rate)
        for i in range(used):
            image = np.ascontiguousarray(journey.picture(i).image)
            for _ in range(held if i < used - 1 else held * (1 + len(journey.times) - used)):
                writer.send(image)
    times = np.arange(.3, journey.times[-1] + 1 / journey.plan.rate, 1)
    speeds, headings = (np.interp(times, journey.times, x) for x in (journey.speeds, np.unwrap(journey.headings)))
    places = np.stack([np.interp(times, journey.times, x) for x in journey.places.T], 1)
    start = START + 100_000 * int(name[:4], 16)
    locations = [dict(timestamp=start + round(1000 * t), speed=round(speed, 4), accuracy=5.0,
                      course=round(float(90 - np.degrees(heading)) % 360, 4), latitude=round(37.87 + y / 111_000, 7),
                      longitude=round(-122.27 + x / 88_000, 7))
                 for t, speed, heading, (x, y, _) in zip(times, speeds.tolist(), headings.tolist(), places.tolist())]
    info = dict(rideID=name, id=name, filename=f'{name}.mov', startTime=start,
                endTime=start + round(1000 * len(journey.times) / journey.plan.rate), timelapse=False,
                locations=locations, gps=[], accelerometer=[], gyro=[])
    (folder / 'info' / f'{name}.json').write_text(json.dumps(info) + '\n')
