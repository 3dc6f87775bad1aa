"""PSPNet with ResNet-101, the teacher of IntRA-KD, on CULane."""
from mmengine.config import read_base
from torch.optim import Adam

from perception.lanes.models.pspnet import PSPNet

with read_base():
    from .._base_.culane import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=PSPNet, depth=101, **net)

mini = dict(
    mini_loaders, model=dict(mini_net, depth=18, base_channels=16, channels=48, scales=(2, 4, 6, 12), fine_channels=16),
    **mini_schedule)
mini.update(
    optim_wrapper=dict(optimizer=dict(type=Adam, lr=3e-3)), train_cfg=dict(max_epochs=60, val_interval=20),
    param_scheduler=[dict(mini_schedule['param_scheduler'][0], end=60)])
evidence.update(options=[*evidence['options'], 'train_cfg.max_epochs=48', 'train_cfg.val_interval=24',
                         'param_scheduler.0.end=48'])
