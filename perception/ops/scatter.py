"""Rows by group: maximum, mean and number of all points of a voxel, and its row for each of them."""
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perception.utils.errors import DataError


def scatter_max(src: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """Channel-wise maximum over the rows of each group.

    The gradient goes to the row that holds the maximum; rows that tie share it in equal parts.

    Args:
        src: (N, C) values.
        index: (N,) int64 group of each row, in [0, num_groups).
        num_groups: G.

    Returns:
        (G, C) maxima, zero where a group has no row.

    Raises:
        DataError: shapes that do not fit.
    """
    _check('scatter_max', src, index)
    return _ScatterMax.apply(src, index, num_groups)


def scatter_mean(src: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """Channel-wise mean over the rows of each group; sums of half precision are float32 inside.

    Args:
        src: (N, C) values.
        index: (N,) int64 group of each row, in [0, num_groups).
        num_groups: G.

    Returns:
        (G, C) means, zero where a group has no row.

    Raises:
        DataError: shapes that do not fit.
    """
    _check('scatter_mean', src, index)
    sums = torch.promote_types(src.dtype, torch.float32)
    total = src.new_zeros(num_groups, src.shape[1], dtype=sums).index_add(0, index, src.to(sums))
    count = count_rows(index, num_groups).clamp(min=1)
    return (total / count[:, None].to(sums)).to(src.dtype)


def take_rows(src: Tensor, index: Tensor) -> Tensor:
    """The row of each index; a gradient of half precision is summed in float32, on a GPU too.

    There `index_select` adds it up in its own type, and bfloat16 counts to 256.

    Args:
        src: (G, C) rows.
        index: (N,) int64, in [0, G).

    Returns:
        (N, C) rows.
    """
    half = src.requires_grad and src.dtype in (torch.bfloat16, torch.float16)
    return _TakeRows.apply(src, index) if half else src.index_select(0, index)


def count_rows(index: Tensor, num_groups: int, votes: Tensor | None = None) -> Tensor:
    """How many rows each group has; other than by `torch.bincount` the host need not wait for a GPU.

    Args:
        index: (N,) int64 group of each row, in [0, num_groups).
        num_groups: G.
        votes: (N,) bool, the rows that count; None for all.

    Returns:
        (G,) int64.
    """
    votes = torch.ones_like(index) if votes is None else votes.to(index.dtype)
    return index.new_zeros(num_groups).scatter_add_(0, index, votes)


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, src: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows = len(src)
        return src.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.new_zeros(ctx.num_rows, grad.shape[1], dtype=torch.float32)
        return total.index_add_(0, ctx.saved_tensors[0], grad.float()).to(grad.dtype), None


class _ScatterMax(torch.autograd.Function):
    """Remembers which entries are maxima instead of the values, a quarter of the memory."""

    @staticmethod
    def forward(ctx, src: Tensor, index: Tensor, num_groups: int) -> Tensor:
        out = src.new_zeros(num_groups, src.shape[1])
        out.scatter_reduce_(0, index[:, None].expand_as(src), src, 'amax', include_self=False)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(index, src == out.index_select(0, index))
            ctx.num_groups = num_groups
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        index, is_max = ctx.saved_tensors
        if grad.is_cuda or _has_ties(index, is_max, ctx.num_groups):  # to ask would make the host wait for a GPU
            sums = torch.promote_types(grad.dtype, torch.float32)  # bfloat16 counts to 256
            ties = grad.new_zeros(grad.shape, dtype=sums).index_add_(0, index, is_max.to(sums))
            grad = (grad / ties.clamp(min=1)).to(grad.dtype)
        return grad.index_select(0, index).masked_fill_(~is_max, 0), None, None


def _has_ties(index: Tensor, is_max: Tensor, num_groups: int) -> bool:
    occupied = int((torch.bincount(index, minlength=num_groups) > 0).sum())
    return int(is_max.sum()) != occupied * is_max.shape[1]


def _check(where: str, src: Tensor, index: Tensor) -> None:
    if src.dim() != 2 or index.shape != src.shape[:1]:
        raise DataError(f'{where}: src of shape {tuple(src.shape)} with index of shape {tuple(index.shape)}, expected '
                        '(N, C) and (N,). Pass one group number for each row.')
