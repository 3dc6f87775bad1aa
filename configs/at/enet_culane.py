"""Attention transfer (ICLR 2017): where the net looks of a frozen PSPNet on CULane; to compare IntRA-KD with."""
from mmengine.config import read_base

from perception.distill.attention import AttentionTransferLoss

with read_base():
    from ..intra_kd.enet_culane import *

model = dict(model, losses=dict(at=dict(type=AttentionTransferLoss, teacher='full', feats=('middle', 'high'))))
work_dir = 'work_dirs/at_enet_culane'

mini = dict(mini, model=dict(mini['model'], losses=dict()), work_dir='work_dirs/at_enet_culane_mini')
