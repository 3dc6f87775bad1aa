"""StyleGAN3's generators T and R in plain PyTorch: what they draw moves with their features, not with the pixels.

T. Karras et al. Alias-Free Generative Adversarial Networks, NeurIPS 2021. B images, C channels, D of a latent. Signals
are sampled with a margin around the image; each layer doubles the rate before its nonlinearity and filters afterwards.
No operator is compiled: filters are depthwise convolutions with a stride, a batch shares one ungrouped convolution.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from scipy.signal import firwin, kaiser_atten, kaiser_beta
from scipy.special import j1
from torch import Tensor, nn

from perception.plugins.gan.models.generator import Generator, Synthesis
from perception.plugins.gan.models.layers import GAIN, SLOPE, EqualLinear
from perception.plugins.gan.models.stylegan2 import check_size
from perception.registry import MODELS
from perception.utils.errors import ConfigError

MARGIN = 10  # samples around an image
TAPS = 6  # of a filter, for each sample of the lower rate
CLAMP = 256.0
FIRST_CUTOFF, FIRST_STOP, LAST_STOP = 2.0, 2 ** 2.1, 2 ** 0.3


@dataclass(frozen=True)
class Signal:
    """How the result of a layer is sampled.

    Attributes:
        rate: samples from one border of the image to the other.
        size: samples with the margin.
        cutoff: frequency that filters keep, in waves from border to border.
        width: half the width of their transition.
    """
    rate: int
    size: int
    cutoff: float
    width: float


def signals(size: int, layers: int, critical: int) -> list[Signal]:
    """Of each layer in turn, the last one being that of colours.

    Args:
        size: of the images.
        layers: without that of colours.
        critical: the last ones of them, which keep all that their rate can hold.
    """
    share = np.minimum(np.arange(layers + 1) / (layers - critical), 1)
    cutoffs = FIRST_CUTOFF * (size / 2 / FIRST_CUTOFF) ** share
    stops = FIRST_STOP * (size / 2 * LAST_STOP / FIRST_STOP) ** share
    rates = np.exp2(np.ceil(np.log2(np.minimum(2 * stops, size)))).astype(int)
    widths = np.maximum(stops, rates / 2) - cutoffs
    sizes = [*(int(rate) + 2 * MARGIN for rate in rates[:-2]), size, size]
    return [Signal(int(rate), side, float(cutoff), float(width))
            for rate, side, cutoff, width in zip(rates, sizes, cutoffs, widths)]


def low_pass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor:
    """A filter of Kaiser's window whose sum is 1: (taps,) for both directions, or (taps, taps) if it is radial.

    Args:
        taps: even where it is radial.
        cutoff, width: frequency, and width of the whole transition.
        rate: at which it is applied.
        radial: the same in all directions.
    """
    if not radial:
        return torch.from_numpy(firwin(taps, cutoff, width=width, fs=rate)).float()
    places = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(*np.meshgrid(places, places))
    window = np.kaiser(taps, kaiser_beta(kaiser_atten(taps, width / (rate / 2))))
    found = j1(2 * cutoff * np.pi * radius) / (np.pi * radius) * np.outer(window, window)
    return torch.from_numpy(found / found.sum()).float()


def filtered_leaky_relu(x: Tensor, rise: Tensor, fall: Tensor, up: int, down: int, pad: int) -> Tensor:
    """A leaky ReLU of gain sqrt(2) at a higher rate, with filters before and after it.

    Args:
        x: (B, C, H, W).
        rise: (T,) filter behind the zeros between samples.
        fall: (S,) or (S, S) filter before samples are left out.
        up, down: factors of the rate.
        pad: zeros at the left and at the top before `rise`; at the right and at the bottom 1 - up more.

    Returns:
        (B, C, h, w).
    """
    channels, cut, taps = x.shape[1], len(rise) - 1 - pad, rise * up
    x = F.conv_transpose2d(x, taps.expand(channels, 1, 1, -1), stride=(1, up), padding=(0, cut), groups=channels)
    x = F.conv_transpose2d(x, taps[:, None].expand(channels, 1, -1, 1), stride=(up, 1), padding=(cut, 0),
                           groups=channels)
    x = (F.leaky_relu(x, SLOPE) * GAIN).clamp(-CLAMP, CLAMP)
    if fall.ndim == 2:
        return F.conv2d(x, fall.expand(channels, 1, -1, -1), stride=down, groups=channels)
    x = F.conv2d(x, fall.expand(channels, 1, 1, -1), stride=(1, down), groups=channels)
    return F.conv2d(x, fall[:, None].expand(channels, 1, -1, 1), stride=(down, 1), groups=channels)


class FourierInput(nn.Module):
    """Waves of random frequencies, turned and moved by the latent, and mixed.

    Args:
        channels: that go.
        frequencies: waves.
        style_dim: D.
        signal: how they are sampled.
    """

    def __init__(self, channels: int, frequencies: int, style_dim: int, signal: Signal):
        super().__init__()
        drawn = torch.randn(frequencies, 2)
        radius = drawn.square().sum(1, keepdim=True).sqrt()
        self.register_buffer('freqs', signal.cutoff * drawn / (radius * radius.square().exp() ** 0.25))
        self.register_buffer('phases', torch.rand(frequencies) - 0.5)
        self.register_buffer('transform', torch.eye(3))
        self.weight = nn.Parameter(torch.randn(channels, frequencies))
        self.affine = EqualLinear(style_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias[0] = 1
        self.signal = signal

    def forward(self, w: Tensor) -> Tensor:
        """Latents (B, D) to (B, C, size, size)."""
        turn, rate, side = self.affine(w), self.signal.rate, self.signal.size
        cos, sin, right, below = (turn / turn[:, :2].norm(dim=1, keepdim=True)).T
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rotate = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)
        move = torch.stack([one, zero, -right, zero, one, -below, zero, zero, one], 1).view(-1, 3, 3)
        whole = rotate @ move @ self.transform
        phases = self.phases + (self.freqs @ whole[:, :2, 2:]).squeeze(2)
        freqs = self.freqs @ whole[:, :2, :2]  # (B, F, 2)
        fading = 1 - (freqs.norm(dim=2) - self.signal.cutoff) / (rate / 2 - self.signal.cutoff)
        line = (torch.arange(side, device=w.device, dtype=w.dtype) + 0.5 - side / 2) / rate  # 0 in the middle
        waves = line * freqs[:, :, :1], line * freqs[:, :, 1:] + phases[:, :, None]
        waves = torch.sin(2 * math.pi * (waves[0][:, :, None] + waves[1][..., None])) * fading.clamp(0, 1)[
            ..., None, None]
        return torch.einsum('cf,bfhw->bchw', self.weight / math.sqrt(self.weight.shape[1]), waves)


class SynthesisLayer(nn.Module):
    """A modulated convolution, then a nonlinearity at twice the higher rate, filtered before and after.

    Args:
        inputs: channels that come.
        outputs: channels that go.
        style_dim: D.
        source: how what comes is sampled.
        signal: how what goes is sampled.
        kernel: rows and columns.
        radial: the filter after the nonlinearity is radial.
        colours: the last layer, a plain modulated convolution.
        decay: of the running mean of what comes, squared.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int, source: Signal, signal: Signal, kernel: int,
                 radial: bool, colours: bool, decay: float):
        super().__init__()
        self.affine = EqualLinear(style_dim, inputs, bias=1)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer('magnitude_ema', torch.ones(()))
        self.colours, self.decay = colours, decay
        if colours:
            return
        rate = 2 * max(source.rate, signal.rate)
        self.up, self.down = rate // source.rate, rate // signal.rate
        rise = low_pass(TAPS * self.up, source.cutoff, 2 * source.width, rate)
        fall = low_pass(TAPS * self.down, signal.cutoff, 2 * signal.width, rate, radial)
        self.register_buffer('rise', rise, persistent=False)
        self.register_buffer('fall', fall, persistent=False)
        total = (signal.size - 1) * self.down + 1 - (source.size + kernel - 1) * self.up + len(rise) + len(fall) - 2
        self.pad = (total + self.up) // 2  # the other side has 1 - up more

    def forward(self, x: Tensor, w: Tensor, track: bool = False) -> Tensor:
        """(B, inputs, H, W) and latents (B, D) to (B, outputs, h, w).

        Args:
            x: features.
            w: latents.
            track: follow the running magnitude of what comes.
        """
        if track:
            now = x.detach().float().square().mean()
            all_reduce(now, 'mean')
            self.magnitude_ema.copy_(now.lerp(self.magnitude_ema, self.decay))
        style, weight, gain = self.affine(w), self.weight, self.magnitude_ema.rsqrt()
        if self.colours:
            x = F.conv2d(x * (style * gain / math.sqrt(x.shape[1]))[:, :, None, None], weight)
            return (x + self.bias[:, None, None]).clamp(-CLAMP, CLAMP)
        weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        style = style * style.square().mean().rsqrt()
        x = F.conv2d(x * (style * gain)[:, :, None, None], weight, padding=weight.shape[-1] - 1)
        scale = (style.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()
        x = x * scale[:, :, None, None] + self.bias[:, None, None]
        return filtered_leaky_relu(x, self.rise, self.fall, self.up, self.down, self.pad)


@MODELS.register_module()
class StyleGAN3(Generator):
    """The generator T, or R with `kernel=1`, `radial=True`, and the double `base` and `most`.

    Args:
        size: of the images, a power of 2.
        style_dim: D.
        num_mlp: linear layers from z to w, or the widths between them.
        lr_mlp: of their learning rate.
        num_layers: without that of colours.
        critical: the last layers, which keep all that their rate can hold.
        base, most: channels of a layer are base / 2 / cutoff, at most `most`.
        channels: of the input and of each layer in turn, in place of the published ones; a student's.
        frequencies: waves of the input; None for as many as it has channels. A student keeps those of its teacher.
        kernel: rows and columns of the convolutions, 1 or 3.
        radial: radial filters after the nonlinearity, but in critical layers.
        decay: of the running magnitudes, 0.5 ^ (images of a batch / 20,000).
        truncation: how far latents of predictions go from their mean, 1 for as they are.
        data_preprocessor: see mmengine's BaseModel; None takes bytes to -1..1.

    Raises:
        ConfigError: sizes, layers or channels that cannot be.
    """

    def __init__(self, size: int = 256, style_dim: int = 512, num_mlp: int | Sequence[int] = 2, lr_mlp: float = 0.01,
                 num_layers: int = 14, critical: int = 2, base: int = 32768, most: int = 512,
                 channels: Sequence[int] | None = None, frequencies: int | None = None, kernel: int = 3,
                 radial: bool = False, decay: float = 0.5 ** (16 / 20000), truncation: float = 1.0,
                 data_preprocessor: dict | nn.Module | None = None):
        super().__init__(size, style_dim, num_mlp, lr_mlp, truncation, data_preprocessor)
        check_size('StyleGAN3', size)
        if not 1 <= critical < num_layers - 1 or kernel not in (1, 3) or size < 16:
            raise ConfigError(f'StyleGAN3: size={size}, num_layers={num_layers}, critical={critical}, kernel={kernel}, '
                              'expected 16 pixels or more, fewer critical layers than others, and a kernel of 1 or 3. '
                              'Correct them.')
        ways = signals(size, num_layers, critical)
        if channels is None:
            widths = [int(np.rint(min(base / 2 / way.cutoff, most))) for way in ways[:-1]]
            channels = [widths[0], *widths]
        if len(channels) != num_layers + 1 or min(channels) < 1:
            raise ConfigError(f'StyleGAN3: channels={list(channels)}, expected {num_layers + 1} positive numbers, of '
                              'the input and of each layer. Correct them.')
        self.channels, self.num_latents = tuple(channels), num_layers + 2
        if (frequencies is not None and frequencies < 1) or not 0 <= decay < 1:
            raise ConfigError(f'StyleGAN3: frequencies={frequencies}, decay={decay}, expected a wave or more, and 0 or '
                              'more, below 1. Correct them.')
        self.input = FourierInput(channels[0], frequencies or channels[0], style_dim, ways[0])
        self.layers = nn.ModuleList(
            SynthesisLayer(inputs, outputs, style_dim, ways[max(i - 1, 0)], ways[i], 1 if i == num_layers else kernel,
                           radial and i < num_layers - critical, i == num_layers, decay)
            for i, (inputs, outputs) in enumerate(zip(channels, [*channels[1:], 3])))

    @property
    def modulations(self) -> list[Tensor]:
        """The matrix (rows, D) of each layer but that of colours."""
        return [layer.affine.weight for layer in self.layers[:-1]]

    @property
    def readers(self) -> list[Tensor]:
        """The weight (O, C, k, k) that reads each entry of `channels`."""
        return [layer.weight for layer in self.layers]

    def slices(self, kept: Sequence[Tensor]) -> dict[str, Tensor]:
        """Weights of the synthesis with some channels alone; arguments as of `Generator.slices`."""
        weights = {name: value for name, value in self.state_dict().items() if not name.startswith('style.')}
        weights['input.weight'] = weights['input.weight'][kept[0]]
        for i, (inputs, outputs) in enumerate(zip(kept, [*kept[1:], torch.arange(3)])):
            weights[f'layers.{i}.weight'] = weights[f'layers.{i}.weight'][outputs][:, inputs]
            weights[f'layers.{i}.bias'] = weights[f'layers.{i}.bias'][outputs]
            for part in ('weight', 'bias'):
                weights[f'layers.{i}.affine.{part}'] = weights[f'layers.{i}.affine.{part}'][inputs]
        return weights

    def synthesis(self, latents: Tensor, noise: Sequence[Tensor | None] | None = None,
                  track: bool = False) -> Synthesis:
        """Images of latents; arguments as of `Generator.synthesis`, there is no noise."""
        x, features = self.input(latents[:, 0]), []
        for i, layer in enumerate(self.layers):
            x = layer(x, latents[:, i + 1], track)
            features.append(x)
        image = 0.25 * features.pop()
        return Synthesis(image, [image], features)
