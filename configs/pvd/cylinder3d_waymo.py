"""PVD (CVPR 2022) on Waymo: a frozen Cylinder3D teaches the half-width one.

The teacher is trained first: tools/train.py configs/lidarseg/cylinder3d_waymo.py (with --mini for the mini scale).
"""
from mmengine.config import read_base

with read_base():
    from ..lidarseg.cylinder3d_half_waymo import *
    from ..lidarseg.cylinder3d_half_waymo import mini as student_mini
    from ..lidarseg.cylinder3d_half_waymo import model as student
    from ..lidarseg.cylinder3d_waymo import mini as teacher_mini
    from ..lidarseg.cylinder3d_waymo import model as teacher
    from .cylinder3d_kitti import custom_hooks
    from .cylinder3d_kitti import model as kitti

model = dict(
    kitti,
    student=student,
    teachers=dict(full=dict(
        kitti['teachers']['full'], model=teacher, checkpoint='work_dirs/cylinder3d_waymo/model.pth',
        trained_by='configs/lidarseg/cylinder3d_waymo.py')),
    losses=dict(pvd=dict(
        kitti['losses']['pvd'],  # 8 x 8 x 4 supervoxels of the same 120 x 60 x 8 cells
        # those below 1 % of the points: truck, bus, other-vehicle, motorcyclist, bicyclist, pedestrian, sign,
        # traffic-light, construction-cone, bicycle, motorcycle, other-ground. Waymo publishes no shares, so this is a
        # guess; `count_classes` of perception/lidarseg/datasets/waymo.py counts them in the training split
        minority_classes=(1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 19),
        rho_range=(0., 75.))))  # metres, as the data preprocessor
work_dir = 'work_dirs/pvd_cylinder3d_waymo'

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'],
                                       checkpoint='work_dirs/cylinder3d_waymo_mini/model.pth')),
               losses=dict(pvd=dict(supervoxel_size=(30, 15, 4)))),  # 8 x 8 x 4 supervoxels of the mini grid
    work_dir='work_dirs/pvd_cylinder3d_waymo_mini')
