"""ERFNet: Efficient Residual Factorized ConvNet for Real-Time Semantic Segmentation.

Eduardo Romera, Jose M. Alvarez, Luis M. Bergasa, Roberto Arroyo. IEEE Transactions on Intelligent Transportation
Systems, 2018. With the existence head of the lane papers (SAD, IntRA-KD).

Shapes: B images of H x W pixels, C = `num_classes`, L = `num_lanes`.
"""
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.lanes.models.base import LaneNet
from perception.lanes.models.heads import LaneExist
from perception.registry import MODELS
from perception.utils.errors import ConfigError

EPS = 1e-3  # of every batch norm
DILATIONS = (2, 4, 8, 16)


@MODELS.register_module()
class ERFNet(LaneNet):
    """The net. Its encoder halves the size three times.

    Taps: `stage1` (B, 4N, H/4, W/4); `stage2`, the first cycle of dilations, and `stage3`, the second, which ends the
    encoder (B, 8N, H/8, W/8); `head_input` (B, N, H/2, W/2); `logits` (B, C, H, W); N = `base_channels`.

    `encoder_classifier` belongs to published weights, which trained the encoder alone first; it never runs.

    Args:
        data_preprocessor: see LaneNet.
        num_classes: see LaneNet.
        num_lanes: see LaneNet.
        input_size: see LaneNet.
        decoder: see LaneNet.
        early_dropout: dropout of `stage1`; 0.03 in the paper, 0.1 in the lane papers' code.
        exist_pool: pooling of the existence head, 'max' or 'avg'.
        exist_channels: see LaneExist.
        base_channels: N, more than 3; the net has N, 4N and 8N channels at half, a quarter and an eighth of the size,
            16, 64 and 128 as published.
        **loss_arguments: see LaneNet.
    """

    size_multiple = 8

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 5, num_lanes: int = 4,
                 input_size: Sequence[int] = (208, 976), decoder: dict | Callable | None = None,
                 early_dropout: float = 0.1, exist_pool: str = 'max',
                 exist_channels: int | None = None, base_channels: int = 16, **loss_arguments):
        super().__init__(data_preprocessor, num_classes, num_lanes, input_size, decoder, **loss_arguments)
        if base_channels < 4:
            raise ConfigError(f'ERFNet: base_channels={base_channels}, expected 4 or more: the first convolution adds '
                              "channels to the image's three. The paper has 16.")
        quarter, eighth = 4 * base_channels, 8 * base_channels
        self.stem = DownBlock(3, base_channels)
        self.stage1 = nn.Sequential(DownBlock(base_channels, quarter),
                                    *(FactorizedBlock(quarter, early_dropout) for _ in range(5)))
        self.stage2 = nn.Sequential(DownBlock(quarter, eighth), *(FactorizedBlock(eighth, 0.1, d) for d in DILATIONS))
        self.stage3 = nn.Sequential(*(FactorizedBlock(eighth, 0.1, d) for d in DILATIONS))
        self.encoder_classifier = nn.Conv2d(eighth, num_classes, 1).requires_grad_(False)
        self.decoder = nn.Sequential(_up_block(eighth, quarter), FactorizedBlock(quarter), FactorizedBlock(quarter),
                                     _up_block(quarter, base_channels), FactorizedBlock(base_channels),
                                     FactorizedBlock(base_channels))
        self.head_input = nn.Identity()
        self.classifier = nn.ConvTranspose2d(base_channels, num_classes, 2, stride=2)
        map_size = [n // 8 for n in self.input_size]
        self.exist = LaneExist(eighth, self.num_lanes, map_size, exist_pool, exist_channels) if self.num_lanes else None

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """See LaneNet."""
        encoded = self.stage3(self.stage2(self.stage1(self.stem(images))))  # (B, 128, H/8, W/8)
        outputs = dict(logits=self.classifier(self.head_input(self.decoder(encoded))))
        if self.exist is not None:
            outputs['exist_logits'] = self.exist(encoded)
        return outputs


class DownBlock(nn.Module):
    """Half the size: a convolution beside a maximum."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels - in_channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(out_channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h/2, w/2)."""
        return F.relu(self.norm(torch.cat([self.conv(x), F.max_pool2d(x, 2)], dim=1)), inplace=True)


class FactorizedBlock(nn.Module):
    """A residual block of two factorised 3 x 3 convolutions, "non-bottleneck-1D" (figure 2c).

    Args:
        channels: of input and output.
        dropout: probability that a channel of the residual is dropped.
        dilation: of the second convolution.
    """

    def __init__(self, channels: int, dropout: float = 0.0, dilation: int = 1):
        super().__init__()
        self.first = nn.Sequential(*_factorized(channels, 1), nn.ReLU(inplace=True))
        self.second = nn.Sequential(*_factorized(channels, dilation), nn.Dropout2d(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to the same shape."""
        return F.relu(x + self.second(self.first(x)), inplace=True)


def _factorized(channels: int, dilation: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)), nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation)),
            nn.BatchNorm2d(channels, eps=EPS)]


def _up_block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1),
                         nn.BatchNorm2d(out_channels, eps=EPS), nn.ReLU(inplace=True))
