"""ERFNet on BDD100K (SAD's protocol)."""
from mmengine.config import read_base

from perception.lanes.models.erfnet import ERFNet

with read_base():
    from .._base_.bdd100k import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=ERFNet, **net)
default_hooks['export'].update(metric='iou')  # more accuracy alone is had by wider lanes

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
