"""Schedules of camera nets: BEVDet's, those of LSS and CVT for vehicles, and what is trained on simulated data.

BEVDet's: 24 epochs of batches of 64 samples in all; with other batches the rate follows their size.
"""
from mmengine.hooks import EMAHook
from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR, OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import Adam, AdamW

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=2e-4, weight_decay=0.01),
                     clip_grad=dict(max_norm=5, norm_type=2))
auto_scale_lr = dict(enable=True, base_batch_size=64)
param_scheduler = [dict(type=LinearLR, start_factor=0.001, by_epoch=False, end=500),
                   dict(type=MultiStepLR, milestones=[16, 22], gamma=0.1)]
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
sync_bn = None  # 'torch' where a GPU has fewer than 4 samples

ema = dict(  # 0.999 (1 - exp(-t / 2000)) of the mean is kept; the hook takes a name
    type=EMAHook, ema_type='perception.common.averaging.ExpMomentumEMA', momentum=0.001, gamma=2000)

# LSS, batches of 4, about 300,000 steps
lss_optim = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1e-3, weight_decay=1e-7),
                 clip_grad=dict(max_norm=5, norm_type=2))
lss_epochs = 43
# CVT, batches of 16, 30,000 steps in one cycle: up to 4e-3 at 30 %, down to 4e-5
cvt_optim = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=4e-4, weight_decay=1e-7),
                 clip_grad=dict(max_norm=5, norm_type=2))
cvt_scheduler = [dict(type=CosineAnnealingLR, T_max=5, eta_min=4e-3, end=5, convert_to_iter_based=True),
                 dict(type=CosineAnnealingLR, T_max=12, eta_min=4e-5, begin=5, end=17, convert_to_iter_based=True)]
cvt_epochs = 17

mini_schedule = dict(  # of 32 epochs: one cycle up to 3e-3
    optim_wrapper=dict(optimizer=dict(type=AdamW, lr=1.2e-4, weight_decay=0.01)),
    auto_scale_lr=dict(enable=False),
    param_scheduler=[
        dict(type=CosineAnnealingLR, T_max=10, eta_min=3e-3, end=10, convert_to_iter_based=True),
        dict(type=CosineAnnealingLR, T_max=22, eta_min=3e-6, begin=10, end=32, convert_to_iter_based=True)])
