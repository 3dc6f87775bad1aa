"""ResNets on ImageNet: 100 epochs of batches of 256, cosine after 5 epochs of warm-up; for inherited weights 60.

The slim nets of PEEL are trained so; the paper's own schedule could not be read.
"""
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import SGD

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1, momentum=0.9, weight_decay=1e-4),
                     paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
param_scheduler = [dict(type=LinearLR, start_factor=0.01, end=5, convert_to_iter_based=True),
                   dict(type=CosineAnnealingLR, T_max=95, begin=5, end=100, eta_min=0, convert_to_iter_based=True)]
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=100, val_interval=5)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
