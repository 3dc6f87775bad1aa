"""ResNet-18 on ImageNet; PEEL leaves it 57 % of its multiply-accumulates.

Train it whole, search with tools/prune.py, train the slim net with tools/train.py --structure.
"""
from mmengine.config import read_base

from perception.prune.models.classifier import ImageClassifier
from perception.prune.search import PEEL

with read_base():
    from .._base_.imagenet import *
    from .._base_.imagenet_schedule import *
    from .._base_.runtime import *

model = dict(type=ImageClassifier, net='resnet18', **net)
prune = dict(type=PEEL, target=dict(kind='macs', value=1.04e9, ratio=None), input_shape=(224, 224))

mini = dict(
    mini_loaders, model=dict(mini_net, width=0.25),
    prune=dict(target=dict(ratio=0.5, value=None), divisor=2, input_shape=(32, 32)), **mini_schedule)
evidence = dict(  # of tools/benchmark.py prune
    options=['train_cfg.max_epochs=5', 'train_cfg.val_interval=5'], scores=dict(cross_entropy='less'))
