"""CRCKD (MICCAI 2021) on images of one's own; the data stand in configs/_base_/class_folder.py.

Its parts: model.losses.crckd.crp_weight=0 without CRP, ccd_weight=0 without CCD, model.losses.mt.weight=0 without the
teacher's predictions.
"""
from mmengine.config import read_base

from perception.distill.crckd import ConsistencyLoss, CRCKDLoss
from perception.distill.distiller import Distiller
from perception.distill.teachers import EMATeacher

with read_base():
    from ..medical.densenet121_folder import *
    from ..medical.densenet121_folder import mini as student_mini
    from ..medical.densenet121_folder import model as student

train_dataloader.update(dataset=dict(train_dataloader['dataset'], pipeline=two_views))
find_unused_parameters = True  # the projections, before the part that trains them begins
model = dict(
    type=Distiller, student=student, taps=dict(features='feature', logits='logits'),
    teachers=dict(mean=dict(
        type=EMATeacher, model=student, taps=dict(features='feature', logits='logits'), momentum=0.01, view='second')),
    losses=dict(
        crckd=dict(type=CRCKDLoss, teacher='mean', ccd_weight=0.1, crp_weight=1.0, positives=20, negatives=4096,
                   crp_begin=20 * epoch),
        mt=dict(type=ConsistencyLoss, teacher='mean', epoch=epoch, ramp=30, begin=20 * epoch)))

mini = dict(student_mini, model=dict(
    student=student_mini['model'], teachers=dict(mean=dict(model=student_mini['model'])),
    losses=dict(crckd=dict(channels=32, embedding=32, positives=6, negatives=128, crp_begin=4 * mini_epoch),
                mt=dict(epoch=mini_epoch, ramp=6, begin=4 * mini_epoch))))
