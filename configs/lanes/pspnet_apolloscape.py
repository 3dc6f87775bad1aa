"""PSPNet with ResNet-101, the teacher of IntRA-KD, on ApolloScape's lane marks."""
from mmengine.config import read_base
from torch.optim import Adam

from perception.lanes.models.pspnet import PSPNet

with read_base():
    from .._base_.apolloscape import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=PSPNet, depth=101, **net)
tta_model.update(window=(470, 1410))  # IntRA-KD's code

# IntRA-KD's code: rate 0.005, tenfold for the new layers, double for biases; no decay of biases and norms
optim_wrapper.update(
    optimizer=dict(optim_wrapper['optimizer'], lr=0.005, nesterov=False),
    paramwise_cfg=dict(bias_lr_mult=2, bias_decay_mult=0, norm_decay_mult=0, custom_keys={  # these rule out the others
        'context': dict(lr_mult=10), 'classifier': dict(lr_mult=10), 'classifier.bias': dict(lr_mult=20, decay_mult=0),
        'context.branches.0.1': dict(lr_mult=10, decay_mult=0), 'context.branches.1.1': dict(lr_mult=10, decay_mult=0),
        'context.branches.2.1': dict(lr_mult=10, decay_mult=0), 'context.branches.3.1': dict(lr_mult=10, decay_mult=0),
        'context.fuse.1': dict(lr_mult=10, decay_mult=0)}))

mini = dict(
    mini_loaders, model=dict(mini_net, depth=18, base_channels=24, channels=64, scales=(2, 4, 6, 12)),
    **mini_schedule)
mini.update(optim_wrapper=dict(  # Adam without decay: there is none to leave out
    optimizer=dict(type=Adam, lr=3e-3), paramwise_cfg=None))
