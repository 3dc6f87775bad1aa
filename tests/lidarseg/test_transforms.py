"""Augmentations against the reference's replayed draws, and their distributions."""
import numpy as np
import pytest
import torch

from perception.apis import test as test_module
from perception.apis.config import load_config
from perception.apis.test import _check_whole, prepare
from perception.common.dataset import build_pipeline
from perception.lidarseg.datasets.base import official_confusion, pack, predictions_of
from perception.lidarseg.datasets.semantickitti.metric import SemanticKITTIMetric
from perception.lidarseg.mixing import LaserMix, OneOf
from perception.lidarseg.models.points import label_points
from perception.lidarseg.preprocessor import CubeVoxelizer
from perception.lidarseg.transforms import (
    KeepLabels,
    RandomFlip,
    RandomRotate,
    RandomScale,
    RandomSector,
    RandomThin,
    RandomTranslate,
    WithinRange,
    xy_matrix,
)
from perception.registry import TRANSFORMS
from perception.utils.errors import ConfigError

ALL = [RandomRotate, RandomFlip, RandomScale, RandomTranslate]


class Draws:
    """A generator that returns given values."""

    def __init__(self, *values):
        self.values = list(values)

    def uniform(self, low, high):
        value = self.values.pop(0)
        assert low <= value <= high
        return value

    def integers(self, high):
        return self.values.pop(0)

    def normal(self, mean, std, size):
        assert (mean, std, size) == (0, 0.1, 3)
        return np.array(self.values.pop(0))


def sample(num_points=30, seed=0):
    rng = np.random.default_rng(seed)
    return dict(points=rng.normal(size=(num_points, 4)).astype(np.float32), labels=np.arange(num_points), rng=rng)


@pytest.mark.parametrize('k', range(4))
def test_pipeline_replays_the_reference(shared, k):
    arrays = np.load(shared / 'goldens/lidarseg/cylinder3d_data_A.npz')
    angle, flip, scale, *shift = arrays[f'aug{k}_params']
    augmented = dict(points=arrays['kitti_points'], rng=Draws(angle, int(flip), scale, shift))
    for transform in (RandomRotate(), RandomFlip(), RandomScale(), RandomTranslate()):
        augmented = transform(augmented)
    feats = arrays[f'aug{k}_fea']  # 3 offsets, rho, phi, z, x, y, intensity
    np.testing.assert_allclose(augmented['points'][::12, [2, 0, 1, 3]], feats[:, 5:], atol=2e-5)


def test_test_time_views_replay_the_reference(shared):
    arrays = np.load(shared / 'goldens/lidarseg/cylinder3d_data_A.npz')
    xy = arrays['kitti_points'][::8, :2]
    for (angle, flip, scale), expected in zip(arrays['tta_params'], arrays['tta_xy']):
        xy = xy @ xy_matrix(angle, int(flip), scale).T  # the reference's views pile up
        np.testing.assert_allclose(xy, expected, atol=5e-5)


def test_matrix_rotates_counter_clockwise_then_flips_then_scales():
    np.testing.assert_allclose(xy_matrix(np.pi / 2) @ [1, 0], [0, 1], atol=1e-15)
    np.testing.assert_allclose(xy_matrix(np.pi / 2, flip=2, scale=2) @ [1, 0], [0, -2], atol=1e-15)
    signs = [xy_matrix(flip=flip) @ [1, 1] for flip in range(4)]
    np.testing.assert_array_equal(signs, [[1, 1], [-1, 1], [1, -1], [-1, -1]])


@pytest.mark.parametrize('transform', ALL)
def test_input_is_left_alone_and_labels_pass(transform):
    given = sample()
    before = given['points'].copy()
    result = transform()(given)
    np.testing.assert_array_equal(given['points'], before)
    assert result['labels'] is given['labels']
    assert result['points'].dtype == np.float32 and result['points'].shape == (30, 4)
    np.testing.assert_array_equal(result['points'][:, 3], before[:, 3])
    if transform is not RandomTranslate:
        np.testing.assert_array_equal(result['points'][:, 2], before[:, 2])


@pytest.mark.parametrize('transform', ALL)
@pytest.mark.parametrize('num_points', [0, 1])
def test_tiny_scans(transform, num_points):
    assert transform()(sample(num_points))['points'].shape == (num_points, 4)


def test_rotation_keeps_distances_and_covers_its_range():
    points = np.array([[1, 0, 0, 0]], np.float32)
    rng = np.random.default_rng(0)
    moved = np.concatenate([RandomRotate(45)(dict(points=points, rng=rng))['points'] for _ in range(500)])
    np.testing.assert_allclose(np.linalg.norm(moved[:, :2], axis=1), 1, rtol=1e-6)
    angles = np.rad2deg(np.arctan2(moved[:, 1], moved[:, 0]))
    assert -45 <= angles.min() < -40 and 40 < angles.max() <= 45


def test_flips_are_equally_likely():
    points = np.array([[1, 1, 0, 0]], np.float32)
    rng = np.random.default_rng(0)
    signs = [tuple(RandomFlip()(dict(points=points, rng=rng))['points'][0, :2]) for _ in range(800)]
    counts = [signs.count(pair) for pair in ((1, 1), (-1, 1), (1, -1), (-1, -1))]
    assert sum(counts) == 800 and min(counts) > 150


def test_scale_and_shift_cover_their_ranges():
    points = np.array([[1, 2, 3, 0]], np.float32)
    rng = np.random.default_rng(0)
    scaled = np.concatenate([RandomScale()(dict(points=points, rng=rng))['points'] for _ in range(500)])
    np.testing.assert_allclose(scaled[:, 1], 2 * scaled[:, 0], rtol=1e-6)
    assert 0.95 <= scaled[:, 0].min() < 0.955 and 1.045 < scaled[:, 0].max() <= 1.05 and (scaled[:, 2] == 3).all()
    whole = np.concatenate([RandomScale(z=True)(dict(points=points, rng=rng))['points'] for _ in range(50)])
    np.testing.assert_allclose(whole[:, 1:3], whole[:, :1] * [2, 3], rtol=1e-6)
    assert len(np.unique(whole[:, 2])) == 50 and (points[0] == [1, 2, 3, 0]).all()
    shifted = np.concatenate([RandomTranslate(0.1)(dict(points=points, rng=rng))['points'] for _ in range(2000)])
    np.testing.assert_allclose(shifted.mean(axis=0), points[0], atol=0.01)
    np.testing.assert_allclose(shifted[:, :3].std(axis=0), 0.1, atol=0.01)
    two = RandomTranslate(0.1)(dict(points=np.repeat(points, 2, axis=0), rng=rng))['points']
    np.testing.assert_array_equal(two[0], two[1])  # one shift for the whole scan


def test_equal_generators_give_equal_points():
    for transform in ALL:
        np.testing.assert_array_equal(transform()(sample(seed=5))['points'], transform()(sample(seed=5))['points'])


def test_transforms_are_registered():
    assert isinstance(TRANSFORMS.build(dict(type='RandomTranslate', std=0.2)), RandomTranslate)


@pytest.mark.parametrize('build, message', [
    (lambda: RandomRotate(200), 'RandomRotate: max_degrees=200, expected 0..180'),
    (lambda: RandomScale(1.1, 0.9), 'RandomScale: low=1.1, high=0.9'),
    (lambda: RandomScale(0, 1), 'expected 0 < low <= high'),
    (lambda: RandomSector(0), 'RandomSector: degrees=0'), (lambda: RandomSector(361), 'RandomSector: degrees=361'),
    (lambda: RandomThin(0), 'RandomThin: keep=0'), (lambda: RandomThin(1.5), 'RandomThin: keep=1.5'),
    (lambda: RandomTranslate(-1), 'RandomTranslate: std=-1'),
    (lambda: WithinRange(0), 'WithinRange: radius=0'), (lambda: KeepLabels(0), 'KeepLabels: share=0'),
    (lambda: KeepLabels(1.5), 'KeepLabels: share=1.5'), (lambda: KeepLabels(seed=-1), 'KeepLabels: seed=-1')])
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_thinning_keeps_a_share_of_the_rows_in_order_with_their_labels():
    whole = sample(1001)
    thinned = RandomThin(0.4)(dict(whole, rng=np.random.default_rng(1)))
    rows = thinned['labels']
    assert len(rows) == 401 and (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(thinned['points'], whole['points'][rows])
    again, other = (RandomThin(0.4)(dict(whole, rng=np.random.default_rng(seed)))['labels'] for seed in (1, 2))
    assert np.array_equal(again, rows) and not np.array_equal(other, rows)
    assert 'labels' not in RandomThin(0.4)(dict(points=whole['points'], rng=np.random.default_rng(0)))
    assert len(RandomThin(1.0)(sample(7))['points']) == 7


def test_sectors_have_their_width_lie_anywhere_and_keep_labels_beside_points():
    rng = np.random.default_rng(0)
    angles = np.deg2rad(np.arange(-179.5, 180))
    points = np.stack([5 * np.cos(angles), 5 * np.sin(angles), 0 * angles, 0 * angles], axis=1).astype(np.float32)
    kept = [RandomSector(90)(dict(points=points, labels=np.arange(360), rng=rng)) for _ in range(300)]
    for sector in kept:
        assert len(sector['labels']) in (90, 91)
        np.testing.assert_array_equal(sector['points'], points[sector['labels']])
        gaps = np.diff(sector['labels'], append=sector['labels'][0] + 360)
        assert (gaps > 1).sum() == 1  # one piece, also across the back
    counts = np.bincount(np.concatenate([sector['labels'] for sector in kept]), minlength=360)
    assert counts.min() > 30 and counts.max() < 130  # 75 expected
    assert len(RandomSector(360)(dict(points=points, rng=rng))['points']) == 360


def labelled(num_points=4000, name='00_000003'):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 19, num_points)
    labels[::4] = 255
    return dict(points=rng.normal(0, 15, (num_points, 4)).astype(np.float32), labels=labels, sample_id=name, rng=rng)


def test_few_labels_are_the_same_at_every_visit_and_of_each_scan():
    whole = labelled()
    few = KeepLabels(.01)(whole)
    rows = np.flatnonzero(few['labels'] != 255)
    assert len(rows) == 30 and few['points'] is whole['points'] and (whole['labels'] != 255).sum() == 3000
    assert np.array_equal(few['labels'][rows], whole['labels'][rows])
    again = KeepLabels(.01)(dict(whole, rng=np.random.default_rng(9)))
    assert np.array_equal(again['labels'], few['labels'])
    for other in (KeepLabels(.01, seed=1)(whole), KeepLabels(.01)(dict(whole, sample_id='00_000004'))):
        assert (other['labels'] != 255).sum() == 30 and not np.array_equal(other['labels'], few['labels'])
    assert set(rows) < set(np.flatnonzero(KeepLabels(.1)(whole)['labels'] != 255))
    assert (KeepLabels(1e-9)(whole)['labels'] != 255).sum() == 1
    assert np.array_equal(KeepLabels(1)(whole)['labels'], whole['labels'])
    unlabelled = KeepLabels()(dict(whole, labels=np.full(4000, 255)))
    assert (unlabelled['labels'] == 255).all()
    assert KeepLabels()(dict(points=whole['points'], sample_id='a')).keys() == {'points', 'sample_id'}


def test_scans_drawn_for_mixing_and_past_ones_keep_few_labels_too():
    other = labelled(name='00_000009')
    mixed = KeepLabels(.01)(dict(labelled(), draw=lambda: other))['draw']()
    assert np.array_equal(mixed['labels'], KeepLabels(.01)(other)['labels'])
    both = dict(labelled(), sample_id='00_000003', scan_ids=['00_000003', '00_000009'], scan=np.repeat([0, 1], 4000))
    both.update(labels=np.concatenate([both['labels'], other['labels']]), points=np.zeros((8000, 4), np.float32))
    few = KeepLabels(.01)(both)['labels']
    assert np.array_equal(few[:4000], KeepLabels(.01)(labelled())['labels'])
    assert np.array_equal(few[4000:], mixed['labels'])


@pytest.mark.parametrize('step', [RandomThin(.5), RandomSector(120)])
def test_few_labels_of_a_scan_that_is_thinned_at_random_are_refused(step):
    thinned = step(dict(labelled(), rng=np.random.default_rng(0)))
    with pytest.raises(ConfigError, match='is thinned at random, expected it as its file has it'):
        KeepLabels(.01)(thinned)


def test_a_scanner_that_looks_ahead_never_gives_an_empty_sector():
    whole = labelled()
    ahead = dict(whole, points=np.abs(whole['points']) * [1, .2, 1, 1])  # less than a quarter of a turn
    counts = [len(RandomSector(60)(dict(ahead, rng=np.random.default_rng(seed)))['points']) for seed in range(40)]
    assert min(counts) > 0 and len(set(counts)) > 20
    nothing = RandomSector(60)(dict(points=np.zeros((0, 4)), labels=np.zeros(0), rng=np.random.default_rng(0)))
    assert len(nothing['points']) == 0


def test_what_is_left_at_random_is_known_by_its_rows():
    whole = labelled()
    for step in (RandomThin(.25), RandomSector(120)):
        left = step(dict(whole, rng=np.random.default_rng(0)))
        assert np.array_equal(left['points'], whole['points'][left['kept']]) and left['num_points'] == 4000
        (sample,) = label_points(torch.zeros(len(left['points']), 19), [len(left['points'])],
                                 [pack(left)['data_samples']])
        assert len(sample.pred_labels) == 4000 and (sample.pred_labels != 255).sum() == len(left['points'])


def test_what_lies_far_away_is_dropped_with_all_that_belongs_to_it():
    whole = dict(labelled(), returns=np.arange(4000), first_len=3000, colours=np.zeros(3))
    inside = np.hypot(*whole['points'][:, :2].T) <= 20
    near = WithinRange(20.)(whole)
    assert 0 < inside.sum() < 4000 and len(whole['points']) == 4000
    for key in ('points', 'labels', 'returns'):
        assert np.array_equal(near[key], whole[key][inside])
    assert near['first_len'] == inside[:3000].sum() and len(near['colours']) == 3
    packed = pack(near)['data_samples']
    assert packed.num_points == 4000 and np.array_equal(packed.kept, np.flatnonzero(inside))
    # a file some of whose rows were left out, with a label for each row
    twice = WithinRange(20.)(dict(whole, labels=np.arange(8000), kept=np.arange(0, 8000, 2), num_points=8000))
    assert np.array_equal(twice['kept'], 2 * np.flatnonzero(inside))
    assert np.array_equal(twice['labels'], twice['kept']) and twice['num_points'] == 8000
    # points of past scans follow, without labels
    past = WithinRange(20.)(dict(whole, labels=whole['labels'][:1000], origin_len=1000))
    assert past['origin_len'] == len(past['labels']) == len(past['kept']) == inside[:1000].sum()
    assert len(past['points']) == inside.sum() and past['num_points'] == 1000
    assert len(WithinRange(1e-9)(whole)['labels']) == 0


@pytest.mark.parametrize('past', [0, 500])
def test_the_official_metric_scores_what_is_left_and_predictions_are_told_for_the_whole_file(past):
    whole = labelled()
    points = np.concatenate([whole['points'], labelled(past)['points']]) if past else whole['points']
    scan = dict(whole, points=points, **(dict(origin_len=4000) if past else {}))
    item = pack(WithinRange(20.)(scan))
    left = len(item['inputs']['points'])
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(left, 19)).astype(np.float32))
    (sample,) = label_points(logits, [left], [item['data_samples']])
    inside = np.hypot(*whole['points'][:, :2].T) <= 20
    predicted = logits[:inside.sum()].argmax(1).numpy()
    told = predictions_of(sample.to_dict(), 'here')
    assert np.array_equal(told[inside], predicted) and (told[~inside] == 255).all() and len(told) == 4000
    counted = SemanticKITTIMetric().count(sample.to_dict())
    assert np.array_equal(counted, official_confusion(predicted, whole['labels'][inside], 19))
    batch = dict(inputs=dict(points=[item['inputs']['points']]), data_samples=[sample])
    assert CubeVoxelizer(.5)(batch)['inputs']['labels'].tolist() == [
        *whole['labels'][inside].tolist(), *[255] * (left - inside.sum())]


def test_mixing_after_the_range_forgets_the_rows_of_the_file():
    other = labelled(name='b')
    mixed = LaserMix()(dict(WithinRange(20.)(labelled()), draw=lambda: other))
    assert 'kept' not in mixed and len(mixed['points']) == len(mixed['labels'])
    assert len(pack(mixed)['data_samples'].labels) == pack(mixed)['data_samples'].num_points


@pytest.mark.parametrize('name', ['kitti', 'nuscenes', 'waymo'])
@pytest.mark.parametrize('step', [WithinRange, RandomThin, RandomSector])
def test_a_submission_that_would_lack_points_is_refused_before_any_net_runs(root, name, step, tmp_path, monkeypatch):
    steps = [dict(type=RandomFlip), dict(type=step)]
    cfg = load_config(root / f'configs/lidarseg/cylinder3d_half_{name}.py',
                      options={'submit_dataloader.dataset.pipeline': steps})
    said = []
    monkeypatch.setattr(test_module, 'print_log', lambda text, *_: said.append(text))
    if name == 'kitti' and step is WithinRange:  # whose server takes points without a class
        prepare(cfg, submit=str(tmp_path))
        assert 'pipeline.1 is WithinRange, which drops points: they are submitted as unlabelled' in said[0]
        return
    with pytest.raises(ConfigError, match=rf'--submit: .*pipeline\.1 is {step.__name__}, which drops points'):
        prepare(cfg, submit=str(tmp_path))
    steps[1] = dict(type=OneOf, steps=[dict(type=RandomFlip), dict(type=step.__name__)])
    cfg.submit_dataloader.dataset.pipeline = steps
    with pytest.raises(ConfigError, match=rf'--submit: .*pipeline\.1\.steps\.1 is {step.__name__}, which drops points'):
        _check_whole(cfg)


@pytest.mark.parametrize('name', ['minkunet_kitti', 'cylinder3d_kitti_multiscan', 'minkunet_nuscenes',
                                  'cylinder3d_waymo', 'minkunet_folder'])
def test_the_disturbances_of_a_config_change_scans(root, name):
    robustness, left = load_config(root / f'configs/lidarseg/{name}.py').robustness, {}
    for disturbance, steps in robustness.items():
        sample = dict(labelled(), rng=np.random.default_rng(0))
        for step in build_pipeline(steps):
            sample = step(sample)
        left[disturbance] = len(sample['points'])
        assert len(sample['labels']) == left[disturbance]
        assert not np.array_equal(sample['points'], labelled()['points'])
    assert left['half'] == 2000 and left['tenth'] == 400 and left['sector'] < 4000 == left['turned']
