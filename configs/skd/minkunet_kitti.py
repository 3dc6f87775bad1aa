"""SKD (CVPR 2019) on SemanticKITTI: regions and voxels of a frozen MinkUNet; to compare PVD with."""
from mmengine.config import read_base

from perception.common.hooks.teacher_score import TeacherScoreHook
from perception.distill.distiller import Distiller
from perception.distill.skd import SKDLoss
from perception.distill.teachers import FrozenTeacher

with read_base():
    from ..lidarseg.minkunet_half_kitti import *
    from ..lidarseg.minkunet_half_kitti import mini as student_mini
    from ..lidarseg.minkunet_half_kitti import model as student
    from ..lidarseg.minkunet_kitti import mini as teacher_mini
    from ..lidarseg.minkunet_kitti import model as teacher

taps = dict(point_logits='point_logits', voxel_logits='head', point_feats='point_feats', voxel_feats='backbone')
model = dict(
    type=Distiller,
    student=student,
    taps=taps,
    teachers=dict(full=dict(
        type=FrozenTeacher, model=teacher, taps=taps, trained_by='configs/lidarseg/minkunet_kitti.py')),
    losses=dict(skd=dict(
        type=SKDLoss, teacher='full', logits='voxel_logits', feats='voxel_feats', rows='voxels',
        mask_ignored=False)))

custom_hooks = [dict(type=TeacherScoreHook, num_samples=100)]

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'], mini=True)),
               losses=dict(skd=dict(region_size=(20, 20, 4)))))
