"""CD (ICCV 2021) on SemanticKITTI: where each class scores high in a frozen MinkUNet; to compare PVD with."""
from mmengine.config import read_base

from perception.distill.cd import CDLoss

with read_base():
    from ..pvd.minkunet_kitti import *

model = dict(model, losses=dict(cd=dict(type=CDLoss, teacher='full', tap='voxel_logits', rows='voxels')))
work_dir = 'work_dirs/cd_minkunet_kitti'

mini = dict(mini, model=dict(mini['model'], losses={}), work_dir='work_dirs/cd_minkunet_kitti_mini')
