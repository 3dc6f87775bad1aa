"""PSPNet with ResNet-50 on the 19 classes of Cityscapes: its features are mimicked by configs/fm."""
from mmengine.config import read_base
from mmengine.optim import OptimWrapper, PolyLR
from mmengine.runner import TestLoop, ValLoop
from torch.optim import SGD, Adam

from perception.common.image_preprocessor import ImagePreprocessor
from perception.lanes.models.pspnet import PSPNet

with read_base():
    from .._base_.cityscapes import *
    from .._base_.runtime import *

model = dict(
    type=PSPNet, data_preprocessor=dict(type=ImagePreprocessor), depth=50, num_classes=19, num_lanes=0,
    input_size=(512, 1024), scales=(15, 30, 45, 90), iou_weight=0.0, background_weight=1.0)

# the released code: rate 0.01, tenfold for the new layers, double for biases; no decay of biases and norms
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(bias_lr_mult=2, bias_decay_mult=0, norm_decay_mult=0, custom_keys={  # these rule out the others
        'context': dict(lr_mult=10), 'classifier': dict(lr_mult=10), 'classifier.bias': dict(lr_mult=20, decay_mult=0),
        'context.branches.0.1': dict(lr_mult=10, decay_mult=0), 'context.branches.1.1': dict(lr_mult=10, decay_mult=0),
        'context.branches.2.1': dict(lr_mult=10, decay_mult=0), 'context.branches.3.1': dict(lr_mult=10, decay_mult=0),
        'context.fuse.1': dict(lr_mult=10, decay_mult=0)}))
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0, end=48, convert_to_iter_based=True)]
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)

mini = dict(
    mini_loaders,
    model=dict(input_size=(128, 256), base_channels=8, channels=32, scales=(2, 4, 6, 12)),
    optim_wrapper=dict(optimizer=dict(type=Adam, lr=2e-3), paramwise_cfg=None),
    train_cfg=dict(max_epochs=32, val_interval=8),
    param_scheduler=[dict(type=PolyLR, power=0.9, eta_min=0, end=32, convert_to_iter_based=True)])
