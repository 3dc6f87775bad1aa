"""PVD (CVPR 2022) on SemanticKITTI: a frozen Cylinder3D teaches the half-width one.

The teacher is trained first: tools/train.py configs/lidarseg/cylinder3d_kitti.py (with --mini for the mini scale).
"""
from mmengine.config import read_base

from perception.common.hooks.teacher_score import TeacherScoreHook
from perception.distill.distiller import Distiller
from perception.distill.pvd import PVDLoss
from perception.distill.teachers import FrozenTeacher

with read_base():
    from ..lidarseg.cylinder3d_half_kitti import *
    from ..lidarseg.cylinder3d_half_kitti import mini as student_mini
    from ..lidarseg.cylinder3d_half_kitti import model as student
    from ..lidarseg.cylinder3d_kitti import mini as teacher_mini
    from ..lidarseg.cylinder3d_kitti import model as teacher

taps = dict(point_logits='point_logits', voxel_logits='head', point_feats='point_feats', voxel_feats='backbone')
model = dict(
    type=Distiller,
    student=student,
    taps=taps,
    teachers=dict(full=dict(
        type=FrozenTeacher, model=teacher, taps=taps, trained_by='configs/lidarseg/cylinder3d_kitti.py')),
    losses=dict(pvd=dict(
        type=PVDLoss, teacher='full',
        reading='practical', alpha=None,  # eq. (7), output terms (point, voxel): (0.4, 0.6); 'literal': (0.1, 0.15)
        beta=(0.15, 0.25),  # affinity terms (point, voxel)
        supervoxel_size=(120, 60, 8),  # cells of (rho, phi, z), table 5: 4 x 6 x 4 supervoxels
        num_supervoxels=4, num_points=1024, num_voxels=512,  # K, N_p, N_v
        minority_classes=minority_classes,  # of the data set
        rho_range=(0., 50.))))  # metres, as the data preprocessor

custom_hooks = [dict(type=TeacherScoreHook, num_samples=100)]

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'], mini=True)),
               losses=dict(pvd=dict(
                   supervoxel_size=(12, 14, 2), rho_range=(0., 25.),  # 4 x 6 x 4 supervoxels of fewer points
                   num_points=256, num_voxels=128))))
