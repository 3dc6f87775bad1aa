"""ENet-SAD's network (ENet with a fourth stage) on BDD100K (SAD's protocol), trained without SAD."""
from mmengine.config import read_base

from perception.lanes.models.enet import ENet

with read_base():
    from .._base_.bdd100k import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=ENet, extra_stage=True, **net)
default_hooks['export'].update(metric='iou')  # more accuracy alone is had by wider lanes

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
