"""FlowNetS and what optical flow is made of: both ways to learn, on images that are shifted by a known way."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper

from perception.common.flow import consistent, dis_flow, warp
from perception.steering.models.flownet_s import FlowNetS, census_distance, unsupervised
from perception.utils.errors import ConfigError, DataError

SHIFT = torch.tensor([3.0, -2.0])  # to the right, up


@pytest.fixture(scope='module')
def pair():
    """Two images (1, 3, 64, 64) in -1..1 of one pattern, the second one shifted by SHIFT."""
    noise = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(noise, (80, 80), mode='bicubic').clamp(0, 1) * 2 - 1
    return large[:, :, 8:72, 8:72], large[:, :, 10:74, 5:69]


def as_uint8(image):
    return ((image[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()


def flow_of(shift, size=(64, 64)):
    return shift.view(1, 2, 1, 1).expand(1, 2, *size).clone()


def test_warp_takes_the_second_image_back_to_the_first(pair):
    taken, inside = warp(pair[1], flow_of(SHIFT))
    assert torch.allclose(taken * inside, pair[0] * inside, atol=1e-4)
    assert not inside[0, 0, :2].any() and not inside[0, 0, :, -3:].any() and inside[0, 0, 2:, :-3].all()


def test_agreement_there_and_back():
    there = flow_of(SHIFT)
    assert consistent(there, -there)[0, 0, 2:, :-3].all()
    assert not consistent(there, there).any()


def test_dense_inverse_search_finds_a_shift(pair):
    found = dis_flow(*map(as_uint8, pair))
    assert np.abs(found[:, 16:48, 16:48] - SHIFT.numpy()[:, None, None]).mean() < 0.2
    assert not dis_flow(*[np.zeros((8, 30, 3), np.uint8)] * 2).any()
    with pytest.raises(ConfigError, match='slow'):
        dis_flow(*map(as_uint8, pair), preset='slow')


def test_the_true_flow_looks_best(pair):
    both = torch.cat([torch.cat(pair, 1), torch.cat(pair[::-1], 1)])
    scores = [unsupervised(torch.cat([flow_of(shift), -flow_of(shift)]), both, (64, 64))[0]
              for shift in (SHIFT, torch.zeros(2), -SHIFT)]
    assert scores[0] < 0.2 * min(scores[1:])
    assert census_distance(pair[0], 0.5 * pair[0] + 0.3).mean() < 0.25 * census_distance(*pair).mean()


def test_published_layers():
    with torch.device('meta'):
        net = FlowNetS()
        taps = {}
        for name in ('conv1', 'conv4', 'conv6'):
            getattr(net, name).register_forward_hook(lambda _, __, out, name=name: taps.update({name: out.shape[1:]}))
        flows = net.compute(torch.zeros(1, 6, 512, 640))
    assert taps == dict(conv1=(64, 256, 320), conv4=(512, 32, 40), conv6=(1024, 8, 10))
    assert [tuple(flow.shape[1:]) for flow in flows] == [(2, 512 >> i, 640 >> i) for i in (2, 3, 4, 5, 6)]


@pytest.mark.parametrize('learn', ['images', 'dis'])
def test_learns_the_flow_of_a_pair(pair, learn):
    torch.manual_seed(0)
    net = FlowNetS(input_size=(64, 64), base_channels=4, learn=learn, unit=5.0)
    clip = torch.from_numpy(np.stack([as_uint8(image) for image in pair])).permute(0, 3, 1, 2)
    batch = dict(inputs=dict(clip=[clip]), data_samples=None)
    wrapper = OptimWrapper(torch.optim.Adam(net.parameters(), 2e-3))
    for _ in range(45):
        net.train_step(batch, wrapper)
    (sample,) = net.test_step(batch)
    assert sample.pred_flow.shape == (2, 2, 64, 64) and sample.pred_flow[0].isnan().all()
    error = (sample.pred_flow[1:] - flow_of(SHIFT)).norm(dim=1)[:, 16:48, 16:48].mean().item()
    assert error < 0.4 * 13 ** 0.5


def test_wrong_sizes_and_single_frames():
    with pytest.raises(ConfigError, match='multiples of 64'):
        FlowNetS(input_size=(64, 100))
    with pytest.raises(DataError, match='1 frame'):
        FlowNetS(input_size=(64, 64), base_channels=2)(dict(clip=torch.zeros(1, 1, 3, 64, 64)))
