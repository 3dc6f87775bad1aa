"""ENet-SAD's network (ENet with a fourth stage) on CULane, trained without SAD."""
from mmengine.config import read_base

from perception.lanes.models.enet import ENet

with read_base():
    from .._base_.culane import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=ENet, extra_stage=True, **net)
published = dict(parameters=980_000, ms=13.4)  # SAD's paper, time on its GPU

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
