"""ResNet-50 with three-dimensional convolutions: the trunk of FM-Net (Hou, Ma, Liu, Loy, AAAI 2019).

Time is never strided. In the published form each output sees frames before and after it; with `causal=True` only those
before it, and then the net can run frame by frame, see `Memory`.

Shapes: B clips of T frames of H x W pixels; features (B, C, T, h, w).
"""
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.registry import MODELS
from perception.utils.checkpoint import load_checkpoint, weights_of
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import CheckpointError, ConfigError
from perception.utils.paths import from_root

EPS = 1e-3  # of the batch normalisation


class Memory:
    """The last input frames of each causal layer, from one piece of a video to the next.

    Layers take their frames in the order in which they run. Without frames it stands for the time before a recording:
    zeros, as a clip is padded.

    Args:
        frames: `frames` of the memory with which the piece before was computed, None at the start of a recording.

    Attributes:
        frames: (B, C, k - 1, h, w) of each layer whose kernel spans k frames, after the net ran.
    """

    def __init__(self, frames: Sequence[Tensor] | None = None) -> None:
        self._past, self.frames = None if frames is None else list(frames), []

    def extend(self, x: Tensor, count: int) -> Tensor:
        """Put the `count` frames before it in front of a layer's input (B, C, T, h, w)."""
        if count == 0:
            return x
        past = x.new_zeros(*x.shape[:2], count, *x.shape[3:]) if self._past is None else \
            self._past[len(self.frames)].to(x.dtype)
        x = torch.cat([past, x], 2)
        self.frames.append(x[:, :, -count:])
        return x


class TimeConv(nn.Conv3d):
    """Convolution over time and space that never strides time.

    Args:
        in_channels, out_channels: of the convolution, which has no bias.
        kernel: frames, rows and columns.
        stride: of rows and columns.
        dilation: of rows and columns.
        padded: rows and columns are padded to keep the size; with False they are not.
        causal: the output at t sees no frame after t.
        bias: whether it has one.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int], stride: int = 1, dilation: int = 1,
                 padded: bool = True, causal: bool = False, bias: bool = False):
        time, *space = kernel
        padding = [dilation * (k // 2) if padded else 0 for k in space]
        super().__init__(in_channels, out_channels, tuple(kernel), (1, stride, stride),
                         (0 if causal else time // 2, *padding), (1, dilation, dilation), bias=bias)
        self.past = time - 1 if causal else 0

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """(B, in_channels, T, h, w) to (B, out_channels, T, h', w')."""
        return super().forward((memory or Memory()).extend(x, self.past))


class TimePool(nn.Module):
    """Maximum over 3 frames, 3 rows and 3 columns, every second row and column; of values that are not negative.

    Args:
        causal: see TimeConv.
    """

    def __init__(self, causal: bool = False):
        super().__init__()
        self.past = 2 if causal else 0

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """(B, C, T, h, w) to (B, C, T, h/2, w/2), rounded up."""
        x = (memory or Memory()).extend(x, self.past)
        return F.max_pool3d(x, 3, (1, 2, 2), (0 if self.past else 1, 1, 1))


class Norm(nn.BatchNorm3d):
    """Batch normalisation; with `batch_statistics` also evaluation takes the statistics of its batch.

    Args:
        channels: of the features.
        batch_statistics: what the released code does at test time; results then depend on the batch.
    """

    def __init__(self, channels: int, batch_statistics: bool = False):
        super().__init__(channels, eps=EPS)
        self.batch_statistics = batch_statistics

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, h, w) to the same."""
        if self.batch_statistics and not self.training:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(x)


class Bottleneck3d(nn.Module):
    """A 3 x 3 x 3 convolution `b` between two of one position, `a` and `c`, beside a `shortcut`.

    Args:
        in_channels: of the input.
        width: channels of `b`; the output has four times as many.
        stride: of rows and columns, in `a` (style 'caffe', published) or in `b` ('pytorch').
        dilation: of rows and columns in `b`.
        style: see stride.
        causal: see TimeConv.
        batch_statistics: see Norm.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1, style: str = 'caffe',
                 causal: bool = False, batch_statistics: bool = False):
        super().__init__()
        first, second = (stride, 1) if style == 'caffe' else (1, stride)
        self.a = nn.Conv3d(in_channels, width, 1, (1, first, first), bias=False)
        self.norm_a = Norm(width, batch_statistics)
        self.b = TimeConv(width, width, (3, 3, 3), second, dilation, causal=causal)
        self.norm_b = Norm(width, batch_statistics)
        self.c = nn.Conv3d(width, 4 * width, 1, bias=False)
        self.norm_c = Norm(4 * width, batch_statistics)
        self.shortcut = self.norm_shortcut = None
        if stride > 1 or in_channels != 4 * width:
            self.shortcut = nn.Conv3d(in_channels, 4 * width, 1, (1, stride, stride), bias=False)
            self.norm_shortcut = Norm(4 * width, batch_statistics)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """(B, in_channels, T, h, w) to (B, 4 width, T, h/stride, w/stride)."""
        out = F.relu(self.norm_a(self.a(x)), inplace=True)
        out = F.relu(self.norm_b(self.b(out, memory)), inplace=True)
        aside = x if self.shortcut is None else self.norm_shortcut(self.shortcut(x))
        return F.relu(self.norm_c(self.c(out)) + aside, inplace=True)


class Stage(nn.ModuleList):
    """Bottlenecks in turn."""

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """(B, C, T, h, w) to (B, C', T, h', w')."""
        for block in self:
            x = block(x, memory)
        return x


class Stem(nn.Module):
    """The first convolution, normalised: 7 x 7 x 7, every second row and column.

    Args:
        channels: of the output.
        causal: see TimeConv.
        batch_statistics: see Norm.
    """

    def __init__(self, channels: int, causal: bool = False, batch_statistics: bool = False):
        super().__init__()
        self.conv = TimeConv(3, channels, (7, 7, 7), 2, causal=causal)
        self.norm = Norm(channels, batch_statistics)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """(B, 3, T, H, W) to (B, channels, T, H/2, W/2)."""
        return F.relu(self.norm(self.conv(x, memory)), inplace=True)


@MODELS.register_module()
class ResNet3d(nn.Module):
    """The trunk: `conv1`, a pool, and the stages `conv2` .. `conv5`; all names are taps for distillation.

    With the published widths 53 convolutions and 46.20 M parameters; a clip of 10 frames of 160 x 160 pixels costs
    42.16 GMAC, with FM-Net's head 42.69.

    Args:
        base_channels: of `conv1`; `conv2` .. `conv5` give 4, 8, 16 and 32 times as many.
        blocks: bottlenecks of each stage.
        strides: of rows and columns in the first bottleneck of each stage.
        dilations: of rows and columns in each stage. Published are 2 and 4 in the last two although they stride as
            well, so that most of their taps lie outside of maps that small; (1, 1, 1, 1) is the undilated variant.
        style: where bottlenecks stride, 'caffe' (published) or 'pytorch'; of inflated weights, that of their net.
        causal: the output at t sees frames up to t alone. Published is False: it sees the whole clip.
        batch_statistics: evaluate with the statistics of each batch, as the released code does.
        weights_2d: file of the weights of a two-dimensional ResNet to start from, see `inflate`.

    Raises:
        ConfigError: another style, or not one stride and dilation and a block for each stage.
        CheckpointError: `weights_2d` cannot be read or are of another net.
    """

    def __init__(self, base_channels: int = 64, blocks: Sequence[int] = (3, 4, 6, 3),
                 strides: Sequence[int] = (1, 2, 2, 2), dilations: Sequence[int] = (1, 1, 2, 4), style: str = 'caffe',
                 causal: bool = False, batch_statistics: bool = False, weights_2d: str | Path | None = None):
        super().__init__()
        check_choice('ResNet3d: style', style, ('caffe', 'pytorch'))
        if not len(blocks) == len(strides) == len(dilations) == 4:
            raise ConfigError(f'ResNet3d: blocks={blocks}, strides={strides}, dilations={dilations}, expected four of '
                              'each, one for each stage. Correct them.')
        check_positive('ResNet3d', blocks=min(blocks))
        self.causal, self.batch_statistics = causal, batch_statistics
        self.conv1 = Stem(base_channels, causal, batch_statistics)
        self.pool = TimePool(causal)
        channels = base_channels
        for i, (count, stride, dilation) in enumerate(zip(blocks, strides, dilations)):
            width = base_channels << i
            stage = Stage()
            for j in range(count):
                stage.append(Bottleneck3d(channels, width, 1 if j else stride, dilation, style, causal,
                                          batch_statistics))
                channels = 4 * width
            setattr(self, f'conv{i + 2}', stage)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        if weights_2d is not None:
            self.inflate(weights_of(load_checkpoint(from_root(weights_2d)), str(weights_2d)))

    def forward(self, clip: Tensor, memory: Memory | None = None) -> dict[str, Tensor]:
        """The features of a clip.

        Args:
            clip: (B, 3, T, H, W) normalised.
            memory: of a causal trunk: the frames before the clip, changed to those before what comes next.

        Returns:
            `conv1` (B, C, T, H/2, W/2), `conv3` (B, 8 C, T, H/8, W/8) and `conv5` (B, 32 C, T, H/32, W/32).
        """
        memory = memory or Memory()
        conv1 = self.conv1(clip, memory)
        conv3 = self.conv3(self.conv2(self.pool(conv1, memory), memory), memory)
        return dict(conv1=conv1, conv3=conv3, conv5=self.conv5(self.conv4(conv3, memory), memory))

    def inflate(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a two-dimensional ResNet of the same depth, width and style.

        Each kernel is repeated over time and divided by the number of repetitions, so that a clip that stands still
        gives, away from its ends, what the image gives.

        Args:
            weights: named as in torchvision (`layer1.0.conv1.weight`) or as `common/nets/resnet.py` names them; a
                classifier is left out.

        Raises:
            CheckpointError: weights are missing or have other shapes.
        """
        renamed, new, wrong = {_name_3d(name): value for name, value in weights.items()}, {}, []
        for name, value in self.state_dict().items():
            given = renamed.get(name)
            if given is not None and value.ndim == 5:
                given = given[:, :, None].expand(-1, -1, value.shape[2], -1, -1) / value.shape[2]
            if given is not None and given.shape == value.shape:
                new[name] = given
            elif not name.endswith('num_batches_tracked'):
                wrong.append(f'{name} {tuple(value.shape)}')
        if wrong:
            raise CheckpointError(f'ResNet3d.inflate: {len(wrong)} weights are missing or have another shape, such as '
                                  f'{wrong[0]}, expected those of a ResNet of bottlenecks with '
                                  f'{self.conv1.conv.out_channels} channels first. Take such weights, or set '
                                  'base_channels and blocks.')
        self.load_state_dict(new, strict=False)


def _name_3d(name: str) -> str:
    """The name that a weight of a two-dimensional ResNet has here; one that has none stays."""
    first, _, rest = name.partition('.')
    stem = {'conv1': 'conv1.conv', 'bn1': 'conv1.norm'}
    if first == 'stem':
        number, _, rest = rest.partition('.')
        return f'{({"0": "conv1.conv", "1": "conv1.norm"}).get(number, name)}.{rest}'
    if first in stem:
        return f'{stem[first]}.{rest}'
    if first[:-1] not in ('layer', 'stage') or not first[-1].isdigit():
        return name
    block, part, *rest = rest.split('.')
    if part == 'downsample':
        part, rest = {'0': 'shortcut', '1': 'norm_shortcut'}[rest[0]], rest[1:]
    parts = {f'conv{i}': x for i, x in enumerate('abc', 1)} | {f'bn{i}': f'norm_{x}' for i, x in enumerate('abc', 1)}
    return '.'.join([f'conv{int(first[-1]) + 1}', block, parts.get(part, part), *rest])
