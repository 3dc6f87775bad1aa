"""Features on the active voxels of a grid."""
from torch import Tensor

from perception.ops.sparse.maps import Geometry, NamedConv, VoxelSet
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError, DataError


class SparseTensor:
    """Features on active voxels; cells without a row are zero.

    The rows keep the caller's order. Tensors derived from one another share their voxels, and so the kernel maps.

    Args:
        feats: (V, C) features.
        voxel_coords: (V, 4) integer batch, then the three grid axes; unique rows in any order.
        grid_shape: number of cells per axis.
        batch_size: number of samples.

    Raises:
        DataError: shapes that do not fit, coordinates outside the grid or duplicate.
    """

    def __init__(self, feats: Tensor, voxel_coords: Tensor, grid_shape: tuple[int, int, int], batch_size: int) -> None:
        self._set(feats, VoxelSet(voxel_coords, grid_shape, batch_size), {})

    @classmethod
    def on(cls, feats: Tensor, voxels: VoxelSet) -> 'SparseTensor':
        """Features (V, C) on known voxels, whose kernel maps are shared.

        Raises:
            DataError: another number of rows, or another device.
        """
        return object.__new__(cls)._set(feats, voxels, {})

    def _set(self, feats: Tensor, voxels: VoxelSet, names: dict[str, NamedConv]) -> 'SparseTensor':
        if feats.ndim != 2 or len(feats) != len(voxels):
            raise DataError(f'SparseTensor: feats of shape {tuple(feats.shape)} for {len(voxels)} voxels, expected one '
                            'row per voxel. Pass (V, C) features in the order of voxel_coords.')
        if feats.device != voxels.voxel_coords.device:
            raise DataError(f'SparseTensor: feats on {feats.device} and voxel_coords on {voxels.voxel_coords.device}, '
                            'expected one device. Move both to the same one.')
        self.feats = feats
        self.voxels = voxels
        self.names = names
        return self

    @property
    def voxel_coords(self) -> Tensor:
        """(V, 4) int64 batch, then the three grid axes."""
        return self.voxels.voxel_coords

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Number of cells per axis."""
        return self.voxels.grid_shape

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return self.voxels.batch_size

    def replace(self, feats: Tensor, voxels: VoxelSet | None = None) -> 'SparseTensor':
        """The same voxels (or those of another level of the same net) with other features (V, C')."""
        return object.__new__(SparseTensor)._set(feats, self.voxels if voxels is None else voxels, self.names)

    def remember(self, name: str, geometry: Geometry, entry: NamedConv) -> None:
        """Give a strided convolution a name that an inverse convolution refers to.

        Raises:
            ConfigError: the name stands for another geometry or other voxels already.
        """
        known = self.names.setdefault(name, entry)
        if known.geometry != geometry or known.source is not entry.source:
            raise ConfigError(f'SparseConv3d: the name {name!r} is used for {geometry} on {len(entry.source)} voxels '
                              f'and for {known.geometry} on {len(known.source)} voxels, expected one layer per name. '
                              'Rename one of them.')

    def recall(self, name: str) -> NamedConv:
        """The strided convolution of that name.

        Raises:
            ConfigError: no layer of that name ran before.
        """
        if name not in self.names:
            raise ConfigError(f'SparseInverseConv3d: no convolution {name!r} ran before it, expected the name of a '
                              f'SparseConv3d on the same input. {close_matches(name, self.names)}')
        return self.names[name]

    def dense(self) -> Tensor:
        """(B, C, D0, D1, D2) dense tensor with zeros in empty cells; for tests and small grids."""
        batch, i, j, k = self.voxel_coords.unbind(1)
        dense = self.feats.new_zeros(self.batch_size, *self.grid_shape, self.feats.shape[1])
        return dense.index_put((batch, i, j, k), self.feats).permute(0, 4, 1, 2, 3)
