"""MinkUNet at full width on SemanticKITTI, single scans; PVD's MinkowskiNet teacher."""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

from perception.lidarseg.mini import write_semantickitti_mini
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.preprocessor import CubeVoxelizer
from perception.lidarseg.transforms import RandomRotate, RandomScale, RandomSector, RandomThin

with read_base():
    from .._base_.minkunet_schedule import *
    from .._base_.runtime import *
    from .._base_.semantickitti import *

model = dict(
    type=MinkUNet,
    data_preprocessor=dict(
        type=CubeVoxelizer,
        voxel_size=0.05,  # m
        max_voxels=80_000,
        cylinder_grid=(480, 360, 32)),  # for PVD's supervoxels
    num_classes=19,
    width=1.0)

train_pipeline = [dict(type=RandomRotate, max_degrees=180), dict(type=RandomScale, low=0.95, high=1.05)]
train_dataloader.update(dataset=dict(train_dataloader['dataset'], pipeline=train_pipeline))

mini_data = dict(type=write_semantickitti_mini, root='data/mini/semantickitti')
mini = dict(  # as Cylinder3D's: a coarse grid, one third of a scan at a time, every second point
    model=dict(
        data_preprocessor=dict(voxel_size=0.2, cylinder_grid=(160, 120, 16)),
        width=0.25,
        class_weights=[  # (-ln of each class's share of SemanticKITTI's points) ** 0.5
            1.78, 2.95, 2.80, 2.48, 2.51, 2.83, 2.99, 3.19, 1.27, 2.05, 1.39, 2.35, 1.42, 1.62, 1.15, 2.26, 1.60, 2.42,
            2.72]),
    train_dataloader=dict(
        batch_size=1, num_workers=0, persistent_workers=False,
        dataset=dict(data_root='data/mini/semantickitti', sequences=[0, 1, 2, 3, 4],
                     pipeline=[dict(type=RandomSector, degrees=120), dict(type=RandomThin, keep=0.5),
                               *train_pipeline])),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='data/mini/semantickitti')),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/semantickitti')),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/semantickitti')),
    optim_wrapper=dict(optimizer=dict(lr=0.05)),
    param_scheduler=[dict(type=LinearLR, start_factor=0.05, end=3, convert_to_iter_based=True),
                     dict(type=CosineAnnealingLR, T_max=27, begin=3, eta_min=1e-5, convert_to_iter_based=True)],
    train_cfg=dict(max_epochs=30, val_interval=10),
    default_hooks=dict(logger=dict(interval=25)))
