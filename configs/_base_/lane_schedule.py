"""Optimiser of the lane nets: SGD 0.01, momentum 0.9, weight decay 1e-4, with Nesterov as in SAD's code, on ApolloScape
without it as in IntRA-KD's. The length of a training and its rate, poly with power 0.9, stand with each data set."""
from mmengine.optim import OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import SGD

optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4))
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
