"""MobileNetV2: Inverted Residuals and Linear Bottlenecks.

Mark Sandler, Andrew Howard, Menglong Zhu, Andrey Zhmoginov, Liang-Chieh Chen. CVPR 2018. Names are torchvision's.

Shapes: B images of H x W pixels.
"""
from torch import Tensor, nn

from perception.prune.models.blocks import conv_norm, init_mobile, round_to

# expansion, channels, blocks, stride of the first one (table 2)
ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """Expand by 1 x 1, a depth-wise 3 x 3, reduce by 1 x 1; added to the input where the shape allows.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the depth-wise convolution.
        expansion: hidden channels are so many times those of the input; 1 leaves the first convolution out.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int):
        super().__init__()
        hidden = in_channels * expansion
        self.add = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *([conv_norm(in_channels, hidden, 1)] if expansion > 1 else []),
            conv_norm(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h/stride, w/stride)."""
        return x + self.conv(x) if self.add else self.conv(x)


class MobileNetV2(nn.Module):
    """The net with its classifier.

    Args:
        num_classes: C.
        width: ratio of all widths, rounded to multiples of 8.
        dropout: before the classifier.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, dropout: float = 0.2):
        super().__init__()
        channels = round_to(32 * width)
        layers = [conv_norm(3, channels, stride=2)]
        for expansion, base, blocks, stride in ROWS:
            for i in range(blocks):
                layers.append(InvertedResidual(channels, round_to(base * width), stride if i == 0 else 1, expansion))
                channels = round_to(base * width)
        last = round_to(1280 * max(1.0, width))
        self.features = nn.Sequential(*layers, conv_norm(channels, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        init_mobile(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C) logits."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))
