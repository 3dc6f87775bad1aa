"""Comma.ai: loaders of clips, its scores, mini scale."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR
from mmengine.runner import EpochBasedTrainLoop

from perception.common.samplers import EpochSampler
from perception.steering.datasets.comma.mini import TESTS, write_comma_mini
from perception.steering.datasets.comma.reader import CommaAI
from perception.steering.draw import DrawSteering
from perception.steering.metrics import HardFramesMetric, SteeringMetric
from perception.steering.predictor import SteeringPredictor
from perception.steering.transforms import FlipClip

data_root = 'data/comma'  # PERCEPTION_DATA replaces the leading data

train_dataloader = dict(  # clips of 10 frames, half a second
    batch_size=16, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=CommaAI, data_root=data_root, split='train', memory=16.0, seed=0))
val_dataloader = dict(  # the last 5 % of each of the nine training recordings
    batch_size=16, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=CommaAI, data_root=data_root, split='val'))
test_dataloader = dict(  # the two recordings that the official code validates with
    batch_size=16, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=CommaAI, data_root=data_root, split='test'))

val_evaluator = dict(type=SteeringMetric)
test_evaluator = dict(type=SteeringMetric)
more_metrics = dict(hard=dict(type=HardFramesMetric))  # --metrics hard
draw = dict(type=DrawSteering)  # --draw DIR

predictor = dict(type=SteeringPredictor)

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=100, val_interval=1)

mini_data = dict(type=write_comma_mini, root='data/mini/comma')
tiny = dict(  # of tools/benchmark.py fuzz
    mini_data=dict(train_drives=1, train_frames=24, test_drives=1, test_frames=12, detail=.1, workers=1))
mini_place = dict(
    data_root='data/mini/comma', rate=5.0, holdout=.2, memory=4.0, clip_length=5, input_size=(80, 80), test=TESTS)
mini_loaders = dict(
    train_dataloader=dict(batch_size=8, num_workers=0, persistent_workers=False,
                          dataset=dict(mini_place, pipeline=[dict(type=FlipClip)])),
    val_dataloader=dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=mini_place),
    test_dataloader=dict(batch_size=8, num_workers=0, dataset=mini_place))
wide_loaders = {name: dict(loader, dataset=dict(loader['dataset'], input_size=(160, 160)))
                for name, loader in mini_loaders.items()}
mini_epochs = 24
mini_training = dict(  # of the nets that steer
    train_cfg=dict(max_epochs=mini_epochs, val_interval=6),
    param_scheduler=[dict(type=CosineAnnealingLR, T_max=mini_epochs, convert_to_iter_based=True)])
