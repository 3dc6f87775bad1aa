"""ENet-SAD's network (ENet with a fourth stage) on TuSimple, trained without SAD."""
from mmengine.config import read_base

from perception.lanes.models.enet import ENet

with read_base():
    from .._base_.lane_schedule import *
    from .._base_.runtime import *
    from .._base_.tusimple import *

model = dict(type=ENet, extra_stage=True, **net)

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
