"""Sparse convolutions against dense ones: values, gradients, borders, errors."""
import pytest
import torch
import torch.nn.functional as F

from perception.ops.sparse.functional import count_macs, sparse_conv
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.errors import ConfigError, DataError

GRID = (7, 6, 5)
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


def tensor(share=0.3, channels=3, dtype=torch.float64, shuffled=False, device='cpu'):
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, *GRID, generator=generator) < share).nonzero()
    if shuffled:
        coords = coords[torch.randperm(len(coords), generator=generator)]
    feats = torch.randn(len(coords), channels, dtype=dtype, generator=generator).to(device)
    return SparseTensor(feats.requires_grad_(), coords.to(device), GRID, 2)


def at(dense, coords):
    batch, i, j, k = coords.unbind(1)
    return dense.permute(0, 2, 3, 4, 1)[batch, i, j, k]


def check_gradients(ours, dense, *leaves):
    leaves = [leaf for item in leaves for leaf in ([item] if isinstance(item, torch.Tensor) else item.parameters())]
    seed = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(2)).to(ours.device)
    for a, b in zip(torch.autograd.grad(ours, leaves, seed), torch.autograd.grad(dense, leaves, seed)):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize(('kernel', 'dilation'), [
    (3, 1), ((3, 1, 3), 1), ((1, 3, 3), 1), ((1, 1, 3), 1), (5, 1), (1, 1), (3, 2), ((3, 5, 1), (2, 1, 1))])
def test_submanifold_equals_dense(kernel, dilation, shuffled, device):
    x = tensor(shuffled=shuffled, device=device)
    layer = SubMConv3d(3, 4, kernel, dilation, bias=True).double().to(device)
    y = layer(x)
    padding = [d * (k // 2) for d, k in zip(layer.dilation, layer.kernel_size)]
    dense = F.conv3d(x.dense(), layer.weight.permute(0, 4, 1, 2, 3), layer.bias, padding=padding,
                     dilation=layer.dilation)
    torch.testing.assert_close(y.feats, at(dense, x.voxel_coords), rtol=1e-12, atol=1e-12)
    assert y.voxels is x.voxels
    check_gradients(y.feats, at(dense, x.voxel_coords), x.feats, layer)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize(('kernel', 'stride', 'padding', 'dilation'), [
    (3, 2, 1, 1), (3, (2, 2, 1), 1, 1), (2, 2, 0, 1), (3, 1, 1, 1), (3, 2, 2, 2), ((3, 1, 2), (3, 1, 2), (1, 0, 1), 1),
    (1, 2, 0, 1)])
def test_strided_and_inverse_equal_dense(kernel, stride, padding, dilation, shuffled, device):
    x = tensor(shuffled=shuffled, device=device)
    down = SparseConv3d(3, 4, kernel, stride, padding, dilation, name='down').double().to(device)
    up = SparseInverseConv3d(4, 2, 'down', down.kernel_size, bias=True).double().to(device)
    y = down(x)
    z = up(y)
    conv = dict(stride=down.geometry.stride, padding=down.geometry.padding, dilation=down.geometry.dilation)
    dense = F.conv3d(x.dense(), down.weight.permute(0, 4, 1, 2, 3), **conv)
    assert y.grid_shape == tuple(dense.shape[2:])
    ones = x.replace(torch.ones(len(x.feats), 1, dtype=torch.float64, device=device)).dense()
    touched = F.conv3d(ones, torch.ones(1, 1, *down.kernel_size, dtype=torch.float64, device=device), **conv)[:, 0]
    assert torch.equal(y.voxel_coords, touched.nonzero())
    torch.testing.assert_close(y.feats, at(dense, y.voxel_coords), rtol=1e-12, atol=1e-12)
    covered = [(o - 1) * s - 2 * p + d * (k - 1) + 1 for o, s, p, d, k in zip(
        y.grid_shape, conv['stride'], conv['padding'], conv['dilation'], down.kernel_size)]
    back = F.conv_transpose3d(dense, up.weight.permute(4, 0, 1, 2, 3), up.bias, **conv,
                              output_padding=[grid - size for grid, size in zip(GRID, covered)])
    torch.testing.assert_close(z.feats, at(back, x.voxel_coords), rtol=1e-12, atol=1e-12)
    assert z.voxels is x.voxels
    check_gradients(z.feats, at(back, x.voxel_coords), x.feats, down, up)


@pytest.mark.parametrize('kind', ['subm', 'strided', 'inverse'])
def test_gradcheck(kind):
    x = tensor(share=0.08, channels=2)
    down = SparseConv3d(2, 3, 3, 2, 1, name='down').double()
    if kind == 'subm':
        kernel_map, cin = x.voxels.subm_map((3, 3, 3), (1, 1, 1)), 2
    else:
        kernel_map, cin = x.voxels.strided_map(down.geometry)[1], 2
        kernel_map = kernel_map.transposed() if kind == 'inverse' else kernel_map
    feats = torch.randn(kernel_map.num_in, cin, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, cin, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, w, b: sparse_conv(a, w, kernel_map, b), (feats, weight, bias),
                                    fast_mode=True)
    value = sparse_conv(feats, weight, kernel_map)
    first, = torch.autograd.grad(value.square().sum(), feats, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        first.sum().backward()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('num', [0, 1])
def test_empty_input_and_a_single_voxel(num, dtype):
    coords = torch.tensor([[1, 6, 5, 4]])[:num]
    feats = torch.randn(num, 3, dtype=dtype, requires_grad=True)
    x = SparseTensor(feats, coords, GRID, 2)
    subm, down = SubMConv3d(3, 4, 3, bias=True).to(dtype), SparseConv3d(4, 5, 3, 2, 1, name='down').to(dtype)
    up = SparseInverseConv3d(5, 2, 'down').to(dtype)
    y = subm(x)
    z = up(down(y))
    assert z.feats.shape == (num, 2)
    z.feats.sum().backward()
    assert feats.grad.shape == feats.shape
    for layer in (subm, down, up):
        assert layer.weight.grad.isfinite().all()
        assert num or not layer.weight.grad.any()
    if num:
        expected = feats @ subm.weight[:, 1, 1, 1].t() + subm.bias
        torch.testing.assert_close(y.feats, expected, rtol=2e-2, atol=2e-2)


def test_a_strided_layer_that_drops_everything():
    x = SparseTensor(torch.ones(1, 2, requires_grad=True), torch.tensor([[0, 1, 1, 1]]), GRID, 2)
    down, up = SparseConv3d(2, 3, 1, 2, name='down'), SparseInverseConv3d(3, 2, 'down', 1, bias=True)
    y = down(x)
    assert len(y.feats) == 0
    z = up(y)
    torch.testing.assert_close(z.feats, up.bias.expand(1, 2))
    z.feats.sum().backward()
    assert not x.feats.grad.any()


def test_gradients_only_where_needed():
    x = tensor()
    layer = SubMConv3d(3, 4, 3).double().requires_grad_(False)
    layer(x).feats.sum().backward()
    assert layer.weight.grad is None
    frozen = x.replace(x.feats.detach())
    assert not layer(frozen).feats.requires_grad
    layer.requires_grad_()
    layer(frozen).feats.sum().backward()
    assert layer.weight.grad.any()


def test_a_name_with_another_geometry_is_refused():
    x = tensor()
    SparseConv3d(3, 4, 3, 2, 1, name='down').double()(x)
    SparseConv3d(3, 4, 3, 2, 1, name='down').double()(x)
    with pytest.raises(ConfigError, match=r"'down' is used for .*stride=\(2, 2, 1\).* and for .*stride=\(2, 2, 2\)"):
        SparseConv3d(3, 4, 3, (2, 2, 1), 1, name='down').double()(x)


def test_inverse_layers_find_their_level():
    x = tensor()
    y = SparseConv3d(3, 4, 3, 2, 1, name='down1').double()(x)
    z = SparseConv3d(4, 4, 3, 2, 1, name='down2').double()(y)
    with pytest.raises(ConfigError, match='Did you mean down1'):
        SparseInverseConv3d(4, 4, 'dwon1').double()(y)
    with pytest.raises(ConfigError, match="output voxels of 'down1'"):
        SparseInverseConv3d(4, 4, 'down1').double()(z)
    with pytest.raises(ConfigError, match=r'expected \(3, 3, 3\)'):
        SparseInverseConv3d(4, 4, 'down1', kernel_size=2).double()(y)


@pytest.mark.parametrize(('build', 'message'), [
    (lambda: SubMConv3d(3, 4, 2), 'expected odd sizes'), (lambda: SubMConv3d(3, 4, (3, 3)), 'one integer or three'),
    (lambda: SubMConv3d(0, 4, 3), 'in_channels 0'),
    (lambda: SubMConv3d(3, 4, 3, dilation=0), 'dilations of at least 1'),
    (lambda: SparseConv3d(3, 4, 3, stride=0), 'stride'), (lambda: SparseConv3d(3, 4, 3, padding=-1), 'padding'),
    (lambda: SparseConv3d(3, 4, 9)(tensor(dtype=torch.float32)), 'at least one cell per axis')])
def test_impossible_layers_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_features_must_fit_weight_and_map():
    x = tensor()
    with pytest.raises(DataError, match='Check in_channels'):
        SubMConv3d(5, 4, 3).double()(x)
    with pytest.raises(ConfigError, match='27 offsets'):
        sparse_conv(x.feats, torch.zeros(4, 1, 3, 3, 3, dtype=torch.float64), x.voxels.subm_map((3, 3, 3), (1, 1, 1)))


def test_macs_are_counted_by_pairs():
    x = SparseTensor(torch.zeros(3, 2), torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]), GRID, 2)
    with count_macs() as count:
        y = SubMConv3d(2, 5, 3, bias=True)(x)  # three centres and two neighbours
        SparseInverseConv3d(7, 3, 'down')(SparseConv3d(5, 7, 3, 2, 1, name='down')(y))  # cells 0, 0, 0 and 0, 0, 1 of z
    assert count.layers == [(5, 2, 5), (4, 5, 7), (4, 7, 3)]
    assert count.total == 5 * 10 + 4 * 35 + 4 * 21
    SubMConv3d(2, 5, 3)(x)
    assert len(count.layers) == 3, 'nothing is counted outside the block'
