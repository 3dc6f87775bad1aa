"""Mixing of two scans against slow loops over points, the places of pasted objects, and the draws of any worker."""
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from perception.common.samplers import EpochSampler
from perception.lidarseg.datasets.semantickitti.reader import CLASSES, SemanticKITTI
from perception.lidarseg.mixing import GROUND, RARE, LaserMix, OneOf, PasteObjects, PolarMix, class_table
from perception.lidarseg.transforms import KeepLabels
from perception.registry import TRANSFORMS
from perception.utils.errors import ConfigError, DataError

ALL = (LaserMix, PolarMix, PasteObjects)


def scan(seed, num_points=400):
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(-30, 30, (num_points, 2)), rng.uniform(-4, 2, (num_points, 1)),
                             np.full((num_points, 1), seed)], 1).astype(np.float32)  # intensity tells the scan
    return dict(points=points, labels=rng.choice([0, 1, 8, 12, 255], num_points))


def sample(own, other, seed=0):
    return dict(own, rng=np.random.default_rng(seed), draw=lambda: other, classes=CLASSES)


def rows_of(parts):
    return sorted((*map(float, point), int(label)) for points, labels in parts for point, label in zip(points, labels))


def rows(mixed):
    return rows_of([(mixed['points'], mixed['labels'])])


def laser_mix_slowly(own, other, number, low, high):
    """Point by point, after LaserMix's equation: even areas of one scan, odd ones of the other."""
    bounds = np.linspace(np.deg2rad(high), np.deg2rad(low), number + 1)
    kept = []
    for which, part in enumerate((own, other)):
        for point, label in zip(part['points'], part['labels']):
            pitch = np.arctan2(point[2], np.hypot(point[0], point[1]))
            pitch = np.clip(pitch, bounds[-1] + 1e-5, bounds[0] - 1e-5)
            area = next(i for i in range(number) if bounds[i + 1] <= pitch < bounds[i])
            if area % 2 == which:
                kept.append(([point], [label]))
    return rows_of(kept)


@pytest.mark.parametrize('number', [2, 3, 6])
def test_laser_mix_takes_areas_in_turn(number):
    own, other = scan(1), scan(2)
    mixed = LaserMix([number])(sample(own, other))
    assert rows(mixed) == laser_mix_slowly(own, other, number, -25, 3)
    assert {1, 2} == set(mixed['points'][:, 3])
    lifted = [dict(part, points=part['points'] + np.float32([0, 0, 4, 0])) for part in (own, other)]  # z = 0 below
    again = LaserMix([number], sensor_z=4.)(sample(*lifted))
    assert len(again['points']) == len(mixed['points']) and np.array_equal(again['labels'], mixed['labels'])
    with pytest.raises(DataError, match='LaserMix: no point of own .*by sensor_z'):
        LaserMix([number])(dict(sample(*lifted), sample_id='own'))


@pytest.mark.parametrize('kind', [LaserMix, PolarMix])
def test_few_labels_are_chosen_before_scans_are_mixed(kind):
    own, other = scan(1), dict(scan(2), sample_id='other')
    first = dict(sample(own, other), sample_id='own', scan=np.zeros(400, int), scan_ids=['own'])
    labelled = (kind()(KeepLabels(.01)(first))['labels'] != 255).sum()
    assert labelled <= 4 * 4  # of each scan, and PolarMix pastes objects three times
    mixed = kind()(first)
    assert not {'scan', 'scan_ids'} & set(mixed)  # they are of the rows of one file
    with pytest.raises(ConfigError, match='KeepLabels: own is mixed with another scan'):
        KeepLabels(.01)(mixed)


def test_laser_mix_of_a_scan_with_itself_is_the_scan():
    own = scan(1)
    own['points'][0, :3] = 0  # the scanner itself
    assert rows(LaserMix()(sample(own, own))) == rows(own)


@pytest.mark.parametrize('seed', range(4))
def test_polar_mix_swaps_half_a_turn(seed):
    own, other = scan(1), scan(2)
    mixed = PolarMix(swap_prob=1, paste_prob=0)(sample(own, other, seed))
    rng = np.random.default_rng(seed)
    rng.random()
    start = rng.uniform(-np.pi, 0)
    kept = []
    for part, wanted in ((own, False), (other, True)):
        for point, label in zip(part['points'], part['labels']):
            yaw = -np.arctan2(point[1], point[0])
            if (start < yaw < start + np.pi) == wanted:
                kept.append(([point], [label]))
    assert rows(mixed) == rows_of(kept)


def test_polar_mix_pastes_objects_at_three_angles():
    own, other = scan(1), scan(2)
    mixed = PolarMix(classes=[1], swap_prob=0)(sample(own, other))
    things = other['points'][other['labels'] == 1]
    count = len(things)
    assert count > 20
    assert rows(dict(points=mixed['points'][:400], labels=mixed['labels'][:400])) == rows(own)
    assert (mixed['labels'][400:] == 1).all()
    copies = mixed['points'][400:].reshape(3, count, 4)
    np.testing.assert_array_equal(copies[0], things)
    limits = np.deg2rad([[0, 1e-6], [0, 120], [120, 240]])
    for copy, (low, high) in zip(copies, limits):
        np.testing.assert_array_equal(copy[:, 2:], things[:, 2:])
        turn = np.arctan2(copy[:, 1], copy[:, 0]) - np.arctan2(things[:, 1], things[:, 0])
        np.testing.assert_allclose(np.hypot(*copy[:, :2].T), np.hypot(*things[:, :2].T), rtol=1e-5)
        np.testing.assert_allclose(np.exp(1j * turn), np.exp(1j * turn[0]), atol=1e-4)
        assert low - 1e-4 <= turn[0] % (2 * np.pi) <= high + 1e-4


def street(ground_height=-1.7, walls=()):
    """A plane of road around the scanner, with upright walls (x, y) of buildings."""
    grid = np.stack(np.meshgrid(np.arange(-40, 40, .25), np.arange(-40, 40, .25)), -1).reshape(-1, 2)
    points = np.column_stack([grid, np.full(len(grid), ground_height), np.zeros(len(grid))])
    labels = np.full(len(points), 8)
    for x, y in walls:
        wall = np.column_stack([np.full(20, x), np.full(20, y), np.linspace(-1, 1, 20), np.zeros(20)])
        points, labels = np.concatenate([points, wall]), np.concatenate([labels, np.full(20, 12)])
    return dict(points=points.astype(np.float32), labels=labels)


def with_object(base, x, y, label=5, height=-1.7, count=40):
    rng = np.random.default_rng(int(abs(x)))
    thing = np.column_stack([rng.uniform(x - .2, x + .2, count), rng.uniform(y - .2, y + .2, count),
                             np.linspace(height, height + 1.8, count), np.full(count, label)]).astype(np.float32)
    return dict(points=np.concatenate([base['points'], thing]),
                labels=np.concatenate([base['labels'], np.full(count, label)]))


def test_objects_are_told_apart():
    other = with_object(with_object(with_object(street(), 10, 5), 20, -5), 10.5, 5, label=6)
    other = with_object(other, -20, 3, count=5)  # too few points
    other = with_object(other, 60, 0)  # too far away
    found = PasteObjects().objects(other, class_table(dict(classes=CLASSES), RARE, ''))
    assert sorted((len(group), int(other['labels'][group[0]])) for group in found) == [(40, 5), (40, 5), (40, 6)]
    for group in found:
        assert np.ptp(other['points'][group, :2], 0).max() < .5


def test_pasted_objects_stand_on_the_ground_and_keep_their_distance():
    own, other = street(-1.2), with_object(street(-1.7), 10, 5)
    mixed = PasteObjects()(sample(own, other))
    pasted = mixed['points'][len(own['points']):]
    things = other['points'][-40:]
    assert (mixed['labels'][len(own['points']):] == 5).all()
    assert len(pasted) == 40
    np.testing.assert_allclose(np.hypot(*pasted[:, :2].T), np.hypot(*things[:, :2].T), rtol=1e-5)
    np.testing.assert_allclose(pasted[:, 2], things[:, 2] + .5, atol=1e-3)
    assert np.abs(pasted[:, :2] - things[:, :2]).max() > .5
    ground = class_table(dict(classes=CLASSES), GROUND, '')
    floating = dict(other, labels=np.where(ground[other['labels']], 12, other['labels']))  # unknown ground
    mixed = PasteObjects()(sample(own, floating))
    np.testing.assert_allclose(mixed['points'][len(own['points']):, 2].min(), -1.2, atol=1e-3)


def test_objects_are_never_pasted_into_others_or_off_the_ground():
    other = with_object(street(), 10, 0)
    ring = [(10 * np.cos(a), 10 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 400)]
    assert len(PasteObjects()(sample(street(walls=ring), other))['points']) == len(street(walls=ring)['points'])
    half = [(x, y) for x, y in ring if x < 1]  # the other half is free
    blocked, own = PasteObjects(tries=50), street(walls=half)
    for seed in range(5):
        pasted = blocked(sample(own, other, seed))['points'][len(own['points']):]
        assert len(pasted) == 40
        assert (pasted[:, 0] > .5).all()
    bare = dict(own, labels=np.full_like(own['labels'], 12))
    assert len(blocked(sample(bare, other))['points']) == len(bare['points'])
    nothing = blocked(sample(own, street()))
    assert nothing['points'] is own['points']


def test_no_two_pasted_objects_share_a_place():
    other = street()
    for x in range(6, 30, 2):
        other = with_object(other, x, 0, label=5 + x % 4 // 2)
    own = street()
    mixed = PasteObjects(max_objects=8)(sample(own, other))
    pasted = mixed['points'][len(own['points']):]
    assert len(pasted) == 8 * 40
    cells, _ = PasteObjects().cells(pasted[:, :2])
    owners = {}
    for number, cell in enumerate(cells):
        assert owners.setdefault(cell, number // 40) == number // 40


@pytest.mark.parametrize('transform', ALL)
def test_draws_decide_everything_and_inputs_stay(transform):
    own, other = with_object(scan(1), 8, 0), with_object(street(), 12, 3)
    before = [part[key].copy() for part in (own, other) for key in ('points', 'labels')]
    first, again, third = (transform()(sample(own, other, seed)) for seed in (5, 5, 6))
    assert np.array_equal(first['points'], again['points']) and np.array_equal(first['labels'], again['labels'])
    assert rows(first) != rows(third)
    assert first['points'].dtype == np.float32 and len(first['points']) == len(first['labels'])
    after = [part[key] for part in (own, other) for key in ('points', 'labels')]
    assert all(np.array_equal(a, b) for a, b in zip(before, after))


@pytest.mark.parametrize('kind', [PolarMix, PasteObjects])
def test_classes_are_named_as_the_data_name_them(kind):
    own, other = street(), with_object(street(), 12, 3)
    never = dict(swap_prob=0) if kind is PolarMix else {}
    named, numbered = (kind([one], **never)(sample(own, other)) for one in ('person', 5))
    assert len(named['points']) > len(own['points']) and rows(named) == rows(numbered)
    with pytest.raises(ConfigError, match='the data have no 19, expected train ids or some of car, bicycle'):
        kind([19], **never)(sample(own, other))
    for classes, said in (('car', 'road'), 'car, road'), (None, 'their names, which they do not tell'):
        with pytest.raises(ConfigError, match=f'{kind.__name__}: classes: the data have no .*bicycle.* some of {said}'):
            kind(**never)(dict(sample(own, other), classes=classes))


def test_probabilities_and_choice():
    own, other = scan(1), scan(2)
    for transform in (LaserMix(prob=0), PasteObjects(prob=0), PolarMix(swap_prob=0, paste_prob=0)):
        assert rows(transform(sample(own, other))) == rows(own)
    changed = [len(LaserMix(prob=.3)(sample(own, other, seed))['points']) != 400 for seed in range(300)]
    assert .2 < np.mean(changed) < .4
    choice = OneOf([lambda s: 'a', dict(type='LaserMix')])
    picked = [choice(sample(own, other, seed)) == 'a' for seed in range(300)]
    assert .4 < np.mean(picked) < .6
    assert {TRANSFORMS.get(t.__name__) for t in ALL} == set(ALL)


def test_batches_are_the_same_for_any_number_of_workers(mini_kitti):
    data = SemanticKITTI(mini_kitti, 'train', [0, 8], [OneOf([LaserMix(), PolarMix()]), PasteObjects()], seed=3)
    batches = []
    for workers in (0, 2):
        sampler = EpochSampler(data, seed=1)
        sampler.set_epoch(2)
        loader = DataLoader(data, 1, sampler=sampler, num_workers=workers, collate_fn=pseudo_collate)
        batches.append([batch['inputs']['points'][0] for batch in loader])
    assert len(batches[0]) == len(data)
    assert all(torch.equal(a, b) for a, b in zip(*batches))
    plain = SemanticKITTI(mini_kitti, 'train', [0, 8])
    assert any(len(a) != len(plain[2, i]['inputs']['points']) for i, a in enumerate(batches[0]))
    assert not torch.equal(data[0, 0]['inputs']['points'], data[1, 0]['inputs']['points'])


@pytest.mark.parametrize('build, message', [
    (partial(LaserMix, []), 'LaserMix: num_areas='), (partial(LaserMix, [1, 3]), 'expected numbers above 1'),
    (partial(LaserMix, pitch_range=(3, -25)), 'the lower one first'), (partial(LaserMix, prob=2), 'prob=2, expected a'),
    (partial(PolarMix, []), 'PolarMix: classes=.*expected names or train ids'),
    (partial(PolarMix, swap_prob=-1), 'swap_prob=-1'),
    (partial(PasteObjects, [255]), 'classes='), (partial(PasteObjects, ground=[]), 'ground='),
    (partial(PasteObjects, tries=0), 'expected numbers above 0'), (partial(PasteObjects, cell=60), '0 < cell < radius'),
    (partial(OneOf, []), 'OneOf: no steps')])
def test_bad_arguments(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize('transform', ALL)
def test_a_data_set_without_a_second_scan_or_labels_is_refused(transform):
    own = scan(1)
    for bad in (dict(own, rng=np.random.default_rng(0)), {k: v for k, v in sample(own, own).items() if k != 'labels'}):
        with pytest.raises(DataError, match=f'{transform.__name__}: a sample with .*expected labels and draw'):
            transform()(bad)
