"""KA (CVPR 2019) on SemanticKITTI: a compact code of the features of a frozen Cylinder3D; to compare PVD with."""
from mmengine.config import read_base

from perception.common.hooks.teacher_score import TeacherScoreHook
from perception.distill.distiller import Distiller
from perception.distill.ka import KALoss
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
    losses=dict(ka=dict(type=KALoss, teacher='full', feats='voxel_feats', channels=(64, 128))))

custom_hooks = [dict(type=TeacherScoreHook, num_samples=100)]

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'], mini=True)),
               losses=dict(ka=dict(channels=(16, 32)))))
