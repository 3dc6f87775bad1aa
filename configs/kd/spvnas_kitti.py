"""KD (2015) on SemanticKITTI: softened class probabilities of a frozen SPVNAS; to compare PVD with."""
from mmengine.config import read_base

from perception.common.hooks.teacher_score import TeacherScoreHook
from perception.distill.distiller import Distiller
from perception.distill.kd import KDLoss
from perception.distill.teachers import FrozenTeacher

with read_base():
    from ..lidarseg.spvnas_half_kitti import *
    from ..lidarseg.spvnas_half_kitti import mini as student_mini
    from ..lidarseg.spvnas_half_kitti import model as student
    from ..lidarseg.spvnas_kitti import mini as teacher_mini
    from ..lidarseg.spvnas_kitti import model as teacher

taps = dict(point_logits='point_logits', voxel_logits='head', point_feats='point_feats',  # where predictions come from
            voxel_feats='backbone.up4')
model = dict(
    type=Distiller,
    student=student,
    taps=taps,
    teachers=dict(full=dict(
        type=FrozenTeacher, model=teacher, taps=taps, trained_by='configs/lidarseg/spvnas_kitti.py')),
    losses=dict(kd=dict(type=KDLoss, teacher='full', logits='voxel_logits', rows='voxels', mask_ignored=False)))

custom_hooks = [dict(type=TeacherScoreHook, num_samples=100)]

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'], mini=True))))
