"""ResNet-34 at stride 8 on BDD100K (SAD's protocol)."""
from mmengine.config import read_base

from perception.lanes.models.resnet_seg import ResNetSeg

with read_base():
    from .._base_.bdd100k import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=ResNetSeg, depth=34, **net)
default_hooks['export'].update(metric='iou')  # more accuracy alone is had by wider lanes

mini = dict(mini_loaders, model=dict(mini_net, base_channels=16), **mini_schedule)
