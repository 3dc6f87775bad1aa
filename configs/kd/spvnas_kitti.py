"""KD (2015) on SemanticKITTI: softened class probabilities of a frozen SPVNAS; to compare PVD with."""
from mmengine.config import read_base

from perception.distill.kd import KDLoss

with read_base():
    from ..pvd.spvnas_kitti import *

taps = dict(taps, voxel_logits='head')  # the logits that predictions come from
model['teachers']['full'].update(taps=taps)
model = dict(model, taps=taps, losses=dict(kd=dict(type=KDLoss, teacher='full', logits='voxel_logits', rows='voxels')))
work_dir = 'work_dirs/kd_spvnas_kitti'

mini = dict(mini, model=dict(mini['model'], losses={}), work_dir='work_dirs/kd_spvnas_kitti_mini')
