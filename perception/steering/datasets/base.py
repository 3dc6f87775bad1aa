"""What all driving data sets share: recordings cut into clips, and frames that are decoded once and kept small."""
import logging
import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.logging import print_log

from perception.common.dataset import SeededDataset
from perception.common.formats.text import read_json
from perception.common.structures import SteeringSample
from perception.utils.checks import check_choice, check_positive, rows_and_columns
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path

TARGETS = ('angle', 'torque', 'speed')
CLIP_LENGTH = 10  # frames, where a config names none
CONDITIONS = 'conditions.json'  # of simulated data: light of each recording


class Recording(NamedTuple):
    """One drive without a gap, N frames in order of time.

    Attributes:
        name: unique in the data set.
        frames: N names, unique in the recording.
        times: (N,) float64 [s].
        targets: (N, 3) float32, see SteeringSample.
        source: what `read_frames` finds the frames by.
        image_paths: N files, or none.
        public: (N,) int64, see SteeringSample, or None.
        condition: see SteeringSample.
    """
    name: str
    frames: Sequence[str]
    times: np.ndarray
    targets: np.ndarray
    source: Any
    image_paths: Sequence[str] = ()
    public: np.ndarray | None = None
    condition: str = ''

    def part(self, start: int, stop: int, name: str | None = None) -> 'Recording':
        """The frames from `start` up to `stop` as a recording of their own."""
        cut = slice(start, stop)
        return self._replace(
            name=name or self.name, frames=self.frames[cut], times=self.times[cut], targets=self.targets[cut],
            source=self.source[cut], image_paths=self.image_paths[cut],
            public=None if self.public is None else self.public[cut])


class DrivingClips(SeededDataset):
    """Base of the readers. A reader fills `SPLITS` and writes `list_recordings` and `read_frames`.

    `dataset[i]` or `dataset[epoch, i]` gives `dict(inputs=dict(clip=(T, 3, H, W) uint8 RGB), data_samples=
    SteeringSample)`. The pipeline sees `clip` (T, H, W, 3) uint8, `targets` (T, 3) and, where there are any, `actions`.

    A recording is cut into consecutive clips; none crosses into another. The last one is moved back to end with the
    recording, and only its new frames are `scored`. In training each clip begins up to a `stride` later, another one in
    each epoch. Frames are decoded once and kept at `input_size`, in memory that the workers of a loader share.

    Args:
        data_root: folder of the data set; a leading `data` gives way to the variable PERCEPTION_DATA.
        split: 'train', 'val' or 'test'.
        clip_length: T, frames of a clip.
        stride: frames between the starts of two clips; `clip_length` by default. In val and test it cannot be more.
        input_size: (H, W) of the frames, which are resized bilinearly.
        holdout: share at the end of each training recording that is the val split, where the data set has none.
        memory: GB for frames; what does not fit in is decoded whenever it is needed.
        pipeline: augmentations, callables or their configs, applied in turn.
        seed: of the augmentation.
        rate: frames a second of these recordings, at which videos are seen and films run; None for those of METAINFO.

    Raises:
        ConfigError: an unknown split, a length, size or share that cannot be.
        DataError: missing or damaged files, or a recording shorter than a clip.
    """

    METAINFO = dict(targets=TARGETS)
    SPLITS: tuple[str, ...] = ('train', 'val', 'test')
    HELD_OUT = True  # whether val is a part of the training recordings
    INPUT_SIZE = (160, 160)  # (H, W) of frames where a config names none
    STEP = 1  # every so many-th frame of a recording is one of a clip; in training any may be the first

    def __init__(self, data_root: str, split: str = 'train', clip_length: int = CLIP_LENGTH, stride: int | None = None,
                 input_size: Sequence[int] = INPUT_SIZE, holdout: float = 0.05, memory: float = 4.0,
                 pipeline: Sequence[dict | Callable] = (), seed: int = 0, rate: float | None = None) -> None:
        name = type(self).__name__
        if rate is not None:
            check_positive(name, rate=rate)
        check_choice(f'{name}: split', split, self.SPLITS)
        stride = clip_length if stride is None else stride
        check_positive(name, clip_length=clip_length, stride=stride, holdout=holdout)
        if stride > clip_length and split != 'train':
            raise ConfigError(f'{name}: stride={stride} for clips of {clip_length} frames, expected at most as many, '
                              'so that each frame is scored. Leave it out.')
        if holdout > 0.5 or memory < 0:
            raise ConfigError(f'{name}: holdout={holdout}, memory={memory}, expected a share up to 0.5 and 0 GB or '
                              'more. Correct them.')
        super().__init__(pipeline, seed)
        self.data_root, self.split, self.clip_length, self.stride = data_path(data_root), split, clip_length, stride
        self.input_size, self.holdout = rows_and_columns(f'{name}: input_size', input_size), holdout
        self.metainfo = dict(self.METAINFO, data_root=str(self.data_root))
        if rate is not None:
            self.metainfo['rate'] = rate
        conditions = read_conditions(self.data_root)
        self.recordings = self._cut([recording._replace(condition=conditions.get(recording.name, ''))
                                     for recording in self.list_recordings()])
        self.metainfo['num_frames'] = sum(len(recording.frames) for recording in self.recordings)
        self.clips = [(r, start, fresh) for r, recording in enumerate(self.recordings)
                      for start, fresh in self.windows(len(recording.frames) // self.STEP)]
        self.offsets = np.concatenate([[0], np.cumsum([len(recording.frames) for recording in self.recordings])])
        self.kept = KeptFrames(int(self.offsets[-1]), self.input_size, memory)
        self._epoch = 0

    @classmethod
    def describe(cls, config: Mapping) -> dict[str, Any]:
        """See SeededDataset; with the `rate` of the config."""
        return dict(cls.METAINFO, **{key: config[key] for key in ('rate',) if config.get(key) is not None})

    def list_recordings(self) -> list[Recording]:
        """All recordings of the split, or of the training where val is a part of it.

        Raises:
            DataError: missing or damaged files.
        """
        raise NotImplementedError(f'{type(self).__name__} has no list_recordings; write one.')

    def read_frames(self, recording: Recording, indices: Sequence[int]) -> list[np.ndarray]:
        """Some frames of a recording, (H0, W0, 3) uint8 RGB each; they may be of the size that is asked for already.

        Raises:
            DataError: one cannot be read.
        """
        raise NotImplementedError(f'{type(self).__name__} has no read_frames; write one.')

    def _cut(self, recordings: list[Recording]) -> list[Recording]:
        """The part of each recording that belongs to the split, once it is sure that a clip fits into it."""
        for recording in recordings:
            self._check_length(recording, self.clip_length)
        if not self.HELD_OUT or self.split == 'test':
            return recordings
        result = []
        for recording in recordings:
            held = max(round(self.holdout * len(recording.frames)), self.clip_length)
            self._check_length(recording, held + self.clip_length)
            border = len(recording.frames) - held
            result.append(recording.part(*((0, border) if self.split == 'train' else (border, None))))
        return result

    def _check_length(self, recording: Recording, least: int) -> None:
        count = len(recording.frames) // self.STEP
        if count < least:
            raise DataError(f'{self.data_root}: recording {recording.name} has {count} frames, '
                            f'expected {least} or more for clips of {self.clip_length} in the {self.split} split. Take '
                            'a smaller clip_length, or move the recording away.')

    @property
    def least(self) -> int:
        """Frames that a piece of a recording needs."""
        return self.clip_length * (2 if self.HELD_OUT and self.split != 'test' else 1)

    def whole_pieces(self, recording: Recording) -> list[Recording]:
        """The pieces of a recording between its gaps; those shorter than clips need are left out, unless all are."""
        pieces = split_at_gaps(recording)
        good = [piece for piece in pieces if len(piece.frames) >= self.least]
        if good and len(good) < len(pieces):
            left = sum(len(piece.frames) for piece in pieces) - sum(len(piece.frames) for piece in good)
            print_log(f'{self.data_root}: {left:,} of {len(recording.frames):,} frames of {recording.name} are left '
                      f'out, in {len(pieces) - len(good)} of {len(pieces)} pieces between gaps of more than a second, '
                      f'shorter than {self.least} frames.', 'current', logging.WARNING)
        return good or pieces

    def windows(self, count: int) -> list[tuple[int, int]]:
        """Start of each clip in a recording of `count` frames, and the first frame of it that no earlier one has."""
        starts = list(range(0, count - self.clip_length + 1, self.stride))
        if self.split != 'train' and starts[-1] + self.clip_length < count:
            starts.append(count - self.clip_length)
        ends = [0, *(start + self.clip_length for start in starts[:-1])]
        return list(zip(starts, ends))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        self._epoch = key[0] if isinstance(key, (tuple, list)) else 0
        return super().__getitem__(key)

    def read(self, index: int) -> dict:
        """A clip with what is known of it.

        Raises:
            DataError: a frame that cannot be read.
        """
        number, start, fresh = self.clips[index]
        recording = self.recordings[number]
        phase = 0
        if self.split == 'train':
            rng = np.random.default_rng([self.seed, self._epoch, index, 1])
            latest = len(recording.frames) // self.STEP - self.clip_length
            start = fresh = start + int(rng.integers(min(self.stride, latest - start + 1)))
            phase = int(rng.integers(self.STEP))
        steps = np.arange(start, start + self.clip_length)
        indices = self.STEP * steps + phase
        frames = [recording.frames[i] for i in indices]
        info = dict(sample_id=f'{recording.name}/{frames[0]}', recording=recording.name, frames=frames,
                    image_paths=[recording.image_paths[i] for i in indices] if recording.image_paths else [],
                    timestamps=recording.times[indices].tolist(), condition=recording.condition)
        clip = self.small_frames(number, indices)
        info['source'] = info['image_paths'] or clip
        sample = dict(clip=clip, targets=recording.targets[indices].copy(),
                      first=steps == 0, scored=steps >= fresh, sample_id=info['sample_id'], info=info,
                      **self.more(recording, steps, phase))
        return sample if recording.public is None else dict(sample, public=recording.public[indices])

    def more(self, recording: Recording, steps: np.ndarray, phase: int) -> dict[str, np.ndarray]:
        """What a data set knows beside the targets, such as `actions` (T,), of the frames `STEP * steps + phase`."""
        return {}

    def small_frames(self, number: int, indices: np.ndarray) -> np.ndarray:
        """Frames of the recording with that number at `input_size`, (T, H, W, 3) uint8, decoded where not kept."""
        at = self.offsets[number] + indices
        clip = self.kept.get(at)
        missing = [i for i, frame in enumerate(clip) if frame is None]
        if missing:
            found = self.read_frames(self.recordings[number], [int(indices[i]) for i in missing])
            for i, frame in zip(missing, found):
                if frame.shape[:2] != self.input_size:
                    frame = cv2.resize(frame, self.input_size[::-1], interpolation=cv2.INTER_LINEAR)
                clip[i] = frame
                self.kept.put(int(at[i]), frame)
        return np.stack(clip)

    def pack(self, sample: dict, index: int) -> dict:
        """A clip as the tensors that the collate function takes."""
        truth = SteeringSample(metainfo=sample['info'])
        for key, kind in (('targets', np.float32), ('actions', np.int64), ('first', bool), ('scored', bool),
                          ('public', np.int64), ('flow', np.float32)):
            if key in sample:
                truth.set_field(torch.from_numpy(np.ascontiguousarray(sample[key], kind)), key)
        clip = torch.from_numpy(np.ascontiguousarray(sample['clip'].transpose(0, 3, 1, 2)))
        return dict(inputs=dict(clip=clip), data_samples=truth)


class KeptFrames:
    """Small frames by their number, in memory that forked workers share and that is taken as it fills.

    Args:
        count: of all frames.
        size: (H, W).
        memory: GB; frames from that number on that do not fit in are not kept.
    """

    def __init__(self, count: int, size: tuple[int, int], memory: float) -> None:
        self.count, self.size, self.memory = count, size, memory
        self.room = int(min(count, memory * 1e9 / (size[0] * size[1] * 3)))
        if 0 < self.room < count:
            print_log(f'{self.room:,} of {count:,} frames of {size[0]} x {size[1]} pixels are kept in {memory:g} GB of '
                      'memory; the others are decoded in each epoch.', 'current', logging.INFO)
        self._make()

    def _make(self) -> None:
        shape = (self.room, *self.size, 3)  # an anonymous map is not bounded by /dev/shm as shared tensors are
        size = int(np.prod(shape))
        self.pixels = np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8)[:size].reshape(shape)
        self.known = np.frombuffer(mmap.mmap(-1, max(self.room, 1)), np.bool_)[:self.room]

    def __getstate__(self) -> dict:
        return dict(count=self.count, size=self.size, memory=self.memory, room=self.room)

    def __setstate__(self, state: dict) -> None:  # a copy, or a process that was not forked, begins anew
        self.__dict__.update(state)
        self._make()

    def get(self, at: np.ndarray) -> list[np.ndarray | None]:
        """The frames with these numbers, None where one is not there."""
        return [self.pixels[i] if i < self.room and self.known[i] else None for i in at]

    def put(self, at: int, frame: np.ndarray) -> None:
        """Keep a frame where there is room."""
        if at < self.room:
            self.pixels[at] = frame
            self.known[at] = True  # after its pixels: another worker may look


def check_times(times: np.ndarray, rows: Sequence[str]) -> None:
    """See that time goes on from each frame to the next.

    Args:
        times: (N,).
        rows: `file:row` of each, for the message.

    Raises:
        DataError: it does not.
    """
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if len(wrong):
        k = int(wrong[0]) + 1
        what = 'the same time stamp as' if times[k] == times[k - 1] else 'an earlier time stamp than'
        raise DataError(f'{rows[k]}: {what} the frame before it ({len(wrong):,} such rows), expected frames in order '
                        'of time, each once. Sort the file and remove what is there twice.')


def split_at_gaps(recording: Recording, gap: float = 1.0) -> list[Recording]:
    """The pieces of a recording between which no frame came for more than `gap` seconds; pieces are numbered from 1."""
    borders = [0, *(np.flatnonzero(np.diff(recording.times) > gap) + 1).tolist(), len(recording.frames)]
    if len(borders) == 2:
        return [recording]
    return [recording.part(start, stop, f'{recording.name}_{k}')
            for k, (start, stop) in enumerate(zip(borders, borders[1:]), 1)]


def read_conditions(root: Path) -> dict[str, str]:
    """Light of each recording of simulated data; empty for others.

    Raises:
        DataError: a file of that name that says something else.
    """
    if not (root / CONDITIONS).is_file():
        return {}
    found = read_json(root / CONDITIONS)
    if not all(isinstance(value, str) for value in found.values()):
        raise DataError(f'{root / CONDITIONS}: {str(found)[:60]}, expected the light of each recording. Remove it, or '
                        'write the simulated data again.')
    return found


def missing_root(path: Path, root: Path, name: str, layout: str, download: str) -> DataError:
    """The error for a data set that is not there.

    Args:
        path: what is missing.
        root: of the data set.
        name: of the data set.
        layout: how its official files lie.
        download: official page.
    """
    return DataError(f'{root}: no {path}, expected {name} in its official layout ({layout}). Download it from '
                     f'{download} and unpack or link it there, set PERCEPTION_DATA to the folder that replaces '
                     'data/, or try simulated data with `python tools/train.py CONFIG --mini`.')
