"""The agnostic lane net on BDD100K (SAD's protocol): lane pixels, told apart by clustering."""
from mmengine.config import read_base

from perception.lanes.cluster import ClusterDecoder
from perception.lanes.models.agnostic import AgnosticLaneNet

with read_base():
    from .._base_.bdd100k import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(net, type=AgnosticLaneNet, decoder=dict(type=ClusterDecoder))
train_dataloader['dataset'].update(all_lanes=True)
default_hooks['export'].update(metric='iou')  # more accuracy alone is had by wider lanes

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
