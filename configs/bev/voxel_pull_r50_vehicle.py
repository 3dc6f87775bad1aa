"""Voxels that pull image features, with ResNet-50 on nuScenes: vehicles as a mask, in CVT's protocol."""
from mmengine.config import read_base

from perception.bev.map_metric import BEVSegMetric
from perception.bev.models.bev_net import BEVNet
from perception.bev.models.encoder import BEVDetEncoder
from perception.bev.models.map_head import MapHead
from perception.bev.models.view_transforms.ipm import VoxelPull
from perception.bev.transforms import ImageAug
from perception.common.nets.fpn import FPN
from perception.common.nets.resnet import ResNet

with read_base():
    from .._base_.bev_heads import *
    from .._base_.bev_schedule import *
    from .._base_.nuscenes_rig import *
    from .._base_.runtime import *

model = dict(
    type=BEVNet,
    data_preprocessor=images,
    bev_frame='flat_ego',
    grid=dict(lss_grid, z=(-3, 5)),
    backbone=dict(type=ResNet, depth=50, output_stride=32),
    levels=(2, 3),
    neck=dict(type=FPN, channels=256, finest_only=True),
    view_transform=dict(type=VoxelPull, out_channels=64, layers=8, mid_channels=64),
    encoder=dict(type=BEVDetEncoder, out_channels=128),
    heads=dict(map=dict(  # centres of car, truck, bus, trailer, construction vehicle, motorcycle, bicycle
        type=MapHead, classes=['vehicle'], channels=64, layers=1, center_weight=0.1,
        center_labels=(0, 1, 2, 3, 4, 6, 7))))

size = (224, 480)
labels = dict(map_preset='cvt_vehicle_s2', bev_frame='flat_ego', balance=False)
train_dataloader.update(batch_size=16)
train_dataloader['dataset'].update(pipeline=[dict(type=ImageAug, size=size)], **labels)
val_dataloader['dataset'].update(pipeline=[dict(type=ImageAug, size=size)], **labels)
test_dataloader['dataset'].update(pipeline=[dict(type=ImageAug, size=size)], **labels)
val_evaluator = dict(type=BEVSegMetric, preset='cvt_vehicle_s2')
test_evaluator = dict(type=BEVSegMetric, preset='cvt_vehicle_s2')
submission = predictions = None  # there is no server
optim_wrapper = cvt_optim
auto_scale_lr.update(enable=False)
param_scheduler = cvt_scheduler
train_cfg.update(max_epochs=cvt_epochs, val_interval=cvt_epochs)

mini_loaders['train_dataloader']['dataset'].update(map_grid=mini_cells)
mini_loaders['val_dataloader']['dataset'].update(map_grid=mini_cells)
mini_loaders['test_dataloader']['dataset'].update(map_grid=mini_cells)
mini = dict(
    mini_loaders, **mini_schedule, val_evaluator=val_evaluator, test_evaluator=test_evaluator,
    model=dict(
        grid=mini_cells,
        backbone=dict(depth=18, base_channels=16, stages=3),
        levels=(1, 2),
        neck=dict(channels=64),
        view_transform=dict(out_channels=32, layers=4, mid_channels=32),
        encoder=dict(channels=(48, 64), blocks=(1, 1), out_channels=32),
        heads=dict(map=dict(channels=32))))
