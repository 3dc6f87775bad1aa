"""Training schedule of CenterPoint: one cycle of rate and momentum over 40 epochs, batches of 16 scans."""
from mmengine.optim import CosineAnnealingLR, CosineAnnealingMomentum, OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import AdamW

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-4, betas=(0.95, 0.99), weight_decay=0.01),
                     clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [  # up to 1e-3 at 40 %, down to 1e-8; the momentum goes the other way
    dict(type=CosineAnnealingLR, T_max=16, eta_min=1e-3, end=16, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, T_max=24, eta_min=1e-8, begin=16, end=40, convert_to_iter_based=True),
    dict(type=CosineAnnealingMomentum, T_max=16, eta_min=0.85, end=16, convert_to_iter_based=True),
    dict(type=CosineAnnealingMomentum, T_max=24, eta_min=0.95, begin=16, end=40, convert_to_iter_based=True)]
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)

mini_schedule = dict(  # of 12 epochs
    optim_wrapper=dict(optimizer=dict(lr=3e-4)),
    param_scheduler=[
        dict(type=CosineAnnealingLR, T_max=5, eta_min=3e-3, end=5, convert_to_iter_based=True),
        dict(type=CosineAnnealingLR, T_max=7, eta_min=3e-7, begin=5, end=12, convert_to_iter_based=True),
        dict(type=CosineAnnealingMomentum, T_max=5, eta_min=0.85, end=5, convert_to_iter_based=True),
        dict(type=CosineAnnealingMomentum, T_max=7, eta_min=0.95, begin=5, end=12, convert_to_iter_based=True)])
