"""Cylinder3D at half width on SemanticKITTI, three scans at a time: PVKD's multi-scan net; PVD's student."""
from mmengine.config import read_base

with read_base():
    from .cylinder3d_kitti_multiscan import *

model.update(base_channels=16, compression=16)
optim_wrapper.update(optimizer=dict(optim_wrapper['optimizer'], lr=1.5e-3))  # as in PVKD's multi-scan config

mini = dict(mini, model=dict(mini['model'], base_channels=6, compression=6))
