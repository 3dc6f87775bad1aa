"""A dilated ResNet that segments lanes: the large backbones of SAD (section 4.2) and a student of IntRA-KD.

Shapes: B images of H x W pixels, C = `num_classes`, L = `num_lanes`.
"""
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from perception.common.nets.resnet import ResNet
from perception.lanes.models.base import LaneNet
from perception.lanes.models.heads import SCNNExist
from perception.registry import MODELS


@MODELS.register_module()
class ResNetSeg(LaneNet):
    """ResNet at stride 8, reduced to 128 channels and classified; the existence head reads the coarse result.

    Taps: `stage1` (H/4 x W/4) and `stage2`, `stage3`, `stage4` (H/8 x W/8), the residual stages; `head_input` (B, 128,
    H/8, W/8), before its dropout; `logits` (B, C, H, W).

    Args:
        data_preprocessor: see LaneNet.
        num_classes: see LaneNet.
        num_lanes: see LaneNet.
        input_size: see LaneNet.
        decoder: see LaneNet.
        depth: 18, 34, 50 or 101.
        base_channels: of the ResNet's stem.
        **loss_arguments: see LaneNet.
    """

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 5, num_lanes: int = 4,
                 input_size: Sequence[int] = (288, 800), decoder: dict | Callable | None = None, depth: int = 18,
                 base_channels: int = 64, **loss_arguments):
        super().__init__(data_preprocessor, num_classes, num_lanes, input_size, decoder, **loss_arguments)
        backbone = ResNet(depth, base_channels)
        self.stem, self.stage1, self.stage2, self.stage3, self.stage4 = backbone.children()
        self.reduce = nn.Sequential(nn.Conv2d(backbone.channels[3], 128, 1, bias=False), nn.BatchNorm2d(128),
                                    nn.ReLU(inplace=True))
        self.head_input = nn.Identity()
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(128, num_classes, 1))
        map_size = [-(-n // 8) for n in self.input_size]  # strides round up
        self.exist = SCNNExist(num_classes, self.num_lanes, map_size) if self.num_lanes else None

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """See LaneNet."""
        feats = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(images)))))
        coarse = self.classifier(self.head_input(self.reduce(feats)))  # (B, C, H/8, W/8)
        outputs = dict(logits=F.interpolate(coarse, size=images.shape[2:], mode='bilinear'))
        if self.exist is not None:
            outputs['exist_logits'] = self.exist(coarse)
        return outputs
