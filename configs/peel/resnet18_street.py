"""ResNet-18 on ten classes of things in streets; PEEL leaves it half its multiply-accumulates.

`data/street` is a folder of your own in ImageNet's layout, with other classes too; the mini scale learns crops of the
toy world. Train it whole, search with tools/prune.py, train the slim net with tools/train.py --structure.
"""
from mmengine.config import read_base

from perception.prune.models.classifier import ImageClassifier
from perception.prune.search import PEEL

with read_base():
    from .._base_.imagenet_schedule import *
    from .._base_.runtime import *
    from .._base_.street import *

model = dict(type=ImageClassifier, net='resnet18', **net)
prune = dict(type=PEEL, target=dict(kind='macs', ratio=0.5, value=None), input_shape=(224, 224))

mini = dict(mini_loaders, model=dict(width=0.25), prune=dict(divisor=2, input_shape=(32, 32)), **mini_schedule)
evidence = dict(scores=dict(cross_entropy='less'))  # of tools/benchmark.py prune
