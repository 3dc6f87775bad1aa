"""Searching for MobileNetV3, its small form.

Andrew Howard, Mark Sandler, Grace Chu, Liang-Chieh Chen, Bo Chen, Mingxing Tan, Weijun Wang, Yukun Zhu, Ruoming Pang,
Vijay Vasudevan, Quoc V. Le, Hartwig Adam. ICCV 2019. Names are torchvision's.

Shapes: B images of H x W pixels.
"""
from functools import partial

from torch import Tensor, nn

from perception.prune.models.blocks import SqueezeExcitation, conv_norm, init_mobile, round_to

# kernel, hidden, channels, squeeze-and-excitation, hard-swish, stride (table 2)
ROWS = ((3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1))
NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand, a depth-wise convolution, gates, reduce; added to the input where the shape allows.

    Args:
        in_channels: of the input.
        kernel: of the depth-wise convolution.
        hidden: channels of it.
        out_channels: of the output.
        gated: with a squeeze-and-excitation block.
        hard_swish: as activation, else ReLU.
        stride: of the depth-wise convolution.
    """

    def __init__(self, in_channels: int, kernel: int, hidden: int, out_channels: int, gated: bool, hard_swish: bool,
                 stride: int):
        super().__init__()
        act = nn.Hardswish if hard_swish else nn.ReLU
        self.add = stride == 1 and in_channels == out_channels
        layers: list[nn.Module] = []
        if hidden != in_channels:
            layers.append(conv_norm(in_channels, hidden, 1, act=act, norm=NORM))
        layers.append(conv_norm(hidden, hidden, kernel, stride, hidden, act, NORM))
        if gated:
            layers.append(SqueezeExcitation(hidden, round_to(hidden / 4), gate=nn.Hardsigmoid))
        self.block = nn.Sequential(*layers, conv_norm(hidden, out_channels, 1, act=None, norm=NORM))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h/stride, w/stride)."""
        return x + self.block(x) if self.add else self.block(x)


class MobileNetV3Small(nn.Module):
    """The net with its classifier.

    Args:
        num_classes: C.
        width: ratio of all widths, rounded to multiples of 8.
        dropout: before the last layer.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, dropout: float = 0.2):
        super().__init__()
        channels = round_to(16 * width)
        layers = [conv_norm(3, channels, stride=2, act=nn.Hardswish, norm=NORM)]
        for kernel, hidden, base, gated, hard_swish, stride in ROWS:
            out = round_to(base * width)
            layers.append(InvertedResidual(channels, kernel, round_to(hidden * width), out, gated, hard_swish, stride))
            channels = out
        self.features = nn.Sequential(*layers, conv_norm(channels, 6 * channels, 1, act=nn.Hardswish, norm=NORM))
        last = round_to(1024 * width)
        self.classifier = nn.Sequential(nn.Linear(6 * channels, last), nn.Hardswish(), nn.Dropout(dropout),
                                        nn.Linear(last, num_classes))
        init_mobile(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C) logits."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))
