"""What the nets share: the voxels of a batch, the cross-entropy of rows, and the labels of each scan's points."""
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.common.structures import PointSegSample
from perception.lidarseg.datasets.base import IGNORE, spread_rows
from perception.ops.sparse.maps import VoxelSet
from perception.ops.sparse.tensor import SparseTensor


def masked_cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None, ignore_index: int) -> Tensor:
    """Mean cross-entropy over the rows with a label, in float32 or better; zero where there is none.

    Args:
        logits: (M, C).
        labels: (M,) int64 train ids, `ignore_index` = without a class.
        class_weights: (C,), None for equal ones.
        ignore_index: label that is left out.
    """
    logits = at_least_float32(logits)
    weight = None if class_weights is None else class_weights.to(logits.dtype)
    mean = F.cross_entropy(logits, labels, weight, ignore_index=ignore_index)  # without a label NaN, its gradient zero
    return torch.where((labels != ignore_index).any(), mean, 0)


def voxel_tensor(feats: Tensor, inputs: dict) -> SparseTensor:
    """Features on the voxels of a batch, with the kernel maps of nets that saw it before.

    Args:
        feats: (V, C).
        inputs: the batch, see `CylinderVoxelizer.forward`; `voxels` may be missing.
    """
    return SparseTensor.on(feats, voxels_of(inputs))


def voxels_of(inputs: dict) -> VoxelSet:
    """The voxels of a batch, with the kernel maps of nets that saw it before; made where the batch has none."""
    if 'voxels' in inputs:
        return inputs['voxels']
    return VoxelSet(inputs['voxel_coords'], inputs['grid_shape'], inputs['batch_size'])


def label_points(logits: Tensor, num_points: list[int], data_samples: list | None = None,
                 keep_logits: bool = False) -> list:
    """Write `pred_labels` (N_i,) int64 into each scan's sample; a scan without points gets an empty tensor.

    Of a scan that others were added to, its own `origin_len` points are kept. Of one whose file has more rows, see
    `spread_rows`, the others are ignored.

    Args:
        logits: (N, C) of the batch's points.
        num_points: N_i of each scan.
        data_samples: a PointSegSample for each scan; new ones are made for None.
        keep_logits: also write `logits` (N_i, C) float32.

    Returns:
        The samples.
    """
    samples = data_samples or [PointSegSample() for _ in num_points]
    for sample, scan in zip(samples, logits.split(num_points)):
        scan = scan[:sample.get('origin_len', len(scan))]
        sample.pred_labels = spread_rows(scan.argmax(dim=1), sample, IGNORE)
        if keep_logits:
            sample.logits = spread_rows(scan.float(), sample, 0)
    return samples


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
