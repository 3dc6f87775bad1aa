import pytest
import torch
from torch import nn

from perception.distill.taps import record, tapped_module
from perception.utils.errors import ConfigError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.stages, self.never = nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 4)]), nn.Linear(1, 1)

    def forward(self, x):
        return self.stages[0](self.stages[0](self.first(x)))


def hooks(model):
    return sum(len(m._forward_hooks) for m in model.modules())


def test_records_the_very_output_and_leaves_no_hook():
    net, x = Net(), torch.randn(2, 3)
    with record(net, dict(f='first')) as outputs:
        assert outputs == {}
        net(x)
    assert outputs['f'].grad_fn is not None
    assert torch.equal(outputs['f'], net.first(x))
    assert hooks(net) == 0


@pytest.mark.parametrize(('path', 'count'), [('stages.0', 2), ('never', 0)])
def test_ran_twice_or_never_is_an_error(path, count):
    net = Net()
    with pytest.raises(ConfigError, match=f"tap 'f'.*{path!r}.*ran {count} times"), record(net, dict(f=path)):
        net(torch.randn(2, 3))
    assert hooks(net) == 0


def test_missing_path_shows_close_matches_and_leaves_no_hook():
    net = Net()
    with pytest.raises(ConfigError, match=r"'fist', expected.*Did you mean first\?"), \
            record(net, dict(a='first', b='fist')):
        net(torch.randn(2, 3))
    assert hooks(net) == 0
    with pytest.raises(ConfigError, match='no sub-module'):
        tapped_module(net, 'whole', '')


def test_an_error_of_the_model_comes_through_and_leaves_no_hook():
    net = Net()
    with pytest.raises(RuntimeError, match='shapes'), record(net, dict(f='first')):
        net(torch.randn(2, 7))
    assert hooks(net) == 0


def test_a_recorded_output_that_is_changed_in_place_is_refused():
    net, x = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(inplace=True)), torch.randn(2, 3)
    with pytest.raises(ConfigError, match=r"tap 'f': a later layer of Sequential changed the output of '0' in place"), \
            record(net, dict(f='0')):
        net(x)
    with record(net, dict(f='1')) as outputs:  # what a layer itself did is fine
        net(x)
    assert outputs['f'].min() >= 0
    with torch.inference_mode(), record(net.eval(), dict(f='1')) as outputs:  # its tensors count no versions
        net(x)
    assert outputs['f'].shape == (2, 3)
