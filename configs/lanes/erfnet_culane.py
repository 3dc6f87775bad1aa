"""ERFNet on CULane."""
from mmengine.config import read_base

from perception.lanes.models.erfnet import ERFNet

with read_base():
    from .._base_.culane import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=ERFNet, **net)
published = dict(parameters=2_490_000, ms=10.2)  # SAD's paper, time on its GPU

mini = dict(mini_loaders, model=dict(mini_net, base_channels=4), **mini_schedule)
evidence.update(options=[  # so narrow a net learns slowly
    *evidence['options'], 'train_cfg.max_epochs=24', 'train_cfg.val_interval=12', 'param_scheduler.0.end=24'])
