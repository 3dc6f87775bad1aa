"""SKD (CVPR 2019) on CULane: regions and pixels of a frozen PSPNet teach ENet; to compare IntRA-KD with.

The teacher is trained first: tools/train.py configs/lanes/pspnet_culane.py (with --mini for the mini scale).
"""
from mmengine.config import read_base

from perception.common.hooks.teacher_score import TeacherScoreHook
from perception.distill.distiller import Distiller
from perception.distill.skd import SKDLoss
from perception.distill.teachers import FrozenTeacher

with read_base():
    from ..lanes.enet_culane import *
    from ..lanes.enet_culane import mini as student_mini
    from ..lanes.enet_culane import model as student
    from ..lanes.pspnet_culane import mini as teacher_mini
    from ..lanes.pspnet_culane import model as teacher

model = dict(
    type=Distiller,
    student=student,
    taps=dict(middle='stage2', high='stage3', logits='logits'),
    teachers=dict(full=dict(
        type=FrozenTeacher, model=teacher, taps=dict(middle='stage3', high='head_input', logits='logits'),
        trained_by='configs/lanes/pspnet_culane.py')),
    losses=dict(skd=dict(
        type=SKDLoss, teacher='full', feats='high')))
custom_hooks = [dict(type=TeacherScoreHook, num_samples=100)]

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'], mini=True))))
