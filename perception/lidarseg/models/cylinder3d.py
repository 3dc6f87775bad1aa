"""Cylindrical and Asymmetrical 3D Convolution Networks for LiDAR Segmentation (Cylinder3D).

Xinge Zhu, Hui Zhou, Tai Wang, Fangzhou Hong, Yuexin Ma, Wei Li, Hongsheng Li, Dahua Lin. CVPR 2021.

The whole net: a point MLP, the maximum over each voxel's points, an asymmetric sparse U-Net, dimension-decomposition
context (DDCM), voxel logits, and optionally a refinement of the points that mirrors the MLP.

Shapes: N points and V occupied voxels of the whole batch, i = `base_channels`, C = `num_classes`. The net has C + 1
outputs; the last one is the authors' class "unlabelled": never a target, never predicted, kept in the softmax.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.common.losses.lovasz import lovasz_softmax
from perception.common.nets.blocks import RowNorm
from perception.lidarseg.deploy import traceable
from perception.lidarseg.graphs import use_graphs
from perception.lidarseg.models.points import at_least_float32, label_points, masked_cross_entropy, voxel_tensor
from perception.ops.scatter import scatter_max, take_rows
from perception.ops.sparse.functional import Finish, can_finish
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.registry import MODELS
from perception.utils.checks import check_choice, check_class_weights
from perception.utils.errors import DataError

SHARING = ('correct', 'legacy')
# kernel sizes along (rho, phi, z)
PHI_Z, RHO_Z, RHO, PHI, Z, FULL = (1, 3, 3), (3, 1, 3), (3, 1, 1), (1, 3, 1), (1, 1, 3), (3, 3, 3)


@MODELS.register_module()
class Cylinder3D(BaseModel):
    """The net with its losses and its predictions.

    Args:
        data_preprocessor: a CylinderVoxelizer or its config; the grid stands there only.
        num_classes: C, without the ignored class.
        base_channels: i, width of the first sparse block; the others follow by factors of two.
        compression: channels of a voxel that enter the U-Net.
        point_channels: channels of a point before the maximum.
        point_widths: hidden widths of the point MLP, mirrored by the refinement.
        refine: 'mirror' adds the point refinement head (section 3.5), None copies voxel logits to the points.
        indice_sharing: 'correct' uses the declared kernels; 'legacy' those that the authors' code computes in fact,
            because spconv 1 reuses the neighbours of the first layer with the same key. Published weights need it.
        class_weights: C weights of the cross-entropies, None for equal ones (as in the authors' code).
        ce_weight: weight of the voxels' cross-entropy.
        lovasz_weight: weight of the voxels' Lovasz-softmax loss.
        point_weight: weight of the refined points' cross-entropy.
        lovasz_classes: 'present', 'all' or a list of classes, see `lovasz_softmax`.
        keep_logits: store each scan's (N, C) `logits` beside its predictions.
        ignore_index: label without a class.
        in_channels: features of a point, the nine of the paper and those that the data set adds.
        init_cfg: see mmengine.
    """

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 19,
                 base_channels: int = 32, compression: int = 32, point_channels: int = 256,
                 point_widths: Sequence[int] = (64, 128, 256), refine: str | None = None,
                 indice_sharing: str = 'correct', class_weights: Sequence[float] | None = None, ce_weight: float = 1.0,
                 lovasz_weight: float = 1.0, point_weight: float = 1.0, lovasz_classes: str | Sequence[int] = 'present',
                 keep_logits: bool = False, ignore_index: int = 255, in_channels: int = 9,
                 init_cfg: dict | None = None):
        super().__init__(data_preprocessor, init_cfg)
        check_choice('Cylinder3D: indice_sharing', indice_sharing, SHARING)
        check_choice('Cylinder3D: refine', refine, ('mirror', None))
        check_class_weights('Cylinder3D', class_weights, num_classes)
        self.num_classes = num_classes
        self.ce_weight, self.lovasz_weight, self.point_weight = ce_weight, lovasz_weight, point_weight
        self.lovasz_classes, self.ignore_index, self.keep_logits = lovasz_classes, ignore_index, keep_logits
        self.register_buffer('class_weights', None if class_weights is None else torch.tensor([*class_weights, 1.0]),
                             persistent=False)
        self.encoder = PointEncoder(in_channels, point_widths, point_channels, compression)
        self.backbone = AsymmetricUNet(compression, base_channels, indice_sharing)
        self.head = SubMConv3d(4 * base_channels, num_classes + 1, FULL, bias=True)
        self.refine = PointRefinement(4 * base_channels, point_widths) if refine else None
        self.point_head = nn.Linear(point_widths[0], num_classes + 1) if refine else None
        self.point_feats = nn.Identity()  # two named places whose outputs distillation can record
        self.point_logits = nn.Identity()

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = 'tensor') -> dict | list:
        """Run the net on a batch of a CylinderVoxelizer.

        Args:
            inputs: the batch, see `CylinderVoxelizer.forward`.
            data_samples: a PointSegSample for each scan; new ones are made where predictions need them.
            mode: 'tensor', 'loss' or 'predict'.

        Returns:
            'tensor': `voxel_logits` (V, C+1) and `point_logits` (N, C+1). 'loss': scalars `loss_*`. 'predict': the
            samples with `pred_labels`.
        """
        check_choice('Cylinder3D: mode', mode, ('tensor', 'loss', 'predict'))
        rows = inputs['point_to_voxel']
        voxel_feats, hidden = self.encoder(inputs['point_feats'], rows, len(inputs['voxel_coords']))
        voxels = self.backbone(voxel_tensor(voxel_feats, inputs))
        voxel_logits = self.head(voxels).feats  # (V, C+1)
        if self.refine is None:
            self.point_feats(take_rows(voxels.feats, rows))
            point_logits = self.point_logits(take_rows(voxel_logits, rows))
        else:
            point_feats = self.point_feats(self.refine(voxels.feats, rows, hidden))  # (N, 64)
            point_logits = self.point_logits(self.point_head(point_feats))  # (N, C+1)
        if mode == 'loss':
            return self.loss(voxel_logits, point_logits, inputs)
        if mode == 'predict':
            return self.predict(point_logits, inputs['num_points'], data_samples)
        return dict(voxel_logits=voxel_logits, point_logits=point_logits)

    def traceable(self) -> tuple:
        """The net as a graph of points to labels, see `perception/lidarseg/deploy.py`."""
        return traceable(self)

    def use_graphs(self) -> None:
        """Predict by CUDA graphs from now on, see `perception/lidarseg/graphs.py`."""
        use_graphs(self)

    def loss(self, voxel_logits: Tensor, point_logits: Tensor, inputs: dict) -> dict[str, Tensor]:
        """Cross-entropy and Lovasz-softmax of the voxels, cross-entropy of the refined points.

        Each is a mean over what has a label: voxels (Lovasz: classes present in the batch), points.

        Args:
            voxel_logits: (V, C+1).
            point_logits: (N, C+1), used where the refinement is on.
            inputs: the batch with `labels` (N,) and `voxel_labels` (V,).

        Returns:
            `loss_voxel_ce`, `loss_voxel_lovasz` and, with the refinement, `loss_point_ce`; scalars.

        Raises:
            DataError: a batch without labels.
        """
        if 'voxel_labels' not in inputs:
            raise DataError('Cylinder3D.loss: a batch without labels, expected `labels` in every data sample. Train on '
                            'a split that has them.')
        voxel_labels = inputs['voxel_labels']
        probs = at_least_float32(voxel_logits).softmax(dim=1)
        losses = dict(
            loss_voxel_ce=self.ce_weight * self.cross_entropy(voxel_logits, voxel_labels),
            loss_voxel_lovasz=self.lovasz_weight * lovasz_softmax(probs, voxel_labels, classes=self.lovasz_classes,
                                                                  ignore_index=self.ignore_index))
        if self.refine is not None:
            losses['loss_point_ce'] = self.point_weight * self.cross_entropy(point_logits, inputs['labels'])
        return losses

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the rows with a label, zero where there is none.

        Args:
            logits: (M, C+1).
            labels: (M,) int64 train ids, `ignore_index` = without a class.
        """
        return masked_cross_entropy(logits, labels, self.class_weights, self.ignore_index)

    def predict(self, point_logits: Tensor, num_points: list[int], data_samples: list | None = None) -> list:
        """Write `pred_labels` (N_i,) int64 into each scan's sample; a scan without points gets an empty tensor.

        Args:
            point_logits: (N, C+1) of the batch.
            num_points: N_i of each scan.
            data_samples: a PointSegSample for each scan, or None.
        """
        logits = point_logits[:, :self.num_classes]  # never the class "unlabelled"
        return label_points(logits, num_points, data_samples, self.keep_logits)


class PointEncoder(nn.Module):
    """Point MLP, maximum over each voxel, compression (section 3.2).

    Args:
        in_channels: features of a point.
        widths: hidden widths.
        point_channels: channels before the maximum.
        compression: channels of a voxel.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], point_channels: int, compression: int):
        super().__init__()
        self.norm = RowNorm(in_channels)
        self.layers = nn.ModuleList(_linear_norm_relu(a, b) for a, b in zip([in_channels, *widths], widths))
        self.project = nn.Linear(widths[-1], point_channels)
        self.compress = nn.Linear(point_channels, compression)

    def forward(self, feats: Tensor, point_to_voxel: Tensor, num_voxels: int) -> tuple[Tensor, list[Tensor]]:
        """(N, in_channels) features to (V, compression) voxel features and the N x 64, 128, 256 hidden ones of points.

        Raises:
            DataError: another number of features.
        """
        if feats.shape[1] != self.norm.num_features:
            raise DataError(f'Cylinder3D: {feats.shape[1]} features of a point, expected {self.norm.num_features}. Set '
                            f'model.in_channels={feats.shape[1]}, or other features of the data set.')
        feats = self.norm(feats.to(self.norm.weight.dtype))
        hidden = []
        for layer in self.layers:
            feats = layer(feats)
            hidden.append(feats)
        voxel_feats = scatter_max(self.project(feats), point_to_voxel, num_voxels)
        return F.relu(self.compress(voxel_feats)), hidden


class AsymmetricUNet(nn.Module):
    """Asymmetric residual blocks down and up, and the context module (sections 3.3 and 3.4).

    Args:
        in_channels: channels of a voxel.
        base_channels: i.
        indice_sharing: 'correct' or 'legacy', see Cylinder3D.
    """

    def __init__(self, in_channels: int, base_channels: int, indice_sharing: str = 'correct'):
        super().__init__()
        i, legacy = base_channels, indice_sharing == 'legacy'
        self.stem = AsymmetricBlock(in_channels, i, PHI_Z, PHI_Z if legacy else RHO_Z)
        self.stage1 = DownBlock(i, 2 * i, (2, 2, 2), 'down1', legacy)
        self.stage2 = DownBlock(2 * i, 4 * i, (2, 2, 2), 'down2', legacy)
        self.stage3 = DownBlock(4 * i, 8 * i, (2, 2, 1), 'down3', legacy)
        self.stage4 = DownBlock(8 * i, 16 * i, (2, 2, 1), 'down4', legacy)
        self.up4 = UpBlock(16 * i, 16 * i, 'down4', legacy)
        self.up3 = UpBlock(16 * i, 8 * i, 'down3', legacy)
        self.up2 = UpBlock(8 * i, 4 * i, 'down2', legacy)
        self.up1 = UpBlock(4 * i, 2 * i, 'down1', legacy)
        self.context = DimensionContext(2 * i, legacy)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Voxels with `in_channels` to the same voxels with 4i channels."""
        x = self.stem(x)
        x, skip1 = self.stage1(x)
        x, skip2 = self.stage2(x)
        x, skip3 = self.stage3(x)
        x, skip4 = self.stage4(x)
        x = self.up4(x, skip4)
        x = self.up3(x, skip3)
        x = self.up2(x, skip2)
        x = self.up1(x, skip1)
        return x.replace(torch.cat([self.context(x).feats, x.feats], dim=1))


class AsymmetricBlock(nn.Module):
    """Two branches with the same two kernels in opposite order, summed (figure 4)."""

    def __init__(self, in_channels: int, out_channels: int, first: tuple, second: tuple):
        super().__init__()
        self.branch1 = nn.Sequential(ConvActNorm(in_channels, out_channels, first),
                                     ConvActNorm(out_channels, out_channels, second))
        self.branch2 = nn.Sequential(ConvActNorm(in_channels, out_channels, second),
                                     ConvActNorm(out_channels, out_channels, first))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, in_channels) to (V, out_channels)."""
        return x.replace(self.branch1(x).feats + self.branch2(x).feats)


class DownBlock(nn.Module):
    """An asymmetric block, then a strided convolution; returns the pooled voxels and the skip."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple, name: str, legacy: bool):
        super().__init__()
        self.block = AsymmetricBlock(in_channels, out_channels, RHO_Z, RHO_Z if legacy else PHI_Z)
        self.pool = SparseConv3d(out_channels, out_channels, FULL, stride, padding=1, name=name)

    def forward(self, x: SparseTensor) -> tuple[SparseTensor, SparseTensor]:
        """(V, in_channels) to (V', out_channels) and (V, out_channels)."""
        skip = self.block(x)
        return self.pool(skip), skip


class UpBlock(nn.Module):
    """Back to the voxels of a skip, which is added, then three convolutions."""

    def __init__(self, in_channels: int, out_channels: int, name: str, legacy: bool):
        super().__init__()
        self.reduce = ConvActNorm(in_channels, out_channels, FULL)
        self.unpool = SparseInverseConv3d(out_channels, out_channels, name=name)
        kernels = (PHI_Z, PHI_Z, PHI_Z) if legacy else (PHI_Z, RHO_Z, FULL)
        self.convs = nn.Sequential(*(ConvActNorm(out_channels, out_channels, kernel) for kernel in kernels))

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        """(V', in_channels) and (V, out_channels) to (V, out_channels)."""
        x = self.unpool(self.reduce(x))
        return self.convs(x.replace(x.feats + skip.feats))


class DimensionContext(nn.Module):
    """Dimension-decomposition based context modelling: gates along each axis, summed (DDCM, section 3.4)."""

    def __init__(self, channels: int, legacy: bool):
        super().__init__()
        kernels = (RHO, RHO, RHO) if legacy else (RHO, PHI, Z)
        self.convs = nn.ModuleList(SubMConv3d(channels, channels, kernel) for kernel in kernels)
        self.norms = nn.ModuleList(RowNorm(channels) for _ in kernels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, channels) to (V, channels)."""
        gates = sum(torch.sigmoid(norm(conv(x).feats)) for conv, norm in zip(self.convs, self.norms))
        return x.replace(x.feats * gates)


class ConvActNorm(nn.Module):
    """Sub-manifold convolution, LeakyReLU, BatchNorm: in this order."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple):
        super().__init__()
        self.conv = SubMConv3d(in_channels, out_channels, kernel_size)
        self.norm = RowNorm(out_channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, in_channels) to (V, out_channels)."""
        if can_finish(x.feats, self.conv, self.norm):
            return self.conv(x, Finish(self.norm, 0.01, norm_first=False))
        x = self.conv(x)
        return x.replace(self.norm(F.leaky_relu(x.feats, inplace=True)))


class PointRefinement(nn.Module):
    """The point MLP mirrored: from voxel features back to points, adding the MLP's hidden features (section 3.5).

    Args:
        voxel_channels: channels of a voxel, 4i.
        widths: hidden widths of the point MLP, here used from the last to the first.
    """

    def __init__(self, voxel_channels: int, widths: Sequence[int]):
        super().__init__()
        mirrored = list(widths)[::-1]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip([voxel_channels, *mirrored], mirrored))
        self.norms = nn.ModuleList(RowNorm(width) for width in mirrored)

    def forward(self, voxel_feats: Tensor, point_to_voxel: Tensor, hidden: list[Tensor]) -> Tensor:
        """(V, voxel_channels) and the MLP's hidden (N, widths[j]) to (N, widths[0])."""
        feats = take_rows(self.linears[0](voxel_feats), point_to_voxel)  # a linear layer commutes with the copy
        feats = F.relu(self.norms[0](feats)) + hidden[-1]
        for linear, norm, skip in zip(self.linears[1:], self.norms[1:], hidden[-2::-1]):
            feats = F.relu(norm(linear(feats))) + skip
        return feats


def _linear_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_channels, out_channels), RowNorm(out_channels), nn.ReLU(inplace=True))
