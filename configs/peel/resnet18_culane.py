"""ResNet-18 on CULane, pruned by PEEL to half its multiply-accumulates.

The whole net is that of tools/train.py configs/lanes/resnet18_culane.py; search with tools/prune.py, then
train the slim one with tools/train.py --structure, which takes the whole schedule of the net.
"""
from mmengine.config import read_base

from perception.prune.search import PEEL

with read_base():
    from ..lanes.resnet18_culane import *
    from ..lanes.resnet18_culane import evidence as lanes
    from ..lanes.resnet18_culane import mini as whole_mini

prune = dict(type=PEEL, target=dict(kind='macs', ratio=0.5, value=None), divisor=None)

mini = dict(whole_mini, prune=dict(divisor=2))
evidence = dict(  # of tools/benchmark.py prune
    options=['mini_data.root=data/mini/culane_prune', 'mini_data.train=60', 'mini_data.val=90', 'mini_data.test=1',
             'mini_data.detail=0.25', 'mini_data.length=180', 'train_cfg.max_epochs=10', 'train_cfg.val_interval=10',
             *(f'{loader}_dataloader.dataset.data_root=data/mini/culane_prune' for loader in ('train', 'val', 'test'))],
    scores=lanes['scores'])
