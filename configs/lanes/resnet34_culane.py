"""ResNet-34 at stride 8 on CULane."""
from mmengine.config import read_base

from perception.lanes.models.resnet_seg import ResNetSeg

with read_base():
    from .._base_.culane import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=ResNetSeg, depth=34, **net)
published = dict(parameters=22_720_000, ms=50.5)  # SAD's paper, time on its GPU

mini = dict(mini_loaders, model=dict(mini_net, base_channels=16), **mini_schedule)
