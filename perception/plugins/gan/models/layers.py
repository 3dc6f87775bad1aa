"""Layers of StyleGAN2 in plain PyTorch; the names of weights are those of rosinality's stylegan2-pytorch.

T. Karras et al. Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020. B images, C channels, D of a latent.

A modulated convolution scales its input and its output in place of its weights, so that a batch shares one weight and
one ungrouped convolution; blurs are separable. Results equal the published form to 3e-6, derivatives of any order are
those of PyTorch.
"""
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.utils.errors import ConfigError

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)  # of the blur, in each direction
SLOPE, GAIN = 0.2, math.sqrt(2)


def scaled_leaky_relu(x: Tensor, bias: Tensor) -> Tensor:
    """sqrt(2) leaky_relu(x + bias), the bias (C,) along the second dimension."""
    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), SLOPE) * GAIN


def blur(x: Tensor, pad: int, gain: float = 1.0, stride: int = 1) -> Tensor:
    """Blur with TAPS in both directions.

    Args:
        x: (B, C, H, W).
        pad: rows and columns of zeros on each side.
        gain: sum of the kernel.
        stride: of the result.

    Returns:
        (B, C, h, w), h = (H + 2 pad - 4) // stride + 1.
    """
    channels = x.shape[1]
    taps = x.new_tensor(TAPS) * math.sqrt(gain)
    rows = F.conv2d(x, taps.view(1, 1, 4, 1).expand(channels, 1, 4, 1), None, (stride, 1), (pad, 0), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, 1, 4).expand(channels, 1, 1, 4), None, (1, stride), (0, pad),
                    groups=channels)


def gaussian(x: Tensor, width: float) -> Tensor:
    """x (B, C, H, W) through a kernel 2 ** -(distance / width) ** 2 of up to three widths [pixel], zeros outside."""
    reach, channels = math.floor(3 * width), x.shape[1]
    if reach < 1:
        return x
    taps = torch.exp2(-(torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / width).square())
    taps = (taps / taps.sum()).view(1, 1, -1, 1).expand(channels, -1, -1, -1)
    x = F.conv2d(x, taps, padding=(reach, 0), groups=channels)
    return F.conv2d(x, taps.transpose(2, 3), padding=(0, reach), groups=channels)


def upsample(x: Tensor) -> Tensor:
    """Twice the size: zeros between pixels, then the blur with a gain of 4; (B, C, H, W) to (B, C, 2H, 2W)."""
    taps = x.new_tensor(TAPS) * 2
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class PixelNorm(nn.Module):
    """Latents (B, D) of mean square 1."""

    def forward(self, x: Tensor) -> Tensor:
        """x / sqrt(mean x^2)."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """A linear layer whose weights are of deviation 1 / lr_mul and scaled when they are used.

    Args:
        inputs: features that come.
        outputs: features that go.
        bias: at the beginning.
        lr_mul: of the learning rate.
        activation: with a leaky ReLU of gain sqrt(2) after it.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, lr_mul: float = 1.0, activation: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_mul)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.scale, self.lr_mul, self.activation = lr_mul / math.sqrt(inputs), lr_mul, activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        if self.activation:
            return scaled_leaky_relu(F.linear(x, self.weight * self.scale), self.bias * self.lr_mul)
        return F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)


class EqualConv(nn.Module):
    """A convolution without bias whose weights are of deviation 1 and scaled when they are used.

    Args:
        inputs: channels that come.
        outputs: channels that go.
        kernel: rows and columns.
        stride: of the result.
        padding: rows and columns of zeros on each side.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale, self.stride, self.padding = 1 / math.sqrt(inputs * kernel ** 2), stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, h, w)."""
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class Activation(nn.Module):
    """Bias and leaky ReLU of gain sqrt(2) on (B, C, ...)."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return scaled_leaky_relu(x, self.bias)


class Noise(nn.Module):
    """Adds noise with a learned strength."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """x + strength * noise.

        Args:
            x: (B, C, H, W).
            noise: (B or 1, 1, H, W); None draws it.
        """
        if noise is None:
            noise = x.new_empty(len(x), 1, *x.shape[2:]).normal_()
        return x + self.weight * noise


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose results are scaled to deviation 1 again.

    Args:
        inputs: channels that come.
        outputs: channels that go.
        kernel: rows and columns, odd.
        style_dim: D.
        demodulate: scale results.
        up: double the size, with a blur.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style_dim: int, demodulate: bool = True,
                 up: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(style_dim, inputs, bias=1)
        self.scale, self.padding = 1 / math.sqrt(inputs * kernel ** 2), kernel // 2
        self.demodulate, self.up = demodulate, up

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, inputs, H, W) and latents (B, D) to (B, outputs, H or 2H, ...)."""
        style, weight = self.modulation(w), self.weight[0] * self.scale
        if self.demodulate and torch.is_autocast_enabled(x.device.type):  # else half precision may overflow
            style = style / style.detach().abs().amax(1, keepdim=True).clamp(min=1e-8)
            weight = weight / weight.detach().abs().amax().clamp(min=1e-8)
        x = x * style[:, :, None, None]
        if self.up:
            x = blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), pad=1, gain=4)
        else:
            x = F.conv2d(x, weight, padding=self.padding)
        if self.demodulate:
            with torch.autocast(x.device.type, enabled=False):
                power = style.float().square() @ weight.float().square().sum((2, 3)).T
            x = x * torch.rsqrt(power + 1e-8)[:, :, None, None].to(x.dtype)
        return x


class StyledConv(nn.Module):
    """Modulated convolution, noise, activation; arguments as of ModulatedConv."""

    def __init__(self, inputs: int, outputs: int, kernel: int, style_dim: int, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, kernel, style_dim, up=up)
        self.noise = Noise()
        self.activate = Activation(outputs)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, inputs, H, W), latents (B, D) and noise to (B, outputs, H or 2H, ...)."""
        return self.activate(self.noise(self.conv(x, w), noise))


class ToRGB(nn.Module):
    """Colours of features, added to those of half the size.

    Args:
        inputs: channels that come.
        style_dim: D.
    """

    def __init__(self, inputs: int, style_dim: int):
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, C, H, W), latents (B, D) and maybe (B, 3, H/2, W/2) to (B, 3, H, W)."""
        rgb = self.conv(x, w) + self.bias
        return rgb if skip is None else rgb + upsample(skip)


class ConstantInput(nn.Module):
    """The learned beginning of all images, (1, C, 4, 4)."""

    def __init__(self, channels: int):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        """(B, C, 4, 4)."""
        return self.input.repeat(batch, 1, 1, 1)


def mapping_layers(style_dim: int, layers: int | Sequence[int], lr_mul: float) -> nn.Sequential:
    """Normalisation and linear layers from z to w, with rosinality's names `1`, `2`, ...

    Args:
        style_dim: D of both.
        layers: how many, or the widths between them.
        lr_mul: of their learning rate.

    Raises:
        ConfigError: no layer, or a number that is not positive.
    """
    if not (style_dim > 0 and lr_mul > 0 and (layers > 0 if isinstance(layers, int) else min(layers, default=1) > 0)):
        raise ConfigError(f'generator: style_dim={style_dim}, num_mlp={layers}, lr_mlp={lr_mul}, expected positive '
                          'numbers. Correct them.')
    widths = [style_dim] * (layers + 1) if isinstance(layers, int) else [style_dim, *layers, style_dim]
    return nn.Sequential(PixelNorm(), *(EqualLinear(a, b, lr_mul=lr_mul, activation=True)
                                        for a, b in zip(widths, widths[1:])))
