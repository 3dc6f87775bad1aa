"""CenterPoint on the left image alone, backward projection, maps of 0.2 m, on STCrowd; scored within the image."""
from mmengine.config import read_base

from perception.common.nets.center_head import CenterHead
from perception.common.nets.fpn import FPN
from perception.common.nets.resnet import ResNet
from perception.common.nets.second import SECOND, SECONDFPN
from perception.crowd.models.camera import CameraCenterPoint, CameraEncoder
from perception.crowd.transforms import MoveScene, WithinBounds, WithinImage, ZoomImage

with read_base():
    from .._base_.centerpoint_schedule import *
    from .._base_.runtime import *
    from .._base_.stcrowd import *

model = dict(
    type=CameraCenterPoint,
    point_cloud_range=bounds,
    voxel_size=(0.05, 0.05, 6),  # m
    encoder=dict(
        type=CameraEncoder, backbone=dict(type=ResNet, depth=50, output_stride=32), levels=(1, 2, 3),
        neck=dict(type=FPN, channels=80, finest_only=True), stride=8, join='stack'),
    backbone=dict(type=SECOND, channels=(128, 256), layers=(5, 5), strides=(1, 2)),
    neck=dict(type=SECONDFPN, channels=(256, 256), strides=(2, 4)),  # to 0.2 m, where each has cells of their own
    head=dict(
        type=CenterHead,
        tasks=[['pedestrian']],
        stride=4,
        ignore_radius=35,  # m
        peak_window=3, max_detections=200, score_threshold=0.05,
        post_range=(-1, -36, -5, 36.2, 36, 3),
        nms_threshold=0.3))  # m between centres

camera_pipeline = [
    dict(type=WithinBounds, bounds=bounds),
    dict(type=MoveScene, max_radians=0.3925, low=0.95, high=1.05, std=0.2, flip=0.5),
    dict(type=WithinBounds, bounds=bounds),
    dict(type=ZoomImage, low=0.9, high=1.1),
    dict(type=WithinImage)]
train_dataloader['dataset'].update(pipeline=camera_pipeline, image_reduce=2)  # 640 x 360
val_dataloader['dataset'].update(image_reduce=2)
test_dataloader['dataset'].update(image_reduce=2)
submit_dataloader['dataset'].update(image_reduce=2)
for part in (val_evaluator, test_evaluator, submission, more_metrics['tracking'], predictor['counts'],
             draw['look']['counts']):
    part.update(view='camera')

mini = dict(
    {**mini_loaders, **seen_loaders}, **mini_schedule,
    model=dict(
        point_cloud_range=mini_bounds,
        encoder=dict(backbone=dict(depth=18, base_channels=16, stages=3), levels=(1, 2), neck=dict(channels=24)),
        backbone=dict(channels=(32, 64), layers=(2, 2)),
        neck=dict(channels=(32, 32)),
        head=dict(shared_channels=24, head_channels=24)))
mini['train_dataloader']['dataset'].update(
    pipeline=[mini_train[0], camera_pipeline[1], mini_train[0], *camera_pipeline[3:]])
mini.update(val_evaluator=dict(mini_score, view='camera'), test_evaluator=dict(mini_score, view='camera'))
