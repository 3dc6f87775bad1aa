"""Augmentation of images with a class: callables on `dict(image, rng, ...)`, drawing from `rng` alone."""
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from perception.common.dataset import build_pipeline
from perception.registry import TRANSFORMS
from perception.utils.errors import ConfigError


@TRANSFORMS.register_module()
class RandomAffine:
    """Turned about the centre and moved, both drawn evenly; bilinear, black where nothing is known.

    Args:
        max_degrees: largest angle, to either side.
        max_shift: largest shift as a share of width and height.

    Raises:
        ConfigError: an angle or a share that cannot be.
    """

    def __init__(self, max_degrees: float = 10.0, max_shift: float = 0.02) -> None:
        if not 0 <= max_degrees < np.inf or not 0 <= max_shift < 1:
            raise ConfigError(f'RandomAffine: max_degrees={max_degrees}, max_shift={max_shift}, expected an angle of 0 '
                              'or more and a share from 0 to less than 1. Correct them.')
        self.max_degrees, self.max_shift = max_degrees, max_shift

    def __call__(self, sample: dict) -> dict:
        height, width = sample['image'].shape[:2]
        angle, *shift = sample['rng'].uniform(-1, 1, 3)
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle * self.max_degrees, 1)
        matrix[:, 2] += np.round(self.max_shift * np.multiply(shift, (width, height)))
        return dict(sample, image=cv2.warpAffine(sample['image'], matrix, (width, height)))


@TRANSFORMS.register_module()
class RandomMirror:
    """Left and right exchanged.

    Args:
        probability: of it.

    Raises:
        ConfigError: no share of 0 to 1.
    """

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(f'RandomMirror: probability={probability}, expected 0..1. Correct it.')
        self.probability = probability

    def __call__(self, sample: dict) -> dict:
        flip = sample['rng'].random() < self.probability
        return dict(sample, image=sample['image'][:, ::-1]) if flip else sample


@TRANSFORMS.register_module()
class RandomRightAngle:
    """Up and down exchanged in half of the images, then turned by 0, 90, 180 or 270 degrees; images are square."""

    def __call__(self, sample: dict) -> dict:
        image, rng = sample['image'], sample['rng']
        if rng.random() < 0.5:
            image = image[::-1]
        turned = np.rot90(image, rng.integers(4))
        if turned.shape != image.shape:
            raise ConfigError(f'RandomRightAngle: an image of {image.shape[0]} x {image.shape[1]} pixels, expected a '
                              'square. Set input_size so.')
        return dict(sample, image=turned)


@TRANSFORMS.register_module()
class TwoViews:
    """Two views of an image, each with random numbers of its own: `image` for a student, `second` for its teacher.

    The student sees what `both` alone would show it.

    Args:
        both: augmentations of each.
        teacher: further ones of the second.
    """

    def __init__(self, both: Sequence[dict | Callable] = (), teacher: Sequence[dict | Callable] = ()) -> None:
        self.both, self.teacher = build_pipeline(both), build_pipeline(teacher)

    def __call__(self, sample: dict) -> dict:
        first = second = sample
        for step in self.both:
            first = step(first)
        for step in (*self.both, *self.teacher):
            second = step(second)
        return dict(first, second=second['image'])
