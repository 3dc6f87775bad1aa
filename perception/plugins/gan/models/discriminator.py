"""StyleGAN2's residual discriminator; the names of weights are those of rosinality's stylegan2-pytorch."""
import math

import torch
from torch import Tensor, nn

from perception.plugins.gan.models.layers import Activation, EqualConv, EqualLinear, blur
from perception.plugins.gan.models.stylegan2 import check_size, default_channels
from perception.registry import MODELS
from perception.utils.errors import ConfigError, DataError


class Blur(nn.Module):
    """The blur before a stride of 2; it has a name, for the weights after it are numbered."""

    def __init__(self, pad: int, stride: int = 1):
        super().__init__()
        self.pad, self.stride = pad, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, h, w), see `blur`."""
        return blur(x, self.pad, stride=self.stride)


class ResBlock(nn.Module):
    """Two convolutions, the second one to half the size, and a path beside them."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Sequential(EqualConv(inputs, inputs, 3, padding=1), Activation(inputs))
        self.conv2 = nn.Sequential(Blur(2), EqualConv(inputs, outputs, 3, stride=2), Activation(outputs))
        self.skip = nn.Sequential(Blur(1, stride=2), EqualConv(inputs, outputs, 1))  # 1x1: the blur takes the stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H/2, W/2)."""
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


@MODELS.register_module()
class StyleGAN2Discriminator(nn.Module):
    """How real images look.

    Args:
        size: of the images, a power of 2.
        channels: of the sizes `size`, `size`/2, ..., 4; None for the published ones.
        channel_multiplier: of those from 64 pixels on.

    Raises:
        ConfigError: sizes or channels that cannot be.
    """

    def __init__(self, size: int = 256, channels: list[int] | None = None, channel_multiplier: int = 2):
        super().__init__()
        levels = check_size('StyleGAN2Discriminator', size) - 1
        if channels is None:
            channels = [default_channels(size >> i, channel_multiplier) for i in range(levels)]
        widths = check_channels(channels, levels)
        self.size = size
        self.convs = nn.Sequential(nn.Sequential(EqualConv(3, widths[0], 1), Activation(widths[0])),
                                   *(ResBlock(a, b) for a, b in zip(widths, widths[1:])))
        last = widths[-1]
        self.final_conv = nn.Sequential(EqualConv(last + 1, last, 3, padding=1), Activation(last))
        self.final_linear = nn.Sequential(EqualLinear(last * 16, last, activation=True), EqualLinear(last, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, 1) of images (B, 3, size, size) of -1..1; the more real, the higher.

        Raises:
            DataError: images of another size.
        """
        if images.shape[1:] != (3, self.size, self.size):
            raise DataError(f'StyleGAN2Discriminator: images of shape {tuple(images.shape)}, expected (B, 3, '
                            f'{self.size}, {self.size}). Set the size of the data set to that of the net.')
        x = self.convs(images)
        x = torch.cat([x, deviation(x)], 1)
        return self.final_linear(self.final_conv(x).flatten(1))


def check_channels(channels: list[int], levels: int) -> list[int]:
    """See that there is a positive number of channels for each size.

    Raises:
        ConfigError: there is not.
    """
    if len(channels) != levels or min(channels) < 1:
        raise ConfigError(f'StyleGAN2Discriminator: channels={list(channels)}, expected {levels} positive numbers, '
                          'from the size of the images down to 4. Correct them.')
    return list(channels)


def deviation(x: Tensor, group: int = 4) -> Tensor:
    """Mean deviation of features over groups of images, which tells images that are too alike.

    Args:
        x: (B, C, H, W).
        group: images of one, or the next smaller number that divides B.

    Returns:
        (B, 1, H, W); image i is of the group i modulo B / group.
    """
    batch = len(x)
    group = next(n for n in range(min(batch, group), 0, -1) if batch % n == 0)
    parts = x.reshape(group, batch // group, *x.shape[1:])
    spread = (parts.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # (B / group,)
    return spread.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
