"""What every lane and road-marking network has in common: losses, predictions and checks."""
from collections.abc import Callable, Sequence

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.common.structures import LaneSample
from perception.lanes.losses import at_least_float32, existence_loss, soft_iou_loss, weighted_cross_entropy
from perception.registry import TASK_UTILS
from perception.utils.checks import check_class_weights, close_matches
from perception.utils.errors import ConfigError, DataError

MODES = ('tensor', 'loss', 'predict')


class LaneNet(BaseModel):
    """Base of the networks. A network implements `compute`, and sets `size_multiple` where its strides need it.

    Shapes: B images of H x W pixels, C = `num_classes`, L = `num_lanes`. The output `logits` passes the module of that
    name, so that distillation can record it; `compute` returns it and does not call that module.

    Args:
        data_preprocessor: an ImagePreprocessor or its config.
        num_classes: C, with the background as class 0.
        num_lanes: L, lane slots whose existence is predicted; 0 for a network without existence head.
        input_size: (H, W) of the images; the existence head takes no other.
        decoder: what turns probabilities into lanes (see `lanes/decode.py`) or its config; None draws no lanes.
        seg_weight: weight of the cross-entropy.
        iou_weight: alpha, weight of the soft IoU loss; 0 leaves it out.
        exist_weight: beta, weight of the existence loss; 0 leaves the head out, for one that nothing trains would tell
            lanes by chance.
        background_weight: weight of class 0 in the cross-entropy, lanes have 1 (SAD, section 3.3).
        class_weights: C weights of the cross-entropy instead of `background_weight`.
        ignore_index: label without a class.
        init_cfg: see mmengine.

    Raises:
        ConfigError: a size that the network cannot take, or weights that do not fit the classes.
    """

    size_multiple = 1  # H and W are multiples of it

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 5, num_lanes: int = 4,
                 input_size: Sequence[int] = (288, 800), decoder: dict | Callable | None = None,
                 seg_weight: float = 1.0, iou_weight: float = 0.1, exist_weight: float = 0.1,
                 background_weight: float = 0.4, class_weights: Sequence[float] | None = None, ignore_index: int = 255,
                 init_cfg: dict | None = None):
        super().__init__(data_preprocessor, init_cfg)
        self.num_classes, self.num_lanes = num_classes, num_lanes if exist_weight else 0
        self.input_size = tuple(int(n) for n in input_size)
        self.seg_weight, self.iou_weight, self.exist_weight = seg_weight, iou_weight, exist_weight
        self.ignore_index = ignore_index
        if class_weights is None:
            class_weights = [background_weight] + [1.0] * (num_classes - 1)
        self._check_arguments(class_weights)
        self.register_buffer('class_weights', torch.tensor(class_weights, dtype=torch.float32), persistent=False)
        self.lane_decoder = TASK_UTILS.build(decoder) if isinstance(decoder, dict) else decoder
        self.logits = nn.Identity()

    @property
    def finds_lanes(self) -> bool:
        """Whether predictions have `pred_lanes`, not classes of pixels alone."""
        return self.lane_decoder is not None

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network.

        Args:
            images: (B, 3, H, W) normalised.

        Returns:
            `logits` (B, C, H, W) and, where L > 0, `exist_logits` (B, L).
        """
        raise NotImplementedError(f'{type(self).__name__} has no compute; write one that returns the logits.')

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = 'tensor') -> dict | list:
        """Run the network on a batch of an ImagePreprocessor.

        Args:
            inputs: `images` (B, 3, H, W) and, for losses, `labels` (B, H, W) and `exist` (B, L).
            data_samples: a LaneSample for each image; new ones are made where predictions need them.
            mode: 'tensor', 'loss' or 'predict'.

        Returns:
            'tensor': what `compute` returns. 'loss': scalars `loss_*`. 'predict': the samples with predictions.

        Raises:
            ConfigError: an unknown mode.
            DataError: images of a size that the net cannot take.
        """
        if mode not in MODES:
            raise ConfigError(f'{self._name}: mode={mode!r}, expected one of {MODES}. {close_matches(mode, MODES)}')
        images = inputs['images']
        self._check_images(images)
        if not images.is_cuda:
            images = images.contiguous(memory_format=torch.channels_last)  # a tenth to a quarter quicker on a CPU
        outputs = self.compute(images)
        outputs['logits'] = self.logits(outputs['logits'])
        if mode == 'loss':
            return self.loss(outputs, inputs)
        if mode == 'predict':
            return self.predict(outputs, data_samples)
        return outputs

    def loss(self, outputs: dict[str, Tensor], inputs: dict) -> dict[str, Tensor]:
        """L_seg + alpha L_IoU + beta L_exist (SAD, section 3.3), each a mean over the batch.

        Args:
            outputs: `logits` (B, C, H, W) and, where L > 0, `exist_logits` (B, L).
            inputs: the batch with `labels` (B, H, W) and, where L > 0, `exist` (B, L).

        Returns:
            `loss_seg` and, where their weights are not 0, `loss_iou` and `loss_exist`; scalars.
        """
        logits, labels = outputs['logits'], self._labels(inputs)
        losses = dict(loss_seg=self.seg_weight * weighted_cross_entropy(logits, labels, self.class_weights,
                                                                        self.ignore_index))
        if self.iou_weight:
            probs = at_least_float32(logits).softmax(dim=1)
            losses['loss_iou'] = self.iou_weight * soft_iou_loss(probs, labels, self.ignore_index)
        if self.num_lanes:
            exist = self._exist(inputs)
            losses['loss_exist'] = self.exist_weight * existence_loss(outputs['exist_logits'], exist)
        return losses

    def predict(self, outputs: dict[str, Tensor], data_samples: list | None = None) -> list:
        """Write the predictions into each image's sample.

        These are `lane_probs` (C, H, W), `pred_labels` (H, W), with an existence head `exist_probs` (L,), with a
        decoder `pred_lanes`, a list of (P, 2) arrays of u, v in pixels of the original image, bottom to top.

        Args:
            outputs: `logits` (B, C, H, W) and, where L > 0, `exist_logits` (B, L).
            data_samples: a LaneSample for each image, or None.
        """
        probs = at_least_float32(outputs['logits']).softmax(dim=1)
        exist = at_least_float32(outputs['exist_logits']).sigmoid() if self.num_lanes else None
        samples = data_samples or [LaneSample() for _ in probs]
        labels = probs.argmax(dim=1)
        for i, sample in enumerate(samples):
            sample.lane_probs, sample.pred_labels = probs[i], labels[i]
            if exist is not None:
                sample.exist_probs = exist[i]
        if self.lane_decoder is not None:
            lanes = self.lane_decoder(probs, exist, [sample.metainfo for sample in samples])
            for sample, image_lanes in zip(samples, lanes):
                sample.pred_lanes = image_lanes
        return samples

    def deployable(self) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """What runs without its training side: images in, maps out, with the normalisation inside.

        Returns:
            the module in evaluation mode, its example inputs by name (`images` (1, 3, h, w) float32 RGB 0..255), and
            the names of its outputs.
        """
        with torch.no_grad():
            names = list(self.eval().compute(torch.zeros(1, 3, *self.input_size)))
        return _Deployable(self, names).eval(), dict(images=torch.rand(1, 3, *self.input_size) * 255), names

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _check_arguments(self, class_weights: Sequence[float]) -> None:
        size = self.input_size
        if len(size) != 2 or min(size) < 1 or any(n % self.size_multiple for n in size):
            raise ConfigError(f'{self._name}: input_size={size}, expected (height, width) with both positive '
                              f'multiples of {self.size_multiple}. Choose the nearest such size.')
        if self.num_lanes and min(size) < 16:
            raise ConfigError(f'{self._name}: input_size={size} with an existence head, expected at least 16 x 16, '
                              'which leave it one position. Enlarge it, or set num_lanes=0.')
        if self.num_classes < 2 or self.num_lanes < 0:
            raise ConfigError(f'{self._name}: num_classes={self.num_classes}, num_lanes={self.num_lanes}, expected at '
                              'least 2 classes (the background counts) and 0 lanes. Set them so.')
        check_class_weights(self._name, class_weights, self.num_classes)

    def _check_images(self, images: Tensor) -> None:
        size = tuple(images.shape[2:])
        if images.dim() != 4 or images.shape[1] != 3:
            raise DataError(f'{self._name}: images of shape {tuple(images.shape)}, expected (B, 3, H, W). Stack colour '
                            'images into one batch.')
        if self.num_lanes and size != self.input_size:
            raise DataError(f'{self._name}: images of {size[0]} x {size[1]} pixels, expected {self.input_size[0]} x '
                            f'{self.input_size[1]}, which its existence head needs. Resize them, or set input_size.')
        if any(n % self.size_multiple for n in size):
            raise DataError(f'{self._name}: images of {size[0]} x {size[1]} pixels, expected multiples of '
                            f'{self.size_multiple}. Resize or pad them.')

    def _labels(self, inputs: dict) -> Tensor:
        labels, shape = inputs.get('labels'), inputs['images'].shape
        if labels is None:
            raise DataError(f'{self._name}.loss: a batch without labels, expected `labels` in every data sample. Train '
                            'on a split that has them.')
        if labels.shape != (shape[0], *shape[2:]):
            raise DataError(f'{self._name}.loss: labels of shape {tuple(labels.shape)} for images {tuple(shape)}, '
                            'expected (B, H, W) of the same size. Resize both alike.')
        wrong = (labels != self.ignore_index) & ((labels < 0) | (labels >= self.num_classes))
        if bool(wrong.any()):
            raise DataError(f'{self._name}.loss: a label {int(labels[wrong][0])}, expected 0..{self.num_classes - 1} '
                            f'or {self.ignore_index}. Map the labels, or set num_classes.')
        return labels

    def _exist(self, inputs: dict) -> Tensor:
        exist, expected = inputs.get('exist'), (len(inputs['images']), self.num_lanes)
        if exist is None or tuple(exist.shape) != expected:
            came = 'no `exist`' if exist is None else f'`exist` of shape {tuple(exist.shape)}'
            raise DataError(f'{self._name}.loss: {came}, expected {expected}: one flag for each lane slot. Set '
                            'num_lanes to the slots of the data set, 0 for none.')
        return exist


class _Deployable(nn.Module):
    """A net without its training side; see `LaneNet.deployable`."""

    def __init__(self, model: LaneNet, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model.compute(self.model.data_preprocessor.normalise(images))
        return tuple(outputs[name] for name in self.names)
