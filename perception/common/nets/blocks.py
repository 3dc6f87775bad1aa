"""Convolution, batch normalisation and activation as one layer, with the names that mmcv's ConvModule gives them."""
from collections import OrderedDict
from math import ceil, log2

import torch.nn.functional as F
from torch import Tensor, nn

NORM = dict(eps=1e-3, momentum=0.01)  # of the nets that see LiDAR points from above


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1,
                 norm: dict | None = None) -> nn.Sequential:
    """(B, in_channels, H, W) to (B, out_channels, H/stride, W/stride), rounded up: `conv`, `bn`, `relu`.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: odd; the border is padded with zeros.
        stride: of the convolution, which has no bias.
        norm: arguments of BatchNorm2d, None for its defaults.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels, **(norm or {})),
                                     relu=nn.ReLU(inplace=True)))


def cell_size(pixels: int, cells: int) -> float:
    """Pixels that a cell of features stands for, along an axis of an image.

    Nets halve and round up, so where their stride does not divide the image its last cell reaches beyond it.

    Args:
        pixels: of the image.
        cells: of the features.
    """
    stride = 2.0 ** ceil(log2(pixels / cells))
    return stride if ceil(pixels / stride) == cells else pixels / cells


def init_convs(net: nn.Module) -> None:
    """He's initialisation by outgoing connections for every convolution in a net, biases zero."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_last(conv: nn.Conv2d, bias: float = 0.0) -> None:
    """Small weights for the convolution that makes a map, which then starts near its bias everywhere."""
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias, bias)


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation of rows; fewer than two, which have no spread, are normalised as in evaluation."""

    def forward(self, rows: Tensor) -> Tensor:
        """(N, C) to (N, C)."""
        if self.training and len(rows) < 2:
            return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(rows)
