"""From lists of scans to one batch of points and voxels, on the model's device."""
from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from perception.ops.voxelize import check_grid, cylinder_features, majority_labels, unique_voxels
from perception.registry import MODELS
from perception.utils.errors import DataError


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
        non_blocking: copy to the device without waiting.
    """

    def __init__(self, grid_shape: Sequence[int] = (480, 360, 32),
                 min_bound: Sequence[float] = (0, -3.1415926, -4), max_bound: Sequence[float] = (50, 3.1415926, 2),
                 ignore_index: int = 255, non_blocking: bool = False):
        super().__init__(non_blocking=non_blocking)
        check_grid(grid_shape, min_bound, max_bound)
        self.grid_shape = tuple(int(n) for n in grid_shape)
        self.min_bound = tuple(float(v) for v in min_bound)
        self.max_bound = tuple(float(v) for v in max_bound)
        self.ignore_index = ignore_index

    def forward(self, data: dict, training: bool = False) -> dict:
        """Voxelise a batch.

        Args:
            data: `inputs` with `points`, a list of (N_i, 4) float32 tensors (x, y, z [m], intensity), and
                `data_samples`, a list of PointSegSample, or None.
            training: refuse scans that nothing can be learned from.

        Returns:
            dict with `data_samples` as given and `inputs`: `points` (N, 4), `point_batch` (N,), `point_feats` (N, 9),
            `voxel_coords` (V, 4), `point_to_voxel` (N,), `batch_size`, `grid_shape`, `num_points` (a list); where the
            samples have labels also `labels` (N,) and `voxel_labels` (V,).

        Raises:
            DataError: points of a wrong shape, NaN or infinite coordinates, labels that do not match the points, a
                scan with fewer than two points in training.
        """
        data = self.cast_data(data)
        scans, samples = data['inputs']['points'], data.get('data_samples')
        for i, scan in enumerate(scans):
            _check_scan(scan, _name(samples, i), training)
        num_points = [len(scan) for scan in scans]
        points = torch.cat(scans)
        counts = torch.tensor(num_points, device=points.device)
        point_batch = torch.arange(len(scans), device=points.device).repeat_interleave(counts)
        grid_index, point_feats = cylinder_features(points, self.grid_shape, self.min_bound, self.max_bound)
        voxel_coords, point_to_voxel = unique_voxels(grid_index, point_batch, self.grid_shape)
        inputs = dict(points=points, point_batch=point_batch, point_feats=point_feats, voxel_coords=voxel_coords,
                      point_to_voxel=point_to_voxel, batch_size=len(scans), grid_shape=self.grid_shape,
                      num_points=num_points)
        if samples and all('labels' in sample for sample in samples):
            inputs['labels'] = labels = _labels(samples, num_points)
            inputs['voxel_labels'] = majority_labels(labels, point_to_voxel, len(voxel_coords), self.ignore_index)
        return dict(inputs=inputs, data_samples=samples)


def _labels(samples: list, num_points: list[int]) -> Tensor:
    for i, (sample, expected) in enumerate(zip(samples, num_points)):
        if len(sample.labels) != expected:
            raise DataError(f'{_name(samples, i)}: {len(sample.labels):,} labels for {expected:,} points, expected '
                            'equal numbers. Apply every transform that drops points to both.')
    return torch.cat([sample.labels for sample in samples])


def _check_scan(scan: Tensor, name: str, training: bool) -> None:
    if scan.dim() != 2 or scan.shape[1] != 4:
        raise DataError(f'{name}: points of shape {tuple(scan.shape)}, expected (N, 4): x, y, z, intensity. Select '
                        'these columns first.')
    finite = torch.isfinite(scan).all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise DataError(f'{name}: NaN or infinite value in row {row} of the points, expected finite numbers. Repair '
                        'the file; points are never dropped silently.')
    if training and len(scan) < 2:
        raise DataError(f'{name}: {len(scan)} points in a training scan, expected at least 2. Take this scan out of '
                        'the training split.')


def _name(samples: list | None, i: int) -> str:
    sample = samples[i] if samples else None
    for key in ('points_path', 'sample_id'):
        if sample is not None and sample.get(key):
            return f'scan {sample.get(key)}'
    return f'scan {i} of the batch'
