"""MinkUNet at half width on SemanticKITTI; PVD's MinkowskiNet student."""
from mmengine.config import read_base

with read_base():
    from .minkunet_kitti import *

model.update(width=0.5)
published = dict(gmac=28.5)  # SPVNAS's tables, mean over the real sequence 08

mini = dict(mini, model=dict(mini['model'], width=0.125))
mini.update(
    train_cfg=dict(max_epochs=16, val_interval=8),
    param_scheduler=[mini['param_scheduler'][0], dict(mini['param_scheduler'][1], T_max=13)])
# of tools/benchmark.py arms: all labels for all, until scores stand still. 100 scans teach the mini student of half the
# teacher's width as much as the teacher, so here it has a quarter
longer = ['train_cfg.max_epochs=64', 'train_cfg.val_interval=16']
taught = ['model.student.width=0.0625', *longer]
adapted = ['configs/ka/minkunet_kitti.py', 'model.losses.ka.channels=(6,24)', *taught]
evidence = dict(evidence, arms=dict(
    student=['configs/lidarseg/minkunet_half_kitti.py', 'model.width=0.0625', *longer],
    teacher=['configs/lidarseg/minkunet_kitti.py', *longer],
    literal=['configs/pvd/minkunet_kitti.py', 'model.losses.pvd.reading=literal', *taught],
    ka=adapted,
    ka_light=[*adapted, 'model.losses.ka.adapt_weight=2'],
    **{method: [f'configs/{method}/minkunet_kitti.py', *taught] for method in ('pvd', 'kd', 'cd', 'skd', 'ifv')},
    **{f'{method}_light': [f'configs/{method}/minkunet_kitti.py', f'model.losses.{method}.weight={weight}', *taught]
       # a tenth of their own weights, of IFV's a twelfth
       for method, weight in dict(pvd=0.1, kd=0.1, cd=0.3, ifv=4).items()}))
