"""SemanticKITTI, each scan with the two before it: 25 classes, which tell moving objects from resting ones."""
from mmengine.dataset import DefaultSampler, pseudo_collate

from perception.common.samplers import EpochSampler
from perception.common.saving import SavedPredictions
from perception.lidarseg.charts import DrawCharts
from perception.lidarseg.datasets.semantickitti.metric import SemanticKITTIMetric
from perception.lidarseg.datasets.semantickitti.mini import draw_sheet, write_multiscan_mini
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTIMultiScan
from perception.lidarseg.datasets.semantickitti.submission import SemanticKITTIResults, SemanticKITTISubmission
from perception.lidarseg.distance import DistanceMetric
from perception.lidarseg.draw import DrawScans
from perception.lidarseg.predictor import LidarPredictor
from perception.lidarseg.transforms import (
    RandomFlip,
    RandomRotate,
    RandomScale,
    RandomSector,
    RandomThin,
    RandomTranslate,
)
from perception.lidarseg.voting import EnsembleSegmentor, TTASegmentor

data_root = 'data/semantickitti'  # PERCEPTION_DATA replaces the leading data
# below 1 % of the points: bicycle, motorcycle, truck, other-vehicle, person, bicyclist, motorcyclist, other-ground,
# trunk, pole, traffic-sign, and all moving objects
minority_classes = (1, 2, 3, 4, 5, 6, 7, 11, 15, 17, 18, 19, 20, 21, 22, 23, 24)

train_pipeline = [  # as in Cylinder3D's code, always in this order
    dict(type=RandomRotate, max_degrees=45),
    dict(type=RandomFlip),
    dict(type=RandomScale, low=0.95, high=1.05),
    dict(type=RandomTranslate, std=0.1)]  # m

# sequences=None: the official ones, 00-07 09 10 for train, 08 for val, 11-21 for test; past scans as in PVKD's code
train_dataloader = dict(
    batch_size=2, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=SemanticKITTIMultiScan, data_root=data_root, split='train', sequences=None, past_scans=2,
                 pipeline=train_pipeline, seed=0))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=SemanticKITTIMultiScan, data_root=data_root, split='val', sequences=None, past_scans=2))
test_dataloader = dict(  # the labelled sequence; the test split goes to the server, see submit_dataloader
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=SemanticKITTIMultiScan, data_root=data_root, split='val', sequences=None, past_scans=2))
submit_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=SemanticKITTIMultiScan, data_root=data_root, split='test', sequences=None, past_scans=2))

val_evaluator = dict(type=SemanticKITTIMetric, multi=True)
test_evaluator = dict(type=SemanticKITTIMetric, multi=True)

predictor = dict(type=LidarPredictor)
tta_model = dict(type=TTASegmentor, chunk=2, seed=0)  # --tta flip4 | grid36
ensemble_model = dict(type=EnsembleSegmentor)
saved_model = dict(type=SavedPredictions)  # --save DIR
more_metrics = dict(distance=dict(type=DistanceMetric))  # --metrics distance
predictions = dict(type=SemanticKITTIResults, multi=True)  # --predictions DIR
submission = dict(type=SemanticKITTISubmission, multi=True)  # --submit DIR
draw = [dict(type=DrawScans), dict(type=DrawCharts)]  # --draw DIR
robustness = dict(  # tools/benchmark.py robustness: fewer points, an open view of 120 degrees, turned scans
    half=[dict(type=RandomThin, keep=0.5)], tenth=[dict(type=RandomThin, keep=0.1)],
    sector=[dict(type=RandomSector, degrees=120)], turned=[dict(type=RandomRotate, max_degrees=180)])

mini_data = dict(type=write_multiscan_mini, root='data/mini/semantickitti_multiscan')
tiny = dict(  # of tools/benchmark.py fuzz
    mini_data=dict(train_scans=(3,), val_scans=(3,), columns=60, workers=1),
    train_dataloader=dict(dataset=dict(sequences=[0])))
mini_sheet = dict(type=draw_sheet)
mini_class_weights = [  # (-ln of each class's share of SemanticKITTI's points) ** 0.5
    1.79, 2.95, 2.80, 2.49, 2.53, 2.94, 4.28, 4.36, 1.27, 2.05, 1.39, 2.35, 1.42, 1.62, 1.15, 2.26, 1.60, 2.42, 2.72,
    2.52, 3.00, 2.96, 3.19, 2.96, 3.03]
mini_loaders = dict(
    train_dataloader=dict(batch_size=1, num_workers=0, persistent_workers=False,
                          dataset=dict(data_root='data/mini/semantickitti_multiscan', sequences=[0, 1, 2, 3, 4, 5])),
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(data_root='data/mini/semantickitti_multiscan')),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/semantickitti_multiscan')),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/semantickitti_multiscan')))
