"""Deep Residual Learning for Image Recognition (ResNet), with dilation instead of the last two strides if need be.

Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun. CVPR 2016. Output stride 8 as in DeepLab and PSPNet: stages 3 and 4
keep the size and dilate by 2 and 4. With 16 stage 4 alone does so, by 2; with 32 none does, as published. Blocks are
named as in torchvision, so its weights need their stages renamed only.

Shapes: B images of H x W pixels.
"""
import torch.nn.functional as F
from torch import Tensor, nn

from perception.registry import MODELS
from perception.utils.checks import check_choice


@MODELS.register_module()
class ResNet(nn.Module):
    """The net without its classifier: `stem`, `stage1` .. `stage4`, run in this order.

    Attributes:
        channels: of the outputs of the stages.
        strides: of these outputs.

    Args:
        depth: 18, 34, 50 or 101.
        base_channels: of the stem; the stages have 1, 2, 4 and 8 times as many, bottlenecks four times that.
        output_stride: of the last of four stages: 8, 16 or 32.
        stages: how many there are, from the first on: 1 to 4.

    Raises:
        ConfigError: another depth, stride or number.
    """

    def __init__(self, depth: int = 18, base_channels: int = 64, output_stride: int = 8, stages: int = 4):
        super().__init__()
        check_choice('ResNet: output_stride', output_stride, (8, 16, 32))
        check_choice('ResNet: stages', stages, (1, 2, 3, 4))
        check_choice('ResNet: depth', depth, LAYOUTS)
        block, counts = LAYOUTS[depth]
        widths = [base_channels << i for i in range(stages)]
        self.channels = tuple(width * block.expansion for width in widths)
        self.stem = nn.Sequential(nn.Conv2d(3, base_channels, 7, stride=2, padding=3, bias=False),
                                  nn.BatchNorm2d(base_channels), nn.ReLU(inplace=True),
                                  nn.MaxPool2d(3, stride=2, padding=1))
        third, fourth = {8: (1, 1), 16: (2, 1), 32: (2, 2)}[output_stride]
        self.strides = (4, 8, 8 * third, 8 * third * fourth)[:stages]
        steps, dilations = (1, 2, third, fourth), (1, 1, 2 // third, 4 // (third * fourth))
        for i, width in enumerate(widths):
            channels = self.channels[i - 1] if i else base_channels
            self.add_module(f'stage{i + 1}', _stage(block, channels, width, counts[i], steps[i], dilations[i]))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the outputs of the stages, H and W divided by `strides` and rounded up."""
        outputs = [self.stem(images)]
        for i in range(len(self.channels)):
            outputs.append(getattr(self, f'stage{i + 1}')(outputs[-1]))
        return outputs[1:]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, of which the first one dilates (ResNet-18 and 34).

    Args:
        in_channels: of the input.
        width: channels of the output.
        stride: of the first convolution.
        dilation: of the first convolution.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, width, h/stride, w/stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1 (ResNet-50 and 101).

    Args:
        in_channels: of the input.
        width: channels of the 3 x 3 convolution, a quarter of the output's.
        stride: of the 3 x 3 convolution.
        dilation: of the 3 x 3 convolution.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, 4 width, h/stride, w/stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x), inplace=True)


LAYOUTS = {18: (BasicBlock, (2, 2, 2, 2)), 34: (BasicBlock, (3, 4, 6, 3)), 50: (Bottleneck, (3, 4, 6, 3)),
           101: (Bottleneck, (3, 4, 23, 3))}  # depth -> block and blocks of each stage (table 1)


def _stage(block: type[BasicBlock | Bottleneck], in_channels: int, width: int, count: int, stride: int = 1,
           dilation: int = 1) -> nn.Sequential:
    first = block(in_channels, width, stride, dilation)
    return nn.Sequential(first, *(block(width * block.expansion, width, 1, dilation) for _ in range(count - 1)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
