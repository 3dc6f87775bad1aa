"""Images of all cameras of a rig to boxes and map seen from above: the frame of every camera net of this room.

Image net, neck, view transform, encoder and heads; the view transform decides which family it is. Published nets of
this form: LSS (ECCV 2020), BEVDet (2021), BEVDepth (AAAI 2023), M2BEV (2022).

Shapes: B samples, N cameras, images of H x W pixels, features of h x w, maps of Y rows (along y) and X columns (along
x) of the frame.
"""
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.bev.geometry import BEVGrid, CameraGeometry
from perception.bev.models.deploy import Deployable, parts
from perception.bev.models.map_head import MapHead
from perception.bev.models.view_transforms.base import BEVFeatures
from perception.common.nets.center_head import CenterHead
from perception.common.part import Part
from perception.common.structures import RigSample
from perception.registry import MODELS
from perception.utils.checkpoint import load_part
from perception.utils.checks import check_choice
from perception.utils.errors import CheckpointError, ConfigError, DataError

MODES = ('tensor', 'loss', 'predict')
FRAMES = ('lidar', 'ego', 'flat_ego')
HEADS = dict(boxes=CenterHead, map=MapHead)


@MODELS.register_module()
class BEVNet(BaseModel):
    """Image net, neck, view transform, encoder, heads, with their losses and predictions.

    Args:
        grid: `x` and `y`, least, greatest and size of a cell [m], `z`, least and greatest [m], of the frame.
        backbone: config of a ResNet, an EfficientNet or another net that gives features of several strides.
        neck: config of a net, without `in_channels`, that makes one map of several.
        view_transform: config of a ViewTransform, without `in_channels` and `grid`.
        encoder: config of a net on the grid, without `in_channels`.
        heads: `boxes`, config of a CenterHead, `map`, config of a MapHead, or both; without what the grid tells.
        levels: outputs of the backbone that the neck takes, such as (2, 3), or (-2, -1) for the last two.
        loss_weights: of `boxes`, `map` and `depth` (the view transform's own losses), 1 where none is given.
        bev_frame: that boxes, maps and grid lie in: 'lidar', 'ego' or 'flat_ego'. Weights and samples of another one
            are refused.
        image_weights: file of weights that the backbone starts from, such as ImageNet's; what else is in it, such as a
            classifier, is left out.
        data_preprocessor: a RigPreprocessor or its config.
        init_cfg: see mmengine.

    Raises:
        ConfigError: parts that do not fit together.
    """

    def __init__(self, grid: dict[str, Sequence[float]], backbone: dict, neck: dict, view_transform: dict,
                 encoder: dict, heads: dict[str, dict], levels: Sequence[int] = (-2, -1),
                 loss_weights: dict[str, float] | None = None, bev_frame: str = 'lidar',
                 image_weights: str | None = None, data_preprocessor: dict | nn.Module | None = None,
                 init_cfg: dict | None = None):
        super().__init__(data_preprocessor, init_cfg)
        check_choice('BEVNet: bev_frame', bev_frame, FRAMES)
        self.loss_weights = dict.fromkeys((*HEADS, 'depth'), 1.0) | dict(loss_weights or {})
        if not heads or not {*heads} <= {*HEADS} or {*self.loss_weights} != {*HEADS, 'depth'}:
            raise ConfigError(f'BEVNet: heads {[*heads]} and loss_weights of {[*self.loss_weights]}, expected '
                              f'{" or ".join(HEADS)}, with weights of these and of depth. Correct the names.')
        self.grid, self.levels = BEVGrid(**grid), tuple(levels)
        self.bev_frame, self.image_weights = bev_frame, image_weights
        self.register_buffer('frame', torch.tensor(FRAMES.index(bev_frame)))  # so that weights tell
        self.seen_cameras: CameraGeometry | None = None  # of the last sample
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(dict(neck, in_channels=[self.backbone.channels[i] for i in self.levels]))
        self.view_transform = MODELS.build(dict(view_transform, in_channels=self.neck.out_channels, grid=grid))
        self.encoder = MODELS.build(dict(encoder, in_channels=self.view_transform.out_channels))
        self.heads = nn.ModuleDict({name: self._build_head(name, head) for name, head in heads.items()})

    def _build_head(self, name: str, head: dict) -> nn.Module:
        kind = MODELS.get(head['type']) if isinstance(head['type'], str) else head['type']
        if not issubclass(kind, HEADS[name]):
            raise ConfigError(f'BEVNet: {kind.__name__} as the head {name!r}, expected a {HEADS[name].__name__}. '
                              'Correct its type.')
        place = dict(grid=self.grid)
        if name == 'boxes':
            (x0, x1, dx), (y0, y1, dy), (z0, z1) = self.grid.x, self.grid.y, self.grid.z
            place = dict(point_cloud_range=(x0, y0, z0, x1, y1, z1), voxel_size=(dx, dy), stride=1)
        return MODELS.build(dict(head, in_channels=self.encoder.out_channels, **place))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes of boxes in the order of labels, which StartHook compares with those of the data."""
        return self.heads['boxes'].classes if 'boxes' in self.heads else None

    def init_weights(self) -> None:
        """Initialise, and load the weights that the backbone starts from.

        Raises:
            CheckpointError: they are not those of the backbone.
        """
        super().init_weights()
        if self.image_weights:
            load_part(self.backbone, self.image_weights)

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = 'tensor') -> dict | list:
        """Run the net on a batch of a RigPreprocessor.

        Args:
            inputs: `images` (B, N, 3, H, W) normalised, `cam_to_img` (B, N, 3, 3), `frame_to_cam` (B, N, 4, 4),
                `image_aug` (B, N, 3, 3), `bev_aug` (B, 4, 4), see CameraGeometry.
            data_samples: a RigSample for each sample; new ones are made where predictions need them.
            mode: 'tensor', 'loss' or 'predict'.

        Returns:
            'tensor': what `compute` returns. 'loss': scalars `HEAD.loss_*`. 'predict': the samples with predictions.

        Raises:
            ConfigError: an unknown mode.
            DataError: a loss without samples, or samples of another frame.
        """
        check_choice('BEVNet: mode', mode, MODES)
        self._check_frame(data_samples)
        geometry = CameraGeometry.from_inputs(inputs)
        self.seen_cameras = CameraGeometry(*(matrix[-1:].detach() for matrix in (
            geometry.cam_to_img, geometry.frame_to_cam, geometry.image_aug, geometry.bev_aug)), geometry.size)
        outputs = self.compute(inputs['images'], geometry)
        if mode == 'tensor':
            return outputs
        if mode == 'predict':
            return self.predict(outputs, data_samples)
        if not data_samples:
            raise DataError('BEVNet.loss: a batch without samples, expected the boxes or maps of each. Train on a '
                            'split that has them.')
        return self.loss(outputs, data_samples)

    def compute(self, images: Tensor, geometry: CameraGeometry) -> dict[str, Any]:
        """Run the net.

        Args:
            images: (B, N, 3, H, W) normalised.
            geometry: of the cameras.

        Returns:
            `seen`, what the view transform gives, and for each head its maps: `boxes`, of each task, see `TaskHead`;
            `map` logits, see `MapHead`.
        """
        seen = self.view_transform(self.image_features(images), geometry)
        return dict(seen=seen, **self.decode(seen.bev))

    def image_features(self, images: Tensor) -> Tensor:
        """(B, N, 3, H, W) to (B, N, C, h, w)."""
        size, images = images.shape[:2], images.flatten(0, 1)
        if not images.is_cuda:
            images = images.contiguous(memory_format=torch.channels_last)  # a tenth to a third quicker on a CPU
        maps = self.backbone(images)
        return self.neck([maps[i] for i in self.levels]).unflatten(0, size)

    def decode(self, bev: Tensor) -> dict[str, Any]:
        """(B, C, Y, X) of the view transform to the maps of each head."""
        features = self.encoder(bev)
        return {name: head(features) for name, head in self.heads.items()}

    def loss(self, outputs: dict[str, Any], data_samples: Sequence[RigSample]) -> dict[str, Tensor]:
        """Losses of the heads and of the view transform, by `HEAD.NAME` and `depth.NAME`, times their weights.

        Args:
            outputs: of `compute`.
            data_samples: see the heads.
        """
        losses = {f'{name}.{key}': self.loss_weights[name] * value for name, head in self.heads.items()
                  for key, value in head.loss(outputs[name], data_samples).items()}
        for key, value in self.view_transform.loss(outputs['seen'], data_samples).items():
            losses[f'depth.{key}'] = self.loss_weights['depth'] * value
        return losses

    @torch.no_grad()
    def predict(self, outputs: dict[str, Any], data_samples: list | None = None) -> list:
        """Write what is seen into each sample.

        These are `pred_boxes` (P, 9), `pred_scores` (P,) and `pred_labels` (P,), the best first; `pred_map` (M, Y, X)
        probabilities; `pred_depth` (N, h, w) [m] where the view transform sees depths.

        Args:
            outputs: of `compute`.
            data_samples: a RigSample for each sample, or None.

        Raises:
            DataError: samples of other maps than those of the head.
        """
        seen: BEVFeatures = outputs['seen']
        samples = data_samples or [RigSample(metainfo=dict(bev_frame=self.bev_frame)) for _ in seen.bev]
        if 'boxes' in outputs:
            for sample, (boxes, scores, labels) in zip(samples, self.heads['boxes'].predict(outputs['boxes'])):
                order = scores.argsort(descending=True, stable=True)  # across tasks
                sample.pred_boxes, sample.pred_scores, sample.pred_labels = boxes[order], scores[order], labels[order]
        if 'map' in outputs:
            self.heads['map'].check(samples)
            for sample, probs in zip(samples, self.heads['map'].predict(outputs['map'])):
                sample.pred_map = probs
        depth = self.view_transform.depth_map(seen)
        for sample, metres in zip(samples, () if depth is None else depth):
            sample.pred_depth = metres
        return samples

    def deployable(self, geometry: CameraGeometry | None = None) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """What runs without its training side, at one calibration: images in, maps of the heads out.

        Args:
            geometry: of one sample, on the CPU; None takes that of the last sample that the net has seen.

        Returns:
            the module in evaluation mode, with normalisation, pairs of pixels and cells and what else follows from the
            cameras inside; its example inputs by name (`images` (1, N, 3, H, W) float32 RGB 0..255); and the names of
            its outputs, see `BEVPart.names`. Its three parts: `perception/bev/models/deploy.py`.

        Raises:
            ConfigError: no calibration, or a view transform that cannot be exported.
        """
        geometry = self._calibration(geometry)
        self.eval()
        images = torch.rand(1, geometry.cam_to_img.shape[1], 3, *geometry.size) * 255
        with torch.no_grad():
            size = tuple(self.image_features(images).shape[3:])
        module = Deployable(self, geometry, size).eval()
        return module, dict(images=images), module.bev.names

    def deployable_parts(self, geometry: CameraGeometry | None = None) -> dict[str, Part]:
        """The same in three parts, see `parts` of `perception/bev/models/deploy.py`.

        Args:
            geometry: as of `deployable`.

        Raises:
            ConfigError: as `deployable`.
        """
        return parts(self, self._calibration(geometry))

    def _calibration(self, geometry: CameraGeometry | None) -> CameraGeometry:
        geometry = self.seen_cameras if geometry is None else geometry
        if geometry is None:
            raise ConfigError('BEVNet.deployable: no calibration came, expected that of the cameras, which belongs to '
                              'the graph. Give tools/export.py images with rig.json by --source FOLDER, or from Python '
                              'a geometry.')
        return geometry

    def _check_frame(self, data_samples: Sequence[RigSample] | None) -> None:
        for sample in data_samples or ():
            frame = sample.get('bev_frame', self.bev_frame)
            if frame != self.bev_frame:
                raise DataError(f'BEVNet: sample {sample.get("sample_id")} in the frame {frame!r} came, expected '
                                f"{self.bev_frame!r}. Give model.bev_frame and the data set's bev_frame the same "
                                'value.')

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        code = state_dict.get(f'{prefix}frame')
        if code is not None and not code.is_meta and int(code) != FRAMES.index(self.bev_frame):
            name = FRAMES[int(code)] if 0 <= int(code) < len(FRAMES) else int(code)
            raise CheckpointError(f'BEVNet: weights that were trained in the frame {name!r} came, expected '
                                  f'{self.bev_frame!r}. Set model.bev_frame and that of the data to {name!r}, or train '
                                  'again.')
        super()._load_from_state_dict(state_dict, prefix, *args)
