"""Augmentation of clips and of street images; the released code has none for clips."""
import numpy as np

from perception.registry import TRANSFORMS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError

SWAPPED = np.arange(256)  # actions seen in a mirror
SWAPPED[[2, 3]] = 3, 2


@TRANSFORMS.register_module()
class FlipClip:
    """Mirror a clip: left and right change places in its frames, its angles, torques and actions.

    Teachers see the mirrored frames too, and a cache keeps their features beside those of the others. Features that
    something else left in files are of the frames as they were: PrecomputedFeatures refuses clips that say `mirrored`.

    Args:
        prob: share of the clips that are mirrored.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = _share('FlipClip', prob)

    def __call__(self, sample: dict) -> dict:
        if sample['rng'].random() >= self.prob:
            return sample
        info = sample.get('info', {})
        found = dict(sample, clip=sample['clip'][:, :, ::-1], targets=sample['targets'] * np.float32([-1, -1, 1]),
                     info=dict(info, mirrored=not info.get('mirrored', False)))
        if 'flow' in sample:
            found['flow'] = sample['flow'][..., ::-1] * np.float32([-1, 1])[:, None, None]
        return dict(found, actions=SWAPPED[sample['actions']]) if 'actions' in sample else found


@TRANSFORMS.register_module()
class FlipImage:
    """Mirror an image and its labels.

    Args:
        prob: share of the images that are mirrored.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = _share('FlipImage', prob)

    def __call__(self, sample: dict) -> dict:
        if sample['rng'].random() >= self.prob:
            return sample
        return dict(sample, **{key: np.ascontiguousarray(sample[key][:, ::-1])
                               for key in ('image', 'labels') if key in sample})


def _share(name: str, value: float) -> float:
    if value != 0:
        check_positive(name, value=value)
    if value > 1:
        raise ConfigError(f'{name}: {value}, expected a share of 0 to 1. Correct it.')
    return value
