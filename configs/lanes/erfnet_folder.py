"""ERFNet on images of one's own; the data stand in configs/_base_/lane_folder.py."""
from mmengine.config import read_base

from perception.lanes.models.erfnet import ERFNet

with read_base():
    from .._base_.lane_folder import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=ERFNet, **net)

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
