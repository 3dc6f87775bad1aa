"""ERFNet on ApolloScape's lane marks."""
from mmengine.config import read_base

from perception.lanes.models.erfnet import ERFNet

with read_base():
    from .._base_.apolloscape import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(type=ERFNet, **net)
optim_wrapper['optimizer'].update(nesterov=False)  # IntRA-KD's code

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
