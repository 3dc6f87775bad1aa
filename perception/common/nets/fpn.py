"""Feature Pyramid Networks for Object Detection (FPN): maps of all sizes that know what the coarsest one knows.

Tsung-Yi Lin, Piotr Dollar, Ross Girshick, Kaiming He, Bharath Hariharan, Serge Belongie. CVPR 2017. Layers are named
as in mmdet, whose weights load.

Shapes: B samples, maps H_i x W_i, finest first.
"""
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from perception.common.nets.blocks import conv_bn_relu, init_convs
from perception.registry import MODELS
from perception.utils.errors import ConfigError


@MODELS.register_module()
class FPN(nn.Module):
    """Lateral 1 x 1 convolutions, sums from coarse to fine, 3 x 3 convolutions.

    Coarse maps are enlarged to the size of the finer ones, which need not be twice theirs, by the nearest cell, as in
    mmdet.

    Attributes:
        out_channels: of every output.

    Args:
        in_channels: of the inputs, finest first.
        channels: of every output.
        outputs: how many; None as many as inputs. Further ones are halves of the last one.
        extra_convs: halve by convolutions with stride 2, not by leaving out every second cell.
        norm: arguments of BatchNorm2d; then every convolution has one and an activation. None: neither, but a bias.
        finest_only: give the finest output alone, not in a list; the others have no 3 x 3 convolution (BEVDet).

    Raises:
        ConfigError: fewer outputs than inputs, or more where the finest one alone is wanted.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256, outputs: int | None = None,
                 extra_convs: bool = False, norm: dict | None = None, finest_only: bool = False):
        super().__init__()
        self.out_channels, self.finest_only = channels, finest_only
        self.extra = 0 if outputs is None else outputs - len(in_channels)
        if self.extra < 0 or (finest_only and self.extra):
            raise ConfigError(f'FPN: {outputs} outputs of {len(in_channels)} inputs, expected at least as many, and '
                              'as many with finest_only. Leave the coarsest inputs, or outputs, out.')
        self.lateral_convs = nn.ModuleList(_layer(n, channels, 1, 1, norm) for n in in_channels)
        self.fpn_convs = nn.ModuleList(_layer(channels, channels, 3, 1, norm)
                                       for _ in (in_channels[:1] if finest_only else in_channels))
        if extra_convs:
            self.fpn_convs.extend(_layer(channels, channels, 3, 2, norm) for _ in range(self.extra))
        init_convs(self)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor] | Tensor:
        """(B, in_channels[i], H_i, W_i) to (B, channels, H_i, W_i), and the further ones; or the first one alone."""
        maps = [layer(x) for layer, x in zip(self.lateral_convs, inputs, strict=True)]
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], maps[i - 1].shape[2:])
        outputs = [layer(x) for layer, x in zip(self.fpn_convs, maps)]
        if self.finest_only:
            return outputs[0]
        for i in range(len(maps), len(maps) + self.extra):
            more = i < len(self.fpn_convs)
            outputs.append(self.fpn_convs[i](outputs[-1]) if more else outputs[-1][..., ::2, ::2])
        return outputs


def _layer(in_channels: int, channels: int, kernel_size: int, stride: int, norm: dict | None) -> nn.Module:
    if norm is not None:
        return conv_bn_relu(in_channels, channels, kernel_size, stride, norm)
    layer = nn.Sequential()
    layer.add_module('conv', nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2))
    return layer
