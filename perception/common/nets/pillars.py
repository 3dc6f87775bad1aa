"""PointPillars: Fast Encoders for Object Detection from Point Clouds, with all points of every pillar.

Alex H. Lang, Sourabh Vora, Holger Caesar, Lubing Zhou, Jiong Yang, Oscar Beijbom. CVPR 2019. Published code keeps the
first 20 or so points of a pillar, in which near people vanish; here none is lost. Layers are named as in mmdet3d's
PillarFeatureNet, whose weights load.

Shapes: B scans with N points in V pillars, maps of H rows (along y) and W columns (along x).
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.common.nets.blocks import NORM, RowNorm
from perception.ops.scatter import scatter_max, scatter_mean
from perception.ops.voxelize import range_shape, range_voxels
from perception.registry import MODELS
from perception.utils.errors import ConfigError, DataError


@MODELS.register_module()
class PillarEncoder(nn.Module):
    """A small net for each point, the maximum over each pillar, and the pillars as a map.

    A point's features are its own columns, its way from the mean of its pillar's points and from the pillar's middle.

    Attributes:
        out_channels: of the map.

    Args:
        in_channels: columns of a point: x, y, z [m] and further ones.
        point_cloud_range: least x, y, z, greatest x, y, z [m]; other points are left out.
        voxel_size: of a pillar along x, y, z [m], as high as the range.
        channels: of the layers; all but the last one are fed half by the point, half by its pillar.
        legacy: leave the coordinates themselves out and have the way from the middle twice, as older weights do.
        with_distance: also the distance of the point, in the coordinates that `legacy` says.
        pad_below: pillars with fewer points have one more that is all zeros. Published weights learned from pillars
            that were filled up like this to 20 or so points.

    Raises:
        ConfigError: a range that pillars do not fill, or columns without x, y, z.
    """

    def __init__(self, in_channels: int, point_cloud_range: Sequence[float], voxel_size: Sequence[float],
                 channels: Sequence[int] = (64,), legacy: bool = False, with_distance: bool = False,
                 pad_below: int = 0):
        super().__init__()
        shape = range_shape(point_cloud_range, voxel_size)
        if shape[0] != 1 or in_channels < 3:
            raise ConfigError(f'PillarEncoder: {shape[0]} pillars on top of each other and points of {in_channels} '
                              'columns, expected one pillar as high as the range, and x, y, z among the columns. '
                              'Correct voxel_size or in_channels.')
        self.in_channels, self.shape, self.out_channels = in_channels, shape[1:], channels[-1]
        self.point_cloud_range, self.voxel_size = tuple(point_cloud_range), tuple(voxel_size)
        self.legacy, self.with_distance, self.pad_below = legacy, with_distance, pad_below
        inputs = (in_channels + 6 + with_distance, *channels[:-1])
        widths = (*(n // 2 for n in channels[:-1]), channels[-1])
        self.pfn_layers = nn.ModuleList(PointLayer(a, b) for a, b in zip(inputs, widths))

    def forward(self, points: Sequence[Tensor]) -> Tensor:
        """(N_i, in_channels or more) points of each scan to a (B, out_channels, H, W) map, zero where no point is.

        Raises:
            DataError: points of too few columns.
        """
        pillars, coords = self.encode(*join_points(points, self.in_channels))
        height, width = self.shape
        cells = (coords[:, 0] * height + coords[:, 2]) * width + coords[:, 3]
        canvas = pillars.new_zeros(len(points) * height * width, self.out_channels).index_copy(0, cells, pillars)
        return canvas.view(len(points), height, width, -1).permute(0, 3, 1, 2)

    def encode(self, points: Tensor, point_batch: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each pillar, in float32: half precision would round coordinates to decimetres.

        Args:
            points: (N, in_channels).
            point_batch: (N,) int64 scan of each.

        Returns:
            (V, out_channels), and (V, 4) int64 scan, z = 0, y, x of the pillars.
        """
        with torch.autocast(points.device.type, enabled=False):
            rows, coords, pillar = range_voxels(points, point_batch, self.point_cloud_range, self.voxel_size)
            feats = self.features(points[rows], coords, pillar)
            if self.pad_below:
                empty = (torch.bincount(pillar, minlength=len(coords)) < self.pad_below).nonzero().squeeze(1)
                feats, pillar = F.pad(feats, (0, 0, 0, len(empty))), torch.cat([pillar, empty])
            *first, last = self.pfn_layers
            for layer in first:
                feats = layer(feats)
                feats = torch.cat([feats, scatter_max(feats, pillar, len(coords))[pillar]], dim=1)
            return scatter_max(last(feats), pillar, len(coords)), coords

    def on_grid(self, points: Tensor) -> Tensor:
        """The same map as `forward` gives, by all cells of the grid: no shape depends on where points lie, as exported
        graphs want it, and empty cells cost as much as full ones.

        Args:
            points: (B, N, in_channels or more) of each scan; others than those in the range, such as NaN, are left out.

        Returns:
            (B, out_channels, H, W).

        Raises:
            ConfigError: pillars that are filled up (`pad_below`).
        """
        if self.pad_below:
            raise ConfigError(f'PillarEncoder: pad_below={self.pad_below} came, expected 0 on the whole grid. Train '
                              'without.')
        (size, count), (height, width) = points.shape[:2], self.shape
        rows = points[..., :self.in_channels].flatten(0, 1).float()
        cells = ((rows[:, :3] - rows.new_tensor(self.point_cloud_range[:3])) / rows.new_tensor(self.voxel_size)).floor()
        inside = ((cells >= 0) & (cells < cells.new_tensor([width, height, 1]))).all(1)
        grid = height * width + 1  # the last cell takes what is outside
        own = torch.where(inside, cells[:, 1] * width + cells[:, 0], float(grid - 1)).long()
        scan = torch.arange(size, device=points.device)[:, None].expand(size, count).flatten()
        rows, pillar = torch.where(inside[:, None], rows, 0.0), scan * grid + own
        number = torch.arange(grid, device=points.device)
        coords = torch.stack([0 * number, 0 * number, number // width, number % width], dim=1).repeat(size, 1)
        feats = self.features(rows, coords, pillar)
        *first, last = self.pfn_layers
        for layer in first:
            feats = layer(feats)
            feats = torch.cat([feats, scatter_max(feats, pillar, size * grid)[pillar]], dim=1)
        found = scatter_max(last(feats), pillar, size * grid).unflatten(0, (size, grid))[:, :-1]
        return found.unflatten(1, (height, width)).permute(0, 3, 1, 2)

    def features(self, points: Tensor, coords: Tensor, pillar: Tensor) -> Tensor:
        """(N, in_channels + 6) features, see the class; one more with the distance.

        Args:
            points: (N, in_channels).
            coords: (V, 4) int64 scan, z, y, x.
            pillar: (N,) int64 row of each point's pillar.
        """
        xyz, size = points[:, :3], points.new_tensor(self.voxel_size)
        from_mean = xyz - scatter_mean(xyz, pillar, coords.shape[0])[pillar]  # len() would fix it in a graph
        middle = coords[:, [3, 2, 1]] * size + (size / 2 + points.new_tensor(self.point_cloud_range[:3]))
        from_middle = xyz - middle[pillar]
        own = from_middle if self.legacy else xyz
        parts = [own, points[:, 3:], from_mean, from_middle]
        return torch.cat(parts + [own.norm(dim=1, keepdim=True)] if self.with_distance else parts, dim=1)


class PointLayer(nn.Module):
    """A linear layer with normalisation and activation.

    Args:
        in_channels: of a point.
        channels: of the result.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.norm = RowNorm(channels, **NORM)
        self.linear = nn.Linear(in_channels, channels, bias=False)

    def forward(self, feats: Tensor) -> Tensor:
        """(N, in_channels) to (N, channels)."""
        return F.relu(self.norm(self.linear(feats)))


def join_points(points: Sequence[Tensor], columns: int) -> tuple[Tensor, Tensor]:
    """The points of a batch in one table.

    Args:
        points: (N_i, columns or more) of each scan.
        columns: that are kept.

    Returns:
        (N, columns) float32, and (N,) int64 scan of each.

    Raises:
        DataError: no scan, or points of fewer columns.
    """
    if not points or any(scan.dim() != 2 or scan.shape[1] < columns for scan in points):
        raise DataError(f'encoder: points of shapes {[tuple(scan.shape) for scan in points]}, expected (N, {columns}) '
                        'or more columns of each scan. Load as many columns as the net has in_channels.')
    lengths = torch.tensor([len(scan) for scan in points])
    batch = torch.arange(len(points)).repeat_interleave(lengths).to(points[0].device)
    return torch.cat([scan[:, :columns].float() for scan in points]), batch
