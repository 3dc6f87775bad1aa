"""Pooling of camera features by cells of the ground, beside the ways that published nets take.

Points are those of six cameras all around a car; shares and features are random. The peers make the volume of points
times channels, but for embedding_bag with autograd's gradients, as BEVPoolv2 sums: cumulative sums of Lift, Splat,
Shoot, which sort in each step; the same with the order kept; index_add and segment_reduce. Ours is timed with the
order kept, which holds while cameras and frame stay, and with the order made, as augmentation demands. Times are CPU
seconds of this process, the shortest of the rounds; errors are those against ours in float64. On a GPU all are timed
there too, ours as Triton kernels and as PyTorch.
"""
import argparse
import time
from collections.abc import Callable
from functools import partial
from math import pi

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from perception.common.measure import gpu_seconds, interleave, machine
from perception.ops.bev_pool import Ranks, bev_pool, make_ranks
from perception.utils.checks import check_positive

OURS, LSS, BAGS = 'ours', 'cumulative sum', 'embedding_bag, autograd'
GOALS = {('forward', LSS): .01, ('both', LSS): .02, ('both', BAGS): .5}  # at the size of BEVDet
SIZES = dict(  # samples, depths from, step, how many, features of h x w, channels, half the grid [m], cell [m]
    tiny=(2, 1., 1., 32, (8, 22), 32, 25.6, .8),
    bevdet=(1, 1., 1., 59, (16, 44), 64, 51.2, .8),
    bevdepth=(1, 2., .5, 112, (16, 44), 80, 51.2, .8),
    lss=(1, 4., 1., 41, (8, 22), 64, 50., .5),
    bevfusion=(1, 1., .5, 118, (32, 88), 80, 51.2, .4))
PUBLISHED = ('published, forward on GPUs: BEVPoolv2 0.82 ms at 640 x 1600 pixels (RTX 3090); bevdet-tensorrt-cpp 0.15 '
             'ms (A4000), 0.57 ms (Orin); BEVPoolV3 90 us (A6000), 17.3 us in float16 (RTX PRO 6000)')
CAMERAS = 6
OPTIONS = {
    '--sizes': {'nargs': '+', 'default': ['tiny', 'bevdet', 'bevdepth', 'lss', 'bevfusion'],
                'choices': ['tiny', 'bevdet', 'bevdepth', 'lss', 'bevfusion'], 'metavar': 'SIZE',
                'help': 'of tiny, bevdet, bevdepth, lss, bevfusion (default: all)'},
    '--rounds': {'type': 'int', 'default': 5, 'help': 'measured rounds (default: 5)'},
    '--threads': {'type': 'int', 'default': 1, 'help': 'CPU threads (default: 1)'}}


def run(args: argparse.Namespace) -> list[dict]:
    """Time all ways and log a table for each size.

    Returns:
        for each `size`, `points` (in the grid), `volume` (of these times channels [MiB]), `forward` and `both` (way ->
        seconds forward, forward and backward), `ratios` ((which, peer) -> ours by its time), `errors` (way -> largest
        difference to float64), `gpu` (way -> seconds forward, both; empty without a GPU).

    Raises:
        ConfigError: a number below 1.
    """
    check_positive('bev_pool', rounds=args.rounds, threads=args.threads)
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    print_log(f'CPU milliseconds of forward / forward and backward; {machine()}\n{PUBLISHED}', 'current')
    try:
        return [measure(name, args.rounds) for name in args.sizes]
    finally:
        torch.set_num_threads(threads)


def measure(name: str, rounds: int) -> dict:
    """Times at one size, logged; see `run`."""
    points, depth, features, grid = problem(*SIZES[name])
    ranks = make_ranks(points, **grid)
    ranks.transposed  # noqa: B018 - the order of the way back is kept too
    grad = torch.randn(len(depth), features.shape[2], *ranks.shape[1:], generator=torch.Generator().manual_seed(1))
    exact = bev_pool(depth.double(), features.double(), ranks)
    calls = ways(points, ranks, grid)
    row = dict(size=name, points=len(ranks.rows), volume=len(ranks.rows) * features.shape[2] * 4 / 2 ** 20, errors={},
               gpu={})
    for way, call in calls.items():
        row['errors'][way] = float((call(depth, features) - exact).abs().max())
    for which in ('forward', 'both'):
        given = [values.requires_grad_(which == 'both') for values in (depth, features)]
        runs = {way: partial(step, call, *given, grad) for way, call in calls.items()}
        row[which] = {way: min(seconds) for way, seconds in interleave(runs, rounds, time.process_time).items()}
    row['ratios'] = {(which, peer): row[which][OURS] / row[which][peer] for which in ('forward', 'both')
                     for peer in calls if not peer.startswith(OURS)}
    if torch.cuda.is_available():
        row['gpu'] = on_gpu(points, depth, features, grid, grad, rounds)
    print_log(to_lines(row), 'current')
    return row


def step(call: Callable[[Tensor, Tensor], Tensor], depth: Tensor, features: Tensor, grad: Tensor) -> None:
    """Forward, and backward where gradients are wanted."""
    pooled = call(depth, features)
    if pooled.requires_grad:
        torch.autograd.grad(pooled, (depth, features), grad)


def on_gpu(points: Tensor, depth: Tensor, features: Tensor, grid: dict, grad: Tensor,
           rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds of each way on the GPU, forward and both."""
    points, depth, features, grad = (values.detach().cuda() for values in (points, depth, features, grad))
    ranks, found = make_ranks(points, **grid), {}
    ranks.transposed  # noqa: B018
    for way, call in ways(points, ranks, grid).items():
        seconds = []
        for wanted in (False, True):
            given = [values.detach().requires_grad_(wanted) for values in (depth, features)]
            seconds.append(min(gpu_seconds(partial(step, call, *given, grad), rounds)))
        found[way] = tuple(seconds)
    return found


def to_lines(row: dict) -> str:
    """A row of `run` as text."""
    lines = [f'{row["size"]}: {row["points"]:,} points, a volume of {row["volume"]:,.0f} MiB']
    for way in row['forward']:
        text = (f'  {way:<28}{1e3 * row["forward"][way]:9.1f} /{1e3 * row["both"][way]:9.1f} ms, off by at most '
                f'{row["errors"][way]:.0e}')
        if ('both', way) in row['ratios']:
            text += ', ours takes ' + ' / '.join(
                f'{row["ratios"][which, way]:.4f}x' + (f' (goal {GOALS[which, way]})' if row['size'] == 'bevdet' and
                                                      (which, way) in GOALS else '') for which in ('forward', 'both'))
        if way in row['gpu']:
            text += ', on the GPU ' + ' / '.join(f'{1e3 * seconds:.3f}' for seconds in row['gpu'][way]) + ' ms'
        lines.append(text)
    return '\n'.join(lines)


def problem(samples: int, first: float, step: float, depths: int, size: tuple[int, int], channels: int, half: float,
            cell: float) -> tuple[Tensor, Tensor, Tensor, dict]:
    """Points (B, 6, D, h, w, 3) of six cameras of 65 degrees, shares, features, and the arguments of the grid."""
    draw = torch.Generator().manual_seed(0)
    depth = torch.randn(samples, CAMERAS, depths, *size, generator=draw).softmax(2)
    features = torch.randn(samples, CAMERAS, channels, *size, generator=draw)
    metres = (first + step * torch.arange(depths))[:, None, None]
    height, width = size
    left = -(torch.arange(width) + .5 - width / 2) / (.785 * width)
    down = (torch.arange(height) + .5 - height / 2) / (.785 * width)
    yaw = (2 * pi / CAMERAS * torch.arange(CAMERAS))[:, None, None, None]
    x = metres * (yaw.cos() - left * yaw.sin()) + torch.zeros(height, 1)
    y = metres * (yaw.sin() + left * yaw.cos()) + torch.zeros(height, 1)
    z = (-metres * down[:, None]).expand_as(x)
    points = torch.stack([x, y, z], dim=-1).expand(samples, CAMERAS, depths, height, width, 3)
    axis = (-half, half, cell)
    return points, depth, features, dict(x=axis, y=axis, z=(-10., 10.))


# --------------------------------------------------------------------------------------------------------------- ways

def ways(points: Tensor, ranks: Ranks, grid: dict) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Name -> function of shares (B, N, D, h, w) and features (B, N, C, h, w) that gives (B, C, Y, X)."""
    cells, order = ranks.counts.nonzero().squeeze(1), ranks.shares.long()
    bags = torch.repeat_interleave(ranks.counts.long())
    starts, rows = ranks.starts[:-1][cells].long(), ranks.rows.long()
    lengths = ranks.counts.long()

    def laid_out(pooled: Tensor) -> Tensor:
        return pooled.unflatten(0, ranks.shape).movedim(-1, 1)

    def volume(depth: Tensor, features: Tensor) -> Tensor:
        return (depth.unsqueeze(-1) * features.movedim(2, -1).unsqueeze(2)).flatten(0, 4)

    def sorted_sums(depth: Tensor, features: Tensor) -> Tensor:
        kept, cell = _cells(points, grid, ranks.shape)
        values = volume(depth, features)[kept]
        ascending = cell.argsort()
        return laid_out(_placed(values[ascending], cell[ascending], ranks.num_bags))

    def bagged(depth: Tensor, features: Tensor) -> Tensor:
        sums = F.embedding_bag(rows, features.movedim(2, -1).flatten(0, 3), starts, mode='sum',
                               per_sample_weights=depth.flatten()[order])
        return laid_out(sums.new_zeros(ranks.num_bags, sums.shape[1]).index_copy(0, cells, sums))

    return {
        OURS: lambda depth, features: bev_pool(depth, features, ranks),
        'ours, order made': lambda depth, features: bev_pool(depth, features, make_ranks(points, **grid)),
        LSS: sorted_sums,
        'cumulative sum, order kept': lambda depth, features: laid_out(
            _placed(volume(depth, features)[order], bags, ranks.num_bags)),
        'index_add': lambda depth, features: laid_out(features.new_zeros(ranks.num_bags, features.shape[2]).index_add(
            0, bags, volume(depth, features)[order])),
        'segment_reduce': lambda depth, features: laid_out(torch.segment_reduce(
            volume(depth, features)[order], 'sum', lengths=lengths, axis=0, unsafe=True)),
        BAGS: bagged}


def _cells(points: Tensor, grid: dict, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Which points lie in the grid, (P,) bool, and the cell of those that do."""
    samples, lines, columns = shape
    low = points.new_tensor([grid[axis][0] for axis in 'xyz'])
    size = points.new_tensor([grid['x'][2], grid['y'][2], grid['z'][1] - grid['z'][0]])
    index = ((points - low) / size).floor().long().flatten(1, 4)
    kept = ((index >= 0) & (index < index.new_tensor([columns, lines, 1]))).all(-1)
    sample = torch.arange(samples, device=points.device)[:, None]
    cell = (sample * lines + index[..., 1]) * columns + index[..., 0]
    return kept.flatten(), cell[kept]


def _placed(values: Tensor, cells: Tensor, count: int) -> Tensor:
    """Sums of the runs of equal cells, in their rows of (count, C)."""
    last = torch.ones_like(cells, dtype=torch.bool)
    last[:-1] = cells[1:] != cells[:-1]
    sums = _CumulativeSum.apply(values, last)
    return values.new_zeros(count, values.shape[1]).index_copy(0, cells[last], sums)


class _CumulativeSum(torch.autograd.Function):
    """Differences of the sums up to the last row of each run; the way back copies a run's gradient to its rows."""

    @staticmethod
    def forward(ctx, values: Tensor, last: Tensor) -> Tensor:
        ctx.save_for_backward(last)
        sums = values.cumsum(0)[last]
        return torch.cat([sums[:1], sums[1:] - sums[:-1]])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        last, = ctx.saved_tensors
        return grad[last.cumsum(0) - last.long()], None
