"""FlowNetS on the clips of Udacity's challenge 2, without labels: its features are mimicked by configs/fm."""
from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import Adam

from perception.common.hooks.export import ExportHook
from perception.steering.flow_metric import FlowMetric
from perception.steering.image_predictors import FlowPredictor
from perception.steering.models.flownet_s import FlowNetS

with read_base():
    from .._base_.runtime import *
    from .._base_.udacity import *

model = dict(type=FlowNetS)

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1e-4))
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
train_cfg.update(max_epochs=30)
default_hooks.update(export=dict(type=ExportHook, metric='EPE_dis', rule='less'))

val_evaluator = dict(type=FlowMetric)
test_evaluator = dict(type=FlowMetric)
predictor = dict(type=FlowPredictor)
more_metrics = predictions = submission = submit_dataloader = None

mini = dict(
    {name: part for name, part in wide_loaders.items() if name not in ('submit_dataloader', 'test_dataloader')},
    test_dataloader=dict(wide_loaders['test_dataloader'], dataset=dict(
        wide_loaders['test_dataloader']['dataset'], true_flow=True)),
    model=dict(input_size=(128, 128), base_channels=8, learn='dis', unit=10.0),
    optim_wrapper=dict(optimizer=dict(lr=1e-3)), train_cfg=dict(max_epochs=12, val_interval=4))
