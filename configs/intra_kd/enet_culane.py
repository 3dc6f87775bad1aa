"""IntRA-KD (CVPR 2020) on CULane: a frozen PSPNet teaches ENet.

The teacher is trained first: tools/train.py configs/lanes/pspnet_culane.py (with --mini for the mini scale).
"""
from mmengine.config import read_base

from perception.common.hooks.teacher_score import TeacherScoreHook
from perception.distill.distiller import Distiller
from perception.distill.intra_kd import IntRAKDLoss
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
    losses=dict(intra_kd=dict(
        type=IntRAKDLoss, teacher='full', num_classes=5, aoi_kernel=5, moment_orders=(1, 2, 3),
        alpha=(0.1, 0.1, 1.0),  # probability, attention, affinity; the last is over the classes present
        feature_pairs=[dict(student='middle', teacher='middle', terms=('attention',)),
                       dict(student='high', teacher='high', terms=('attention', 'affinity'))])))
custom_hooks = [dict(type=TeacherScoreHook, num_samples=100)]

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'], mini=True)),
               losses=dict(intra_kd=dict(attention_norm='l2'))))
