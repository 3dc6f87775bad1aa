"""nuScenes-lidarseg: data loaders, the official evaluation, submission, pictures; the simulated data."""
from mmengine.dataset import DefaultSampler, pseudo_collate

from perception.common.nuscenes.mini import write_nuscenes_mini
from perception.common.samplers import EpochSampler
from perception.common.saving import SavedPredictions
from perception.lidarseg.charts import DrawCharts
from perception.lidarseg.datasets.nuscenes.draw import DrawKeyFrames, draw_sheet
from perception.lidarseg.datasets.nuscenes.metric import NuScenesLidarSegMetric
from perception.lidarseg.datasets.nuscenes.reader import NuScenesLidarSeg
from perception.lidarseg.datasets.nuscenes.submission import NuScenesLidarSegResults, NuScenesLidarSegSubmission
from perception.lidarseg.distance import DistanceMetric
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

data_root = 'data/nuscenes'  # PERCEPTION_DATA replaces the leading data
# below 1 % of the points: barrier, bicycle, bus, construction_vehicle, motorcycle, pedestrian, traffic_cone, trailer,
# other_flat
minority_classes = (0, 1, 2, 4, 5, 6, 7, 8, 11)

train_pipeline = [  # as in Cylinder3D's code, always in this order
    dict(type=RandomRotate, max_degrees=180),
    dict(type=RandomFlip),
    dict(type=RandomScale, low=0.95, high=1.05),
    dict(type=RandomTranslate, std=0.1)]  # m

train_dataloader = dict(
    batch_size=2, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=NuScenesLidarSeg, data_root=data_root, split='train', pipeline=train_pipeline, seed=0))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=NuScenesLidarSeg, data_root=data_root, split='val'))
test_dataloader = dict(  # labelled scenes; the test split goes to the server, see submit_dataloader
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=NuScenesLidarSeg, data_root=data_root, split='val'))
submit_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=NuScenesLidarSeg, data_root=data_root, split='test'))

val_evaluator = dict(type=NuScenesLidarSegMetric)
test_evaluator = dict(type=NuScenesLidarSegMetric)

predictor = dict(type=LidarPredictor)
tta_model = dict(type=TTASegmentor, chunk=2, seed=0)  # --tta flip4 | grid36
ensemble_model = dict(type=EnsembleSegmentor)
saved_model = dict(type=SavedPredictions)  # --save DIR
more_metrics = dict(distance=dict(type=DistanceMetric))  # --metrics distance
predictions = dict(type=NuScenesLidarSegResults)  # --predictions DIR
submission = dict(type=NuScenesLidarSegSubmission)  # --submit DIR
draw = [dict(type=DrawKeyFrames), dict(type=DrawCharts)]  # --draw DIR
robustness = dict(  # tools/benchmark.py robustness: fewer points, an open view of 120 degrees, turned scans
    half=[dict(type=RandomThin, keep=0.5)], tenth=[dict(type=RandomThin, keep=0.1)],
    sector=[dict(type=RandomSector, degrees=120)], turned=[dict(type=RandomRotate, max_degrees=180)])

mini_data = dict(type=write_nuscenes_mini, root='data/mini/nuscenes')
tiny = dict(mini_data=dict(  # of tools/benchmark.py fuzz
    train_frames=1, val_frames=1, test_frames=1, train_scenes=1, test_scenes=1, columns=60, detail=0.02, workers=1))
mini_sheet = dict(type=draw_sheet)
mini_loaders = dict(
    train_dataloader=dict(batch_size=1, num_workers=0, persistent_workers=False,
                          dataset=dict(data_root='data/mini/nuscenes', split='mini_train')),
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(data_root='data/mini/nuscenes', split='mini_val')),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/nuscenes', split='mini_val')),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/nuscenes')))
