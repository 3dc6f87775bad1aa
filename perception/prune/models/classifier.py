"""Classification of images: a net with its loss and its predictions, by the contract of the project's other nets.

Shapes: B images of H x W pixels, C = `num_classes`.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from perception.common.nets.resnet import ResNet
from perception.prune.models.efficientnet import EfficientNetB0
from perception.prune.models.mobilenet_v2 import MobileNetV2
from perception.prune.models.mobilenet_v3 import MobileNetV3Small
from perception.registry import MODELS
from perception.utils.checks import check_choice, rows_and_columns
from perception.utils.errors import DataError

NETS = dict(mobilenet_v2=MobileNetV2, mobilenet_v3_small=MobileNetV3Small, efficientnet_b0=EfficientNetB0)
RESNETS = dict(resnet18=18, resnet34=34, resnet50=50, resnet101=101)


class ImageSample(BaseDataElement):
    """Label and prediction of one image.

    Data fields, all optional: `label` () int64, `scores` (C,) float32 softmax, `pred_label` () int64. Meta information:
    `sample_id`, `image_path`.
    """


class ResNetClassifier(nn.Module):
    """`common/nets/resnet.py` with the mean over the map and a linear layer.

    Args:
        depth: 18, 34, 50 or 101.
        num_classes: C.
        width: ratio of all widths.
    """

    def __init__(self, depth: int, num_classes: int = 1000, width: float = 1.0):
        super().__init__()
        self.backbone = ResNet(depth, round(64 * width), output_stride=32)
        self.fc = nn.Linear(self.backbone.channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C) logits."""
        return self.fc(self.backbone(images)[-1].mean(dim=(2, 3)))


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """One of the nets that PEEL prunes; tools/convert_checkpoint.py turns torchvision's weights into its own.

    Taps: `net.features.N` of the mobile nets, `net.backbone.stageN` of the ResNets, `logits` (B, C).

    Args:
        data_preprocessor: an ImagePreprocessor or its config.
        net: 'resnet18', 'resnet34', 'resnet50', 'resnet101', 'mobilenet_v2', 'mobilenet_v3_small' or
            'efficientnet_b0'.
        num_classes: C.
        width: ratio of all widths.
        smoothing: of the labels.
        input_size: (H, W) of images that are exported for.
        init_cfg: see mmengine.
    """

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, net: str = 'resnet50',
                 num_classes: int = 1000, width: float = 1.0, smoothing: float = 0.1,
                 input_size: Sequence[int] = (224, 224), init_cfg: dict | None = None):
        super().__init__(data_preprocessor, init_cfg)
        check_choice('ImageClassifier: net', net, (*RESNETS, *NETS))
        self.num_classes, self.smoothing = num_classes, smoothing
        self.input_size = rows_and_columns('ImageClassifier: input_size', input_size)
        self.net = ResNetClassifier(RESNETS[net], num_classes, width) if net in RESNETS else NETS[net](
            num_classes, width)
        self.logits = nn.Identity()

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = 'tensor') -> dict | list:
        """Run the net on a batch of an ImagePreprocessor.

        Args:
            inputs: `images` (B, 3, H, W).
            data_samples: an ImageSample for each, with `label` for losses.
            mode: 'tensor', 'loss' or 'predict'.

        Returns:
            'tensor': `logits` (B, C). 'loss': `loss_class`, a mean over the batch. 'predict': the samples with
            `scores` and `pred_label`.
        """
        check_choice('ImageClassifier: mode', mode, ('tensor', 'loss', 'predict'))
        logits = self.logits(self.net(inputs['images']))
        if mode == 'loss':
            return dict(loss_class=F.cross_entropy(logits.float(), self._labels(data_samples, logits.device),
                                                   label_smoothing=self.smoothing))
        return self.predict(dict(logits=logits), data_samples) if mode == 'predict' else dict(logits=logits)

    @staticmethod
    def predict(outputs: dict[str, Tensor], data_samples: list | None = None) -> list:
        """Write `scores` (C,) and `pred_label` into each image's sample.

        Args:
            outputs: `logits` (B, C).
            data_samples: an ImageSample for each, or None.
        """
        probs = outputs['logits'].float().softmax(dim=1)
        samples = data_samples or [ImageSample() for _ in probs]
        for sample, row in zip(samples, probs):
            sample.scores, sample.pred_label = row, row.argmax()
        return samples

    def deployable(self) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """What runs without its training side; see `LaneNet.deployable`."""
        return _Deployable(self).eval(), dict(images=torch.rand(1, 3, *self.input_size) * 255), ['logits']

    def _labels(self, data_samples: list | None, device: torch.device) -> Tensor:
        if not data_samples or any('label' not in sample for sample in data_samples):
            raise DataError('ImageClassifier: images without labels came, expected a `label` in every data sample. '
                            'Train on a split that has them.')
        labels = torch.stack([torch.as_tensor(sample.label) for sample in data_samples]).to(device)
        if int(labels.min()) < 0 or int(labels.max()) >= self.num_classes:
            raise DataError(f'ImageClassifier: a label {int(labels.max())}, expected 0..{self.num_classes - 1}. Set '
                            'num_classes to the classes of the data set.')
        return labels


class _Deployable(nn.Module):
    """A classifier with its normalisation inside."""

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model.net(self.model.data_preprocessor.normalise(images)),)
