"""Every algorithm gives the same sums; the rule, bfloat16, kept copies and scratch memory behave."""
import threading

import pytest
import torch

from perception.ops.sparse.backends import torch as backend
from perception.ops.sparse.functional import sparse_conv
from perception.ops.sparse.maps import Geometry, KernelMap, VoxelSet
from perception.ops.sparse.modules import SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.ops.sparse.workspace import scratch
from perception.utils.errors import ConfigError

GRID = (9, 8, 6)
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
KINDS = ['subm', 'subm131', 'strided', 'inverse']
CASES = [(kind, name) for kind in KINDS for name in backend.ALGORITHMS if kind == 'inverse' or name != 'classes']


def make_map(kind, shuffled=False, share=0.3, device='cpu'):
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, *GRID, generator=generator) < share).nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)] if shuffled else coords
    voxels = VoxelSet(coords.to(device), GRID, 2)
    if kind.startswith('subm'):
        return voxels.subm_map((3, 1, 3) if kind == 'subm131' else (3, 3, 3), (1, 1, 1))
    kernel_map = voxels.strided_map(Geometry((3, 3, 3), (2, 2, 1), (1, 1, 1)))[1]
    return kernel_map.transposed() if kind == 'inverse' else kernel_map


def operands(kernel_map, dtype=torch.float64, cin=5, cout=36, device='cpu'):
    generator = torch.Generator().manual_seed(1)
    kernel = (3, 1, 3) if kernel_map.volume == 9 else (3, 3, 3)
    x = torch.randn(kernel_map.num_in, cin, generator=generator, dtype=torch.float64)
    weight = torch.randn(cout, *kernel, cin, generator=generator, dtype=torch.float64) / (cin * kernel_map.volume)**0.5
    return x.to(device, dtype), weight.to(device, dtype)


def one_by_one(x, weight, kernel_map):
    """Sum of products, pair by pair."""
    out = x.new_zeros(kernel_map.num_out, len(weight))
    slices = weight.flatten(1, 3)
    for k, (ins, outs) in enumerate(zip(kernel_map.in_rows, kernel_map.out_rows)):
        for i, o in zip(ins.tolist(), outs.tolist()):
            out[o] += slices[:, k] @ x[i]
    return out


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize('small', [False, True], ids=['whole', 'cut'])
@pytest.mark.parametrize(('kind', 'algorithm'), CASES)
def test_all_algorithms_agree(monkeypatch, kind, algorithm, small, shuffled, device):
    if small:  # forces several slabs, column blocks and tiles
        for name in ('SLAB_BYTES', 'BLOCK_BYTES', 'TILE_BYTES'):
            monkeypatch.setattr(backend, name, 20_000)
    kernel_map = make_map(kind, shuffled, device=device)
    x, weight = operands(kernel_map, device=device)
    expected = one_by_one(x, weight, kernel_map)
    out = sparse_conv(x, weight, kernel_map, algorithm=algorithm)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    single = sparse_conv(x.float(), weight.float(), kernel_map, algorithm=algorithm)
    assert (single - expected).norm() <= 1e-6 * expected.norm()
    if device == 'cpu':
        again = sparse_conv(x.float(), weight.float(), kernel_map, algorithm=algorithm)
        assert torch.equal(single, again), 'the same bits twice'


@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize(('kind', 'algorithm'), CASES)
def test_all_algorithms_have_the_reference_gradients(kind, algorithm, shuffled):
    kernel_map = make_map(kind, shuffled)
    x, weight = (t.requires_grad_() for t in operands(kernel_map))
    seed = torch.randn(kernel_map.num_out, len(weight), dtype=torch.float64)
    expected = torch.autograd.grad(sparse_conv(x, weight, kernel_map), (x, weight), seed)
    found = torch.autograd.grad(sparse_conv(x, weight, kernel_map, algorithm=algorithm), (x, weight), seed)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('cut', [False, True])
@pytest.mark.parametrize('shuffled', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_small_maps_have_the_gradients_of_the_loop_over_offsets(monkeypatch, kind, shuffled, cut):
    if cut:
        monkeypatch.setattr(backend, 'TILE_BYTES', 20_000)
    kernel_map = make_map(kind, shuffled)
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 4e-6)):
        x, weight = operands(kernel_map, dtype)
        grad = torch.randn(kernel_map.num_out, len(weight), dtype=dtype)
        assert backend.is_small(x, len(weight), kernel_map)
        found = backend.backward(x, weight, kernel_map, grad, True, True)
        assert backend.backward(x, weight, kernel_map, grad, False, True)[0] is None
        assert backend.backward(x, weight, kernel_map, grad, True, False)[1] is None
        with monkeypatch.context() as patch:
            patch.setattr(backend, 'SMALL_GATHER', -1)
            looped = backend.backward(x, weight, kernel_map, grad, True, True)
        for a, b in zip(found, looped):
            assert a.shape == b.shape and (a - b).abs().max() <= bound * b.abs().max()


@pytest.mark.parametrize('name', ['fastest', 'classes'])
def test_unknown_algorithms_are_refused(name):
    kernel_map = make_map('subm')
    with pytest.raises(ConfigError, match=f'algorithm {name!r} for a map of kind'):
        sparse_conv(*operands(kernel_map), kernel_map, algorithm=name)


def filled_map(kind, fill, volume=27, rows=4000):
    found = torch.arange(rows, dtype=torch.int32)
    return KernelMap(kind, rows, torch.where(found < int(rows * fill), found, rows).expand(volume, rows))


@pytest.mark.parametrize(('dtype', 'amx', 'kind', 'cin', 'cout', 'fill', 'expected'), [
    (torch.float32, False, 'subm', 64, 64, 0.3, 'pairs'), (torch.float32, False, 'subm', 128, 20, 0.3, 'pairs'),
    (torch.float32, False, 'subm', 128, 256, 0.3, 'pairs'),
    (torch.float32, False, 'strided', 512, 512, 0.5, 'pairs'),
    (torch.float32, False, 'inverse', 256, 256, 0.2, 'classes'),
    (torch.float32, False, 'inverse', 512, 512, 0.2, 'pairs'),
    (torch.float32, True, 'subm', 512, 512, 0.9, 'pairs'),
    (torch.bfloat16, False, 'subm', 512, 512, 0.9, 'pairs'),
    (torch.bfloat16, True, 'subm', 32, 32, 0.4, 'implicit'), (torch.bfloat16, True, 'subm', 64, 128, 0.6, 'implicit'),
    (torch.bfloat16, True, 'subm', 64, 64, 0.3, 'pairs'),
    (torch.bfloat16, True, 'subm', 128, 20, 0.3, 'weight_stationary'),
    (torch.bfloat16, True, 'subm', 512, 512, 0.8, 'weight_stationary'),
    (torch.bfloat16, True, 'strided', 128, 128, 0.3, 'pairs'),
    (torch.bfloat16, True, 'strided', 256, 256, 0.4, 'pairs'),
    (torch.bfloat16, True, 'inverse', 256, 256, 0.2, 'classes'),
    (torch.bfloat16, True, 'inverse', 512, 512, 0.2, 'weight_stationary'),
    (torch.float32, False, 'subm', 256, 256, 0.01, 'implicit'),
    (torch.float32, False, 'subm', 16, 16, 0.3, 'implicit'), (torch.float32, False, 'subm', 16, 24, 0.3, 'pairs'),
    (torch.float32, False, 'inverse', 4, 4, 0.2, 'implicit'), (torch.float32, False, 'inverse', 8, 8, 0.2, 'classes'),
    (torch.bfloat16, False, 'subm', 16, 16, 0.3, 'pairs')])
def test_the_rule(dtype, amx, kind, cin, cout, fill, expected):
    x = torch.zeros(4000, cin, dtype=dtype)
    assert backend.choose(x, cout, filled_map(kind, fill), fast_bfloat16=amx) == expected


def test_kernels_of_one_cell_are_a_plain_product():
    assert backend.choose(torch.zeros(4000, 8), 8, filled_map('subm', 1, volume=1)) == 'offset'


@pytest.mark.parametrize('amx', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_bfloat16_stays_within_its_bounds(monkeypatch, kind, amx):
    monkeypatch.setattr(backend, 'has_fast_bfloat16', lambda: amx)
    kernel_map = make_map(kind, share=0.95)
    x, weight = operands(kernel_map, torch.bfloat16, cin=96, cout=64)
    out = sparse_conv(x, weight, kernel_map)
    assert out.dtype == torch.bfloat16
    expected = sparse_conv(x.double(), weight.double(), kernel_map)
    assert (out.double() - expected).norm() <= 3e-3 * expected.norm()


@pytest.mark.parametrize(('kind', 'algorithm'), CASES)
def test_bfloat16_of_each_algorithm(kind, algorithm):
    kernel_map = make_map(kind, share=0.95)
    x, weight = operands(kernel_map, torch.bfloat16, cin=96, cout=64)
    expected = sparse_conv(x.double(), weight.double(), kernel_map)
    error = (sparse_conv(x, weight, kernel_map, algorithm=algorithm).double() - expected).norm() / expected.norm()
    assert error <= (6e-3 if algorithm == 'offset' else 3e-3)  # `offset` rounds once for each of up to 27 terms


@pytest.mark.parametrize('kind', KINDS)
def test_gradients_under_autocast(kind):
    kernel_map = make_map(kind, share=0.9)
    x, weight = (t.requires_grad_() for t in operands(kernel_map, torch.float32, cin=24, cout=16))
    seed = torch.randn(kernel_map.num_out, 16)
    expected = torch.autograd.grad(sparse_conv(x, weight, kernel_map), (x, weight), seed)
    with torch.autocast('cpu', torch.bfloat16):
        out = sparse_conv(x, weight, kernel_map)
    assert out.dtype == torch.bfloat16
    for a, b in zip(torch.autograd.grad(out, (x, weight), seed.bfloat16()), expected):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 1e-2 * b.norm()
    with torch.autocast('cpu', torch.bfloat16):
        assert sparse_conv(x.double(), weight.double(), kernel_map).dtype == torch.float64, 'float64 is never lowered'


def test_a_weight_counts_as_it_is_however_it_was_changed():
    x = SparseTensor(torch.randn(3, 4), torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 4, 4, 4]]), GRID, 1)
    layer = SubMConv3d(4, 2, 3)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)

    def run():
        with torch.autocast('cpu', torch.bfloat16):
            return layer(x).feats.float()

    first = run()
    run().sum().backward()
    optimiser.step()
    torch.testing.assert_close(run(), layer(x).feats, rtol=3e-2, atol=3e-2)
    assert (run() - first).abs().max() > 0.1
    with torch.no_grad():
        layer.weight.zero_()
    assert not run().any()
    layer.weight.data = torch.ones_like(layer.weight)  # no version counter moves, but the storage does
    assert run().any()
    for change in (lambda data: data.zero_(), lambda data: data.copy_(torch.ones_like(data)),
                   lambda data: data[:].mul_(0)):  # neither version counter nor storage move
        change(layer.weight.data)
        assert bool(run().any()) == bool(layer.weight.any())
    layer.weight.data.fill_(1)
    with torch.inference_mode():
        layer.weight.zero_()
        assert not run().any()


def test_scratch_memory_never_leaks_into_results():
    kernel_map = make_map('subm')
    x, weight = operands(kernel_map, torch.float32)
    with torch.inference_mode():  # scratch born here serves outside too
        kept = {name: sparse_conv(x, weight, kernel_map, algorithm=name)
                for name in backend.ALGORITHMS if name != 'classes'}
    copies = {name: out.clone() for name, out in kept.items()}
    for name in kept:
        sparse_conv(x * 2, weight, kernel_map, algorithm=name)
        scratch('rows', (len(x) * 30, 64), x).fill_(9)
    for name in kept:
        assert torch.equal(kept[name], copies[name])


def test_two_layers_and_threads_at_once():
    kernel_map = make_map('subm')
    x, weight = operands(kernel_map, torch.float32)
    x.requires_grad_()
    expected, = torch.autograd.grad(sparse_conv(sparse_conv(x, weight, kernel_map), weight.transpose(0, 4).contiguous(),
                                                kernel_map).sum(), x)
    results = []

    def work():
        for name in ('pairs', 'offset', 'implicit', 'weight_stationary') * 3:
            y = sparse_conv(x, weight, kernel_map, algorithm=name)
            z = sparse_conv(y, weight.transpose(0, 4).contiguous(), kernel_map, algorithm=name)
            results.append(torch.autograd.grad(z.sum(), x)[0])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 24
    for result in results:
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_run_of_rows_without_pairs_is_zero(monkeypatch, dtype):
    monkeypatch.setattr(backend, 'SLAB_BYTES', 500)
    neighbours = torch.full((1, 40), 3, dtype=torch.int32)
    neighbours[0, 30:33] = torch.arange(3)
    kernel_map = KernelMap('strided', 3, neighbours)
    x, weight = torch.ones(3, 2, dtype=dtype), torch.ones(4, 1, 1, 1, 2, dtype=dtype)
    out = sparse_conv(x, weight, kernel_map, algorithm='pairs')
    assert len(kernel_map.slabs(10)) > 2
    assert torch.equal(out[30:33], torch.full((3, 4), 2, dtype=dtype))
    assert not out[:30].any() and not out[33:].any()


def test_sizes_of_half_precision_products_recur():
    half, single = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)
    sizes = {num: backend.shared_rows(num, half) for num in range(1, 5000)}
    assert all(num <= size <= num + max(num / 8, 16) for num, size in sizes.items())
    assert len(set(sizes.values())) < 60
    assert backend.shared_rows(4999, single) == 4999
