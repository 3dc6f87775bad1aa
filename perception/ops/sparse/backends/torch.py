"""Sparse convolution in plain PyTorch, on every device: the reference.

Five algorithms give the same sums and differ in what they move; `choose` picks one from channels and map alone.
Shape legend: N input rows, M output rows, K offsets, P pairs; weights are `(Cout, K, Cin)` views of the stored layout,
so a slice, all slices of one output and their transposes are views too.
"""
import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from perception.ops.sparse.maps import KernelMap
from perception.ops.sparse.workspace import scratch
from perception.utils.errors import ConfigError

SLAB_BYTES = 32 * 2**20  # products of `pairs` held at once
BLOCK_BYTES = 32 * 2**20  # products of `weight_stationary` held at once
TILE_BYTES = 4 * 2**20  # gathered rows of `implicit` and `classes` held at once
SMALL_GATHER = 2 * 2**20  # numbers that `implicit` gathers up to which it beats the loops over offsets on a CPU


def serves(x: Tensor) -> bool:
    """Whether it multiplies these features: all of them."""
    return True


def forward(x: Tensor, weight: Tensor, kernel_map: KernelMap, algorithm: str | None = None) -> Tensor:
    """(N, Cin) features times (Cout, k0, k1, k2, Cin) weights of the same dtype to (M, Cout).

    Raises:
        ConfigError: unknown algorithm, or one that the map does not allow.
    """
    return _run(x, weight.flatten(1, 3), kernel_map, algorithm)


def _run(x: Tensor, weight: Tensor, kernel_map: KernelMap, algorithm: str | None) -> Tensor:
    name = algorithm or choose(x, weight.shape[0], kernel_map)
    if name not in ALGORITHMS or (name == 'classes' and kernel_map.kind != 'inverse'):
        raise ConfigError(f'sparse_conv: algorithm {name!r} for a map of kind {kernel_map.kind!r}, expected one of '
                          f'{", ".join(ALGORITHMS)}; classes only for inverse. Pass None to let the rule choose.')
    if name != 'implicit' and kernel_map.num_pairs == 0:  # which reads no pairs
        return x.new_zeros(kernel_map.num_out, weight.shape[0])
    return ALGORITHMS[name](x, weight, kernel_map)


def backward(x: Tensor, weight: Tensor, kernel_map: KernelMap, grad: Tensor, needs_x: bool, needs_weight: bool,
             algorithm: str | None = None) -> tuple[Tensor | None, Tensor | None]:
    """Gradients (N, Cin) of the features and (Cout, k0, k1, k2, Cin) of the weight, given (M, Cout) of the output.

    In float32 and float64 one loop shares the gathered `grad` between both, and small maps need none, see `is_small`;
    in half precision, where adding row by row is slow and rounds each time, the gradient of the features is the forward
    rule on the transposed map.
    """
    slices = weight.flatten(1, 3)
    grad_x = None
    if algorithm is None and is_small(x, len(weight), kernel_map):
        return _backward_of_tiles(x, weight, kernel_map, grad, needs_x, needs_weight)
    fused = needs_x and algorithm is None and x.device.type == 'cpu' and x.dtype in (torch.float32, torch.float64)
    if needs_x and not fused:
        slices_t = slices.permute(2, 1, 0)  # (Cin, K, Cout)
        if kernel_map.kind == 'subm':  # the other half of the offsets mirrors the first: same map, offsets reversed
            grad_x = _run(grad, slices_t.flip(1), kernel_map, algorithm)
        else:
            grad_x = _run(grad, slices_t.contiguous(), kernel_map.transposed(), None)
    if fused:
        grad_x = torch.zeros_like(x)
    if not (fused or needs_weight):
        return grad_x, None
    grad_weight = torch.zeros_like(weight, dtype=torch.promote_types(x.dtype, torch.float32)) if needs_weight else None
    for k, (ins, outs) in enumerate(zip(kernel_map.in_rows, kernel_map.out_rows)):
        if not len(ins):
            continue
        centre = k == kernel_map.centre
        part = grad if centre else _gather('grad', grad, outs)
        if fused:
            product = torch.mm(part, slices[:, k], out=scratch('product', (len(ins), x.shape[1]), x))
            grad_x.add_(product) if centre else grad_x.index_add_(0, ins, product)
        if needs_weight:
            rows = x if centre else _gather('rows', x, ins)
            grad_weight.flatten(1, 3)[:, k].copy_(
                torch.mm(part.t(), rows, out=scratch('slice', (len(slices), x.shape[1]), x)))
    return grad_x, grad_weight


def _backward_of_tiles(x: Tensor, weight: Tensor, kernel_map: KernelMap, grad: Tensor, needs_x: bool,
                       needs_weight: bool) -> tuple[Tensor | None, Tensor | None]:
    """`backward` by `implicit`: products with what it gathers, and with what the mirrored map gathers of `grad`."""
    grad_x = grad_weight = None
    if needs_weight:
        grad_weight = torch.zeros_like(weight)
        for rows, gathered in _tiles(_with_zero_row(x), kernel_map.table):
            grad_weight.view(len(weight), -1).addmm_(grad[rows].t(), gathered)
    if needs_x:
        weight_t = weight.flatten(1, 3).permute(2, 1, 0)  # (Cin, K, Cout)
        mirrored = kernel_map.kind == 'subm'  # as in `backward`
        grad_x = implicit(grad, weight_t.flip(1) if mirrored else weight_t,
                          kernel_map if mirrored else kernel_map.transposed())
    return grad_x, grad_weight


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices many times faster than float32 ones (AMX)."""
    capabilities = getattr(torch.cpu, 'get_capabilities', dict)()
    supported = getattr(torch.cpu, '_is_amx_tile_supported', bool)
    return bool(capabilities.get('amx_bf16', False)) or bool(supported())


def is_small(x: Tensor, out_channels: int, kernel_map: KernelMap) -> bool:
    """Whether all neighbours side by side are so few that gathering them, missing ones too, costs less than a loop.

    Of an inverse map most are missing.

    Args:
        x: (N, Cin) features.
        out_channels: Cout.
        kernel_map: the map.
    """
    if x.device.type != 'cpu' or x.dtype not in (torch.float32, torch.float64) or kernel_map.volume == 1:
        return False  # half precision has a rule of its own
    cells = kernel_map.volume * max(kernel_map.num_out * x.shape[1], kernel_map.num_in * out_channels)
    return cells <= (SMALL_GATHER // 4 if kernel_map.kind == 'inverse' else SMALL_GATHER)


def choose(x: Tensor, out_channels: int, kernel_map: KernelMap, fast_bfloat16: bool | None = None) -> str:
    """The rule: which algorithm is fastest for these channels and this map.

    Products are the bottleneck in float32, so only exact pairs are multiplied. With AMX products in bfloat16 are nearly
    free, so missing neighbours may be multiplied if that saves memory traffic.

    Args:
        x: (N, Cin) features.
        out_channels: Cout.
        kernel_map: the map.
        fast_bfloat16: overrules the look at the CPU; for tests.
    """
    in_channels, kind = x.shape[1], kernel_map.kind
    if x.device.type != 'cpu':
        return 'pairs' if torch.are_deterministic_algorithms_enabled() else 'offset'
    if kernel_map.volume == 1:
        return 'offset'
    if is_small(x, out_channels, kernel_map) or kernel_map.num_pairs < 256 * kernel_map.volume:
        return 'implicit'
    if fast_bfloat16 is None:
        fast_bfloat16 = has_fast_bfloat16()
    cheap_products = fast_bfloat16 and x.dtype == torch.bfloat16
    if kind == 'inverse' and in_channels <= 256:
        return 'classes'
    if not cheap_products or kind == 'strided':
        return 'pairs'
    if kind == 'subm' and (in_channels <= 32 or (in_channels <= 128 and out_channels >= 2 * in_channels)):
        return 'implicit'
    thin = kind == 'subm' and kernel_map.fill < 0.45 and out_channels >= in_channels
    return 'pairs' if thin else 'weight_stationary'


def shared_rows(num: int, like: Tensor) -> int:
    """Rows to multiply instead of `num`: an eighth more at most, eight sizes for each power of two.

    For half precision the CPU's library compiles a kernel for each new size, which takes as long as a small product,
    and keeps a thousand of them; sizes that recur are compiled once. Elsewhere sizes cost nothing.
    """
    if like.device.type != 'cpu' or like.element_size() > 2:
        return num
    step = 1 << max(num.bit_length() - 4, 4)
    return -(-num // step) * step


def _gather(slot: str, x: Tensor, rows: Tensor) -> Tensor:
    """The rows of `x`, then zeros up to `shared_rows`."""
    gathered = scratch(slot, (shared_rows(len(rows), x), x.shape[1]), x)
    gathered[len(rows):] = 0
    torch.index_select(x, 0, rows, out=gathered[:len(rows)])
    return gathered


def _bag_sum(rows: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    """Sum of the rows of each bag, in float32 inside for half precision."""
    return torch.embedding_bag(rows, index, starts, False, 0, False, None, True)[0]


def offset(x: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """One offset at a time: gather, multiply, scatter-add."""
    centre = kernel_map.centre
    out = x.new_zeros(kernel_map.num_out, len(weight)) if centre is None else x @ weight[:, centre].t()
    for k, (ins, outs) in enumerate(zip(kernel_map.in_rows, kernel_map.out_rows)):
        if k != centre and len(ins):
            rows = _gather('rows', x, ins)
            product = torch.mm(rows, weight[:, k].t(), out=scratch('product', (len(rows), len(weight)), x))
            out.index_add_(0, outs, product[:len(ins)])
    return out


def pairs(x: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """All products of a slab of output rows in one buffer, then one sum per output row."""
    row_bytes = kernel_map.num_pairs * len(weight) * x.element_size() / max(kernel_map.num_out, 1)
    slabs = kernel_map.slabs(max(int(SLAB_BYTES / row_bytes), 1))
    centre, sums = kernel_map.centre, []
    for slab in slabs:
        sizes = [len(ins) for ins in slab.in_rows]
        spare = max(shared_rows(size, x) - size for size in sizes)
        products = scratch('products', (sum(sizes) + spare, len(weight)), x)
        first = 0
        for k, ins in enumerate(slab.in_rows):
            if len(ins):
                rows = x[slab.start:slab.start + len(ins)] if k == centre else _gather('rows', x, ins)
                # spare rows lie where the next offset's products will be
                torch.mm(rows, weight[:, k].t(), out=products[first:first + len(rows)])
                first += len(ins)
        sums.append(_bag_sum(products, slab.csr_pos, slab.csr_offset))
    return sums[0] if len(sums) == 1 else torch.cat(sums)


def weight_stationary(x: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Every row times every slice, a block of output channels at a time, then one sum per output row."""
    cout, volume, _ = weight.shape
    block = min(max(BLOCK_BYTES // (len(x) * volume * x.element_size()) // 16 * 16, 16), cout)
    out = x.new_empty(kernel_map.num_out, cout)
    for columns, part in zip(out.split(block, 1), weight.split(block)):
        wide = part.transpose(0, 1).reshape(-1, x.shape[1])  # (K * block, Cin)
        products = torch.mm(x, wide.t(), out=scratch('products', (len(x), len(wide)), x))
        columns.copy_(_bag_sum(products.view(-1, len(part)), kernel_map.csr_flat, kernel_map.csr_offset))
    return out


def implicit(x: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Tiles of output rows: all neighbours side by side, one product."""
    out = x.new_empty(kernel_map.num_out, len(weight))
    _multiply_tiles(_with_zero_row(x), kernel_map.table, weight.flatten(1), out)
    return out


def classes(x: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Inverse convolution: as `implicit`, per position within the stride, with the offsets that can occur there."""
    padded = _with_zero_row(x)
    ordered = scratch('ordered', (kernel_map.num_out, len(weight)), x)
    tables, place = kernel_map.class_tables
    for (offsets, table), part in zip(tables, ordered.split([len(table) for _, table in tables])):
        _multiply_tiles(padded, table, weight[:, offsets].flatten(1), part)
    return ordered.index_select(0, place)


def _with_zero_row(x: Tensor) -> Tensor:
    padded = scratch('padded', (len(x) + 1, x.shape[1]), x)
    padded[:-1] = x
    padded[-1] = 0
    return padded


def _multiply_tiles(padded: Tensor, table: Tensor, weight: Tensor, out: Tensor) -> None:
    """`out` (M, Cout) = rows named by `table` (M, k), side by side, times `weight` (Cout, k * Cin)."""
    if not weight.shape[1]:
        out.zero_()
        return
    for rows, gathered in _tiles(padded, table):
        torch.mm(gathered, weight.t(), out=out[rows])


def _tiles(padded: Tensor, table: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Runs of rows of `table` (M, k), and the rows that they name side by side, (m, k * C)."""
    tile = max(TILE_BYTES // (table.shape[1] * padded.shape[1] * padded.element_size()), 64)
    for first in range(0, len(table), tile):
        rows = table[first:first + tile]
        gathered = scratch('tile', (rows.numel(), padded.shape[1]), padded)
        torch.index_select(padded, 0, rows.flatten(), out=gathered)
        yield slice(first, first + len(rows)), gathered.view(len(rows), -1)


ALGORITHMS = dict(offset=offset, pairs=pairs, weight_stationary=weight_stationary, implicit=implicit, classes=classes)
