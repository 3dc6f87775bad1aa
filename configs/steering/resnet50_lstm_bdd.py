"""3D ResNet-50 and LSTM for discrete actions on BDD's videos."""
from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import Adam

from perception.steering.models.fm_net import ActionNet
from perception.steering.models.heads import AutoregressiveLSTM, FrameHead
from perception.steering.models.resnet3d import ResNet3d

with read_base():
    from .._base_.bdd_driving import *
    from .._base_.runtime import *

model = dict(
    type=ActionNet, trunk=dict(type=ResNet3d), head=dict(type=FrameHead), predictor=dict(type=AutoregressiveLSTM))

# the released code: constant rate, gradients cut at a global norm of 15
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1e-4), clip_grad=dict(max_norm=15))
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)

mini = dict(
    mini_loaders, **mini_training,
    model=dict(input_size=(80, 80), trunk=dict(base_channels=8, blocks=(1, 1, 1, 1)),
               head=dict(widths=(64, 32), features=32, drop=0.25)),
    optim_wrapper=dict(optimizer=dict(lr=1e-3)))
