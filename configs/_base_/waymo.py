"""Waymo 3D semantic segmentation: data loaders, the official evaluation, submission, pictures; the simulated data."""
from mmengine.dataset import DefaultSampler, pseudo_collate

from perception.common.samplers import EpochSampler
from perception.common.saving import SavedPredictions
from perception.lidarseg.charts import DrawCharts
from perception.lidarseg.datasets.waymo.metric import WaymoMetric
from perception.lidarseg.datasets.waymo.mini import draw_sheet, write_waymo_mini
from perception.lidarseg.datasets.waymo.reader import Waymo
from perception.lidarseg.datasets.waymo.submission import WaymoSubmission
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

data_root = 'data/waymo'  # PERCEPTION_DATA replaces the leading data
# below 1 % of the points: truck, bus, other-vehicle, motorcyclist, bicyclist, pedestrian, sign, traffic-light,
# construction-cone, bicycle, motorcycle, other-ground. Waymo publishes no shares, so this is a guess; `count_classes`
# of perception/lidarseg/datasets/waymo/reader.py counts them in the training split
minority_classes = (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 19)

train_pipeline = [  # as in PVKD's code
    dict(type=RandomRotate, max_degrees=45),
    dict(type=RandomFlip),
    dict(type=RandomScale, low=0.95, high=1.05),
    dict(type=RandomTranslate, std=0.1)]  # m

train_dataloader = dict(
    batch_size=2, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=Waymo, data_root=data_root, split='train', pipeline=train_pipeline, seed=0))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=Waymo, data_root=data_root, split='val'))
test_dataloader = dict(  # the labelled frames; the test split goes to the server, see submit_dataloader
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=Waymo, data_root=data_root, split='val'))
submit_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=Waymo, data_root=data_root, split='test'))

val_evaluator = dict(type=WaymoMetric)  # the best weights are those of both returns, as in PVKD's code
test_evaluator = dict(type=WaymoMetric)

predictor = dict(type=LidarPredictor)
tta_model = dict(type=TTASegmentor, chunk=2, seed=0)  # --tta flip4 | grid36
ensemble_model = dict(type=EnsembleSegmentor)
saved_model = dict(type=SavedPredictions)  # --save DIR
more_metrics = dict(distance=dict(type=DistanceMetric))  # --metrics distance
submission = dict(  # --submit DIR; the server wants to know who submits what
    type=WaymoSubmission, account_name='', unique_method_name='', authors=[], affiliation='', description='',
    method_link='')
draw = [dict(type=DrawScans), dict(type=DrawCharts)]  # --draw DIR
robustness = dict(  # tools/benchmark.py robustness: fewer points, an open view of 120 degrees, turned scans
    half=[dict(type=RandomThin, keep=0.5)], tenth=[dict(type=RandomThin, keep=0.1)],
    sector=[dict(type=RandomSector, degrees=120)], turned=[dict(type=RandomRotate, max_degrees=180)])

mini_data = dict(type=write_waymo_mini, root='data/mini/waymo')
tiny = dict(mini_data=dict(  # of tools/benchmark.py fuzz
    train_segments=1, train_frames=1, val_segments=1, val_frames=1, test_frames=1, columns=60, workers=1))
mini_sheet = dict(type=draw_sheet)
mini_loaders = dict(
    train_dataloader=dict(batch_size=1, num_workers=0, persistent_workers=False,
                          dataset=dict(data_root='data/mini/waymo')),
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(data_root='data/mini/waymo')),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/waymo')),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/waymo')))
