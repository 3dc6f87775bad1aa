"""Against dense convolutions that are masked by the voxels, and the shapes of mmdet3d's published weights."""
import json

import pytest
import torch
import torch.nn.functional as F

from perception.common.nets.sparse_encoder import SparseBlock, SparseEncoder, SparseLayer
from perception.ops.sparse.modules import SubMConv3d
from perception.utils.errors import ConfigError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
RANGE, VOXEL = (0, 0, 0, 8, 12, 10), (1, 1, 1)  # 8 x 12 x 10 voxels


def small(**options):
    torch.manual_seed(0)
    options = dict(channels=(3, 4, 5), blocks=1, paddings=(1, 1), last_channels=6) | options
    return SparseEncoder(4, RANGE, VOXEL, **options)


def scan(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 4, generator=generator) * torch.tensor([9, 12, 10, 1])  # some beyond the range


def dense_layer(x, mask, conv, norm):
    """(B, Cin, ...) dense features and (B, 1, ...) voxels after a layer without its activation."""
    weight = conv.weight.permute(0, 4, 1, 2, 3)
    if isinstance(conv, SubMConv3d):
        out = F.conv3d(x, weight, padding=[k // 2 for k in conv.kernel_size])
    else:
        stride, padding = conv.geometry.stride, conv.geometry.padding
        out = F.conv3d(x, weight, stride=stride, padding=padding)
        mask = (F.conv3d(mask, torch.ones(1, 1, *conv.kernel_size), stride=stride, padding=padding) > 0).float()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    return (out * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1)) * mask, mask


def dense_module(x, mask, module):
    if isinstance(module, SparseLayer):
        x, mask = dense_layer(x, mask, *module)
        return x.relu(), mask
    if isinstance(module, SparseBlock):
        out, _ = dense_layer(x, mask, module.conv1, module.bn1)
        out, _ = dense_layer(out.relu(), mask, module.conv2, module.bn2)
        return (out + x).relu(), mask
    for child in module:
        x, mask = dense_module(x, mask, child)
    return x, mask


@torch.no_grad()
def test_maps_are_those_of_masked_dense_convolutions():
    net = small().eval()
    for norm in (module for module in net.modules() if hasattr(module, 'running_mean')):
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.uniform_(-1, 1)
        norm.running_var.uniform_(.5, 2)
    scans = [scan(), scan(9, seed=1)]
    voxels = net.voxelise(scans)
    x, mask = voxels.dense(), voxels.replace(torch.ones(len(voxels.feats), 1)).dense()
    for module in (net.conv_input, net.encoder_layers, net.conv_out):
        x, mask = dense_module(x, mask, module)
    out = net(scans)
    assert tuple(out.shape) == (2, net.out_channels, 3, 2) == (2, 6, 3, 2)
    torch.testing.assert_close(out, x.flatten(1, 2), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('device', DEVICES)
def test_maps_on_each_device(device):
    net, scans = small().eval(), [scan(), torch.zeros(0, 4)]
    wanted = net(scans)
    assert bool((wanted[0] != 0).any())
    out = net.to(device)([points.to(device) for points in scans])
    torch.testing.assert_close(out.cpu(), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_autocast_does_not_round_coordinates():
    """The first layer gives what it gives without, the others work in half precision."""
    net, seen = small().eval(), []
    net.conv_input.register_forward_hook(lambda module, inputs, out: seen.append(out.feats))
    wanted = net([scan()])
    with torch.autocast('cpu', torch.bfloat16):
        out = net([scan()])
    assert torch.equal(*seen) and out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wanted, rtol=.05, atol=.05)


def test_a_voxel_is_the_mean_of_all_its_points():
    points = torch.tensor([[2.5, 3.5, 9.5, 1.], [2.7, 3.1, 9.1, 3.], [2.5, 3.5, 9.5, 8.], [-1, 0, 0, 1]])
    voxels = small().voxelise([points[3:], points])
    assert voxels.voxel_coords.tolist() == [[1, 9, 3, 2]] and voxels.grid_shape == (11, 12, 8)
    torch.testing.assert_close(voxels.feats[0], points[:3].mean(0))


@pytest.mark.parametrize(('name', 'extent', 'voxel'), [
    ('voxel01', (-51.2, -51.2, -5, 51.2, 51.2, 3), (.1, .1, .2)),
    ('voxel0075', (-54, -54, -5, 54, 54, 3), (.075, .075, .2))])
def test_published_weights_fit(shared, name, extent, voxel):
    shapes = json.loads((shared / 'goldens/detection/pillar_second_state_dict_shapes_A.json').read_text())
    with torch.device('meta'):
        net = SparseEncoder(5, extent, voxel)
    prefix = 'pts_middle_encoder.'
    wanted = shapes[f'centerpoint_{name}_second_secfpn_8xb4-cyclic-20e_nus-3d']
    assert {prefix + key: list(value.shape) for key, value in net.state_dict().items()} == {
        key: value for key, value in wanted.items() if key.startswith(prefix)}
    assert (net.grid_shape[0], net.stride, net.out_channels) == (41, 8, 256)


def test_empty_scans_and_single_points_train():
    net = small()
    for batch in ([torch.zeros(0, 4)], [torch.zeros(0, 4), scan(1)], [scan()] * 2):
        net.zero_grad()
        out = net(batch)
        assert tuple(out.shape) == (len(batch), 6, 3, 2)
        out.square().sum().backward()
        assert all(bool(p.grad is None or p.grad.isfinite().all()) for p in net.parameters())
    assert bool((net.conv_input[0].weight.grad != 0).any())


@pytest.mark.parametrize(('options', 'message'), [
    (dict(paddings=(1,)), '3 stages with 1 paddings'), (dict(channels=(3, 4, 5, 6), paddings=(1, 1, 1)), '8 x 12'),
    (dict(paddings=((0, 1, 1), (0, 1, 1))), 'of which 2 remain')])
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        small(**options)
