"""Steers by images, videos and cameras, and draws what the net says."""
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.common.dataset import build_pipeline, run_pipeline
from perception.common.formats.images import SUFFIXES, read_image
from perception.common.predictor import Predictor
from perception.common.structures import SteeringSample
from perception.common.visual import canvas
from perception.common.visual.video import VIDEOS, find_files, frame_rate, read_frames
from perception.steering.datasets.base import CLIP_LENGTH, TARGETS
from perception.steering.draw import Moment, draw_moment, draw_wheel
from perception.steering.models.stream import Stream
from perception.utils.checkpoint import atomic_path
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

SHOWN = 240  # pixels that a frame is wide at least where several stand side by side
RATE, MOST_PAST = 10.0, 600  # frames a second where nothing tells it, and how many of them the curve knows


class VideoFrame(NamedTuple):
    """A frame of a video or a camera.

    Attributes:
        video: which it belongs to.
        number: of the frame, from 0.
        image: (H, W, 3) uint8 RGB.
        rate: frames a second.
        clips: images of the clips that it is answered in, as small as the net sees them; none where frames are answered
            as they come.
        every: images from one of a clip to its next, so that there are as many clips, one beside the other.
        place: of its own image among those of the clips.
    """

    video: str
    number: int
    image: np.ndarray
    rate: float = RATE
    clips: Sequence[np.ndarray] = ()
    every: int = 1
    place: int = 0


Source = str | Path | np.ndarray | Tensor | VideoFrame | Sequence[str | Path]


class SteeringPredictor(Predictor):
    """Takes frames in order of time: image files, arrays (H, W, 3) uint8 RGB, or frames of a video or camera.

    `sources` takes an image, a folder of images, a video, or a capture device: its number or `/dev/videoN`. Images and
    videos are cut into clips as a test cuts a recording, so that their frames are answered as those that are scored.

    Frames of a capture device, with `live` those of a video too, and files and arrays that come one by one are answered
    as they come. It keeps what it needs of earlier frames: with a net that looks back only each frame costs the work of
    one, see `Stream`. Another video, another folder of images and `begin` start anew; so does `restart`, for arrays. A
    list of image files, or an array (T, H, W, 3), is a clip of its own, predicted as in a test; it changes nothing of a
    video that runs.

    Args:
        model: a SteeringNet or ActionNet in evaluation mode, or None.
        data: config of the data set, whose `input_size` frames are brought to.
        window: frames of a clip, and that a net which sees ahead is shown of those that came; 0 takes those of the
            data set's clips.
        every: the net sees each frame after those so many, twice so many ... before it, for sources with more frames a
            second than it learned from; 0 takes that of a video from its frames a second and those of the data set,
            and 1 of all else, whose rate is not known.
        frames: so many of a capture device are taken, 0 for no end.
        live: answer the frames of a video as they come, as if it were a capture device; so is a net answered that
            carries its state from clip to clip.

    Raises:
        ConfigError: numbers out of their range.
    """

    noun = 'frame'
    needs_net = True  # its size, and whether it goes on from frame to frame
    reads = (*SUFFIXES, *VIDEOS)
    saves = ('json', 'npy')
    cuts = True  # images and videos into clips

    def __init__(self, model: nn.Module | None, data: dict, window: int = 0, every: int = 0, frames: int = 0,
                 live: bool = False) -> None:
        super().__init__(model, data)
        if min(window, every, frames) < 0:
            raise ConfigError(f'SteeringPredictor: window={window}, every={every}, frames={frames}, expected numbers '
                              'of 0 or more. Correct them.')
        self.every, self.frames, self.pipeline = every, frames, build_pipeline(data.get('pipeline', ()))
        self.window = window or data.get('clip_length') or CLIP_LENGTH
        self.live = live or not self.cuts or getattr(model, 'carry_state', False)
        self.stream = None if model is None else Stream(model, self.window, max(every, 1))
        self.restart()

    def restart(self) -> None:
        """A new video begins with the next frame."""
        self._video: str | None = None
        self._past: list[Moment] = []
        self._answered: tuple[Sequence[np.ndarray], Tensor] | None = None
        if self.stream is not None:
            self.stream.restart()

    def begin(self, path: str | Path, view: str) -> None:
        """See Predictor; a new video begins."""
        self.restart()

    def sources(self, path: str | Path) -> Iterator[tuple[str, Source]]:
        """Name and source of the image, of each image of a folder, or of each frame of a video or capture device."""
        if self.stream is not None:
            self.stream.every = self.every or self._apart(path)
        self.restart()
        device = _device(path)
        if device is not None:
            for number, image in enumerate(_captured(device, str(path), self.frames)):
                yield f'camera{device}_{number:06d}', VideoFrame(f'camera{device}', number, image)
            return
        rate, number = frame_rate(path, default=self.meta.get('rate') or RATE), itertools.count()
        clips, place = (), 0
        if self.stream is not None and not self.live:  # read twice: clips of large frames would fill gigabytes
            span = self.window * self.stream.every
            small = (self._small(image) for _, image in _frames(path) if isinstance(image, np.ndarray))
        for name, image in _frames(path):
            if isinstance(image, Path):
                yield name, image
            elif self.stream is None or self.live:
                yield name, VideoFrame(str(path), next(number), image, rate)
            else:
                if place == len(clips):
                    some = list(itertools.islice(small, span))
                    clips = (*clips, *some)[-span:]  # the last one is moved back, as in a test
                    place = len(clips) - len(some)
                yield name, VideoFrame(str(path), next(number), image, rate, clips, self.stream.every, place)
                place += 1

    def _apart(self, path: str | Path) -> int:
        """How many frames of a video pass in the time from one frame of the data set to the next."""
        own = self.meta.get('rate')
        found = frame_rate(path, default=0) if own else 0
        every = max(1, round(found / own)) if own else 1
        if every > 1:
            print_log(f'{path}: {found:g} frames a second for a net that learned from {own:g}, which sees each of them '
                      f'after those {every}, {2 * every} ... before it. Set --every to change that.', 'current')
        return every

    def predict(self, sources: Sequence[Source]) -> list[SteeringSample]:
        """What some frames come to, each after those before it.

        Args:
            sources: frames in order of time, or clips.

        Returns:
            their samples, on the CPU, with `pred_targets` (T, 3) or `pred_actions` (T, 4), T = 1 of a frame.

        Raises:
            DataError: a frame that cannot be read, or is no colour image.
        """
        read = [self._read(source) for source in sources]  # all of them: an error leaves the video as it was
        samples, device = [], next(self.model.parameters()).device
        for source, (video, frames) in zip(sources, read):
            frames = frames.to(device)
            if video is None:
                rows = self._clip(frames)
            elif isinstance(source, VideoFrame) and source.clips:
                if self._answered is None or self._answered[0] is not source.clips:
                    whole = self._resized(source.clips).to(device)
                    found = [self._clip(whole[k::source.every]) for k in range(min(source.every, len(whole)))]
                    rows = found[0].new_empty(len(whole), found[0].shape[1])
                    for k, part in enumerate(found):
                        rows[k::source.every] = part
                    self._answered = source.clips, rows
                rows = self._answered[1][source.place, None]
            else:
                if self._video is not None and video != self._video:
                    self.stream.restart()
                self._video = video
                rows = self.stream(frames[0])[None]
            sample = SteeringSample(metainfo=dict(sample_id=source_name(source)))
            sample.set_field(rows.float().cpu(), f'pred_{self.model.output_name}')
            samples.append(sample)
        return samples

    @torch.no_grad()
    def _clip(self, frames: Tensor) -> Tensor:
        inputs = dict(clip=self.model.data_preprocessor.normalise(frames)[None])
        return self.model.in_units(self.model(inputs)['outputs'])[0]

    def _read(self, source: Source) -> tuple[str | None, Tensor]:
        """The video that a source goes on with, None of a clip, and its frames (T, 3, H, W) uint8 as the net sees them.

        Raises:
            DataError: see `predict`.
        """
        if isinstance(source, VideoFrame):
            return source.video, self._resized([source.image])
        if isinstance(source, (str, Path)):
            return str(Path(source).absolute().parent), self._resized([read_image(source, upright=True)])
        if isinstance(source, (list, tuple)):
            return None, self._resized([read_image(path, upright=True) for path in source])
        array = source.numpy(force=True) if isinstance(source, Tensor) else np.asarray(source)
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3:
            raise DataError(f'SteeringPredictor: an array {array.dtype} of shape {array.shape}, expected uint8 '
                            '(H, W, 3) of a frame or (T, H, W, 3) of a clip, red first. Convert it.')
        return ('', self._resized([array])) if array.ndim == 3 else (None, self._resized(list(array)))

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of a data set's actions."""
        return self.meta['classes']

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) that frames are brought to."""
        return self.model.input_size

    def _small(self, image: np.ndarray) -> np.ndarray:
        size = self.input_size
        return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)

    def _resized(self, images: Sequence[np.ndarray]) -> Tensor:
        """Frames as the net is tested with them, (T, 3, H, W) uint8: resized, then through the data set's pipeline."""
        clip = np.stack(list(map(self._small, images)))
        if self.pipeline:
            unknown = np.full((len(clip), len(TARGETS)), np.nan, np.float32)
            clip = run_pipeline(self.pipeline, dict(clip=clip, targets=unknown), self.meta.get('classes'))['clip']
        return torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 3, 1, 2)))

    def save(self, form: str, folder: Path, name: str, source: Source, sample: SteeringSample) -> Path:
        """Write what frames come to.

        Args:
            form: 'json', a list with an object for each frame, `angle` [deg], `torque` and `speed` [m/s], or the
                probability of each action; 'npy', the same as (T, K) float32.
            folder, name, source, sample: see Predictor.

        Returns:
            the file.

        Raises:
            ConfigError: another form.
            DataError: the file cannot be written.
        """
        check_choice('--save-as', form, self.saves)
        kind, rows = _rows(sample)
        path, names = folder / f'{name}.{form}', TARGETS if kind == 'targets' else self.actions
        with atomic_path(path, DataError) as part, open(part, 'wb') as file:
            if form == 'npy':
                np.save(file, rows)
            else:
                file.write(json.dumps([dict(zip(names, np.round(row.astype(float), 5).tolist()))
                                       for row in rows]).encode())
        return path

    def draw(self, source: Source, sample: SteeringSample | None = None, truth: float | None = None,
             title: str = '') -> np.ndarray:
        """The frame, of a clip its last, with path, wheel and angle over time, or with the actions; see `draw_moment`.

        Args:
            source: what the predictor was called with; frames of a video add to its curve.
            sample: what it returned.
            truth: angle of the wheel [deg].
            title: written above it.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        moments = [Moment(0.0)]
        if sample is not None:
            kind, rows = _rows(sample)
            moments = [Moment(0.0, float(row[0]), pred_speed=float(row[2])) if kind == 'targets'
                       else Moment(0.0, probs=row) for row in rows]
        if truth is not None:
            moments[-1] = replace(moments[-1], truth=truth)
        past, rate = (moments, RATE) if not isinstance(source, VideoFrame) else ([*self._past, *moments], source.rate)
        past = [replace(moment, time=k / rate) for k, moment in enumerate(past)]
        if isinstance(source, VideoFrame):
            self._past = past[-MOST_PAST:]
        return draw_moment(frame_image(source), past, self.meta, title or source_name(source))

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """See Predictor; some frames of a clip beside each other with the true wheel, or the true action."""
        clip, known = sample['inputs']['clip'], sample['data_samples']
        shown = np.unique(np.linspace(0, len(clip) - 1, 4).round().astype(int))
        panels = []
        for i in shown:
            image = at_least(clip[i].permute(1, 2, 0).numpy(), SHOWN)
            if 'actions' in known:
                action = int(known.actions[i])
                panels.append(canvas.titled(image, self.actions[action] if action < len(self.actions) else 'unknown'))
            else:
                angle = float(known.targets[i, 0]) if 'targets' in known else np.nan
                word = f'{angle:+.1f} deg' if np.isfinite(angle) else 'unknown'
                panels.append(canvas.titled(np.concatenate([image, draw_wheel(image.shape[1], truth=angle)]), word))
        return canvas.titled(canvas.beside(panels), title)


def at_least(image: np.ndarray, width: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 that is enlarged to a width where it is smaller, so that words have room beside it."""
    scale = max(width / image.shape[1], 1)
    return cv2.resize(np.ascontiguousarray(image), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)


def _rows(sample: SteeringSample) -> tuple[str, np.ndarray]:
    """'targets' or 'actions', and the predictions (T, K) of a sample."""
    kind = 'targets' if 'pred_targets' in sample else 'actions'
    return kind, sample.get(f'pred_{kind}').numpy(force=True).astype(np.float32)


def source_name(source: Source) -> str:
    """What a source is called."""
    if isinstance(source, VideoFrame):
        return f'{Path(source.video).name}_{source.number:06d}'
    if isinstance(source, (list, tuple)):
        return f'{Path(source[0]).stem} .. {Path(source[-1]).stem}'
    return Path(source).stem if isinstance(source, (str, Path)) else 'frame'


def frame_image(source: Source) -> np.ndarray:
    """Picture of a source, of a clip its last frame, (H, W, 3) uint8 RGB."""
    if isinstance(source, VideoFrame):
        return source.image
    if isinstance(source, (list, tuple)):
        source = source[-1]
    if isinstance(source, (str, Path)):
        return read_image(source, upright=True)
    array = source.numpy(force=True) if isinstance(source, Tensor) else np.asarray(source)
    return array if array.ndim == 3 else array[-1]


def _frames(path: str | Path) -> Iterator[tuple[str, np.ndarray | Path]]:
    """Those of `read_frames`; of an image of a folder that cannot be read its path, so that the others are answered."""
    files = find_files(path, SUFFIXES, 'an image, a video or a folder of images')
    for file in files:
        try:
            yield from read_frames(file)
        except DataError:
            if len(files) == 1:
                raise
            yield file.stem, file


def _device(path: str | Path) -> int | None:
    """Number of a capture device that is named so, None where it is none."""
    text = str(path)
    if text.startswith('/dev/video') and text[10:].isdigit():
        return int(text[10:])
    return int(text) if text.isdigit() and not Path(text).exists() else None


def _captured(device: int, name: str, count: int) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 RGB of a capture device until it ends, or `count` of them.

    Raises:
        DataError: it gives none.
    """
    camera, taken = cv2.VideoCapture(device), 0
    try:
        while (not count or taken < count) and (read := camera.read())[0]:
            yield np.ascontiguousarray(read[1][..., ::-1])
            taken += 1
    finally:
        camera.release()
    if not taken:
        raise DataError(f'{name}: no frame came from this capture device, expected a camera. Check that it is plugged '
                        'in and that no other program has it.')
