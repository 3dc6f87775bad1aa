"""SPVCNN at half width on nuScenes-lidarseg."""
from mmengine.config import read_base

with read_base():
    from .spvcnn_nuscenes import *

model.update(width=0.5)

mini = dict(mini, model=dict(mini['model'], width=0.125))
