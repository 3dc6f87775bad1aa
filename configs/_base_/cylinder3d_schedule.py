"""Training schedule of Cylinder3D (its SemanticKITTI config: Adam, constant rate, 40 epochs, batches of 2)."""
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import Adam

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1e-3))
param_scheduler = []  # constant
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=40, val_interval=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)

mini_schedule = dict(  # many cheap steps
    optim_wrapper=dict(optimizer=dict(lr=1e-2)),
    param_scheduler=[dict(type=LinearLR, start_factor=0.05, end=3, convert_to_iter_based=True),
                     dict(type=CosineAnnealingLR, T_max=27, begin=3, eta_min=1e-5, convert_to_iter_based=True)],
    train_cfg=dict(max_epochs=30, val_interval=10))
