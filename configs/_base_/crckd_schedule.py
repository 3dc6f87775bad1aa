"""Optimiser and length of CRCKD's trainings: Adam, one cycle of the learning rate over 80 epochs, step by step."""
from mmengine.optim import CosineAnnealingMomentum, OneCycleLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import Adam

from perception.common.hooks.training_set import TrainingSetHook
from perception.plugins.medical.hooks import LastEpochsHook

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1.2e-5, betas=(0.95, 0.999), weight_decay=5e-4))
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=80, val_interval=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
param_scheduler = [  # 1.2e-5 to 3e-4 in three tenths, then to 1.2e-9; beta1 0.95 to 0.85 and back
    dict(type=OneCycleLR, eta_max=3e-4, total_steps=80, pct_start=0.3, convert_to_iter_based=True),
    dict(type=CosineAnnealingMomentum, eta_min=0.85, begin=0, end=24, T_max=24, convert_to_iter_based=True),
    dict(type=CosineAnnealingMomentum, eta_min=0.95, begin=24, end=80, T_max=56, convert_to_iter_based=True)]
class_hooks = dict(training_set=dict(type=TrainingSetHook), last_epochs=dict(type=LastEpochsHook, count=10))

mini_epochs = 16
mini_schedule = dict(
    train_cfg=dict(max_epochs=mini_epochs, val_interval=2),
    param_scheduler=[
        dict(type=OneCycleLR, eta_max=3e-3, total_steps=mini_epochs, pct_start=0.3, convert_to_iter_based=True),
        dict(type=CosineAnnealingMomentum, eta_min=0.85, begin=0, end=5, T_max=5, convert_to_iter_based=True),
        dict(type=CosineAnnealingMomentum, eta_min=0.95, begin=5, end=mini_epochs, T_max=11,
             convert_to_iter_based=True)],
    default_hooks=dict(logger=dict(interval=8), last_epochs=dict(count=3)))
