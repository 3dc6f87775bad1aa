"""Cylinder3D at full width on SemanticKITTI, single scans, with the point refinement head; PVD's teacher."""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

from perception.lidarseg.datasets.semantickitti.mini import write_semantickitti_mini
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.preprocessor import CylinderVoxelizer
from perception.lidarseg.transforms import RandomSector, RandomThin

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

mini_data = dict(type=write_semantickitti_mini, root='data/mini/semantickitti')
mini = dict(  # many cheap steps: a coarse grid, one third of a scan at a time, every second point
    model=dict(
        data_preprocessor=dict(grid_shape=(160, 120, 16)),
        base_channels=12, compression=12, point_channels=64, point_widths=(16, 32, 64),
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
    optim_wrapper=dict(optimizer=dict(lr=1e-2)),
    param_scheduler=[dict(type=LinearLR, start_factor=0.05, end=3, convert_to_iter_based=True),
                     dict(type=CosineAnnealingLR, T_max=27, begin=3, eta_min=1e-5, convert_to_iter_based=True)],
    train_cfg=dict(max_epochs=30, val_interval=10),
    default_hooks=dict(logger=dict(interval=25)))
