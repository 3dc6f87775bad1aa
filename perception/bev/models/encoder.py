"""Nets on images and on the map seen from above that camera detectors have in common: Up, and the published encoders.

An encoder takes (B, in_channels, Y, X) of a view transform and gives (B, out_channels, Y, X). Inner layers are named
as where they were published: LSS (Philion, Fidler, ECCV 2020), BEVDet (Huang et al., 2021), BEVDepth (Li et al., AAAI
2023).

Shapes: B samples, maps of Y rows and X columns.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.common.nets.blocks import init_convs
from perception.common.nets.resnet import BasicBlock
from perception.common.nets.second import SECONDFPN
from perception.registry import MODELS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError


@MODELS.register_module()
class Up(nn.Module):
    """Enlarges the coarser of two maps to the size of the finer one, stacks them, two 3 x 3 convolutions (LSS).

    Attributes:
        out_channels: of the result.

    Args:
        in_channels: of the maps, finer one first.
        channels: of the result.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 512):
        super().__init__()
        self.out_channels = channels
        self.conv = nn.Sequential(*_conv(sum(in_channels), channels), *_conv(channels, channels))
        init_convs(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, in_channels[0], H, W) and a coarser one to (B, channels, H, W)."""
        fine, coarse = maps
        return self.conv(torch.cat([fine, _enlarge(coarse, fine.shape[2:])], dim=1))


@MODELS.register_module()
class BEVDetEncoder(nn.Module):
    """Residual stages that halve, of which the first and the last are stacked and enlarged.

    Attributes:
        out_channels: of the result.

    Args:
        in_channels: of the map.
        channels: of the stages; None 2, 4 and 8 times those of the map.
        blocks: residual blocks of each stage.
        out_channels: of the result.

    Raises:
        ConfigError: lists of different lengths, fewer than two stages, or one without a block.
    """

    def __init__(self, in_channels: int, channels: Sequence[int] | None = None, blocks: Sequence[int] = (2, 2, 2),
                 out_channels: int = 256):
        super().__init__()
        channels = [in_channels << i for i in (1, 2, 3)] if channels is None else [*channels]
        if len(channels) != len(blocks) or len(blocks) < 2:
            raise ConfigError(f'BEVDetEncoder: {len(channels)} channels and {len(blocks)} blocks, expected equal '
                              'numbers, at least 2. Give one of each for every stage.')
        check_positive('BEVDetEncoder', blocks=min(blocks))
        self.out_channels = out_channels
        self.layers = nn.ModuleList()
        for a, b, count in zip((in_channels, *channels), channels, blocks):
            first = BasicBlock(a, b, 2)
            first.downsample = nn.Conv2d(a, b, 3, 2, 1)  # bare, as published
            self.layers.append(nn.Sequential(first, *(BasicBlock(b, b) for _ in range(count - 1))))
        self.up = Up((channels[0], channels[-1]), 2 * out_channels)
        self.last = nn.Sequential(*_conv(2 * out_channels, out_channels), nn.Conv2d(out_channels, out_channels, 1))
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) to (B, out_channels, Y, X)."""
        size, maps = x.shape[2:], []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return self.last(_enlarge(self.up((maps[0], maps[-1])), size))


@MODELS.register_module()
class BEVDepthEncoder(nn.Module):
    """The first three stages of a ResNet-18 without maximum, whose outputs and input are brought to one size.

    Attributes:
        out_channels: of the result.

    Args:
        in_channels: of the map.
        channels: of the first stage; the others have 2 and 4 times as many.
        blocks: residual blocks of each stage.
        level_channels: that each of the four maps gives to the result.
    """

    def __init__(self, in_channels: int, channels: int = 160, blocks: Sequence[int] = (2, 2, 2),
                 level_channels: int = 64):
        super().__init__()
        self.trunk = ResNetTrunk(in_channels, (channels, 2 * channels, 4 * channels), blocks)
        self.neck = SECONDFPN((in_channels, channels, 2 * channels, 4 * channels), (level_channels,) * 4, (1, 2, 4, 8))
        self.out_channels = self.neck.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) to (B, out_channels, Y, X).

        Raises:
            ConfigError: a map that cannot be halved three times.
        """
        if any(n % 8 for n in x.shape[2:]):
            raise ConfigError(f'BEVDepthEncoder: a map of {x.shape[2]} x {x.shape[3]} cells, expected multiples of 8. '
                              'Change the grid, or take BEVDetEncoder.')
        return self.neck([x, *self.trunk(x)])


@MODELS.register_module()
class LSSEncoder(nn.Module):
    """The first three stages of a ResNet-18 without maximum, of which the first and the last are stacked and enlarged.

    The last 1 x 1 convolution of the published net belongs to the head.

    Attributes:
        out_channels: of the result.

    Args:
        in_channels: of the map.
        channels: of the first stage; the others have 2 and 4 times as many.
        blocks: residual blocks of each stage.
        out_channels: of the result; None twice those of the first stage.
    """

    def __init__(self, in_channels: int, channels: int = 64, blocks: Sequence[int] = (2, 2, 2),
                 out_channels: int | None = None):
        super().__init__()
        self.out_channels = out_channels or 2 * channels
        self.trunk = ResNetTrunk(in_channels, (channels, 2 * channels, 4 * channels), blocks)
        self.up = Up((channels, 4 * channels), 4 * channels)
        self.last = nn.Sequential(*_conv(4 * channels, self.out_channels))
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) to (B, out_channels, Y, X)."""
        first, _, last = self.trunk(x)
        return self.last(_enlarge(self.up((first, last)), x.shape[2:]))


@MODELS.register_module()
class TinyEncoder(nn.Module):
    """Two residual blocks, the second of which halves; both are stacked and brought together.

    Attributes:
        out_channels: of the result.

    Args:
        in_channels: of the map.
        channels: of the two blocks.
        out_channels: of the result.
    """

    def __init__(self, in_channels: int, channels: Sequence[int] = (48, 64), out_channels: int = 64):
        super().__init__()
        self.out_channels = out_channels
        self.stage1 = BasicBlock(in_channels, channels[0])
        self.stage2 = BasicBlock(channels[0], channels[1], 2)
        self.last = nn.Sequential(*_conv(sum(channels), out_channels))
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) to (B, out_channels, Y, X)."""
        fine = self.stage1(x)
        return self.last(torch.cat([fine, _enlarge(self.stage2(fine), fine.shape[2:])], dim=1))


class ResNetTrunk(nn.Module):
    """The stem of a ResNet without its maximum, and three stages of strides 1, 2, 2.

    Args:
        in_channels: of the map.
        channels: of the stages; the stem has those of the first.
        blocks: of each stage.

    Raises:
        ConfigError: a stage without a block.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], blocks: Sequence[int] = (2, 2, 2)):
        super().__init__()
        check_positive('ResNetTrunk', blocks=min(blocks))
        self.conv1 = nn.Conv2d(in_channels, channels[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        for number, (a, b, count) in enumerate(zip((channels[0], *channels), channels, blocks), start=1):
            stage = [BasicBlock(a, b, 1 if number == 1 else 2), *(BasicBlock(b, b) for _ in range(count - 1))]
            self.add_module(f'layer{number}', nn.Sequential(*stage))
        init_convs(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, Y, X) to the outputs of the stages, a half, quarter and eighth of the size."""
        x, maps = F.relu(self.bn1(self.conv1(x)), inplace=True), []
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
            maps.append(x)
        return maps


def _conv(in_channels: int, channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


def _enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinearly, corners on corners as all published encoders do."""
    return F.interpolate(x, tuple(size), mode='bilinear', align_corners=True)
