"""The sizes of the published counterparts, and the network put together by hand."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from perception.common.nets.resnet import ResNet
from perception.distill.taps import record
from perception.lanes.models.resnet_seg import ResNetSeg
from perception.utils.errors import ConfigError

BACKBONES = {18: (11_176_512, 512), 34: (21_284_672, 512), 101: (42_500_160, 2048)}


@pytest.mark.parametrize('depth', BACKBONES)
def test_number_of_parameters(depth):
    """11.8 M and 21.9 M are what PytorchAutoDrive states for its ResNet-18 and 34 at 288 x 800."""
    with torch.device('meta'):
        count = sum(p.numel() for p in ResNetSeg(depth=depth).parameters())
    backbone, channels = BACKBONES[depth]
    head = 128 * channels + 2 * 128 + 128 * 5 + 5  # without a bias before the batch norm
    exist = 4500 * 128 + 128 + 128 * 4 + 4
    assert count == backbone + head + exist
    if depth in (18, 34):
        assert round(count / 1e6, 1) == {18: 11.8, 34: 21.9}[depth]


def test_network_equals_its_parts():
    net = ResNetSeg(input_size=(36, 50)).eval()
    backbone = ResNet(18).eval()
    backbone.load_state_dict({name: value for name, value in net.state_dict().items()
                              if name.startswith(('stem', 'stage'))})
    images = torch.randn(2, 3, 36, 50)
    with torch.no_grad(), record(net, dict(head_input='head_input')) as taps:
        out = net(dict(images=images))
        feats = backbone(images)[-1]
        coarse = net.classifier[1](net.reduce(feats))
        pooled = F.avg_pool2d(coarse.softmax(1), 2).flatten(1)
        assert coarse.shape == (2, 5, 5, 7)
        torch.testing.assert_close(taps['head_input'], net.reduce(feats))
        torch.testing.assert_close(out['logits'], F.interpolate(coarse, (36, 50), mode='bilinear'))
        torch.testing.assert_close(out['exist_logits'], net.exist.classifier(pooled))


@pytest.mark.parametrize(('depth', 'factor'), [(18, 1), (101, 4)])
def test_taps(depth, factor):
    with torch.device('meta'):
        net = ResNetSeg(depth=depth, input_size=(32, 48), num_lanes=0, num_classes=37).eval()
        images = torch.zeros(2, 3, 32, 48)
    taps = ('stage1', 'stage2', 'stage3', 'stage4', 'head_input', 'logits')
    with torch.no_grad(), record(net, {name: name for name in taps}) as out:
        net(dict(images=images))
    assert {name: tuple(value.shape) for name, value in out.items()} == dict(
        stage1=(2, 64 * factor, 8, 12), stage2=(2, 128 * factor, 4, 6), stage3=(2, 256 * factor, 4, 6),
        stage4=(2, 512 * factor, 4, 6), head_input=(2, 128, 4, 6), logits=(2, 37, 32, 48))


@pytest.mark.parametrize('half', [False, True])
def test_every_weight_learns(half):
    torch.manual_seed(0)
    net = ResNetSeg(input_size=(32, 48)).train()
    inputs = dict(images=torch.randn(2, 3, 32, 48), labels=torch.randint(0, 5, (2, 32, 48)), exist=torch.ones(2, 4))
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        losses = net(inputs, mode='loss')
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]


def test_unknown_depth_is_refused():
    with pytest.raises(ConfigError, match='ResNet: depth=20'):
        ResNetSeg(depth=20)


def test_onnx_runtime_gives_the_same(exported, shuffled, tmp_path):
    net = shuffled(ResNetSeg(input_size=(32, 44)))
    images = torch.randn(2, 3, 32, 44)
    with torch.no_grad():
        out = net(dict(images=images))
    for ours, theirs in zip(out.values(), exported(net, images, tmp_path / 'resnet.onnx')):
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-4, atol=1e-4)
