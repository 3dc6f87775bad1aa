"""PVD (CVPR 2022) on nuScenes-lidarseg: a frozen MinkUNet teaches the half-width one.

The teacher is trained first: tools/train.py configs/lidarseg/minkunet_nuscenes.py (with --mini for the mini scale).
"""
from mmengine.config import read_base

with read_base():
    from ..lidarseg.minkunet_half_nuscenes import *
    from ..lidarseg.minkunet_half_nuscenes import mini as student_mini
    from ..lidarseg.minkunet_half_nuscenes import model as student
    from ..lidarseg.minkunet_nuscenes import mini as teacher_mini
    from ..lidarseg.minkunet_nuscenes import model as teacher
    from .cylinder3d_nuscenes import custom_hooks
    from .cylinder3d_nuscenes import model as cylinder

taps = dict(point_logits='point_logits', voxel_logits='head', point_feats='point_feats', voxel_feats='backbone')
model = dict(
    cylinder,
    student=student,
    taps=taps,
    teachers=dict(full=dict(
        cylinder['teachers']['full'], model=teacher, taps=taps, checkpoint='work_dirs/minkunet_nuscenes/model.pth',
        trained_by='configs/lidarseg/minkunet_nuscenes.py')))
work_dir = 'work_dirs/pvd_minkunet_nuscenes'

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'],
                                       checkpoint='work_dirs/minkunet_nuscenes_mini/model.pth')),
               losses=dict(pvd=dict(supervoxel_size=(40, 20, 4)))),  # 4 x 6 x 4 supervoxels of the mini grid
    work_dir='work_dirs/pvd_minkunet_nuscenes_mini')
