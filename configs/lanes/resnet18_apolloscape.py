"""ResNet-18 at stride 8 on ApolloScape's lane marks."""
from mmengine.config import read_base

from perception.lanes.models.resnet_seg import ResNetSeg

with read_base():
    from .._base_.apolloscape import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=ResNetSeg, depth=18, **net)
optim_wrapper['optimizer'].update(nesterov=False)  # IntRA-KD's code

mini = dict(mini_loaders, model=dict(mini_net, base_channels=16), **mini_schedule)
