"""Training schedule of Cylinder3D (its SemanticKITTI config: Adam, constant rate, 40 epochs, batches of 2)."""
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import Adam

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1e-3))
param_scheduler = []  # constant
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=40, val_interval=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
