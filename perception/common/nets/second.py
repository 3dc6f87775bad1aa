"""SECOND: Sparsely Embedded Convolutional Detection, its convolutions over the map seen from above, and their fusion.

Yan Yan, Yuxing Mao, Bo Li. Sensors 2018. Layers are numbered and named as in mmdet3d, whose weights load.

Shapes: B samples, maps of H rows (along y) and W columns (along x).
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.common.nets.blocks import NORM, init_convs
from perception.registry import MODELS
from perception.utils.errors import ConfigError


@MODELS.register_module()
class SECOND(nn.Module):
    """Stages of 3 x 3 convolutions, each of which may begin with a stride.

    Attributes:
        channels: of the outputs.

    Args:
        in_channels: of the map.
        channels: of the stages.
        layers: of each stage, after the one with its stride.
        strides: of the stages.

    Raises:
        ConfigError: lists of different lengths.
    """

    def __init__(self, in_channels: int, channels: Sequence[int] = (64, 128, 256), layers: Sequence[int] = (3, 5, 5),
                 strides: Sequence[int] = (2, 2, 2)):
        super().__init__()
        _check_lengths('SECOND', channels=channels, layers=layers, strides=strides)
        self.channels = tuple(channels)
        self.blocks = nn.ModuleList(_stage(*stage) for stage in zip((in_channels, *channels), channels, layers,
                                                                    strides))
        init_convs(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) to the output of each stage, whose size is divided by all strides so far."""
        outputs = [x]
        for block in self.blocks:
            outputs.append(block(outputs[-1]))
        return outputs[1:]


@MODELS.register_module()
class SECONDFPN(nn.Module):
    """Brings the outputs of SECOND to one size, each by one layer, and stacks them.

    Attributes:
        out_channels: of the result.

    Args:
        in_channels: of the inputs.
        channels: that each one gives.
        strides: each is enlarged by; 0.5 halves it.
        conv_for_stride_1: a convolution instead of a transposed one for what keeps its size (CenterPoint on voxels).

    Raises:
        ConfigError: lists of different lengths, or a stride that is neither a whole number nor one over it.
    """

    def __init__(self, in_channels: Sequence[int], channels: Sequence[int] = (128, 128, 128),
                 strides: Sequence[float] = (1, 2, 4), conv_for_stride_1: bool = False):
        super().__init__()
        _check_lengths('SECONDFPN', in_channels=in_channels, channels=channels, strides=strides)
        self.out_channels = sum(channels)
        self.deblocks = nn.ModuleList()
        for a, b, stride in zip(in_channels, channels, strides):
            up = stride > 1 or (stride == 1 and not conv_for_stride_1)
            size = stride if up else 1 / stride if stride > 0 else 0
            if size < 1 or abs(size - round(size)) > 1e-6:
                raise ConfigError(f'SECONDFPN: stride {stride}, expected a whole number or one over a whole number, '
                                  'such as 2 or 0.5. Correct strides.')
            conv = (nn.ConvTranspose2d if up else nn.Conv2d)(a, b, round(size), round(size), bias=False)
            self.deblocks.append(nn.Sequential(conv, nn.BatchNorm2d(b, **NORM), nn.ReLU(inplace=True)))
        init_convs(self)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """(B, in_channels[i], H_i, W_i) to (B, out_channels, H, W).

        Raises:
            ConfigError: maps that the strides do not bring to one size.
        """
        maps = [block(x) for block, x in zip(self.deblocks, inputs, strict=True)]
        sizes = sorted({tuple(x.shape[2:]) for x in maps})
        if len(sizes) > 1:
            raise ConfigError(f'SECONDFPN: maps of {" and ".join(f"{h} x {w}" for h, w in sizes)} cells, expected one '
                              'size. Take images or a grid that all strides divide, such as multiples of 32.')
        return torch.cat(maps, dim=1)


def _stage(in_channels: int, channels: int, layers: int, stride: int) -> nn.Sequential:
    modules = []
    for i in range(layers + 1):
        modules += [nn.Conv2d(channels if i else in_channels, channels, 3, 1 if i else stride, 1, bias=False),
                    nn.BatchNorm2d(channels, **NORM), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)


def _check_lengths(where: str, **lists: Sequence) -> None:
    lengths = {name: len(values) for name, values in lists.items()}
    if len({*lengths.values()}) > 1:
        raise ConfigError(f'{where}: {", ".join(f"{n} {name}" for name, n in lengths.items())}, expected equal '
                          'numbers. Give one of each for every stage.')
