"""Training schedule of MinkUNet, SPVCNN and SPVNAS (SPVNAS's SemanticKITTI recipe: 15 epochs, 8 GPUs of 2 scans)."""
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import SGD

optim_wrapper = dict(type=OptimWrapper,
                     optimizer=dict(type=SGD, lr=0.24, momentum=0.9, nesterov=True, weight_decay=1e-4))
param_scheduler = [dict(type=LinearLR, start_factor=0.008, by_epoch=False, end=125),  # 1000 iterations over 8 GPUs
                   dict(type=CosineAnnealingLR, T_max=15, end=15, convert_to_iter_based=True)]
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=15, val_interval=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
