"""SemanticKITTI, single scans: data loaders, the official evaluation, submission, pictures."""
from mmengine.dataset import DefaultSampler, pseudo_collate

from perception.common.samplers import EpochSampler
from perception.lidarseg.datasets.semantickitti.metric import SemanticKITTIMetric
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTI
from perception.lidarseg.datasets.semantickitti.submission import SemanticKITTISubmission
from perception.lidarseg.draw import DrawScans
from perception.lidarseg.transforms import RandomFlip, RandomRotate, RandomScale, RandomTranslate
from perception.lidarseg.tta import TTASegmentor

data_root = 'data/semantickitti'  # PERCEPTION_DATA replaces the leading data
train_pipeline = [  # as in Cylinder3D's code, always in this order
    dict(type=RandomRotate, max_degrees=45),
    dict(type=RandomFlip),
    dict(type=RandomScale, low=0.95, high=1.05),
    dict(type=RandomTranslate, std=0.1)]  # m

# sequences=None: the official ones, 00-07 09 10 for train, 08 for val, 11-21 for test
train_dataloader = dict(
    batch_size=2, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=SemanticKITTI, data_root=data_root, split='train', sequences=None, pipeline=train_pipeline,
                 seed=0))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=SemanticKITTI, data_root=data_root, split='val', sequences=None))
test_dataloader = dict(  # the labelled sequence; the test split goes to the server, see submit_dataloader
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=SemanticKITTI, data_root=data_root, split='val', sequences=None))
submit_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=SemanticKITTI, data_root=data_root, split='test', sequences=None))

val_evaluator = dict(type=SemanticKITTIMetric)
test_evaluator = dict(type=SemanticKITTIMetric)

tta_model = dict(type=TTASegmentor, chunk=2, seed=0)  # --tta flip4 | grid36
submission = dict(type=SemanticKITTISubmission)  # --submit DIR
draw = dict(type=DrawScans)  # --draw DIR
