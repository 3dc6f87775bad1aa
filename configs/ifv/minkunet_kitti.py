"""IFV (ECCV 2020) on SemanticKITTI: how like its class each voxel is in a frozen MinkUNet; to compare PVD with."""
from mmengine.config import read_base

from perception.distill.ifv import IFVLoss

with read_base():
    from ..pvd.minkunet_kitti import *

model = dict(model, losses=dict(ifv=dict(type=IFVLoss, teacher='full', feats='voxel_feats')))
work_dir = 'work_dirs/ifv_minkunet_kitti'

mini = dict(mini, model=dict(mini['model'], losses={}), work_dir='work_dirs/ifv_minkunet_kitti_mini')
