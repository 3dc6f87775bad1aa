"""ERFNet on BDD100K's lane categories by the official protocol: 8-bit masks, F-scores of thin lines."""
from mmengine.config import read_base

from perception.lanes.datasets.bdd100k.metric import BDD100KOfficialMetric
from perception.lanes.datasets.bdd100k.submission import BDD100KSubmission
from perception.lanes.models.erfnet import ERFNet

with read_base():
    from .._base_.bdd100k import *
    from .._base_.lane_schedule import *
    from .._base_.runtime import *

model = dict(net, type=ERFNet, num_classes=9)  # background and the eight categories
train_dataloader['dataset'].update(protocol='official')
val_dataloader['dataset'].update(protocol='official')
test_dataloader['dataset'].update(protocol='official', split='val')  # labels of the test images are not public
submit_dataloader = dict(test_dataloader, dataset=dict(test_dataloader['dataset'], split='test'))

codes = (0, 1, 2, 3, 4, 5, 6, 7)  # each category as solid lines along the road, which a net of one sub-task says of all
val_evaluator = dict(type=BDD100KOfficialMetric, codes=codes)
test_evaluator = val_evaluator
submission = dict(type=BDD100KSubmission, codes=codes)

mini = dict(mini_loaders, model=mini_net, **mini_schedule)
