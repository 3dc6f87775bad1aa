"""LiDAR nets as one graph, points in, labels out, for torch.export.

The graph holds the same layers and weights, but its tensors carry no cache and its maps are made of operators whose
sizes the compiler may leave open: voxels are sorted keys, a neighbour is found by bisection, and a convolution is one
product of all neighbours side by side, missing ones as zeros. One scan at a time, on any device.
"""
import copy
import math
from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.ops.point_voxel import corner_weights
from perception.ops.sparse.maps import Geometry, PointVoxelMap, coords_of_keys, halo_keys
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.ops.voxelize import cylinder_features
from perception.utils.errors import ConfigError

CUBES = (2**19, 2**19, 2**18)  # cells of a grid of cubes, far more than a scan needs: only keys, no memory


class PointsToLabels(nn.Module):
    """A net with its voxels: (N, 4) float32 x, y, z, intensity of a scan of two points or more to (N,) int64 labels.

    Args:
        model: a Cylinder3D, MinkUNet, SPVCNN or SPVNAS; it is copied.

    Raises:
        ConfigError: another net.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.voxelizer = getattr(model, 'data_preprocessor', None)
        if not isinstance(self.voxelizer, (CubeVoxelizer, CylinderVoxelizer)):
            raise ConfigError(f'PointsToLabels: {type(model).__name__}, expected a net on cubes or cylinders. Export '
                              'another net.')
        self.cylinders = isinstance(self.voxelizer, CylinderVoxelizer)
        self.net = copy.deepcopy(model).eval()
        for name, module in list(self.net.named_modules()):
            if isinstance(module, (SubMConv3d, SparseConv3d, SparseInverseConv3d)):
                parent, _, child = name.rpartition('.')
                setattr(self.net.get_submodule(parent), child, PlainConv(module))
            elif hasattr(module, 'find_map'):
                module.find_map = plain_map

    def forward(self, points: Tensor) -> Tensor:
        """(N, 4) to (N,)."""
        if self.cylinders:
            voxelizer = self.voxelizer
            cells, point_feats = cylinder_features(points, voxelizer.grid_shape, voxelizer.min_bound,
                                                   voxelizer.max_bound)
            shape = tuple(voxelizer.grid_shape)
        else:
            cells, shape = torch.round(points[:, :3] / self.voxelizer.voxel_size).long(), CUBES
            cells = cells - cells.amin(0)
        keys, rows = torch.unique(_keys(cells, shape), sorted=True, return_inverse=True)
        level = Level(keys, shape)
        if self.cylinders:
            feats, hidden = self.net.encoder(point_feats, rows, keys.shape[0])
        else:
            numbers = torch.arange(points.shape[0], device=points.device)
            first = numbers.new_zeros(keys.shape[0]).scatter_reduce(0, rows, numbers, 'amin', include_self=False)
            feats = points.index_select(0, first)
        voxels = self.net.backbone(PlainTensor(feats, level, {}))
        if isinstance(voxels, tuple):  # of points and of voxels, and points are what is labelled
            voxels, _ = voxels
        if getattr(self.net, 'refine', None) is not None:
            logits = self.net.point_head(self.net.refine(voxels.feats, rows, hidden))
            return logits[:, :self.net.num_classes].argmax(1)
        return self.net.head(voxels).feats[:, :self.net.num_classes].argmax(1).index_select(0, rows)


def traceable(model: nn.Module) -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]:
    """What tools/export.py asks a net for: `PointsToLabels`, points (N, 4), and the net itself as points to labels.

    Raises:
        ConfigError: a net that cannot be exported.
    """
    def eager(points: Tensor) -> Tensor:
        batch = model.data_preprocessor(dict(inputs=dict(points=[points]), data_samples=None))
        return model(**batch, mode='predict')[0].pred_labels

    angle, radius, z, intensity = torch.rand(4, 20_000, generator=torch.Generator().manual_seed(0))
    angle, radius = (angle * 2 - 1) * math.pi, 2 + 40 * radius ** 2
    example = torch.stack((radius * angle.cos(), radius * angle.sin(), 4 * z - 3, intensity), 1)
    more = model.encoder.norm.num_features - 9 if hasattr(model, 'encoder') else model.backbone.in_channels - 4
    example = torch.cat([example, intensity[:, None].expand(-1, more)], 1)  # further features of the data set
    return PointsToLabels(model), example, eager


class Level:
    """The voxels of a level as sorted keys (V,), with the neighbours that were looked up."""

    def __init__(self, keys: Tensor, shape: tuple[int, int, int]) -> None:
        torch._check(keys.shape[0] > 0)  # which the compiler cannot know
        self.keys, self.shape = keys, shape
        self.coords = coords_of_keys(keys, shape)[:, 1:]
        self._rows: dict[tuple, Tensor] = {}

    def rows_at(self, cells: Tensor) -> Tensor:
        """Rows of the voxels at (..., 3) cells, V where there is none."""
        inside = ((cells >= 0) & (cells < cells.new_tensor(self.shape))).all(-1)
        queries = torch.where(inside, _keys(cells, self.shape), -1)
        place = torch.searchsorted(self.keys, queries).clamp(max=self.keys.shape[0] - 1)
        return torch.where(self.keys[place] == queries, place, self.keys.shape[0])

    def subm(self, kernel: tuple, dilation: tuple) -> Tensor:
        """(V, K) neighbours of a sub-manifold convolution."""
        if (kernel, dilation) not in self._rows:
            steps = _offsets(kernel, dilation, self.keys) - self.keys.new_tensor(
                [d * (k // 2) for k, d in zip(kernel, dilation)])
            self._rows[kernel, dilation] = self.rows_at(self.coords[:, None] + steps)
        return self._rows[kernel, dilation]

    def coarser(self, geometry: Geometry) -> tuple['Level', Tensor, Tensor]:
        """The next level, (V', K) rows of this one and (V, K) rows of the next one."""
        stride, padding = (self.keys.new_tensor(part) for part in (geometry.stride, geometry.padding))
        steps, shape = _offsets(geometry.kernel_size, geometry.dilation, self.keys), geometry.out_shape(self.shape)
        reach = self.coords[:, None] + padding - steps  # (V, K, 3)
        out = reach.div(stride, rounding_mode='floor')
        there = ((out * stride == reach) & (out >= 0) & (out < out.new_tensor(shape))).all(-1)
        target = Level(torch.unique(_keys(out, shape)[there], sorted=True), shape)
        fine = self.rows_at(target.coords[:, None] * stride - padding + steps)
        return target, fine, torch.where(there, target.rows_at(out), target.keys.shape[0])


class PlainTensor:
    """Features (V, C) on the voxels of a level; what the nets use of a SparseTensor."""

    def __init__(self, feats: Tensor, level: Level, names: dict[str, tuple[Level, Tensor]]) -> None:
        self.feats, self.level, self.names = feats, level, names

    def replace(self, feats: Tensor, level: Level | None = None) -> 'PlainTensor':
        """Other features, on the same voxels or on those of another level."""
        return PlainTensor(feats, level or self.level, self.names)


class PlainConv(nn.Module):
    """One of our convolutions as a product of all neighbours side by side."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: PlainTensor) -> PlainTensor:
        """As the layer."""
        layer, level = self.layer, x.level
        if isinstance(layer, SubMConv3d):
            rows = None if max(layer.kernel_size) == 1 else level.subm(layer.kernel_size, layer.dilation)
        elif isinstance(layer, SparseConv3d):
            target, rows, back = level.coarser(layer.geometry)
            x.names[layer.name], level = (level, back), target
        else:
            level, rows = x.names[layer.name]
        feats = x.feats
        if rows is not None:
            feats = torch.cat((feats, feats.new_zeros(1, feats.shape[1])))
            feats = feats.index_select(0, rows.flatten()).view(rows.shape[0], rows.shape[1] * feats.shape[1])
        return x.replace(F.linear(feats, layer.weight.flatten(1), layer.bias), level)


def plain_map(finest: PlainTensor, x: PlainTensor, stride: int) -> PointVoxelMap:
    """As `finest_map`: between the voxels of the finest level and those of a coarser one."""
    scaled = finest.level.coords.to(torch.float64) / stride
    base = scaled.floor()
    rows = x.level.rows_at(base.long()[:, None] + _offsets((2, 2, 2), (1, 1, 1), x.level.keys))
    here = rows < x.level.keys.shape[0]
    return PointVoxelMap(rows[:, 0], rows.where(here, 0), corner_weights(scaled - base, here), x.level.keys.shape[0])


def _keys(cells: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """One number for each of (..., 3) cells."""
    flat = cells.reshape(-1, 3)
    keys = halo_keys(F.pad(flat, (1, 0)), shape, 1, (0, 0, 0))
    return keys.view(cells.shape[:-1])


def _offsets(kernel: tuple, dilation: tuple, like: Tensor) -> Tensor:
    """(K, 3) steps of a kernel, last axis fastest."""
    axes = [torch.arange(k, device=like.device) * d for k, d in zip(kernel, dilation)]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), -1).view(prod(kernel), 3)
