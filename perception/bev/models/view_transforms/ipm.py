"""Cells of the grid fetch their features from the cameras that see them; no depth is guessed.

* `IPM`, inverse perspective mapping: each image is warped onto planes of known height by the homography that the
  calibration gives. One plane is the ground; several stand for what rises above it.
* `VoxelPull`: the middles of voxels in evenly spaced layers fetch, as in OFT (Thomas Roddick, Alex Kendall, Roberto
  Cipolla, BMVC 2019), M2BEV (Enze Xie et al., 2022) and Simple-BEV (Adam W. Harley et al., ICRA 2023): every depth
  along a ray gets the same features.

A point fetches by bilinear interpolation and takes the mean of the cameras that see it; only such pairs of a point and
a camera are computed. That is a pooling of rows with weights from the calibration, see `perception/ops/bev_pool.py`.

Shapes: B samples, N cameras, C channels, features of h x w, K planes or layers, a grid of Y x X cells.
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.bev.geometry import BEVGrid, CameraGeometry
from perception.bev.models.view_transforms.base import BEVFeatures, ViewTransform
from perception.common.nets.blocks import cell_size, conv_bn_relu
from perception.ops.bev_pool import Ranks, pool_rows
from perception.registry import MODELS
from perception.utils.errors import ConfigError


class FeaturePull(ViewTransform):
    """Base of transforms that fetch features at points over each cell.

    Args:
        in_channels: of the image features.
        out_channels: of the grid's features.
        grid: arguments of a BEVGrid: x, y, z.
        heights: K, of the points above the frame's origin [m].
        kernel_size: of the convolution that joins the heights.
        mid_channels: to which a 1 x 1 convolution takes the image features first; None leaves them as they are.

    Raises:
        ConfigError: a range that cells do not fill, or no height.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: dict[str, Sequence[float]], heights: Sequence[float],
                 kernel_size: int, mid_channels: int | None):
        super().__init__(in_channels, out_channels, grid)
        if not len(heights):
            raise ConfigError(f'{type(self).__name__}: no heights, expected one at least. Give them in metres.')
        self.heights = [float(height) for height in heights]
        channels = mid_channels or in_channels
        self.reduce = nn.Identity() if mid_channels is None else nn.Conv2d(in_channels, mid_channels, 1)
        self.join = conv_bn_relu(channels * len(self.heights), out_channels, kernel_size)

    def forward(self, features: Tensor, geometry: CameraGeometry) -> BEVFeatures:
        """Features (B, N, in_channels, h, w) to `bev` (B, out_channels, Y, X).

        Raises:
            DataError: features of other cameras.
        """
        self.check(features, geometry)
        maps = self.reduce(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return BEVFeatures(self.join(self.pull(maps, *self.ranks(geometry, features.shape[3:]))))

    def pull(self, maps: Tensor, ranks: Ranks, weights: Tensor) -> Tensor:
        """(B, N, C, h, w) to (B, K C, Y, X), what each point sees, zero where no camera does.

        Args:
            maps: features.
            ranks: of `make_ranks`.
            weights: of `make_ranks`.
        """
        pulled = pool_rows(weights, maps.movedim(2, -1).flatten(0, 3), ranks)
        return pulled.unflatten(0, ranks.shape).permute(0, 1, 4, 2, 3).flatten(1, 2)

    def make_ranks(self, geometry: CameraGeometry, feature_size: Sequence[int]) -> tuple[Ranks, Tensor]:
        """Which features each point takes, and how much of each.

        A point takes four of each camera that sees it. Beyond the middles of the outermost ones it takes these.

        Returns:
            ranks of rows (B, N, h, w) and bags (B, K, Y, X), and the weights of the pairs.
        """
        points = self.points(geometry)
        shape = (len(points), len(self.heights), *self.grid.shape)
        uv, _, visible = geometry.project(points)
        samples, point, camera = visible.transpose(1, 2).nonzero().T  # pairs by sample, point, camera
        uv = uv[samples, camera, point]
        share = 1. / visible.sum(1)[samples, point]
        first, rest, last = [], [], []
        for axis, (cells, pixels) in enumerate(zip(feature_size[::-1], geometry.size[::-1])):
            place = ((uv[:, axis] + .5) / cell_size(pixels, cells) - .5).clamp(0, cells - 1)
            first.append(place.long().clamp(max=max(cells - 2, 0)))
            rest.append(place - first[-1])
            last.append(cells - 1)
        height, width = feature_size
        row = (samples * visible.shape[1] + camera) * height
        rows, weights = [], []
        for down in (0, 1):
            for right in (0, 1):
                column, line = (first[i] + step for i, step in enumerate((right, down)))
                rows.append((row + line.clamp(max=last[1])) * width + column.clamp(max=last[0]))
                weights.append(share * (rest[0] if right else 1 - rest[0]) * (rest[1] if down else 1 - rest[1]))
        rows, weights = torch.stack(rows, dim=1).reshape(-1), torch.stack(weights, dim=1).reshape(-1)
        bags = (samples * points.shape[1] + point).repeat_interleave(4)
        ranks = Ranks(bags, rows, torch.arange(len(rows), device=rows.device), visible.shape[0] * visible.shape[1]
                      * height * width, len(rows), shape)
        return ranks, weights

    def points(self, geometry: CameraGeometry) -> Tensor:
        """(B, K Y X, 3) float32 x, y, z [m] of the augmented frame."""
        centres, heights = self.grid.centres(geometry.device), self.point_heights(geometry)
        flat = centres.expand(*heights.shape, *centres.shape)
        return torch.cat([flat, heights[..., None, None, None].expand(*flat.shape[:-1], 1)], dim=-1).flatten(1, 3)

    def point_heights(self, geometry: CameraGeometry) -> Tensor:
        """(B, K) float32 z [m] in the augmented frame."""
        return torch.tensor(self.heights, device=geometry.device).expand(len(geometry.bev_aug), -1)


@MODELS.register_module()
class IPM(FeaturePull):
    """Images warped onto planes by homographies; planes are stacked as channels and joined by a 1 x 1 convolution.

    Args:
        in_channels: of the image features.
        out_channels: of the grid's features.
        grid: arguments of a BEVGrid: x, y, z.
        heights: of the planes [m] in the frame before augmentation; the ground lies 1.84 m below nuScenes' LiDAR.
        mid_channels: to which a 1 x 1 convolution takes the image features first; None leaves them as they are.

    Raises:
        ConfigError: a range that cells do not fill, or no height.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: dict[str, Sequence[float]],
                 heights: Sequence[float] = (-1.84,), mid_channels: int | None = None):
        super().__init__(in_channels, out_channels, grid, heights, 1, mid_channels)

    def point_heights(self, geometry: CameraGeometry) -> Tensor:
        """(B, K) float32 z [m] in the augmented frame: planes are scaled and shifted with the frame."""
        heights = super().point_heights(geometry)
        return heights * geometry.bev_aug[:, 2, 2:3].float() + geometry.bev_aug[:, 2, 3:].float()


@MODELS.register_module()
class VoxelPull(FeaturePull):
    """Voxels in even layers from the grid's least to its greatest z, joined by a 3 x 3 convolution.

    Args:
        in_channels: of the image features.
        out_channels: of the grid's features.
        grid: arguments of a BEVGrid: x, y, z.
        layers: K.
        mid_channels: to which a 1 x 1 convolution takes the image features first; None leaves them as they are.

    Raises:
        ConfigError: a range that cells do not fill, or no layer.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: dict[str, Sequence[float]], layers: int = 4,
                 mid_channels: int | None = None):
        low, high = BEVGrid(**grid).z
        heights = [low + (i + .5) * (high - low) / layers for i in range(layers)]
        super().__init__(in_channels, out_channels, grid, heights, 3, mid_channels)
