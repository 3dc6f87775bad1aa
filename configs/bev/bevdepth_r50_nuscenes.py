"""BEVDepth with ResNet-50 on nuScenes, one key frame: depths are learned from the LiDAR, which no test needs."""
from mmengine.config import read_base

from perception.bev.depth_metric import DepthMetric
from perception.bev.models.bev_net import BEVNet
from perception.bev.models.encoder import BEVDepthEncoder
from perception.bev.models.view_transforms.depth import BEVDepth
from perception.bev.transforms import SweepDepth
from perception.common.nets.resnet import ResNet
from perception.common.nets.second import SECONDFPN

with read_base():
    from .._base_.bev_heads import *
    from .._base_.bev_schedule import *
    from .._base_.nuscenes_rig import *
    from .._base_.runtime import *

model = dict(
    type=BEVNet,
    data_preprocessor=images,
    grid=dict(detection_grid, z=(-5, 3)),
    backbone=dict(type=ResNet, depth=50, output_stride=32),
    levels=(0, 1, 2, 3),
    neck=dict(type=SECONDFPN, channels=(128, 128, 128, 128), strides=(0.25, 0.5, 1, 2)),
    view_transform=dict(type=BEVDepth, out_channels=80, depth=(2, 58, 0.5), mid_channels=512),
    encoder=dict(type=BEVDepthEncoder, channels=160, level_channels=64),
    heads=dict(boxes=dict(boxes, code_weights=(1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0.5))))

train_dataloader.update(dataset=dict(train_dataloader['dataset'], points=True, balance=False, pipeline=[
    train_pipeline[0], dict(type=SweepDepth, stride=16), train_pipeline[1]]))
optim_wrapper.update(optimizer=dict(optim_wrapper['optimizer'], weight_decay=1e-7))
param_scheduler[1].update(milestones=[19, 23])
custom_hooks = [ema]
more_metrics = dict(depth=dict(type=DepthMetric))  # --metrics depth, where the pipeline has SweepDepth

mini = dict(
    mini_loaders, **mini_boxes_score, **mini_schedule,
    model=dict(
        grid=mini_cells,
        backbone=dict(depth=18, base_channels=16, stages=3),
        levels=(1, 2),
        neck=dict(channels=(32, 32), strides=(1, 2)),
        view_transform=dict(out_channels=32, depth=(1, 33, 1), mid_channels=64, blocks=1, aspp=False),
        encoder=dict(channels=32, blocks=(1, 1, 1), level_channels=16),
        heads=dict(boxes=mini_boxes)))
mini.update(train_dataloader=dict(mini['train_dataloader'], dataset=dict(
    mini['train_dataloader']['dataset'], pipeline=[
        mini_train[0], dict(type=SweepDepth, stride=8), mini_train[1]])))
mini_depth = [*mini_test, dict(type=SweepDepth, stride=8)]  # for --metrics depth
mini['val_dataloader']['dataset'].update(points=True, pipeline=mini_depth)
mini['test_dataloader']['dataset'].update(points=True, pipeline=mini_depth)
mini.update(custom_hooks=[dict(ema, momentum=0.01, gamma=50)])  # so few steps
