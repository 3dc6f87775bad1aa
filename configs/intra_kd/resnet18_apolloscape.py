"""IntRA-KD (CVPR 2020) on ApolloScape's lane marks: a frozen PSPNet teaches ResNet-18.

The teacher is trained first: tools/train.py configs/lanes/pspnet_apolloscape.py (with --mini for the mini scale).
"""
from mmengine.config import read_base

from perception.common.hooks.teacher_score import TeacherScoreHook
from perception.distill.distiller import Distiller
from perception.distill.intra_kd import IntRAKDLoss
from perception.distill.teachers import FrozenTeacher

with read_base():
    from ..lanes.pspnet_apolloscape import mini as teacher_mini
    from ..lanes.pspnet_apolloscape import model as teacher
    from ..lanes.resnet18_apolloscape import *
    from ..lanes.resnet18_apolloscape import mini as student_mini
    from ..lanes.resnet18_apolloscape import model as student

model = dict(
    type=Distiller,
    student=student,
    taps=dict(middle='stage3', high='stage4', logits='logits'),
    teachers=dict(full=dict(
        type=FrozenTeacher, model=teacher, taps=dict(middle='stage3', high='head_input', logits='logits'),
        trained_by='configs/lanes/pspnet_apolloscape.py')),
    losses=dict(intra_kd=dict(
        type=IntRAKDLoss, teacher='full', num_classes=37, aoi_kernel=5, moment_orders=(1, 2, 3),
        alpha=(0.1, 0.1, 1.0),  # probability, attention, affinity; the last is over the classes present
        feature_pairs=[dict(student='middle', teacher='middle', terms=('attention',)),
                       dict(student='high', teacher='high', terms=('attention', 'affinity'))])))
custom_hooks = [dict(type=TeacherScoreHook, num_samples=100)]

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'], mini=True)),
               losses=dict(intra_kd=dict(attention_norm='l2'))))
