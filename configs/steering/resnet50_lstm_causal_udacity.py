"""3D ResNet-50 that looks back only, and LSTM, on Udacity's challenge 2: runs a video frame by frame."""
from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import Adam

from perception.common.hooks.export import ExportHook
from perception.steering.models.fm_net import SteeringNet
from perception.steering.models.heads import AutoregressiveLSTM, FrameHead
from perception.steering.models.resnet3d import ResNet3d
from perception.steering.models.targets import TargetStatisticsHook

with read_base():
    from .._base_.runtime import *
    from .._base_.udacity import *

model = dict(
    type=SteeringNet, trunk=dict(type=ResNet3d, causal=True), head=dict(type=FrameHead),
    predictor=dict(type=AutoregressiveLSTM), deploy='step')

# the released code: constant rate, gradients cut at a global norm of 15
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1e-4), clip_grad=dict(max_norm=15))
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
default_hooks.update(export=dict(type=ExportHook, metric='RMSE', rule='less'),
                     target_statistics=dict(type=TargetStatisticsHook))

mini = dict(
    mini_loaders, **mini_training,
    model=dict(input_size=(80, 80), trunk=dict(base_channels=8, blocks=(1, 1, 1, 1)),
               head=dict(widths=(64, 32), features=32, drop=0.25)),
    optim_wrapper=dict(optimizer=dict(lr=1e-3)))
