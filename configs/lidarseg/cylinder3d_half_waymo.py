"""Cylinder3D at half width on Waymo, both returns; PVD's student."""
from mmengine.config import read_base

with read_base():
    from .cylinder3d_waymo import *

model.update(base_channels=16, compression=16)  # the point MLP keeps its widths, as on SemanticKITTI

mini = dict(mini, model=dict(mini['model'], base_channels=6, compression=6))
