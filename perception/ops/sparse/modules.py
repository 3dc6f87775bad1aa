"""Sparse convolution layers; weights are stored (Cout, k0, k1, k2, Cin), the layout of spconv 2."""
import math

import torch
from torch import Tensor, nn

from perception.ops.sparse.functional import Finish, sparse_conv
from perception.ops.sparse.maps import Geometry, NamedConv, triple
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.errors import ConfigError


class _SparseConv(nn.Module):
    """Weight, bias and initialisation (as of a dense convolution) of all three layers."""

    in_axis = 4  # of the weight, along the inputs

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int, int],
                 bias: bool) -> None:
        super().__init__()
        self.kernel_size = triple(kernel_size, f'{type(self).__name__}: kernel_size')
        for what, value in (('in_channels', in_channels), ('out_channels', out_channels),
                            ('kernel_size', min(self.kernel_size))):
            if value < 1:
                raise ConfigError(f'{type(self).__name__}: {what} {value}, expected at least 1. '
                                  'Pass a positive number.')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel_size, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(fan in), weight and bias."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """Channels and kernel."""
        return f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, bias={self.bias is not None}'


class SubMConv3d(_SparseConv):
    """Sub-manifold convolution: the output has the voxels of the input; padding is `dilation * (kernel_size // 2)`.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: odd, one number or one per axis.
        dilation: one number or one per axis.
        bias: add a bias.

    Raises:
        ConfigError: an even kernel or a channel count below 1.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int, int],
                 dilation: int | tuple[int, int, int] = 1, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias)
        self.dilation = triple(dilation, 'SubMConv3d: dilation')
        if not all(k % 2 for k in self.kernel_size) or min(self.dilation) < 1:
            raise ConfigError(f'SubMConv3d: kernel {self.kernel_size} with dilation {self.dilation}, expected odd '
                              'sizes and dilations of at least 1. Use SparseConv3d for even kernels.')

    def forward(self, x: SparseTensor, finish: Finish | None = None) -> SparseTensor:
        """(V, Cin) features to (V, Cout) features on the same voxels."""
        kernel_map = x.voxels.subm_map(self.kernel_size, self.dilation)
        return x.replace(sparse_conv(x.feats, self.weight, kernel_map, self.bias, finish=finish))


class SparseConv3d(_SparseConv):
    """Strided convolution: the output has every voxel that some window touches.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: one number or one per axis.
        stride: one number or one per axis.
        padding: one number or one per axis.
        dilation: one number or one per axis.
        bias: add a bias.
        name: lets a `SparseInverseConv3d` undo this layer.

    Raises:
        ConfigError: sizes that cannot work.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int, int],
                 stride: int | tuple[int, int, int] = 1, padding: int | tuple[int, int, int] = 0,
                 dilation: int | tuple[int, int, int] = 1, bias: bool = False, name: str | None = None) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias)
        self.geometry = Geometry(self.kernel_size, triple(stride, 'SparseConv3d: stride'),
                                 triple(padding, 'SparseConv3d: padding'), triple(dilation, 'SparseConv3d: dilation'))
        self.name = name
        if min(self.geometry.stride) < 1 or min(self.geometry.padding) < 0 or min(self.geometry.dilation) < 1:
            raise ConfigError(f'SparseConv3d: {self.geometry}, expected stride and dilation of at least 1 and no '
                              'negative padding. Correct the numbers.')

    def forward(self, x: SparseTensor, finish: Finish | None = None) -> SparseTensor:
        """(V, Cin) features to (V', Cout) features on the coarser grid, rows sorted."""
        target, kernel_map = x.voxels.strided_map(self.geometry)
        if self.name is not None:
            x.remember(self.name, self.geometry, NamedConv(self.geometry, x.voxels, target, kernel_map))
        return x.replace(sparse_conv(x.feats, self.weight, kernel_map, self.bias, finish=finish), target)


class SparseInverseConv3d(_SparseConv):
    """Transposed convolution back to the voxels that a named `SparseConv3d` came from; same pairs, same offsets.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        name: the name of the strided layer.
        kernel_size: that layer's kernel.
        bias: add a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, name: str, kernel_size: int | tuple[int, int, int] = 3,
                 bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias)
        self.name = name

    def forward(self, x: SparseTensor, finish: Finish | None = None) -> SparseTensor:
        """(V', Cin) features to (V, Cout) features on the finer grid, rows in the order of its tensor.

        Raises:
            ConfigError: unknown name, another kernel, or an input that is not on the named layer's output voxels.
        """
        named = x.recall(self.name)
        if named.geometry.kernel_size != self.kernel_size:
            raise ConfigError(f'SparseInverseConv3d: kernel {self.kernel_size} for {self.name!r}, expected '
                              f'{named.geometry.kernel_size} as in that layer. Pass the same kernel_size.')
        if x.voxels is not named.target:
            raise ConfigError(f'SparseInverseConv3d: input on a grid of {x.grid_shape} with {len(x.voxels)} voxels, '
                              f'expected the {len(named.target)} output voxels of {self.name!r} on a grid of '
                              f'{named.target.grid_shape}. Name the layer that made this level.')
        feats: Tensor = sparse_conv(x.feats, self.weight, named.kernel_map.transposed(), self.bias,
                                    finish=finish)
        return x.replace(feats, named.source)
