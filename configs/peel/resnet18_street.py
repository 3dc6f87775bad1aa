"""ResNet-18 on ten classes of things in streets; PEEL leaves it half its multiply-accumulates.

`data/street` is a folder of your own in ImageNet's layout, with other classes too; the mini scale learns crops of the
toy world. Train it whole, search with tools/prune.py, train the slim net with tools/train.py --structure.
"""
from mmengine.config import read_base

from perception.prune.models.classifier import ImageClassifier
from perception.prune.search import PEEL

with read_base():
    from .._base_.imagenet import *
    from .._base_.imagenet_schedule import *
    from .._base_.runtime import *
    from .._base_.street import *

train_dataloader['dataset'].update(data_root=data_root)
val_dataloader['dataset'].update(data_root=data_root)
test_dataloader['dataset'].update(data_root=data_root)

net.update(num_classes=10)
model = dict(type=ImageClassifier, net='resnet18', **net)
prune = dict(type=PEEL, target=dict(kind='macs', ratio=0.5, value=None), input_shape=(224, 224))

tiny = dict(mini_data=dict(train=20, val=10))  # of tools/benchmark.py fuzz
mini_loaders['train_dataloader']['dataset'].update(data_root='data/mini/street')
mini_loaders['val_dataloader']['dataset'].update(data_root='data/mini/street')
mini_loaders['test_dataloader']['dataset'].update(data_root='data/mini/street')
mini = dict(
    mini_loaders, model=dict(width=0.25, input_size=(32, 32)), prune=dict(divisor=2, input_shape=(32, 32)),
    **mini_schedule)
evidence = dict(scores=dict(cross_entropy='less'))  # of tools/benchmark.py prune
