"""StyleGAN2's generator with skip connections; the names of weights are those of rosinality's stylegan2-pytorch.

T. Karras et al. Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020. B images, D of a latent, L latents of
an image: two for each size, 4 x 4 to size x size.
"""
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.plugins.gan.models.generator import Generator, Synthesis
from perception.plugins.gan.models.layers import ConstantInput, StyledConv, ToRGB
from perception.registry import MODELS
from perception.utils.errors import ConfigError


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
class StyleGAN2(Generator):
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
        draw_noise: in tests each image has noise of its own, drawn from its seed, as where published FIDs were made.
        data_preprocessor: see mmengine's BaseModel; None takes bytes to -1..1.

    Raises:
        ConfigError: sizes or channels that cannot be.
    """

    def __init__(self, size: int = 256, style_dim: int = 512, num_mlp: int | Sequence[int] = 8, lr_mlp: float = 0.01,
                 channel_multiplier: int = 2, channels: Sequence[int] | None = None, second_kernel: int = 3,
                 truncation: float = 1.0, draw_noise: bool = False,
                 data_preprocessor: dict | nn.Module | None = None):
        super().__init__(size, style_dim, num_mlp, lr_mlp, truncation, data_preprocessor)
        blocks = check_size('StyleGAN2', size) - 2
        if channels is None:
            channels = [default_channels(4 << i, channel_multiplier) for i in range(blocks + 1) for _ in (0, 1)]
        if len(channels) != 2 * blocks + 2 or min(channels) < 1 or second_kernel not in (1, 3, 5):
            raise ConfigError(f'StyleGAN2: channels={list(channels)}, second_kernel={second_kernel}, expected '
                              f'{2 * blocks + 2} positive numbers at {size} pixels and a kernel of 1, 3 or 5. Correct '
                              'them.')
        self.draw_noise = draw_noise
        self.channels, self.second_kernel, self.num_latents = tuple(channels), second_kernel, 2 * blocks + 2
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

    def noise_of(self, seeds: Sequence[int]) -> list[Tensor]:
        """As of `Generator`, or drawn of each seed behind its z, the same on every machine."""
        if not self.draw_noise:
            return self.fixed_noise
        draws = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        for draw in draws:
            torch.randn(self.style_dim, generator=draw)
        return [torch.stack([torch.randn(1, side, side, generator=draw) for draw in draws]).to(self.input.input)
                for side in self.noise_sizes]

    @property
    def modulations(self) -> list[Tensor]:
        """The matrices (rows, D) of both convolutions of each size from 8 pixels on."""
        return [torch.cat([self.convs[2 * i + k].conv.modulation.weight for k in (0, 1)])
                for i in range(len(self.to_rgbs))]

    @property
    def readers(self) -> list[Tensor]:
        """The weight (1, O, C, k, k) that reads each entry of `channels`: convolutions, and the last colours."""
        layers = [self.conv1.conv, *(layer.conv for layer in self.convs), self.to_rgbs[-1].conv]
        return [layer.weight for layer in layers]

    def slices(self, kept: Sequence[Tensor]) -> dict[str, Tensor]:
        """Weights of the synthesis with some channels alone; arguments as of `Generator.slices`."""
        weights = {name: value for name, value in self.state_dict().items() if not name.startswith('style.')}
        weights['input.input'] = weights['input.input'][:, kept[0]]
        names = ['conv1', *(f'convs.{i}' for i in range(len(self.convs)))]
        for i, name in enumerate(names):
            weights[f'{name}.conv.weight'] = weights[f'{name}.conv.weight'][:, kept[i + 1]][:, :, kept[i]]
            weights[f'{name}.activate.bias'] = weights[f'{name}.activate.bias'][kept[i + 1]]
            for part in ('weight', 'bias'):
                weights[f'{name}.conv.modulation.{part}'] = weights[f'{name}.conv.modulation.{part}'][kept[i]]
        for j, name in enumerate(['to_rgb1', *(f'to_rgbs.{j}' for j in range(len(self.to_rgbs)))]):
            group = kept[2 * j + 1]
            weights[f'{name}.conv.weight'] = weights[f'{name}.conv.weight'][:, :, group]
            for part in ('weight', 'bias'):
                weights[f'{name}.conv.modulation.{part}'] = weights[f'{name}.conv.modulation.{part}'][group]
        return weights

    def synthesis(self, latents: Tensor, noise: Sequence[Tensor | None] | None = None,
                  track: bool = False) -> Synthesis:
        """Images of latents; arguments as of `Generator.synthesis`."""
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
