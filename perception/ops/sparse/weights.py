"""Weights of other sparse convolution libraries in our layout (Cout, k0, k1, k2, Cin), which is spconv 2's.

Axis names are the file's: k0, k1, k2 follow the coordinate columns of the library's own tensors. A net that orders its
grid differently must permute the three middle axes afterwards.
"""
from math import prod

from torch import Tensor

from perception.ops.sparse.maps import triple
from perception.utils.errors import CheckpointError


def from_spconv1(weight: Tensor) -> Tensor:
    """From spconv 1.x and mmcv, (k0, k1, k2, Cin, Cout).

    Raises:
        CheckpointError: not five axes.
    """
    _check_axes('from_spconv1', weight, '(k0, k1, k2, Cin, Cout)', 5)
    return weight.permute(4, 0, 1, 2, 3).contiguous()


def from_spconv2(weight: Tensor) -> Tensor:
    """From spconv 2.x, (Cout, k0, k1, k2, Cin): nothing changes.

    Raises:
        CheckpointError: not five axes.
    """
    _check_axes('from_spconv2', weight, '(Cout, k0, k1, k2, Cin)', 5)
    return weight.contiguous()


def from_torchsparse(weight: Tensor, kernel_size: int | tuple[int, int, int]) -> Tensor:
    """From TorchSparse, (K, Cin, Cout), or (Cin, Cout) for a kernel of one cell.

    The first coordinate runs fastest in kernels of an odd number of cells, the last one in those of an even number
    (their offsets start at 0 for size 2; in TorchSparse the product of the sizes decides, not each axis).

    Args:
        weight: the file's weight.
        kernel_size: the layer's kernel, which the weight's shape does not tell.

    Raises:
        CheckpointError: a shape that does not fit the kernel.
    """
    kernel_size = triple(kernel_size, 'from_torchsparse: kernel_size')
    if prod(kernel_size) % 2:
        return _from_offsets('from_torchsparse', weight, kernel_size)
    return _from_offsets('from_torchsparse', weight, kernel_size[::-1]).transpose(1, 3).contiguous()


def from_minkowski(weight: Tensor, kernel_size: int | tuple[int, int, int]) -> Tensor:
    """From MinkowskiEngine, (K, Cin, Cout), or (Cin, Cout) for a kernel of one cell.

    The first coordinate runs fastest in all kernels; the offsets of an even size start at 0.

    Args:
        weight: the file's weight.
        kernel_size: the layer's kernel, which the weight's shape does not tell.

    Raises:
        CheckpointError: a shape that does not fit the kernel.
    """
    return _from_offsets('from_minkowski', weight, triple(kernel_size, 'from_minkowski: kernel_size'))


def _from_offsets(where: str, weight: Tensor, kernel_size: tuple[int, int, int]) -> Tensor:
    """(K, Cin, Cout), whose first coordinate runs fastest, to (Cout, k0, k1, k2, Cin)."""
    if weight.ndim == 2:
        weight = weight[None]
    _check_axes(where, weight, '(K, Cin, Cout)', 3)
    if len(weight) != prod(kernel_size):
        raise CheckpointError(f'{where}: {len(weight)} kernel offsets, expected {prod(kernel_size)} for a kernel of '
                              f'{kernel_size}. Pass the kernel size of the layer.')
    return weight.reshape(*kernel_size[::-1], *weight.shape[1:]).permute(4, 2, 1, 0, 3).contiguous()


def _check_axes(where: str, weight: Tensor, layout: str, axes: int) -> None:
    if weight.ndim != axes:
        raise CheckpointError(f'{where}: a weight of shape {tuple(weight.shape)}, expected {layout}. The file probably '
                              'comes from another library; use its converter.')
