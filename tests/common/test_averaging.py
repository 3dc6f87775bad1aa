"""The running mean of BEVDepth against its formula, inside mmengine's hook."""
import math

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS
from torch import nn

from perception.common.averaging import ExpMomentumEMA
from perception.utils.errors import ConfigError


def test_what_is_kept_of_the_mean():
    net = nn.Linear(1, 1, bias=False)
    mean, expected = ExpMomentumEMA(net, momentum=.01, gamma=20), net.weight.item()
    for step in range(30):
        with torch.no_grad():
            net.weight.fill_(step)
        mean.update_parameters(net)
        if step:  # the first call copies
            kept = .99 * (1 - math.exp(-(step + 1) / 20))
            expected = kept * expected + (1 - kept) * step
        else:
            expected = 0.
        assert mean.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_the_hook_takes_it():
    hook = EMAHook(ema_type='perception.common.averaging.ExpMomentumEMA', momentum=.001, gamma=2000)
    mean = MODELS.build(hook.ema_cfg, default_args=dict(model=nn.Linear(2, 2)))
    assert (mean.momentum, mean.gamma) == (.001, 2000)


@pytest.mark.parametrize('options', [dict(momentum=0), dict(momentum=1), dict(gamma=0)])
def test_numbers_that_are_no_mean(options):
    with pytest.raises(ConfigError, match='0 < momentum < 1'):
        ExpMomentumEMA(nn.Linear(1, 1), **options)
