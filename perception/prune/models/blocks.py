"""What the mobile networks are made of: rounded widths, squeeze-and-excitation; names are torchvision's."""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def round_to(width: float, divisor: int = 8) -> int:
    """The multiple of the divisor nearest to a width, at least the divisor and not below nine tenths of the width."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


def conv_norm(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1,
              act: Callable[[], nn.Module] | None = nn.ReLU6, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
              ) -> nn.Sequential:
    """(B, in_channels, H, W) to (B, out_channels, H/stride, W/stride): convolution, norm and, unless None, activation.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: odd.
        stride: of the convolution.
        groups: of the convolution.
        act: makes the activation.
        norm: makes the norm.
    """
    layers = [nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
              norm(out_channels)]
    return nn.Sequential(*layers, *([act()] if act else []))


class SqueezeExcitation(nn.Module):
    """Gates channels by what the whole map holds (Hu et al., CVPR 2018).

    Attributes:
        squeeze: name of the layer whose width follows from that of the map when the net is pruned.

    Args:
        channels: of the map.
        squeezed: of the hidden layer.
        act: makes its activation.
        gate: makes the gate's.
    """

    squeeze = 'fc1'

    def __init__(self, channels: int, squeezed: int, act: Callable[[], nn.Module] = nn.ReLU,
                 gate: Callable[[], nn.Module] = nn.Sigmoid):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale_activation = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same shape."""
        gates = self.fc2(self.activation(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        return x * self.scale_activation(gates)


def drop_path(x: Tensor, probability: float, training: bool) -> Tensor:
    """Drop the whole branch of some samples (stochastic depth).

    Args:
        x: (B, C, H, W).
        probability: of each sample's branch to be dropped.
        training: nothing is dropped otherwise.
    """
    if not training or not probability:
        return x
    keep = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - probability)
    return x * keep / (1 - probability)


def init_mobile(net: nn.Module) -> None:
    """He's initialisation by outgoing connections of convolutions, small normal weights of linear layers."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out')
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
