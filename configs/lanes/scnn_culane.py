"""SCNN with VGG-16 on CULane."""
from mmengine.config import read_base
from torch.optim import Adam

from perception.lanes.models.scnn import SCNN

with read_base():
    from .._base_.culane import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=SCNN, **net)
published = dict(parameters=20_720_000, ms=133.5)  # SAD's paper, time on its GPU

mini = dict(mini_loaders, model=dict(mini_net, backbone='resnet18', base_channels=16), **mini_schedule)
mini.update(optim_wrapper=dict(optimizer=dict(type=Adam, lr=5e-4)))  # passes amplify large steps
