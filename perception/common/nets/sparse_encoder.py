"""The sparse 3D encoder of SECOND and CenterPoint: voxels of points to a map seen from above.

Yan Yan, Yuxing Mao, Bo Li. SECOND: Sparsely Embedded Convolutional Detection. Sensors 2018. Residual blocks as in
CenterPoint (Yin, Zhou, Kraehenbuehl, CVPR 2021). Layers are named as in mmdet3d's SparseEncoder with basic blocks,
whose weights load; a voxel is the mean of all its points, of which none is left out.

Shapes: B scans with N points in V voxels, maps of H rows (along y) and W columns (along x).
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.common.nets.blocks import NORM, RowNorm
from perception.common.nets.pillars import join_points
from perception.ops.scatter import scatter_mean
from perception.ops.sparse.modules import SparseConv3d, SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.ops.voxelize import range_shape, range_voxels
from perception.registry import MODELS
from perception.utils.errors import ConfigError

DOWN = (3, 1, 1)  # kernel of the last layer along z, y, x, and twice as far apart along z


@MODELS.register_module()
class SparseEncoder(nn.Module):
    """Stages of residual blocks, halved by all but the last one, then a layer along z; heights become channels.

    Attributes:
        stride: of the map, in voxels.
        out_channels: of the map.

    Args:
        in_channels: columns of a point: x, y, z [m] and further ones.
        point_cloud_range: least x, y, z, greatest x, y, z [m]; other points are left out.
        voxel_size: along x, y, z [m].
        channels: of the stages.
        blocks: residual blocks of each stage.
        paddings: along z, y, x of the layer that halves after a stage, for all but the last one.
        last_channels: of each height of the result.

    Raises:
        ConfigError: a range that voxels do not fill or that does not fit the stride, or too few heights.
    """

    def __init__(self, in_channels: int, point_cloud_range: Sequence[float], voxel_size: Sequence[float],
                 channels: Sequence[int] = (16, 32, 64, 128), blocks: int = 2,
                 paddings: Sequence[int | tuple[int, int, int]] = (1, 1, (0, 1, 1)), last_channels: int = 128):
        super().__init__()
        height, *plane = range_shape(point_cloud_range, voxel_size)
        self.stride = 1 << len(channels) - 1
        if len(paddings) != len(channels) - 1 or any(n % self.stride for n in plane):
            raise ConfigError(f'SparseEncoder: {len(channels)} stages with {len(paddings)} paddings on {plane[1]} x '
                              f'{plane[0]} voxels along x and y, expected one padding less than stages and multiples '
                              f'of {self.stride} voxels. Correct paddings, the range or voxel_size.')
        self.in_channels = in_channels
        self.point_cloud_range, self.voxel_size = tuple(point_cloud_range), tuple(voxel_size)
        self.grid_shape = (height + 1, *plane)  # an empty one on top, as in mmdet3d
        heights = height + 1
        self.conv_input = SparseLayer(SubMConv3d(in_channels, channels[0], 3))
        self.encoder_layers = nn.Sequential()
        for i, width in enumerate(channels):
            stage = [SparseBlock(width) for _ in range(blocks)]
            if i + 1 < len(channels):
                down = SparseConv3d(width, channels[i + 1], 3, stride=2, padding=paddings[i])
                heights = (heights + 2 * down.geometry.padding[0] - 3) // 2 + 1
                stage.append(SparseLayer(down))
            self.encoder_layers.add_module(f'encoder_layer{i + 1}', nn.Sequential(*stage))
        self.conv_out = SparseLayer(SparseConv3d(channels[-1], last_channels, DOWN, stride=(2, 1, 1)))
        self.out_channels = last_channels * ((heights - 3) // 2 + 1)
        if heights < 3:
            raise ConfigError(f'SparseEncoder: {height} voxels along z, of which {max(heights, 0)} remain after '
                              f'{len(channels)} stages, expected at least 3 then. Take lower voxels or fewer stages.')

    def forward(self, points: Sequence[Tensor]) -> Tensor:
        """(N_i, in_channels or more) points of each scan to a (B, out_channels, H, W) map, zero where no voxel is.

        Raises:
            DataError: points of too few columns.
        """
        return self.encode(self.voxelise(points)).dense().flatten(1, 2)

    def voxelise(self, points: Sequence[Tensor]) -> SparseTensor:
        """Points of each scan to the means of their voxels, (V, in_channels); grid axes are z, y, x."""
        table, batch = join_points(points, self.in_channels)
        rows, coords, voxel = range_voxels(table, batch, self.point_cloud_range, self.voxel_size)
        return SparseTensor(scatter_mean(table[rows], voxel, len(coords)), coords, self.grid_shape, len(points))

    def encode(self, voxels: SparseTensor) -> SparseTensor:
        """Voxels to those of the last layer; the first layer works in float32 always, for it reads coordinates."""
        with torch.autocast(voxels.feats.device.type, enabled=False):
            voxels = self.conv_input(voxels)
        return self.conv_out(self.encoder_layers(voxels))


class SparseBlock(nn.Module):
    """Two convolutions that keep the voxels, and a shortcut.

    Args:
        channels: of the input and the output.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.bn1 = SubMConv3d(channels, channels, 3), RowNorm(channels, **NORM)
        self.conv2, self.bn2 = SubMConv3d(channels, channels, 3), RowNorm(channels, **NORM)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, channels) features to (V, channels) features on the same voxels."""
        out = self.conv1(x)
        out = self.conv2(out.replace(F.relu(self.bn1(out.feats))))
        return x.replace(F.relu(self.bn2(out.feats) + x.feats))


class SparseLayer(nn.Sequential):
    """A convolution, and the normalisation and activation of its voxels.

    Args:
        conv: without a bias.
    """

    def __init__(self, conv: SubMConv3d | SparseConv3d):
        super().__init__(conv, RowNorm(conv.out_channels, **NORM))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, Cin) features to (V', Cout) features on the voxels of the convolution."""
        conv, norm = self
        out = conv(x)
        return out.replace(F.relu(norm(out.feats)))
