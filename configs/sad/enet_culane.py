"""ENet-SAD on CULane: the net mimics its own deeper attention (SAD, ICCV 2019)."""
from mmengine.config import read_base

from perception.distill.distiller import Distiller
from perception.distill.sad import SADLoss

with read_base():
    from ..lanes.enet_culane import *
    from ..lanes.enet_culane import mini as student_mini
    from ..lanes.enet_culane import model as student

model = dict(
    type=Distiller, student=student, taps=dict(stage2='stage2', stage3='stage3', stage4='stage4'),
    losses=dict(sad=dict(
        type=SADLoss, teacher='student', pairs=(('stage2', 'stage3'), ('stage3', 'stage4')),  # section 3.2: P23, P34
        weight=0.1,  # gamma
        begin=40_000)))  # of 59,256 iterations: once the net is reasonably trained

mini = dict(student_mini, model=dict(student=student_mini['model'], losses=dict(sad=dict(
    begin=220, norm='mean_softmax', temperature=2.0))))
