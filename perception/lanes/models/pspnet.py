"""PSPNet with ResNet-101: the teacher of Inter-Region Affinity Distillation for Road Marking Segmentation (IntRA-KD).

Hengshuang Zhao, Jianping Shi, Xiaojuan Qi, Xiaogang Wang, Jiaya Jia. Pyramid Scene Parsing Network. CVPR 2017, in the
form of IntRA-KD (Yuenan Hou, Zheng Ma, Chunxiao Liu, Tak-Wai Hui, Chen Change Loy. CVPR 2020).

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
from perception.utils.errors import ConfigError


@MODELS.register_module()
class PSPNet(LaneNet):
    """Dilated ResNet, context of four scales, classifier; with lanes an existence head on the coarse result.

    ResNet-101 with 37 classes and no existence head has 65,592,933 parameters, as the released teacher.

    Taps: `stage1` (H/4 x W/4) and `stage2`, `stage3`, `stage4` (H/8 x W/8), the residual stages; `head_input`
    (B, channels, H/8, W/8), the output of the context (with `fine_channels` H/4 x W/4, that of both) before its
    dropout; `logits` (B, C, H, W).

    Args:
        data_preprocessor: see LaneNet.
        num_classes: see LaneNet.
        num_lanes: see LaneNet.
        input_size: see LaneNet.
        decoder: see LaneNet.
        depth: of the ResNet, 18, 34, 50 or 101.
        channels: of the context's output and of each of its scales.
        scales: see PSPP.
        legacy: see PSPP; the released weights need it.
        bn_momentum: share of the newest batch in the running statistics. The released code has 0.95, which in
            PyTorch's meaning lets them follow the last batch alone; 0.05 was meant, in Caffe's.
        base_channels: of the ResNet's stem.
        fine_channels: classify at H/4 x W/4: the context's output is enlarged and joined with so many channels of
            `stage1`, as in DeepLabv3+ (Chen et al., ECCV 2018). 0, as published, classifies at H/8 x W/8, which
            cannot represent a lane two pixels wide, as they are in small images.
        **loss_arguments: see LaneNet.
    """

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 37, num_lanes: int = 0,
                 input_size: Sequence[int] = (460, 1380), decoder: dict | Callable | None = None, depth: int = 101,
                 channels: int = 512, scales: Sequence[int] = (10, 20, 30, 60), legacy: bool = False,
                 bn_momentum: float = 0.05, base_channels: int = 64, fine_channels: int = 0,
                 **loss_arguments):
        super().__init__(data_preprocessor, num_classes, num_lanes, input_size, decoder, **loss_arguments)
        backbone = ResNet(depth, base_channels)
        self.stem, self.stage1, self.stage2, self.stage3, self.stage4 = backbone.children()
        self.context = PSPP(backbone.channels[3], channels, scales, legacy)
        self.fine = self.join = None
        if fine_channels:
            self.fine = _conv_norm_relu(backbone.channels[0], fine_channels, 1)
            self.join = _conv_norm_relu(channels + fine_channels, channels, 3)
        self.head_input = nn.Identity()
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        map_size = [-(-n // (4 if fine_channels else 8)) for n in self.input_size]  # strides round up
        self.exist = SCNNExist(num_classes, self.num_lanes, map_size) if self.num_lanes else None
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """See LaneNet."""
        early = self.stage1(self.stem(images))
        feats = self.context(self.stage4(self.stage3(self.stage2(early))))  # (B, channels, H/8, W/8)
        if self.fine is not None:
            feats = F.interpolate(feats, size=early.shape[2:], mode='bilinear', align_corners=False)
            feats = self.join(torch.cat([feats, self.fine(early)], dim=1))  # (B, channels, H/4, W/4)
        coarse = self.classifier(self.dropout(self.head_input(feats)))
        logits = F.interpolate(coarse, size=images.shape[2:], mode='bilinear', align_corners=True)
        outputs = dict(logits=logits)
        if self.exist is not None:
            outputs['exist_logits'] = self.exist(coarse)
        return outputs


class PSPP(nn.Module):
    """Context of several scales, beside the input: each sees a map reduced by its scale (IntRA-KD's teacher).

    The map is padded with zeros to multiples of the scale, cut into cells of scale x scale pixels, each cell averaged
    over its pixels of the map; the cells are convolved, enlarged bilinearly and cropped.

    The released code reduces bilinearly from corner to corner instead, and gives the height's padding to the width and
    the width's to the height. Where two rows or fewer remain, that reads corners only, which may be padding alone: with
    the padding in its right place three of four scales would see nothing of a map of 36 x 100.

    Args:
        in_channels: of the input.
        channels: of each scale and of the output.
        scales: factors of the reduction.
        legacy: compute what the released code does, for its weights.

    Raises:
        ConfigError: a scale below 1.
    """

    def __init__(self, in_channels: int, channels: int = 512, scales: Sequence[int] = (10, 20, 30, 60),
                 legacy: bool = False):
        super().__init__()
        if not scales or min(scales) < 1:
            raise ConfigError(f'PSPP: scales={scales}, expected factors of at least 1. The paper has (10, 20, 30, 60).')
        self.scales, self.legacy = tuple(scales), legacy
        self.branches = nn.ModuleList(_conv_norm_relu(in_channels, channels, 1) for _ in scales)
        self.fuse = _conv_norm_relu(in_channels + len(scales) * channels, channels, 3)

    def forward(self, feats: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, channels, h, w)."""
        height, width = feats.shape[2:]
        outputs = [feats]
        for scale, branch in zip(self.scales, self.branches):
            rows, columns = (height + scale - 1) // scale, (width + scale - 1) // scale
            vertical, horizontal = rows * scale - height, columns * scale - width
            top, left = vertical // 2, horizontal // 2
            padding = (left, horizontal - left), (top, vertical - top)
            if self.legacy:
                padded = F.pad(feats, padding[1] + padding[0])
                cells = F.interpolate(padded, size=(rows, columns), mode='bilinear', align_corners=True)
            else:
                padded, inside = (F.pad(x, padding[0] + padding[1]) for x in (feats, torch.ones_like(feats[:1, :1])))
                cells = F.avg_pool2d(padded, scale) / F.avg_pool2d(inside, scale)
            enlarged = F.interpolate(branch(cells), size=(rows * scale, columns * scale), mode='bilinear',
                                     align_corners=self.legacy)
            outputs.append(enlarged[:, :, top:top + height, left:left + width])
        return self.fuse(torch.cat(outputs, dim=1))


def _conv_norm_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
                         nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
