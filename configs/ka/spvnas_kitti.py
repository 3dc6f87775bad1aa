"""KA (CVPR 2019) on SemanticKITTI: a compact code of the features of a frozen SPVNAS; to compare PVD with."""
from mmengine.config import read_base

from perception.distill.ka import KALoss

with read_base():
    from ..pvd.spvnas_kitti import *

model = dict(model, losses=dict(ka=dict(type=KALoss, teacher='full', feats='voxel_feats', channels=(40, 76))))
work_dir = 'work_dirs/ka_spvnas_kitti'

mini = dict(mini, model=dict(mini['model'], losses=dict(ka=dict(channels=(12, 20)))),
            work_dir='work_dirs/ka_spvnas_kitti_mini')
