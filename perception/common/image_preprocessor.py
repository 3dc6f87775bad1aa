"""From lists of images to one normalised batch, on the model's device."""
from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from perception.registry import MODELS
from perception.utils.errors import ConfigError, DataError


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Stacks and normalises the images of a batch, and stacks their labels.

    Args:
        mean: of the three channels, in 0..255, in the order the network sees them (blue first with `bgr`).
        std: like `mean`; 1 leaves the scale.
        bgr: give the network blue, green, red. Images always come as red, green, blue.
        non_blocking: copy to the device without waiting, from memory that the loader has pinned.

    Raises:
        ConfigError: not three numbers, or a std that is not positive.
    """

    def __init__(self, mean: Sequence[float] = (123.675, 116.28, 103.53),
                 std: Sequence[float] = (58.395, 57.12, 57.375), bgr: bool = False, non_blocking: bool = True):
        super().__init__(non_blocking=non_blocking)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigError(f'ImagePreprocessor: mean={mean}, std={std}, expected three numbers each, in 0..255, std '
                              'above 0. Correct them in the config.')
        self.bgr = bgr
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise a batch.

        Args:
            data: `inputs` with `image`, a list of (3, H, W) uint8 tensors, RGB, and `data_samples`, a list of
                LaneSample, or None.
            training: not used.

        Returns:
            dict with `data_samples` as given and `inputs`: `images` (B, 3, H, W) float32; where all samples have
            them also `labels` (B, H, W) int64 and `exist` (B, L) float32.

        Raises:
            DataError: no colour images, different sizes, labels of another size than their image.
        """
        data = self.cast_data(data)
        images, samples = data['inputs']['image'], data.get('data_samples')
        _check_images(images, samples)
        batch = torch.stack(list(images))
        inputs = dict(images=self.normalise(batch))
        for key in ('labels', 'exist'):
            if samples and all(key in sample for sample in samples):
                inputs[key] = _stacked(key, samples, batch.shape[2:])
        return dict(inputs=inputs, data_samples=samples)

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB in 0..255, as the network takes them, float32."""
        return ((images.flip(1) if self.bgr else images).float() - self.mean) / self.std


def _check_images(images: Sequence[Tensor], samples: list | None) -> None:
    first = None
    for i, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise DataError(f'{_name(samples, i)}: {image.dtype} of shape {tuple(image.shape)}, expected uint8 '
                            '(3, H, W), red first. Convert it to 8-bit colour.')
        first = image if first is None else first
        if image.shape != first.shape:
            raise DataError(f'{_name(samples, i)}: {_size(image)} pixels beside {_name(samples, 0)} of {_size(first)}, '
                            'expected images of one size in a batch. Set input_size of the data set, or batch_size=1.')
    if first is None:
        raise DataError('ImagePreprocessor: an empty batch, expected at least one image. Check the data loader.')


def _stacked(key: str, samples: list, size: torch.Size) -> Tensor:
    values = [sample.get(key) for sample in samples]
    expected = tuple(size) if key == 'labels' else tuple(values[0].shape)
    for i, value in enumerate(values):
        if tuple(value.shape) != expected:
            raise DataError(f'{_name(samples, i)}: {key} of shape {tuple(value.shape)}, expected {expected}. Apply '
                            'every transform of the image to its labels, and do not mix data sets of different '
                            'lane slots.')
    return torch.stack(values)


def _size(image: Tensor) -> str:
    return f'{image.shape[1]} x {image.shape[2]}'


def _name(samples: list | None, i: int) -> str:
    sample = samples[i] if samples else None
    for key in ('image_path', 'sample_id'):
        if sample is not None and sample.get(key):
            return f'image {sample.get(key)}'
    return f'image {i} of the batch'
