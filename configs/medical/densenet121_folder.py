"""DenseNet-121 on images of one's own; the data stand in configs/_base_/class_folder.py."""
from mmengine.config import read_base

from perception.plugins.medical.models.densenet import DenseNet

with read_base():
    from .._base_.class_folder import *
    from .._base_.crckd_schedule import *
    from .._base_.runtime import *

default_hooks.update(class_hooks)
model = dict(type=DenseNet, **net)

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
