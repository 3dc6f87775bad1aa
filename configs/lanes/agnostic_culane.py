"""The agnostic lane net on CULane: lane pixels, told apart by clustering; all lanes, not four slots."""
from mmengine.config import read_base

from perception.lanes.cluster import ClusterDecoder
from perception.lanes.models.agnostic import AgnosticLaneNet

with read_base():
    from .._base_.culane import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(net, type=AgnosticLaneNet, num_classes=2, num_lanes=0, decoder=dict(type=ClusterDecoder))
train_dataloader['dataset'].update(all_lanes=True)
val_evaluator = dict(type=CULaneMetric)

mini = dict(mini_loaders, model=dict(input_size=(112, 320), background_weight=0.1), val_evaluator=val_evaluator,
            **mini_schedule)
