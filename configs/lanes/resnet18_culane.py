"""ResNet-18 at stride 8 on CULane."""
from mmengine.config import read_base

from perception.lanes.models.resnet_seg import ResNetSeg

with read_base():
    from .._base_.culane import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=ResNetSeg, depth=18, **net)
published = dict(parameters=12_410_000, ms=25.3)  # SAD's paper, time on its GPU

mini = dict(mini_loaders, model=dict(mini_net, base_channels=16), **mini_schedule)
