"""Densely Connected Convolutional Networks, Huang, Liu, van der Maaten, Weinberger, CVPR 2017 (arXiv 1608.06993), as an
image classifier. Its `features` have torchvision's names, its heads those of CRCKD's published code.

Shapes: B images of H x W pixels, K classes, C channels of the last block.
"""
import logging
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.plugins.medical.structures import ClassSample
from perception.registry import MODELS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

MODES = ('tensor', 'loss', 'predict')


class DenseLayer(nn.Module):
    """Adds `growth` channels: BN, ReLU, 1x1 convolution to `4 growth`, BN, ReLU, 3x3 convolution, dropout."""

    def __init__(self, channels: int, growth: int, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C + growth, H, W)."""
        new = self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())
        return torch.cat([x, F.dropout(new, self.drop_rate, self.training)], 1)


class Transition(nn.Module):
    """Halves channels and size: BN, ReLU, 1x1 convolution, mean of 2 x 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C / 2, H / 2, W / 2)."""
        return F.avg_pool2d(self.conv(self.norm(x).relu()), 2)


class AttentionGate(nn.Module):
    """Where to look: maximum and mean over channels, a 3x3 convolution to one map, BN, sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Sequential(OrderedDict(
            conv=nn.Conv2d(2, 1, 3, padding=1, bias=False), bn=nn.BatchNorm2d(1, momentum=0.01)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) multiplied by one plus the map."""
        both = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * (1 + self.spatial(both).sigmoid())


@MODELS.register_module()
class DenseNet(BaseModel):
    """A DenseNet whose features of the last block pass a linear layer to `feature_dim`, and from there to the classes.

    The outputs `feature` and `logits` pass modules of these names, for taps. Blocks run once. The cross-entropy is
    weighted by n / n_k, with the n_k samples of class k of the n that are trained with, which TrainingSetHook tells.

    Args:
        data_preprocessor: a ViewPreprocessor or its config.
        num_classes: K.
        growth: channels that each layer adds.
        blocks: layers of each block; DenseNet-121 has (6, 12, 24, 16).
        stem_channels: of the first convolution.
        feature_dim: D, of the features that distillation compares.
        drop_rate: of the dropout in each layer.
        balanced: weight the classes in the cross-entropy; where the training set was not told it warns once, and they
            count alike.
        auxiliary: also the two heads of the published code that are off there: classes from the last but one block,
            and from an attention gate on the last one; their cross-entropies are added.
        input_size: (H, W) of the images, for export alone.
        init_cfg: see mmengine.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 5, growth: int = 32,
                 blocks: Sequence[int] = (6, 12, 24, 16), stem_channels: int = 64, feature_dim: int = 128,
                 drop_rate: float = 0.0, balanced: bool = True, auxiliary: bool = False,
                 input_size: Sequence[int] = (224, 224), init_cfg: dict | None = None) -> None:
        super().__init__(data_preprocessor, init_cfg)
        check_positive('DenseNet', growth=growth, stem_channels=stem_channels, feature_dim=feature_dim)
        if num_classes < 2 or len(blocks) < 2 or min(blocks) < 1 or not 0 <= drop_rate < 1:
            raise ConfigError(f'DenseNet: num_classes={num_classes}, blocks={blocks}, drop_rate={drop_rate}, expected '
                              'two classes and two blocks of one layer or more, and a rate from 0 to less than 1. '
                              'Correct them.')
        self.num_classes, self.balanced, self.input_size = num_classes, balanced, tuple(input_size)
        self._unsaid = balanced  # that nobody told the training set
        parts = OrderedDict(conv0=nn.Conv2d(3, stem_channels, 7, 2, 3, bias=False), norm0=nn.BatchNorm2d(stem_channels),
                            relu0=nn.ReLU(), pool0=nn.MaxPool2d(3, 2, 1))
        channels = stem_channels
        for number, layers in enumerate(blocks, 1):
            parts[f'denseblock{number}'] = nn.Sequential(OrderedDict(
                (f'denselayer{i + 1}', DenseLayer(channels + i * growth, growth, drop_rate)) for i in range(layers)))
            channels += layers * growth
            if number < len(blocks):
                before, parts[f'transition{number}'] = channels, Transition(channels)
                channels //= 2
        parts['norm5'] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(parts)
        self.smallest = 2 ** (len(blocks) + 1)  # pixels that leave one in the last block
        self.branch = f'denseblock{len(blocks) - 1}'  # after which the auxiliary head reads
        self.last_map = nn.Identity()  # (B, C, H/32, W/32), what Grad-CAM looks at
        self.fc_layer, self.classifier = nn.Linear(channels, feature_dim), nn.Linear(feature_dim, num_classes)
        self.feature, self.logits = nn.Identity(), nn.Identity()
        self.auxiliary = auxiliary
        if auxiliary:
            self.norm_after_b3 = nn.BatchNorm2d(before)
            self.classifier_b3 = nn.Linear(before, num_classes)
            self.attention_gate, self.att_classifier = AttentionGate(), nn.Linear(channels, num_classes)
        self.register_buffer('class_weights', torch.ones(num_classes), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def know_training_set(self, labels: Tensor, names: Sequence[str] = ()) -> None:
        """Weight the classes by what is trained with; a class without samples has no weight.

        Args:
            labels: (n,) classes of the training samples.
            names: not used.

        Raises:
            DataError: a label that is no class of the net.
        """
        if not len(labels) or not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise DataError(f'DenseNet: labels {sorted(set(labels.tolist()))[:8]}, expected some of 0..'
                            f'{self.num_classes - 1}. Correct the labels, or set num_classes.')
        self._unsaid = False
        if self.balanced:
            counts = labels.bincount(minlength=self.num_classes).float()
            weights = torch.where(counts > 0, len(labels) / counts.clamp(min=1), 0)
            self.class_weights.copy_(weights)

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network.

        Args:
            images: (B, 3, H, W) normalised.

        Returns:
            `feature` (B, D) and `logits` (B, K); with auxiliary heads also `logits_b3` and `att_logits` (B, K).
        """
        x, outputs = images, {}
        for name, part in self.features.named_children():
            x = part(x)
            if self.auxiliary and name == self.branch:
                outputs['logits_b3'] = self.classifier_b3(self.norm_after_b3(x).relu().mean((2, 3)))
        if self.auxiliary:
            outputs['att_logits'] = self.att_classifier(self.attention_gate(x).relu().mean((2, 3)))
        x = self.last_map(x.relu())
        feature = self.feature(self.fc_layer(x.mean((2, 3))))
        return dict(feature=feature, logits=self.logits(self.classifier(feature)), **outputs)

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = 'tensor') -> dict | list:
        """Run the network on a batch of a ViewPreprocessor.

        Args:
            inputs: `images` (B, 3, H, W) and, for losses, `labels` (B,).
            data_samples: a ClassSample for each image; new ones are made where predictions need them.
            mode: 'tensor', 'loss' or 'predict'.

        Returns:
            'tensor': what `compute` returns. 'loss': scalars `loss_*`. 'predict': the samples with predictions.

        Raises:
            DataError: images or labels of another shape, a label that is no class, or a single image to train with
                that is so small that its last map is one value, of which there are no batch statistics.
        """
        check_choice('DenseNet: mode', mode, MODES)
        images = inputs['images']
        if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < self.smallest:
            raise DataError(f'DenseNet: images of shape {tuple(images.shape)}, expected (B, 3, H, W) of '
                            f'{self.smallest} pixels or more. Set input_size of the data set.')
        if self.training and len(images) == 1 and max(images.shape[2:]) <= 2 * self.smallest - 4:
            raise DataError(f'DenseNet: a batch of one image of {images.shape[2]} x {images.shape[3]} pixels to train '
                            f'with, expected two images or {2 * self.smallest - 3} pixels or more for batch statistics.'
                            ' Set another batch_size, or a larger input_size of the data set.')
        outputs = self.compute(images)
        if mode == 'loss':
            return self.loss(outputs, inputs.get('labels'))
        return self.predict(outputs, data_samples) if mode == 'predict' else outputs

    def loss(self, outputs: dict[str, Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        """Weighted cross-entropies, each a mean over the batch by the weights of its classes.

        Args:
            outputs: of `compute`.
            labels: (B,) classes.

        Raises:
            DataError: no labels, another number of them, or one that is no class.
        """
        if labels is None or labels.shape != outputs['logits'].shape[:1]:
            came = 'no labels' if labels is None else f'labels of shape {tuple(labels.shape)}'
            raise DataError(f'DenseNet.loss: {came} for {len(outputs["logits"])} images, expected one class for each. '
                            'Train on a split that has them.')
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise DataError(f'DenseNet.loss: labels from {int(labels.min())} to {int(labels.max())}, expected 0..'
                            f'{self.num_classes - 1}. Correct the labels, or set num_classes.')
        if self._unsaid and self.training:
            print_log('DenseNet: nobody told how many samples each class has, so that all classes count alike. Add '
                      'dict(type=TrainingSetHook) to default_hooks, or set model.balanced=False.', 'current',
                      logging.WARNING)
            self._unsaid = False
        names = dict(logits='loss_cls', logits_b3='loss_b3', att_logits='loss_att')
        with torch.autocast(labels.device.type, enabled=False):
            return {names[key]: F.cross_entropy(value.float(), labels, self.class_weights)
                    for key, value in outputs.items() if key in names}

    def predict(self, outputs: dict[str, Tensor], data_samples: list | None = None) -> list[ClassSample]:
        """The samples with `pred_scores` (K,), `pred_label` and `feature` (D,)."""
        scores = outputs['logits'].float().softmax(1)
        samples = data_samples or [ClassSample() for _ in scores]
        for sample, score, feature in zip(samples, scores, outputs['feature']):
            sample.pred_scores, sample.pred_label, sample.feature = score, score.argmax(), feature.float()
        return samples

    def deployable(self) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """What runs without its training side: images in, scores out, with the normalisation inside.

        Returns:
            the module in evaluation mode, its example inputs by name (`images` (1, 3, h, w) float32 RGB 0..255), and
            the names of its outputs, `scores` (1, K) after the softmax and `feature` (1, D).
        """
        return _Deployable(self).eval(), dict(images=torch.rand(1, 3, *self.input_size) * 255), ['scores', 'feature']


class _Deployable(nn.Module):
    """A net without its training side; see `DenseNet.deployable`."""

    def __init__(self, model: DenseNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model.compute(self.model.data_preprocessor.normalise(images))
        return outputs['logits'].softmax(1), outputs['feature']
