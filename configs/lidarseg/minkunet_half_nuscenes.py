"""MinkUNet at half width on nuScenes-lidarseg; PVD's MinkowskiNet student."""
from mmengine.config import read_base

with read_base():
    from .minkunet_nuscenes import *

model.update(width=0.5)

mini = dict(mini, model=dict(mini['model'], width=0.125))
