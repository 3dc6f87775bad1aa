"""What all generators have in common: from z to w to images, seeds, truncation, and what becomes ONNX.

B images, D of a latent, L latents of an image.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.common.image_preprocessor import ImagePreprocessor
from perception.plugins.gan.models.layers import mapping_layers
from perception.plugins.gan.structures import ImageSample
from perception.utils.errors import ConfigError

MEAN_OF = 4096  # latents that the mean latent is taken of


@dataclass
class Synthesis:
    """What a generator makes.

    Attributes:
        image: (B, 3, size, size), about -1..1.
        rgbs: the image so far at each size from 4 on; that of a StyleGAN3 alone.
        features: (B, C, r, r) of each size from 8 on; of each layer of a StyleGAN3.
    """

    image: Tensor
    rgbs: list[Tensor]
    features: list[Tensor]


class Generator(BaseModel):
    """Base of the generators.

    A subclass has `num_latents` (L), `channels` and `modulations`, and writes `synthesis`, `readers` and `slices`.

    Args:
        size: of the images.
        style_dim: D.
        num_mlp: linear layers from z to w, or the widths between them.
        lr_mlp: of their learning rate.
        truncation: how far latents of predictions go from their mean, 1 for as they are.
        data_preprocessor: see mmengine's BaseModel; None takes bytes to -1..1.

    Raises:
        ConfigError: a truncation out of its range.
    """

    own_classes = True
    num_latents: int
    channels: tuple[int, ...]

    def __init__(self, size: int, style_dim: int, num_mlp: int | Sequence[int], lr_mlp: float, truncation: float,
                 data_preprocessor: dict | nn.Module | None):
        super().__init__(data_preprocessor=data_preprocessor or ImagePreprocessor((127.5,) * 3, (127.5,) * 3))
        if not 0 <= truncation <= 1:
            raise ConfigError(f'{type(self).__name__}: truncation={truncation}, expected 0..1. Correct it.')
        self.size, self.style_dim, self.truncation = size, style_dim, truncation
        self.style = mapping_layers(style_dim, num_mlp, lr_mlp)

    def synthesis(self, latents: Tensor, noise: Sequence[Tensor | None] | None = None,
                  track: bool = False) -> Synthesis:
        """Images of latents.

        Args:
            latents: (B, L, D).
            noise: (B or 1, 1, r, r) of each of `noise_sizes`; None draws it.
            track: also follow the running magnitudes of features, where the net has them.
        """
        raise NotImplementedError(f'{type(self).__name__} has no synthesis; write one that makes images.')

    @property
    def modulations(self) -> list[Tensor]:
        """The matrices (rows, D) that latents meet, one of each entry of `features`."""
        raise NotImplementedError(f'{type(self).__name__} has no modulations; write them.')

    @property
    def readers(self) -> list[Tensor]:
        """The weight (..., O, C, k, k) that reads each entry of `channels`."""
        raise NotImplementedError(f'{type(self).__name__} has no readers; write them.')

    def slices(self, kept: Sequence[Tensor]) -> dict[str, Tensor]:
        """Weights of the synthesis with some channels alone.

        Args:
            kept: the numbers of the channels of each entry of `channels`.
        """
        raise NotImplementedError(f'{type(self).__name__} has no slices; write them.')

    @property
    def noise_sizes(self) -> list[int]:
        """Rows and columns of the noise of each layer; none."""
        return []

    @property
    def fixed_noise(self) -> list[Tensor]:
        """The noise (1, 1, r, r) of each layer that is stored with the weights."""
        return []

    def noise_of(self, seeds: Sequence[int]) -> list[Tensor]:
        """The noise (B or 1, 1, r, r) of each layer for images of seeds: that which is stored with the weights."""
        return self.fixed_noise

    def mapping(self, z: Tensor) -> Tensor:
        """Latents w (B, D) of z (B, D)."""
        return self.style(z)

    def mix(self, w: Tensor, second: Tensor | None = None, begin: Tensor | int | None = None) -> Tensor:
        """All latents of each image.

        Args:
            w: (B, D).
            second: (B, D) that are taken from the latent `begin` on.
            begin: 1..L-1, one or (B,) of them.

        Returns:
            (B, L, D).
        """
        latents = w[:, None].expand(-1, self.num_latents, -1)
        if second is None:
            return latents
        late = torch.arange(self.num_latents, device=w.device)[None] >= torch.as_tensor(begin, device=w.device).view(
            -1, 1)
        return torch.where(late[..., None], second[:, None], latents)

    @torch.no_grad()
    def mean_latent(self, count: int = MEAN_OF, seed: int = 0) -> Tensor:
        """(1, D) mean of the latents of `count` seeded z."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(count, self.style_dim, generator=generator).to(next(self.parameters()).device)
        return self.mapping(z).mean(0, keepdim=True)

    def truncate(self, w: Tensor, truncation: float) -> Tensor:
        """Latents (B, D) nearer to their mean: 1 as they are, 0 the mean."""
        return w if truncation == 1 else torch.lerp(self.mean_latent(), w, truncation)

    def seeds_to_z(self, seeds: Sequence[int]) -> Tensor:
        """(B, D) normal numbers of each seed, the same on every machine and in every net of the same D."""
        return torch.stack([torch.randn(self.style_dim, generator=torch.Generator().manual_seed(int(seed)))
                            for seed in seeds]).to(next(self.parameters()).device)

    def forward(self, inputs: Any, data_samples: list[ImageSample] | None = None, mode: str = 'tensor') -> Any:
        """Images with the fixed noise, those of seeds with that of `noise_of`.

        Args:
            inputs: with `z` (B, D) for `'tensor'`, or without it, as for `'predict'`.
            data_samples: with the seed `source` each, for images of no given z.
            mode: `'tensor'` gives (B, 3, size, size); `'predict'` gives the samples with `pred_image`.

        Raises:
            ConfigError: another mode; the loss of a generator needs a discriminator.
        """
        if mode not in ('tensor', 'predict'):
            raise ConfigError(f'{type(self).__name__}: mode={mode!r}, expected tensor or predict. Train it by an '
                              'AdversarialModel.')
        given = mode == 'tensor' and 'z' in inputs
        seeds = [] if given else [sample.source for sample in data_samples]
        z, noise = (inputs['z'], self.fixed_noise) if given else (self.seeds_to_z(seeds), self.noise_of(seeds))
        w = self.truncate(self.mapping(z), self.truncation)
        images = self.synthesis(self.mix(w), noise).image
        if mode == 'tensor':
            return images
        for sample, image in zip(data_samples, to_bytes(images)):
            sample.pred_image = image
        return data_samples

    def deployable(self) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """What becomes ONNX: images (B, 3, H, W) of latents z (B, D) with the fixed noise."""
        return Deployed(self).eval(), dict(z=torch.linspace(-3, 3, self.style_dim)[None]), ['images']


class Deployed(nn.Module):
    """From z (B, D) to images (B, 3, H, W) of -1..1 with the fixed noise and the mean latent inside.

    Args:
        generator: any of them.
    """

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator
        self.register_buffer('mean', generator.mean_latent())

    def forward(self, z: Tensor) -> tuple[Tensor]:
        """Images of latents."""
        w = torch.lerp(self.mean, self.generator.mapping(z), self.generator.truncation)
        return (self.generator.synthesis(self.generator.mix(w), self.generator.fixed_noise).image,)


def to_bytes(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) of -1..1 as uint8."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def generator_of(model: nn.Module) -> nn.Module:
    """A generator, or that of an AdversarialModel."""
    return getattr(model, 'student', model)
