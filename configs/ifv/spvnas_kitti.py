"""IFV (ECCV 2020) on SemanticKITTI: how like its class each voxel is in a frozen SPVNAS; to compare PVD with."""
from mmengine.config import read_base

from perception.distill.ifv import IFVLoss

with read_base():
    from ..pvd.spvnas_kitti import *

model = dict(model, losses=dict(ifv=dict(type=IFVLoss, teacher='full', feats='voxel_feats')))
work_dir = 'work_dirs/ifv_spvnas_kitti'

mini = dict(mini, model=dict(mini['model'], losses={}), work_dir='work_dirs/ifv_spvnas_kitti_mini')
