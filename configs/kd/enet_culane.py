"""KD (2015): softened class probabilities of a frozen PSPNet on CULane; to compare IntRA-KD with."""
from mmengine.config import read_base

from perception.distill.kd import KDLoss

with read_base():
    from ..intra_kd.enet_culane import *

model = dict(model, losses=dict(kd=dict(type=KDLoss, teacher='full')))
work_dir = 'work_dirs/kd_enet_culane'

mini = dict(mini, model=dict(mini['model'], losses=dict()), work_dir='work_dirs/kd_enet_culane_mini')
