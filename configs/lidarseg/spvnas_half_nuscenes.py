"""SPVNAS@65GMACs with half of every width on nuScenes-lidarseg; PVD's SPVNAS student."""
from mmengine.config import read_base

with read_base():
    from .spvnas_nuscenes import *

model.update(ratio=0.5)

mini = dict(mini, model=dict(mini['model'], ratio=0.125))
