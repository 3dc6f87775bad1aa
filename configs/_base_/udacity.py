"""Udacity's challenge 2: loaders of clips, its scores on all frames and on both halves, submission, mini scale."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR
from mmengine.runner import EpochBasedTrainLoop

from perception.common.samplers import EpochSampler
from perception.steering.datasets.udacity.mini import write_udacity_mini
from perception.steering.datasets.udacity.reader import UdacityCh2
from perception.steering.datasets.udacity.submission import UdacityResults, UdacitySubmission
from perception.steering.draw import DrawSteering
from perception.steering.metrics import HardFramesMetric, SteeringMetric
from perception.steering.predictor import SteeringPredictor
from perception.steering.transforms import FlipClip

data_root = 'data/udacity/ch2'  # PERCEPTION_DATA replaces the leading data

train_dataloader = dict(  # clips of 10 frames, half a second
    batch_size=16, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=UdacityCh2, data_root=data_root, split='train', seed=0))
val_dataloader = dict(  # the last 5 % of each recording: the released code chose by the test itself
    batch_size=16, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=UdacityCh2, data_root=data_root, split='val'))
test_dataloader = dict(
    batch_size=16, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=UdacityCh2, data_root=data_root, split='test'))
submit_dataloader = test_dataloader

val_evaluator = [dict(type=SteeringMetric), dict(type=HardFramesMetric)]
test_evaluator = dict(type=SteeringMetric)
more_metrics = dict(hard=dict(type=HardFramesMetric))  # --metrics hard

predictions = dict(type=UdacityResults)  # --predictions FILE
submission = dict(type=UdacitySubmission)  # --submit DIR
predictor = dict(type=SteeringPredictor)
draw = dict(type=DrawSteering)  # --draw DIR

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=100, val_interval=1)

mini_data = dict(type=write_udacity_mini, root='data/mini/udacity')
tiny = dict(  # of tools/benchmark.py fuzz
    mini_data=dict(train_drives=1, train_frames=24, test_drives=1, test_frames=12, detail=.1, workers=1))
mini_place = dict(data_root='data/mini/udacity', rate=5.0, holdout=.2, clip_length=5, input_size=(80, 80))
mini_loaders = dict(
    train_dataloader=dict(batch_size=8, num_workers=0, persistent_workers=False,
                          dataset=dict(mini_place, pipeline=[dict(type=FlipClip)])),
    val_dataloader=dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=mini_place),
    test_dataloader=dict(batch_size=8, num_workers=0, dataset=mini_place),
    submit_dataloader=dict(batch_size=8, num_workers=0, dataset=mini_place))
wide_loaders = {name: dict(loader, dataset=dict(loader['dataset'], input_size=(160, 160)))
                for name, loader in mini_loaders.items()}
mini_epochs = 24
mini_training = dict(  # of the nets that steer
    train_cfg=dict(max_epochs=mini_epochs, val_interval=6),
    param_scheduler=[dict(type=CosineAnnealingLR, T_max=mini_epochs, convert_to_iter_based=True)])

mimicking = ['configs/fm/resnet50_lstm_udacity.py', 'model.teachers.seg.cache_gb=1', 'model.teachers.flow.cache_gb=1']
evidence = dict(  # of tools/benchmark.py arms; scores are of the test drives, whose streets no training has seen
    options=['val_dataloader.dataset.split=test'],
    scores={f'{name}{group}': 'less' for group in ('', '_normal', '_hard') for name in ('RMSE', 'MAE', 'whiteness')
            if name + group != 'RMSE'},
    arms=dict(
        none=['configs/steering/resnet50_lstm_udacity.py'],
        segmentation=[*mimicking, 'model.losses.flow.weight=0'],
        flow=[*mimicking, 'model.losses.seg.weight=0'],
        both=mimicking,  # all three layers
        **{layer: [*mimicking, f"model.losses.seg.layers=('{layer}',)", f"model.losses.flow.layers=('{layer}',)"]
           for layer in ('low', 'middle', 'high')},
        # ten times the weight: 1 on each path
        both_strong=[*mimicking, 'model.losses.seg.weight=10', 'model.losses.flow.weight=10'],
        flow_strong=[*mimicking, 'model.losses.seg.weight=0', 'model.losses.flow.weight=10'],
        flow_middle_strong=[*mimicking, 'model.losses.seg.weight=0', 'model.losses.flow.weight=10',
                            "model.losses.flow.layers=('middle',)"]))
