"""PVD (CVPR 2022) on SemanticKITTI, three scans at a time: a frozen Cylinder3D teaches the half-width one.

The teacher is trained first: tools/train.py configs/lidarseg/cylinder3d_kitti_multiscan.py (with --mini for the mini
scale).
"""
from mmengine.config import read_base

with read_base():
    from ..lidarseg.cylinder3d_half_kitti_multiscan import *
    from ..lidarseg.cylinder3d_half_kitti_multiscan import mini as student_mini
    from ..lidarseg.cylinder3d_half_kitti_multiscan import model as student
    from ..lidarseg.cylinder3d_kitti_multiscan import mini as teacher_mini
    from ..lidarseg.cylinder3d_kitti_multiscan import model as teacher
    from .cylinder3d_kitti import custom_hooks
    from .cylinder3d_kitti import model as single

pvd = single['losses']['pvd']
model = dict(
    single,
    student=student,
    teachers=dict(full=dict(
        single['teachers']['full'], model=teacher, checkpoint='work_dirs/cylinder3d_kitti_multiscan/model.pth',
        trained_by='configs/lidarseg/cylinder3d_kitti_multiscan.py')),
    # those of the single scans, and all moving objects: each has less than 1 % of SemanticKITTI's points
    losses=dict(pvd=dict(pvd, minority_classes=(*pvd['minority_classes'], 19, 20, 21, 22, 23, 24))))
work_dir = 'work_dirs/pvd_cylinder3d_kitti_multiscan'

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'],
                                       checkpoint='work_dirs/cylinder3d_kitti_multiscan_mini/model.pth')),
               losses=dict(pvd=dict(supervoxel_size=(40, 20, 4)))),  # 4 x 6 x 4 supervoxels of the mini grid
    work_dir='work_dirs/pvd_cylinder3d_kitti_multiscan_mini')
