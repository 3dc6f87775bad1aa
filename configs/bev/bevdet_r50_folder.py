"""BEVDet with ResNet-50 on images of one's own rig of cameras; set the folder of `_base_/rig_folder.py`."""
from mmengine.config import read_base

from perception.bev.models.bev_net import BEVNet
from perception.bev.models.encoder import BEVDetEncoder
from perception.bev.models.view_transforms.depth import LSS
from perception.common.nets.fpn import FPN
from perception.common.nets.resnet import ResNet

with read_base():
    from .._base_.bev_heads import *
    from .._base_.bev_schedule import *
    from .._base_.rig_folder import *
    from .._base_.runtime import *

model = dict(
    type=BEVNet,
    data_preprocessor=images,
    bev_frame=bev_frame,
    grid=detection_grid,
    backbone=dict(type=ResNet, depth=50, output_stride=32),
    levels=(2, 3),
    neck=dict(type=FPN, channels=512, finest_only=True),
    view_transform=dict(type=LSS, out_channels=64, depth=(1, 60, 1)),
    encoder=dict(type=BEVDetEncoder, out_channels=256),
    heads=dict(boxes=boxes))

mini = dict(
    mini_loaders, **mini_schedule,
    model=dict(
        grid=mini_cells,
        backbone=dict(depth=18, base_channels=16, stages=3),
        levels=(1, 2),
        neck=dict(channels=64),
        view_transform=dict(out_channels=32, depth=(1, 33, 1)),
        encoder=dict(channels=(48, 64), blocks=(1, 1), out_channels=32),
        heads=dict(boxes=mini_boxes)))
