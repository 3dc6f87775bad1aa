"""Cylinder3D at full width on SemanticKITTI, single scans, with the point refinement head; PVD's teacher."""
from mmengine.config import read_base

from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.preprocessor import CylinderVoxelizer
from perception.lidarseg.transforms import RandomSector

with read_base():
    from .._base_.cylinder3d_schedule import *
    from .._base_.runtime import *
    from .._base_.semantickitti import *

model = dict(
    type=Cylinder3D,
    data_preprocessor=dict(
        type=CylinderVoxelizer,
        grid_shape=(480, 360, 32),  # rho, phi, z (Cylinder3D, section 4.1)
        min_bound=(0, -3.1415926, -4),  # m, rad, m
        max_bound=(50, 3.1415926, 2)),
    num_classes=19,
    base_channels=32,
    compression=32,  # as in PVKD's semantickitti.yaml
    point_channels=256,
    point_widths=(64, 128, 256),
    refine='mirror',
    indice_sharing='correct')

mini = dict(  # a coarse grid, one third of a scan at a time
    mini_loaders,
    **mini_schedule,
    model=dict(
        data_preprocessor=dict(grid_shape=(48, 84, 8), max_bound=(25, 3.1415926, 2), ignored_votes=False),
        base_channels=8, compression=8, point_channels=64, point_widths=(16, 32, 64),
        class_weights=mini_class_weights, keep_logits=True),
    train_dataloader=dict(
        mini_loaders['train_dataloader'],
        dataset=dict(mini_loaders['train_dataloader']['dataset'],
                     pipeline=[*mini_pipeline, dict(type=RandomSector, degrees=120), *train_pipeline])),
    default_hooks=dict(logger=dict(interval=25)))
mini.update(
    train_cfg=dict(max_epochs=24, val_interval=8),
    param_scheduler=[mini['param_scheduler'][0], dict(mini['param_scheduler'][1], T_max=21)])
