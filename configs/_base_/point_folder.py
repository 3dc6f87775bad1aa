"""Scans and labels of one's own: copy this file's settings into a config and name your folders and classes."""
from mmengine.dataset import DefaultSampler, pseudo_collate

from perception.common.samplers import EpochSampler
from perception.common.saving import SavedPredictions
from perception.lidarseg.charts import DrawCharts
from perception.lidarseg.datasets.folder.metric import PointFolderMetric
from perception.lidarseg.datasets.folder.mini import write_point_folder_mini
from perception.lidarseg.datasets.folder.reader import PointFolder
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

train_pipeline = [
    dict(type=RandomRotate, max_degrees=180),
    dict(type=RandomFlip),
    dict(type=RandomScale, low=0.95, high=1.05),
    dict(type=RandomTranslate, std=0.1)]  # m

folder = dict(  # every argument: perception/lidarseg/datasets/folder/reader.py
    type=PointFolder,
    data_root='data/points',  # PERCEPTION_DATA replaces the leading data
    points='*/scans/*.pcd',
    labels='*/labels/*.npy',
    classes=('ground', 'building', 'plant', 'pole', 'vehicle', 'person'))

train_dataloader = dict(
    batch_size=2, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(folder, split='train', pipeline=train_pipeline, seed=0))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(folder, split='val'))
test_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(folder, split='val'))

val_evaluator = dict(type=PointFolderMetric)
test_evaluator = dict(type=PointFolderMetric)

predictor = dict(type=LidarPredictor)
tta_model = dict(type=TTASegmentor, chunk=2, seed=0)  # --tta flip4 | grid36
ensemble_model = dict(type=EnsembleSegmentor)
saved_model = dict(type=SavedPredictions)  # --save DIR
more_metrics = dict(distance=dict(type=DistanceMetric))  # --metrics distance
draw = [dict(type=DrawScans), dict(type=DrawCharts)]  # --draw DIR
robustness = dict(  # tools/benchmark.py robustness: fewer points, an open view of 120 degrees, turned scans
    half=[dict(type=RandomThin, keep=0.5)], tenth=[dict(type=RandomThin, keep=0.1)],
    sector=[dict(type=RandomSector, degrees=120)], turned=[dict(type=RandomRotate, max_degrees=180)])

mini_data = dict(type=write_point_folder_mini, root='data/mini/point_folder')
tiny = dict(mini_data=dict(train_scans=1, val_scans=1, columns=60))  # of tools/benchmark.py fuzz
mini_folder = dict(
    data_root='data/mini/point_folder', ignore=[0], splits=dict(train=['street', 'park'], val=['yard']),
    label_map={1: 'ground', 2: 'building', 3: 'plant', 4: 'pole', 10: 'vehicle', 11: 'person'})
mini_loaders = dict(
    train_dataloader=dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=mini_folder),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=mini_folder),
    test_dataloader=dict(num_workers=0, dataset=mini_folder))
