"""ERFNet on CULane, pruned by PEEL to half its multiply-accumulates.

The whole net is that of tools/train.py configs/lanes/erfnet_culane.py; search with tools/prune.py, then
train the slim one with tools/train.py --structure, which takes the whole schedule of the net.
"""
from mmengine.config import read_base

from perception.prune.search import PEEL

with read_base():
    from ..lanes.erfnet_culane import *
    from ..lanes.erfnet_culane import mini as whole_mini

prune = dict(type=PEEL, target=dict(kind='macs', ratio=0.5, value=None), divisor=None)

mini = dict(whole_mini, prune=dict(divisor=2))
