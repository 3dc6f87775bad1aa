"""Sums of weighted feature rows by cell, without the volume of points times channels.

Lift, Splat, Shoot gives every pixel of a camera a row of features and a share for each depth along its ray; a cell of
the grid seen from above sums what falls into it. That is an embedding bag: cells are the bags, pixels the words, shares
their weights. The gradient of the features is one too, with pixels as the bags, and that of the shares a dot product
for each pair of a cell and a pixel. Pairs are sorted once (`make_ranks`), numbers are int32, a cell without pairs is an
empty bag. Each bag is summed by one worker in a fixed order: results repeat bit for bit on a CPU and on CUDA, where
`bev_pool_triton.py` has the sum as two kernels.

Shapes: B samples, N cameras, D depths, features of h x w cells and C channels, grids of Y x X cells, P pairs, R rows of
features, S shares, G bags.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from perception.ops.bev_pool_triton import pool_backward, pool_forward
from perception.ops.launch import try_triton
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

REDUCTIONS = ('sum', 'mean', 'max')
BLOCK = 1 << 22  # numbers of a part of the volume that 'max' looks at, a bound on memory


class Ranks:
    """Which rows of features a bag sums, with which shares; both ways.

    Attributes:
        rows: (P,) int32 row of features of each pair, pairs sorted by bag.
        shares: (P,) int32 place of its share.
        starts: (G + 1,) int32 first pair of each bag, and P.
        num_rows: R.
        num_shares: S.
        shape: of the bags, their product is G.
    """

    def __init__(self, bags: Tensor, rows: Tensor, shares: Tensor, num_rows: int, num_shares: int,
                 shape: Sequence[int]):
        """Sort pairs by bag; pairs of a bag keep their order.

        Args:
            bags: (P,) bag of each pair.
            rows: (P,) its row of features.
            shares: (P,) place of its share; no two pairs have the same.
            num_rows: R.
            num_shares: S.
            shape: of the bags.

        Raises:
            DataError: more than int32 can count.
        """
        self.num_rows, self.num_shares, self.shape = int(num_rows), int(num_shares), tuple(int(n) for n in shape)
        if max(self.num_rows, self.num_shares, self.num_bags) >= 1 << 31:
            raise DataError(f'Ranks: {self.num_rows:,} rows, {self.num_shares:,} shares and {self.num_bags:,} bags, '
                            'expected fewer than 2**31 of each. Take smaller batches.')
        bags, order = torch.sort(bags.int(), stable=True)
        self.rows, self.shares = rows.int().index_select(0, order), shares.int().index_select(0, order)
        self.starts = _starts(bags, self.num_bags)
        self._bags = bags

    def by_share(self) -> Ranks:
        """Of the same points, where each has a row of features of its own, in the order of the shares."""
        return Ranks(self._bags, self.shares, self.shares, self.num_shares, self.num_shares, self.shape)

    @property
    def num_bags(self) -> int:
        """G."""
        return prod(self.shape)

    @cached_property
    def counts(self) -> Tensor:
        """(G,) int32 pairs of each bag."""
        return self.starts.diff()

    @cached_property
    def transposed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same pairs sorted by row: bag, place of the share, row, each (P,) int32, and (R + 1,) starts."""
        rows, order = torch.sort(self.rows, stable=True)
        return (self._bags.index_select(0, order), self.shares.index_select(0, order), rows,
                _starts(rows, self.num_rows))


def make_ranks(points: Tensor, x: Sequence[float], y: Sequence[float], z: Sequence[float]) -> Ranks:
    """Cells of the points on the rays of cameras.

    A cell holds its lower borders, not its upper ones: a point just below the grid is left out, where a conversion to
    whole numbers would move it into the first cell. Points that are not finite are left out too.

    Args:
        points: (B, N, D, h, w, 3) x, y, z [m].
        x: least and greatest value, size of a cell [m].
        y: the same.
        z: least and greatest value [m].

    Returns:
        ranks of rows (B, N, h, w), shares (B, N, D, h, w) and bags (B, Y, X).

    Raises:
        DataError: another shape of points, or more than int32 can count.
        ConfigError: a range that cells do not fill.
    """
    if points.dim() != 6 or points.shape[-1] != 3:
        raise DataError(f'make_ranks: points of shape {tuple(points.shape)}, expected (B, N, D, h, w, 3). Unproject '
                        'the cells of the features at each depth.')
    samples, cameras, depths, height, width = points.shape[:5]
    columns, lines = _cells('x', x), _cells('y', y)
    points = points.detach().permute(5, 0, 1, 3, 4, 2)  # depths last: pairs come sorted by row
    column, line = (((values - low) / size).floor() for values, (low, _, size) in zip(points, (x, y)))
    kept = (column >= 0) & (column < columns) & (line >= 0) & (line < lines) & (points[2] >= z[0]) & (points[2] < z[1])
    kept = kept.reshape(-1).nonzero().squeeze(1)
    column, line = (values.reshape(-1).index_select(0, kept).int() for values in (column, line))
    count, pixels = cameras * height * width, height * width
    shares = torch.arange(samples * count * depths, device=kept.device, dtype=torch.int32)
    shares = shares.view(samples * cameras, depths, pixels).mT.reshape(-1).index_select(0, kept)
    sample = kept.div(max(count * depths, 1), rounding_mode='floor').int()
    return Ranks((sample * lines + line) * columns + column, kept.div(max(depths, 1), rounding_mode='floor'), shares,
                 samples * count, samples * count * depths, (samples, lines, columns))


def bev_pool(depth: Tensor, features: Tensor, ranks: Ranks, reduce: str = 'sum') -> Tensor:
    """Features of each cell: over the points in it, share times features of the pixel.

    In float32 (float64 where both are), whatever autocast says.

    Args:
        depth: (B, N, D, h, w) share of each depth.
        features: (B, N, C, h, w).
        ranks: of `make_ranks`.
        reduce: `'sum'`, `'mean'` or `'max'` over the points of a cell.

    Returns:
        (B, C, Y, X), channels last in memory, zero where a cell has no point.

    Raises:
        ConfigError: an unknown reduction.
        DataError: shapes other than those of the ranks.
    """
    if depth.dim() != 5 or features.dim() != 5 or (depth.numel(), len(depth)) != (ranks.num_shares, ranks.shape[0]) or \
            (*features.shape[:2], *features.shape[3:]) != (*depth.shape[:2], *depth.shape[3:]):
        raise DataError(f'bev_pool: depth of shape {tuple(depth.shape)}, features of {tuple(features.shape)} and ranks '
                        f'of {ranks.num_shares:,} points, expected (B, N, D, h, w), (B, N, C, h, w) and as many. '
                        'Make the ranks from the frustum of these features.')
    rows = features.movedim(2, -1).flatten(0, 3)
    return pool_rows(depth.reshape(-1), rows, ranks, reduce).unflatten(0, ranks.shape).movedim(-1, 1)


def pool_rows(shares: Tensor, rows: Tensor, ranks: Ranks, reduce: str = 'sum') -> Tensor:
    """`bev_pool` of rows.

    Args:
        shares: (S,) weights.
        rows: (R, C) features.
        ranks: which of them belong together.
        reduce: see `bev_pool`.

    Returns:
        (G, C) float32, or float64 where both are.

    Raises:
        ConfigError: an unknown reduction.
    """
    check_choice('bev_pool: reduce', reduce, REDUCTIONS)
    dtype = torch.float64 if shares.dtype == rows.dtype == torch.float64 else torch.float32
    shares, rows = shares.to(dtype).contiguous(), rows.to(dtype).contiguous()
    with torch.autocast(rows.device.type, enabled=False):
        if reduce == 'max':
            return _Max.apply(shares, rows, ranks)
        pooled = _Sum.apply(shares, rows, ranks)
        return pooled / ranks.counts.clamp(min=1)[:, None] if reduce == 'mean' else pooled


class RankCache:
    """The ranks of the last calibrations, for cameras that do not move.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int = 4):
        self.size, self._kept = size, OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Ranks]) -> Ranks:
        """The ranks of a key, made where they are not kept."""
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > self.size:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> tuple:  # copies of a net and checkpoints start empty
        return RankCache, (self.size,)


# ---------------------------------------------------------------------------------------------------------- reductions

class _Sum(torch.autograd.Function):

    @staticmethod
    def forward(ctx, shares: Tensor, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        ctx.save_for_backward(shares, rows)
        pooled = try_triton(pool_forward, shares, rows, ranks.shares, ranks.rows, ranks.starts)
        if pooled is None:
            pooled = _bags(rows, ranks.rows, ranks.starts, shares.index_select(0, ranks.shares))
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (shares, rows), grad = ctx.saved_tensors, grad.contiguous()
        bags, places, owners, starts = ctx.ranks.transposed
        by_triton = try_triton(pool_backward, grad, shares, rows, places, bags, starts)
        if by_triton is not None:
            return *by_triton, None
        grad_shares = grad_rows = None
        if ctx.needs_input_grad[0]:
            products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                rows, grad, bags, starts[:-1], owners, 0)  # of a row of features and one of gradients, for each pair
            grad_shares = torch.zeros_like(shares).index_copy_(0, places.long(), products)
        if ctx.needs_input_grad[1]:
            grad_rows = _bags(grad, bags, starts, shares.index_select(0, places))
        return grad_shares, grad_rows, None


class _Max(torch.autograd.Function):
    """Looks at a block of channels at a time and keeps the pair that holds each maximum, of equal ones the first."""

    @staticmethod
    def forward(ctx, shares: Tensor, rows: Tensor, ranks: Ranks) -> Tensor:
        weights, counts = shares.index_select(0, ranks.shares)[:, None], ranks.counts.long()
        pooled = rows.new_zeros(ranks.num_bags, rows.shape[1])
        winners = torch.full(pooled.shape, -1, dtype=torch.int32, device=rows.device)
        numbers = torch.arange(len(ranks.rows), device=rows.device, dtype=rows.dtype)
        if rows.dtype == torch.float32 and len(numbers) >= 1 << 24:
            numbers = numbers.double()
        for block in _blocks(rows, ranks):
            values = rows[:, block].index_select(0, ranks.rows) * weights
            largest = _segments(values, counts, 'max')
            first = values == largest.index_select(0, ranks._bags)
            first = torch.where(first, numbers[:, None], float('inf'))
            winners[:, block] = _segments(first, counts, 'min').nan_to_num(posinf=-1).int()
            pooled[:, block] = torch.where(counts[:, None] > 0, largest, 0)
        ctx.ranks = ranks
        ctx.save_for_backward(shares, rows, winners)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (shares, rows, winners), ranks = ctx.saved_tensors, ctx.ranks
        bags, places, owners, starts = ranks.transposed
        numbers = torch.sort(ranks.rows, stable=True)[1].int()  # of the pairs by row, among those by bag
        weights, counts = shares.index_select(0, places)[:, None], starts.diff().long()
        grad_rows, products = torch.zeros_like(rows), shares.new_zeros(len(places))
        for block in _blocks(rows, ranks):
            won = winners[:, block].index_select(0, bags) == numbers[:, None]
            part = torch.where(won, grad[:, block].index_select(0, bags), 0)
            products += (part * rows[:, block].index_select(0, owners)).sum(1)
            grad_rows[:, block] = _segments(part * weights, counts, 'sum')
        return torch.zeros_like(shares).index_copy_(0, places.long(), products), grad_rows, None


def _bags(rows: Tensor, index: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """(G, C) weighted sums of rows; bag g takes those from starts[g] up to starts[g + 1] of the index."""
    if not len(index) or not rows.shape[1]:
        return rows.new_zeros(len(starts) - 1, rows.shape[1])
    return F.embedding_bag(index, rows, starts, mode='sum', per_sample_weights=weights, include_last_offset=True)


def _segments(values: Tensor, lengths: Tensor, reduce: str) -> Tensor:
    if not len(lengths):
        return values.new_zeros(0, values.shape[1])
    return torch.segment_reduce(values, reduce, lengths=lengths, axis=0, unsafe=True)


def _blocks(rows: Tensor, ranks: Ranks) -> list[slice]:
    step = max(1, BLOCK // max(1, len(ranks.rows)))
    return [slice(first, first + step) for first in range(0, rows.shape[1], step)]


def _starts(ascending: Tensor, count: int) -> Tensor:
    """(count + 1,) int32: where each number begins among ascending ones, and how many there are."""
    return F.pad(torch.bincount(ascending, minlength=count).cumsum(0), (1, 0)).int()


def _cells(name: str, values: Sequence[float]) -> int:
    count = (values[1] - values[0]) / values[2]
    if count < .5 or abs(count - round(count)) > 1e-3:
        raise ConfigError(f'make_ranks: {name}={tuple(values)} has {count:g} cells, expected a whole number. Correct '
                          'least value, greatest value or size of a cell.')
    return round(count)
