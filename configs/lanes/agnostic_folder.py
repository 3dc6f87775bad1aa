"""The agnostic lane net on own images: any number of lanes; the data stand in configs/_base_/lane_folder.py."""
from mmengine.config import read_base
from torch.optim import Adam

from perception.lanes.cluster import ClusterDecoder
from perception.lanes.models.agnostic import AgnosticLaneNet

with read_base():
    from .._base_.lane_folder import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(net, type=AgnosticLaneNet, num_classes=2, num_lanes=0, decoder=dict(type=ClusterDecoder))
train_dataloader['dataset'].update(all_lanes=True)

mini = dict(mini_loaders, model=dict(input_size=(80, 240), background_weight=0.1), **mini_schedule)
mini.update(optim_wrapper=dict(optimizer=dict(type=Adam, lr=4e-3)))  # at 1e-2 it may find no lane at all
