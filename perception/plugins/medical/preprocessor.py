"""One batch of images, of one or two views, with classes and rows."""
import torch

from perception.common.image_preprocessor import ImagePreprocessor
from perception.registry import MODELS


@MODELS.register_module()
class ViewPreprocessor(ImagePreprocessor):
    """An ImagePreprocessor for images with a class each, and with a second view for a teacher."""

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise a batch.

        Args:
            data: `inputs` with `image`, and maybe `second`, lists of (3, H, W) uint8 tensors, RGB; `data_samples`, a
                list of ClassSample, or None.
            training: not used.

        Returns:
            dict with `data_samples` as given and `inputs`: `images` (B, 3, H, W) float32; where all samples have them
            `labels` (B,) and `index` (B,) int64; with a second view `second`, again a dict with `images`.

        Raises:
            DataError: no colour images, or of different sizes.
        """
        batch = super().forward(data, training)
        inputs, samples = batch['inputs'], batch['data_samples']
        if samples and all('label' in sample for sample in samples):
            inputs['labels'] = torch.stack([sample.label for sample in samples]).to(inputs['images'].device)
        if samples and all('index' in sample for sample in samples):
            inputs['index'] = torch.tensor([sample.index for sample in samples], device=inputs['images'].device)
        if 'second' in data['inputs']:
            view = dict(inputs=dict(image=data['inputs']['second']), data_samples=samples)
            inputs['second'] = dict(images=super().forward(view)['inputs']['images'])
        return batch
