"""Message passing against the original's outputs and a form that writes into the map, and the network by hand."""
import pytest
import torch
import torch.nn.functional as F

from perception.distill.taps import record
from perception.lanes.models.scnn import SCNN, MessagePassing
from perception.utils.errors import ConfigError, DataError

DIRECTIONS = ('down', 'up', 'right', 'left')


def in_place(x, weights):
    """Every slice is written into the map, as public implementations do."""
    x = x.clone()
    (height, width), half = x.shape[2:], weights['down'].shape[2] // 2
    for i in range(1, height):
        x[:, :, i] += F.relu(F.conv1d(x[:, :, i - 1].clone(), weights['down'], padding=half))
    for i in range(height - 2, -1, -1):
        x[:, :, i] += F.relu(F.conv1d(x[:, :, i + 1].clone(), weights['up'], padding=half))
    for i in range(1, width):
        x[:, :, :, i] += F.relu(F.conv1d(x[:, :, :, i - 1].clone(), weights['right'], padding=half))
    for i in range(width - 2, -1, -1):
        x[:, :, :, i] += F.relu(F.conv1d(x[:, :, :, i + 1].clone(), weights['left'], padding=half))
    return x


def close(ours, theirs, tolerance=1e-5):
    ours = ours.detach()
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def test_message_passing_equals_the_original(golden):
    """Outputs and gradients; the horizontal passes have kernels of 9 x 1 there."""
    arrays = golden('scnn_A')
    module = MessagePassing(8)
    with torch.no_grad():
        for direction in DIRECTIONS:
            getattr(module, direction).copy_(arrays[f'weight_{direction[0]}'].flatten(2))
    x = arrays['input'].requires_grad_()
    out = module(x)
    close(out, arrays['output_full'])
    (out * arrays['cotangent']).sum().backward()
    close(x.grad, arrays['output_full_grad_input'])
    for direction in DIRECTIONS:
        close(getattr(module, direction).grad, arrays[f'output_full_grad_weight_{direction[0]}'].flatten(2))


@pytest.mark.parametrize('silent', [(), ('up', 'right', 'left'), ('right', 'left'), ('left',)])
def test_single_passes_equal_the_original(golden, silent):
    arrays = golden('scnn_A')
    module = MessagePassing(8)
    with torch.no_grad():
        for direction in DIRECTIONS:
            getattr(module, direction).copy_(arrays[f'weight_{direction[0]}'].flatten(2) * (direction not in silent))
        last = 'durl'[3 - len(silent)]
        close(module(arrays['input']), arrays[f'after_{last}'])


@pytest.mark.parametrize(('shape', 'kernel'), [((2, 6, 5, 9), 9), ((1, 3, 1, 4), 3), ((3, 4, 4, 1), 1)])
@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason='no GPU here'))])
def test_message_passing_equals_the_form_in_place(shape, kernel, device):
    torch.manual_seed(0)
    module = MessagePassing(shape[1], kernel).double().to(device)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=.3)
    x = torch.randn(shape, dtype=torch.double, device=device)
    before = x.clone()
    slow = in_place(x, dict(module.named_parameters()))
    torch.testing.assert_close(module(x), slow)
    assert torch.equal(x, before)
    weights = list(module.parameters())
    pull = torch.randn_like(slow)
    ours, theirs = (torch.autograd.grad((out * pull).sum(), weights, materialize_grads=True) for out in
                    (module(x), slow))
    torch.testing.assert_close(ours, theirs)


def test_initial_weights_are_small_as_published():
    weights = torch.stack(list(MessagePassing(128).parameters()))
    assert float(weights.std()) == pytest.approx((2 / (9 * 128 * 128 * 5)) ** .5, rel=.01)


def test_an_even_kernel_is_refused():
    with pytest.raises(ConfigError, match='MessagePassing: kernel=8, expected an odd number'):
        MessagePassing(4, 8)


def test_number_of_parameters():
    """20.72 M in the paper of SAD."""
    with torch.device('meta'):
        counts = {name: sum(p.numel() for p in SCNN(backbone=name).parameters()) for name in ('vgg16', 'resnet18')}
    vgg = 14_723_136  # of VGG-16's convolutions with batch norm
    neck = 512 * 1024 * 9 + 2 * 1024 + 1024 * 128 + 2 * 128
    message, head, exist = 4 * 9 * 128 * 128, 128 * 5 + 5, 4500 * 128 + 128 + 128 * 4 + 4
    assert counts['vgg16'] == vgg + neck + message + head + exist
    assert round(counts['vgg16'] / 1e6, 1) == 20.7
    assert counts['resnet18'] == 11_176_512 + 512 * 128 + 2 * 128 + message + head + exist


@pytest.mark.parametrize('backbone', ['vgg16', 'resnet18'])
def test_network_equals_its_parts(backbone, shuffled):
    torch.manual_seed(0)
    net = shuffled(SCNN(input_size=(32, 48), backbone=backbone))
    images = torch.randn(2, 3, 32, 48)
    taps = dict(stage1='stage1', stage2='stage2', stage3='stage3', neck='neck', head_input='head_input')
    with torch.no_grad(), record(net, taps) as out:
        result = net(dict(images=images))
        x = in_place(out['neck'], dict(net.message.named_parameters()))
        coarse = net.classifier[1](x)
    torch.testing.assert_close(out['head_input'], x)
    assert out['stage1'].shape[2:] == (8, 12)
    assert all(out[name].shape[2:] == (4, 6) for name in ('stage2', 'stage3', 'neck'))
    close(result['logits'], F.interpolate(coarse, (32, 48), mode='bilinear', align_corners=True))
    pooled = F.avg_pool2d(coarse.softmax(1), 2).flatten(1)
    torch.testing.assert_close(result['exist_logits'], net.exist.classifier(pooled))


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('backbone', ['vgg16', 'resnet18'])
def test_every_weight_learns(backbone, half):
    torch.manual_seed(0)
    net = SCNN(input_size=(32, 48), backbone=backbone).train()
    inputs = dict(images=torch.randn(2, 3, 32, 48), labels=torch.randint(0, 5, (2, 32, 48)), exist=torch.ones(2, 4))
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        losses = net(inputs, mode='loss')
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not [name for name, p in net.named_parameters() if p.dim() > 1 and not p.grad.any()]


def test_wrong_arguments_and_sizes_are_refused():
    with pytest.raises(ConfigError, match="SCNN: backbone='vgg', expected one of.*Did you mean vgg16"):
        SCNN(backbone='vgg')
    net = SCNN(input_size=(32, 48), num_lanes=0, backbone='resnet18')
    with pytest.raises(DataError, match='30 x 48 pixels, expected multiples of 8'):
        net(dict(images=torch.zeros(1, 3, 30, 48)))
