"""PVD (CVPR 2022) on nuScenes-lidarseg: a frozen Cylinder3D teaches the half-width one.

The teacher is trained first: tools/train.py configs/lidarseg/cylinder3d_nuscenes.py (with --mini for the mini scale).
"""
from mmengine.config import read_base

with read_base():
    from ..lidarseg.cylinder3d_half_nuscenes import *
    from ..lidarseg.cylinder3d_half_nuscenes import mini as student_mini
    from ..lidarseg.cylinder3d_half_nuscenes import model as student
    from ..lidarseg.cylinder3d_nuscenes import mini as teacher_mini
    from ..lidarseg.cylinder3d_nuscenes import model as teacher
    from .cylinder3d_kitti import custom_hooks
    from .cylinder3d_kitti import model as kitti

model = dict(
    kitti,
    student=student,
    teachers=dict(full=dict(
        kitti['teachers']['full'], model=teacher, checkpoint='work_dirs/cylinder3d_nuscenes/model.pth',
        trained_by='configs/lidarseg/cylinder3d_nuscenes.py')),
    losses=dict(pvd=dict(
        kitti['losses']['pvd'],
        # below 1 % of nuScenes' points: barrier, bicycle, bus, construction_vehicle, motorcycle, pedestrian,
        # traffic_cone, trailer, other_flat
        minority_classes=(0, 1, 2, 4, 5, 6, 7, 8, 11))))
work_dir = 'work_dirs/pvd_cylinder3d_nuscenes'

mini = dict(
    student_mini,
    model=dict(student=student_mini['model'],
               teachers=dict(full=dict(model=teacher_mini['model'],
                                       checkpoint='work_dirs/cylinder3d_nuscenes_mini/model.pth')),
               losses=dict(pvd=dict(supervoxel_size=(40, 20, 4)))),  # 4 x 6 x 4 supervoxels of the mini grid
    work_dir='work_dirs/pvd_cylinder3d_nuscenes_mini')
