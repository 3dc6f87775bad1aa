"""Sparse convolution by spconv's native kernels on our own kernel maps.

On a CPU spconv adds rows without protection, so with more than one thread some sums are wrong, which is refused, and it
has no gradients there; it serves as a peer. On CUDA it has float16 and float32 kernels with gradients.
"""
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from perception.ops.sparse.maps import KernelMap
from perception.utils.errors import ConfigError
from perception.utils.optional import import_optional

_tables: WeakIdKeyDictionary = WeakIdKeyDictionary()


def load() -> None:
    """Import spconv.

    Raises:
        MissingDependency: it is not installed.
    """
    _ops()


def serves(x: Tensor) -> bool:
    """Whether spconv has kernels for these features, and may sum in any order."""
    built = import_optional('spconv.cppconstants', "set_backend('spconv')", 'pip install spconv==2.3.8')
    return (x.dtype in (torch.float32, torch.float16) and not torch.are_deterministic_algorithms_enabled()
            and not (x.is_cuda and built.CPU_ONLY_BUILD))


def _ops():
    return import_optional('spconv.pytorch.ops', "set_backend('spconv')", 'pip install spconv==2.3.8')


def forward(x: Tensor, weight: Tensor, kernel_map: KernelMap, algorithm: str | None = None) -> Tensor:
    """(num_in, Cin) features times (Cout, k0, k1, k2, Cin) weights of the same dtype to (num_out, Cout).

    Raises:
        ConfigError: an algorithm of another backend, a dtype without kernels, or several threads of a CPU.
    """
    if algorithm is not None:
        raise ConfigError(f"sparse_conv: algorithm {algorithm!r} with the backend 'spconv', expected None. "
                          "Algorithms belong to set_backend('torch').")
    half = torch.float16 if x.is_cuda else torch.float32
    if x.dtype not in (torch.float32, half):
        raise ConfigError(f"sparse_conv: {x.dtype} on {x.device.type} with the backend 'spconv', expected float32 or, "
                          "on CUDA, float16. Use set_backend('torch').")
    if not x.is_cuda and torch.get_num_threads() > 1:
        raise ConfigError(f"sparse_conv: {torch.get_num_threads()} threads on a CPU with the backend 'spconv', some of "
                          "whose sums would be wrong, expected one. Call torch.set_num_threads(1), or use "
                          "set_backend('torch').")
    if not kernel_map.num_pairs:
        return x.new_zeros(kernel_map.num_out, len(weight))
    pairs, sizes = pair_table(kernel_map)
    return _ops().indice_conv(x, weight, pairs, sizes, kernel_map.num_out)


def backward(x: Tensor, weight: Tensor, kernel_map: KernelMap, grad: Tensor, needs_x: bool, needs_weight: bool,
             algorithm: str | None = None) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of features and weight, given (num_out, Cout) of the output; on CUDA only.

    Raises:
        ConfigError: on a CPU.
    """
    if not x.is_cuda:
        raise ConfigError("sparse_conv: a gradient on the CPU with the backend 'spconv', which has none there, "
                          "expected CUDA. Train with set_backend('torch').")
    if not kernel_map.num_pairs:
        return (torch.zeros_like(x) if needs_x else None), (torch.zeros_like(weight) if needs_weight else None)
    pairs, sizes = pair_table(kernel_map)
    grad_x, grad_weight = _ops().indice_conv_backward(x, weight, grad, pairs, sizes)
    return (grad_x if needs_x else None), (grad_weight.view(weight.shape) if needs_weight else None)


def pair_table(kernel_map: KernelMap) -> tuple[Tensor, Tensor]:
    """spconv's form of a map: (2, K, largest P_k) int32 pairs filled up with -1, and (K,) int32 counts."""
    known = _tables.get(kernel_map)
    if known is None:
        device = kernel_map.in_rows[0].device
        pairs = torch.full((2, kernel_map.volume, max(kernel_map.sizes)), -1, dtype=torch.int32, device=device)
        for k, size in enumerate(kernel_map.sizes):
            pairs[0, k, :size] = kernel_map.in_rows[k]
            pairs[1, k, :size] = kernel_map.out_rows[k]
        known = _tables[kernel_map] = (pairs, torch.tensor(kernel_map.sizes, dtype=torch.int32, device=device))
    return known
