"""DenseNet-121 on HAM10000 with weighted cross-entropy alone: CRCKD's baseline."""
from mmengine.config import read_base

from perception.plugins.medical.models.densenet import DenseNet

with read_base():
    from .._base_.crckd_schedule import *
    from .._base_.ham10000 import *
    from .._base_.runtime import *

default_hooks.update(class_hooks)
model = dict(type=DenseNet, **net)

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
