"""Scales get small where their sum is part of the loss."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from torch import nn

from perception.common.hooks.sparsity import SparsityHook
from perception.utils.errors import ConfigError


class Net(BaseModel):
    def __init__(self, norm=True):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4) if norm else nn.Identity())

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss_task=self.layers(inputs).sum() * 0)


def runner(model):
    return SimpleNamespace(model=model, logger=MMLogger.get_current_instance())


def test_the_gradient_of_scales_has_their_sign():
    model, scales = Net(), torch.tensor([1.0, -2.0, 3.0, 0.5])
    model.layers[1].weight.data.copy_(scales)
    SparsityHook(0.1).before_train(runner(model))
    total, terms = model.parse_losses(model(torch.randn(5, 3)))
    assert float(terms['loss_sparsity'].detach()) == pytest.approx(0.65)
    total.backward()
    torch.testing.assert_close(model.layers[1].weight.grad, 0.1 * scales.sign())


def test_slim_nets_are_left_alone_and_nets_without_norms_refused():
    slim, bare = Net(), Net(norm=False)
    slim.structure = {}
    plain = slim.parse_losses
    SparsityHook().before_train(runner(slim))
    assert slim.parse_losses == plain
    with pytest.raises(ConfigError, match='no batch norms'):
        SparsityHook().before_train(runner(bare))
    with pytest.raises(ConfigError, match='strength=0'):
        SparsityHook(0)
