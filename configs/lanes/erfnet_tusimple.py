"""ERFNet on TuSimple."""
from mmengine.config import read_base

from perception.lanes.models.erfnet import ERFNet

with read_base():
    from .._base_.lane_schedule import *
    from .._base_.runtime import *
    from .._base_.tusimple import *

model = dict(type=ERFNet, **net)

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
