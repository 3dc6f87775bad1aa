"""Names of torchvision's ResNets, written down from their description."""
import pytest
import torch

from perception.common.nets.resnet import ResNet
from perception.lanes.convert import resnet
from perception.lanes.models.resnet_seg import ResNetSeg
from perception.utils.checkpoint import start_from
from perception.utils.errors import CheckpointError


def torchvision_names(depth):
    """The names of torchvision's nets, written down from their description; every value is another."""
    norm = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    names = ['conv1.weight', *(f'bn1.{leaf}' for leaf in norm)]
    for stage, count in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth], start=1):
        for block in range(count):
            prefix = f'layer{stage}.{block}'
            for k in range(1, 3 if depth == 18 else 4):
                names += [f'{prefix}.conv{k}.weight', *(f'{prefix}.bn{k}.{leaf}' for leaf in norm)]
            if block == 0 and (stage > 1 or depth == 50):
                names += [f'{prefix}.downsample.0.weight', *(f'{prefix}.downsample.1.{leaf}' for leaf in norm)]
    return names


@pytest.mark.parametrize('depth', [18, 50])
def test_torchvisions_names_in_their_order(depth):
    net = ResNet(depth)
    names = torchvision_names(depth)
    source = {name: torch.rand_like(value.float()) for name, value in zip(names, net.state_dict().values())}
    assert len(source) == len(net.state_dict())
    classifier = {'fc.weight': torch.rand(9, 9), 'fc.bias': torch.rand(9)}
    weights, usage = resnet.convert(source | classifier, None)
    assert resnet.fits(source) and f'a net with ResNet-{depth}: ' in usage and 'load_from=FILE' in usage
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights.values(), source.values()))


def test_a_network_starts_from_a_converted_backbone(tmp_path):
    backbone = ResNet(18).state_dict()
    torch.save(backbone, tmp_path / 'resnet18.pth')
    net = ResNetSeg()
    assert '120 of 131 weights loaded' in start_from(net, tmp_path / 'resnet18.pth')
    assert all(torch.equal(net.state_dict()[name], value) for name, value in backbone.items())


def test_a_resnet_of_other_depth_is_refused():
    source = {f'layer{n}.{k}.conv1.weight': torch.rand(1) for n in (1, 2, 3, 4) for k in range(5)}
    with pytest.raises(CheckpointError, match=r'\(5, 5, 5, 5\) blocks, expected one of depth 18, 34, 50, 101'):
        resnet.convert(source, None)
