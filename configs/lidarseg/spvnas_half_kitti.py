"""SPVNAS@65GMACs with half of every width on SemanticKITTI; PVD's SPVNAS student."""
from mmengine.config import read_base

with read_base():
    from .spvnas_kitti import *

model.update(ratio=0.5)
published = {}  # no figures of this width

mini = dict(mini, model=dict(mini['model'], ratio=0.125))
mini.update(
    train_cfg=dict(max_epochs=16, val_interval=8),
    param_scheduler=[mini['param_scheduler'][0], dict(mini['param_scheduler'][1], T_max=13)])
