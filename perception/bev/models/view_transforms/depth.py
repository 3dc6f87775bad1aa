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
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from perception.bev.geometry import ALIGNMENTS, CameraGeometry
from perception.bev.models.view_transforms.base import BEVFeatures, ViewTransform
from perception.common.nets.blocks import RowNorm
from perception.common.nets.resnet import BasicBlock
from perception.ops.bev_pool import REDUCTIONS, Ranks, bev_pool, make_ranks, pool_rows
from perception.registry import MODELS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

CAMERA_NUMBERS = 27
GROUPS = 4  # of the convolution before the last one of BEVDepth's depth branch
RATES = (6, 12, 18)


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
        check_choice(f'{type(self).__name__}: align', align, ALIGNMENTS)
        check_choice(f'{type(self).__name__}: reduce', reduce, REDUCTIONS)
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


@MODELS.register_module()
class BEVDepth(LSS):
    """LSS with a net that knows the cameras, and a loss that teaches it the depths that a LiDAR measured.

    Args:
        in_channels: of the image features.
        out_channels: of the context, hence of the grid.
        grid: arguments of a BEVGrid: x, y, z.
        depth: see LSS.
        align: see LSS.
        reduce: see LSS.
        mid_channels: of the depth net, a multiple of 4.
        blocks: residual blocks of its depth branch.
        aspp: the branch looks around at four scales.
        use_dcn: its last 3 x 3 convolution moves its samples (deformable); False takes a plain one.
        aggregation: convolutions smooth the volume of depths and columns before it is pooled. The volume is then made.
        loss_weight: of the depth loss.

    Raises:
        ConfigError: a range that steps do not fill, an unknown choice, channels of another number.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: dict[str, Sequence[float]],
                 depth: Sequence[float] = (2., 58., .5), align: str = 'centre', reduce: str = 'sum',
                 mid_channels: int = 512, blocks: int = 3, aspp: bool = True, use_dcn: bool = False,
                 aggregation: bool = False, loss_weight: float = 3.0):
        if mid_channels % GROUPS:
            raise ConfigError(f'BEVDepth: mid_channels={mid_channels}, expected a multiple of {GROUPS}. Change it.')
        self._net = dict(mid_channels=mid_channels, blocks=blocks, aspp=aspp, use_dcn=use_dcn)
        super().__init__(in_channels, out_channels, grid, depth, align, reduce)
        self.depth_aggregation_net = DepthAggregation(out_channels) if aggregation else None
        self.loss_weight = loss_weight

    def build_depthnet(self) -> nn.Module:
        """The net from features and camera to D + out_channels."""
        return DepthNet(self.in_channels, self.bins, self.out_channels, **self._net)

    def lift(self, features: Tensor, geometry: CameraGeometry) -> tuple[Tensor, Tensor]:
        """Features to the probability of each depth (B, N, D, h, w), float32, and the context (B, N, C, h, w)."""
        camera = camera_numbers(geometry).flatten(0, 1)
        logits, context = (maps.unflatten(0, features.shape[:2])
                           for maps in self.depthnet(features.flatten(0, 1), camera))
        return _softmax(logits), context

    def pool(self, depth: Tensor, context: Tensor, ranks: Ranks) -> Tensor:
        """What `lift` gives to (B, out_channels, Y, X)."""
        if self.depth_aggregation_net is None:
            return super().pool(depth, context, ranks)
        with torch.autocast(depth.device.type, enabled=False):
            volume = self.depth_aggregation_net(depth, context.to(depth.dtype))
        pooled = pool_rows(volume.new_ones(len(volume)), volume, ranks.by_share(), self.reduce)
        return pooled.unflatten(0, ranks.shape).movedim(-1, 1)

    def loss(self, found: BEVFeatures, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """`loss_depth`: binary cross-entropy of each depth's probability, in float32, by labelled cell.

        Args:
            found: of `forward`.
            data_samples: with `depth` (N, h, w) [m], 0 where unknown; what lies outside the range is no label either.

        Raises:
            DataError: samples without depth, or of another size.
        """
        probability = found.depth.float()
        target = [sample.get('depth') for sample in data_samples]
        shape = tuple(probability.shape[i] for i in (0, 1, 3, 4))
        sizes = {None if depth is None else tuple(depth.shape) for depth in target}
        if len(target) != shape[0] or sizes != {shape[1:]}:
            raise DataError(f'BEVDepth.loss: depth of {len(target)} samples with shapes {sizes}, expected {shape[0]} '
                            f'of {shape[1:]}. Let the pipeline add depth at the stride of the features, or take LSS.')
        target = torch.stack([depth.to(probability.device) for depth in target])
        low, _, step = self.depth
        bins = ((target.float() - low) / step).floor()
        known = (bins >= 0) & (bins < self.bins) & (target > 0)
        with torch.autocast(probability.device.type, enabled=False):
            wanted = F.one_hot(bins[known].long(), self.bins).float()
            loss = F.binary_cross_entropy(probability.movedim(2, -1)[known], wanted, reduction='sum')
        return dict(loss_depth=self.loss_weight * loss / known.sum().clamp(min=1))


def camera_numbers(geometry: CameraGeometry) -> Tensor:
    """(B, N, 27) float32 numbers that BEVDepth tells its net of a camera.

    Focal lengths, middle of the image; two rows of `image_aug`; the four horizontal numbers of `bev_aug` and its
    vertical one; the camera's pose in the frame, three rows.
    """
    cam_to_img, image_aug = geometry.cam_to_img.double(), geometry.image_aug.double()
    focal = torch.stack([cam_to_img[..., i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], dim=-1)
    frame = torch.cat([geometry.bev_aug[:, :2, :2].flatten(1), geometry.bev_aug[:, 2:3, 2]], dim=1).double()
    pose = torch.linalg.inv_ex(geometry.frame_to_cam.double())[0][..., :3, :]
    return torch.cat([focal, image_aug[..., :2, :].flatten(-2), frame[:, None].expand(*focal.shape[:2], 5),
                      pose.flatten(-2)], dim=-1).float()


class DepthNet(nn.Module):
    """Depths and context of image features, scaled by what the camera's numbers say.

    Args:
        in_channels: of the features.
        bins: D.
        out_channels: C, of the context.
        mid_channels: of the layers between.
        blocks: see BEVDepth.
        aspp: see BEVDepth.
        use_dcn: see BEVDepth.
    """

    def __init__(self, in_channels: int, bins: int, out_channels: int, mid_channels: int, blocks: int, aspp: bool,
                 use_dcn: bool):
        super().__init__()
        self.reduce_conv = nn.Sequential(nn.Conv2d(in_channels, mid_channels, 3, padding=1),
                                         nn.BatchNorm2d(mid_channels), nn.ReLU(inplace=True))
        self.bn = RowNorm(CAMERA_NUMBERS)
        self.context_mlp, self.depth_mlp = _Mlp(mid_channels), _Mlp(mid_channels)
        self.context_se, self.depth_se = _Gate(mid_channels), _Gate(mid_channels)
        self.context_conv = nn.Conv2d(mid_channels, out_channels, 1)
        layers = [BasicBlock(mid_channels, mid_channels) for _ in range(blocks)]
        if aspp:
            layers.append(ASPP(mid_channels))
        layers.append(DeformableConv(mid_channels) if use_dcn else
                      nn.Conv2d(mid_channels, mid_channels, 3, padding=1, groups=GROUPS, bias=False))
        self.depth_conv = nn.Sequential(*layers, nn.Conv2d(mid_channels, bins, 1))

    def forward(self, features: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
        """Features (M, in_channels, h, w) of cameras (M, 27) to logits (M, D, h, w) and context (M, C, h, w)."""
        features, camera = self.reduce_conv(features), self.bn(camera)
        context = self.context_conv(self.context_se(features, self.context_mlp(camera)))
        return self.depth_conv(self.depth_se(features, self.depth_mlp(camera))), context


class _Mlp(nn.Module):
    """(M, 27) to (M, channels)."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(CAMERA_NUMBERS, channels), nn.Linear(channels, channels)

    def forward(self, camera: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(camera)))


class _Gate(nn.Module):
    """Features (M, channels, h, w) times a factor for each channel, from rows (M, channels)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor, rows: Tensor) -> Tensor:
        return features * self.conv_expand(F.relu(self.conv_reduce(rows[..., None, None]))).sigmoid()


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 3 x 3 convolutions of three rates, one of 1 x 1, and the mean of the image.

    Args:
        channels: of input, branches and output.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.aspp1 = _Atrous(channels, 1, 0, 1)
        self.aspp2, self.aspp3, self.aspp4 = (_Atrous(channels, 3, rate, rate) for rate in RATES)
        self.global_avg_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1, bias=False),
                                             _ImageNorm(channels), nn.ReLU())
        self.conv1 = nn.Conv2d(5 * channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(.5)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(M, channels, h, w) to the same shape."""
        maps = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), self.global_avg_pool(x).expand_as(x)]
        return self.dropout(F.relu(self.bn1(self.conv1(torch.cat(maps, dim=1)))))


class _Atrous(nn.Module):

    def __init__(self, channels: int, kernel_size: int, padding: int, dilation: int):
        super().__init__()
        self.atrous_conv = nn.Conv2d(channels, channels, kernel_size, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


class _ImageNorm(nn.BatchNorm2d):
    """Of one number per image and channel; a single image, which has no spread, is normalised as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class DeformableConv(nn.Module):
    """A 3 x 3 convolution in groups whose nine samples a plain convolution moves, by nothing at first.

    The offsets are (y, x) of the samples row by row, what lies outside is zero, parameters are named as mmcv's.

    Args:
        channels: of input and output, a multiple of 4.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels // GROUPS, 3, 3))
        nn.init.kaiming_uniform_(self.weight, nonlinearity='relu')
        self.conv_offset = nn.Conv2d(channels, 18, 3, padding=1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(M, channels, h, w) to the same shape."""
        height, width = x.shape[2:]
        offset = self.conv_offset(x).float().unflatten(1, (9, 2))  # (M, 9, 2, h, w)
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # as places, which bfloat16 would move
        taps = torch.cartesian_prod(*2 * [torch.arange(-1., 2, device=x.device)])[..., None, None]
        row = offset[:, :, 0] + taps[:, 0] + torch.arange(height, device=x.device)[:, None]
        column = offset[:, :, 1] + taps[:, 1] + torch.arange(width, device=x.device)
        places = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)
        samples = F.grid_sample(x, places.flatten(1, 2).to(x.dtype), align_corners=False)  # (M, C, 9 h, w)
        samples = samples.reshape(x.shape[0], GROUPS, -1, height * width)  # channels of a group and taps
        weight = self.weight.reshape(GROUPS, len(self.weight) // GROUPS, -1)
        return (weight.to(samples.dtype) @ samples).reshape(x.shape)


class DepthAggregation(nn.Module):
    """Convolutions over columns and depths of each row of an image.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        def layer() -> list[nn.Module]:
            return [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True)]
        self.reduce_conv, self.conv = nn.Sequential(*layer()), nn.Sequential(*layer(), *layer())
        self.out_conv = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, depth: Tensor, context: Tensor) -> Tensor:
        """Probabilities (B, N, D, h, w) and context (B, N, C, h, w) to rows (B N D h w, C)."""
        samples, cameras, bins, height, width = depth.shape
        volume = depth.permute(0, 1, 3, 4, 2).unsqueeze(3) * context.permute(0, 1, 3, 2, 4).unsqueeze(-1)
        maps = self.reduce_conv(volume.flatten(0, 2))  # (B N h, C, w, D)
        maps = self.out_conv(maps + self.conv(maps)).unflatten(0, (samples * cameras, height))
        return maps.permute(0, 4, 1, 3, 2).flatten(0, 3)


def _softmax(logits: Tensor) -> Tensor:
    """Over the depths of (B, N, D, h, w), in float32 (float64 where it comes so)."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(2)
