"""Augmentation of clips."""
import numpy as np
import pytest

from perception.steering.transforms import FlipClip, FlipImage
from perception.utils.errors import ConfigError


def sample(**fields):
    clip = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    return dict(dict(clip=clip, targets=np.float32([[10, 1, 5], [-3, 0, 6], [0, np.nan, np.nan]]),
                     rng=np.random.default_rng(1)), **fields)


def test_a_mirrored_clip_steers_to_the_other_side():
    given = sample(actions=np.array([0, 2, 3]))
    found = FlipClip(1.0)(given)
    assert np.array_equal(found['clip'], given['clip'][:, :, ::-1])
    assert np.array_equal(found['targets'], [[-10, -1, 5], [3, 0, 6], [0, np.nan, np.nan]], equal_nan=True)
    assert found['actions'].tolist() == [0, 3, 2]
    again = FlipClip(1.0)(found)
    assert np.array_equal(again['clip'], given['clip']) and again['actions'].tolist() == [0, 2, 3]
    assert found['info']['mirrored'] and not again['info']['mirrored']
    assert FlipClip(0.0)(given) is given
    flips = [FlipClip(.3)(dict(given, rng=np.random.default_rng(k)))['clip'] is not given['clip'] for k in range(400)]
    assert np.mean(flips) == pytest.approx(.3, abs=.07)


@pytest.mark.parametrize('make', [lambda: FlipClip(1.5), lambda: FlipClip(-1), lambda: FlipImage('x')])
def test_shares_that_cannot_be(make):
    with pytest.raises(ConfigError):
        make()
