"""Sparse convolution as Triton kernels for CUDA: an implicit matrix product that keeps its sums in registers.

A program owns a tile of output rows and a block of output channels. It walks over the kernel offsets that occur in its
tile, gathers their input rows, multiplies and stores once; there is no buffer of gathered rows and nothing is added by
atomics, so the same call gives the same bits. Rows are sorted by the set of offsets that they have, so that the rows of
a tile miss the same offsets and these are skipped. The sets stand in the order of a Gray code, whose neighbours differ
least. The gradient of the features is the same kernel with the transposed weight on the transposed map; that of the
weight sums over the exact pairs of an offset, in pieces of fixed length which are added in order. Sums are float32;
float32 factors are split into three tf32 ones (about float32's own rounding) or rounded to tf32 where
`torch.backends.cuda.matmul.allow_tf32` says so.

What depends on the map alone, see `Plan`, is made once per map and stays on the device: no call waits for it. With
`TRITON_INTERPRET=1` in the environment before Triton is imported the kernels run on tensors of a CPU, for tests.

Shapes: N input rows, M output rows, K offsets, T tiles.
"""
import math
import os
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from perception.ops.launch import launch
from perception.ops.sparse.maps import KernelMap
from perception.utils.errors import ConfigError, MissingDependency
from perception.utils.optional import has_triton, import_optional

if TYPE_CHECKING:
    from perception.ops.sparse.functional import Finish

ROWS = 64  # output rows of a tile
PAIRS = 32  # pairs that the gradient of the weight multiplies at once
MASK_BITS = 62  # kernels of more offsets are not sorted by what they miss
MAX_PARTIAL = 64 * 2**20  # numbers of the pieces of a weight's gradient

_plans: WeakIdKeyDictionary = WeakIdKeyDictionary()


def load() -> None:
    """Import Triton.

    Raises:
        MissingDependency: it is not installed, or there is no C compiler, with which it starts its programs.
    """
    _kernels()
    if not has_triton():
        raise MissingDependency("set_backend('triton'): no C compiler, expected gcc or clang. Run `apt-get install "
                                'gcc` or set CC.')


def serves(x: Tensor) -> bool:
    """Whether Triton multiplies these features well: half precision by tensor cores, which it uses from sm_80 on."""
    return x.dtype == torch.float32 or (x.dtype in (torch.float16, torch.bfloat16) and _device(x.device).tensor_cores)


def forward(x: Tensor, weight: Tensor, kernel_map: KernelMap, algorithm: str | None = None) -> Tensor:
    """(N, Cin) features times (Cout, k0, k1, k2, Cin) weights of the same dtype to (M, Cout).

    Raises:
        ConfigError: an algorithm of another backend, or features on a CPU outside Triton's interpreter.
        CannotCompile: Triton has no program for this device.
    """
    if algorithm is not None:
        raise ConfigError(f"sparse_conv: algorithm {algorithm!r} with the backend 'triton', expected None. "
                          "Algorithms belong to set_backend('torch').")
    if not x.is_cuda and os.environ.get('TRITON_INTERPRET') != '1':
        raise ConfigError(f"sparse_conv: features on {x.device.type} with the backend 'triton', expected CUDA. Use "
                          "set_backend('auto').")
    return _product(x, weight.flatten(1, 3), kernel_map)


def forward_finished(x: Tensor, weight: Tensor, kernel_map: KernelMap, finish: 'Finish') -> Tensor:
    """`forward`, then BatchNorm and activation on the float32 sums before they are rounded and stored.

    Raises:
        CannotCompile: Triton has no program for this device.
    """
    return _product(x, weight.flatten(1, 3), kernel_map, finish=finish)


def backward(x: Tensor, weight: Tensor, kernel_map: KernelMap, grad: Tensor, needs_x: bool, needs_weight: bool,
             algorithm: str | None = None) -> tuple[Tensor | None, Tensor | None]:
    """Gradients (N, Cin) of the features and (Cout, k0, k1, k2, Cin) of the weight, given (M, Cout) of the output.

    Raises:
        CannotCompile: Triton has no program for this device.
    """
    grad_x = grad_weight = None
    if needs_x:
        turned = weight.flatten(1, 3).permute(2, 1, 0)  # (Cin, K, Cout)
        mirrored = kernel_map.kind == 'subm'  # the other half of the offsets mirrors the first: same map, reversed
        grad_x = _product(grad, turned, kernel_map if mirrored else kernel_map.transposed(), mirrored)
    if needs_weight:
        grad_weight = _weight_gradient(x, grad, kernel_map).view(weight.shape)
    return grad_x, grad_weight


class Plan:
    """What the kernels read of a map.

    Attributes:
        order: (M,) int32 output rows, those with the same offsets together.
        rows: (K, T * ROWS) int32 input row of each output row in that order, N where there is none.
        live: (T, K) int32 offsets that occur in a tile, ascending, then anything.
        counts: (T,) int32 how many.
    """

    def __init__(self, kernel_map: KernelMap) -> None:
        self.num_in, self.neighbours = kernel_map.num_in, kernel_map.neighbours
        volume, num_out = self.neighbours.shape
        device, kernels = self.neighbours.device, _kernels()
        tiles = -(-num_out // ROWS)
        if 1 < volume <= MASK_BITS and tiles > 1:
            masks = torch.empty(num_out, dtype=torch.int64 if volume > 31 else torch.int32, device=device)
            _launch(kernels.mask, (-(-num_out // 256),), self.neighbours, masks, _bits(volume, device), self.num_in,
                    num_out, volume, SIZE=256)
            self.order = torch.sort(masks, stable=True)[1].int()
        else:
            self.order = torch.arange(num_out, dtype=torch.int32, device=device)
        self.rows = self.order.new_empty(volume, tiles * ROWS)
        self.live, self.counts = self.order.new_empty(tiles, volume), self.order.new_empty(tiles)
        _launch(kernels.arrange, (tiles,), self.neighbours, self.order, self.rows, self.live, self.counts,
                self.num_in, num_out, volume, ROWS=ROWS)
        self._pairs: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Input and output rows of the pairs, (K, M) int32 each; (K,) int32, how many columns of a row are in use."""
        if self._pairs is None:
            volume, num_out = self.neighbours.shape
            ins, outs = self.order.new_empty(2, volume, num_out)
            counts = self.order.new_empty(volume)
            _launch(_kernels().pair, (volume,), self.neighbours, ins, outs, counts, self.num_in, num_out, SIZE=4096,
                    num_warps=8)
            self._pairs = ins, outs, counts
        return self._pairs


def plan_of(kernel_map: KernelMap) -> Plan:
    """The plan of a map, made once."""
    if kernel_map not in _plans:
        _plans[kernel_map] = Plan(kernel_map)
    return _plans[kernel_map]


@cache
def _bits(volume: int, device: torch.device) -> Tensor:
    """(volume,) int32 bit of each offset in the mask of a row: the rarer, the higher. In kernels of three cells an axis
    those are rare that leave the middle along more axes, of these the ones that leave it along the last one, height.
    """
    axes = round(math.log(volume, 3))
    if 3**axes != volume:
        return torch.arange(volume, dtype=torch.int32, device=device)
    away = torch.cartesian_prod(*[torch.arange(3, device=device)] * axes).view(volume, axes) != 1
    return (2 * away.sum(1) + away[:, -1]).argsort(stable=True).argsort().int()


def _product(x: Tensor, weight: Tensor, kernel_map: KernelMap, mirrored: bool = False,
             finish: 'Finish | None' = None) -> Tensor:
    """(N, C) features times a (W, K, C) view of the weight, its offsets reversed if `mirrored`, to (M, W)."""
    norm = finish and finish.norm
    tail = (norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps, finish.slope) if finish else (
        x, x, x, x, 0., 1.)  # not read
    plan, (width, volume, channels) = plan_of(kernel_map), weight.shape
    out = x.new_empty(kernel_map.num_out, width)
    if not out.numel():
        return out
    half = x.element_size() < 4
    wide, deep = _block(width, 128 if half else 64), _block(channels, 64 if half else 32)
    # a step waits for its offset, then for the rows' numbers, then for the rows: two steps ahead are six stages
    stages = 7 if 3 * (ROWS + wide) * deep * x.element_size() <= _device(x.device).shared else 4
    _launch(_kernels().product, (len(plan.counts), -(-width // wide)), x, weight, out, plan.rows, plan.order, plan.live,
            plan.counts, kernel_map.num_in, kernel_map.num_out, plan.rows.shape[1], channels, width, volume,
            -(-channels // deep), *weight.stride(), *tail, MIRRORED=mirrored,
            FINISH=('norm' if finish.norm_first else 'activation') if finish else '', ROWS=ROWS, WIDE=wide, DEEP=deep,
            PRECISION=_precision(x), num_stages=stages, num_warps=4)
    return out


def _weight_gradient(x: Tensor, grad: Tensor, kernel_map: KernelMap) -> Tensor:
    """(W, K, C) sums over the pairs of each offset, float32 (float64 of float64)."""
    (ins, outs, counts), width, channels = plan_of(kernel_map).pairs, grad.shape[1], x.shape[1]
    volume, num_out, sums = kernel_map.volume, kernel_map.num_out, torch.promote_types(x.dtype, torch.float32)
    wide, deep = _block(width, 64), _block(channels, 64)
    blocks = -(-width // wide), -(-channels // deep)
    device, size = _device(x.device), width * volume * channels
    pieces = -(-4 * device.processors // (volume * blocks[0] * blocks[1]))  # a few programs for each processor
    pieces = max(1, min(pieces, num_out // (4 * PAIRS), MAX_PARTIAL // max(size, 1)))
    out = x.new_empty(pieces, width, volume, channels, dtype=sums)
    if out.numel():
        _launch(_kernels().weight_gradient, (volume * pieces, *blocks), x, grad, out, ins, outs, counts, channels,
                width, volume, num_out, -(-num_out // pieces), PAIRS=PAIRS, WIDE=wide, DEEP=deep,
                PRECISION=_precision(x), num_stages=5, num_warps=4)  # two steps ahead
    return out.sum(0) if pieces > 1 else out[0]


def _block(channels: int, most: int) -> int:
    """Channels of a block: a power of two of at least 16, the least that tensor cores take."""
    return min(max(1 << (channels - 1).bit_length(), 16), most)


def _precision(x: Tensor) -> str:
    if x.dtype != torch.float32 or not _device(x.device).tensor_cores:
        return 'ieee'
    return 'tf32' if torch.backends.cuda.matmul.allow_tf32 else 'tf32x3'


@cache
def _device(device: torch.device) -> SimpleNamespace:
    """Shared memory of a block [bytes], multiprocessors, and whether Triton uses tensor cores."""
    if device.type == 'cpu':
        return SimpleNamespace(shared=2**16, processors=16, tensor_cores=False)
    found = torch.cuda.get_device_properties(device)
    return SimpleNamespace(shared=found.shared_memory_per_block_optin, processors=found.multi_processor_count,
                           tensor_cores=found.major >= 8)


def _launch(kernel, grid: tuple[int, ...], *args, **options) -> None:
    launch('sparse_conv', kernel, grid, *args, **options)


@cache
def _kernels() -> SimpleNamespace:
    global tl  # where Triton before 3.4 looks for what kernels name
    triton = import_optional('triton', "set_backend('triton')", 'pip install triton')
    tl = import_optional('triton.language', "set_backend('triton')", 'pip install triton')
    # a number that is a multiple of 16 by chance must not cost a program of its own
    kernel = triton.jit(do_not_specialize=('num_in', 'num_out', 'volume', 'chunks', 'length',
                                            'epsilon', 'slope'))

    @kernel
    def mask(neighbours, masks, places, num_in, num_out, volume, SIZE: tl.constexpr):
        """A bit for each offset that a row has, all of them read as a Gray code."""
        row = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
        bits = tl.zeros((SIZE,), dtype=tl.int64)
        for k in range(volume):
            there = tl.load(neighbours + k * num_out + row, mask=row < num_out, other=num_in) < num_in
            bits = bits | (there.to(tl.int64) << tl.load(places + k))
        for step in tl.static_range(6):
            bits = bits ^ (bits >> (1 << step))
        tl.store(masks + row, bits.to(masks.dtype.element_ty), mask=row < num_out)

    @kernel
    def arrange(neighbours, order, rows, live, counts, num_in, num_out, volume, ROWS: tl.constexpr):
        """The neighbours of a tile's rows, and the offsets that occur."""
        tile = tl.program_id(0)
        place = tile * ROWS + tl.arange(0, ROWS)
        row = tl.load(order + place, mask=place < num_out, other=0)
        count = 0
        for k in range(volume):
            found = tl.load(neighbours + k * num_out + row, mask=place < num_out, other=num_in)
            tl.store(rows + k * tl.num_programs(0) * ROWS + place, found)
            tl.store(live + tile * volume + count, k)  # the next one that occurs takes its place if it does not
            count += tl.max((found < num_in).to(tl.int32), axis=0)
        tl.store(counts + tile, count)

    @kernel
    def pair(neighbours, ins, outs, counts, num_in, num_out, SIZE: tl.constexpr):
        """The pairs of an offset, in the order of output rows."""
        k, count = tl.program_id(0), 0
        for start in range(0, num_out, SIZE):
            row = start + tl.arange(0, SIZE)
            found = tl.load(neighbours + k * num_out + row, mask=row < num_out, other=num_in)
            there = (found < num_in).to(tl.int32)
            place = k * num_out + count + tl.cumsum(there, axis=0) - 1
            tl.store(ins + place, found, mask=there > 0)
            tl.store(outs + place, row, mask=there > 0)
            count += tl.sum(there, axis=0)
        tl.store(counts + k, count)

    @kernel
    def product(x, weight, out, rows, order, live, counts, num_in, num_out, padded, channels, width, volume, chunks,
                stride_width, stride_offset, stride_channel, mean, variance, scale, shift, epsilon, slope,
                MIRRORED: tl.constexpr, FINISH: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
                DEEP: tl.constexpr, PRECISION: tl.constexpr):
        """A tile of output rows; a step is one offset and DEEP input channels."""
        tile = tl.program_id(0)
        place = tile * ROWS + tl.arange(0, ROWS)
        column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
        total = tl.zeros((ROWS, WIDE), dtype=tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)
        for step in range(tl.load(counts + tile) * chunks):
            k = tl.load(live + tile * volume + step // chunks)
            channel = (step % chunks) * DEEP + tl.arange(0, DEEP)
            row = tl.load(rows + k * padded + place).to(tl.int64)
            gathered = tl.load(x + row[:, None] * channels + channel[None, :],
                               mask=(row < num_in)[:, None] & (channel < channels)[None, :], other=0.)
            if MIRRORED:
                k = volume - 1 - k
            factor = tl.load(weight + k * stride_offset + channel[:, None] * stride_channel
                             + column[None, :] * stride_width,
                             mask=(channel < channels)[:, None] & (column < width)[None, :], other=0.)
            total = tl.dot(gathered, factor, total, input_precision=PRECISION, out_dtype=total.dtype)
        if FINISH == 'activation':
            total = tl.where(total > 0, total, total * slope)
        if FINISH != '':
            there = column < width
            spread = tl.sqrt(tl.load(variance + column, mask=there, other=1.).to(tl.float32) + epsilon)
            gain = tl.load(scale + column, mask=there, other=0.).to(tl.float32) / spread
            total = (total - tl.load(mean + column, mask=there, other=0.)[None, :]) * gain[None, :]
            total += tl.load(shift + column, mask=there, other=0.)[None, :]
        if FINISH == 'norm':
            total = tl.where(total > 0, total, total * slope)
        row = tl.load(order + place, mask=place < num_out, other=0).to(tl.int64)
        tl.store(out + row[:, None] * width + column[None, :], total.to(out.dtype.element_ty),
                 mask=(place < num_out)[:, None] & (column < width)[None, :])

    @kernel
    def weight_gradient(x, grad, out, ins, outs, counts, channels, width, volume, num_out, length,
                        PAIRS: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr, PRECISION: tl.constexpr):
        """A piece of the pairs of an offset, WIDE output channels and DEEP input channels."""
        k, piece = tl.program_id(0) % volume, tl.program_id(0) // volume
        column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
        channel = tl.program_id(2) * DEEP + tl.arange(0, DEEP)
        first = k * num_out + piece * length
        last = tl.minimum(first + length, k * num_out + tl.load(counts + k))
        total = tl.zeros((WIDE, DEEP), dtype=out.dtype.element_ty)
        for start in range(first, last, PAIRS):
            pair = start + tl.arange(0, PAIRS)
            row_in = tl.load(ins + pair, mask=pair < last, other=0).to(tl.int64)
            row_out = tl.load(outs + pair, mask=pair < last, other=0).to(tl.int64)
            left = tl.load(grad + row_out[:, None] * width + column[None, :],
                           mask=(pair < last)[:, None] & (column < width)[None, :], other=0.)
            right = tl.load(x + row_in[:, None] * channels + channel[None, :],
                            mask=(pair < last)[:, None] & (channel < channels)[None, :], other=0.)
            total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION, out_dtype=total.dtype)
        cell = ((piece * width + column[:, None]).to(tl.int64) * volume + k) * channels + channel[None, :]
        tl.store(out + cell, total, mask=(column < width)[:, None] & (channel < channels)[None, :])

    return SimpleNamespace(mask=mask, arrange=arrange, pair=pair, product=product, weight_gradient=weight_gradient)
