"""DHA on voxels of 0.05 m and the left image, joined on a map of 0.4 m, on STCrowd."""
from mmengine.config import read_base

from perception.common.nets.fpn import FPN
from perception.common.nets.resnet import ResNet
from perception.common.nets.second import SECOND, SECONDFPN
from perception.common.nets.sparse_encoder import SparseEncoder
from perception.crowd.models.camera import FusionCenterPoint
from perception.crowd.models.dha import DHAHead
from perception.crowd.transforms import DropImage, ZoomImage

with read_base():
    from .._base_.centerpoint_schedule import *
    from .._base_.runtime import *
    from .._base_.stcrowd import *

model = dict(
    type=FusionCenterPoint,
    point_cloud_range=bounds,
    voxel_size=(0.05, 0.05, 0.15),  # m
    encoder=dict(
        type=SparseEncoder, channels=(16, 32, 64, 128), blocks=2, paddings=(1, 1, (0, 1, 1)), last_channels=128),
    camera=dict(backbone=dict(type=ResNet, depth=50, output_stride=32), levels=(1, 2, 3),
                neck=dict(type=FPN, channels=80, finest_only=True), image_weights=None),  # or a file, as ImageNet's
    backbone=dict(type=SECOND, channels=(128, 256), layers=(5, 5), strides=(1, 2)),
    neck=dict(type=SECONDFPN, channels=(256, 256), strides=(1, 2), conv_for_stride_1=True),
    head=dict(
        type=DHAHead,
        tasks=[['pedestrian']],
        stride=4,  # of the finest level
        base_level=1,
        levels=(0, 1, 2),
        ignore_radius=35,  # m
        peak_window=3,
        max_detections=200,
        score_threshold=0.05,
        post_range=(-1, -36, -5, 36.2, 36, 3),
        nms_threshold=0.3))  # m between centres

of_images = [dict(type=ZoomImage, low=0.9, high=1.1), dict(type=DropImage, share=0.1)]
# nobody is added, for the image does not show them
train_dataloader['dataset'].update(
    pipeline=[train_pipeline[0], *train_pipeline[2:], *of_images], image_reduce=2)  # 640 x 360
val_dataloader['dataset'].update(image_reduce=2)
test_dataloader['dataset'].update(image_reduce=2)
submit_dataloader['dataset'].update(image_reduce=2)

mini = dict(
    {**mini_loaders, **seen_loaders}, **mini_schedule,
    model=dict(
        point_cloud_range=mini_bounds,
        voxel_size=(0.1, 0.1, 0.3),
        encoder=dict(channels=(8, 16, 32), blocks=1, paddings=(1, 1), last_channels=32),
        camera=dict(backbone=dict(depth=18, base_channels=16, stages=3), levels=(1, 2), neck=dict(channels=24)),
        backbone=dict(channels=(32, 64), layers=(2, 2)),
        neck=dict(channels=(32, 32)),
        head=dict(stride=2, shared_channels=24, head_channels=24)))
mini['train_dataloader']['dataset'].update(pipeline=[mini_train[0], *mini_train[2:], *of_images])
