"""Makes images of seeds, and films of walks between them."""
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from perception.common.predictor import Predictor
from perception.common.visual import canvas
from perception.plugins.gan.draw import to_array
from perception.plugins.gan.models.generator import to_bytes
from perception.plugins.gan.structures import ImageSample
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

Seed = int | tuple[int, int, float]


class SeedPredictor(Predictor):
    """Predictor of images; a source is a seed, or two of them and how far the way between their latents is gone, 0..1.

    What stands in place of a path are seeds: `7`, `0-24` or `3,5,8`.

    Args:
        model: a generator in evaluation mode.
        data: config of the data set it is tested on.
        walk: pictures from each seed to the next; with `--out FILM.mp4` they are a film.
        truncation: how far latents go from their mean; None for that of the net.

    Raises:
        ConfigError: an argument out of its range.
    """

    noun = 'seed'
    saves = ('png',)

    def __init__(self, model: nn.Module | None, data: dict, walk: int = 1, truncation: float | None = None) -> None:
        super().__init__(model, data)
        check_positive('predictor', walk=walk)
        if truncation is not None and not 0 <= truncation <= 1:
            raise ConfigError(f'predictor: truncation={truncation}, expected 0..1. Correct it.')
        self.walk, self.truncation = walk, truncation

    @torch.no_grad()
    def predict(self, sources: Sequence[Seed]) -> list[ImageSample]:
        """Make some images.

        Returns:
            samples on the CPU with `pred_image` (3, H, W) uint8.
        """
        net = self.model
        ways = [source if isinstance(source, tuple) else (source, source, 0.0) for source in sources]
        first, second = (net.mapping(net.seeds_to_z([way[i] for way in ways])) for i in (0, 1))
        share = first.new_tensor([way[2] for way in ways])[:, None]
        w = net.truncate(torch.lerp(first, second, share), net.truncation if self.truncation is None else
                         self.truncation)
        images = to_bytes(net.synthesis(net.mix(w), net.fixed_noise).image).cpu()
        samples = []
        for source, image in zip(sources, images):
            sample = ImageSample(metainfo=dict(sample_id=str(source), source=source))
            sample.pred_image = image
            samples.append(sample)
        return samples

    def sources(self, path: str | Path) -> Iterator[tuple[str, Seed]]:
        """Seeds that a text names, and what lies between them where a walk is wanted."""
        seeds = parse_seeds(str(path))
        if self.walk == 1:
            yield from ((f'seed_{seed:06d}', seed) for seed in seeds)
            return
        for k, (a, b) in enumerate(zip(seeds, [*seeds[1:], seeds[0]])):  # the last leads to the first: it is a loop
            yield from ((f'walk_{k * self.walk + i:06d}', (a, b, i / self.walk)) for i in range(self.walk))

    def save(self, form: str, folder: Path, name: str, source: Seed, sample: ImageSample) -> Path:
        """Write an image as `<name>.png`, as large as it is; arguments as of `Predictor.save`."""
        check_choice('--save-as', form, self.saves)
        return canvas.save_png(folder / f'{name}.png', sample.pred_image.permute(1, 2, 0).numpy())

    def draw(self, source: Seed, sample: ImageSample | None = None, truth: Any = None, title: str = '') -> np.ndarray:
        """The image, enlarged where it is small; arguments as of `Predictor.draw`.

        Raises:
            ConfigError: without a net there is nothing to draw.
        """
        if sample is None:
            raise ConfigError('SeedPredictor: no net came, expected one that makes an image of a seed. Give a config '
                              'and a checkpoint.')
        return to_array(sample.pred_image)

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """A real image."""
        return canvas.titled(to_array(sample['inputs']['image']), title)


def parse_seeds(text: str) -> list[int]:
    """Seeds of a text such as `7`, `0-24` or `3,5,8-10`.

    Raises:
        DataError: anything else, or more than 100,000.
    """
    found = []
    for part in text.split(','):
        low, _, high = part.strip().partition('-')
        if not low.isdigit() or (high and not high.isdigit()) or len(low) > 9 or len(high) > 9:
            raise DataError(f'{text}: expected seeds such as 7, 0-24 or 3,5,8. This net makes images of seeds; give '
                            'some in place of a file.')
        found += range(int(low), min(int(high or low), int(low) + 100_000) + 1)
    if not found or len(found) > 100_000:
        raise DataError(f'{text}: {len(found):,} seeds, expected 1 to 100,000. Give others.')
    return found
