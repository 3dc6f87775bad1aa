"""EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, B0.

Mingxing Tan, Quoc V. Le. ICML 2019. Names are torchvision's.

Shapes: B images of H x W pixels.
"""
from torch import Tensor, nn

from perception.prune.models.blocks import SqueezeExcitation, conv_norm, drop_path, init_mobile, round_to

# expansion, kernel, stride of the first block, channels, blocks (table 1)
ROWS = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1))


class MBConv(nn.Module):
    """Expand, a depth-wise convolution, gates, reduce; added to the input where the shape allows.

    Args:
        in_channels: of the input, a quarter of which the gates squeeze to.
        out_channels: of the output.
        kernel: of the depth-wise convolution.
        stride: of it.
        expansion: hidden channels are so many times those of the input.
        drop: probability that a sample's branch is dropped.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, drop: float):
        super().__init__()
        hidden = in_channels * expansion
        self.add, self.drop = stride == 1 and in_channels == out_channels, drop
        self.block = nn.Sequential(
            *([conv_norm(in_channels, hidden, 1, act=nn.SiLU)] if expansion > 1 else []),
            conv_norm(hidden, hidden, kernel, stride, hidden, nn.SiLU),
            SqueezeExcitation(hidden, max(1, in_channels // 4), act=nn.SiLU),
            conv_norm(hidden, out_channels, 1, act=None))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h/stride, w/stride)."""
        return x + drop_path(self.block(x), self.drop, self.training) if self.add else self.block(x)


class EfficientNetB0(nn.Module):
    """The net with its classifier.

    Args:
        num_classes: C.
        width: ratio of all widths, rounded to multiples of 8.
        dropout: before the classifier.
        drop_path: probability that the last block's branch is dropped; it grows linearly to this.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, dropout: float = 0.2, drop_path: float = 0.2):
        super().__init__()
        channels, count, total = round_to(32 * width), 0, sum(row[-1] for row in ROWS)
        layers = [conv_norm(3, channels, stride=2, act=nn.SiLU)]
        for expansion, kernel, stride, base, blocks in ROWS:
            stage, out = nn.Sequential(), round_to(base * width)
            for i in range(blocks):
                stage.append(MBConv(channels, out, kernel, stride if i == 0 else 1, expansion,
                                    drop_path * count / total))
                channels, count = out, count + 1
            layers.append(stage)
        self.features = nn.Sequential(*layers, conv_norm(channels, 4 * channels, 1, act=nn.SiLU))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * channels, num_classes))
        init_mobile(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C) logits."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))
