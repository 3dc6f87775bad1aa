"""BDD's videos with the driver's actions: loaders of clips at 3 Hz, accuracy and perplexity, mini scale."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR
from mmengine.runner import EpochBasedTrainLoop

from perception.common.samplers import EpochSampler
from perception.steering.datasets.bdd.mini import write_bdd_mini
from perception.steering.datasets.bdd.reader import BDDDriving
from perception.steering.draw import DrawSteering
from perception.steering.metrics import ActionMetric
from perception.steering.predictor import SteeringPredictor
from perception.steering.transforms import FlipClip

data_root = 'data/bdd'  # PERCEPTION_DATA replaces the leading data

train_dataloader = dict(  # a clip of 10 frames, 3.3 s, of each of 21,204 videos
    batch_size=16, num_workers=8, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=BDDDriving, data_root=data_root, split='train', memory=0.0, seed=0))
val_dataloader = dict(  # all 108 frames of 1,867 videos
    batch_size=16, num_workers=4, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=BDDDriving, data_root=data_root, split='val', memory=0.0))
test_dataloader = dict(  # of 3,561 videos
    batch_size=16, num_workers=4, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=BDDDriving, data_root=data_root, split='test', memory=0.0))

val_evaluator = dict(type=ActionMetric)
test_evaluator = dict(type=ActionMetric)
draw = dict(type=DrawSteering)  # --draw DIR

predictor = dict(type=SteeringPredictor)

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=100, val_interval=1)

mini_data = dict(type=write_bdd_mini, root='data/mini/bdd_driving')
tiny = dict(  # of tools/benchmark.py fuzz
    mini_data=dict(train_drives=1, val_drives=1, test_drives=1, rate=1.0, detail=.05, workers=1))
mini_place = dict(data_root='data/mini/bdd_driving', seconds=7.0, memory=4.0, clip_length=5, input_size=(80, 80))
mini_loaders = dict(
    train_dataloader=dict(batch_size=8, num_workers=0, persistent_workers=False,
                          dataset=dict(mini_place, stride=5, pipeline=[dict(type=FlipClip)])),
    val_dataloader=dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=mini_place),
    test_dataloader=dict(batch_size=8, num_workers=0, dataset=mini_place))
mini_epochs = 24
mini_training = dict(  # of the nets that steer
    train_cfg=dict(max_epochs=mini_epochs, val_interval=6),
    param_scheduler=[dict(type=CosineAnnealingLR, T_max=mini_epochs, convert_to_iter_based=True)])
