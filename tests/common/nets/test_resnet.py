"""Against the counts that the IntRA-KD specification gives, and a slow convolution written here."""
import pytest
import torch
from torch import nn

from perception.common.nets.resnet import BasicBlock, Bottleneck, ResNet
from perception.utils.errors import ConfigError

# what torchvision's nets count without their classifiers
PARAMETERS = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160}


@pytest.mark.parametrize(('depth', 'expected'), PARAMETERS.items())
def test_number_of_parameters(depth, expected):
    with torch.device('meta'):
        net = ResNet(depth)
    assert sum(p.numel() for p in net.parameters()) == expected


@pytest.mark.parametrize(('depth', 'factor'), [(18, 1), (50, 4)])
def test_stages_have_stride_4_and_8_rounded_up(depth, factor):
    net = ResNet(depth).eval()
    with torch.no_grad():
        outputs = net(torch.zeros(1, 3, 33, 64))
    assert [tuple(x.shape) for x in outputs] == [(1, 64 * factor, 9, 16), (1, 128 * factor, 5, 8),
                                                 (1, 256 * factor, 5, 8), (1, 512 * factor, 5, 8)]
    assert net.channels == tuple(x.shape[1] for x in outputs)


def test_the_children_are_the_stages_in_the_order_they_run():
    assert [name for name, _ in ResNet(18).named_children()] == ['stem', 'stage1', 'stage2', 'stage3', 'stage4']


@pytest.mark.parametrize(('output_stride', 'strides', 'dilations'), [
    (8, (4, 8, 8, 8), (1, 2, 4)), (16, (4, 8, 16, 16), (1, 1, 2)), (32, (4, 8, 16, 32), (1, 1, 1))])
def test_output_stride(output_stride, strides, dilations):
    """Sizes follow the strides, dilation makes up for those left out, and the same weights fit all."""
    net = ResNet(50, base_channels=4, output_stride=output_stride).eval()
    with torch.no_grad():
        outputs = net(torch.zeros(1, 3, 64, 96))
    assert net.strides == strides
    assert [tuple(x.shape[1:]) for x in outputs] == [(c, 64 // s, 96 // s) for c, s in zip(net.channels, strides)]
    assert tuple(getattr(net, f'stage{n}')[1].conv2.dilation[0] for n in (2, 3, 4)) == dilations
    net.load_state_dict(ResNet(50, base_channels=4).state_dict())


@pytest.mark.parametrize('stage', ['stage3', 'stage4'])
@pytest.mark.parametrize('depth', [18, 50])
def test_late_stages_dilate_instead_of_striding(depth, stage):
    """Convolutions of 3 x 3 dilate by 2 and 4; in a basic block the first one only."""
    dilation = dict(stage3=2, stage4=4)[stage]
    convs = [m for m in getattr(ResNet(depth), stage).modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    expected = [dilation, 1] * (len(convs) // 2) if depth == 18 else [dilation] * len(convs)
    assert [m.dilation[0] for m in convs] == expected
    assert all(m.stride == (1, 1) and m.padding == m.dilation for m in convs)


@pytest.mark.parametrize('block', [BasicBlock(8, 8), BasicBlock(8, 4, stride=2), Bottleneck(8, 4, dilation=2)])
def test_block_adds_its_shortcut_before_the_last_activation(block):
    block.eval()
    last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    x = torch.randn(2, 8, 6, 7)
    with torch.no_grad():
        torch.testing.assert_close(block(x), block.downsample(x).relu())


def test_stage_outputs_are_left_as_they_are_by_later_stages():
    net, seen = ResNet(18).eval(), {}
    for n in (1, 2, 3, 4):
        getattr(net, f'stage{n}').register_forward_hook(lambda m, i, out, n=n: seen.update({n: out.clone()}))
    with torch.no_grad():
        outputs = net(torch.randn(1, 3, 32, 32))
    for n in (1, 2, 3, 4):
        assert torch.equal(outputs[n - 1], seen[n])


def test_unknown_depth_is_refused():
    with pytest.raises(ConfigError, match='depth=42, expected one of 18, 34, 50, 101'):
        ResNet(42)
    with pytest.raises(ConfigError, match='output_stride=4, expected one of 8, 16, 32'):
        ResNet(output_stride=4)


def test_late_stages_can_be_left_out():
    whole, net = ResNet(18, 4, 32), ResNet(18, 4, 32, stages=3)
    net.load_state_dict({name: value for name, value in whole.state_dict().items() if not name.startswith('stage4')})
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        outputs = net.eval()(images)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, whole.eval()(images)))
    assert net.channels == (4, 8, 16) and net.strides == (4, 8, 16) and len(outputs) == 3
