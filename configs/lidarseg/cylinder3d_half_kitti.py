"""Cylinder3D at half width on SemanticKITTI: about a quarter of the parameters and of the arithmetic; PVD's student."""
from mmengine.config import read_base

with read_base():
    from .cylinder3d_kitti import *

model.update(base_channels=16, compression=16)  # the point MLP keeps its widths, as in PVKD's 0.5x configs

mini = dict(mini, model=dict(mini['model'], base_channels=4, compression=4))
mini.update(
    train_cfg=dict(max_epochs=16, val_interval=8),
    param_scheduler=[mini['param_scheduler'][0], dict(mini['param_scheduler'][1], T_max=13)])
