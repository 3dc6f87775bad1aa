"""MinkUNet at full width on nuScenes-lidarseg; PVD's MinkowskiNet teacher."""
from mmengine.config import read_base

from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.preprocessor import CubeVoxelizer
from perception.lidarseg.transforms import RandomRotate, RandomScale, RandomSector, RandomThin

with read_base():
    from .._base_.minkunet_schedule import *
    from .._base_.nuscenes import *
    from .._base_.runtime import *
    from .cylinder3d_nuscenes import mini as cylinder_mini

model = dict(
    type=MinkUNet,
    data_preprocessor=dict(
        type=CubeVoxelizer,
        voxel_size=0.05,  # m, as on SemanticKITTI; no published recipe for nuScenes
        max_voxels=80_000,
        cylinder_grid=(480, 360, 32),  # for PVD's supervoxels
        cylinder_bounds=((0, -3.1415926, -5), (50, 3.1415926, 3))),  # as Cylinder3D's nuScenes config
    num_classes=16,
    width=1.0)

train_pipeline = [dict(type=RandomRotate, max_degrees=180), dict(type=RandomScale, low=0.95, high=1.05)]
train_dataloader.update(dataset=dict(train_dataloader['dataset'], pipeline=train_pipeline))

sectors = [dict(type=RandomSector, degrees=180), dict(type=RandomThin, keep=0.7), *train_pipeline]
mini = dict(  # Cylinder3D's with cubes of 0.3 m
    cylinder_mini,
    model=dict(data_preprocessor=dict(voxel_size=0.3, cylinder_grid=(160, 120, 16)), width=0.25),
    train_dataloader=dict(cylinder_mini['train_dataloader'],
                          dataset=dict(cylinder_mini['train_dataloader']['dataset'], pipeline=sectors)),
    optim_wrapper=dict(optimizer=dict(lr=0.05)))
