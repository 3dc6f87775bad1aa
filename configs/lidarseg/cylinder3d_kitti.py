"""Cylinder3D at full width on SemanticKITTI, single scans, with the point refinement head; PVD's teacher."""
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

from perception.lidarseg.mini import write_semantickitti_mini
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.preprocessor import CylinderVoxelizer

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
mini_epochs = 8
mini = dict(
    model=dict(data_preprocessor=dict(grid_shape=(160, 120, 16)), base_channels=16, compression=16,
               point_channels=64, point_widths=(16, 32, 64)),
    train_dataloader=dict(batch_size=1, num_workers=0, persistent_workers=False,
                          dataset=dict(data_root='data/mini/semantickitti', sequences=[0, 1, 2, 3, 4])),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='data/mini/semantickitti')),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/semantickitti')),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/semantickitti')),
    optim_wrapper=dict(optimizer=dict(lr=5e-3)),
    param_scheduler=[dict(type=LinearLR, start_factor=0.05, end=1, convert_to_iter_based=True),
                     dict(type=CosineAnnealingLR, T_max=mini_epochs - 1, begin=1, eta_min=1e-5,
                          convert_to_iter_based=True)],
    train_cfg=dict(max_epochs=mini_epochs, val_interval=4),
    default_hooks=dict(logger=dict(interval=25)))
