"""Where stages look: maps of made-up activations, and the stages of a net that runs."""
import numpy as np
import pytest
import torch
from torch import nn

from perception.lanes.attention import attention_map, draw_attention, heat_overlay, record_stages


def road(height=200, width=320):
    return np.full((height, width, 3), 90, np.uint8)


def test_attention_is_the_energy_of_the_channels():
    feats = torch.zeros(3, 4, 5)
    feats[:, 1, 2] = torch.tensor([3., -4., 0.])
    feats[0, 0, 0] = 2.5
    strength = attention_map(feats)
    assert strength.shape == (4, 5) and strength.max() == 1 and strength[1, 2] == 1
    assert strength[0, 0] == pytest.approx(0.5) and strength[3, 3] == 0
    assert (attention_map(torch.ones(2, 3, 3)) == 0).all()


def test_heat_is_red_where_a_net_looks():
    strength = np.zeros((20, 32), np.float32)
    strength[:, 16:] = 1
    drawn = heat_overlay(road(), strength)
    assert drawn[100, 300, 0] > drawn[100, 300, 2] and drawn[100, 10, 2] > drawn[100, 10, 0]


def test_the_image_and_each_stage_stand_side_by_side():
    maps = {f'stage{i}': np.random.default_rng(i).random((9, 12)) for i in range(3)}
    picture = draw_attention(road(), maps, 'title', width=160)
    assert picture.shape[1:] == (4 * 160 + 3 * 4, 3) and 100 < picture.shape[0] < 100 + 80  # two bars above


class Net(nn.Module):
    """Two stages, of which the second gives a pair, and a part that is no stage."""

    def __init__(self):
        super().__init__()
        self.stem, self.stage1 = nn.Identity(), nn.Identity()
        self.stage2 = nn.MaxPool2d(2, return_indices=True)

    def forward(self, images):
        return self.stage2(self.stage1(self.stem(images)))


def test_stages_are_recorded_while_a_net_runs():
    net, images = Net(), torch.rand(1, 3, 4, 6)
    with record_stages(net) as found:
        out, _ = net(images)
    assert list(found) == ['stage1', 'stage2']
    assert torch.equal(found['stage1'], images) and torch.equal(found['stage2'], out)
    net(torch.zeros(1, 3, 4, 6))
    assert torch.equal(found['stage2'], out)
