"""BDD100K's videos (BDD-V) with the driver's actions, as gy20073/BDD_Driving_Model makes them from GPS.

The official folders are read as they are unpacked, in either form:

    <data_root>/<split>/videos/<id>.mov    <data_root>/<split>/info/<id>.json
    <data_root>/videos/<split>/<id>.mov    <data_root>/info/100k/<split>/<id>.json

The JSON holds `startTime` and `endTime` [ms] and about once a second one of `locations`: `timestamp` [ms], `speed`
[m/s], `course` [deg, clockwise from north]. Velocities are interpolated linearly to 15 Hz; the first 36 seconds of a
video are used, every fifth frame, which is 3 Hz. Recordings whose GPS is bad are left out, as officially, see
`rejection`.

The action of a frame follows from the change of the heading since the frame before it, see `actions_of`.
"""
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.logging import print_log

from perception.common.formats.text import read_json
from perception.common.visual.video import open_video
from perception.registry import DATASETS
from perception.steering.datasets.base import DrivingClips, Recording, missing_root
from perception.utils.checks import check_positive
from perception.utils.errors import DataError

DOWNLOAD = 'https://bdd-data.berkeley.edu'
LAYOUT = '<split>/videos/<id>.mov and <split>/info/<id>.json, or videos/<split> and info/100k/<split>'
ACTIONS = ('straight', 'slow_or_stop', 'turn_left', 'turn_right')
ENDINGS = ('.mov', '.mp4')
HZ, STEP = 15, 5  # of the frames; every fifth is one of a clip
SLOW = 2.0 + 1e-3  # m/s; slower is a stop
STILL = 1e-6  # m/s; slower has no heading
TURN, JUMP = 1.0, 35.0  # deg between two frames; more is a turn, and still more is no turn but bad GPS
BRAKE = -1.0  # m/s^2; more is slowing down
GAP, ENDS = 1100, 2000  # ms between two fixes, and from the start to the first and the last to the end
MOST_UNKNOWN = 2  # fixes of a recording with a speed or a course of -1
LONGEST, SPARE = 60.0, 2.0  # s of a video; s that it is longer than what is used
FASTEST = 150.0  # m/s


@DATASETS.register_module()
class BDDDriving(DrivingClips):
    """Clips of BDD's videos with `actions`; see `DrivingClips` for the other arguments.

    Each epoch of a training takes one clip of each video, from anywhere in it. Targets hold the speed alone.

    Args:
        stride: frames between the starts of two clips; in training one clip a video by default.
        seconds: of each video that are used, from its start.
    """

    METAINFO = dict(DrivingClips.METAINFO, rate=HZ / STEP, classes=ACTIONS,
                    palette=((90, 200, 90), (235, 90, 80), (80, 150, 255), (250, 190, 60)),
                    camera=dict(width=1280, height=720, focal=1000, height_above_ground=1.4, pitch=-1.0, forward=1.5))
    HELD_OUT = False
    STEP = STEP

    def __init__(self, data_root: str | Path = 'data/bdd', split: str = 'train', clip_length: int = 10,
                 stride: int | None = None, input_size: Sequence[int] = (160, 160), memory: float = 4.0,
                 pipeline: Sequence[dict | Callable] = (), seed: int = 0, seconds: float = 36.0) -> None:
        check_positive('BDDDriving', seconds=seconds)
        self.seconds = seconds
        self._video: Video | None = None
        if stride is None and split == 'train':
            stride = max(round(seconds * HZ) // STEP, clip_length)
        super().__init__(data_root, split, clip_length, stride, input_size, 0.05, memory, pipeline, seed)

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _video=None)  # an open video stays in its process

    def list_recordings(self) -> list[Recording]:
        folders = ((self.data_root / self.split / 'videos', self.data_root / self.split / 'info'),
                   (self.data_root / 'videos' / self.split, self.data_root / 'info/100k' / self.split))
        videos, infos = next((pair for pair in folders if pair[0].is_dir()), folders[0])
        paths = sorted(p for p in videos.glob('*') if p.suffix.lower() in ENDINGS and not p.name.startswith('.'))
        if not paths or not infos.is_dir():
            raise missing_root(infos if paths else videos / '*.mov', self.data_root, f'videos and info of the '
                               f'{self.split} split of BDD', LAYOUT, DOWNLOAD)
        found, reasons = [], {}
        for path in paths:
            info = infos / f'{path.stem}.json'
            if not info.is_file():
                reasons[path] = 'no info'
                continue
            record = read_json(info, 'the info of a video')
            reason = rejection(record, info, self.seconds)
            if reason:
                reasons[info] = reason
                continue
            found.append(self._recording(path, record))
        if reasons:
            some = {reason: path.name for path, reason in reasons.items()}
            told = '; '.join(f'{count:,} with {reason} (such as {some[reason]})'
                             for reason, count in Counter(reasons.values()).most_common())
            if not found:
                first = next(iter(reasons))
                raise DataError(f'{first}: {reasons[first]}, and none of {len(paths):,} videos can be used ({told}), '
                                'expected GPS of the whole video. Unpack the info that belongs to these videos.')
            print_log(f'{self.data_root}: {len(reasons):,} of {len(paths):,} videos of the {self.split} split are left '
                      f'out: {told}.', 'current', logging.WARNING)
        return found

    def _recording(self, video: Path, record: dict) -> Recording:
        count = round(self.seconds * HZ)
        targets = np.full((count, 3), np.nan, np.float32)
        velocities = velocities_of(record, count)
        targets[:, 2] = np.hypot(*velocities.T)
        return Recording(video.stem, [f'{k:06d}' for k in range(count)], np.arange(count) / HZ, targets,
                         Source(str(video), velocities))

    def more(self, recording: Recording, steps: np.ndarray, phase: int) -> dict[str, np.ndarray]:
        """The actions of the frames."""
        return dict(actions=actions_of(recording.source.velocities[phase::STEP], HZ / STEP)[steps])

    def read_frames(self, recording: Recording, indices: Sequence[int]) -> list[np.ndarray]:
        path, pid = recording.source.video, os.getpid()  # a forked worker opens its own
        found = {}
        for index in sorted(set(indices)):
            video = self._video
            if video is None or video.key != (pid, path) or video.position > video.number(index):
                self._video = Video(path, (pid, path))
            found[index] = self._video.read(index)
        return [found[index] for index in indices]


class Source(NamedTuple):
    """Where the frames of a recording come from: its video, and (N, 2) velocities east and north [m/s] at 15 Hz."""

    video: str
    velocities: np.ndarray


class Video:
    """A video whose frames are read in order of time.

    Args:
        path: of the file.
        key: by which the owner knows it.

    Raises:
        DataError: it cannot be opened.
    """

    def __init__(self, path: str, key: Any = None) -> None:
        self.path, self.key, self.position = path, key, 0
        sys.audit('open', path, 'r', 0)  # the library in C says nothing of it; tools/benchmark.py fuzz listens
        self.capture = open_video(path)
        self.rate = self.capture.get(cv2.CAP_PROP_FPS)
        if not self.capture.isOpened() or not 1 <= self.rate <= 1000:
            size = Path(path).stat().st_size if Path(path).is_file() else 0
            raise DataError(f'{path}: {size:,} bytes of which no frame can be read, expected a video. Copy it again.')

    def number(self, index: int) -> int:
        """Which frame of the file is shown at `index` / 15 s."""
        return round(index * self.rate / HZ)

    def read(self, index: int) -> np.ndarray:
        """The frame at `index` / 15 s, (H, W, 3) uint8 RGB.

        Raises:
            DataError: the video ends before it.
        """
        number = self.number(index)
        while self.position <= number and self.capture.grab():
            self.position += 1
        good, frame = self.capture.retrieve() if self.position > number else (False, None)
        if not good or frame is None:
            raise DataError(f'{self.path}: ends after {self.position:,} frames ({self.position / self.rate:.1f} s), '
                            f'expected frame {number:,} ({index / HZ:.1f} s) too. It is truncated or damaged; copy it '
                            'again, or move it away.')
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def rejection(record: dict, where: str | Path, seconds: float = 36.0) -> str:
    """Why a recording is not used, an empty text where it is.

    Args:
        record: of the JSON.
        where: the file, for messages.
        seconds: of the video that are used.

    Raises:
        DataError: a time, speed or course that is no number.
    """
    locations = record.get('locations')
    if not isinstance(locations, list) or not locations:
        return 'no locations'
    start, end = (_value(record.get(key), key, where) for key in ('startTime', 'endTime'))
    fixes = _fixes(locations, where)
    if not seconds + SPARE <= (end - start) / 1000 <= LONGEST:
        return f'a length outside {seconds + SPARE:g} to {LONGEST:g} s'
    unknown = fixes[:, 1:] == -1
    if unknown.any(axis=1).sum() > MOST_UNKNOWN:
        return f'more than {MOST_UNKNOWN} fixes without speed or course'
    if (unknown[1:] & unknown[:-1]).any():
        return 'two fixes in a row without speed, or without course'
    steps = np.diff(fixes[:, 0])
    if (steps == 0).any():
        return 'two equal time stamps'
    if (steps < 0).any():
        return 'time stamps out of order'
    if (steps > GAP).any():
        return f'a gap of more than {GAP} ms'
    if fixes[0, 0] - start > ENDS or end - fixes[-1, 0] > ENDS:
        return f'no fix within {ENDS} ms of its start or end'
    return ''


def _fixes(locations: list, where: str | Path) -> np.ndarray:
    """(L, 3) float64 time stamp [ms], speed [m/s] and course [deg]."""
    rows = []
    for k, fix in enumerate(locations):
        if not isinstance(fix, dict):
            raise DataError(f'{where}: location {k} is {str(fix)[:40]}, expected timestamp, speed and course. Copy the '
                            'file again.')
        rows.append([_value(fix.get(key), f'{key} of location {k}', where) for key in ('timestamp', 'speed', 'course')])
    fixes = np.array(rows)
    bad = np.flatnonzero((fixes[:, 1] != -1) & ((fixes[:, 1] < 0) | (fixes[:, 1] > FASTEST)))
    if len(bad):
        raise DataError(f'{where}: speed of location {bad[0]} is {fixes[bad[0], 1]:g} m/s, expected 0 to {FASTEST:g}, '
                        'or -1 where it is not known. Move the recording away.')
    return fixes


def _value(value: Any, name: str, where: str | Path) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        raise DataError(f'{where}: {name} is {str(value)[:40]!r}, expected a number. Copy the file again, or move it '
                        'away.')
    return float(value)


def velocities_of(record: dict, count: int) -> np.ndarray:
    """Velocities (N, 2) east and north [m/s] at 15 Hz from the start of the video.

    A fix without speed takes that of the next one, one without course the next one's; the last one those of the one
    before it. A car that stands often has a speed, of 0, and no course.

    Args:
        record: of the JSON, one that is not rejected.
        count: N.
    """
    fixes = _fixes(record['locations'], '')
    row = np.arange(len(fixes))
    speed, course = (column[np.where(column != -1, row, np.where(row < len(row) - 1, row + 1, row - 1))]
                     for column in fixes[:, 1:].T)
    course = np.radians(course)
    times, at = np.arange(count) / HZ, (fixes[:, 0] - record['startTime']) / 1000
    return np.stack([np.interp(times, at, speed * turn(course)) for turn in (np.sin, np.cos)], 1)


def actions_of(velocities: np.ndarray, rate: float) -> np.ndarray:
    """What the driver does at each frame.

    Slower than 2 m/s is a stop, and so is a frame behind a standstill, which has no heading. A heading that changes by
    more than a degree since the frame before is a turn, by 35 or more it is bad GPS and counts as straight; straight
    on, but slowing down by more than 1 m/s^2, is a stop, too. The first frame does what the second one does.

    Args:
        velocities: (N, 2) east and north [m/s], N of 2 or more.
        rate: frames a second.

    Returns:
        (N,) int64 of `ACTIONS`.
    """
    speed = np.hypot(*velocities.T)
    stop = (speed < SLOW) | (np.roll(speed, 1) < STILL)  # the first frame is overwritten below
    heading = np.arctan2(*velocities.T)
    change = np.degrees((np.diff(heading, prepend=heading[0]) + np.pi) % (2 * np.pi) - np.pi)
    braking = np.diff(speed, prepend=speed[0]) * rate < BRAKE
    turning = (np.abs(change) > TURN) & (np.abs(change) < JUMP)
    straight = np.abs(change) <= TURN
    actions = np.select([stop, turning & (change > 0), turning, straight & braking], [1, 3, 2, 1], 0)
    actions[0] = actions[1]
    return actions.astype(np.int64)
