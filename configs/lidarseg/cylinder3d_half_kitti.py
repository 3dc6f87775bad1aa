"""Cylinder3D at half width on SemanticKITTI: about a quarter of the parameters and of the arithmetic; PVD's student."""
from mmengine.config import read_base

with read_base():
    from .cylinder3d_kitti import *

model.update(base_channels=16, compression=16)  # the point MLP keeps its widths, as in PVKD's 0.5x configs

mini = dict(mini, model=dict(mini['model'], base_channels=4, compression=4))
mini.update(
    train_cfg=dict(max_epochs=16, val_interval=8),
    param_scheduler=[mini['param_scheduler'][0], dict(mini['param_scheduler'][1], T_max=13)])
# of tools/benchmark.py arms: all labels for all, until scores stand still, the student a quarter of the teacher's width
longer = ['train_cfg.max_epochs=64', 'train_cfg.val_interval=16']
taught = ['model.student.base_channels=2', 'model.student.compression=2', *longer]
evidence = dict(evidence, arms=dict(
    student=['configs/lidarseg/cylinder3d_half_kitti.py', 'model.base_channels=2', 'model.compression=2', *longer],
    teacher=['configs/lidarseg/cylinder3d_kitti.py', *longer],
    literal=['configs/pvd/cylinder3d_kitti.py', 'model.losses.pvd.reading=literal', *taught],
    ka=['configs/ka/cylinder3d_kitti.py', 'model.losses.ka.channels=(8,32)', *taught],
    **{method: [f'configs/{method}/cylinder3d_kitti.py', *taught]
       for method in ('pvd', 'kd', 'cd', 'skd', 'ifv')}))
