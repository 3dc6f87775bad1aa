"""EfficientNet's published sizes and names, its padding, and features at each stride."""
import pytest
import torch
from torch import nn

from perception.common.nets.efficientnet import EfficientNet, PaddedConv
from perception.utils.errors import ConfigError

NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


def names_of(stages):
    """The names of efficientnet-pytorch, written down from its description; a stage: its blocks and expansion."""
    names = ['_conv_stem.weight', *(f'_bn0.{leaf}' for leaf in NORM)]
    number = 0
    for count, expansion in stages:
        for _ in range(count):
            block = f'_blocks.{number}'
            parts = [('_expand_conv.weight', '_bn0')] * (expansion > 1) + [('_depthwise_conv.weight', '_bn1')]
            for conv, norm in parts:
                names += [f'{block}.{conv}', *(f'{block}.{norm}.{leaf}' for leaf in NORM)]
            names += [f'{block}._se_{part}.{leaf}' for part in ('reduce', 'expand') for leaf in ('weight', 'bias')]
            names += [f'{block}._project_conv.weight', *(f'{block}._bn2.{leaf}' for leaf in NORM)]
            number += 1
    return [*names, '_conv_head.weight', *(f'_bn1.{leaf}' for leaf in NORM), '_fc.weight', '_fc.bias']


@pytest.mark.parametrize(('version', 'parameters', 'counts', 'channels'), [
    ('b0', 5_288_548, (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 112, 320)),
    ('b4', 19_341_616, (2, 4, 4, 6, 6, 8, 2), (24, 32, 56, 160, 448))])
def test_published_sizes_and_names(version, parameters, counts, channels):
    with torch.device('meta'):
        net = EfficientNet(version, num_classes=1000)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert list(net.state_dict()) == names_of([(n, 6 if i else 1) for i, n in enumerate(counts)])
    assert net.channels == channels
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    if version == 'b0':
        assert shapes['_blocks.3._depthwise_conv.weight'] == (144, 1, 5, 5)
        assert shapes['_blocks.1._se_reduce.weight'] == (4, 96, 1, 1)
        assert shapes['_blocks.15._project_conv.weight'] == (320, 1152, 1, 1)
        assert shapes['_conv_head.weight'] == (1280, 320, 1, 1)


def test_features_at_each_stride_and_scores():
    torch.manual_seed(0)
    net = EfficientNet(width=.25, depth=.5, num_classes=7).eval()
    with torch.no_grad():
        features = net(torch.rand(2, 3, 64, 96))
        assert net.classify(torch.rand(2, 3, 64, 96)).shape == (2, 7)
    assert [tuple(x.shape[2:]) for x in features] == [(64 // s, 96 // s) for s in net.strides]
    assert tuple(x.shape[1] for x in features) == net.channels
    assert EfficientNet(width=.25, depth=.5)._conv_head is None


def test_the_first_stages_alone():
    torch.manual_seed(0)
    net = EfficientNet(width=.25, depth=.5, stages=5)
    assert net.strides == (2, 4, 8, 16) and [x.shape[2:] for x in net(torch.rand(1, 3, 32, 64))][-1] == (2, 4)
    whole = EfficientNet(width=.25, depth=.5)
    assert (whole._bn0.momentum, EfficientNet(momentum=.1, stages=1)._blocks[0]._bn1.momentum) == (.01, .1)
    assert {*net.state_dict()} < {*whole.state_dict()} and net.channels[:3] == whole.channels[:3]
    with pytest.raises(ConfigError, match='stages=8'):
        EfficientNet(stages=8)


def test_padding_is_uneven_where_a_stride_meets_an_even_size():
    """TensorFlow: none on top and left for 3 x 3 with stride 2, which its weights expect."""
    conv = PaddedConv(1, 1, 3, 2, size=224)
    assert conv.margins == [0, 1, 0, 1] and PaddedConv(1, 1, 5, 2, 95).margins == [2, 2, 2, 2]
    assert PaddedConv(1, 1, 5, 2, 56).margins == [1, 2, 1, 2]
    nn.init.ones_(conv.weight)
    assert conv(torch.ones(1, 1, 4, 4)).tolist() == [[[[9, 6], [6, 4]]]]


def test_blocks_are_skipped_at_random_in_training_only():
    torch.manual_seed(0)
    net = EfficientNet(width=.25, depth=1., drop_connect=.9)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0
    images = torch.rand(1, 3, 32, 32).expand(4, 3, 32, 32)
    rows = net(images)[-1].flatten(1)
    assert not torch.allclose(rows[0], rows[1])
    rows = net.eval()(images)[-1].flatten(1)
    torch.testing.assert_close(rows[0], rows[3])


def test_unknown_version():
    with pytest.raises(ConfigError, match="version='b9'|b9"):
        EfficientNet('b9')
