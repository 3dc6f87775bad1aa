"""3D CNN and LSTM of the challenge's winner (komanda) on Comma.ai's drives, at 160 x 160 pixels."""
from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import Adam

from perception.common.hooks.export import ExportHook
from perception.steering.models.cnn3d import CNN3d
from perception.steering.models.fm_net import SteeringNet
from perception.steering.models.heads import AutoregressiveLSTM, FrameHead
from perception.steering.models.targets import TargetStatisticsHook

with read_base():
    from .._base_.comma import *
    from .._base_.runtime import *

model = dict(
    type=SteeringNet, trunk=dict(type=CNN3d), head=dict(type=FrameHead, levels=True),
    predictor=dict(type=AutoregressiveLSTM), aux_weight=0.1, deploy='step')  # komanda's weight

# the released code: constant rate, gradients cut at a global norm of 15
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1e-4), clip_grad=dict(max_norm=15))
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
default_hooks.update(export=dict(type=ExportHook, metric='RMSE', rule='less'),
                     target_statistics=dict(type=TargetStatisticsHook))

mini = dict(
    wide_loaders, **mini_training,  # its convolutions are not padded
    model=dict(trunk=dict(channels=16, drop=0.25), head=dict(widths=(64, 32), features=32, drop=0.25)),
    optim_wrapper=dict(optimizer=dict(lr=1e-3)))
