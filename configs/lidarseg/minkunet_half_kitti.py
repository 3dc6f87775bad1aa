"""MinkUNet at half width on SemanticKITTI; PVD's MinkowskiNet student."""
from mmengine.config import read_base

with read_base():
    from .minkunet_kitti import *

model.update(width=0.5)
published = dict(gmac=28.5)  # SPVNAS's tables, mean over the real sequence 08

mini = dict(mini, model=dict(mini['model'], width=0.125))
mini.update(
    train_cfg=dict(max_epochs=16, val_interval=8),
    param_scheduler=[mini['param_scheduler'][0], dict(mini['param_scheduler'][1], T_max=13)])
longer = ['train_cfg.max_epochs=64', 'train_cfg.val_interval=32']  # with all labels it learns on for long
evidence = dict(evidence, settings=dict(evidence['settings'], equal=dict(teacher=longer, students=longer)))
