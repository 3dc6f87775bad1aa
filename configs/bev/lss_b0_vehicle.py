"""LSS with EfficientNet-B0 on nuScenes: all vehicles as a mask of the ground, five cameras of six at random."""
from mmengine.config import read_base

from perception.bev.map_metric import BEVSegMetric
from perception.bev.models.bev_net import BEVNet
from perception.bev.models.encoder import LSSEncoder, Up
from perception.bev.models.map_head import MapHead
from perception.bev.models.view_transforms.depth import LSS
from perception.bev.transforms import DropCameras, ImageAug
from perception.common.nets.efficientnet import EfficientNet

with read_base():
    from .._base_.bev_heads import *
    from .._base_.bev_schedule import *
    from .._base_.nuscenes_rig import *
    from .._base_.runtime import *

model = dict(
    type=BEVNet,
    data_preprocessor=images,
    bev_frame='ego',
    grid=lss_grid,
    backbone=dict(type=EfficientNet, version='b0'),
    levels=(3, 4),
    neck=dict(type=Up, channels=512),
    view_transform=dict(type=LSS, out_channels=64, depth=(4, 45, 1)),
    encoder=dict(type=LSSEncoder, channels=64),
    heads=dict(map=dict(type=MapHead, classes=['vehicle'], layers=0, loss='bce', pos_weight=2.13)))

size = (128, 352)
labels = dict(map_preset='lss_vehicle', bev_frame='ego', motion=False, balance=False)  # motion as LSS's code has it
train_dataloader.update(batch_size=4)
train_dataloader['dataset'].update(pipeline=[
    dict(type=ImageAug, size=size, scale=(0.877, 1.023), bottom=(0, 0.22), degrees=5.4, flip=0.5),
    dict(type=DropCameras, keep=5)], **labels)
test_pipeline = [dict(type=ImageAug, size=size, bottom=(0.11, 0.11))]  # the mean of the training's, as published
val_dataloader['dataset'].update(pipeline=test_pipeline, **labels)
test_dataloader['dataset'].update(pipeline=test_pipeline, **labels)
val_evaluator = dict(type=BEVSegMetric, preset='lss_vehicle')
test_evaluator = dict(type=BEVSegMetric, preset='lss_vehicle')
submission = predictions = None  # there is no server
optim_wrapper = lss_optim
auto_scale_lr.update(enable=False)
param_scheduler = []
train_cfg.update(max_epochs=lss_epochs, val_interval=lss_epochs)

mini_loaders['train_dataloader']['dataset'].update(map_grid=mini_cells)
mini_loaders['val_dataloader']['dataset'].update(map_grid=mini_cells)
mini_loaders['test_dataloader']['dataset'].update(map_grid=mini_cells)
mini = dict(
    mini_loaders, **mini_schedule, val_evaluator=val_evaluator, test_evaluator=test_evaluator,
    model=dict(
        grid=mini_cells,
        backbone=dict(width=0.5, depth=0.3, stages=5, drop_connect=0, momentum=0.1),  # few steps
        levels=(2, 3),
        neck=dict(channels=64),
        view_transform=dict(out_channels=32, depth=(1, 33, 1)),
        encoder=dict(channels=16, blocks=(1, 1, 1)),
        heads=dict(map=dict(pos_weight=5))))  # few samples: else all cells are empty
