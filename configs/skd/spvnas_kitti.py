"""SKD (CVPR 2019) on SemanticKITTI: regions and voxels of a frozen SPVNAS; to compare PVD with."""
from mmengine.config import read_base

from perception.distill.skd import SKDLoss

with read_base():
    from ..pvd.spvnas_kitti import *

taps = dict(taps, voxel_logits='head')  # the logits that predictions come from
model['teachers']['full'].update(taps=taps)
model = dict(model, taps=taps, losses=dict(skd=dict(
    type=SKDLoss, teacher='full', logits='voxel_logits', feats='voxel_feats', rows='voxels')))
work_dir = 'work_dirs/skd_spvnas_kitti'

mini = dict(mini, model=dict(mini['model'], losses=dict(skd=dict(region_size=(40, 20, 4)))),
            work_dir='work_dirs/skd_spvnas_kitti_mini')
