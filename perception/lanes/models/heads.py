"""Heads that say which lane slots hold a lane.

Both give logits: the sigmoid is applied once, by the loss or by the prediction.
"""
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from perception.utils.errors import ConfigError

POOLS = dict(avg=F.avg_pool2d, max=F.max_pool2d)


class LaneExist(nn.Module):
    """Existence head P1 of ENet-SAD and ERFNet: a dilated convolution sees whole lanes (SAD, section 3.3).

    Args:
        in_channels: channels of the feature map.
        num_lanes: L.
        map_size: (h, w) of the feature map, H/8 x W/8.
        pool: 'avg' (as SCNN pools), or 'max' (as the published ERFNet does).
        channels: that the linear layers see, L + 1 unless published weights have another number.

    Raises:
        ConfigError: another pool.
    """

    def __init__(self, in_channels: int, num_lanes: int, map_size: Sequence[int], pool: str = 'avg',
                 channels: int | None = None):
        super().__init__()
        if pool not in POOLS:
            raise ConfigError(f"LaneExist: pool={pool!r}, expected 'avg' or 'max'. Choose one of them.")
        self.pool, channels = pool, channels or num_lanes + 1
        self.features = nn.Sequential(nn.Conv2d(in_channels, 32, 3, padding=4, dilation=4, bias=False),
                                      nn.BatchNorm2d(32, eps=1e-3), nn.ReLU(inplace=True), nn.Dropout2d(0.1),
                                      nn.Conv2d(32, channels, 1))
        self.classifier = _classifier(channels, num_lanes, map_size)

    def forward(self, feats: Tensor) -> Tensor:
        """(B, in_channels, h, w) features to (B, L) logits."""
        return self.classifier(POOLS[self.pool](self.features(feats).softmax(dim=1), 2).flatten(1))


class SCNNExist(nn.Module):
    """Existence head of SCNN: reads the lanes off the coarse segmentation.

    Args:
        num_classes: C, channels of the segmentation.
        num_lanes: L.
        map_size: (h, w) of the coarse segmentation, H/8 x W/8.
    """

    def __init__(self, num_classes: int, num_lanes: int, map_size: Sequence[int]):
        super().__init__()
        self.classifier = _classifier(num_classes, num_lanes, map_size)

    def forward(self, logits: Tensor) -> Tensor:
        """(B, C, h, w) segmentation logits to (B, L) logits."""
        return self.classifier(F.avg_pool2d(logits.softmax(dim=1), 2).flatten(1))


def _classifier(channels: int, num_lanes: int, map_size: Sequence[int]) -> nn.Sequential:
    """The two linear layers behind a 2 x 2 pooling."""
    pooled = channels * (map_size[0] // 2) * (map_size[1] // 2)
    return nn.Sequential(nn.Linear(pooled, 128), nn.ReLU(inplace=True), nn.Linear(128, num_lanes))
