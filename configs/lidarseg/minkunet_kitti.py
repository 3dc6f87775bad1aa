"""MinkUNet at full width on SemanticKITTI, single scans; PVD's MinkowskiNet teacher."""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.preprocessor import CubeVoxelizer
from perception.lidarseg.transforms import RandomRotate, RandomScale

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

train_pipeline = [  # as in SPVNAS's code, whose scale is of z too; mini figures were made without that
    dict(type=RandomRotate, max_degrees=180), dict(type=RandomScale, low=0.95, high=1.05, z=True)]
train_dataloader.update(dataset=dict(train_dataloader['dataset'], pipeline=train_pipeline))
published = dict(gmac=113.9)  # SPVNAS's tables, mean over the real sequence 08

mini = dict(  # whole scans in coarse cubes: this net sees x and y, which differ from sector to sector
    mini_loaders,
    train_dataloader=dict(
        mini_loaders['train_dataloader'],
        dataset=dict(mini_loaders['train_dataloader']['dataset'],
                     pipeline=[*mini_pipeline, train_pipeline[0], dict(type=RandomScale, low=0.95, high=1.05)])),
    model=dict(data_preprocessor=mini_cubes, width=0.25, blocks=(1,) * 8, class_weights=mini_class_weights,
               keep_logits=True),
    optim_wrapper=dict(optimizer=dict(type=AdamW, lr=1e-2)),
    param_scheduler=[dict(type=LinearLR, start_factor=0.05, end=3, convert_to_iter_based=True),
                     dict(type=CosineAnnealingLR, T_max=29, begin=3, eta_min=1e-5, convert_to_iter_based=True)],
    train_cfg=dict(max_epochs=32, val_interval=8),
    default_hooks=dict(logger=dict(interval=25)))
