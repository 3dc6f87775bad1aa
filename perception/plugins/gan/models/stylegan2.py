"""StyleGAN2's generator with skip connections; the names of weights are those of rosinality's stylegan2-pytorch.

T. Karras et al. Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020. B images, D of a latent, L latents of
an image: two for each size, 4 x 4 to size x size.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.common.image_preprocessor import ImagePreprocessor
from perception.plugins.gan.models.layers import ConstantInput, StyledConv, ToRGB, mapping_layers
from perception.plugins.gan.structures import ImageSample
from perception.registry import MODELS
from perception.utils.errors import ConfigError

MEAN_OF = 4096  # latents that the mean latent is taken of


@dataclass
class Synthesis:
    """What a generator makes.

    Attributes:
        image: (B, 3, size, size), about -1..1.
        rgbs: the image so far at each size from 4 on.
        features: (B, C, r, r) of each size from 8 on.
    """

    image: Tensor
    rgbs: list[Tensor]
    features: list[Tensor]


def check_size(where: str, size: int) -> int:
    """log2 of the size of images.

    Raises:
        ConfigError: no power of 2, or out of range.
    """
    if size not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise ConfigError(f'{where}: size={size}, expected a power of 2 from 8 to 1024. Correct it.')
    return int(math.log2(size))


def default_channels(size: int, multiplier: int = 2) -> int:
    """Published channels of the maps of `size` pixels."""
    return 512 if size <= 32 else 16384 * multiplier // size


@MODELS.register_module()
class StyleGAN2(BaseModel):
    """The generator.

    Args:
        size: of the images, a power of 2.
        style_dim: D.
        num_mlp: linear layers from z to w, or the widths between them.
        lr_mlp: of their learning rate.
        channel_multiplier: of the published channels from 64 pixels on.
        channels: of the constant input and of each convolution in turn, in place of the published ones; a student's.
        second_kernel: rows and columns of the second convolution of each size; 1 makes a heterogeneous student.
        truncation: how far latents of predictions go from their mean, 1 for as they are.
        data_preprocessor: see mmengine's BaseModel; None takes bytes to -1..1.

    Raises:
        ConfigError: sizes or channels that cannot be.
    """

    own_classes = True

    def __init__(self, size: int = 256, style_dim: int = 512, num_mlp: int | Sequence[int] = 8, lr_mlp: float = 0.01,
                 channel_multiplier: int = 2, channels: Sequence[int] | None = None, second_kernel: int = 3,
                 truncation: float = 1.0, data_preprocessor: dict | nn.Module | None = None):
        super().__init__(data_preprocessor=data_preprocessor or ImagePreprocessor((127.5,) * 3, (127.5,) * 3))
        blocks = check_size('StyleGAN2', size) - 2
        if channels is None:
            channels = [default_channels(4 << i, channel_multiplier) for i in range(blocks + 1) for _ in (0, 1)]
        if len(channels) != 2 * blocks + 2 or min(channels) < 1 or second_kernel not in (1, 3, 5):
            raise ConfigError(f'StyleGAN2: channels={list(channels)}, second_kernel={second_kernel}, expected '
                              f'{2 * blocks + 2} positive numbers at {size} pixels and a kernel of 1, 3 or 5. Correct '
                              'them.')
        if not 0 <= truncation <= 1:
            raise ConfigError(f'StyleGAN2: truncation={truncation}, expected 0..1. Correct it.')
        self.size, self.style_dim, self.channels, self.truncation = size, style_dim, tuple(channels), truncation
        self.second_kernel = second_kernel
        self.num_latents = 2 * blocks + 2
        self.style = mapping_layers(style_dim, num_mlp, lr_mlp)
        self.input = ConstantInput(channels[0])
        self.conv1 = StyledConv(channels[0], channels[1], 3, style_dim)
        self.to_rgb1 = ToRGB(channels[1], style_dim)
        self.convs = nn.ModuleList(
            StyledConv(channels[i], channels[i + 1], second_kernel if i % 2 == 0 else 3, style_dim, up=i % 2 == 1)
            for i in range(1, 2 * blocks + 1))
        self.to_rgbs = nn.ModuleList(ToRGB(channels[i], style_dim) for i in range(3, 2 * blocks + 2, 2))
        self.noises = nn.Module()  # one fixed noise for each convolution
        for i, side in enumerate(self.noise_sizes):
            self.noises.register_buffer(f'noise_{i}', torch.randn(1, 1, side, side))

    @property
    def noise_sizes(self) -> list[int]:
        """Rows and columns of the noise of each convolution: 4, 8, 8, 16, 16, ..."""
        return [4, *(8 << (i // 2) for i in range(self.num_latents - 2))]

    @property
    def fixed_noise(self) -> list[Tensor]:
        """The noise (1, 1, r, r) of each convolution that is stored with the weights."""
        return [getattr(self.noises, f'noise_{i}') for i in range(len(self.noise_sizes))]

    def draw_noise(self, batch: int = 1) -> list[Tensor]:
        """Noise (batch, 1, r, r) of each convolution."""
        like = self.input.input
        return [torch.randn(batch, 1, side, side, device=like.device) for side in self.noise_sizes]

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

    def synthesis(self, latents: Tensor, noise: Sequence[Tensor | None] | None = None) -> Synthesis:
        """Images of latents.

        Args:
            latents: (B, L, D).
            noise: (B or 1, 1, r, r) of each convolution; None draws it.
        """
        noise = [None] * len(self.noise_sizes) if noise is None else noise
        x = self.conv1(self.input(len(latents)), latents[:, 0], noise[0])
        rgb = self.to_rgb1(x, latents[:, 1])
        rgbs, features = [rgb], []
        for j, to_rgb in enumerate(self.to_rgbs):
            x = self.convs[2 * j](x, latents[:, 2 * j + 1], noise[2 * j + 1])
            x = self.convs[2 * j + 1](x, latents[:, 2 * j + 2], noise[2 * j + 2])
            rgb = to_rgb(x, latents[:, 2 * j + 3], rgb)
            features.append(x)
            rgbs.append(rgb)
        return Synthesis(rgb, rgbs, features)

    @torch.no_grad()
    def mean_latent(self, count: int = MEAN_OF, seed: int = 0) -> Tensor:
        """(1, D) mean of the latents of `count` seeded z."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(count, self.style_dim, generator=generator).to(self.input.input.device)
        return self.mapping(z).mean(0, keepdim=True)

    def truncate(self, w: Tensor, truncation: float) -> Tensor:
        """Latents (B, D) nearer to their mean: 1 as they are, 0 the mean."""
        return w if truncation == 1 else torch.lerp(self.mean_latent(), w, truncation)

    def seeds_to_z(self, seeds: Sequence[int]) -> Tensor:
        """(B, D) normal numbers of each seed, the same on every machine and in every net of the same D."""
        return torch.stack([torch.randn(self.style_dim, generator=torch.Generator().manual_seed(int(seed)))
                            for seed in seeds]).to(self.input.input.device)

    def forward(self, inputs: Any, data_samples: list[ImageSample] | None = None, mode: str = 'tensor') -> Any:
        """Images with the fixed noise.

        Args:
            inputs: with `z` (B, D) for `'tensor'`; not looked at for `'predict'`.
            data_samples: with the seed `source` each, for `'predict'`.
            mode: `'tensor'` gives (B, 3, size, size) of z; `'predict'` gives the samples with `pred_image`.

        Raises:
            ConfigError: another mode; the loss of a generator needs a discriminator.
        """
        if mode not in ('tensor', 'predict'):
            raise ConfigError(f'StyleGAN2: mode={mode!r}, expected tensor or predict. Train it by an '
                              'AdversarialModel.')
        z = inputs['z'] if mode == 'tensor' else self.seeds_to_z([sample.source for sample in data_samples])
        w = self.truncate(self.mapping(z), self.truncation)
        images = self.synthesis(self.mix(w), self.fixed_noise).image
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
        generator: a StyleGAN2.
    """

    def __init__(self, generator: StyleGAN2):
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
