"""SemanticKITTI, each scan with the two before it: 25 classes, which tell moving objects from resting ones."""
from mmengine.config import read_base

from perception.lidarseg.datasets.semantickitti.metric import SemanticKITTIMetric
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTIMultiScan
from perception.lidarseg.datasets.semantickitti.submission import SemanticKITTISubmission

with read_base():
    from .semantickitti import *

train_dataloader['dataset'].update(type=SemanticKITTIMultiScan, past_scans=2)  # as in PVKD's code
val_dataloader['dataset'].update(type=SemanticKITTIMultiScan, past_scans=2)
test_dataloader['dataset'].update(type=SemanticKITTIMultiScan, past_scans=2)
submit_dataloader['dataset'].update(type=SemanticKITTIMultiScan, past_scans=2)

val_evaluator = dict(type=SemanticKITTIMetric, multi=True)
test_evaluator = dict(type=SemanticKITTIMetric, multi=True)
submission = dict(type=SemanticKITTISubmission, multi=True)
