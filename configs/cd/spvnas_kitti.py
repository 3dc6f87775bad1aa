"""CD (ICCV 2021) on SemanticKITTI: where each class scores high in a frozen SPVNAS; to compare PVD with."""
from mmengine.config import read_base

from perception.distill.cd import CDLoss

with read_base():
    from ..pvd.spvnas_kitti import *

taps = dict(taps, voxel_logits='head')  # the logits that predictions come from
model['teachers']['full'].update(taps=taps)
model = dict(model, taps=taps, losses=dict(cd=dict(type=CDLoss, teacher='full', tap='voxel_logits', rows='voxels')))
work_dir = 'work_dirs/cd_spvnas_kitti'

mini = dict(mini, model=dict(mini['model'], losses={}), work_dir='work_dirs/cd_spvnas_kitti_mini')
