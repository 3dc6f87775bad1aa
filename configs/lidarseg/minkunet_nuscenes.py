"""MinkUNet at full width on nuScenes-lidarseg; PVD's MinkowskiNet teacher."""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.preprocessor import CubeVoxelizer
from perception.lidarseg.transforms import RandomRotate, RandomScale, RandomSector, RandomThin

with read_base():
    from .._base_.minkunet_schedule import *
    from .._base_.nuscenes import *
    from .._base_.runtime import *

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

train_pipeline = [  # as in SPVNAS's code, whose scale is of z too; mini figures were made without that
    dict(type=RandomRotate, max_degrees=180), dict(type=RandomScale, low=0.95, high=1.05, z=True)]
train_dataloader.update(dataset=dict(train_dataloader['dataset'], pipeline=train_pipeline))

mini = dict(  # cubes of 0.3 m, half a sweep at a time
    mini_loaders,
    model=dict(data_preprocessor=dict(voxel_size=0.3, cylinder_grid=(160, 120, 16)), width=0.25),
    train_dataloader=dict(
        mini_loaders['train_dataloader'],
        dataset=dict(mini_loaders['train_dataloader']['dataset'],
                     pipeline=[dict(type=RandomSector, degrees=180), dict(type=RandomThin, keep=0.7),
                               train_pipeline[0], dict(type=RandomScale, low=0.95, high=1.05)])),
    optim_wrapper=dict(optimizer=dict(lr=0.05)),
    param_scheduler=[dict(type=LinearLR, start_factor=0.05, end=3, convert_to_iter_based=True),
                     dict(type=CosineAnnealingLR, T_max=27, begin=3, eta_min=1e-5, convert_to_iter_based=True)],
    train_cfg=dict(max_epochs=30, val_interval=10),
    default_hooks=dict(logger=dict(interval=24)))
