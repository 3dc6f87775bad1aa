"""From lists of scans to one batch of points and voxels, on the model's device."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from perception.common.formats.points import FARTHEST, STRONGEST
from perception.lidarseg.datasets.base import rows_of
from perception.ops.scatter import count_rows
from perception.ops.sparse.maps import VoxelSet
from perception.ops.voxelize import (
    check_grid,
    cube_index,
    cylinder_features,
    first_points,
    largest_label,
    majority_labels,
    unique_voxels,
)
from perception.registry import MODELS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

POINTS = ('points', 'point_batch', 'num_points')  # of a batch, whatever its voxels are
CYLINDER_BOUNDS = ((0, -3.1415926, -4), (50, 3.1415926, 2))  # least and most rho [m], phi [rad], z [m] (Cylinder3D)


@MODELS.register_module()
class CylinderVoxelizer(BaseDataPreprocessor):
    """Puts the points of a batch into cylindrical voxels (Cylinder3D, section 3.2).

    It is done once for each batch and shared by everything that follows: a teacher and a student see the same voxels,
    and losses find coordinates and voxel labels in the batch.

    Args:
        grid_shape: number of cells along rho, phi, z.
        min_bound: lower bounds of rho [m], phi [rad], z [m].
        max_bound: upper bounds of rho [m], phi [rad], z [m].
        ignore_index: label of points without a class.
        ignored_votes: a voxel's label is the most frequent one of its points; those without a class vote too, as
            published. False asks the labelled ones alone, which is needed where few points have a label.
        non_blocking: copy to the device without waiting, from memory that the loader has pinned.
    """

    def __init__(self, grid_shape: Sequence[int] = (480, 360, 32),
                 min_bound: Sequence[float] = CYLINDER_BOUNDS[0], max_bound: Sequence[float] = CYLINDER_BOUNDS[1],
                 ignore_index: int = 255, ignored_votes: bool = True, non_blocking: bool = True):
        super().__init__(non_blocking=non_blocking)
        check_grid(grid_shape, min_bound, max_bound)
        self.grid_shape = tuple(int(n) for n in grid_shape)
        self.min_bound = tuple(float(v) for v in min_bound)
        self.max_bound = tuple(float(v) for v in max_bound)
        self.ignore_index, self.ignored_votes = ignore_index, ignored_votes

    def forward(self, data: dict, training: bool = False) -> dict:
        """Voxelise a batch.

        Args:
            data: `inputs` with `points`, a list of (N_i, 4 + E) float32 tensors (x, y, z [m], intensity, E further
                features), and `data_samples`, a list of PointSegSample, or None.
            training: refuse scans that nothing can be learned from.

        Returns:
            dict with `data_samples` as given and `inputs`: `points` (N, 4 + E), `point_batch` (N,), `point_feats`
            (N, 9 + E), `voxel_coords` (V, 4), `point_to_voxel` (N,), `batch_size`, `grid_shape`, `num_points` (a list)
            and `voxels`, a VoxelSet of the coordinates, by which nets that see the batch share kernel maps; where the
            samples have labels also `labels` (N,) and `voxel_labels` (V,).

        Raises:
            DataError: points of a wrong shape, NaN or infinite coordinates, labels that do not match the points, a
                scan with fewer than two points in training.
        """
        num_classes = _check(data, training, self.ignore_index)
        *parts, samples = _flatten(self.cast_data(data))
        inputs = self._inputs(*parts)
        if samples and all('labels' in sample for sample in samples):
            inputs['labels'] = labels = _labels(samples, inputs['num_points'], self.ignore_index)
            inputs['voxel_labels'] = majority_labels(labels, inputs['point_to_voxel'], len(inputs['voxel_coords']),
                                                     self.ignore_index, self.ignored_votes, num_classes)
        return dict(inputs=inputs, data_samples=samples)

    def of_batch(self, inputs: dict) -> dict:
        """The points of a batch that another voxelizer prepared, in these voxels; without labels."""
        return self._inputs(*(inputs[key] for key in POINTS))

    def _inputs(self, points: Tensor, point_batch: Tensor, num_points: list[int]) -> dict:
        """What the net sees of points (N, 4), in the same order."""
        grid_index, point_feats = cylinder_features(points, self.grid_shape, self.min_bound, self.max_bound)
        voxel_coords, point_to_voxel = unique_voxels(grid_index, point_batch, self.grid_shape, len(num_points))
        return dict(points=points, point_batch=point_batch, point_feats=point_feats,
                    point_to_voxel=point_to_voxel, num_points=num_points,
                    **_voxels(voxel_coords, self.grid_shape, len(num_points)))


@MODELS.register_module()
class CubeVoxelizer(BaseDataPreprocessor):
    """Puts the points of a batch into cubes, each of which stands for its first point (SPVNAS).

    It is done once for each batch and shared by everything that follows, see CylinderVoxelizer.

    Args:
        voxel_size: side of a cube [m].
        max_voxels: in training, voxels kept of each scan, drawn at random; None keeps all. The points of the others
            are left out of the batch.
        cylinder_grid: cells along rho, phi, z of a second, cylindrical grid, in which PVD finds its supervoxels
            whatever the net's own voxels are; None for none.
        cylinder_bounds: of that grid, least and most rho [m], phi [rad], z [m].
        ignore_index: label of points without a class.
        voxel_labels: 'first', a cube's label is that of its first point, as published; 'majority', the most frequent
            one of its labelled points, the better the larger the cubes and the fewer points have a label.
        non_blocking: copy to the device without waiting, from memory that the loader has pinned.

    Raises:
        ConfigError: a size or number that is not positive, or other `voxel_labels`.
    """

    def __init__(self, voxel_size: float = 0.05, max_voxels: int | None = 80_000,
                 cylinder_grid: Sequence[int] | None = None,
                 cylinder_bounds: Sequence[Sequence[float]] = CYLINDER_BOUNDS, ignore_index: int = 255,
                 voxel_labels: str = 'first', non_blocking: bool = True):
        super().__init__(non_blocking=non_blocking)
        check_choice('CubeVoxelizer: voxel_labels', voxel_labels, ('first', 'majority'))
        if not voxel_size > 0 or (max_voxels is not None and max_voxels < 1):
            raise ConfigError(f'CubeVoxelizer: voxel_size={voxel_size}, max_voxels={max_voxels}, expected positive '
                              'numbers. The published ones are 0.05 m and 80,000.')
        if cylinder_grid is not None:
            check_grid(cylinder_grid, *cylinder_bounds)
        self.cylinder_grid, self.cylinder_bounds = cylinder_grid, cylinder_bounds
        self.voxel_size, self.max_voxels, self.ignore_index = voxel_size, max_voxels, ignore_index
        self.voxel_labels = voxel_labels

    def forward(self, data: dict, training: bool = False) -> dict:
        """Voxelise a batch.

        Args:
            data: see `CylinderVoxelizer.forward`.
            training: refuse scans that nothing can be learned from, and keep `max_voxels`.

        Returns:
            as `CylinderVoxelizer.forward`, but instead of `point_feats` there are `voxel_feats` (V, 4 + E), those of
            each voxel's first point. `grid_shape` depends on the batch. With a `cylinder_grid` also
            `supervoxel_coords` (V, 4) scan, rho, phi, z and `supervoxel_grid`.

        Raises:
            DataError: see `CylinderVoxelizer.forward`.
        """
        num_classes = _check(data, training, self.ignore_index)
        points, point_batch, num_points, samples = _flatten(self.cast_data(data))
        labels = None
        if samples and all('labels' in sample for sample in samples):
            labels = _labels(samples, num_points, self.ignore_index)
        voxel_coords, point_to_voxel, grid_shape = self._cubes(points, point_batch, len(num_points))
        kept = None
        if training and self.max_voxels is not None:
            kept = self._draw(voxel_coords[:, 0], len(num_points))
        if kept is not None:
            inside = kept[point_to_voxel].nonzero().squeeze(1)
            points, point_batch, point_to_voxel = points[inside], point_batch[inside], point_to_voxel[inside]
            labels = None if labels is None else labels[inside]
            point_to_voxel = (kept.cumsum(0) - 1)[point_to_voxel]
            voxel_coords = voxel_coords[kept]
            num_points = torch.bincount(point_batch, minlength=len(num_points)).tolist()
        first = first_points(point_to_voxel, len(voxel_coords))
        inputs = self._inputs(points, point_batch, num_points, voxel_coords, point_to_voxel, grid_shape, first)
        if labels is not None:
            inputs['labels'] = labels
            inputs['voxel_labels'] = labels[first] if self.voxel_labels == 'first' else majority_labels(
                labels, point_to_voxel, len(voxel_coords), self.ignore_index, False, num_classes)
        return dict(inputs=inputs, data_samples=samples)

    def of_batch(self, inputs: dict) -> dict:
        """The points of a batch that another voxelizer prepared, in these voxels, all of them; without labels."""
        points, point_batch, num_points = (inputs[key] for key in POINTS)
        voxel_coords, point_to_voxel, grid_shape = self._cubes(points, point_batch, len(num_points))
        return self._inputs(points, point_batch, num_points, voxel_coords, point_to_voxel, grid_shape,
                            first_points(point_to_voxel, len(voxel_coords)))

    def _cubes(self, points: Tensor, point_batch: Tensor, batch_size: int) -> tuple[Tensor, Tensor, tuple]:
        """Coordinates (V, 4) of the cubes of points (N, 4), the cube of each (N,), and the shape of the grid."""
        grid_index, grid_shape = cube_index(points, point_batch, batch_size, self.voxel_size)
        return *unique_voxels(grid_index, point_batch, grid_shape, batch_size), grid_shape

    def _inputs(self, points: Tensor, point_batch: Tensor, num_points: list[int], voxel_coords: Tensor,
                point_to_voxel: Tensor, grid_shape: tuple, first: Tensor) -> dict:
        """What the net sees of points (N, 4) in V cubes, `first` (V,) the first point of each."""
        inputs = dict(points=points, point_batch=point_batch, voxel_feats=points[first],
                      point_to_voxel=point_to_voxel, num_points=num_points,
                      **_voxels(voxel_coords, grid_shape, len(num_points)))
        if self.cylinder_grid is not None:
            cells, _ = cylinder_features(points[first], self.cylinder_grid, *self.cylinder_bounds)
            inputs['supervoxel_coords'] = torch.cat([voxel_coords[:, :1], cells], dim=1)
            inputs['supervoxel_grid'] = tuple(self.cylinder_grid)
        return inputs

    def _draw(self, voxel_batch: Tensor, batch_size: int) -> Tensor | None:
        """(V,) bool, true for at most `max_voxels` voxels of each scan, or None for all; voxels are sorted by scan."""
        chance = torch.rand(len(voxel_batch), device=voxel_batch.device, dtype=torch.float64)
        if len(voxel_batch) <= self.max_voxels:
            return None
        sizes = count_rows(voxel_batch, batch_size).tolist()
        if max(sizes) <= self.max_voxels:
            return None
        return torch.cat([scan <= scan.kthvalue(self.max_voxels).values if len(scan) > self.max_voxels
                          else torch.ones_like(scan, dtype=torch.bool) for scan in chance.split(sizes)])


def _voxels(coords: Tensor, grid_shape: tuple[int, int, int], batch_size: int) -> dict:
    """What a batch tells of its voxels."""
    return dict(voxel_coords=coords, grid_shape=grid_shape, batch_size=batch_size,
                voxels=VoxelSet(coords, grid_shape, batch_size, checked=True))


def _check(data: dict, training: bool, ignore_index: int) -> int:
    """Look at a batch while it is where it was read, mostly on the host; the number that its classes are below."""
    scans, samples = data['inputs']['points'], data.get('data_samples')
    for i, scan in enumerate(scans):
        _check_scan(scan, _name(samples, i), training)
    return 1 + max((largest_label(torch.as_tensor(sample.labels), ignore_index)
                    for sample in samples or [] if 'labels' in sample), default=-1)


def _flatten(data: dict) -> tuple[Tensor, Tensor, list[int], list | None]:
    """Scans as points (N, 4) of the whole batch, the scan of each (N,), points per scan, and the samples."""
    scans = data['inputs']['points']
    point_batch = [torch.full((len(scan),), i, device=scan.device) for i, scan in enumerate(scans)]
    return torch.cat(scans), torch.cat(point_batch), [len(scan) for scan in scans], data.get('data_samples')


def _labels(samples: list, num_points: list[int], ignore_index: int) -> Tensor:
    """Labels of the batch's points; past scans that were added without labels are ignored."""
    labels = []
    for i, (sample, expected) in enumerate(zip(samples, num_points)):
        known = rows_of(sample.labels, sample)
        missing = expected - len(known)
        if missing and (missing < 0 or len(known) != sample.get('origin_len')):
            raise DataError(f'{_name(samples, i)}: {len(known):,} labels for {expected:,} points, expected '
                            'equal numbers. Apply every transform that drops points to both.')
        labels.append(F.pad(known, (0, missing), value=ignore_index))
    return torch.cat(labels)


def _check_scan(scan: Tensor, name: str, training: bool) -> None:
    if scan.dim() != 2 or scan.shape[1] < 4:
        raise DataError(f'{name}: points of shape {tuple(scan.shape)}, expected (N, 4) or more: x, y, z, intensity, '
                        'further features. Select these columns first.')
    if len(scan) > 1 and bool(scan.abs().max() <= FARTHEST):  # nearly always; false for NaN
        return
    finite = torch.isfinite(scan)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0, 0])
        raise DataError(f'{name}: NaN or infinite value in row {row} of the points, expected finite numbers. Repair '
                        'the file; points are never dropped silently.')
    far = scan.abs().amax(0).tolist() if len(scan) else [0] * 4
    if max(far[:3]) > FARTHEST or far[3] > STRONGEST:
        raise DataError(f'{name}: points up to {max(far[:3]):,.5g} m away with intensities up to {far[3]:,.5g}, '
                        f'expected at most {FARTHEST:,} m and {STRONGEST:,}. Repair the file, or move the points into '
                        'the frame of the sensor.')
    if training and len(scan) < 2:
        raise DataError(f'{name}: {len(scan)} points in a training scan, expected at least 2. Take this scan out of '
                        'the training split.')


def _name(samples: list | None, i: int) -> str:
    sample = samples[i] if samples else None
    for key in ('points_path', 'sample_id'):
        if sample is not None and sample.get(key):
            return f'scan {sample.get(key)}'
    return f'scan {i} of the batch'
