"""A complete config of the toy room, built on the runtime that all configs share."""
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.optim import MultiStepLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import Adam
from toy_room import (
    ToyDataset,
    ToyMetric,
    ToyModel,
    ToyPredictor,
    ToyResults,
    ToySubmission,
    ToyTTA,
    ToyVote,
    write_toy_data,
)

from perception.common.samplers import EpochSampler

with read_base():
    from ...configs._base_.runtime import *  # noqa: F403

model = dict(type=ToyModel, width=16)
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(type=ToyDataset, size=22),
                        sampler=dict(type=EpochSampler, shuffle=True))
val_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type=ToyDataset, size=11, seed=4),
                      sampler=dict(type=DefaultSampler, shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type=ToyMetric)
test_evaluator = val_evaluator
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=3, val_interval=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=0.01))
param_scheduler = [dict(type=MultiStepLR, milestones=[2], gamma=0.5)]
default_hooks.update(logger=dict(type=LoggerHook, interval=2))  # noqa: F405

predictor = dict(type=ToyPredictor)
tta_model = dict(type=ToyTTA)
ensemble_model = dict(type=ToyVote)
submit_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type=ToyDataset, size=7, seed=5),
                         sampler=dict(type=DefaultSampler, shuffle=False))
submission = dict(type=ToySubmission)
predictions = dict(type=ToyResults)

mini_data = dict(type=write_toy_data, root='data/mini/toy', size=3)
mini = dict(model=dict(width=8), train_cfg=dict(max_epochs=2))
