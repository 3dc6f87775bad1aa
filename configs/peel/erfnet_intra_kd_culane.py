"""ERFNet on CULane, pruned by PEEL and taught by the whole net with IntRA-KD (CVPR 2020).

The whole net is trained first: tools/train.py configs/lanes/erfnet_culane.py (with --mini for the mini scale). Search
its structure with configs/peel/erfnet_culane.py, then train the slim one here with --structure.
"""
from mmengine.config import read_base

from perception.distill.distiller import Distiller
from perception.distill.intra_kd import IntRAKDLoss
from perception.distill.teachers import FrozenTeacher
from perception.prune.search import PEEL

with read_base():
    from ..lanes.erfnet_culane import *
    from ..lanes.erfnet_culane import mini as whole_mini
    from ..lanes.erfnet_culane import model as whole

taps = dict(middle='stage2', high='stage3', logits='logits')
model = dict(
    type=Distiller,
    student=whole,
    taps=taps,
    teachers=dict(whole=dict(type=FrozenTeacher, model=whole, taps=taps, trained_by='configs/lanes/erfnet_culane.py')),
    losses=dict(intra_kd=dict(  # as configs/intra_kd/erfnet_culane.py
        type=IntRAKDLoss, teacher='whole', num_classes=5, aoi_kernel=5, moment_orders=(1, 2, 3), alpha=(0.1, 0.1, 1.0),
        feature_pairs=[dict(student='middle', teacher='middle', terms=('attention',)),
                       dict(student='high', teacher='high', terms=('attention', 'affinity'))])))
prune = dict(type=PEEL, target=dict(kind='macs', ratio=0.5, value=None), divisor=None)

mini = dict(
    whole_mini, prune=dict(divisor=2),
    model=dict(student=whole_mini['model'],
               teachers=dict(whole=dict(model=whole_mini['model'], mini=True)),
               losses=dict(intra_kd=dict(attention_norm='l2'))))
