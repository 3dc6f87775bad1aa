import builtins
import copy
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch.profiler import profile

from perception.ops import bev_pool as module
from perception.ops import launch
from perception.ops.bev_pool import RankCache, Ranks, bev_pool, make_ranks, pool_rows
from perception.ops.bev_pool_triton import pool_backward, pool_forward
from perception.ops.launch import CannotCompile
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
GRID = dict(x=(-4., 4., 1.), y=(-3., 3., .5), z=(-2., 2.))  # 12 x 8 cells


def problem(samples=2, cameras=3, depths=5, size=(3, 4), channels=6, dtype=torch.float32, device='cpu', spread=5.):
    """Shares, features and points of which some lie outside the grid."""
    draw = torch.Generator().manual_seed(0)
    lead = (samples, cameras, depths, *size)
    depth = torch.rand(lead, generator=draw, dtype=torch.float64)
    features = torch.randn(samples, cameras, channels, *size, generator=draw, dtype=torch.float64)
    points = spread * (2 * torch.rand(*lead, 3, generator=draw, dtype=torch.float64) - 1)
    return [values.to(device, dtype) for values in (depth, features, points)]


def by_loop(depth, features, points, reduce):
    """One point after the other."""
    samples, cameras, depths, height, width = depth.shape
    out = features.new_zeros(samples, features.shape[2], 12, 8)
    cells = {}
    for b, n, d, i, j in torch.cartesian_prod(*map(torch.arange, depth.shape)).tolist():
        x, y, z = points[b, n, d, i, j].tolist()
        column, line = (x + 4) // 1, (y + 3) // .5
        if 0 <= column < 8 and 0 <= line < 12 and -2 <= z < 2:
            cells.setdefault((b, int(line), int(column)), []).append(depth[b, n, d, i, j] * features[b, n, :, i, j])
    for (b, line, column), rows in cells.items():
        rows = torch.stack(rows)
        out[b, :, line, column] = dict(sum=rows.sum(0), mean=rows.mean(0), max=rows.amax(0))[reduce]
    return out, cells


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('reduce', ['sum', 'mean', 'max'])
def test_equals_a_loop_over_points(reduce, device):
    depth, features, points = problem(device=device)
    expected, cells = by_loop(*(values.cpu() for values in (depth, features, points)), reduce)
    ranks = make_ranks(points, **GRID)
    assert 0 < len(ranks.rows) < depth.numel() and len(cells) < 2 * 12 * 8  # points outside, cells without any
    assert {ranks.rows.dtype, ranks.shares.dtype, ranks.starts.dtype,
            *(values.dtype for values in ranks.transposed)} == {torch.int32}
    torch.testing.assert_close(bev_pool(depth, features, ranks, reduce).cpu(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('reduce', ['sum', 'mean', 'max'])
def test_gradients(reduce, device):
    depth, features, points = problem(1, 2, 3, (2, 3), 4, torch.float64, device)
    ranks = make_ranks(points, **GRID)
    depth.requires_grad_(), features.requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: bev_pool(*given, ranks, reduce), (depth, features))


@pytest.mark.parametrize('reduce', ['sum', 'mean'])
def test_gradients_equal_those_of_the_volume(reduce):
    depth, features, points = problem(dtype=torch.float32)
    ranks = make_ranks(points, **GRID)
    leaves = [values.requires_grad_() for values in (depth, features)]
    weight = torch.randn(2, 6, 12, 8)
    found = torch.autograd.grad((bev_pool(*leaves, ranks, reduce) * weight).sum(), leaves)
    volume = features.permute(0, 1, 3, 4, 2).reshape(-1, 6)[ranks.rows] * depth.reshape(-1)[ranks.shares][:, None]
    bags = torch.repeat_interleave(torch.arange(2 * 12 * 8), ranks.counts.long())
    summed = torch.zeros(2 * 12 * 8, 6).index_add(0, bags, volume)
    if reduce == 'mean':
        summed = summed / ranks.counts.clamp(min=1)[:, None]
    expected = torch.autograd.grad((summed.view(2, 12, 8, 6).permute(0, 3, 1, 2) * weight).sum(), leaves)
    for got, right in zip(found, expected):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('wanted', [0, 1])
def test_a_gradient_of_one_input_alone(wanted):
    given = problem()
    ranks = make_ranks(given[2], **GRID)
    given[wanted].requires_grad_()
    bev_pool(*given[:2], ranks).sum().backward()
    assert given[wanted].grad.abs().sum() > 0


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('reduce', ['sum', 'mean', 'max'])
def test_results_repeat_bit_for_bit(reduce, device):
    depth, features, points = problem(2, 6, 16, (8, 22), 32, device=device)
    results = []
    for _ in range(3):
        leaves = [values.clone().requires_grad_() for values in (depth, features)]
        pooled = bev_pool(*leaves, make_ranks(points, **GRID), reduce)
        (pooled * pooled).sum().backward()
        results.append([pooled.detach(), *(leaf.grad for leaf in leaves)])
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], again))


def test_several_threads_change_no_bit():
    depth, features, points = problem(1, 6, 16, (8, 22), 32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            leaves = [values.clone().requires_grad_() for values in (depth, features)]
            pooled = bev_pool(*leaves, make_ranks(points, **GRID))
            pooled.square().sum().backward()
            results.append([pooled.detach(), *(leaf.grad for leaf in leaves)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize(('x', 'cell'), [
    (-4., 0), (-4.0001, None), (-4.9, None), (-3.0001, 0), (-3., 1), (3.9999, 7), (4., None), (4.5, None),
    (float('nan'), None), (float('inf'), None), (float('-inf'), None)])
def test_points_on_borders(x, cell):
    """A conversion to whole numbers would move -4.9 into the first cell."""
    points = torch.tensor([x, .25, 0.]).view(1, 1, 1, 1, 1, 3)
    ranks = make_ranks(points, **GRID)
    pooled = bev_pool(torch.ones(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1), ranks)
    assert pooled.nonzero().tolist() == ([] if cell is None else [[0, 0, 6, cell]])


@pytest.mark.parametrize(('y', 'z', 'inside'), [(-3.01, 0, False), (-3., 0, True), (3., 0, False), (0, -2., True),
                                                (0, -2.001, False), (0, 2., False), (0, 1.999, True)])
def test_borders_of_the_other_axes(y, z, inside):
    assert len(make_ranks(torch.tensor([.5, y, z]).view(1, 1, 1, 1, 1, 3), **GRID).rows) == inside


@pytest.mark.parametrize('reduce', ['sum', 'mean', 'max'])
@pytest.mark.parametrize('sizes', [dict(spread=0.), dict(depths=0), dict(channels=0), dict(samples=0)])
def test_nothing_to_sum(reduce, sizes):
    depth, features, points = problem(**sizes)
    if 'spread' in sizes:
        points = points + 100  # all outside
    leaves = [values.requires_grad_() for values in (depth, features)]
    pooled = bev_pool(*leaves, make_ranks(points, **GRID), reduce)
    assert pooled.shape == (depth.shape[0], features.shape[2], 12, 8) and not pooled.any()
    pooled.sum().backward()
    assert all(leaf.grad.shape == leaf.shape and not leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('inputs', ['lowered', 'float32'])
def test_float32_under_autocast(dtype, inputs):
    depth, features, points = problem(spread=1.)
    if inputs == 'lowered':
        depth, features = depth.to(dtype), features.to(dtype)
    ranks = make_ranks(points, **GRID)
    expected = bev_pool(depth.float(), features.float(), ranks)
    leaves = [values.requires_grad_() for values in (depth, features)]
    with torch.autocast('cpu', dtype):
        pooled = bev_pool(*leaves, ranks)
    assert pooled.dtype == torch.float32 and torch.equal(pooled, expected)
    pooled.sum().backward()
    assert all(leaf.grad.dtype == leaf.dtype for leaf in leaves)


def largest_allocations(call):
    """Bytes of the largest tensor made, and the most that lay in memory at once beside what lay there before."""
    with profile(profile_memory=True) as found:
        call()
    held = largest = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == '[memory]':
            held += event.nbytes()
            largest, most = max(largest, event.nbytes()), max(most, held)
    return largest, most


@pytest.mark.parametrize('reduce', ['sum', 'mean', 'max'])
def test_the_volume_is_never_made(reduce, monkeypatch):
    depth, features, points = problem(1, 6, 64, (8, 22), 64)
    monkeypatch.setattr(module, 'BLOCK', 4 * depth.numel())
    ranks = make_ranks(points.clamp(-2, 1.9), **GRID)
    assert len(ranks.rows) == depth.numel()
    leaves = [values.requires_grad_() for values in (depth, features)]
    ranks.transposed  # noqa: B018
    volume = 4 * depth.numel() * 64  # bytes
    largest, most = largest_allocations(lambda: bev_pool(*leaves, ranks, reduce).sum().backward())
    assert 4 * features.numel() <= largest < volume / 8 and most < volume / (10 if reduce != 'max' else 3)
    rows = features.detach().movedim(2, -1).reshape(-1, 64)
    assert largest_allocations(lambda: rows[ranks.rows])[0] == volume  # that the measurement sees such a tensor


def test_pairs_in_any_order_and_rows_of_any_kind():
    ranks = Ranks(torch.tensor([2, 0, 2, 2]), torch.tensor([1, 1, 0, 3]), torch.tensor([3, 0, 1, 2]), 4, 4, (3,))
    rows, shares = torch.eye(4), torch.tensor([1., 2., 3., 4.])
    expected = torch.tensor([[0., 1, 0, 0], [0, 0, 0, 0], [2, 4, 0, 3]])
    assert torch.equal(pool_rows(shares, rows, ranks), expected)
    bags, places, owners, starts = ranks.transposed
    assert (bags.tolist(), places.tolist(), owners.tolist()) == ([2, 0, 2, 2], [1, 0, 3, 2], [0, 1, 1, 3])
    assert starts.tolist() == [0, 1, 3, 3, 4] and ranks.counts.tolist() == [1, 0, 3]


def test_of_equal_maxima_the_first_gets_the_gradient():
    ranks = Ranks(torch.zeros(3), torch.tensor([0, 1, 2]), torch.arange(3), 3, 3, (1,))
    rows = torch.tensor([[1.], [5.], [5.]], requires_grad=True)
    pool_rows(torch.ones(3), rows, ranks, 'max').sum().backward()
    assert rows.grad.tolist() == [[0.], [1.], [0.]]


def test_the_cache_keeps_the_last_ones_and_is_not_copied():
    cache, made = RankCache(2), []
    for key in 'abbaca':
        cache.get(key, lambda key=key: made.append(key))
    assert made == ['a', 'b', 'c'] and len(cache) == 2
    assert len(copy.deepcopy(cache)) == 0 and copy.deepcopy(cache).size == 2


@pytest.mark.parametrize(('change', 'match'), [
    (dict(reduce='avg'), "reduce='avg'"), (dict(depth=torch.rand(1, 3, 5, 3, 4)), '120 points'),
    (dict(features=torch.rand(2, 3, 6, 4, 3)), r'\(2, 3, 6, 4, 3\)')])
def test_what_does_not_fit_is_refused(change, match):
    depth, features, points = problem(spread=1.)
    given = dict(depth=depth, features=features, ranks=make_ranks(points, **GRID), reduce='sum') | change
    with pytest.raises((ConfigError, DataError), match=match.replace('120', '360')):
        bev_pool(**given)


def test_ranks_refuse_grids_and_points():
    with pytest.raises(ConfigError, match='x=.* 8.5 cells'):
        make_ranks(problem()[2], **dict(GRID, x=(-4., 4.5, 1.)))
    with pytest.raises(DataError, match=r'\(2, 3\)'):
        make_ranks(torch.zeros(2, 3), **GRID)
    with pytest.raises(DataError, match='2,147,483,648 rows'):
        Ranks(torch.zeros(1), torch.zeros(1), torch.zeros(1), 1 << 31, 1, (1,))


def test_triton_is_not_needed_on_a_cpu(monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(builtins, '__import__', lambda name, *args: real(name, *args) if 'triton' not in name
                        else pytest.fail(f'{name} was imported'))
    depth, features, points = problem()
    bev_pool(depth.requires_grad_(), features, make_ranks(points, **GRID)).sum().backward()
    assert depth.grad.abs().sum() > 0


@pytest.mark.skipif(find_spec('triton') is None, reason='no triton here')
@pytest.mark.parametrize(('dtype', 'channels', 'pairs'), [(torch.float32, 5, 300), (torch.float64, 64, 300),
                                                          (torch.float32, 80, 0)])
def test_triton_kernels_equal_the_torch_form(dtype, channels, pairs):
    """On a GPU, else in Triton's interpreter, see tests/conftest.py."""
    device, draw = 'cuda' if torch.cuda.is_available() else 'cpu', torch.Generator().manual_seed(0)
    bags, rows = (torch.randint(n, (pairs,), generator=draw).to(device) for n in (50, 40))
    ranks = Ranks(bags, rows, torch.randperm(pairs + 20, generator=draw)[:pairs].to(device), 40, pairs + 20, (5, 10))
    shares = torch.rand(pairs + 20, dtype=dtype, generator=draw).to(device).requires_grad_()
    rows = torch.randn(40, channels, dtype=dtype, generator=draw).to(device).requires_grad_()
    pooled = module._Sum.apply(shares, rows, ranks)
    grad = torch.randn(pooled.shape, dtype=dtype, generator=draw).to(device)
    expected = pooled, *torch.autograd.grad(pooled, (shares, rows), grad)
    bags, places, _, starts = ranks.transposed
    for _ in range(2):
        found = (pool_forward(shares.detach(), rows.detach(), ranks.shares, ranks.rows, ranks.starts),
                 *pool_backward(grad, shares.detach(), rows.detach(), places, bags, starts))
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(find_spec('triton') is None, reason='no triton here')
@pytest.mark.parametrize('compiles', [True, False])
def test_on_a_gpu_triton_pools_and_pytorch_where_it_has_no_program(compiles, monkeypatch, as_if_on_gpu):
    """On a GPU, else by Triton's interpreter with tensors that say they are on one."""
    depth, features, points = problem(1, 2, 3, (2, 3), 5, device='cuda' if torch.cuda.is_available() else 'cpu')
    ranks, results = make_ranks(points, **GRID), []
    asked = []

    def broken(*args):
        raise CannotCompile('pooling on CUDA: no such instruction on sm_50')

    for name in ('pool_forward', 'pool_backward'):
        plain = getattr(module, name) if compiles else broken
        monkeypatch.setattr(module, name, lambda *args, name=name, plain=plain: asked.append(name) or plain(*args))
    for triton in (True, False):
        monkeypatch.setattr(launch, 'has_triton', lambda triton=triton: triton)
        leaves = [values.clone().requires_grad_() for values in (depth, features)]
        pooled = bev_pool(*leaves, ranks)
        results.append([pooled, *torch.autograd.grad(pooled.square().sum(), leaves)])
    assert asked == (['pool_forward', 'pool_backward'] if compiles else ['pool_forward'])
    assert as_if_on_gpu == ([] if compiles else ['pooling on CUDA: no such instruction on sm_50; PyTorch does it'])
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(find_spec('triton') is None, reason='no triton here')
def test_programs_compile_without_a_gpu():
    """For an old and a new GPU; in a process of its own, since this one interprets them."""
    env = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    run = subprocess.run([sys.executable, '-c', COMPILED], capture_output=True, text=True, timeout=120,
                         env=dict(env, PYTHONPATH=os.pathsep.join(sys.path)))
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == 2 * ['forward', 'backward']


COMPILED = '''
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from perception.ops.bev_pool_triton import _kernels
numbers, constants = ('places', 'row_of', 'bag_of', 'starts'), dict(PAIRS=16, WIDTH=64)
for device in (70, 120):
    for kernel in _kernels():
        signature = {word: 'constexpr' if word in constants else 'i32' if word == 'channels' else
                     '*i32' if word in numbers else '*fp32' for word in kernel.arg_names}
        made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget('cuda', device, 32))
        assert made.asm['cubin']
        print(kernel.fn.__name__)
'''
