"""The trunk: its published size, its variants, what it sees of time, weights of two-dimensional nets."""
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from perception.common.nets.resnet import ResNet
from perception.steering.models.fm_net import SteeringNet
from perception.steering.models.heads import AutoregressiveLSTM, FrameHead
from perception.steering.models.resnet3d import Memory, ResNet3d
from perception.utils.errors import CheckpointError, ConfigError

SMALL = dict(base_channels=4, blocks=(1, 1, 1, 1))


def test_published_size():
    with torch.device('meta'):
        net = SteeringNet(dict(type=ResNet3d), dict(type=FrameHead), dict(type=AutoregressiveLSTM))
        with FlopCounterMode(display=False) as counter:
            features = net.trunk(torch.zeros(1, 3, 10, 160, 160))
            net.head(features)
    assert {name: tuple(maps.shape[1:]) for name, maps in features.items()} == dict(
        conv1=(64, 10, 80, 80), conv3=(512, 10, 20, 20), conv5=(2048, 10, 5, 5))
    assert sum(isinstance(module, nn.Conv3d) for module in net.modules()) == 53
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    assert count['trunk'] == 46_198_976 and count['head'] == 53_119_104
    assert sum(count.values()) == 99_340_783
    assert counter.get_total_flops() / 2e9 == pytest.approx(42.7, abs=0.05)


@pytest.mark.parametrize('options', [{}, dict(dilations=(1, 1, 1, 1)), dict(style='pytorch'), dict(causal=True)])
def test_variants_give_the_same_shapes(options):
    found = ResNet3d(**SMALL, **options).eval()(torch.zeros(1, 3, 3, 64, 64))
    assert [tuple(found[name].shape[1:]) for name in found] == [(4, 3, 32, 32), (32, 3, 8, 8), (128, 3, 2, 2)]


def test_dilation_of_the_published_stages():
    net = ResNet3d(**SMALL)
    assert [getattr(net, f'conv{i}')[0].b.dilation for i in (2, 3, 4, 5)] == [
        (1, 1, 1), (1, 1, 1), (1, 2, 2), (1, 4, 4)]
    assert net.conv4[0].a.stride == (1, 2, 2) and net.conv4[0].b.stride == (1, 1, 1)


@pytest.mark.parametrize('causal', [False, True])
def test_what_a_frame_sees(causal):
    torch.manual_seed(0)
    net = ResNet3d(**SMALL, causal=causal).eval()
    clip = torch.randn(1, 3, 6, 32, 32)
    other = clip.clone()
    other[:, :, 3:] += 1
    with torch.no_grad():
        same = [(net(clip)[name] == net(other)[name]).flatten(3).all(3).all(1)[0] for name in ('conv1', 'conv5')]
    assert all(row[:3].all().item() == causal and not row[3:].any() for row in same)


def test_pieces_of_a_video_give_what_the_whole_gives():
    torch.manual_seed(0)
    net, clip = ResNet3d(**SMALL, causal=True).eval(), torch.randn(1, 3, 12, 32, 32)
    with torch.no_grad():
        whole, pieces, frames = net(clip)['conv5'], [], None
        for length in (5, 1, 6):
            memory = Memory(frames)
            start = sum(piece.shape[2] for piece in pieces)
            pieces.append(net(clip[:, :, start:start + length], memory)['conv5'])
            frames = memory.frames
    assert torch.allclose(torch.cat(pieces, 2), whole, atol=1e-5)
    assert [frame.shape[2] for frame in frames] == [6, 2, 2, 2, 2, 2]


@pytest.mark.parametrize('causal', [False, True])
def test_inflation_of_a_clip_that_stands_still(causal):
    """Away from the clip's ends it gives what the image gives: here of stride in the second convolution."""
    torch.manual_seed(0)
    flat = ResNet(50, 4, output_stride=32).eval()
    for module in flat.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    net = ResNet3d(4, dilations=(1, 1, 1, 1), style='pytorch', causal=causal).eval()
    net.inflate(flat.state_dict())
    for module in (*flat.modules(), *net.modules()):
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            module.eps = 1e-3
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stages = flat(image)
        maps = net(image[:, :, None].expand(-1, -1, 50, -1, -1))
    for name, expected in (('conv3', stages[1]), ('conv5', stages[3])):
        found = maps[name][:, :, -1 if causal else 25]
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max()), name


def test_inflation_takes_the_names_of_torchvision_with_a_classifier(tmp_path):
    weights = {}
    for name, value in ResNet(50, 4).state_dict().items():
        name = name.replace('stem.0', 'conv1').replace('stem.1', 'bn1').replace('stage', 'layer')
        weights[name] = torch.full_like(value, 0.5) if value.is_floating_point() else value
    torch.save({**weights, 'fc.weight': torch.zeros(10, 128)}, tmp_path / 'flat.pth')
    net = ResNet3d(4, weights_2d=tmp_path / 'flat.pth')
    assert all((p == 0.5).all() for p in net.parameters() if p.ndim == 1)
    assert net.conv1.conv.weight.unique().tolist() == pytest.approx([0.5 / 7])
    assert net.conv3[0].shortcut.weight.unique().tolist() == [0.5]
    with pytest.raises(CheckpointError, match='conv2.1.a'):
        net.inflate({k: v for k, v in weights.items() if k != 'layer1.1.conv1.weight'})
    with pytest.raises(CheckpointError, match='such as conv1.conv'):
        ResNet3d(8).inflate(weights)


def test_wrong_arguments():
    with pytest.raises(ConfigError, match='tensorflow'):
        ResNet3d(style='tensorflow')
    with pytest.raises(ConfigError, match='four of each'):
        ResNet3d(strides=(1, 2, 2))
