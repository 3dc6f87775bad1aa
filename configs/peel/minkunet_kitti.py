"""MinkUNet on SemanticKITTI, pruned by PEEL to half its multiply-accumulates.

The whole net is that of tools/train.py configs/lidarseg/minkunet_kitti.py; search with tools/prune.py, then train the
slim one with tools/train.py --structure.
"""
from mmengine.config import read_base

from perception.prune.search import PEEL

with read_base():
    from ..lidarseg.minkunet_kitti import *
    from ..lidarseg.minkunet_kitti import mini as whole_mini

prune = dict(type=PEEL, target=dict(kind='macs', ratio=0.5, value=None), samples=8)  # pairs of 8 validation scans

mini = dict(whole_mini, prune=dict(divisor=4))
evidence = dict(  # of tools/benchmark.py prune
    options=['train_cfg.max_epochs=5', 'train_cfg.val_interval=5'],
    scores=dict(accuracy='greater', cross_entropy='less'))
