"""EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks.

Mingxing Tan, Quoc V. Le. ICML 2019. Layers are numbered and named as in efficientnet-pytorch, whose weights load, and
padded as there: as TensorFlow pads images of the size that the net was published for.

Shapes: B images of H x W pixels.
"""
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.registry import MODELS
from perception.utils.checks import check_choice, check_positive

EPS = 1e-3
SCALES = dict(b0=(1.0, 1.0, 224, 0.2), b4=(1.4, 1.8, 380, 0.4))  # width, depth, image size, dropout (table 8 of code)
STAGES = (  # blocks, kernel, stride, expansion, channels (table 1)
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320))
STEM, LAST = 32, 1280  # channels before and after the blocks


@MODELS.register_module()
class EfficientNet(nn.Module):
    """The net with or without its classifier.

    Attributes:
        channels: of the features at `strides`.
        strides: 2, 4, 8, 16 and 32 of the whole net.

    Args:
        version: 'b0' or 'b4'.
        width: of the channels, as a factor; None that of the version.
        depth: of the numbers of blocks, as a factor; None that of the version.
        num_classes: outputs of the classifier; None leaves it out, with the convolution before it.
        drop_connect: probability that the last block is skipped in training; that of others rises from 0 to it.
        stages: how many of the seven stages of blocks; five end at stride 16.
        momentum: of the running statistics, what a batch weighs in them; the published 0.01 wants some 500 steps.

    Raises:
        ConfigError: another version, another number of stages, or a width or depth of 0.
    """

    def __init__(self, version: str = 'b0', width: float | None = None, depth: float | None = None,
                 num_classes: int | None = None, drop_connect: float = 0.2, stages: int = len(STAGES),
                 momentum: float = 0.01):
        super().__init__()
        check_choice('EfficientNet: version', version, SCALES)
        check_choice('EfficientNet: stages', stages, range(1, len(STAGES) + 1))
        own_width, own_depth, size, dropout = SCALES[version]
        width, depth = own_width if width is None else width, own_depth if depth is None else depth
        check_positive('EfficientNet', width=width, depth=depth)
        blocks, channels = _layout(width, depth, stages)
        self._conv_stem = PaddedConv(3, channels, 3, 2, size)
        self._bn0 = nn.BatchNorm2d(channels, eps=EPS)
        size, features = ceil(size / 2), []
        self._blocks = nn.ModuleList()
        for i, block in enumerate(blocks):
            if block.stride == 2:
                features.append((i - 1, channels))
            self._blocks.append(MBConv(channels, block, size, drop_connect * i / len(blocks)))
            size, channels = ceil(size / block.stride), block.channels
        features.append((len(blocks) - 1, channels))
        self.taps, self.channels = zip(*features)
        self.strides = tuple(2 ** i for i in range(1, len(features) + 1))
        self._conv_head = None
        if num_classes is not None:
            last = _rounded(LAST, width)
            self._conv_head = PaddedConv(channels, last, 1, 1, size)
            self._bn1 = nn.BatchNorm2d(last, eps=EPS)
            self._dropout = nn.Dropout(dropout)
            self._fc = nn.Linear(last, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # by ingoing connections, which groups do not share
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the features at each of `strides`, the last before the stride is applied again."""
        x, found = F.silu(self._bn0(self._conv_stem(images))), []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self.taps:
                found.append(x)
        return found

    def classify(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, num_classes) logits of a net that has a classifier."""
        x = F.silu(self._bn1(self._conv_head(self(images)[-1])))
        return self._fc(self._dropout(x.mean((2, 3))))


class Block(NamedTuple):
    """One inverted bottleneck: kernel size, stride, factor by which it widens inside, channels of its output."""
    kernel: int
    stride: int
    expansion: int
    channels: int


class PaddedConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: unevenly, more to the right and below, if need be.

    Args:
        in_channels: of the input.
        channels: of the output.
        kernel_size: of the convolution.
        stride: of the convolution.
        size: rows and columns of the input for which it is padded so; inputs of other sizes are padded alike.
        groups: of the convolution.
        bias: whether it has one.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int, size: int, groups: int = 1,
                 bias: bool = False):
        super().__init__(in_channels, channels, kernel_size, stride, groups=groups, bias=bias)
        total = max((ceil(size / stride) - 1) * stride + kernel_size - size, 0)
        self.margins = [total // 2, total - total // 2] * 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, channels, h/stride, w/stride), rounded up for sizes like `size`."""
        return super().forward(F.pad(x, self.margins) if any(self.margins) else x)


class MBConv(nn.Module):
    """An inverted bottleneck with squeeze and excitation, skipped at random in training where it has a shortcut.

    Args:
        in_channels: of the input.
        block: its numbers.
        size: of the input, see `PaddedConv`.
        drop: probability that it is skipped for an image.
    """

    def __init__(self, in_channels: int, block: Block, size: int, drop: float = 0.0):
        super().__init__()
        inner, self.drop = in_channels * block.expansion, drop
        self.shortcut = block.stride == 1 and in_channels == block.channels
        self._expand_conv = None
        if block.expansion > 1:
            self._expand_conv = PaddedConv(in_channels, inner, 1, 1, size)
            self._bn0 = nn.BatchNorm2d(inner, eps=EPS)
        self._depthwise_conv = PaddedConv(inner, inner, block.kernel, block.stride, size, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=EPS)
        squeezed = max(1, in_channels // 4)
        self._se_reduce = nn.Conv2d(inner, squeezed, 1)
        self._se_expand = nn.Conv2d(squeezed, inner, 1)
        self._project_conv = PaddedConv(inner, block.channels, 1, 1, size)
        self._bn2 = nn.BatchNorm2d(block.channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, channels, h/stride, w/stride)."""
        out = x if self._expand_conv is None else F.silu(self._bn0(self._expand_conv(x)))
        out = F.silu(self._bn1(self._depthwise_conv(out)))
        gate = self._se_expand(F.silu(self._se_reduce(out.mean((2, 3), keepdim=True))))
        out = self._bn2(self._project_conv(gate.sigmoid() * out))
        if not self.shortcut:
            return out
        if self.training and self.drop:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            out = out * (kept / (1 - self.drop))
        return out + x


def _layout(width: float, depth: float, stages: int) -> tuple[list[Block], int]:
    """The blocks of a scaled net, and the channels of its stem."""
    blocks = []
    for count, kernel, stride, expansion, channels in STAGES[:stages]:
        channels = _rounded(channels, width)
        blocks += [Block(kernel, 1 if i else stride, expansion, channels) for i in range(ceil(count * depth))]
    return blocks, _rounded(STEM, width)


def _rounded(channels: int, width: float) -> int:
    """Scaled channels, rounded to a multiple of 8, and not by more than a tenth downwards."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 * (rounded < 0.9 * scaled)
