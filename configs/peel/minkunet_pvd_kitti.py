"""MinkUNet on SemanticKITTI, pruned by PEEL and taught by the whole net with PVD (CVPR 2022).

The whole net is trained first: tools/train.py configs/lidarseg/minkunet_kitti.py (with --mini for the mini scale).
Search its structure with configs/peel/minkunet_kitti.py, then train the slim one here with --structure.
"""
from mmengine.config import read_base

from perception.distill.distiller import Distiller
from perception.distill.pvd import PVDLoss
from perception.distill.teachers import FrozenTeacher
from perception.prune.search import PEEL

with read_base():
    from ..lidarseg.minkunet_kitti import *
    from ..lidarseg.minkunet_kitti import mini as whole_mini
    from ..lidarseg.minkunet_kitti import model as whole

taps = dict(point_logits='point_logits', voxel_logits='head', point_feats='point_feats', voxel_feats='backbone')
model = dict(
    type=Distiller,
    student=whole,
    taps=taps,
    teachers=dict(whole=dict(
        type=FrozenTeacher, model=whole, taps=taps, trained_by='configs/lidarseg/minkunet_kitti.py')),
    losses=dict(pvd=dict(  # as configs/pvd/minkunet_kitti.py
        type=PVDLoss, teacher='whole', reading='practical', alpha=None, beta=(0.15, 0.25),
        supervoxel_size=(120, 60, 8), num_supervoxels=4, num_points=1024, num_voxels=512,
        minority_classes=minority_classes, rho_range=(0., 50.))))
prune = dict(type=PEEL, target=dict(kind='macs', ratio=0.5, value=None), samples=8)

mini = dict(
    whole_mini, prune=dict(divisor=4),
    model=dict(student=whole_mini['model'],
               teachers=dict(whole=dict(model=whole_mini['model'], mini=True)),
               losses=dict(pvd=dict(supervoxel_size=(20, 20, 4), rho_range=(0., 25.), num_points=256,
                                    num_voxels=128))))
