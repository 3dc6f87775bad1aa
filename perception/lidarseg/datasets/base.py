"""What all LiDAR data sets share: augmentation and samples."""
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from perception.common.structures import PointSegSample
from perception.registry import TRANSFORMS

IGNORE = 255


class LidarScans(Dataset):
    """Base of the readers. A reader fills `METAINFO` and writes `__len__`, `read` and `path`.

    `dataset[i]` or `dataset[epoch, i]` gives `dict(inputs=dict(points=(N, 4) float32), data_samples=PointSegSample)`.
    The pipeline sees `dict(points, labels, sample_id, rng, draw)`. `rng` depends on (seed, epoch, i) alone, so that
    augmentation is the same for any number of workers and after a resume. `draw()` reads another scan, its index taken
    from `rng`, for augmentation that mixes two.

    Args:
        pipeline: augmentations, callables or their configs, applied in turn.
        seed: of the augmentation.
    """

    def __init__(self, pipeline: Sequence[dict | Callable] = (), seed: int = 0) -> None:
        self.seed = seed
        self.pipeline = [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline]

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, (tuple, list)) else (0, key)
        rng = np.random.default_rng([self.seed, epoch, index])
        sample = dict(self.read(index), rng=rng, draw=lambda: self.read(int(rng.integers(len(self)))))
        for step in self.pipeline:
            sample = step(sample)
        return pack(sample, self.path(index))

    def read(self, index: int) -> dict:
        """A scan as it is in its files: `points` (N, 4) float32, `sample_id` and, if known, `labels` (N,) int64."""
        raise NotImplementedError('A reader of LiDAR scans has a method read(index).')

    def path(self, index: int) -> str:
        """Where the points of a scan are."""
        raise NotImplementedError('A reader of LiDAR scans has a method path(index).')


def pack(sample: dict, points_path: str = '') -> dict:
    """A sample of arrays as the tensors that the collate function takes.

    Args:
        sample: `points` (N, 4), `sample_id` and, if known, `labels` (N,), `origin_len`, `first_len`.
        points_path: the scan's file.

    Returns:
        dict(inputs=dict(points=Tensor), data_samples=PointSegSample).
    """
    points = torch.from_numpy(np.ascontiguousarray(sample['points'], np.float32))
    info = dict(sample_id=sample['sample_id'], points_path=points_path, num_points=len(points))
    info.update({key: sample[key] for key in ('origin_len', 'first_len') if key in sample})
    data_sample = PointSegSample(metainfo=info)
    if 'labels' in sample:
        data_sample.labels = torch.from_numpy(np.ascontiguousarray(sample['labels'], np.int64))
    return dict(inputs=dict(points=points), data_samples=data_sample)
