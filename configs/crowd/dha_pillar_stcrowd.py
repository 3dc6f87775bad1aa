"""DHA on pillars of 0.1 m, heat maps of 0.2, 0.4 and 0.8 m, on STCrowd."""
from mmengine.config import read_base

from perception.common.nets.pillars import PillarEncoder
from perception.common.nets.second import SECOND, SECONDFPN
from perception.crowd.models.centerpoint import CenterPoint
from perception.crowd.models.dha import DHAHead

with read_base():
    from .._base_.centerpoint_schedule import *
    from .._base_.runtime import *
    from .._base_.stcrowd import *

model = dict(
    type=CenterPoint,
    point_cloud_range=bounds,
    voxel_size=(0.1, 0.1, 6),  # m
    encoder=dict(type=PillarEncoder, channels=(64,)),
    backbone=dict(type=SECOND, channels=(64, 128, 256), layers=(3, 5, 5), strides=(2, 2, 2)),
    neck=dict(type=SECONDFPN, channels=(128, 128, 128), strides=(1, 2, 4)),
    head=dict(
        type=DHAHead,
        tasks=[['pedestrian']],
        stride=2,  # of the finest level
        base_level=0,
        levels=(0, 1, 2),
        ignore_radius=35,  # m
        peak_window=3,
        max_detections=200,
        score_threshold=0.05,
        post_range=(-1, -36, -5, 36.2, 36, 3),
        nms_threshold=0.3))  # m between centres

mini = dict(
    mini_loaders, **mini_schedule,
    model=dict(
        point_cloud_range=mini_bounds,
        encoder=dict(channels=(16,)),
        backbone=dict(channels=(16, 32, 64), layers=(1, 2, 2)),
        neck=dict(channels=(16, 16, 16)),
        head=dict(shared_channels=24, head_channels=24)))
