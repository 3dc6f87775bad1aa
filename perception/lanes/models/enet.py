"""ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation.

Adam Paszke, Abhishek Chaurasia, Sangpil Kim, Eugenio Culurciello. 2016. And its form in Learning Lightweight Lane
Detection CNNs by Self Attention Distillation (SAD, ENet-SAD): one more section of the second stage's kind, and an
existence head.

Shapes: B images of H x W pixels, C = `num_classes`, L = `num_lanes`. Encoder with PReLU, decoder with ReLU; no
convolution but those of the existence head has a bias.
"""
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.lanes.models.base import LaneNet
from perception.lanes.models.heads import LaneExist
from perception.registry import MODELS
from perception.utils.errors import ConfigError

SHARING = ('none', 'e3e4', 'all')
# (dilation, asymmetric) of the eight blocks of stages 2, 3 and 4
SECTION = ((1, False), (2, False), (1, True), (4, False), (1, False), (8, False), (1, True), (16, False))


@MODELS.register_module()
class ENet(LaneNet):
    """ENet, and ENet-SAD with `extra_stage`.

    Taps: `stage1` (B, 64, H/4, W/4); `stage2`, `stage3` and, in ENet-SAD, `stage4` (B, 128, H/8, W/8), the encoder's
    parts E1 to E4; `head_input` (B, 16, H/2, W/2); `logits` (B, C, H, W).

    Args:
        data_preprocessor: see LaneNet.
        num_classes: see LaneNet.
        num_lanes: see LaneNet.
        input_size: see LaneNet.
        decoder: see LaneNet.
        extra_stage: ENet-SAD: a stage 4, concatenated to stage 3 before the decoder.
        share_weights: 'none': each stage has its own weights; 'e3e4': stage 4 has those of stage 3; 'all': stages 3
            and 4 have those of stage 2.
        exist_pool: pooling of the existence head, 'avg' or 'max'.
        exist_channels: see LaneExist.
        **loss_arguments: see LaneNet.
    """

    size_multiple = 8

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 5, num_lanes: int = 4,
                 input_size: Sequence[int] = (288, 800), decoder: dict | Callable | None = None,
                 extra_stage: bool = False, share_weights: str = 'none', exist_pool: str = 'avg',
                 exist_channels: int | None = None, **loss_arguments):
        super().__init__(data_preprocessor, num_classes, num_lanes, input_size, decoder, **loss_arguments)
        if share_weights not in SHARING or (share_weights == 'e3e4' and not extra_stage):
            raise ConfigError(f'ENet: share_weights={share_weights!r} with extra_stage={extra_stage}, expected one of '
                              f"{SHARING}, and 'e3e4' only with a stage 4. Set extra_stage=True for ENet-SAD.")
        self.stem = InitialBlock()
        self.down1 = DownBlock(16, 64, dropout=0.01)
        self.stage1 = nn.Sequential(*(RegularBlock(64, dropout=0.01) for _ in range(4)))
        self.down2 = DownBlock(64, 128, dropout=0.1)
        self.stage2 = _section()
        self.stage3 = SharedStage(self.stage2) if share_weights == 'all' else _section()
        self.stage4 = None
        if extra_stage:
            self.stage4 = dict(none=_section, e3e4=lambda: SharedStage(self.stage3),
                               all=lambda: SharedStage(self.stage2))[share_weights]()
        self.decoder = ENetDecoder(256 if extra_stage else 128)
        self.head_input = nn.Identity()
        self.classifier = nn.ConvTranspose2d(16, num_classes, 3, stride=2, padding=1, output_padding=1, bias=False)
        map_size = [n // 8 for n in self.input_size]
        self.exist = LaneExist(128, self.num_lanes, map_size, exist_pool, exist_channels) if self.num_lanes else None

    def encode(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs of the stages, and the positions of the maxima that the decoder unpools to.

        Args:
            images: (B, 3, H, W).

        Returns:
            [(B, 64, H/4, W/4), (B, 128, H/8, W/8), ...], one for each stage, and two index tensors.
        """
        x, indices1 = self.down1(self.stem(images))
        stages = [self.stage1(x)]
        x, indices2 = self.down2(stages[0])
        for stage in (self.stage2, self.stage3, self.stage4):
            if stage is not None:
                x = stage(x)
                stages.append(x)
        return stages, [indices1, indices2]

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """See LaneNet."""
        stages, indices = self.encode(images)
        x = stages[-1] if self.stage4 is None else torch.cat(stages[-2:], dim=1)
        outputs = dict(logits=self.classifier(self.head_input(self.decoder(x, indices))))
        if self.exist is not None:
            outputs['exist_logits'] = self.exist(stages[-1])
        return outputs


class SharedStage(nn.Module):
    """Runs the blocks of another stage: a module of its own, so that its output is recorded apart, without weights.

    Args:
        stage: the stage that owns the blocks.
    """

    def __init__(self, stage: nn.Sequential):
        super().__init__()
        self.owner = (stage,)  # in a tuple: not a sub-module, so the weights are in the state dict once

    def forward(self, x: Tensor) -> Tensor:
        """(B, 128, h, w) to the same shape."""
        for block in self.owner[0]:
            x = block(x)
        return x


class ENetDecoder(nn.Module):
    """Sections D1 and D2.

    Args:
        in_channels: channels of the encoder's output.
    """

    def __init__(self, in_channels: int):
        super().__init__()
        self.up1 = UpBlock(in_channels, 64)
        self.stage1 = nn.Sequential(*(RegularBlock(64, act=nn.ReLU) for _ in range(2)))
        self.up2 = UpBlock(64, 16)
        self.stage2 = nn.Sequential(RegularBlock(16, act=nn.ReLU))

    def forward(self, x: Tensor, indices: Sequence[Tensor]) -> Tensor:
        """(B, in_channels, H/8, W/8) and the two index tensors of the encoder to (B, 16, H/2, W/2)."""
        x = self.stage1(self.up1(x, indices[1]))
        return self.stage2(self.up2(x, indices[0]))


class InitialBlock(nn.Module):
    """3 to 16 channels at half the size: a convolution beside a maximum (ENet, figure 2a)."""

    def __init__(self, act: type[nn.Module] = nn.PReLU):
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.act = act()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 16, H/2, W/2)."""
        return self.act(self.norm(torch.cat([self.conv(images), F.max_pool2d(images, 3, 2, 1)], dim=1)))


class RegularBlock(nn.Module):
    """A bottleneck of the same size (ENet, figure 2b); no activation after the expansion.

    Args:
        channels: of input and output.
        dropout: probability that a channel of the residual is dropped.
        dilation: of the 3 x 3 convolution.
        asymmetric: a 5 x 1 and a 1 x 5 convolution instead of it.
        act: class of the activations.
    """

    def __init__(self, channels: int, dropout: float = 0.1, dilation: int = 1, asymmetric: bool = False,
                 act: type[nn.Module] = nn.PReLU):
        super().__init__()
        inner = channels // 4
        self.reduce = nn.Sequential(*_conv_norm_act(channels, inner, 1, act=act))
        if asymmetric:
            self.conv = nn.Sequential(*_conv_norm_act(inner, inner, (5, 1), padding=(2, 0), act=act),
                                      *_conv_norm_act(inner, inner, (1, 5), padding=(0, 2), act=act))
        else:
            self.conv = nn.Sequential(*_conv_norm_act(inner, inner, 3, padding=dilation, dilation=dilation, act=act))
        self.expand = _expand(inner, channels, dropout)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to the same shape."""
        return self.act(x + self.expand(self.conv(self.reduce(x))))


class DownBlock(nn.Module):
    """A bottleneck that halves the size (ENet, figure 2b).

    Args:
        in_channels: of the input.
        out_channels: of the output; the maximum is padded with channels of zeros.
        dropout: probability that a channel of the residual is dropped.
        act: class of the activations.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.1, act: type[nn.Module] = nn.PReLU):
        super().__init__()
        inner = in_channels // 4
        self.padding = out_channels - in_channels
        self.reduce = nn.Sequential(*_conv_norm_act(in_channels, inner, 2, stride=2, act=act))
        self.conv = nn.Sequential(*_conv_norm_act(inner, inner, 3, padding=1, act=act))
        self.expand = _expand(inner, out_channels, dropout)
        self.act = act()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, h, w) to (B, out_channels, h/2, w/2), and where in a plane each maximum was."""
        pooled, indices = F.max_pool2d(x, 2, return_indices=True)
        return self.act(F.pad(pooled, (0, 0, 0, 0, 0, self.padding)) + self.expand(self.conv(self.reduce(x)))), indices


class UpBlock(nn.Module):
    """A bottleneck that doubles the size (ENet, figure 2b).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        dropout: probability that a channel of the residual is dropped.
        act: class of the activations.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.1, act: type[nn.Module] = nn.ReLU):
        super().__init__()
        inner = in_channels // 4
        self.main = nn.Sequential(*_conv_norm_act(in_channels, out_channels, 1))
        self.reduce = nn.Sequential(*_conv_norm_act(in_channels, inner, 1, act=act))
        self.conv = nn.Sequential(nn.ConvTranspose2d(inner, inner, 2, stride=2, bias=False), nn.BatchNorm2d(inner),
                                  act())
        self.expand = _expand(inner, out_channels, dropout)
        self.act = act()

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, 2h, 2w).

        Args:
            x: the input.
            indices: (B, out_channels, h, w) positions in the planes of the output.
        """
        return self.act(max_unpool(self.main(x), indices) + self.expand(self.conv(self.reduce(x))))


def max_unpool(x: Tensor, indices: Tensor) -> Tensor:
    """`F.max_unpool2d` by a factor of two, by a scatter, which ONNX knows.

    Args:
        x: (B, C, h, w).
        indices: (B, C, h, w) positions in planes of 2h x 2w, each at most once.

    Returns:
        (B, C, 2h, 2w), zero elsewhere.
    """
    batch, channels, height, width = x.shape
    planes = x.new_zeros(batch, channels, 4 * height * width)
    return planes.scatter(2, indices.flatten(2), x.flatten(2)).view(batch, channels, 2 * height, 2 * width)


def _section() -> nn.Sequential:
    return nn.Sequential(*(RegularBlock(128, 0.1, dilation, asymmetric) for dilation, asymmetric in SECTION))


def _conv_norm_act(in_channels: int, out_channels: int, kernel_size: int | tuple, act: type[nn.Module] | None = None,
                   **options) -> list[nn.Module]:
    layers = [nn.Conv2d(in_channels, out_channels, kernel_size, bias=False, **options), nn.BatchNorm2d(out_channels)]
    return layers + ([act()] if act else [])


def _expand(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*_conv_norm_act(in_channels, out_channels, 1), nn.Dropout2d(dropout))
