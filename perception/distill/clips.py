"""Teachers of clips: nets for single frames or pairs of frames, flow without a net, and features in files.

What they give is already such as a student can be compared with: few channels, on a small map, for each frame (FM-Net,
transforms of the auxiliary side). Teachers of pairs see each frame with the one before it; the first frame of a clip
has none, its features are zero and do not count.

Shapes: B clips of T frames of H x W pixels; features (B, C, T, h, w).
"""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from perception.common.flow import dis_flows
from perception.distill.cache import FeatureCache, digest, settings_of, weights_digest
from perception.distill.taps import record
from perception.distill.teachers import FrozenTeacher, Teacher
from perception.utils.checks import check_choice, check_positive, rows_and_columns
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path

CACHE = 'work_dirs/features'
INPUTS = ('images', 'pairs')
MAXIMUM = 'max'


def reduce_maps(maps: Tensor, channels: int | Sequence, size: Sequence[int], where: str = 'reduce_maps') -> Tensor:
    """Fewer channels on a map of another size.

    Args:
        maps: (N, C, h, w).
        channels: a number, of which each is the mean of a group of neighbours; or for each the channels that it is the
            largest of, or 'max', the largest of all.
        size: rows and columns.
        where: for messages.

    Returns:
        (N, channels, *size) float32.

    Raises:
        ConfigError: C is no multiple of the number, or a channel is not there.
    """
    maps, count = maps.float(), maps.shape[1]
    if isinstance(channels, int):
        if count % channels:
            raise ConfigError(f'{where}: {count} channels in {channels} groups, expected a multiple. Choose a divisor.')
        maps = maps.unflatten(1, (channels, -1)).mean(2)
    else:
        groups = [range(count) if group == MAXIMUM else group for group in channels]
        if any(not 0 <= i < count for group in groups for i in group):
            raise ConfigError(f'{where}: channels {channels} of {count}, expected 0..{count - 1}. Correct them.')
        maps = torch.stack([maps[:, list(group)].amax(1) for group in groups], 1)
    return F.interpolate(maps, tuple(size), mode='bilinear', align_corners=False, antialias=True)


class FrameFeatures:
    """Mix-in of the teachers that make features of frames or pairs, live or from a cache.

    A subclass sets `paths` (name -> `channels`, `size`), `pairs`, `view`, `cache_gb`, writes `compute`, and `origin`,
    all that its features depend on.
    """

    paths: Mapping[str, Mapping[str, Any]]
    pairs: bool
    view: str
    cache_gb: float
    cache_root: str | Path = CACHE  # folder of the features of all teachers, relative to the project
    _cache: FeatureCache | None = None

    def compute(self, items: Tensor) -> dict[str, Tensor]:
        """Features (N, C, h, w) by their names of items (N, 3, H, W), or (N, 6, H, W) of pairs, uint8 RGB."""
        raise NotImplementedError(f'{type(self).__name__} has no compute; write one.')

    def origin(self) -> str:
        """A text that differs wherever features could."""
        raise NotImplementedError(f'{type(self).__name__} has no origin; write one.')

    def cache(self) -> FeatureCache:
        """The features that are kept of this teacher."""
        if self._cache is None:
            kinds = {name: path['channels'] for name, path in self.paths.items()}
            shapes = {name: (kind if isinstance(kind, int) else len(kind), *self.paths[name]['size'])
                      for name, kind in kinds.items()}
            text = f'{type(self).__name__} {self.origin()} {sorted(map(str, self.paths.items()))} {self.pairs}'
            object.__setattr__(self, '_cache', FeatureCache(self.cache_root, digest([text.encode()]), shapes,
                                                              self.cache_gb))
        return self._cache

    @torch.no_grad()
    def observe(self, batch: dict) -> dict[str, Tensor]:
        """The features of a batch.

        Args:
            batch: its inputs hold `view`, (B, T, 3, H, W) uint8 RGB.

        Returns:
            (B, C, T, h, w) float32 by their names, of pairs zero at the first frame of each clip.

        Raises:
            ConfigError: the inputs have no such view.
        """
        if self.view not in batch['inputs']:
            raise ConfigError(f'{type(self).__name__}: view={self.view!r}, expected one of the inputs '
                              f'{sorted(batch["inputs"])}. Name frames in 0..255.')
        frames = batch['inputs'][self.view]
        found = self._kept(frames) if self.cache_gb else self.compute(self._items(frames))
        found = {name: maps.unflatten(0, (len(frames), -1)).transpose(1, 2) for name, maps in found.items()}
        return {name: F.pad(maps, (0, 0, 0, 0, 1, 0)) for name, maps in found.items()} if self.pairs else found

    def _items(self, frames: Tensor) -> Tensor:
        """Frames (B, T, 3, H, W) as what a teacher sees, clip by clip."""
        return (torch.cat([frames[:, :-1], frames[:, 1:]], 2) if self.pairs else frames).flatten(0, 1)

    def _kept(self, frames: Tensor) -> dict[str, Tensor]:
        """What `compute` gives, as float16, from files where they are there; what is computed is written."""
        cache, clips = self.cache(), frames.cpu().contiguous().numpy()
        names = [[digest([str(frame.shape).encode(), frame]) for frame in clip] for clip in clips]
        if self.pairs:
            names = [[digest([one.encode(), two.encode()]) for one, two in zip(clip, clip[1:])] for clip in names]
        names = [name for clip in names for name in clip]
        rows = {name: cache.read(name) for name in dict.fromkeys(names)}
        absent = {name: i for i, name in enumerate(names) if rows[name] is None}
        if absent:
            with torch.autocast(frames.device.type, enabled=False):  # the files are for trainings of any precision
                made = self.compute(self._items(frames)[list(absent.values())])
            made = torch.cat([made[name].float().flatten(1) for name in cache.shapes], 1).cpu().numpy()
            for name, row in zip(absent, made):
                rows[name] = cache.write(name, row)
        stacked = torch.from_numpy(np.stack([rows[name] for name in names]))
        return {name: part.float() for name, part in cache.split(stacked.to(frames.device)).items()}


class ClipTeacher(FrameFeatures, FrozenTeacher):
    """A frozen net that sees the frames of a clip one by one, or pair by pair, in its own normalisation and size.

    Args:
        model: config of an mmengine model, or the model, called with `inputs` and `mode='tensor'`.
        paths: name -> `dict(tap=..., channels=..., size=(h, w))`: path of the net's module, and see `reduce_maps`.
        trained_by, mini, checkpoint: see FrozenTeacher.
        size: (H, W) that frames are resized to; None leaves them.
        reads: what the net takes: 'images' (N, 3, H, W), or 'pairs' (N, 6, H, W) of a frame and the one after it.
        view: key of the frames (B, T, 3, H, W), uint8 RGB, among the inputs.
        chunk: items that it sees at once.
        cache_gb: GB of features that are kept, see `cache.py`; 0 keeps none.

    Raises:
        CheckpointError: see FrozenTeacher.
        ConfigError: see FrozenTeacher, or a path of no channels or size.
    """

    own_inputs = True  # it normalises frames as its own data preprocessor says

    def __init__(self, model: dict | nn.Module, paths: Mapping[str, Mapping[str, Any]], trained_by: str | None = None,
                 mini: bool = False, checkpoint: str | Path | None = None, size: Sequence[int] | None = None,
                 reads: str = 'images', view: str = 'frames', chunk: int = 32, cache_gb: float = 0.0):
        check_choice('ClipTeacher: reads', reads, INPUTS)
        check_positive('ClipTeacher', chunk=chunk)
        for name, path in paths.items():
            rows_and_columns(f'ClipTeacher: size of path {name!r}', path.get('size'))
            channels = path.get('channels')
            if not isinstance(channels, Sequence) and not (isinstance(channels, int) and channels > 0):
                raise ConfigError(f'ClipTeacher: path {name!r} has channels={channels!r}, expected a whole number '
                                  'above 0 or a list. Correct it.')
        model = model if isinstance(model, nn.Module) else MODELS.build(model)
        preprocessor = model.data_preprocessor
        super().__init__(model, {name: path['tap'] for name, path in paths.items()}, trained_by, mini, checkpoint, view)
        self.preprocessor, self.paths, self.reads, self.pairs = preprocessor, paths, reads, reads == 'pairs'
        self.size = None if size is None else rows_and_columns('ClipTeacher: size', size)
        self.chunk, self.cache_gb = chunk, cache_gb

    def compute(self, items: Tensor) -> dict[str, Tensor]:
        """See FrameFeatures."""
        parts = [self._chunk(part) for part in items.split(self.chunk)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.paths}

    def _chunk(self, items: Tensor) -> dict[str, Tensor]:
        images = items.float()
        if self.size is not None and tuple(images.shape[2:]) != self.size:
            images = F.interpolate(images, self.size, mode='bilinear', align_corners=False, antialias=True)
        images = torch.cat([self.preprocessor.normalise(part) for part in images.split(3, 1)], 1)
        with record(self.model, self.taps) as outputs:
            self.model({self.reads: images}, None, mode='tensor')
        return {name: reduce_maps(outputs[name], path['channels'], path['size'], f'path {name!r}')
                for name, path in self.paths.items()}

    def origin(self) -> str:
        """See FrameFeatures."""
        norms = {name: value.flatten().tolist() for name, value in self.preprocessor.named_buffers()}
        # its text and settings tell strides, dilations and sizes, which no weight does
        net = f'{weights_digest(self.model)} {self.model} {settings_of(self.model)}'
        return f'{net} {self.size} {norms} {getattr(self.preprocessor, "bgr", None)}'


class DISFlow(FrameFeatures, Teacher):
    """No net: optical flow by OpenCV's dense inverse search, and how it changes from place to place.

    Low: the flow blurred by Gaussians of 0, 2, 4 and 8 pixels, each with its two directions, its length and the length
    of its gradient, 16 channels. Middle and high: also each one's four derivatives, 32 channels. How flow spreads and
    turns tells how the car turns.

    Args:
        sizes: rows and columns of the maps of each path.
        size: (H, W) at which the flow is computed; None leaves the frames.
        preset: see `dis_flow`.
        view, cache_gb: see ClipTeacher.
    """

    pairs = True
    BLURS = (0, 2, 4, 8)

    def __init__(self, sizes: Mapping[str, Sequence[int]] | None = None, size: Sequence[int] | None = None,
                 preset: str = 'medium', view: str = 'frames', cache_gb: float = 0.0):
        sizes = sizes or dict(low=(32, 40), middle=(8, 10), high=(8, 10))
        for name in sizes:
            check_choice('DISFlow: sizes', name, ('low', 'middle', 'high'))
        super().__init__(dict.fromkeys(sizes, ''), view)
        self.paths = {name: dict(channels=16 if name == 'low' else 32, size=tuple(at)) for name, at in sizes.items()}
        self.size = None if size is None else rows_and_columns('DISFlow: size', size)
        self.preset, self.cache_gb = preset, cache_gb

    def compute(self, items: Tensor) -> dict[str, Tensor]:
        """See FrameFeatures."""
        if self.size is not None and tuple(items.shape[2:]) != self.size:
            items = F.interpolate(items.float(), self.size, mode='bilinear', align_corners=False, antialias=True)
            items = items.round().clamp(0, 255).byte()
        flow = dis_flows(items[:, :3], items[:, 3:], self.preset)
        few, slopes = [], []
        for sigma in self.BLURS:
            blurred = gaussian_blur(flow, sigma)
            right, down = (F.pad(blurred.diff(dim=axis), pad) for axis, pad in ((3, (0, 1)), (2, (0, 0, 0, 1))))
            steep = (right.square() + down.square()).sum(1, True).sqrt()
            few.append(torch.cat([blurred, blurred.norm(dim=1, keepdim=True), steep], 1))
            slopes.append(torch.stack([right[:, 0], down[:, 0], right[:, 1], down[:, 1]], 1))
        maps = {16: torch.cat(few, 1), 32: torch.cat([*few, *slopes], 1)}
        return {name: F.interpolate(maps[path['channels']], path['size'], mode='area')
                for name, path in self.paths.items()}

    def origin(self) -> str:
        """See FrameFeatures."""
        return f'{self.size} {self.preset}'


class PrecomputedFeatures(Teacher):
    """Features that something else left in files, `<folder>/<recording>/<frame>.npz` with an array for each name.

    Args:
        folder: of the files; a leading `data` gives way to the variable PERCEPTION_DATA.
        names: of the arrays (C, h, w), such as 'low'.
    """

    def __init__(self, folder: str | Path, names: Sequence[str]):
        super().__init__(dict.fromkeys(names, ''))
        self.folder = data_path(folder)

    def observe(self, batch: dict) -> dict[str, Tensor]:
        """The features (B, C, T, h, w) of a batch, whose samples tell `recording` and `frames`.

        Raises:
            ConfigError: a clip that is mirrored, of which there are no features.
            DataError: a file or an array is missing or of another shape than the first one.
        """
        mirrored = [sample.get('sample_id') for sample in batch['data_samples'] if sample.get('mirrored')]
        if mirrored:
            raise ConfigError(f'PrecomputedFeatures: {mirrored[0]} is mirrored, expected clips as they are in their '
                              f'files, of which {self.folder} holds the features. Take FlipClip out of the training '
                              "data's pipeline.")
        device = next(iter(batch['inputs'].values())).device
        clips = [[self._frame(sample.recording, frame) for frame in sample.frames] for sample in batch['data_samples']]
        found = {}
        for name in self.taps:
            shapes = {frame[name].shape for clip in clips for frame in clip}
            if len(shapes) > 1:
                raise DataError(f'{self.folder}: arrays {name!r} of shapes {sorted(shapes)}, expected one shape. Write '
                                'them again.')
            maps = np.stack([np.stack([frame[name] for frame in clip], 1) for clip in clips])
            found[name] = torch.from_numpy(maps.astype(np.float32)).to(device)
        return found

    def _frame(self, recording: str, frame: str) -> dict[str, np.ndarray]:
        path = self.folder / recording / f'{frame}.npz'
        try:
            with np.load(path, allow_pickle=False) as arrays:
                absent = sorted(set(self.taps) - set(arrays.files))
                found = {name: arrays[name] for name in self.taps if name not in absent}
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise DataError(f'{path}: {error.strerror if isinstance(error, OSError) and error.strerror else error}, '
                            'expected the features of a frame. Write them for each frame of the data set.') from error
        if absent:
            raise DataError(f'{path}: no array {absent[0]!r}, expected {", ".join(self.taps)}. Write it again.')
        return found


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Maps (B, C, H, W) blurred by a Gaussian of so many pixels, their borders repeated."""
    if sigma <= 0:
        return maps
    radius = int(3 * sigma)
    away = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel, flat = torch.exp(-away.square() / (2 * sigma ** 2)), maps.flatten(0, 1)[:, None]
    kernel = kernel / kernel.sum()
    with torch.autocast(maps.device.type, enabled=False):  # slopes are taken of it, of which bfloat16 leaves little
        flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode='replicate'), kernel.view(1, 1, 1, -1))
        flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode='replicate'), kernel.view(1, 1, -1, 1))
    return flat.view(maps.shape)
