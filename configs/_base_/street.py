"""Ten classes of things in streets, in ImageNet's folders; mini scale cut out of the toy world."""
from mmengine.config import read_base

from perception.prune.datasets.street.mini import write_street

with read_base():
    from .imagenet import *
    from .imagenet import mini_loaders as digits

data_root = 'data/street'  # PERCEPTION_DATA replaces the leading data
net.update(num_classes=10)
train_dataloader['dataset'].update(data_root=data_root)
val_dataloader['dataset'].update(data_root=data_root)
test_dataloader['dataset'].update(data_root=data_root)

mini_data = dict(type=write_street, root='data/mini/street')
tiny = dict(mini_data=dict(train=20, val=10))  # of tools/benchmark.py fuzz
mini_loaders = {name: dict(loader, dataset=dict(loader['dataset'], data_root='data/mini/street'))
                for name, loader in digits.items()}
