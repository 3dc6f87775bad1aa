"""Kernel maps in memory of fixed size and place, as a CUDA graph reads them: tables padded to a capacity.

A level's rows beyond its voxels have no neighbour and are nobody's neighbour, so what a layer computes for them reaches
no voxel, whatever stands there. The last row of a level is always such a row: what must point somewhere points there.
"""
from torch import Tensor

from perception.ops.point_voxel import finest_map
from perception.ops.sparse.maps import KernelMap, PointVoxelMap, VoxelSet


def roomy(count: int) -> int:
    """A capacity for rows: an eighth more than there are, and at least one, so that most scans of a drive fit."""
    return -(-(count + count // 8 + 1) // 64) * 64


class FixedVoxels:
    """Memory for the maps of a level and of those below it.

    Only what is searched is kept: sub-manifold and strided maps and where points lie. What follows from them (maps of
    smaller kernels, a backend's plan) is made from the tables by whoever reads `voxels`, each time.

    Args:
        voxels: with all maps that a net asks for, because it saw them.
        before: memory of the same maps that was too small; the new one is nowhere smaller.
        num_points: capacity for points, which are the voxels of the finest level; None where these are it.
    """

    def __init__(self, voxels: VoxelSet, before: 'FixedVoxels | None' = None, num_points: int | None = None) -> None:
        self.capacity = max(roomy(len(voxels)), before.capacity if before else 0)
        self.grid_shape, self.batch_size = voxels.grid_shape, voxels.batch_size
        self.coords = voxels.voxel_coords.new_zeros(self.capacity, 4)  # only their number is read
        num_points = num_points or self.capacity

        def table(kernel_map: KernelMap, capacity: int) -> Tensor:
            return kernel_map.neighbours.new_empty(kernel_map.volume, capacity)

        self.tables = {geometry: table(kernel_map, self.capacity) for geometry, kernel_map in voxels.maps.items()
                       if kernel_map.whole is None}
        self.coarser = {}
        for geometry, (target, kernel_map) in voxels.strided.items():
            level = FixedVoxels(target, before and before.coarser[geometry][0], num_points)
            self.coarser[geometry] = level, table(kernel_map, level.capacity), table(kernel_map, self.capacity)
        self.point_maps = {stride: PointVoxelMap(*(part.new_empty(num_points, *part.shape[1:]) for part in where[:3]),
                                                 self.capacity) for stride, where in voxels.point_maps.items()}

    def fits(self, voxels: VoxelSet) -> bool:
        """Whether all levels have room for those of other voxels."""
        return len(voxels) < self.capacity and all(
            level.fits(voxels.strided_map(geometry)[0]) for geometry, (level, *_) in self.coarser.items())

    def capacities(self) -> list[int]:
        """Of this level and of those below it."""
        return [self.capacity, *(count for level, *_ in self.coarser.values() for count in level.capacities())]

    def load(self, voxels: VoxelSet, finest: VoxelSet | None = None) -> None:
        """Write the maps of voxels that fit into the memory; those of the finest level are `finest` for the others."""
        finest = voxels if finest is None else finest
        for geometry, table in self.tables.items():
            _write(table, voxels.subm_map(geometry.kernel_size, geometry.dilation), self.capacity)
        for geometry, (level, down, up) in self.coarser.items():
            target, kernel_map = voxels.strided_map(geometry)
            level.load(target, finest)
            _write(down, kernel_map, self.capacity)
            _write(up, kernel_map.transposed(), level.capacity)
        for stride, memory in self.point_maps.items():
            where = finest_map(finest, voxels, stride)
            for rows, part, rest in zip(memory[:3], where[:3], (self.capacity - 1, 0, 0)):
                put(rows, part, rest)

    def voxels(self) -> VoxelSet:
        """As many voxels as there is room for, with maps that read the memory."""
        voxels = VoxelSet(self.coords, self.grid_shape, self.batch_size, checked=True)
        for geometry, table in self.tables.items():
            voxels.maps[geometry] = KernelMap('strided', self.capacity, table)
        for geometry, (level, down, up) in self.coarser.items():
            kernel_map = KernelMap('strided', self.capacity, down)
            kernel_map._transposed = KernelMap('strided', level.capacity, up)
            voxels.strided[geometry] = level.voxels(), kernel_map
        voxels.point_maps = dict(self.point_maps)
        return voxels


def put(memory: Tensor, rows: Tensor, rest: float) -> None:
    """Write rows (n, ...) into the first of a memory's (N, ...), and a number into all others."""
    memory[:len(rows)].copy_(rows)
    memory[len(rows):].fill_(rest)


def _write(table: Tensor, kernel_map: KernelMap, missing: int) -> None:
    """Write the neighbours of a map into a table (K, capacity), `missing` where there is none."""
    there = kernel_map.neighbours.masked_fill(kernel_map.neighbours == kernel_map.num_in, missing)
    put(table.t(), there.t(), missing)
