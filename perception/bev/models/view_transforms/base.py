"""What every view transform has in common: image features of all cameras in, features of the grid out.

Shapes: B samples, N cameras, C channels, features of h x w, D depths, a grid of Y rows (along y) and X columns (along
x) of the augmented frame.
"""
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from perception.bev.geometry import BEVGrid, CameraGeometry
from perception.ops.bev_pool import RankCache, Ranks
from perception.utils.errors import DataError


class BEVFeatures(NamedTuple):
    """What a view transform gives.

    Attributes:
        bev: (B, C, Y, X) features of the grid.
        depth: (B, N, D, h, w) float32 probability of each depth, None where the transform has none.
    """

    bev: Tensor
    depth: Tensor | None = None


class ViewTransform(nn.Module):
    """Base of the view transforms, which define `forward` and `make_ranks`.

    Args:
        in_channels: of the image features.
        out_channels: of the grid's features.
        grid: arguments of a BEVGrid: x, y, z.

    Raises:
        ConfigError: a range that cells do not fill.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: dict[str, Sequence[float]]):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.grid = BEVGrid(**grid)
        self.cache = RankCache()

    def forward(self, features: Tensor, geometry: CameraGeometry) -> BEVFeatures:
        """Features (B, N, in_channels, h, w) of any size and number of cameras to `bev` (B, out_channels, Y, X)."""
        raise NotImplementedError(f'{type(self).__name__} has no forward; write one that gives BEVFeatures.')

    def make_ranks(self, geometry: CameraGeometry, feature_size: Sequence[int]) -> Ranks | tuple[Ranks, Tensor]:
        """Which cells of the features belong to which of the grid, with their weights where calibration gives them.

        Args:
            geometry: of the cameras.
            feature_size: h, w.
        """
        raise NotImplementedError(f'{type(self).__name__} has no make_ranks; write one.')

    def ranks(self, geometry: CameraGeometry, feature_size: Sequence[int]) -> Ranks | tuple[Ranks, Tensor]:
        """`make_ranks`, kept while the frame is not augmented: then the same cameras are likely to come again."""
        aug = geometry.bev_aug.detach().cpu()
        if not torch.equal(aug, torch.eye(4, dtype=aug.dtype).expand_as(aug)):
            return self.make_ranks(geometry, feature_size)
        key = (geometry.bev_to_image().cpu().numpy().tobytes(), geometry.device, geometry.size, *feature_size)
        return self.cache.get(key, lambda: self.make_ranks(geometry, feature_size))

    def loss(self, found: BEVFeatures, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """Losses of the transform itself, none here.

        Args:
            found: of `forward`.
            data_samples: a RigSample for each sample.
        """
        return {}

    def depth_map(self, found: BEVFeatures) -> Tensor | None:
        """(B, N, h, w) float32 depth [m] that the transform sees, None where it sees none."""
        return None

    def check(self, features: Tensor, geometry: CameraGeometry) -> None:
        """See that features belong to the cameras.

        Raises:
            DataError: other samples, cameras or channels.
        """
        lead = tuple(geometry.cam_to_img.shape[:2])
        if features.dim() != 5 or tuple(features.shape[:3]) != (*lead, self.in_channels):
            raise DataError(f'{type(self).__name__}: features of shape {tuple(features.shape)}, expected (B, N, C, h, '
                            f'w) with B, N, C = {(*lead, self.in_channels)}. Correct in_channels, or give the matrices '
                            'of these cameras.')
