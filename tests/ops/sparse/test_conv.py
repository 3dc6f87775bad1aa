"""Sparse convolutions against dense ones, values and gradients."""
import pytest
import torch
import torch.nn.functional as F

from perception.ops.sparse.functional import count_macs, sparse_conv
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.errors import ConfigError, DataError

GRID = (7, 6, 5)


def random_coords(num, grid=GRID, batch=2, seed=0, shuffled=False):
    """Unique cells, all corners of the first sample among them, sorted unless shuffled."""
    generator = torch.Generator().manual_seed(seed)
    cells = batch * grid[0] * grid[1] * grid[2]
    keys = torch.randperm(cells, generator=generator)[:num]
    keys = keys if shuffled else keys.sort().values
    columns = []
    for dim in reversed(grid):
        columns.append(keys % dim)
        keys = keys // dim
    return torch.stack((keys, *reversed(columns)), 1)


def tensor(num=70, channels=3, dtype=torch.float64, **kwargs):
    coords = random_coords(num, **kwargs)
    feats = torch.randn(len(coords), channels, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return SparseTensor(feats.requires_grad_(), coords, GRID, 2)


def at(dense, coords):
    batch, i, j, k = coords.unbind(1)
    return dense.permute(0, 2, 3, 4, 1)[batch, i, j, k]


@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize(('kernel', 'dilation'), [(3, 1), ((3, 1, 3), 1), ((1, 3, 3), 1), ((1, 1, 3), 1), (5, 1), (1, 1),
                                                  (3, 2), ((3, 5, 1), (2, 1, 1))])
def test_submanifold_equals_dense(kernel, dilation, shuffled):
    x = tensor(shuffled=shuffled)
    layer = SubMConv3d(3, 4, kernel, dilation, bias=True).double()
    y = layer(x)
    padding = [d * (k // 2) for d, k in zip(layer.dilation, layer.kernel_size)]
    dense = F.conv3d(x.dense(), layer.weight.permute(0, 4, 1, 2, 3), layer.bias, padding=padding, dilation=layer.dilation)
    torch.testing.assert_close(y.feats, at(dense, x.voxel_coords), rtol=1e-12, atol=1e-12)
    assert y.voxels is x.voxels
    check_gradients(y.feats, at(dense, x.voxel_coords), x.feats, layer)


def check_gradients(ours, dense, *leaves):
    leaves = [leaf for item in leaves for leaf in ([item] if isinstance(item, torch.Tensor) else item.parameters())]
    seed = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(2))
    for a, b in zip(torch.autograd.grad(ours, leaves, seed), torch.autograd.grad(dense, leaves, seed)):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize(('kernel', 'stride', 'padding', 'dilation'), [
    (3, 2, 1, 1), (3, (2, 2, 1), 1, 1), (2, 2, 0, 1), (3, 1, 1, 1), (3, 2, 2, 2), ((3, 1, 2), (3, 1, 2), (1, 0, 1), 1),
    (1, 2, 0, 1)])
def test_strided_and_inverse_equal_dense(kernel, stride, padding, dilation, shuffled):
    x = tensor(shuffled=shuffled)
    down = SparseConv3d(3, 4, kernel, stride, padding, dilation, name='down').double()
    up = SparseInverseConv3d(4, 2, 'down', down.kernel_size, bias=True).double()
    y = down(x)
    z = up(y)
    conv = dict(stride=down.geometry.stride, padding=down.geometry.padding, dilation=down.geometry.dilation)
    dense = F.conv3d(x.dense(), down.weight.permute(0, 4, 1, 2, 3), **conv)
    assert y.grid_shape == tuple(dense.shape[2:])
    touched = F.conv3d(x.replace(torch.ones(len(x.feats), 1, dtype=torch.float64)).dense(),
                       torch.ones(1, 1, *down.kernel_size, dtype=torch.float64), **conv)[:, 0]
    assert torch.equal(y.voxel_coords, touched.nonzero())
    torch.testing.assert_close(y.feats, at(dense, y.voxel_coords), rtol=1e-12, atol=1e-12)
    full = [(o - 1) * s - 2 * p + d * (k - 1) + 1 for o, s, p, d, k in zip(
        y.grid_shape, conv['stride'], conv['padding'], conv['dilation'], down.kernel_size)]
    rest = [g - f for g, f in zip(GRID, full)]
    back = F.conv_transpose3d(dense, up.weight.permute(4, 0, 1, 2, 3), up.bias, output_padding=[max(r, 0) for r in rest],
                              **conv) if all(r < max(s, d) for r, s, d in zip(rest, conv['stride'], conv['dilation'])) \
        else pytest.fail('the dense layer cannot reach this grid')
    torch.testing.assert_close(z.feats, at(back, x.voxel_coords), rtol=1e-12, atol=1e-12)
    assert z.voxels is x.voxels
    check_gradients(z.feats, at(back, x.voxel_coords), x.feats, down, up)
