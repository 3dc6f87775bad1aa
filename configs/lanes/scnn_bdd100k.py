"""SCNN with VGG-16 on BDD100K (SAD's protocol)."""
from mmengine.config import read_base
from torch.optim import Adam

from perception.lanes.models.scnn import SCNN

with read_base():
    from .._base_.bdd100k import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=SCNN, **net)
default_hooks['export'].update(metric='iou')  # more accuracy alone is had by wider lanes

mini = dict(mini_loaders, model=dict(mini_net, backbone='resnet18', base_channels=16), **mini_schedule)
mini.update(optim_wrapper=dict(optimizer=dict(type=Adam, lr=5e-4)))  # passes amplify large steps
