"""Center-based 3D Object Detection and Tracking (CenterPoint): people are peaks of a map seen from above.

Tianwei Yin, Xingyi Zhou, Philipp Kraehenbuehl. CVPR 2021. First stage. The encoder decides which net it is: pillars of
PointPillars, or voxels with the sparse convolutions of SECOND; `camera.py` has those that see the image. The head is
CenterPoint's own or that of `dha.py`.

Shapes: B scans, maps of H rows (along y) and W columns (along x).
"""
from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.common.part import Part
from perception.common.structures import BoxSample
from perception.crowd.models.deploy import parts, whole
from perception.registry import MODELS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

MODES = ('tensor', 'loss', 'predict')


@MODELS.register_module()
class CenterPoint(BaseModel):
    """Encoder, backbone, neck and head with their losses and predictions.

    Parts are built in this order, so that nets that differ in the head alone start from the same weights.

    Args:
        point_cloud_range: least x, y, z, greatest x, y, z [m]; other points are left out.
        voxel_size: of a pillar or voxel along x, y, z [m].
        encoder: config of a PillarEncoder or SparseEncoder, without what is said above.
        backbone: config of a SECOND, without its inputs.
        neck: config of a SECONDFPN, without its inputs.
        head: config of a CenterHead, without its inputs, range and voxels.
        in_channels: columns of a point.
        data_preprocessor: mmengine's by default, which moves a batch to the device.
        init_cfg: see mmengine.

    Raises:
        ConfigError: parts that do not fit together.
    """

    def __init__(self, point_cloud_range: Sequence[float], voxel_size: Sequence[float], encoder: dict, backbone: dict,
                 neck: dict, head: dict, in_channels: int = 4, data_preprocessor: dict | nn.Module | None = None,
                 init_cfg: dict | None = None):
        super().__init__(data_preprocessor, init_cfg)
        place = dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size)
        self.encoder = MODELS.build(dict(encoder, in_channels=in_channels, **place))
        self.backbone = MODELS.build(dict(backbone, in_channels=self.encoder.out_channels))
        self.neck = MODELS.build(dict(neck, in_channels=self.backbone.channels))
        self.head = MODELS.build(dict(head, in_channels=self.neck.out_channels, **place))
        self.seen: Any = None  # how many points the last scan had, of an image its rows and columns

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of labels, which StartHook compares with those of the data."""
        return self.head.classes

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = 'tensor') -> dict | list:
        """Run the net on a batch.

        Args:
            inputs: `points`, for each scan (N_i, in_channels or more) x, y, z [m], intensity; N_i may be 0.
            data_samples: a BoxSample for each scan; new ones are made where predictions need them.
            mode: 'tensor', 'loss' or 'predict'.

        Returns:
            'tensor': the whole maps of each task, see the head. 'loss': scalars `loss_*`. 'predict': the samples with
            `pred_boxes` (P, 9), `pred_scores` (P,) and `pred_labels` (P,).

        Raises:
            ConfigError: an unknown mode, or maps of another size than the head's.
            DataError: a loss without samples.
        """
        check_choice('CenterPoint: mode', mode, MODES)
        maps = self.maps(inputs)
        if mode == 'tensor':
            return self.head.complete(maps)
        if mode == 'loss':
            if not data_samples:
                raise DataError('CenterPoint.loss: a batch without samples, expected the people of each scan. Train on '
                                'a split that has them.')
            return self.head.loss(maps, data_samples)
        return self.predict(maps, data_samples)

    def deployable(self) -> Part:
        """The whole net as a graph, see `whole` of `perception/crowd/models/deploy.py`.

        Raises:
            ConfigError: a net of voxels.
        """
        return whole(self)

    def deployable_parts(self) -> dict[str, Part]:
        """Parts of it, see `parts` of `perception/crowd/models/deploy.py`."""
        return parts(self)

    def features(self, inputs: dict) -> Tensor:
        """(B, C, H, W) map that the backbone takes, from the `inputs` of `forward`."""
        self.seen = len(inputs['points'][0]) if len(inputs['points']) else self.seen
        return self.encoder(inputs['points'])

    def maps(self, inputs: dict) -> list[dict[str, Tensor]]:
        """The maps of each task, (B, C, Y, X) each, from the `inputs` of `forward`.

        Raises:
            ConfigError: they have another size than the head's.
        """
        maps = self.head(self.neck(self.backbone(self.features(inputs))))
        shape, expected = tuple(maps[0]['heatmap'].shape[2:]), self.head.grid.shape
        if shape != expected:
            raise ConfigError(f'CenterPoint: maps of {" x ".join(map(str, shape))} cells, expected '
                              f'{" x ".join(map(str, expected))} for a head of stride {self.head.grid.stride}. Correct '
                              "the head's stride, or the strides of backbone and neck.")
        return maps

    def predict(self, maps: list[dict[str, Tensor]], data_samples: list | None = None) -> list:
        """Write the boxes of each scan into its sample, the best first.

        Args:
            maps: of the head.
            data_samples: a BoxSample for each scan, or None.

        Returns:
            the samples with `pred_boxes` (P, 9), `pred_scores` (P,) and `pred_labels` (P,).
        """
        found = self.head.predict(maps)
        samples = data_samples or [BoxSample() for _ in found]
        for sample, (boxes, scores, labels) in zip(samples, found):
            order = scores.argsort(descending=True, stable=True)  # across tasks
            sample.pred_boxes, sample.pred_scores, sample.pred_labels = boxes[order], scores[order], labels[order]
        return samples
