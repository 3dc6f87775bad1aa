"""SemanticKITTI, single scans: data loaders, the official evaluation, submission, pictures; the simulated data."""
from mmengine.dataset import DefaultSampler, pseudo_collate

from perception.common.samplers import EpochSampler
from perception.common.saving import SavedPredictions
from perception.lidarseg.charts import DrawCharts
from perception.lidarseg.datasets.semantickitti.metric import SemanticKITTIMetric
from perception.lidarseg.datasets.semantickitti.mini import draw_sheet, write_semantickitti_mini
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTI
from perception.lidarseg.datasets.semantickitti.submission import SemanticKITTIResults, SemanticKITTISubmission
from perception.lidarseg.distance import DistanceMetric
from perception.lidarseg.draw import DrawScans
from perception.lidarseg.likelihood import LikelihoodMetric
from perception.lidarseg.predictor import LidarPredictor
from perception.lidarseg.tiny import write_point_files
from perception.lidarseg.transforms import (
    KeepLabels,
    RandomFlip,
    RandomRotate,
    RandomScale,
    RandomSector,
    RandomThin,
    RandomTranslate,
    WithinRange,
)
from perception.lidarseg.voting import EnsembleSegmentor, TTASegmentor

data_root = 'data/semantickitti'  # PERCEPTION_DATA replaces the leading data
# below 1 % of the points: bicycle, motorcycle, truck, other-vehicle, person, bicyclist, motorcyclist, other-ground,
# trunk, pole, traffic-sign
minority_classes = (1, 2, 3, 4, 5, 6, 7, 11, 15, 17, 18)

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

val_evaluator = [dict(type=SemanticKITTIMetric)]
test_evaluator = dict(type=SemanticKITTIMetric)

predictor = dict(type=LidarPredictor)
tta_model = dict(type=TTASegmentor, chunk=2, seed=0)  # --tta flip4 | grid36
ensemble_model = dict(type=EnsembleSegmentor)
saved_model = dict(type=SavedPredictions)  # --save DIR
more_metrics = dict(distance=dict(type=DistanceMetric), likelihood=dict(type=LikelihoodMetric))  # --metrics
predictions = dict(type=SemanticKITTIResults)  # --predictions DIR
submission = dict(type=SemanticKITTISubmission)  # --submit DIR
draw = [dict(type=DrawScans), dict(type=DrawCharts)]  # --draw DIR
robustness = dict(  # tools/benchmark.py robustness: fewer points, an open view of 120 degrees, turned scans
    half=[dict(type=RandomThin, keep=0.5)], tenth=[dict(type=RandomThin, keep=0.1)],
    sector=[dict(type=RandomSector, degrees=120)], turned=[dict(type=RandomRotate, max_degrees=180)])

mini_data = dict(type=write_semantickitti_mini, root='data/mini/semantickitti')
tiny = dict(  # of tools/benchmark.py fuzz
    mini_data=dict(train_scans=(2,), val_scans=(2,), columns=60, workers=1),
    train_dataloader=dict(dataset=dict(sequences=[0])), val_dataloader=dict(dataset=dict(sequences=None)),
    test_dataloader=dict(dataset=dict(sequences=None)))
tiny_sources = dict(type=write_point_files)
mini_sheet = dict(type=draw_sheet)
mini_class_weights = [  # (-ln of each class's share of SemanticKITTI's points) ** 0.5
    1.78, 2.95, 2.80, 2.48, 2.51, 2.83, 2.99, 3.19, 1.27, 2.05, 1.39, 2.35, 1.42, 1.62, 1.15, 2.26, 1.60, 2.42, 2.72]
mini_val_sequences = [8, 22, 23, 24, 25]  # streets of their own; the official data end at 21
mini_range = [dict(type=WithinRange, radius=25.0)]  # m; what lies farther is too sparse for coarse voxels to learn
mini_cubes = dict(  # of a CubeVoxelizer; the second grid, of PVD, ends at that radius
    voxel_size=0.8, voxel_labels='majority', cylinder_grid=(80, 120, 16),
    cylinder_bounds=((0, -3.1415926, -4), (25, 3.1415926, 2)))
mini_pipeline = [dict(type=KeepLabels, share=1.0), dict(type=RandomThin, keep=0.3), *mini_range]
mini_loaders = dict(
    train_dataloader=dict(batch_size=4, num_workers=0, persistent_workers=False,
                          dataset=dict(data_root='data/mini/semantickitti', pipeline=mini_pipeline + train_pipeline)),
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(data_root='data/mini/semantickitti', sequences=mini_val_sequences,
                                     pipeline=mini_range)),
    test_dataloader=dict(num_workers=0,
                         dataset=dict(data_root='data/mini/semantickitti', sequences=mini_val_sequences,
                                      pipeline=mini_range)),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/semantickitti', pipeline=mini_range)),
    val_evaluator=[dict(type=SemanticKITTIMetric), dict(type=LikelihoodMetric)])
few_labels = ['train_dataloader.dataset.pipeline.0.share=0.001']
evidence = dict(  # of tools/benchmark.py distillation
    scores=dict(accuracy='greater', cross_entropy='less', agreement='greater'),
    teacher_predictions=['val_evaluator.1.against'],
    settings=dict(
        few=dict(title='0.1 % of the labels for teacher and students', teacher=few_labels, students=few_labels),
        semi=dict(title='all labels for the teacher, 0.1 % for students (semi-supervised)', students=few_labels)))
