"""FM-Net (AAAI 2019) on Comma.ai's drives: 3D ResNet-50 and LSTM mimic a PSPNet and a FlowNetS.

The teachers are trained first: tools/train.py configs/steering/pspnet_cityscapes.py, then
configs/steering/flownet_s_udacity.py (with --mini for the mini scale).
"""
from mmengine.config import read_base

from perception.distill.cache import FeatureCacheHook
from perception.distill.clips import ClipTeacher
from perception.distill.distiller import Distiller
from perception.distill.mimic import MimicLoss

with read_base():
    from ..steering.flownet_s_udacity import mini as flow_mini
    from ..steering.flownet_s_udacity import model as flow_net
    from ..steering.pspnet_cityscapes import mini as street_mini
    from ..steering.pspnet_cityscapes import model as street_net
    from ..steering.resnet50_lstm_comma import *
    from ..steering.resnet50_lstm_comma import mini as student_mini
    from ..steering.resnet50_lstm_comma import model as student

model = dict(
    type=Distiller, student=student, taps=dict(conv1='trunk.conv1', conv3='trunk.conv3', conv5='trunk.conv5'),
    teachers=dict(  # sizes of the figure; frames of 160 x 160 are enlarged; cache_gb=0 runs a teacher in every step
        seg=dict(type=ClipTeacher, model=street_net, trained_by='configs/steering/pspnet_cityscapes.py',
                 size=(240, 240), cache_gb=60.0, paths=dict(
                     low=dict(tap='stem.2', channels=16, size=(30, 30)),
                     middle=dict(tap='stage2', channels=16, size=(30, 30)),
                     # road, the largest of car, truck and bus, the largest of all
                     high=dict(tap='classifier', channels=((0,), (13, 14, 15), 'max'), size=(30, 30)))),
        flow=dict(type=ClipTeacher, model=flow_net, trained_by='configs/steering/flownet_s_udacity.py',
                  reads='pairs', size=(512, 640), cache_gb=60.0, paths=dict(
                      low=dict(tap='conv1', channels=16, size=(32, 40)),
                      middle=dict(tap='conv4', channels=32, size=(8, 10)),
                      high=dict(tap='conv6', channels=32, size=(8, 10))))),
    losses=dict(  # 0.1 on each path; the paper's weights are not known
        seg=dict(type=MimicLoss, teacher='seg', paths=dict(
            low=dict(tap='conv1', channels=(64, 16)), middle=dict(tap='conv3', channels=(512, 16)),
            high=dict(tap='conv5', channels=(2048, 3)))),
        flow=dict(type=MimicLoss, teacher='flow', pairs=True, paths=dict(
            low=dict(tap='conv1', channels=(64, 16)), middle=dict(tap='conv3', channels=(512, 32)),
            high=dict(tap='conv5', channels=(2048, 32))))))
default_hooks.update(feature_cache=dict(type=FeatureCacheHook))

smaller = dict(seg=dict(low=dict(channels=4, size=(16, 16)), middle=dict(size=(16, 16)), high=dict(size=(16, 16))),
               flow=dict(low=dict(channels=4, size=(16, 20))))
mini = dict(student_mini, model=dict(
    student=student_mini['model'],
    teachers=dict(seg=dict(paths=smaller['seg'], model=street_mini['model'], mini=True, size=(128, 128), cache_gb=0.0),
                  flow=dict(paths=smaller['flow'], model=flow_mini['model'], mini=True, size=(128, 128), cache_gb=0.0)),
    losses={name: dict(paths=dict(low=dict(channels=(8, 4)), middle=dict(channels=(64, middle)),
                                  high=dict(channels=(256, high))))
            for name, middle, high in (('seg', 16, 3), ('flow', 32, 32))}))
