"""Augmentation of road images: callables on `dict(image, labels, rng, ...)`, drawing from `rng` alone.

Images are (H, W, 3) uint8 RGB and are resized bilinearly, labels (H, W) uint8 to the nearest. There is no flip: it
would swap the lane slots. Published orders: CULane and TuSimple resize, rotate, crop (SCNN's and ENet-SAD's code);
ERFNet and IntRA-KD scale, crop, rotate.
"""
from collections.abc import Sequence

import cv2
import numpy as np

from perception.lanes.datasets.base import IGNORE, resize
from perception.registry import TRANSFORMS
from perception.utils.errors import ConfigError

CULANE_MEAN = (92, 93, 93)  # RGB; zero after the normalisation of SCNN's code, whose padding is zero there


@TRANSFORMS.register_module()
class RandomResize:
    """Height and width drawn independently from integer ranges, ends included.

    Args:
        height: lowest and highest height in pixels; CULane 288 x 800: (274, 304).
        width: lowest and highest width; CULane 288 x 800: (760, 842).
    """

    def __init__(self, height: Sequence[int] = (274, 304), width: Sequence[int] = (760, 842)) -> None:
        for name, (low, high) in (('height', _pair(height)), ('width', _pair(width))):
            _check(1 <= low <= high, f'RandomResize: {name}=({low}, {high}), expected 1 <= lowest <= highest in pixels')
        self.height, self.width = tuple(height), tuple(width)

    def __call__(self, sample: dict) -> dict:
        return resize(sample, [int(sample['rng'].integers(low, high, endpoint=True))
                               for low, high in (self.height, self.width)])


@TRANSFORMS.register_module()
class RandomImageScale:
    """One factor for height and width from U(low, high).

    Args:
        low: smallest factor; ERFNet on CULane without its upper 240 rows: 0.595.
        high: largest factor; ERFNet there: 0.621. ApolloScape (IntRA-KD): 0.5 both.
    """

    def __init__(self, low: float = 0.595, high: float = 0.621) -> None:
        _check(0 < low <= high, f'RandomImageScale: low={low}, high={high}, expected 0 < low <= high')
        self.low, self.high = low, high

    def __call__(self, sample: dict) -> dict:
        factor = sample['rng'].uniform(self.low, self.high)
        return resize(sample, [max(1, round(factor * n)) for n in sample['image'].shape[:2]])


@TRANSFORMS.register_module()
class RandomCrop:
    """A window at a random place; what is missing is padded at the top and, in random parts, left and right.

    Args:
        size: (H, W) of the window.
        fill: RGB of padded pixels, best the mean of the normalisation.
        fill_label: label of padded pixels; the published code pads background.
    """

    def __init__(self, size: Sequence[int], fill: Sequence[int] = CULANE_MEAN, fill_label: int = 0) -> None:
        height, width = _pair(size)
        _check(height > 0 and width > 0, f'RandomCrop: size={size}, expected (height, width) in pixels')
        self.size, self.fill, self.fill_label = (height, width), _color('RandomCrop', fill), fill_label

    def __call__(self, sample: dict) -> dict:
        (height, width), rng = sample['image'].shape[:2], sample['rng']
        spare_rows, spare_columns = height - self.size[0], width - self.size[1]
        top = int(rng.integers(0, max(spare_rows, 0), endpoint=True))
        side = int(rng.integers(0, abs(spare_columns), endpoint=True))
        pad_top, pad_left = max(-spare_rows, 0), side if spare_columns < 0 else 0
        left = side if spare_columns > 0 else 0

        def cut(pixels: np.ndarray, fill: int | tuple) -> np.ndarray:
            part = pixels[top:top + self.size[0], left:left + self.size[1]]
            return cv2.copyMakeBorder(part, pad_top, 0, pad_left, self.size[1] - part.shape[1] - pad_left,
                                      cv2.BORDER_CONSTANT, value=fill)

        return _both(sample, lambda image: cut(image, self.fill), lambda labels: cut(labels, self.fill_label))


@TRANSFORMS.register_module()
class RandomImageRotate:
    """Rotation about the centre by an angle from U(centre - max_degrees, centre + max_degrees), counter-clockwise.

    Args:
        max_degrees: CULane 1, TuSimple 0.5, ApolloScape 10.
        centre: mean angle in degrees; TuSimple -1.7.
        prob: share of the images that are rotated; ERFNet and ApolloScape 0.5.
        fill: RGB of pixels from outside.
        fill_label: label of pixels from outside; 255 = ignored.
    """

    def __init__(self, max_degrees: float = 1.0, centre: float = 0.0, prob: float = 1.0,
                 fill: Sequence[int] = CULANE_MEAN, fill_label: int = IGNORE) -> None:
        _check(0 <= max_degrees <= 180, f'RandomImageRotate: max_degrees={max_degrees}, expected 0..180')
        _check(0 <= prob <= 1, f'RandomImageRotate: prob={prob}, expected a share in [0, 1]')
        self.max_degrees, self.centre, self.prob = max_degrees, centre, prob
        self.fill, self.fill_label = _color('RandomImageRotate', fill), fill_label

    def __call__(self, sample: dict) -> dict:
        rng = sample['rng']
        rotate, angle = rng.random() < self.prob, self.centre + rng.uniform(-self.max_degrees, self.max_degrees)
        if not rotate:
            return sample
        height, width = sample['image'].shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)

        def turn(pixels: np.ndarray, how: int, fill: int | tuple) -> np.ndarray:
            return cv2.warpAffine(pixels, matrix, (width, height), flags=how, borderMode=cv2.BORDER_CONSTANT,
                                  borderValue=fill)

        return _both(sample, lambda image: turn(image, cv2.INTER_LINEAR, self.fill),
                     lambda labels: turn(labels, cv2.INTER_NEAREST, self.fill_label))


@TRANSFORMS.register_module()
class ColorJitter:
    """Random brightness, contrast and saturation, each a factor from U(1 - x, 1 + x); labels stay.

    Args:
        brightness: x of the factor on all channels.
        contrast: x of the factor on the distance from the mean grey of the image.
        saturation: x of the factor on the distance of each pixel from its own grey.
    """

    def __init__(self, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2) -> None:
        for name, value in dict(brightness=brightness, contrast=contrast, saturation=saturation).items():
            _check(0 <= value <= 1, f'ColorJitter: {name}={value}, expected 0..1')
        self.ranges = brightness, contrast, saturation

    def __call__(self, sample: dict) -> dict:
        brightness, contrast, saturation = (sample['rng'].uniform(1 - x, 1 + x) for x in self.ranges)
        image = sample['image'].astype(np.float32) * np.float32(brightness)
        grey = image @ np.array([0.299, 0.587, 0.114], np.float32)  # (H, W)
        image = grey[..., None] + (image - grey[..., None]) * np.float32(saturation)
        image = grey.mean() + (image - grey.mean()) * np.float32(contrast)
        return dict(sample, image=image.round().clip(0, 255).astype(np.uint8))


def _both(sample: dict, on_image, on_labels) -> dict:
    result = dict(sample, image=on_image(sample['image']))
    if 'labels' in sample:
        result['labels'] = on_labels(sample['labels'])
    return result


def _pair(values: Sequence[int]) -> tuple[int, int]:
    _check(len(values) == 2, f'{tuple(values)}, expected two numbers')
    return int(values[0]), int(values[1])


def _color(name: str, fill: Sequence[int]) -> tuple[int, ...]:
    _check(len(fill) == 3 and all(0 <= value <= 255 for value in fill), f'{name}: fill={fill}, expected RGB in 0..255')
    return tuple(fill)


def _check(good: bool, message: str) -> None:
    if not good:
        raise ConfigError(f'{message}. Correct it in the pipeline.')
