"""Between points and the voxels of any level: means of points, trilinear interpolation of voxels (SPVNAS, section 3.2).

Shapes: N points, V voxels of one level. Point coordinates are in cells of the finest level; a level of stride s has
cells of s x s x s of them. Both directions depend on the geometry alone, so it is computed once for each level.
"""
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.ops.scatter import scatter_mean
from perception.ops.sparse.maps import PointVoxelMap, VoxelSet, halo_keys, lookup_rows
from perception.utils.errors import DataError


def point_voxel_map(point_coords: Tensor, point_batch: Tensor, voxels: VoxelSet, stride: int) -> PointVoxelMap:
    """Find each point's voxel and the eight voxels around it, at `floor(c / s) + {0, 1}` in cells of the level.

    Args:
        point_coords: (N, 3) coordinates in cells of the finest level, not negative.
        point_batch: (N,) int64 sample of each point.
        voxels: the voxels of the level.
        stride: s, cells of the finest level per cell of this one.

    Raises:
        DataError: a point whose voxel is not among them.
    """
    scaled = point_coords.to(torch.float64) / stride
    base = scaled.floor()
    fraction = scaled - base
    base = torch.cat([point_batch[:, None], base.long()], dim=1)
    halo = (1, 1, 1)
    keys = halo_keys(voxels.voxel_coords, voxels.grid_shape, voxels.batch_size, halo)
    dims = [d + 2 for d in voxels.grid_shape]
    side = torch.arange(2, device=keys.device)
    steps = ((side[:, None, None] * dims[1] + side[:, None]) * dims[2] + side).flatten()
    queries = halo_keys(base, voxels.grid_shape, voxels.batch_size, halo)[:, None] + steps  # (N, 8)
    rows = lookup_rows(voxels, keys, queries, prod(dims) * voxels.batch_size).long()
    here = rows < len(voxels)
    if here.is_cuda:  # an error on the device, for which the host does not wait
        torch._assert_async(here[:, 0].all(), 'point_voxel_map: a point in no voxel, expected every point in one.')
    elif not bool(here[:, 0].all()):
        lost = int((~here[:, 0]).sum())
        raise DataError(f'point_voxel_map: {lost} of {len(rows)} points in no voxel of stride {stride}, expected every '
                        'point in one. Build the voxels from the same points.')
    return PointVoxelMap(rows[:, 0], rows.where(here, 0), corner_weights(fraction, here), len(voxels))


def corner_weights(fraction: Tensor, here: Tensor) -> Tensor:
    """Trilinear weights of the voxels around points, those that are there summing to 1.

    Args:
        fraction: (N, 3) float64 in [0, 1), from the lowest corner on.
        here: (N, 8) whether the voxel of a corner is there; the last axis changes fastest.

    Returns:
        (N, 8) float32.
    """
    sides = torch.stack((1 - fraction, fraction), 2)  # (N, 3, 2)
    x, y, z = sides.unbind(1)
    weights = ((x[:, :, None] * y[:, None])[..., None] * z[:, None, None]).flatten(1) * here
    return (weights / (weights.sum(1, keepdim=True) + 1e-8)).float()


def finest_map(finest: VoxelSet, voxels: VoxelSet, stride: int) -> PointVoxelMap:
    """The map of points that are the voxels of the finest level, made once and kept with the coarser voxels.

    Args:
        finest: the voxels of the finest level.
        voxels: those of a coarser level, made from it by strided maps.
        stride: see `point_voxel_map`.
    """
    if stride not in voxels.point_maps:
        batch, *_ = finest.voxel_coords.unbind(1)
        voxels.point_maps[stride] = point_voxel_map(finest.voxel_coords[:, 1:], batch, voxels, stride)
    return voxels.point_maps[stride]


def points_to_voxels(point_feats: Tensor, where: PointVoxelMap) -> Tensor:
    """Mean of the points in each voxel: (N, C) to (V, C)."""
    return scatter_mean(point_feats, where.voxel, where.num_voxels)


def voxels_to_points(voxel_feats: Tensor, where: PointVoxelMap) -> Tensor:
    """Trilinear interpolation of the voxels around each point: (V, C) to (N, C).

    A voxel's gradient is a sum over its points, often thousands, which half precision stops counting early: where it is
    wanted, this is float32 inside.
    """
    feats = voxel_feats
    if feats.requires_grad:
        feats = feats.to(torch.promote_types(feats.dtype, torch.float32))
    return F.embedding_bag(where.corners, feats, mode='sum',
                           per_sample_weights=where.weights.to(feats.dtype)).to(voxel_feats.dtype)
