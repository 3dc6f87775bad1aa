"""Voxels of LiDAR points on CPU and CUDA: cylindrical ones as Cylinder3D defines them, cubes as SPVNAS does.

Shapes: N points, V occupied voxels. Grid axes are (rho, phi, z): distance in the ground plane [m], azimuth [rad] from
the x axis towards y, height [m]. Results are those of the authors' NumPy code: polar coordinates in float32,
everything from the clipping on in float64. NumPy's float32 azimuth differs between CPUs by up to 4.8e-7 rad, and
CUDA's from both: a point on a border of two cells may lie in either.
"""
from collections.abc import Sequence
from math import inf, prod

import numpy as np
import torch
from torch import Tensor

from perception.ops.scatter import count_rows
from perception.ops.sparse.maps import unique_keys
from perception.utils.errors import ConfigError, DataError


def polar_coordinates(points: Tensor) -> Tensor:
    """Cylinder coordinates of points.

    Args:
        points: (N, 3+) float32 x, y, z [m], further columns are ignored.

    Returns:
        (N, 3) rho [m], phi [rad] in [-pi, pi], z [m], in the dtype of the points.
    """
    x, y, z = points[:, :3].detach().unbind(1)
    rho = (x ** 2 + y ** 2).double().sqrt().to(points.dtype)  # rounded once; torch's float32 root is not
    if points.is_cpu and not torch.compiler.is_compiling():
        phi = torch.from_numpy(np.arctan2(y.numpy(), x.numpy()))  # torch.atan2 differs in the last digits
    else:
        phi = torch.atan2(y, x)
    return torch.stack([rho, phi, z], dim=1)


def cylinder_features(points: Tensor, grid_shape: Sequence[int], min_bound: Sequence[float],
                      max_bound: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Cell of each point and the nine input features of Cylinder3D, with further ones of points behind them.

    The cell is (max - min) / (grid - 1) wide, so the last cell of an axis holds only what lies at or beyond the upper
    bound. Points outside the bounds are moved into the border cells for the index, not for the features.

    Args:
        points: (N, 4 + E) float32 x, y, z [m], intensity, E further columns.
        grid_shape: number of cells along rho, phi, z, each at least 2.
        min_bound: lower bounds of rho [m], phi [rad], z [m].
        max_bound: upper bounds of rho [m], phi [rad], z [m].

    Returns:
        grid_index: (N, 3) int64 cell along rho, phi, z.
        point_feats: (N, 9 + E) float32: polar coordinates minus the cell's centre (3), polar coordinates (3), x, y,
            intensity, the further columns.

    Raises:
        ConfigError: a grid or bounds that cannot work.
    """
    check_grid(grid_shape, min_bound, max_bound)
    polar = polar_coordinates(points)
    feats = torch.empty(points.shape[0], 5 + points.shape[1], device=points.device)
    feats[:, 3:6], feats[:, 6:8], feats[:, 8:] = polar, points[:, :2], points[:, 3:]
    grid_index = torch.empty(points.shape[0], 3, dtype=torch.int64, device=points.device)
    for axis, (low, high, cells) in enumerate(zip(min_bound, max_bound, grid_shape)):  # plain columns are fast
        cell, value = (high - low) / (cells - 1), polar[:, axis].double()
        index = value.clamp(low, high).sub_(low).div_(cell).floor_()
        grid_index[:, axis] = index
        feats[:, axis] = value - index.add_(0.5).mul_(cell).add_(low)
    return grid_index, feats


def unique_voxels(grid_index: Tensor, point_batch: Tensor, grid_shape: Sequence[int],
                  batch_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Occupied voxels of a batch.

    Args:
        grid_index: (N, 3) int64 cell of each point.
        point_batch: (N,) int64 scan of each point.
        grid_shape: number of cells along each axis.
        batch_size: number of scans; None asks the points, for which the host waits.

    Returns:
        voxel_coords: (V, 4) int64 scan, rho, phi, z; sorted lexicographically.
        point_to_voxel: (N,) int64 row of each point's voxel.
    """
    _, d1, d2 = d = tuple(int(n) for n in grid_shape)
    if batch_size is None:
        batch_size = int(point_batch.max()) + 1 if len(point_batch) else 0
    key = ((point_batch * d[0] + grid_index[:, 0]) * d1 + grid_index[:, 1]) * d2 + grid_index[:, 2]
    if batch_size * prod(d) <= 4 * len(key):  # a coarse grid: marking its cells is faster than sorting the points
        key, rows = unique_keys(key, batch_size * prod(d))
        point_to_voxel = rows.long()
    else:
        key, point_to_voxel = torch.unique(key, sorted=True, return_inverse=True)
    rest = key.div(d2, rounding_mode='floor')
    plane = rest.div(d1, rounding_mode='floor')
    scan = plane.div(d[0], rounding_mode='floor')
    return torch.stack([scan, plane - scan * d[0], rest - plane * d1, key - rest * d2], dim=1), point_to_voxel


def cube_index(points: Tensor, point_batch: Tensor, batch_size: int, voxel_size: float) -> tuple[Tensor, tuple]:
    """Cell of each point in a grid of cubes (SPVNAS): rounded coordinates, shifted so that each scan starts at zero.

    Args:
        points: (N, 3+) x, y, z [m], further columns are ignored.
        point_batch: (N,) int64 scan of each point, ascending.
        batch_size: number of scans.
        voxel_size: side of a cube [m].

    Returns:
        grid_index: (N, 3) int64.
        grid_shape: cells along each axis, multiples of 16 so that four halvings lose no voxel.

    Raises:
        DataError: a grid whose cells cannot be numbered.
    """
    index = torch.round(points[:, :3].T.contiguous() / voxel_size).long()
    if points.is_cpu:
        for scan in index.split(torch.bincount(point_batch, minlength=batch_size).tolist(), dim=1):
            if scan.shape[1]:
                scan -= scan.amin(1, keepdim=True)
    else:
        rows = point_batch.expand(3, -1)
        first = index.new_zeros(3, batch_size).scatter_reduce(1, rows, index, 'amin', include_self=False)
        index -= first[:, point_batch]
    largest = index.amax(1).tolist() if len(points) else [0, 0, 0]
    grid_shape = tuple(16 * (n // 16 + 1) for n in largest)
    if prod(grid_shape) * batch_size >= 1 << 61:
        raise DataError(f'cube_index: a grid of {" x ".join(map(str, grid_shape))} cells for {batch_size} scans, '
                        f'expected fewer than 2**61. Take voxels larger than {voxel_size} m, or move far points away.')
    return index.T, grid_shape


def range_voxels(points: Tensor, point_batch: Tensor, point_cloud_range: Sequence[float],
                 voxel_size: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Occupied voxels of a grid over a range, with all of their points: neither voxels nor points are capped.

    Args:
        points: (N, 3+) float32 x, y, z [m], further columns are ignored.
        point_batch: (N,) int64 scan of each point.
        point_cloud_range: least x, y, z, greatest x, y, z [m]; see `range_shape`.
        voxel_size: along x, y, z [m].

    Returns:
        rows: (N',) int64 points within the range; NaN is not.
        voxel_coords: (V, 4) int64 scan, z, y, x; sorted lexicographically.
        point_to_voxel: (N',) int64 row of each of these points' voxel.
    """
    shape = range_shape(point_cloud_range, voxel_size)
    low, size = (points.new_tensor(values) for values in (point_cloud_range[:3], voxel_size))
    cells = ((points[:, :3] - low) / size).floor().flip(1)  # z, y, x
    rows = ((cells >= 0) & (cells < cells.new_tensor(shape))).all(1).nonzero().squeeze(1)
    return rows, *unique_voxels(cells[rows].long(), point_batch[rows], shape)


def range_shape(point_cloud_range: Sequence[float], voxel_size: Sequence[float]) -> tuple[int, int, int]:
    """Number of voxels in a range along z, y, x.

    Args:
        point_cloud_range: least x, y, z, greatest x, y, z [m].
        voxel_size: along x, y, z [m].

    Raises:
        ConfigError: a range that voxels do not fill.
    """
    counts = [(high - low) / size if size else 0.
              for low, high, size in zip(point_cloud_range[:3], point_cloud_range[3:], voxel_size)]
    if (len(point_cloud_range), len(voxel_size)) != (6, 3) or not all(
            size > 0 and .5 <= n < inf and abs(n - round(n)) <= 1e-3 for n, size in zip(counts, voxel_size)):
        raise ConfigError(f'voxel grid: range {list(point_cloud_range)} of {" x ".join(f"{n:g}" for n in counts)} '
                          f'voxels of {list(voxel_size)} m, expected whole numbers along x, y and z. Change the range '
                          'or voxel_size.')
    return tuple(round(n) for n in counts[::-1])


def first_points(point_to_voxel: Tensor, num_voxels: int) -> Tensor:
    """(V,) row of the first point of each voxel; every voxel has one.

    Args:
        point_to_voxel: (N,) int64 voxel of each point.
        num_voxels: V.
    """
    rows = torch.arange(len(point_to_voxel), device=point_to_voxel.device)
    return rows.new_zeros(num_voxels).scatter_reduce(0, point_to_voxel, rows, 'amin', include_self=False)


def majority_labels(labels: Tensor, point_to_voxel: Tensor, num_voxels: int, ignore_index: int = 255,
                    ignored_votes: bool = True, num_classes: int | None = None) -> Tensor:
    """The most frequent label of each voxel's points.

    Ties go to the ignored label, then to the smallest (as in Cylinder3D's code, where the ignored label is 0).

    Args:
        labels: (N,) int64 labels.
        point_to_voxel: (N,) int64 voxel of each point.
        num_voxels: V.
        ignore_index: the label that stands for "no class".
        ignored_votes: ignored points vote too, as in Cylinder3D's code; False asks the labelled ones alone.
        num_classes: other labels are below it; None asks the labels, for which the host waits.

    Returns:
        (V,) int64 labels; `ignore_index` where a voxel has no point that votes.
    """
    ignored = labels == ignore_index
    if num_classes is None:
        num_classes = largest_label(labels, ignore_index) + 1
    num_votes = num_classes + 1
    vote = torch.where(ignored, -1, labels) + 1  # the ignored label votes first, as number 0
    counts = count_rows(point_to_voxel * num_votes + vote, num_voxels * num_votes, None if ignored_votes else ~ignored)
    winner = counts.view(num_voxels, num_votes).argmax(dim=1)  # the first of equal maxima
    return torch.where(winner == 0, ignore_index, winner - 1)


def largest_label(labels: Tensor, ignore_index: int) -> int:
    """The largest of (N,) int64 labels but `ignore_index`, -1 where there is none."""
    return int(torch.where(labels == ignore_index, -1, labels).max()) if len(labels) else -1


def check_grid(grid_shape: Sequence[int], min_bound: Sequence[float], max_bound: Sequence[float]) -> None:
    """Refuse a grid with an axis of fewer than two cells, or with bounds that enclose nothing.

    Raises:
        ConfigError: says which value is wrong.
    """
    lengths = [len(v) for v in (grid_shape, min_bound, max_bound)]
    if lengths != [3, 3, 3]:
        raise ConfigError(f'cylinder grid: grid_shape, min_bound, max_bound of lengths {lengths}, expected three '
                          'values each. Give them for rho, phi and z.')
    if any(n != int(n) or n < 2 for n in grid_shape):
        raise ConfigError(f'cylinder grid: grid_shape {tuple(grid_shape)}, expected whole numbers of at least 2. The '
                          'authors use (480, 360, 32).')
    if any(not -inf < low < high < inf for low, high in zip(min_bound, max_bound)):
        raise ConfigError(f'cylinder grid: min_bound {tuple(min_bound)} and max_bound {tuple(max_bound)}, expected '
                          'finite numbers, each minimum below its maximum. Check their order: rho, phi, z.')
