"""`perception/ops/bev_pool.py` as Triton kernels for CUDA: a program owns a bag, or a row of features, and sums alone.

Sums have a fixed order and nothing is added by atomics, so results repeat bit for bit. The kernels read int32 numbers
and do not divide. The form in PyTorch is the reference; they agree to rounding. With `TRITON_INTERPRET=1` in the
environment before the first call the kernels run on tensors of a CPU, for tests.

Shapes: R rows of C channels, S shares, G bags, P pairs of a bag and a row.
"""
from functools import cache
from typing import Any

import torch
from torch import Tensor

from perception.ops.launch import launch
from perception.utils.optional import import_optional

FEATURE = 'pooling on CUDA'
TILE = 1024  # numbers of pairs times channels that a program looks at once


def pool_forward(shares: Tensor, rows: Tensor, places: Tensor, row_of: Tensor, starts: Tensor) -> Tensor:
    """Weighted sums of rows.

    Args:
        shares: (S,) contiguous, float32 or float64.
        rows: (R, C) contiguous, the same dtype.
        places: (P,) int32 share of each pair, pairs sorted by bag.
        row_of: (P,) int32 its row.
        starts: (G + 1,) int32 first pair of each bag, and P.

    Returns:
        (G, C).

    Raises:
        CannotCompile: Triton has no program for this device.
    """
    kernel, _ = _kernels()
    out = rows.new_empty(len(starts) - 1, rows.shape[1])
    if out.numel():
        launch(FEATURE, kernel, (len(out),), shares, rows, out, places, row_of, starts, rows.shape[1],
               **_tile(rows.shape[1]))
    return out


def pool_backward(grad: Tensor, shares: Tensor, rows: Tensor, places: Tensor, bag_of: Tensor,
                  starts: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `pool_forward`.

    Args:
        grad: (G, C) contiguous, of its result.
        shares: (S,) as there.
        rows: (R, C) as there.
        places: (P,) int32 share of each pair, pairs sorted by row.
        bag_of: (P,) int32 its bag.
        starts: (R + 1,) int32 first pair of each row, and P.

    Returns:
        (S,) and (R, C).

    Raises:
        CannotCompile: Triton has no program for this device.
    """
    _, kernel = _kernels()
    grad_shares, grad_rows = torch.zeros_like(shares), torch.empty_like(rows)
    if rows.numel():
        launch(FEATURE, kernel, (len(rows),), grad, shares, rows, grad_shares, grad_rows, places, bag_of, starts,
               rows.shape[1], **_tile(rows.shape[1]))
    return grad_shares, grad_rows


def _tile(channels: int) -> dict[str, int]:
    width = 1 << (channels - 1).bit_length()
    return dict(PAIRS=max(1, min(32, TILE // width)), WIDTH=width)


@cache
def _kernels() -> tuple[Any, Any]:
    global tl  # where Triton before 3.4 looks for what kernels name
    triton = import_optional('triton', FEATURE, 'pip install triton')
    tl = import_optional('triton.language', FEATURE, 'pip install triton')

    @triton.jit
    def forward(shares, rows, out, places, row_of, starts, channels, PAIRS: tl.constexpr, WIDTH: tl.constexpr):
        bag = tl.program_id(0)
        channel = tl.arange(0, WIDTH)
        inside = channel < channels
        first, last = tl.load(starts + bag), tl.load(starts + bag + 1)
        total = tl.zeros((WIDTH,), dtype=out.dtype.element_ty)
        for start in range(first, last, PAIRS):
            pair = start + tl.arange(0, PAIRS)
            there = pair < last
            share = tl.load(shares + tl.load(places + pair, mask=there, other=0), mask=there, other=0.)
            row = tl.load(row_of + pair, mask=there, other=0).to(tl.int64)
            value = tl.load(rows + row[:, None] * channels + channel[None, :],
                            mask=there[:, None] & inside[None, :], other=0.)
            total += tl.sum(share[:, None] * value, axis=0)
        tl.store(out + bag.to(tl.int64) * channels + channel, total, mask=inside)

    @triton.jit
    def backward(grad, shares, rows, grad_shares, grad_rows, places, bag_of, starts, channels, PAIRS: tl.constexpr,
                 WIDTH: tl.constexpr):
        row = tl.program_id(0)
        channel = tl.arange(0, WIDTH)
        inside = channel < channels
        own = row.to(tl.int64) * channels + channel
        feature = tl.load(rows + own, mask=inside, other=0.)
        first, last = tl.load(starts + row), tl.load(starts + row + 1)
        total = tl.zeros((WIDTH,), dtype=grad_rows.dtype.element_ty)
        for start in range(first, last, PAIRS):
            pair = start + tl.arange(0, PAIRS)
            there = pair < last
            place = tl.load(places + pair, mask=there, other=0)
            share = tl.load(shares + place, mask=there, other=0.)
            bag = tl.load(bag_of + pair, mask=there, other=0).to(tl.int64)
            value = tl.load(grad + bag[:, None] * channels + channel[None, :],
                            mask=there[:, None] & inside[None, :], other=0.)
            total += tl.sum(share[:, None] * value, axis=0)
            tl.store(grad_shares + place, tl.sum(feature[None, :] * value, axis=1), mask=there)
        tl.store(grad_rows + own, total, mask=inside)

    return forward, backward
