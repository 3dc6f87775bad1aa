"""Augmentation and cutting of images of one object, by OpenCV: callables on `dict(image, rng, ...)`.

Images are (H, W, 3) uint8 RGB. As in pytorch/examples: a random part, flipped at random, with jittered colours in
training; the short side resized and the middle cut out in tests.
"""
import math
from collections.abc import Sequence

import cv2
import numpy as np

from perception.registry import TRANSFORMS
from perception.utils.errors import ConfigError


@TRANSFORMS.register_module()
class RandomResizedCrop:
    """A part of random area and shape, resized to a square.

    Args:
        size: side of the square [pixel].
        area: least and largest share of the image.
        ratio: least and largest width over height, drawn by its logarithm.

    Raises:
        ConfigError: ranges that cannot be.
    """

    def __init__(self, size: int = 224, area: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)
                 ) -> None:
        if size < 1 or not 0 < area[0] <= area[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ConfigError(f'RandomResizedCrop: size={size}, area={area}, ratio={ratio}, expected a positive size, '
                              'shares of 0 to 1 and ratios above 0, each the least first. Correct them.')
        self.size, self.area, self.ratio = size, tuple(area), tuple(ratio)

    def __call__(self, sample: dict) -> dict:
        image, rng = sample['image'], sample['rng']
        height, width = image.shape[:2]
        for _ in range(10):
            area = height * width * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(*map(math.log, self.ratio)))
            rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < rows <= height and 0 < columns <= width:
                top = int(rng.integers(0, height - rows, endpoint=True))
                left = int(rng.integers(0, width - columns, endpoint=True))
                break
        else:  # as much of the middle as the ratios allow
            columns = min(width, max(1, round(height * self.ratio[1])))
            rows = min(height, max(1, round(width / self.ratio[0])))
            top, left = (height - rows) // 2, (width - columns) // 2
        return dict(sample, image=_resized(image[top:top + rows, left:left + columns], (self.size, self.size)))


@TRANSFORMS.register_module()
class RandomImageFlip:
    """Left and right exchanged.

    Args:
        probability: of it.
    """

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(f'RandomImageFlip: probability={probability}, expected 0 to 1. Correct it.')
        self.probability = probability

    def __call__(self, sample: dict) -> dict:
        if sample['rng'].random() >= self.probability:
            return sample
        return dict(sample, image=np.ascontiguousarray(sample['image'][:, ::-1]))


@TRANSFORMS.register_module()
class ImageJitter:
    """Random brightness, contrast and saturation, each a factor from U(1 - x, 1 + x), in random order.

    Args:
        brightness: x of the factor on all channels.
        contrast: x of the factor on the distance from the image's mean grey.
        saturation: x of the factor on the distance from each pixel's own grey.
    """

    def __init__(self, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2) -> None:
        self.ranges = (brightness, contrast, saturation)
        if not all(0 <= x <= 1 for x in self.ranges):
            raise ConfigError(f'ImageJitter: {self.ranges}, expected numbers of 0 to 1. Correct them.')

    def __call__(self, sample: dict) -> dict:
        rng, image = sample['rng'], sample['image'].astype(np.float32)
        factors = [np.float32(rng.uniform(1 - x, 1 + x)) for x in self.ranges]
        weights = np.array([0.299, 0.587, 0.114], np.float32)
        for which in rng.permutation(3):
            far = 0 if which == 0 else (image @ weights).mean() if which == 1 else (image @ weights)[..., None]
            image = (far + (image - far) * factors[which]).clip(0, 255)
        return dict(sample, image=image.round().astype(np.uint8))


@TRANSFORMS.register_module()
class ResizeAndCut:
    """The short side resized, then a square cut out of the middle.

    Args:
        short: side after the resize [pixel].
        size: side of the square, at most `short`.

    Raises:
        ConfigError: sides that cannot be.
    """

    def __init__(self, short: int = 256, size: int = 224) -> None:
        if not 1 <= size <= short:
            raise ConfigError(f'ResizeAndCut: short={short}, size={size}, expected 1 <= size <= short. Correct them.')
        self.short, self.size = short, size

    def __call__(self, sample: dict) -> dict:
        height, width = sample['image'].shape[:2]
        factor = self.short / min(height, width)
        rows, columns = max(self.size, round(height * factor)), max(self.size, round(width * factor))
        image = _resized(sample['image'], (rows, columns))
        top, left = (rows - self.size) // 2, (columns - self.size) // 2
        return dict(sample, image=np.ascontiguousarray(image[top:top + self.size, left:left + self.size]))


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
