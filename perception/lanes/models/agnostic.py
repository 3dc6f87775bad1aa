"""Agnostic Lane Detection: lanes as instances, of any number.

Yuenan Hou. Agnostic Lane Detection. 2019. Lane pixels are separated from the background, then told apart by an
embedding and clustered; auxiliary tasks (drivable area, lane points) help in training; a feature pyramid keeps thin
lanes. The paper gives no layer table; ours is modelled on LaneNet (Neven et al. IV 2018).

Shapes: B images of H x W pixels, E = `embedding_channels`, S = `point_slots`, R = `point_rows`.
"""
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from perception.common.nets.resnet import ResNet
from perception.lanes.losses_agnostic import area_loss, discriminative_loss, ego_area, ego_slots, point_loss
from perception.lanes.models.base import LaneNet
from perception.lanes.models.enet import ENet, RegularBlock
from perception.lanes.models.heads import LaneExist
from perception.registry import MODELS, TASK_UTILS
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError, DataError

BACKBONES = {'enet': None, 'resnet18': 18, 'resnet34': 34, 'resnet50': 50, 'resnet101': 101}


@MODELS.register_module()
class AgnosticLaneNet(LaneNet):
    """Encoder, feature pyramid, a binary and an embedding branch; in training also two auxiliary heads.

    Labels may hold any number of lanes 1..254, in any order; a batch with `instances` (B, H, W) is trained on these
    instead. `compute` gives `logits` (B, 2, H, W), `embeddings` (B, E, H/2, W/2) and, in training mode, `area_logits`
    (B, 2, H/4, W/4) and `points` (B, S, R).

    Taps: `stage1` (H/4 x W/4), `stage2`, `stage3` and, of a ResNet, `stage4` (H/8 x W/8); `pyramid` (B, 64, H/4, W/4);
    `head_input` (B, 16, H/2, W/2); `logits` (B, 2, H, W).

    Args:
        data_preprocessor: see LaneNet.
        num_classes: 2, background and lane.
        num_lanes: L, 0 leaves out the existence head, which only fixed slots have.
        input_size: see LaneNet.
        decoder: a ClusterDecoder or its config; None draws no lanes.
        backbone: 'enet', 'resnet18', 'resnet34', 'resnet50' or 'resnet101'.
        embedding_channels: E.
        delta_var: see `discriminative_loss`.
        delta_dist: see `discriminative_loss`.
        var_weight: weight of L_var.
        dist_weight: weight of L_dist.
        reg_weight: weight of L_reg.
        area_weight: weight of the drivable area, 0 leaves its head out.
        point_weight: weight of the lane points, 0 leaves their head out.
        point_slots: S, lanes whose points are regressed, half of them left of the ego vehicle.
        point_rows: R, rows of these points.
        base_channels: of the stem of a ResNet.
        **loss_arguments: see LaneNet.

    Raises:
        ConfigError: an unknown backbone, other classes, or an odd number of slots.
    """

    size_multiple = 8
    own_classes = True  # background and lane, whatever slots the data set names

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 2, num_lanes: int = 0,
                 input_size: Sequence[int] = (288, 800), decoder: dict | Callable | None = None,
                 backbone: str = 'enet', embedding_channels: int = 4, delta_var: float = 0.5, delta_dist: float = 3.0,
                 var_weight: float = 1.0, dist_weight: float = 1.0, reg_weight: float = 0.001,
                 area_weight: float = 0.1, point_weight: float = 0.1, point_slots: int = 4, point_rows: int = 18,
                 base_channels: int = 64, **loss_arguments):
        super().__init__(data_preprocessor, num_classes, num_lanes, input_size, None, **loss_arguments)
        if backbone not in BACKBONES:
            raise ConfigError(f'AgnosticLaneNet: backbone={backbone!r}, expected one of {", ".join(BACKBONES)}. '
                              f'{close_matches(backbone, BACKBONES)}')
        if num_classes != 2 or point_slots < 2 or point_slots % 2:
            raise ConfigError(f'AgnosticLaneNet: num_classes={num_classes}, point_slots={point_slots}, expected 2 '
                              'classes (background and lane; instances are not classes) and an even number of slots. '
                              'Set them so.')
        self.delta_var, self.delta_dist = delta_var, delta_dist
        self.discriminative_weights = dict(loss_var=var_weight, loss_dist=dist_weight, loss_reg=reg_weight)
        self.area_weight, self.point_weight, self.point_slots = area_weight, point_weight, point_slots
        self.clustering = TASK_UTILS.build(decoder) if isinstance(decoder, dict) else decoder
        channels = self._build_encoder(backbone, base_channels)
        self.pyramid = FeaturePyramid(channels, 64)
        self.binary, self.embedding = _branch(), _branch()
        self.head_input = nn.Identity()
        self.classifier = nn.ConvTranspose2d(16, 2, 3, stride=2, padding=1, output_padding=1)
        self.embed = nn.Conv2d(16, embedding_channels, 1)
        self.area_head = nn.Sequential(RegularBlock(64, act=nn.ReLU), nn.Conv2d(64, 2, 1)) if area_weight else None
        self.point_head = PointHead(64, point_slots, point_rows) if point_weight else None
        map_size = [n // 8 for n in self.input_size]
        self.exist = LaneExist(channels[-1], self.num_lanes, map_size) if self.num_lanes else None

    def _build_encoder(self, backbone: str, base_channels: int) -> tuple[int, ...]:
        """The stages, named as those of the plain networks, and the channels of their outputs."""
        if backbone == 'enet':
            encoder, channels = ENet(num_lanes=0), (64, 128, 128)
            self.down1, self.down2 = encoder.down1, encoder.down2
        else:
            encoder = ResNet(BACKBONES[backbone], base_channels)
            self.down1, self.down2, channels = None, None, encoder.channels
        self.stem, self.stage1, self.stage2, self.stage3 = encoder.stem, encoder.stage1, encoder.stage2, encoder.stage3
        self.stage4 = encoder.stage4
        return channels

    @property
    def finds_lanes(self) -> bool:
        """See LaneNet."""
        return self.clustering is not None

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """See the class and LaneNet."""
        x = self.stem(images)
        stages = [self.stage1(x if self.down1 is None else self.down1(x)[0])]
        x = stages[0] if self.down2 is None else self.down2(stages[0])[0]
        for stage in (self.stage2, self.stage3, self.stage4):
            if stage is not None:
                x = stage(x)
                stages.append(x)
        feats = self.pyramid(stages)  # (B, 64, H/4, W/4)
        outputs = dict(logits=self.classifier(self.head_input(self.binary(feats))),
                       embeddings=self.embed(self.embedding(feats)))
        if self.exist is not None:
            outputs['exist_logits'] = self.exist(stages[-1])
        if self.training and self.area_head is not None:
            outputs['area_logits'] = self.area_head(feats)
        if self.training and self.point_head is not None:
            outputs['points'] = self.point_head(feats)
        return outputs

    def loss(self, outputs: dict[str, Tensor], inputs: dict) -> dict[str, Tensor]:
        """L_bin (and LaneNet's other terms) + L_var + L_dist + L_reg + 0.1 L_area + 0.1 L_point.

        Args:
            outputs: of `compute`.
            inputs: the batch with `labels` or `instances` (B, H, W).

        Returns:
            scalars `loss_*`.
        """
        instances = self._instances(inputs)
        binary = instances.where(instances == self.ignore_index, instances.clamp(max=1))
        losses = super().loss(outputs, dict(inputs, labels=binary))
        known = instances.where(instances != self.ignore_index, 0)
        cells = F.max_pool2d(known.float(), 2).long()  # every cell that a lane touches, so that thin lanes stay
        terms = discriminative_loss(outputs['embeddings'], cells, self.delta_var, self.delta_dist, self.ignore_index)
        losses.update({name: weight * term for (name, weight), term in zip(self.discriminative_weights.items(), terms)})
        if 'area_logits' in outputs or 'points' in outputs:
            x, seen = ego_slots(instances, self.point_slots, self.ignore_index)
            width = instances.shape[2]
            if 'area_logits' in outputs:
                losses['loss_area'] = self.area_weight * area_loss(outputs['area_logits'], ego_area(x, seen, width))
            if 'points' in outputs:
                losses['loss_point'] = self.point_weight * point_loss(outputs['points'], x, seen, width)
        return losses

    def predict(self, outputs: dict[str, Tensor], data_samples: list | None = None) -> list:
        """See LaneNet; `pred_lanes` come from the clusters of the embedding, `pred_labels` are 0 and 1, no slots."""
        samples = super().predict(outputs, data_samples)
        for sample in samples:
            sample.set_metainfo(dict(own_classes=True))
        if self.clustering is not None:
            probs = outputs['logits'].float().softmax(dim=1)[:, 1]
            lanes = self.clustering(probs, outputs['embeddings'], [sample.metainfo for sample in samples])
            for sample, image_lanes in zip(samples, lanes):
                sample.pred_lanes = image_lanes
        return samples

    def _instances(self, inputs: dict) -> Tensor:
        instances = inputs.get('instances', inputs.get('labels'))
        shape = inputs['images'].shape
        if instances is None or instances.shape != (shape[0], *shape[2:]):
            came = 'no labels' if instances is None else f'labels of shape {tuple(instances.shape)}'
            raise DataError(f'AgnosticLaneNet.loss: {came} for images {tuple(shape)}, expected `labels` or `instances` '
                            'of shape (B, H, W). Train on a split that has them, and resize both alike.')
        if bool(((instances < 0) | (instances > 255)).any()):
            raise DataError(f'AgnosticLaneNet.loss: labels {int(instances.min())}..{int(instances.max())}, expected 0 '
                            'for background, 1..254 for instances, 255 for ignored. Map the labels.')
        return instances


class FeaturePyramid(nn.Module):
    """Sums the stages from coarse to fine, each reduced to the same channels (Lin et al. CVPR 2017).

    Args:
        in_channels: of the stages, from fine to coarse.
        channels: of the output.
    """

    def __init__(self, in_channels: Sequence[int], channels: int):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(n, channels, 1) for n in in_channels)
        self.smooth = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
                                    nn.ReLU(inplace=True))

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """The stages' outputs to (B, channels, h, w) of the finest one's size."""
        x = self.laterals[-1](stages[-1])
        for stage, lateral in zip(stages[-2::-1], list(self.laterals)[-2::-1]):
            if stage.shape[2:] != x.shape[2:]:
                x = F.interpolate(x, size=stage.shape[2:], mode='bilinear')
            x = x + lateral(stage)
        return self.smooth(x)


class PointHead(nn.Module):
    """Column of each slot's lane on fixed rows: a linear layer over each band of rows, shared by the bands.

    Args:
        in_channels: of the feature map.
        num_slots: S.
        num_rows: R.
    """

    COLUMNS = 16

    def __init__(self, in_channels: int, num_slots: int, num_rows: int):
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(in_channels, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32),
                                    nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((num_rows, self.COLUMNS)))
        self.linear = nn.Linear(32 * self.COLUMNS, num_slots)

    def forward(self, feats: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, S, R), columns as share of the width."""
        bands = self.reduce(feats).permute(0, 2, 1, 3).flatten(2)  # (B, R, 32 x 16)
        return self.linear(bands).transpose(1, 2)


def _branch() -> nn.Sequential:
    """(B, 64, H/4, W/4) to (B, 16, H/2, W/2), as ENet's sections D1 and D2, without unpooling."""
    return nn.Sequential(RegularBlock(64, act=nn.ReLU), RegularBlock(64, act=nn.ReLU),
                         nn.ConvTranspose2d(64, 16, 3, stride=2, padding=1, output_padding=1, bias=False),
                         nn.BatchNorm2d(16), nn.ReLU(inplace=True), RegularBlock(16, act=nn.ReLU))
