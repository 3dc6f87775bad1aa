"""What a sample carries beside its image."""
from mmengine.structures import BaseDataElement


class ImageSample(BaseDataElement):
    """A real image, and the one that a generator makes of a seed.

    Data fields, all optional:
        pred_image: (3, H, W) uint8 RGB, of the seed `source`.
        teacher_image: (3, H, W) uint8 RGB that a teacher makes of the same latent.

    Meta information: `sample_id`, `image_path` of the real image, `source`, the seed (int).
    """
