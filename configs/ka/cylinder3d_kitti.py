"""KA (CVPR 2019) on SemanticKITTI: a compact code of the features of a frozen Cylinder3D; to compare PVD with."""
from mmengine.config import read_base

from perception.distill.ka import KALoss

with read_base():
    from ..pvd.cylinder3d_kitti import *

model = dict(model, losses=dict(ka=dict(type=KALoss, teacher='full', feats='voxel_feats', channels=(64, 128))))
work_dir = 'work_dirs/ka_cylinder3d_kitti'

mini = dict(mini, model=dict(mini['model'], losses=dict(ka=dict(channels=(24, 48)))),
            work_dir='work_dirs/ka_cylinder3d_kitti_mini')
