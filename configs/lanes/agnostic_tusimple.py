"""The agnostic lane net on TuSimple: lane pixels, told apart by clustering; all lanes, not six slots."""
from mmengine.config import read_base
from torch.optim import Adam

from perception.lanes.cluster import ClusterDecoder
from perception.lanes.models.agnostic import AgnosticLaneNet

with read_base():
    from .._base_.lane_schedule import *
    from .._base_.runtime import *
    from .._base_.tusimple import *

model = dict(net, type=AgnosticLaneNet, num_classes=2, num_lanes=0, decoder=dict(type=ClusterDecoder), point_slots=6)
train_dataloader['dataset'].update(all_lanes=True)

mini = dict(mini_loaders, model=dict(mini_net, background_weight=0.2), **mini_schedule)
mini.update(optim_wrapper=dict(optimizer=dict(type=Adam, lr=4e-3)))  # at 1e-2 it may find no lane at all
