"""MinkUNet at full width on scans and labels of one's own; set the folders and classes of `_base_/point_folder.py`."""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.preprocessor import CubeVoxelizer

with read_base():
    from .._base_.minkunet_schedule import *
    from .._base_.point_folder import *
    from .._base_.runtime import *

model = dict(
    type=MinkUNet,
    data_preprocessor=dict(type=CubeVoxelizer, voxel_size=0.05, max_voxels=80_000),  # m
    num_classes=len(folder['classes']),
    width=1.0)

mini = dict(
    mini_loaders,
    model=dict(data_preprocessor=dict(voxel_size=0.4), width=0.25),
    optim_wrapper=dict(optimizer=dict(type=AdamW, lr=1e-2)),
    param_scheduler=[dict(type=LinearLR, start_factor=0.05, end=2, convert_to_iter_based=True),
                     dict(type=CosineAnnealingLR, T_max=10, begin=2, eta_min=1e-5, convert_to_iter_based=True)],
    train_cfg=dict(max_epochs=12, val_interval=4),
    default_hooks=dict(logger=dict(interval=8)))
