"""STCrowd: data loaders with augmentation, its evaluation, results file, pictures; the simulated data."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.runner import EpochBasedTrainLoop

from perception.common.samplers import EpochSampler
from perception.crowd.datasets.stcrowd.metric import STCrowdMetric
from perception.crowd.datasets.stcrowd.mini import draw_sheet, write_stcrowd_mini
from perception.crowd.datasets.stcrowd.reader import STCrowd
from perception.crowd.datasets.stcrowd.submission import STCrowdResults, STCrowdSubmission
from perception.crowd.draw import DrawPeople
from perception.crowd.predictor import CrowdPredictor
from perception.crowd.transforms import MoveScene, SamplePeople, WithinBounds

data_root = 'data/stcrowd'  # PERCEPTION_DATA replaces the leading data
bounds = (0, -35.2, -4, 35.2, 35.2, 2)  # m; the half disc of 35 m where people are labelled
epochs = 40  # also those in whose last fifth nobody is added

train_pipeline = [  # the first step takes away the rear, where nobody is labelled, before a turn brings it to the front
    dict(type=WithinBounds, bounds=bounds),
    dict(type=SamplePeople, count=10, min_points=15, epochs=epochs, fade=0.2),
    dict(type=MoveScene, max_radians=0.3925, low=0.95, high=1.05, std=0.2, flip=0.5),
    dict(type=WithinBounds, bounds=bounds)]
test_pipeline = [dict(type=WithinBounds, bounds=bounds, people=False)]  # the metric has filters of its own

# sequences=None: those of split.json
train_dataloader = dict(
    batch_size=16, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=STCrowd, data_root=data_root, split='train', sequences=None, pipeline=train_pipeline, seed=0))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=STCrowd, data_root=data_root, split='val', sequences=None, pipeline=test_pipeline))
test_dataloader = dict(  # the labelled frames; annotations of the test split were never published
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=STCrowd, data_root=data_root, split='val', sequences=None, pipeline=test_pipeline))
submit_dataloader = test_dataloader  # there is no server: a results file that people exchange

val_evaluator = dict(type=STCrowdMetric)
test_evaluator = dict(type=STCrowdMetric)

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=epochs, val_interval=5)

predictor = dict(type=CrowdPredictor)
predictions = dict(type=STCrowdResults)  # --predictions FILE
submission = dict(type=STCrowdSubmission)  # --submit DIR
draw = dict(type=DrawPeople)  # --draw DIR

mini_data = dict(type=write_stcrowd_mini, root='data/mini/stcrowd')
tiny = dict(mini_data=dict(  # of tools/benchmark.py fuzz
    train_sequences=1, train_frames=2, val_sequences=1, val_frames=1, test_sequences=1, test_frames=1, columns=256,
    detail=0.05, workers=1))
mini_sheet = dict(type=draw_sheet)
mini_epochs = 12
mini_pipeline = [*train_pipeline[:1], dict(type=SamplePeople, count=10, min_points=15, epochs=mini_epochs, fade=0.2),
                 *train_pipeline[2:]]
mini_loaders = dict(
    train_dataloader=dict(batch_size=4, num_workers=0, persistent_workers=False,
                          dataset=dict(data_root='data/mini/stcrowd', pipeline=mini_pipeline)),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='data/mini/stcrowd')),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/stcrowd')),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/stcrowd')),
    train_cfg=dict(max_epochs=mini_epochs, val_interval=mini_epochs))
