"""Augmentation of images and labels, against slow loops and on hand-made pictures."""
import numpy as np
import pytest

from perception.lanes.transforms import ColorJitter, RandomCrop, RandomImageRotate, RandomImageScale, RandomResize
from perception.utils.errors import ConfigError

ALL = [RandomResize((20, 30), (40, 60)), RandomImageScale(0.5, 0.7), RandomCrop((30, 50)), RandomImageRotate(5),
       ColorJitter()]


def sample(height=40, width=64, seed=0, labels=True):
    rng = np.random.default_rng(5)
    result = dict(image=rng.integers(0, 256, (height, width, 3), np.uint8), rng=np.random.default_rng(seed))
    if labels:
        result['labels'] = rng.integers(0, 5, (height, width)).astype(np.uint8)
    return result


@pytest.mark.parametrize('step', ALL, ids=lambda step: type(step).__name__)
def test_same_seed_same_result_and_nothing_is_changed_in_place(step):
    given = sample()
    before = given['image'].copy(), given['labels'].copy()
    first, again, other = step(given), step(sample()), step(sample(seed=1))
    np.testing.assert_array_equal(first['image'], again['image'])
    np.testing.assert_array_equal(first['labels'], again['labels'])
    assert first['image'].shape != other['image'].shape or (first['image'] != other['image']).any()
    np.testing.assert_array_equal(given['image'], before[0])
    np.testing.assert_array_equal(given['labels'], before[1])
    assert first['image'].dtype == first['labels'].dtype == np.uint8
    assert first['image'].shape[:2] == first['labels'].shape


@pytest.mark.parametrize('step', ALL, ids=lambda step: type(step).__name__)
def test_labels_are_optional_and_do_not_change_the_image(step):
    np.testing.assert_array_equal(step(sample(labels=False))['image'], step(sample())['image'])
    assert 'labels' not in step(sample(labels=False))


def test_resize_draws_each_size_of_its_ranges():
    step, rng = RandomResize((3, 5), (7, 8)), np.random.default_rng(0)
    sizes = {step(dict(sample(), rng=rng))['image'].shape[:2] for _ in range(100)}
    assert sizes == {(h, w) for h in (3, 4, 5) for w in (7, 8)}


def test_labels_are_resized_without_new_numbers():
    given = sample()
    given['labels'] = np.where(given['labels'] > 2, 4, 255).astype(np.uint8)
    labels = RandomResize((23, 23), (37, 37))(given)['labels']
    slow = [[given['labels'][y * 40 // 23, x * 64 // 37] for x in range(37)] for y in range(23)]
    np.testing.assert_array_equal(labels, slow)


def test_scale_keeps_the_proportions():
    shapes = [RandomImageScale(0.5, 0.7)(sample(seed=seed))['image'].shape for seed in range(20)]
    assert {abs(h / 40 - w / 64) < 0.02 and 0.49 < h / 40 < 0.71 for h, w, _ in shapes} == {True}
    assert len(set(shapes)) > 5
    assert RandomImageScale(0.001, 0.001)(sample())['image'].shape == (1, 1, 3)


@pytest.mark.parametrize('size', [(40, 64), (30, 50), (50, 80), (30, 80), (50, 50)])
def test_crop_is_a_window_of_the_image_with_padding_above_and_beside(size):
    fill, seen = (1, 2, 3), set()
    for seed in range(30):
        given = sample(seed=seed)
        result = RandomCrop(size, fill=fill, fill_label=9)(given)
        image, labels = result['image'], result['labels']
        assert image.shape == (*size, 3) and labels.shape == size
        rows, columns = np.flatnonzero((labels != 9).any(1)), np.flatnonzero((labels != 9).any(0))
        assert rows[-1] == size[0] - 1 and len(rows) == min(40, size[0]) and len(columns) == min(64, size[1])
        inner = labels[rows[0]:, columns[0]:columns[-1] + 1]
        places = [(y, x) for y in range(40 - len(rows) + 1) for x in range(64 - len(columns) + 1)
                  if (given['labels'][y:y + len(rows), x:x + len(columns)] == inner).all()]
        assert len(places) == 1
        (y, x), = places
        np.testing.assert_array_equal(image[rows[0]:, columns[0]:columns[-1] + 1],
                                      given['image'][y:y + len(rows), x:x + len(columns)])
        assert (image[labels == 9] == fill).all()
        seen.add((y, x, columns[0]))
    assert len(seen) > 5 or size == (40, 64)


def test_rotation_turns_counter_clockwise_about_the_centre():
    given = dict(image=np.zeros((41, 61, 3), np.uint8), labels=np.zeros((41, 61), np.uint8),
                 rng=np.random.default_rng(0))
    given['labels'][20, 30:55] = 3  # from the centre to the right
    result = RandomImageRotate(0, centre=90, fill=(7, 7, 7))(given)
    assert (result['labels'][0:20, 30] == 3).sum() == 20 and result['labels'][25, 30] == 0
    assert (result['labels'][:, 0] == 255).all() and (result['image'][:, 0] == 7).all()
    labels = RandomImageRotate(0, centre=90, fill_label=0)(dict(given, rng=np.random.default_rng(0)))['labels']
    assert set(np.unique(labels)) == {0, 3}


def test_rotation_angles_and_share():
    def column(seed, **kwargs):
        given = dict(image=np.zeros((101, 101, 3), np.uint8), labels=np.zeros((101, 101), np.uint8),
                     rng=np.random.default_rng(seed))
        given['labels'][50] = 1
        labels = RandomImageRotate(**kwargs)(given)['labels']
        return np.degrees(np.arctan2(50 - np.flatnonzero(labels[:, 95] == 1).mean(), 45))

    angles = np.array([column(seed, max_degrees=8) for seed in range(60)])
    assert -8.8 < angles.min() < -6 and 6 < angles.max() < 8.8
    shifted = np.array([column(seed, max_degrees=2, centre=-5) for seed in range(20)])
    assert -7.8 < shifted.min() < shifted.max() < -2.2
    turned = np.mean([abs(column(seed, max_degrees=8, prob=0.5)) > 0 for seed in range(100)])
    assert 0.3 < turned < 0.65
    assert all(column(seed, max_degrees=8, prob=0) == 0 for seed in range(10))


def test_colours_change_alone():
    given = sample()
    result = ColorJitter(0.3, 0.3, 0.3)(given)
    np.testing.assert_array_equal(result['labels'], given['labels'])
    assert (result['image'] != given['image']).mean() > 0.9
    np.testing.assert_array_equal(ColorJitter(0, 0, 0)(sample())['image'], given['image'])
    bright = [ColorJitter(0.5, 0, 0)(sample(seed=seed))['image'].mean() for seed in range(20)]
    assert min(bright) < given['image'].mean() * 0.8 and max(bright) > given['image'].mean() * 1.1
    grey = np.repeat(given['image'][..., :1], 3, axis=2)
    np.testing.assert_array_equal(ColorJitter(0, 0, 1)(dict(sample(), image=grey))['image'], grey)


@pytest.mark.parametrize('make', [
    lambda: RandomResize((5, 4)), lambda: RandomResize((0, 4)), lambda: RandomResize((1, 2, 3)),
    lambda: RandomImageScale(0, 1), lambda: RandomImageScale(2, 1), lambda: RandomCrop((0, 5)),
    lambda: RandomCrop((5, 5), fill=(1, 2)),
    lambda: RandomCrop((5, 5), fill=(1, 2, 300)), lambda: RandomImageRotate(-1), lambda: RandomImageRotate(1, prob=2),
    lambda: ColorJitter(brightness=2), lambda: ColorJitter(saturation=-0.1)])
def test_arguments_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match='Correct it in the pipeline'):
        make()
