"""STCrowd: data loaders with augmentation, its evaluation, results file, pictures; the simulated data."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.runner import EpochBasedTrainLoop

from perception.common.samplers import EpochSampler
from perception.crowd.datasets.stcrowd.metric import STCrowdMetric
from perception.crowd.datasets.stcrowd.mini import draw_sheet, write_stcrowd_mini
from perception.crowd.datasets.stcrowd.reader import STCrowd
from perception.crowd.datasets.stcrowd.submission import STCrowdResults, STCrowdSubmission
from perception.crowd.datasets.stcrowd.track_metric import STCrowdTrackMetric
from perception.crowd.draw import DrawPeople
from perception.crowd.models.flip import FlipDetector
from perception.crowd.predictor import CrowdPredictor
from perception.crowd.tracking.trackers import KalmanTracker
from perception.crowd.transforms import MoveScene, SamplePeople, WithinBounds

data_root = 'data/stcrowd'  # PERCEPTION_DATA replaces the leading data
bounds = (0, -35.2, -4, 35.2, 35.2, 2)  # m; holds the half disc of 35 m where people are labelled
epochs, mini_epochs = 40, 12  # in the last fifth of them nobody is added

train_pipeline = [  # the first step takes away the rear, where nobody is labelled, before a turn brings it to the front
    dict(type=WithinBounds, bounds=bounds),
    dict(type=SamplePeople, count=10, min_points=15, epochs=epochs, fade=0.2),
    dict(type=MoveScene, max_radians=0.3925, low=0.95, high=1.05, std=0.2, flip=0.5),
    dict(type=WithinBounds, bounds=bounds)]
test_pipeline = [dict(type=WithinBounds, bounds=bounds, people=False)]  # the metric has filters of its own

# the sequences of split.json
train_dataloader = dict(
    batch_size=16, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=STCrowd, data_root=data_root, split='train', pipeline=train_pipeline, seed=0))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=STCrowd, data_root=data_root, split='val', pipeline=test_pipeline))
test_dataloader = dict(  # the labelled frames; annotations of the test split were never published
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=STCrowd, data_root=data_root, split='val', pipeline=test_pipeline))
submit_dataloader = test_dataloader  # there is no server: a results file that people exchange

val_evaluator = dict(type=STCrowdMetric)
test_evaluator = dict(type=STCrowdMetric)

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=epochs, val_interval=5)

# pictures count whom the test counts
predictor = dict(type=CrowdPredictor, counts=dict(max_range=35, view='lidar'))
predictions = dict(type=STCrowdResults)  # --predictions FILE
tracker = dict(type=KalmanTracker)
submission = dict(type=STCrowdSubmission, tracker=tracker)  # --submit DIR
more_metrics = dict(  # --metrics
    tracking=dict(type=STCrowdTrackMetric, tracker=tracker),
    in_image=dict(type=STCrowdMetric, view='camera', prefix='in_image'))
tta_model = dict(type=FlipDetector)  # --tta flip
draw = dict(type=DrawPeople, look=dict(counts=dict(max_range=35, view='lidar')))  # --draw DIR

mini_data = dict(type=write_stcrowd_mini, root='data/mini/stcrowd')
tiny = dict(mini_data=dict(  # of tools/benchmark.py fuzz
    train_sequences=1, train_frames=2, val_sequences=1, val_frames=1, test_sequences=1, test_frames=1, columns=256,
    detail=0.05, workers=1))
mini_sheet = dict(type=draw_sheet)
mini_bounds = (0, -19.2, -4, 19.2, 19.2, 2)  # m; few cells, for a training on two cores
mini_test = [dict(type=WithinBounds, bounds=mini_bounds, people=False)]
mini_train = [dict(type=WithinBounds, bounds=mini_bounds),
              dict(type=SamplePeople, count=10, min_points=15, epochs=mini_epochs, fade=0.2), train_pipeline[2],
              dict(type=WithinBounds, bounds=mini_bounds)]
mini_place = dict(data_root='data/mini/stcrowd', sequences=None)
mini_score = dict(type=STCrowdMetric, max_range=19)
mini_loaders = dict(
    train_dataloader=dict(batch_size=4, num_workers=0, persistent_workers=False,
                          dataset=dict(mini_place, pipeline=mini_train)),
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(mini_place, pipeline=mini_test)),
    test_dataloader=dict(num_workers=0, dataset=dict(mini_place, pipeline=mini_test)),
    submit_dataloader=dict(num_workers=0, dataset=dict(mini_place, pipeline=mini_test)),
    val_evaluator=mini_score, test_evaluator=mini_score,
    more_metrics=dict(tracking=dict(max_range=19), in_image=dict(max_range=19)), submission=dict(max_range=19),
    predictor=dict(counts=dict(max_range=19)), draw=dict(look=dict(counts=dict(max_range=19))),
    train_cfg=dict(max_epochs=mini_epochs, val_interval=mini_epochs))

seen_loaders = {  # the same with images of 320 x 180, of nets that see the camera
    key: dict(value, dataset=dict(value['dataset'], image_reduce=4))
    for key, value in mini_loaders.items() if key.endswith('_dataloader')}

few = 'train_cfg.max_epochs=7 train_cfg.val_interval=7 train_dataloader.dataset.pipeline.1.epochs=7'
parts = {name: f'model.head.{name}=False' for name in ('mixture', 'density', 'attention', 'adaptive_radius')}
evidence = dict(  # of tools/benchmark.py arms; each arm adds a part of DHA to the one before
    options=few.split(),
    scores={f'STCrowd/{name}': 'greater' for name in ('AP_0.25', 'AP_0.5', 'AP_1.0', 'AR_0', 'AR_1', 'AR_2',
                                                      'mAP_density_4+', 'AP_0.25_density_4+', 'AR_2_density_4+')},
    arms=dict(
        centerpoint_s8=['configs/crowd/centerpoint_pillar_stcrowd.py', 'model.neck.strides=(0.5,1,2)',
                        'model.head.stride=4'],
        centerpoint_s4=['configs/crowd/centerpoint_pillar_stcrowd.py'],
        hierarchy=['configs/crowd/dha_pillar_stcrowd.py', *parts.values()],
        mixture=['configs/crowd/dha_pillar_stcrowd.py', *list(parts.values())[1:]],
        density=['configs/crowd/dha_pillar_stcrowd.py', *list(parts.values())[2:]],
        attention=['configs/crowd/dha_pillar_stcrowd.py', *list(parts.values())[3:]],
        dha=['configs/crowd/dha_pillar_stcrowd.py']))
