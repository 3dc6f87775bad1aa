"""From lists of rigs to one normalised batch, on the model's device."""
from collections.abc import Sequence

import torch
from torch import Tensor

from perception.common.image_preprocessor import ImagePreprocessor
from perception.registry import MODELS
from perception.utils.errors import DataError

MATRICES = dict(cam_to_img=(3, 3), frame_to_cam=(4, 4), image_aug=(3, 3))  # one of each camera


@MODELS.register_module()
class RigPreprocessor(ImagePreprocessor):
    """Stacks and normalises the images of all cameras, and stacks their matrices.

    Its arguments are those of ImagePreprocessor.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise a batch.

        Args:
            data: `inputs`, each a list with one entry of a sample: `images` (N, 3, H, W) uint8, red first, `cam_to_img`
                (N, 3, 3), `frame_to_cam` (N, 4, 4), `image_aug` (N, 3, 3), `bev_aug` (4, 4), others as they are; and
                `data_samples`, a list of RigSample, or None.
            training: not used.

        Returns:
            dict with `data_samples` as given and `inputs`: `images` (B, N, 3, H, W) float32, normalised, matrices
            (B, N, ...) and (B, 4, 4) float32, others as they are.

        Raises:
            DataError: images or matrices that do not fit each other.
        """
        data = self.cast_data(data)
        inputs, samples = dict(data['inputs']), data.get('data_samples')
        self._check(inputs, samples)
        inputs['images'] = self.normalise(torch.stack([*inputs['images']]).flatten(0, 1)).unflatten(
            0, (len(inputs['images']), -1))
        for name in (*MATRICES, 'bev_aug'):
            inputs[name] = torch.stack([matrix.float() for matrix in inputs[name]])
        return dict(inputs=inputs, data_samples=samples)

    @staticmethod
    def _check(inputs: dict, samples: Sequence | None) -> None:
        images = inputs.get('images')
        if not images:
            raise DataError('RigPreprocessor: an empty batch, expected at least one sample. Check the data loader.')
        first = tuple(images[0].shape)
        for number, image in enumerate(images):
            name = samples[number].get('sample_id', number) if samples else number
            if image.dim() != 4 or image.shape[1] != 3 or image.dtype != torch.uint8 or not len(image):
                raise DataError(f'sample {name}: images {image.dtype} of shape {tuple(image.shape)}, expected uint8 '
                                '(N, 3, H, W), red first. Convert them to 8-bit colour of one size.')
            if tuple(image.shape) != first:
                raise DataError(f'sample {name}: {_text(image)} beside {_text(images[0])} of another sample, expected '
                                'as many cameras of one size in a batch. Set batch_size=1, or the same number of '
                                'cameras for all.')
            for matrix, shape in dict({k: (len(image), *v) for k, v in MATRICES.items()}, bev_aug=(4, 4)).items():
                came = tuple(inputs[matrix][number].shape) if matrix in inputs else None
                if came != shape:
                    raise DataError(f'sample {name}: {matrix} of shape {came} for {_text(image)}, expected {shape}. '
                                    'Give each camera its matrices.')


def _text(images: Tensor) -> str:
    return f'{len(images)} images of {images.shape[2]} x {images.shape[3]} pixels'
