"""Spatial As Deep: Spatial CNN for Traffic Scene Understanding (SCNN).

Xingang Pan, Jianping Shi, Ping Luo, Xiaogang Wang, Xiaoou Tang. AAAI 2018.

Shapes: B images of H x W pixels, C = `num_classes`, L = `num_lanes`.
"""
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.common.nets.resnet import ResNet
from perception.lanes.models.base import LaneNet
from perception.lanes.models.heads import SCNNExist
from perception.registry import MODELS
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError

BACKBONES = {'vgg16': None, 'resnet18': 18, 'resnet34': 34, 'resnet50': 50, 'resnet101': 101}


@MODELS.register_module()
class SCNN(LaneNet):
    """A backbone at stride 8, reduced to 128 channels, message passing over rows and columns, and a classifier.

    Taps: `stage1` (H/4 x W/4), `stage2`, `stage3` and, of a ResNet, `stage4` (H/8 x W/8); `neck` and `message`
    (B, 128, H/8, W/8), before and after the message passing; `head_input`, the same as `message`, before its dropout;
    `logits` (B, C, H, W).

    Args:
        data_preprocessor: see LaneNet.
        num_classes: see LaneNet.
        num_lanes: see LaneNet.
        input_size: see LaneNet.
        decoder: see LaneNet.
        backbone: 'vgg16' (the paper's, with batch norm), 'resnet18', 'resnet34', 'resnet50' or 'resnet101'.
        kernel: width of the messages.
        base_channels: of the stem of a ResNet.
        legacy: compute what PytorchAutoDrive's SCNN does, for its weights, see MessagePassing; not for a ResNet.
        **loss_arguments: see LaneNet.

    Raises:
        ConfigError: an unknown backbone, or `legacy` with a ResNet.
    """

    size_multiple = 8

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 5, num_lanes: int = 4,
                 input_size: Sequence[int] = (288, 800), decoder: dict | Callable | None = None,
                 backbone: str = 'vgg16', kernel: int = 9, base_channels: int = 64, legacy: bool = False,
                 **loss_arguments):
        super().__init__(data_preprocessor, num_classes, num_lanes, input_size, decoder, **loss_arguments)
        if backbone not in BACKBONES:
            raise ConfigError(f'SCNN: backbone={backbone!r}, expected one of {", ".join(BACKBONES)}. '
                              f'{close_matches(backbone, BACKBONES)}')
        if legacy and backbone != 'vgg16':
            raise ConfigError(f"SCNN: legacy=True with backbone={backbone!r}, expected 'vgg16'. The ResNets of "
                              'PytorchAutoDrive dilate otherwise and have another classifier.')
        if backbone == 'vgg16':
            self.stem, self.stage1, self.stage2, self.stage3 = vgg16_stages()
            self.stage4 = None
            self.neck = nn.Sequential(*_conv_norm_relu(512, 1024, 3, dilation=4, bias=False),
                                      *_conv_norm_relu(1024, 128, 1, bias=False))
        else:
            resnet = ResNet(BACKBONES[backbone], base_channels)
            self.stem, self.stage1, self.stage2, self.stage3, self.stage4 = resnet.children()
            self.neck = nn.Sequential(*_conv_norm_relu(resnet.channels[3], 128, 1, bias=False))
        self.message = MessagePassing(128, kernel, legacy)
        self.head_input = nn.Identity()
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(128, num_classes, 1))
        map_size = [n // 8 for n in self.input_size]
        self.exist = SCNNExist(num_classes, self.num_lanes, map_size) if self.num_lanes else None

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """See LaneNet."""
        x = images
        for part in (self.stem, self.stage1, self.stage2, self.stage3, self.stage4, self.neck, self.message):
            x = x if part is None else part(x)
        coarse = self.classifier(self.head_input(x))  # (B, C, H/8, W/8)
        logits = F.interpolate(coarse, size=images.shape[2:], mode='bilinear', align_corners=True)
        outputs = dict(logits=logits)
        if self.exist is not None:
            outputs['exist_logits'] = self.exist(coarse)
        return outputs


class MessagePassing(nn.Module):
    """Sequential message passing in four directions (section 3.2, equation 1): down, up, right, left.

    In each direction the first slice stays, every further one becomes X'_i = X_i + ReLU(K * X'_{i-1}), with one kernel
    per direction. The map is split once for the vertical and once, turned, for the horizontal pair of passes, and put
    together once behind each; writing every slice into the map instead makes backpropagation copy the map for each.

    Args:
        channels: of input and output.
        kernel: width of the kernels, odd.
        legacy: compute what PytorchAutoDrive does, for its weights: kernels with a bias, and passes up and left that
            leave out their last slice.

    Raises:
        ConfigError: an even kernel, which would shift the messages.
    """

    def __init__(self, channels: int, kernel: int = 9, legacy: bool = False):
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f'MessagePassing: kernel={kernel}, expected an odd number. The paper has 9.')
        self.legacy, shape = legacy, (channels, channels, kernel)
        self.down, self.up, self.right, self.left = (nn.Parameter(torch.empty(shape)) for _ in range(4))
        for weight in self.parameters():
            nn.init.normal_(weight, std=(2 / (kernel * channels * channels * 5)) ** 0.5)
        self.down_bias, self.up_bias, self.right_bias, self.left_bias = (
            nn.Parameter(torch.zeros(channels)) if legacy else None for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to the same shape."""
        x = x.contiguous()  # slices of a map laid out channels last are slow
        rows = _pass(x.split(1, dim=2), self.down, self.down_bias)  # h of (B, channels, 1, w)
        x = torch.cat(_back(rows, self.up, self.up_bias, self.legacy), dim=2).transpose(2, 3)
        columns = _pass(x.split(1, dim=2), self.right, self.right_bias)  # w of (B, channels, 1, h)
        return torch.cat(_back(columns, self.left, self.left_bias, self.legacy), dim=2).transpose(2, 3)


def _pass(slices: Sequence[Tensor], weight: Tensor, bias: Tensor | None, all_but_last: bool = False) -> list[Tensor]:
    """One direction: every slice receives a message of the slice before it."""
    out, kernel, padding = [slices[0]], weight.unsqueeze(2), (0, weight.shape[2] // 2)
    for current in slices[1:len(slices) - all_but_last]:
        out.append(current + F.conv2d(out[-1], kernel, bias, padding=padding).relu_())
    return out + list(slices[len(out):])


def _back(slices: Sequence[Tensor], weight: Tensor, bias: Tensor | None, all_but_last: bool) -> list[Tensor]:
    """The opposite direction, the slices again in their order."""
    return _pass(slices[::-1], weight, bias, all_but_last)[::-1]


def vgg16_stages() -> tuple[nn.Sequential, ...]:
    """VGG-16 with batch norm, without the last two poolings; its last three convolutions dilate by 2 instead.

    Returns:
        stem (3 to 128 channels, H/4), stage1 (256, H/4), stage2 and stage3 (512, H/8).
    """
    stem = nn.Sequential(*_conv_norm_relu(3, 64, 3), *_conv_norm_relu(64, 64, 3), nn.MaxPool2d(2),
                         *_conv_norm_relu(64, 128, 3), *_conv_norm_relu(128, 128, 3), nn.MaxPool2d(2))
    stage1 = nn.Sequential(*_conv_norm_relu(128, 256, 3), *_conv_norm_relu(256, 256, 3), *_conv_norm_relu(256, 256, 3))
    stage2 = nn.Sequential(nn.MaxPool2d(2), *_conv_norm_relu(256, 512, 3), *_conv_norm_relu(512, 512, 3),
                           *_conv_norm_relu(512, 512, 3))
    stage3 = nn.Sequential(*(layer for _ in range(3) for layer in _conv_norm_relu(512, 512, 3, dilation=2)))
    for module in (m for stage in (stem, stage1, stage2, stage3) for m in stage):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            nn.init.zeros_(module.bias)
    return stem, stage1, stage2, stage3


def _conv_norm_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1,
                    bias: bool = True) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=bias),
            nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
