"""Every backend of the folder gives the values of the torch backend."""
import copy

import pytest
import torch

from perception.ops.sparse import functional
from perception.ops.sparse.functional import backend_names, set_backend, sparse_conv
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.errors import ConfigError, MissingDependency

GRID = (6, 5, 4)
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


@pytest.fixture(autouse=True)
def torch_again():
    """Each test starts and ends with the default, on one thread (spconv's CPU path races with itself)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    set_backend('auto')
    torch.set_num_threads(threads)


def use(name):
    try:
        set_backend(name)
    except MissingDependency as error:
        pytest.skip(str(error))


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(SubMConv3d(16, 16, 3, bias=True), SparseConv3d(16, 32, 3, 2, 1, name='down'),
                               SubMConv3d(32, 32, (3, 1, 3)), SparseInverseConv3d(32, 16, 'down'))


def tensor(device='cpu'):
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, *GRID, generator=generator) < 0.3).nonzero()
    return SparseTensor(torch.randn(len(coords), 16, generator=generator).to(device), coords.to(device), GRID, 2)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', backend_names())
def test_values_of_every_backend(name, device):
    model, x = net().to(device).eval(), tensor(device)
    with torch.no_grad():
        expected = model(x).feats
        use(name)
        torch.testing.assert_close(model(x).feats, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', backend_names())
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here; spconv has no gradients on a CPU')
def test_gradients_of_every_backend(name):
    grads = []
    for backend in ('torch', name):
        use(backend)
        model, x = net().cuda(), tensor('cuda')
        model(x.replace(x.feats.requires_grad_())).feats.square().sum().backward()
        grads.append([x.feats.grad] + [p.grad for p in model.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('device', DEVICES)
def test_values_against_spconvs_own_layers_and_maps(device):
    spconv = pytest.importorskip('spconv.pytorch', reason='spconv is not installed')
    options = dict(bias=False, algo=spconv.ConvAlgo.Native if device == 'cpu' else None)  # a CPU has no other
    model, x = net().to(device).eval(), tensor(device)
    theirs = [spconv.SubMConv3d(16, 16, 3, indice_key='a', **options),
              spconv.SparseConv3d(16, 32, 3, 2, 1, indice_key='down', **options),
              spconv.SubMConv3d(32, 32, (3, 1, 3), indice_key='b', **options),
              spconv.SparseInverseConv3d(32, 16, 3, indice_key='down', **options)]
    y = spconv.SparseConvTensor(x.feats, x.voxel_coords.int(), list(GRID), 2)
    with torch.no_grad():
        for ours, layer in zip(model, theirs):
            layer.to(device).eval().weight.copy_(ours.weight)  # mmdet3d turns weights that spconv loads
            x, y = ours(x), layer(y)
            if ours.bias is not None:
                y = y.replace_feature(y.features + ours.bias)
            rows = torch.argsort((y.indices.long() * torch.tensor([10**6, 10**4, 100, 1], device=device)).sum(1))
            assert torch.equal(y.indices[rows].long(), x.voxel_coords)
            torch.testing.assert_close(x.feats, y.features[rows], rtol=1e-4, atol=1e-5)


def test_what_spconv_cannot_do_is_said():
    use('spconv')
    x, layer = tensor(), SubMConv3d(16, 16, 3)
    with pytest.raises(ConfigError, match='which has none there'):
        layer(x).feats.sum().backward()
    with pytest.raises(ConfigError, match='Algorithms belong to'):
        sparse_conv(x.feats, layer.weight, x.voxels.subm_map((3, 3, 3), (1, 1, 1)), algorithm='pairs')
    with pytest.raises(ConfigError, match=r'float64.* on cpu'):
        copy.deepcopy(layer).double()(x.replace(x.feats.double()))
    torch.set_num_threads(2)
    with torch.no_grad(), pytest.raises(ConfigError, match='2 threads on a CPU .* expected one'):
        layer(x)


def test_backends_are_chosen_by_name():
    assert set(functional.ON_CUDA) == set(backend_names())
    with pytest.raises(ConfigError, match='Did you mean torch'):
        set_backend('torc')
    set_backend('torch')
    assert functional._backend.__name__.endswith('backends.torch')
