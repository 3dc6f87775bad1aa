"""The one door to sparse convolution: backend choice, autograd, autocast and counting.

A backend is a module with `forward`, `backward` and `serves` (whether it multiplies such features well).
"""
import importlib
import logging
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from perception.ops.launch import CannotCompile
from perception.ops.sparse import backends
from perception.ops.sparse.backends import torch as torch_backend
from perception.ops.sparse.maps import KernelMap
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError, DataError, MissingDependency

ON_CUDA = ('triton', 'spconv', 'torch')  # the first that is installed and serves
_backend: ModuleType | None = None  # none: chosen for each call


def backend_names() -> list[str]:
    """The backends there are: one file each in `backends/`."""
    return sorted(module.name for module in pkgutil.iter_modules(backends.__path__))


def set_backend(name: str) -> None:
    """Choose who multiplies, for the whole process.

    Args:
        name: 'auto' (on CUDA the first of `ON_CUDA` that is installed and serves, elsewhere torch) or one of
            `backend_names`.

    Raises:
        ConfigError: no such backend.
        MissingDependency: its package is not installed, or Triton's C compiler.
    """
    global _backend
    if name != 'auto' and name not in backend_names():
        raise ConfigError(f'set_backend: {name!r}, expected auto or a file of ops/sparse/backends. '
                          f'{close_matches(name, ["auto", *backend_names()])}')
    _backend = None if name == 'auto' else _load(name)


def _load(name: str) -> ModuleType:
    backend = importlib.import_module(f'perception.ops.sparse.backends.{name}')
    if hasattr(backend, 'load'):
        backend.load()
    return backend


@cache
def _on_cuda() -> list[ModuleType]:
    """The backends of `ON_CUDA` that are installed; one that fails is taken out."""
    found, missing = [], []
    for name in ON_CUDA:
        try:
            found.append(_load(name))
        except MissingDependency:
            missing.append(name)
    print_log(f'sparse convolution on CUDA: {found[0].__name__.rpartition(".")[2]}'
              + (f' ({", ".join(missing)} cannot be loaded, set_backend(NAME) says why)' if missing else ''), 'current')
    return found


def backend_name(device: torch.device) -> str:
    """Who multiplies on a device; on CUDA features that this one does not serve go to the next."""
    backend = _backend or (_on_cuda()[0] if device.type == 'cuda' else torch_backend)
    return backend.__name__.rpartition('.')[2]


def _choose(x: Tensor, algorithm: str | None) -> ModuleType:
    if _backend is not None:
        return _backend
    if not x.is_cuda or algorithm is not None:
        return torch_backend
    return next(backend for backend in _on_cuda() if backend.serves(x))


def _run(what: str, x: Tensor, *args, algorithm: str | None = None):
    """`forward` or `backward` of the backend; where it is chosen by itself and fails to compile, of the next one."""
    while True:
        backend = _choose(x, algorithm)
        try:
            if what == 'forward_finished' and not hasattr(backend, what):
                return args[-1](backend.forward(x, *args[:-1]))
            return getattr(backend, what)(x, *args, *([] if algorithm is None else [algorithm]))
        except CannotCompile as error:
            if _backend is not None:
                raise
            _on_cuda().remove(backend)
            print_log(f'{error}; the next backend takes over', 'current', logging.WARNING)


@dataclass
class MacCount:
    """Multiply-accumulates of the sparse convolutions that ran: `sum of pairs * Cin * Cout`, without biases.

    Attributes:
        layers: per call, pairs, Cin and Cout.
    """
    layers: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Multiply-accumulates of all calls."""
        return sum(pairs * cin * cout for pairs, cin, cout in self.layers)


_counter: ContextVar[MacCount | None] = ContextVar('mac_counter', default=None)


@contextmanager
def count_macs() -> Iterator[MacCount]:
    """Count the multiply-accumulates of every sparse convolution inside the block.

    The rule is that of SPVNAS: size of the kernel map times Cin times Cout.
    """
    token = _counter.set(MacCount())
    try:
        yield _counter.get()
    finally:
        _counter.reset(token)


@dataclass(frozen=True)
class Finish:
    """BatchNorm in evaluation and (leaky) ReLU, which a backend may apply to its sums before it stores them.

    Attributes:
        norm: with weights and running statistics.
        slope: of negative values; 1 for no activation.
        norm_first: BatchNorm, then the activation; else the other way round.
    """
    norm: nn.BatchNorm1d
    slope: float
    norm_first: bool

    def __call__(self, x: Tensor) -> Tensor:
        """(M, C) finished by itself."""
        if self.norm_first:
            return F.leaky_relu(self.norm(x), self.slope)
        return self.norm(F.leaky_relu(x, self.slope))


def can_finish(x: Tensor, conv: nn.Module, norm: nn.Module) -> bool:
    """Whether the backend for these features applies a `Finish` to a convolution, which has no bias then, and nobody
    listens to the layers themselves.
    """
    heard = norm._forward_hooks or norm._forward_pre_hooks or conv._forward_hooks  # as the taps of distillation do
    return (not torch.is_grad_enabled() and not norm.training and getattr(norm, 'running_var', None) is not None
            and norm.weight is not None and getattr(conv, 'bias', None) is None and not heard
            and hasattr(_choose(x, None), 'forward_finished'))


def sparse_conv(x: Tensor, weight: Tensor, kernel_map: KernelMap, bias: Tensor | None = None,
                algorithm: str | None = None, finish: Finish | None = None) -> Tensor:
    """Sparse convolution of features along a kernel map, with gradients.

    Args:
        x: (num_in, Cin) features.
        weight: (Cout, k0, k1, k2, Cin).
        kernel_map: pairs of rows per offset.
        bias: (Cout,).
        algorithm: forces one of the backend's algorithms, for tests and benchmarks.
        finish: what follows, of a layer without bias; only where `can_finish`.

    Returns:
        (num_out, Cout); rows without a pair hold the bias. Under autocast its dtype is autocast's.

    Raises:
        ConfigError: weight and map have different kernels.
        DataError: features that do not fit weight or map.
    """
    if weight.ndim != 5 or weight[0, ..., 0].numel() != kernel_map.volume:
        raise ConfigError(f'sparse_conv: weight of shape {tuple(weight.shape)}, expected (Cout, k0, k1, k2, Cin) with '
                          f'{kernel_map.volume} offsets as in the map. Build the map with the same kernel.')
    if x.ndim != 2 or x.shape[1] != weight.shape[4] or x.shape[0] != kernel_map.num_in:
        raise DataError(f'sparse_conv: features of shape {tuple(x.shape)}, expected ({kernel_map.num_in}, '
                        f'{weight.shape[4]}). Check in_channels and the level of the tensor.')
    counter = _counter.get()
    if counter is not None:
        counter.layers.append((kernel_map.num_pairs, weight.shape[4], weight.shape[0]))
    device = x.device.type
    lowered = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype(device) if lowered else x.dtype
    with torch.autocast(device, enabled=False):
        if finish is not None:
            return _run('forward_finished', x.to(dtype).contiguous(), weight.to(dtype).contiguous(), kernel_map, finish)
        out = _SparseConv.apply(x.to(dtype), weight, kernel_map, algorithm)
        return out if bias is None else out + bias.to(dtype)


class _SparseConv(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, kernel_map: KernelMap, algorithm: str | None) -> Tensor:
        ctx.dtype, weight = weight.dtype, weight.detach().to(x.dtype).contiguous()  # one copy for both passes, not kept
        ctx.save_for_backward(x, weight)
        ctx.kernel_map, ctx.algorithm = kernel_map, algorithm
        return _run('forward', x.contiguous(), weight, kernel_map, algorithm=algorithm)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        grad_x, grad_weight = _run('backward', x.contiguous(), weight, ctx.kernel_map, grad.contiguous(), needs_x,
                                   needs_weight, algorithm=ctx.algorithm)
        return grad_x, grad_weight.to(ctx.dtype) if needs_weight else None, None, None
