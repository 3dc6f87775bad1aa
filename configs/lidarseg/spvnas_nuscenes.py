"""SPVNAS@65GMACs on nuScenes-lidarseg; PVD's SPVNAS teacher."""
from mmengine.config import read_base

from perception.lidarseg.models.spvnas import SPVNAS

with read_base():
    from .minkunet_nuscenes import *

del model['width']
model.update(
    type=SPVNAS,
    net='65GMACs',
    ratio=1.0,
    voxel_head=True)  # PVD compares voxel logits too

mini = dict(mini, model=dict({key: value for key, value in mini['model'].items() if key != 'width'}, ratio=0.25))
