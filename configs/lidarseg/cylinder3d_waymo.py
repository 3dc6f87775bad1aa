"""Cylinder3D at full width on Waymo, both returns, with the point refinement head; PVD's teacher."""
from mmengine.config import read_base

from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.preprocessor import CylinderVoxelizer
from perception.lidarseg.transforms import RandomSector, RandomThin

with read_base():
    from .._base_.cylinder3d_schedule import *
    from .._base_.runtime import *
    from .._base_.waymo import *

model = dict(
    type=Cylinder3D,
    data_preprocessor=dict(
        type=CylinderVoxelizer,
        grid_shape=(960, 480, 32),  # rho, phi, z; this and the bounds as in PVKD's waymo.yaml
        min_bound=(0, -3.1415926, -2),  # m, rad, m; the frame of the vehicle, whose z is 0 on the ground
        max_bound=(75, 3.1415926, 4)),
    num_classes=22,
    base_channels=32,
    compression=32,
    point_channels=256,
    point_widths=(64, 128, 256),
    refine='mirror',
    indice_sharing='correct')
optim_wrapper.update(optimizer=dict(optim_wrapper['optimizer'], lr=3e-3))  # as in PVKD's waymo.yaml
train_cfg.update(max_epochs=20)

mini = dict(  # a coarse grid, one third of a frame at a time, every third point
    mini_loaders,
    **mini_schedule,
    model=dict(
        data_preprocessor=dict(grid_shape=(240, 120, 16)),
        base_channels=12, compression=12, point_channels=64, point_widths=(16, 32, 64)),
    train_dataloader=dict(
        mini_loaders['train_dataloader'],
        dataset=dict(mini_loaders['train_dataloader']['dataset'],
                     pipeline=[dict(type=RandomSector, degrees=120), dict(type=RandomThin, keep=1 / 3),
                               *train_pipeline])),
    default_hooks=dict(logger=dict(interval=25)))
