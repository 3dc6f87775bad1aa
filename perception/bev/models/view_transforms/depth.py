"""Features lifted along rays by a distribution over depths, and summed in the cells of the grid.

* `LSS`: Lift, Splat, Shoot: Encoding Images from Arbitrary Camera Rigs by Implicitly Unprojecting to 3D. Jonah Philion,
  Sanja Fidler. ECCV 2020; with other sizes the view transform of BEVDet (Junjie Huang, Guan Huang, Zheng Zhu, Ye Yun,
  Dalong Du, 2021) and of BEVFusion's camera branch.
* `BEVDepth`: BEVDepth: Acquisition of Reliable Depth for Multi-view 3D Object Detection. Yinhao Li, Zheng Ge, Guanyi
  Yu, Jinrong Yang, Zengran Wang, Yukang Shi, Jianjian Sun, Zeming Li. AAAI 2023. Layers are named as in its code, whose
  weights load.

Shapes: B samples, N cameras, C channels, features of h x w, D depths, a grid of Y x X cells. Depth i stands for the
range from low + i step up to low + (i + 1) step; its point lies at the beginning of it, as in the published code.
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.bev.geometry import ALIGNMENTS, CameraGeometry
from perception.bev.models.view_transforms.base import BEVFeatures, ViewTransform
from perception.ops.bev_pool import Ranks, bev_pool, make_ranks
from perception.registry import MODELS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError


@MODELS.register_module()
class LSS(ViewTransform):
    """One convolution gives each cell of the features a distribution over depths and a context; cells of the grid sum.

    Args:
        in_channels: of the image features.
        out_channels: of the context, hence of the grid.
        grid: arguments of a BEVGrid: x, y, z.
        depth: first depth, end and step [m]; the end itself is none.
        align: which pixels a cell of the features stands for, see `CameraGeometry.frustum`; `'lss'` for released
            weights.
        reduce: `'sum'`, `'mean'` or `'max'` over the points of a cell.

    Raises:
        ConfigError: a range that steps do not fill, or an unknown choice.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: dict[str, Sequence[float]],
                 depth: Sequence[float] = (1., 60., 1.), align: str = 'centre', reduce: str = 'sum'):
        super().__init__(in_channels, out_channels, grid)
        check_choice('LSS: align', align, ALIGNMENTS)
        low, high, step = depth
        self.bins = round((high - low) / step) if step > 0 else 0
        if not 0 < low < high or self.bins < 1 or abs((high - low) / step - self.bins) > 1e-3:
            raise ConfigError(f'{type(self).__name__}: depth={tuple(depth)}, expected first depth above 0, end and '
                              'step in metres, a whole number of steps. Correct it.')
        self.depth, self.align, self.reduce = (float(low), float(high), float(step)), align, reduce
        self.depthnet = self.build_depthnet()

    def build_depthnet(self) -> nn.Module:
        """The net from features to D + out_channels."""
        return nn.Conv2d(self.in_channels, self.bins + self.out_channels, 1)

    def forward(self, features: Tensor, geometry: CameraGeometry) -> BEVFeatures:
        """Features (B, N, in_channels, h, w) to `bev` (B, out_channels, Y, X) and `depth` (B, N, D, h, w), float32.

        Raises:
            DataError: features of other cameras.
        """
        self.check(features, geometry)
        depth, context = self.lift(features, geometry)
        return BEVFeatures(self.pool(depth, context, self.ranks(geometry, features.shape[3:])), depth)

    def lift(self, features: Tensor, geometry: CameraGeometry) -> tuple[Tensor, Tensor]:
        """Features to the probability of each depth (B, N, D, h, w), float32, and the context (B, N, C, h, w)."""
        maps = self.depthnet(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return _softmax(maps[:, :, :self.bins]), maps[:, :, self.bins:]

    def pool(self, depth: Tensor, context: Tensor, ranks: Ranks) -> Tensor:
        """What `lift` gives to (B, out_channels, Y, X)."""
        return bev_pool(depth, context, ranks, self.reduce)

    def make_ranks(self, geometry: CameraGeometry, feature_size: Sequence[int]) -> Ranks:
        """Cells of the grid in which the points of the rays lie."""
        points = geometry.frustum(self.depths, feature_size, self.align)
        return make_ranks(points, self.grid.x, self.grid.y, self.grid.z)

    @property
    def depths(self) -> list[float]:
        """D depths [m] of the points on a ray."""
        low, _, step = self.depth
        return [low + i * step for i in range(self.bins)]

    def depth_map(self, found: BEVFeatures) -> Tensor:
        """(B, N, h, w) float32 middle [m] of the most probable range of depths."""
        low, _, step = self.depth
        return low + (found.depth.argmax(2) + .5) * step


def _softmax(logits: Tensor) -> Tensor:
    """Over the depths of (B, N, D, h, w), in float32 (float64 where it comes so)."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(2)
