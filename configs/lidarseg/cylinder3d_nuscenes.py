"""Cylinder3D at full width on nuScenes-lidarseg, with the point refinement head; PVD's teacher."""
from mmengine.config import read_base

from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.preprocessor import CylinderVoxelizer
from perception.lidarseg.transforms import RandomSector, RandomThin

with read_base():
    from .._base_.cylinder3d_schedule import *
    from .._base_.nuscenes import *
    from .._base_.runtime import *

model = dict(
    type=Cylinder3D,
    data_preprocessor=dict(
        type=CylinderVoxelizer,
        grid_shape=(480, 360, 32),  # rho, phi, z
        min_bound=(0, -3.1415926, -5),  # m, rad, m: Cylinder3D's nuScenes config
        max_bound=(50, 3.1415926, 3)),
    num_classes=16,
    base_channels=32,
    compression=16,  # as in Cylinder3D's nuScenes config
    point_channels=256,
    point_widths=(64, 128, 256),
    refine='mirror',
    indice_sharing='correct')

mini = dict(  # a coarse grid, half a sweep at a time
    mini_loaders,
    **mini_schedule,
    model=dict(
        data_preprocessor=dict(grid_shape=(160, 120, 16)),
        base_channels=12, compression=6, point_channels=64, point_widths=(16, 32, 64)),
    train_dataloader=dict(
        mini_loaders['train_dataloader'],
        dataset=dict(mini_loaders['train_dataloader']['dataset'],
                     pipeline=[dict(type=RandomSector, degrees=180), dict(type=RandomThin, keep=0.7),
                               *train_pipeline])),
    default_hooks=dict(logger=dict(interval=24)))
