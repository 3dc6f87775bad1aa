"""SPVCNN at full width on nuScenes-lidarseg: MinkUNet with a branch of points."""
from mmengine.config import read_base

from perception.lidarseg.models.spvcnn import SPVCNN

with read_base():
    from .minkunet_nuscenes import *

model.update(type=SPVCNN)

mini = dict(mini)
