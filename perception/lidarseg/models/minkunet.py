"""4D Spatio-Temporal ConvNets: Minkowski Convolutional Neural Networks (MinkowskiNet), as a U-Net for LiDAR scans.

Christopher Choy, JunYoung Gwak, Silvio Savarese. CVPR 2019. The form and widths are those of SPVNAS (Tang et al., ECCV
2020), whose MinkUNet PVD distils.

Shapes: N points and V occupied voxels of the whole batch, C = `num_classes`. A voxel's input is its first point.
"""
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.common.nets.blocks import RowNorm
from perception.lidarseg.deploy import traceable
from perception.lidarseg.graphs import use_graphs
from perception.lidarseg.models.points import label_points, masked_cross_entropy, voxel_tensor
from perception.ops.scatter import take_rows
from perception.ops.sparse.functional import Finish, can_finish
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.registry import MODELS
from perception.utils.checks import check_class_weights, close_matches
from perception.utils.errors import ConfigError, DataError

WIDTHS = (32, 32, 64, 128, 256, 256, 128, 96, 96)  # stem, stages 1 to 4, ups 1 to 4
BLOCKS = (2,) * 8  # residual blocks of stages 1 to 4, ups 1 to 4
MODES = ('tensor', 'loss', 'predict')


class Level(NamedTuple):
    """Widths of one stage: of its strided convolution, and (hidden, output) of each residual block."""
    transition: int
    blocks: tuple[tuple[int, int], ...]


class Architecture(NamedTuple):
    """Widths of a whole U-Net.

    Attributes:
        stem: of its two convolutions.
        down: stages 1 to 4.
        up: stages 1 to 4 of the decoder.
        project_first: the first block of each stage has a projection even where its widths are equal (SPVNAS).
    """
    stem: tuple[int, int]
    down: tuple[Level, ...]
    up: tuple[Level, ...]
    project_first: bool = False


def scaled_architecture(width: float, blocks: Sequence[int] = BLOCKS) -> Architecture:
    """The U-Net of SPVNAS's MinkUNet and SPVCNN at a width ratio.

    Args:
        width: 1.0, 0.64 and 0.5 are published.
        blocks: residual blocks of stages 1 to 4 and of ups 1 to 4; mmdet3d's MinkUNet34 has (2, 3, 4, 6, 2, 2, 2, 2).

    Raises:
        ConfigError: so narrow that a layer would have no channel, or not eight positive numbers of blocks.
    """
    if len(blocks) != 8 or min(blocks) < 1:
        raise ConfigError(f'MinkUNet: blocks={tuple(blocks)}, expected eight positive numbers, of stages 1 to 4 and of '
                          f'ups 1 to 4. The usual ones are {BLOCKS}.')
    if not 1 <= width * min(WIDTHS) < float('inf'):
        raise ConfigError(f'MinkUNet: width={width}, expected at least {1 / min(WIDTHS):.3f}. The published ones are '
                          '1.0, 0.64 and 0.5.')
    widths = [int(width * channels) for channels in WIDTHS]
    down = tuple(Level(a, ((b, b),) * n) for a, b, n in zip(widths[:4], widths[1:5], blocks))
    up = tuple(Level(b, ((b, b),) * n) for b, n in zip(widths[5:], blocks[4:]))
    return Architecture((widths[0], widths[0]), down, up)


@MODELS.register_module()
class MinkUNet(BaseModel):
    """The net with its loss and its predictions.

    Taps: `backbone` (SparseTensor, voxel features), `head` (SparseTensor, voxel logits), `point_feats` (N, channels of
    the backbone) and `point_logits` (N, C), copied from the voxels.

    Args:
        data_preprocessor: a CubeVoxelizer or its config.
        num_classes: C, without the ignored class.
        width: ratio of all widths, see `scaled_architecture`.
        blocks: residual blocks of each level, see `scaled_architecture`.
        in_channels: features of a voxel, x, y, z, intensity and those that the data set adds.
        class_weights: C weights of the cross-entropy, None for equal ones.
        keep_logits: store each scan's (N, C) `logits` beside its predictions.
        ignore_index: label without a class.
        init_cfg: see mmengine.
    """

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 19, width: float = 1.0,
                 blocks: Sequence[int] = BLOCKS, in_channels: int = 4, class_weights: Sequence[float] | None = None,
                 keep_logits: bool = False, ignore_index: int = 255, init_cfg: dict | None = None):
        super().__init__(data_preprocessor, init_cfg)
        check_class_weights(type(self).__name__, class_weights, num_classes)
        self.num_classes, self.ignore_index, self.keep_logits = num_classes, ignore_index, keep_logits
        self.register_buffer('class_weights', None if class_weights is None else torch.tensor(class_weights),
                             persistent=False)
        self.backbone = self.build_backbone(in_channels, scaled_architecture(width, blocks))
        self.head = SparseLinear(self.backbone.out_channels, num_classes)
        self.voxel_head: nn.Module | None = None
        self.point_feats = nn.Identity()  # two named places whose outputs distillation can record
        self.point_logits = nn.Identity()

    def build_backbone(self, in_channels: int, architecture: Architecture) -> nn.Module:
        """The U-Net; SPVCNN has another one."""
        return MinkBackbone(in_channels, architecture)

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = 'tensor') -> dict | list:
        """Run the net on a batch of a CubeVoxelizer.

        Args:
            inputs: the batch, see `CubeVoxelizer.forward`.
            data_samples: a PointSegSample for each scan; new ones are made where predictions need them.
            mode: 'tensor', 'loss' or 'predict'.

        Returns:
            'tensor': `voxel_logits` (V, C) and `point_logits` (N, C). 'loss': scalars `loss_*`. 'predict': the samples
            with `pred_labels`.
        """
        if mode not in MODES:
            raise ConfigError(f'{type(self).__name__}: mode={mode!r}, expected one of {MODES}. '
                              f'{close_matches(mode, MODES)}')
        feats, expected = inputs['voxel_feats'], self.backbone.in_channels
        if feats.shape[1] != expected:
            raise DataError(f'{type(self).__name__}: {feats.shape[1]} features of a voxel, expected {expected}. Set '
                            f'model.in_channels={feats.shape[1]}, or other features of the data set.')
        points, branch = self.run_backbone(voxel_tensor(feats, inputs))
        voxel_logits = self.head(points).feats
        rows = inputs['point_to_voxel']
        self.point_feats(take_rows(points.feats, rows))
        point_logits = self.point_logits(take_rows(voxel_logits, rows))
        if mode == 'predict':
            return self.predict(point_logits, inputs['num_points'], data_samples)
        outputs = dict(voxel_logits=voxel_logits, point_logits=point_logits)
        if self.voxel_head is not None:
            outputs['branch_logits'] = self.voxel_head(branch).feats
        return self.loss(outputs, inputs) if mode == 'loss' else outputs

    def run_backbone(self, x: SparseTensor) -> tuple[SparseTensor, SparseTensor]:
        """Features that the head reads, and those of the voxel branch; here they are the same."""
        x = self.backbone(x)
        return x, x

    def traceable(self) -> tuple:
        """The net as a graph of points to labels, see `perception/lidarseg/deploy.py`."""
        return traceable(self)

    def use_graphs(self) -> None:
        """Predict by CUDA graphs from now on, see `perception/lidarseg/graphs.py`."""
        use_graphs(self)

    def loss(self, outputs: dict[str, Tensor], inputs: dict) -> dict[str, Tensor]:
        """Cross-entropy, a mean over the voxels with a label; zero where there is none.

        Args:
            outputs: `voxel_logits` and, with a voxel head, `branch_logits`, both (V, C).
            inputs: the batch with `voxel_labels` (V,).

        Returns:
            `loss_voxel_ce` and, with a voxel head, `loss_branch_ce`; scalars.

        Raises:
            DataError: a batch without labels.
        """
        if 'voxel_labels' not in inputs:
            raise DataError(f'{type(self).__name__}.loss: a batch without labels, expected `labels` in every data '
                            'sample. Train on a split that has them.')
        names = dict(voxel_logits='loss_voxel_ce', branch_logits='loss_branch_ce')
        return {loss: masked_cross_entropy(outputs[name], inputs['voxel_labels'], self.class_weights, self.ignore_index)
                for name, loss in names.items() if name in outputs}

    def predict(self, point_logits: Tensor, num_points: list[int], data_samples: list | None = None) -> list:
        """Write `pred_labels` (N_i,) int64 into each scan's sample; a scan without points gets an empty tensor.

        Args:
            point_logits: (N, C) of the batch.
            num_points: N_i of each scan.
            data_samples: a PointSegSample for each scan, or None.
        """
        return label_points(point_logits, num_points, data_samples, self.keep_logits)


class MinkBackbone(nn.Module):
    """The U-Net: a stem, four stages down, four up.

    Args:
        in_channels: features of a voxel.
        architecture: its widths.
    """

    def __init__(self, in_channels: int, architecture: Architecture):
        super().__init__()
        first, channels = architecture.stem
        self.in_channels = in_channels
        self.stem = nn.Sequential(ConvNormAct(SubMConv3d(in_channels, first, 3)),
                                  ConvNormAct(SubMConv3d(first, channels, 3)))
        skips = [channels]
        for number, level in enumerate(architecture.down, 1):
            conv = SparseConv3d(channels, level.transition, 2, 2, 0, name=f'down{number}')
            stage = Stage(conv, level, 0, architecture.project_first)
            self.add_module(f'stage{number}', stage)
            channels = stage.out_channels
            skips.append(channels)
        for number, level in enumerate(architecture.up, 1):
            conv = SparseInverseConv3d(channels, level.transition, f'down{5 - number}', 2)
            stage = Stage(conv, level, skips[4 - number], architecture.project_first)
            self.add_module(f'up{number}', stage)
            channels = stage.out_channels
        self.out_channels = channels

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Voxels with `in_channels` to the same voxels with `out_channels`."""
        x0 = self.stem(x)
        x1 = self.stage1(x0)
        x2 = self.stage2(x1)
        x3 = self.stage3(x2)
        x4 = self.stage4(x3)
        return self.up4(self.up3(self.up2(self.up1(x4, x3), x2), x1), x0)


class Stage(nn.Module):
    """A strided or inverse convolution, the skip beside it in the decoder, residual blocks.

    Args:
        conv: the convolution between the levels.
        level: widths.
        skip_channels: of the skip, 0 in the encoder.
        project_first: see Architecture.
    """

    def __init__(self, conv: nn.Module, level: Level, skip_channels: int, project_first: bool):
        super().__init__()
        self.transition = ConvNormAct(conv)
        self.blocks = nn.Sequential()
        channels = level.transition + skip_channels
        for number, (hidden, out) in enumerate(level.blocks):
            self.blocks.append(ResBlock(channels, hidden, out, channels != out or (project_first and number == 0)))
            channels = out
        self.out_channels = channels

    def forward(self, x: SparseTensor, skip: SparseTensor | None = None) -> SparseTensor:
        """Voxels of one level to those of the next, (V', out_channels)."""
        x = self.transition(x)
        if skip is not None:
            x = x.replace(torch.cat([x.feats, skip.feats], dim=1))
        return self.blocks(x)


class ResBlock(nn.Module):
    """Two convolutions and a shortcut, summed before the last activation."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, project: bool):
        super().__init__()
        self.conv1 = ConvNormAct(SubMConv3d(in_channels, hidden_channels, 3))
        self.conv2 = ConvNormAct(SubMConv3d(hidden_channels, out_channels, 3), act=False)
        self.shortcut = ConvNormAct(SubMConv3d(in_channels, out_channels, 1), act=False) if project else None

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, in_channels) to (V, out_channels)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return x.replace(F.relu(self.conv2(self.conv1(x)).feats + shortcut.feats))


class ConvNormAct(nn.Module):
    """A sparse convolution without bias, BatchNorm and, unless `act` is False, ReLU."""

    def __init__(self, conv: nn.Module, act: bool = True):
        super().__init__()
        self.conv = conv
        self.norm = RowNorm(conv.weight.shape[0])
        self.act = act

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Features of the voxels that the convolution makes."""
        if can_finish(x.feats, self.conv, self.norm):
            return self.conv(x, Finish(self.norm, 0. if self.act else 1., norm_first=True))
        x = self.conv(x)
        feats = self.norm(x.feats)
        return x.replace(F.relu(feats, inplace=True) if self.act else feats)


class SparseLinear(nn.Module):
    """A linear layer on the features of a sparse tensor."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, in_channels) to (V, out_channels)."""
        return x.replace(self.linear(x.feats))
