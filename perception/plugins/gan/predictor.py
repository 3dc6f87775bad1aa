"""Makes images of seeds, and films of walks between them."""
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception.common.predictor import Predictor
from perception.common.visual import canvas
from perception.plugins.gan.draw import SIDE, draw_grid, to_array
from perception.plugins.gan.models.generator import generator_of, to_bytes
from perception.plugins.gan.structures import ImageSample
from perception.registry import MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

Way = tuple[int, int, float]
Source = int | Way | Sequence[Way]


class SeedPredictor(Predictor):
    """Predictor of images; a source is a seed, or two of them and how far the way between their latents is gone, 0..1,
    or several of these for a picture of images side by side.

    What stands in place of a path are seeds: `7`, `0-24` or `3,5,8`.

    Args:
        model: a generator in evaluation mode.
        data: config of the data set it is tested on.
        walk: pictures from each seed to the next; with `--out FILM.mp4` they are a film.
        columns: images side by side in a picture, each of its own seed.
        truncation: how far latents go from their mean; None for that of the net.
        teacher: config of a FrozenTeacher, of those configs that have one.
        show_teacher: above the images stand the teacher's of the same z.
        beside: checkpoints of other nets of the same shape, whose images of the same z are drawn too; they are called
            as their folders, with the folder above it where two have the same.

    Raises:
        ConfigError: an argument out of its range, or no teacher.
        CheckpointError: weights that are not there, or of another net.
    """

    noun = 'seed'
    saves = ('png',)

    def __init__(self, model: nn.Module | None, data: dict, walk: int = 1, columns: int = 1,
                 truncation: float | None = None, teacher: dict | None = None, show_teacher: bool = False,
                 beside: str | Sequence[str] = ()) -> None:
        super().__init__(model, data)
        check_positive('predictor', walk=walk, columns=columns)
        if truncation is not None and not 0 <= truncation <= 1:
            raise ConfigError(f'predictor: truncation={truncation}, expected 0..1. Correct it.')
        if show_teacher and teacher is None:
            raise ConfigError('predictor: show_teacher=True, but the config names no teacher, expected one of '
                              'configs/stylekd. Leave it out, or take such a config.')
        self.walk, self.columns, self.truncation, self.nets = walk, columns, truncation, {}
        if model is not None:
            device = next(model.parameters()).device
            if show_teacher:
                self.nets['teacher'] = generator_of(MODELS.build(teacher).model).to(device)
            for path in beside.split(',') if isinstance(beside, str) else beside:
                net = copy.deepcopy(model)
                load_weights(net, path)
                place = Path(path).absolute().parent
                names = (place.name, f'{place.parent.name}/{place.name}', str(path))
                self.nets[next((name for name in names if name not in (*self.nets, 'made')), f'{path}, again')] = net
            self.nets['made'] = model

    @torch.no_grad()
    def predict(self, sources: Sequence[Source]) -> list[ImageSample]:
        """Make some images.

        Returns:
            samples on the CPU with `pred_image` (3, H, W) uint8, of several images side by side.
        """
        groups = [ways_of(source) for source in sources]
        ways = [way for group in groups for way in group]
        sizes = [len(group) for group in groups]
        made = {name: self.make(net, ways).split(sizes) for name, net in self.nets.items()}
        samples = []
        for i, source in enumerate(sources):
            sample = ImageSample(metainfo=dict(sample_id=str(source), source=source))
            sample.pred_image = torch.cat(list(made['made'][i]), 2)
            sample.rows = {name: list(images[i]) for name, images in made.items()}
            samples.append(sample)
        return samples

    def make(self, net: nn.Module, ways: Sequence[Way]) -> Tensor:
        """Images (B, 3, H, W) uint8 on the CPU."""
        first, second = (net.mapping(net.seeds_to_z([way[i] for way in ways])) for i in (0, 1))
        share = first.new_tensor([way[2] for way in ways])[:, None]
        w = net.truncate(torch.lerp(first, second, share), net.truncation if self.truncation is None else
                         self.truncation)
        return to_bytes(net.synthesis(net.mix(w), net.fixed_noise).image).cpu()

    def sources(self, path: str | Path) -> Iterator[tuple[str, Source]]:
        """Seeds that a text names, and what lies between them where a walk is wanted.

        Raises:
            DataError: no seeds, or a walk of as many images side by side as do not divide them.
        """
        seeds = parse_seeds(str(path))
        groups = [seeds[i:i + self.columns] for i in range(0, len(seeds), self.columns)]
        if self.walk == 1:
            yield from ((f'seed_{group[0]:06d}', [(seed, seed, 0.0) for seed in group]) for group in groups)
            return
        if len(seeds) % self.columns:
            raise DataError(f'{path}: {len(seeds)} seeds for a walk of {self.columns} images side by side, expected a '
                            'multiple of it. Give others.')
        for k, (a, b) in enumerate(zip(groups, [*groups[1:], groups[0]])):  # the last leads to the first: it is a loop
            yield from ((f'walk_{k * self.walk + i:06d}', [(*pair, i / self.walk) for pair in zip(a, b)])
                        for i in range(self.walk))

    def save(self, form: str, folder: Path, name: str, source: Source, sample: ImageSample) -> Path:
        """Write an image as `<name>.png`, as large as it is; arguments as of `Predictor.save`."""
        check_choice('--save-as', form, self.saves)
        return canvas.save_png(folder / f'{name}.png', sample.pred_image.permute(1, 2, 0).numpy())

    def draw(self, source: Source, sample: ImageSample | None = None, truth: Any = None, title: str = '') -> np.ndarray:
        """The image, enlarged where it is small, or rows of several nets; arguments as of `Predictor.draw`.

        Raises:
            ConfigError: without a net there is nothing to draw.
        """
        if sample is None:
            raise ConfigError('SeedPredictor: no net came, expected one that makes an image of a seed. Give a config '
                              'and a checkpoint.')
        if len(sample.rows) > 1:
            return draw_grid(sample.rows, self.columns)
        return to_array(sample.pred_image)

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """A real image."""
        return canvas.titled(to_array(sample['inputs']['image'], 3 * SIDE), title)


def ways_of(source: Source) -> list[Way]:
    """The images of a source, each as a way between two seeds."""
    if isinstance(source, int):
        return [(source, source, 0.0)]
    return [source] if isinstance(source, tuple) else list(source)


def parse_seeds(text: str) -> list[int]:
    """Seeds of a text such as `7`, `0-24` or `3,5,8-10`.

    Raises:
        DataError: anything else, or more than 100,000.
    """
    found = []
    for part in text.split(','):
        low, dash, high = part.strip().partition('-')
        high = high if dash else low
        if not (low.isdecimal() and high.isdecimal()) or len(low) > 9 or len(high) > 9 or int(high) < int(low):
            raise DataError(f'{text}: expected seeds such as 7, 0-24 or 3,5,8. This net makes images of seeds; give '
                            'some in place of a file.')
        found += range(int(low), min(int(high), int(low) + 100_000) + 1)
    if not found or len(found) > 100_000:
        raise DataError(f'{text}: {len(found):,} seeds, expected 1 to 100,000. Give others.')
    return found
