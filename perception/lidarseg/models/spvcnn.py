"""Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution (SPVCNN).

Haotian Tang, Zhijian Liu, Shengyu Zhao, Yujun Lin, Ji Lin, Hanrui Wang, Song Han. ECCV 2020.

MinkUNet with a branch of points beside the voxels. As in the authors' code a point is a voxel of the finest level, its
first LiDAR point; so at stride 1 points and voxels are the same rows.

Shapes: V points, which are the V voxels of the finest level.
"""
import torch.nn.functional as F
from torch import Tensor, nn

from perception.common.nets.blocks import RowNorm
from perception.lidarseg.models.minkunet import Architecture, MinkBackbone, MinkUNet, SparseLinear
from perception.ops.point_voxel import finest_map, points_to_voxels, voxels_to_points
from perception.ops.sparse.maps import PointVoxelMap
from perception.ops.sparse.tensor import SparseTensor
from perception.registry import MODELS


@MODELS.register_module()
class SPVCNN(MinkUNet):
    """The net.

    Taps: `backbone.up4` (SparseTensor, voxel features), `voxel_head` (SparseTensor, voxel logits, where it is on),
    `point_feats` (N, channels of the backbone) and `point_logits` (N, C).

    Args:
        data_preprocessor: a CubeVoxelizer or its config.
        num_classes: C, without the ignored class.
        voxel_head: classify the voxel branch too, by a linear layer that only training and distillation run (PVD has
            voxel logits and point logits to compare); published nets have none.
        **arguments: see MinkUNet.
    """

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 19,
                 voxel_head: bool = False, **arguments):
        super().__init__(data_preprocessor, num_classes, **arguments)
        if voxel_head:
            self.voxel_head = SparseLinear(self.backbone.out_channels, num_classes)

    def build_backbone(self, in_channels: int, architecture: Architecture) -> nn.Module:
        """The U-Net with the point branch."""
        return SPVBackbone(in_channels, architecture)

    def run_backbone(self, x: SparseTensor) -> tuple[SparseTensor, SparseTensor]:
        """Features of the points, which the head reads, and those of the voxel branch."""
        return self.backbone(x)


class SPVBackbone(MinkBackbone):
    """The U-Net of MinkUNet; points meet the voxels after the stem, at strides 16 and 4, and at the end.

    Args:
        in_channels: features of a voxel.
        architecture: its widths.
        dropout: probability that a feature is dropped where points become voxels.
    """

    def __init__(self, in_channels: int, architecture: Architecture, dropout: float = 0.3):
        super().__init__(in_channels, architecture)
        widths = [architecture.stem[1], self.stage4.out_channels, self.up2.out_channels, self.up4.out_channels]
        self.point_transforms = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), RowNorm(b), nn.ReLU(inplace=True))
            for a, b in zip(widths, widths[1:]))
        self.dropout = dropout

    def forward(self, x: SparseTensor) -> tuple[SparseTensor, SparseTensor]:
        """Voxels with `in_channels` to points and to voxels, the same rows, with `out_channels`."""
        x0 = self.stem(x)
        x1 = self.stage1(x0)
        x2 = self.stage2(x1)
        x3 = self.stage3(x2)
        x4 = self.stage4(x3)
        points1, y = self._exchange(x0, x4, x0.feats, 0, stride=16)
        y = self.up2(self.up1(y, x3), x2)
        points2, y = self._exchange(x0, y, points1, 1, stride=4)
        y = self.up4(self.up3(y, x1), x0)
        return y.replace(y.feats + self.point_transforms[2](points2)), y

    @staticmethod
    def find_map(finest: SparseTensor, x: SparseTensor, stride: int) -> PointVoxelMap:
        """Between the voxels of the finest level, which are the points, and those of x; a deployed net has its own."""
        return finest_map(finest.voxels, x.voxels, stride)

    def _exchange(self, finest: SparseTensor, x: SparseTensor, points: Tensor, number: int,
                  stride: int) -> tuple[Tensor, SparseTensor]:
        """Interpolated voxels and transformed points are summed (V, C), and averaged into the voxels of x."""
        where = self.find_map(finest, x, stride)
        points = voxels_to_points(x.feats, where) + self.point_transforms[number](points)
        return points, x.replace(F.dropout(points_to_voxels(points, where), self.dropout, self.training))
