"""KD (2015) on SemanticKITTI: softened class probabilities of a frozen MinkUNet; to compare PVD with."""
from mmengine.config import read_base

from perception.distill.kd import KDLoss

with read_base():
    from ..pvd.minkunet_kitti import *

model = dict(model, losses=dict(kd=dict(type=KDLoss, teacher='full', logits='voxel_logits', rows='voxels')))
work_dir = 'work_dirs/kd_minkunet_kitti'

mini = dict(mini, model=dict(mini['model'], losses={}), work_dir='work_dirs/kd_minkunet_kitti_mini')
