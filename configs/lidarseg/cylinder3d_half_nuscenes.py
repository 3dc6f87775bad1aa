"""Cylinder3D at half width on nuScenes-lidarseg; PVD's student."""
from mmengine.config import read_base

with read_base():
    from .cylinder3d_nuscenes import *

model.update(base_channels=16, point_channels=128)  # as in PVKD's nuScenes config; its point MLP ends at 128

mini = dict(mini, model=dict(mini['model'], base_channels=6, point_channels=32))
