"""SKD (CVPR 2019): regions and pixels of a frozen PSPNet on CULane; to compare IntRA-KD with."""
from mmengine.config import read_base

from perception.distill.skd import SKDLoss

with read_base():
    from ..intra_kd.enet_culane import *

model = dict(model, losses=dict(skd=dict(type=SKDLoss, teacher='full', feats='high')))
work_dir = 'work_dirs/skd_enet_culane'

mini = dict(mini, model=dict(mini['model'], losses=dict()), work_dir='work_dirs/skd_enet_culane_mini')
