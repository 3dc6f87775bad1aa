"""SPVNAS@65GMACs with half of every width on SemanticKITTI; PVD's SPVNAS student."""
from mmengine.config import read_base

with read_base():
    from .spvnas_kitti import *

model.update(ratio=0.5)
published = {}  # no figures of this width

mini = dict(mini, model=dict(mini['model'], ratio=0.125))
mini.update(
    train_cfg=dict(max_epochs=16, val_interval=8),
    param_scheduler=[mini['param_scheduler'][0], dict(mini['param_scheduler'][1], T_max=13)])
# of tools/benchmark.py arms: all labels for all, until scores stand still, the student a quarter of the teacher's width
longer = ['train_cfg.max_epochs=64', 'train_cfg.val_interval=16']
taught = ['model.student.ratio=0.0625', *longer]
evidence = dict(evidence, arms=dict(
    student=['configs/lidarseg/spvnas_half_kitti.py', 'model.ratio=0.0625', *longer],
    teacher=['configs/lidarseg/spvnas_kitti.py', *longer],
    literal=['configs/pvd/spvnas_kitti.py', 'model.losses.pvd.reading=literal', *taught],
    ka=['configs/ka/spvnas_kitti.py', 'model.losses.ka.channels=(8,20)', *taught],
    **{method: [f'configs/{method}/spvnas_kitti.py', *taught]
       for method in ('pvd', 'kd', 'cd', 'skd', 'ifv')}))
