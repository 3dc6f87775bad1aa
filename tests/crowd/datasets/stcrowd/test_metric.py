"""STCrowd's score against the development kit's numbers, an own slow loop, and cases that can be counted."""
import json
import logging

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from perception.crowd.datasets.stcrowd import metric as module
from perception.crowd.datasets.stcrowd.metric import DISTANCES, STCrowdMetric, read_frame, score_frames
from perception.utils.errors import ConfigError, DataError

PROJECTION = np.array([[680, -680, 0, 0], [360, 0, -680, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
OFF = dict(min_height=0, max_range=np.inf, front=False, min_points=0, min_score=0, recall_score=0, max_boxes=10 ** 6)


def box(x, y, height=1.7, yaw=0.0):
    return [x, y, height / 2 - 1.6, .7, .6, height, yaw, 1, 0]


def sample(boxes, preds, scores, number=0, **fields):
    """A sample as mmengine hands it to a metric."""
    result = BaseDataElement(metainfo=dict(sample_id=f'33_{number:04d}', lidar_to_image=PROJECTION),
                       boxes=torch.tensor(boxes, dtype=torch.float64).reshape(-1, 9),
                       pred_boxes=torch.tensor(preds, dtype=torch.float64).reshape(-1, 9),
                       pred_scores=torch.tensor(scores, dtype=torch.float64))
    result.set_data({key: torch.as_tensor(value) for key, value in fields.items()})
    return result.to_dict()


def random_samples(seed, frames=5):
    """People in groups, some too low, too far, behind or without points; scores with many ties."""
    rng, samples = np.random.default_rng(seed), []
    for number in range(frames):
        people, preds = rng.integers(0, 30), rng.integers(0, 60)
        centres = rng.uniform((-4, -15), (38, 15), (people, 2)) // 2 * 2 + rng.normal(0, .5, (people, 2))
        boxes = np.array([box(*centre, rng.choice([1.0, 1.2, 1.7], p=[.1, .1, .8])) for centre in centres])
        found = rng.uniform((-4, -15), (38, 15), (preds, 2))
        if people:
            near = rng.random(preds) < .7
            found[near] = centres[rng.integers(0, people, near.sum())] + rng.normal(0, .4, (near.sum(), 2))
        pred_boxes = np.array([box(*centre, rng.uniform(1, 2), rng.uniform(-4, 4)) for centre in found])
        gaps = np.linalg.norm(centres[:, None] - centres, axis=-1)
        samples.append(sample(
            boxes, pred_boxes, rng.random(preds).round(1), number, occlusion=rng.integers(0, 3, people),
            num_points=rng.integers(0, 300, people) * (rng.random(people) < .9), ignore=rng.random(people) < .1,
            density=(gaps <= 2).sum(1) - 1.0))
    return samples


def slow_curve(hits, num):
    """AP of hits (1) and misses (0), the best first."""
    if num == 0:
        return np.nan
    if not sum(hits):
        return 0.0
    precisions, recalls = [], []
    for count in range(1, len(hits) + 1):
        precisions.append(sum(hits[:count]) / count)
        recalls.append(sum(hits[:count]) / num)
    values = np.interp(np.linspace(0, 1, 101), recalls, precisions, right=0)[11:]
    return sum(max(value - .1, 0) for value in values) / 90 / .9


def slow_greedy(preds, people, distance, dims):
    """Whom each prediction (frame, box) finds."""
    free, result = list(range(len(people))), []
    for frame, pred in preds:
        gaps = [(np.linalg.norm(np.subtract(pred[:dims], people[k][1][:dims])), k) for k in free
                if people[k][0] == frame]
        nearest = min(gaps, default=(np.inf, None))
        result.append(nearest[1] if nearest[0] < distance else None)
        if result[-1] is not None:
            free.remove(result[-1])
    return result


def slow_scores(samples, dims, later_first):
    """AP, AR and AP of parts, one box after the other, with the default filters."""
    people, preds = [], []
    for f, one in enumerate(samples):
        for k, row in enumerate(one['boxes'].tolist()):
            if row[5] >= 1.2 and not one['ignore'][k] and one['num_points'][k] >= 1 and row[0] >= 0 \
                    and np.hypot(row[0], row[1]) <= 35:
                people.append((f, row, int(one['occlusion'][k]), float(one['density'][k]), int(one['num_points'][k])))
        for row, score in zip(one['pred_boxes'].tolist(), one['pred_scores'].tolist()):
            if score >= .05 and row[0] >= 0 and np.hypot(row[0], row[1]) <= 35:
                preds.append((f, row, score))
    numbered = sorted(enumerate(preds), key=lambda item: (item[1][2], item[0] if later_first else -item[0]))[::-1]
    preds = [item[:2] for _, item in numbered]
    kept = sum(item[2] >= .1 for _, item in numbered)
    result, aps = {}, {}
    for distance in DISTANCES:
        whom = slow_greedy(preds, people, distance, dims)
        hits = [k is not None for k in whom]
        result[f'AP_{distance}'] = slow_curve(hits, len(people))
        result[f'recall_{distance}'] = sum(hits) / len(people)
        for level in (0, 1, 2):
            alone = [person for person in people if person[2] == level]
            found = slow_greedy(preds[:kept], alone, distance, dims)
            aps.setdefault(f'AR_{level}', []).append(sum(k is not None for k in found) / len(alone))
            of_level = [people[k][2] == level for k in whom[:kept] if k is not None]
            aps.setdefault(f'AR_{level}_joint', []).append(sum(of_level) / len(alone))
        for part, chosen in (('range_10-20m', lambda p: 10 <= np.hypot(*p[1][:2]) < 20), ('density_4+', lambda p:
                             p[3] >= 4), ('points_50-200', lambda p: 50 <= p[4] < 200)):
            hits = []
            for (frame, row), k in zip(preds, whom):
                if k is not None:
                    hits += [1] if chosen(people[k]) else []
                    continue
                gaps = [(np.linalg.norm(np.subtract(row[:2], p[1][:2])), i) for i, p in enumerate(people)
                        if p[0] == frame]
                nearest = min(gaps, default=(np.inf, None))
                if part.startswith('range'):
                    counts = 10 <= np.hypot(*row[:2]) < 20
                elif nearest[0] < 2:
                    counts = chosen(people[nearest[1]])
                else:
                    counts = part.startswith('points')
                hits += [0] if counts else []
            result[f'AP_{distance}_{part}'] = slow_curve(hits, sum(map(chosen, people)))
    return result | {name: np.mean(values) for name, values in aps.items()}


@pytest.mark.parametrize('seed', range(4))
def test_an_own_slow_loop(seed):
    samples = random_samples(seed)
    dist, ties = ('bev', '3d')[seed % 2], ('devkit', 'crowdquery')[seed // 2 % 2]
    metric = STCrowdMetric(dist=dist, ties=ties)
    metric.process(None, samples)
    scores = score_frames(metric.results, dist, ties)
    expected = slow_scores(samples, (2, 3)[seed % 2], ties == 'devkit')
    assert len(expected) == 21
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    assert scores['mAP'] == pytest.approx(np.mean([scores[f'AP_{d}'] for d in DISTANCES]), abs=1e-12)


@pytest.fixture(scope='module')
def golden(shared):
    folder = shared / 'goldens/nuscenes_det_eval'
    truth, preds, results = (json.loads((folder / f'{name}.json').read_text()) for name in ('gt', 'pred', 'results'))

    def rows(records):
        return [[*r['translation'], r['size'][1], r['size'][0], r['size'][2], 2 * np.arctan2(r['rotation'][3],
                 r['rotation'][0]), *(np.nan if v is None else v for v in r['velocity'])] for r in records]

    samples = []
    for number, token in enumerate(truth):
        people, found = ([r for r in records[token] if r['detection_name'] == 'pedestrian']
                         for records in (truth, preds))
        samples.append(sample(rows(people), rows(found), [r['detection_score'] for r in found], number))
    return samples, results['stcrowd_distances_pedestrian']


def test_the_development_kits_numbers(golden):
    samples, expected = golden
    metric = STCrowdMetric(**OFF)
    metric.process(None, samples)
    scores = score_frames(metric.results, recall_score=0)
    assert scores['mAP'] == pytest.approx(expected['mAP'], abs=1e-9)
    assert scores['ATE'] == pytest.approx(expected['0.5']['trans_err'], abs=1e-9)
    for distance in DISTANCES:
        assert scores[f'AP_{distance}'] == pytest.approx(expected[str(distance)]['ap'], abs=1e-9)
        assert np.floor(100 * scores[f'recall_{distance}'] + 1e-9) / 100 == expected[str(distance)]['max_recall']
    assert metric.evaluate(len(samples))['STCrowd/mAP'] == round(expected['mAP'], 4)


def test_two_processes_give_the_scores_of_one(two_processes):
    samples = random_samples(11, frames=7)

    def score(own):
        metric = STCrowdMetric()
        for one in own:
            metric.process(None, [one])
        return metric.evaluate(len(samples))
    one = score(samples)
    # the sampler repeats the first sample to fill the last round
    for scores in two_processes(lambda rank: score([*samples, samples[0]][rank::2])):
        np.testing.assert_equal(scores, one)


def test_filters_are_recorded_and_logged(monkeypatch):
    logged = []
    monkeypatch.setattr(module, 'print_log', lambda text, *_: logged.append(text))
    metric = STCrowdMetric(dist='3d', min_height=1.0, view='camera')
    metric.process(None, [sample([box(5, 0)], [box(5, 0)], [.9])])
    result = metric.evaluate(1)
    assert result['STCrowd/filters'] == dict(
        dist='3d', ties='devkit', min_height=1.0, max_range=35.0, front=True, min_points=1, view='camera',
        min_score=.05, max_boxes=200, recall_score=.1, ignored='wrong')
    assert next(iter(result)) == 'STCrowd/mAP' and result['STCrowd/mAP'] == result['STCrowd/AP_0.25'] == 1
    assert 'dist 3d' in logged[0] and 'AR_0_joint' in logged[0] and '1 people' in logged[0]
    json.dumps(result)
    metric.dataset_meta = dict(min_height=1.0)
    metric.process(None, [sample([box(5, 0)], [box(5, 0)], [.9])])
    metric.evaluate(1)
    metric.dataset_meta = dict(min_height=1.2)  # the reader ignores people whom the metric would count
    metric.process(None, [sample([box(5, 0)], [box(5, 0)], [.9])])
    metric.evaluate(1)
    assert len(logged) == 4 and 'min_height=1.0 with data whose min_height is 1.2' in logged[2]


@pytest.mark.parametrize(('fields', 'kept'), [
    ({}, True), (dict(height=1.19), False), (dict(height=1.2), True), (dict(x=-.01), False), (dict(x=0), True),
    (dict(x=28, y=21), True), (dict(x=28.1, y=21), False), (dict(points=0), False), (dict(points=1), True),
    (dict(ignore=True), False)])
def test_who_counts(fields, kept):
    given = dict(x=5, y=1, height=1.7, points=20, ignore=False) | fields
    one = sample([box(given['x'], given['y'], given['height'])], [box(given['x'], given['y'])], [.5],
                 num_points=[given['points']], ignore=[given['ignore']])
    frame = read_frame(one, STCrowdMetric().filters)
    assert len(frame.boxes) == kept
    inside = given['x'] >= 0 and np.hypot(given['x'], given['y']) <= 35
    assert len(frame.pred_boxes) == inside and len(frame.ignored) == (inside and not kept)


def test_the_camera_sees_a_part():
    """The projection here: u = 680 - 680 y / x, v = 360 - 680 z / x."""
    boxes = [box(10, 0), box(10, 9.9), box(10, 10.1), box(10, -8.8), box(10, -8.9), box(1, 0, 4.3), box(-5, 0)]
    one = sample(boxes, boxes, [.5] * 7)
    frame = read_frame(one, STCrowdMetric(view='camera').filters)
    assert frame.boxes[:, 1].tolist() == frame.pred_boxes[:, 1].tolist() == [0, 9.9, -8.8]
    del one['lidar_to_image']
    with pytest.raises(DataError, match='33_0000 has no lidar_to_image'):
        read_frame(one, STCrowdMetric(view='camera').filters)


def test_the_best_predictions_of_a_frame():
    scores = [.3, .04, .9, .3, .3, .2]
    one = sample([box(5, 0)], [box(5, k) for k in range(6)], scores)
    for ties, expected in (('devkit', [2, 3, 4]), ('crowdquery', [0, 2, 3])):
        frame = read_frame(one, STCrowdMetric(max_boxes=3).filters, ties)
        assert frame.pred_boxes[:, 1].tolist() == expected


def test_recall_by_occlusion_is_generous_unless_it_is_joint():
    """One prediction between two people of different levels, nearer to the first."""
    one = sample([box(5, 0), box(5, .5)], [box(5, .2)], [.9], occlusion=[0, 2])
    metric = STCrowdMetric()
    metric.process(None, [one])
    scores = metric.evaluate(1)
    found = {name.partition('/')[2]: value for name, value in scores.items() if '/AR_' in name}
    assert (found['AR_0'], found['AR_2']) == (1, round(2 / 3, 4)), 'at 0.25 m the second one is too far'
    assert (found['AR_0_joint'], found['AR_2_joint']) == (1, 0) and np.isnan(found['AR_1'])


def test_weak_predictions_count_for_precision_alone():
    metric = STCrowdMetric()
    metric.process(None, [sample([box(5, 0)], [box(5, 0)], [.07], occlusion=[0])])
    scores = metric.evaluate(1)
    assert scores['STCrowd/AP_0.5'] == 1 and scores['STCrowd/AR_0'] == scores['STCrowd/AR'] == 0
    with pytest.raises(ConfigError, match='recall_score=0.1, expected at least min_score=0.3'):
        STCrowdMetric(min_score=.3)


def test_errors_of_what_is_found():
    metric = STCrowdMetric()
    metric.process(None, [sample([box(5, 0)], [[5, .3, -.75, 1.4, .6, 1.7, 2 * np.pi - .2, 1, 2]], [.9])])
    scores = metric.evaluate(1)
    errors = [scores[f'STCrowd/{name}'] for name in ('ATE', 'ASE', 'AOE', 'AVE')]
    assert errors == [.3, .5, .2, 2]
    unknown = sample([box(5, 0)], [box(5, 0)], [.9])
    unknown['boxes'] = unknown['boxes'][:, :7]
    metric = STCrowdMetric()
    metric.process(None, [unknown])
    assert np.isnan(metric.evaluate(1)['STCrowd/AVE'])


def test_who_is_ignored_may_be_free():
    one = sample([box(5, 0), box(9, 0, 1.0)], [box(9, 0), box(5, 0)], [.9, .8])
    for ignored, expected in (('wrong', .2), ('free', 1)):
        metric = STCrowdMetric(ignored=ignored)
        metric.process(None, [one])
        assert metric.evaluate(1)['STCrowd/AP_1.0'] == expected


@pytest.mark.parametrize('people', [0, 3])
def test_frames_without_people_or_predictions(people):
    metric = STCrowdMetric()
    metric.process(None, [sample([box(5, k) for k in range(people)], [], []), sample([], [], [])])
    scores = metric.evaluate(2)
    assert scores['STCrowd/mAP'] == pytest.approx(0 if people else np.nan, nan_ok=True)
    metric.process(None, [sample([], [box(5, 0)], [.9])])
    assert np.isnan(metric.evaluate(1)['STCrowd/mAP'])
    assert np.isnan(score_frames([])['mAP'])


def test_parts_that_nobody_knows_are_left_out():
    metric = STCrowdMetric()
    metric.process(None, [sample([box(5, 0)], [box(5, 0)], [.9])])
    names = set(metric.evaluate(1))
    assert 'STCrowd/mAP_range_0-10m' in names and not [name for name in names if 'density' in name or 'points' in name]


def test_dense_groups_are_told_from_people_alone():
    """Five people side by side, of whom one is found twice and four are missed; one alone who is found."""
    boxes = [box(5, .5 * k) for k in range(5)] + [box(20, -9)]
    one = sample(boxes, [box(5, 0), box(5, -.1), box(20, -9)], [.9, .8, .7], density=[4.] * 5 + [0.],
                 num_points=[100] * 6, occlusion=[2] * 6)
    metric = STCrowdMetric()
    metric.process(None, [one])
    scores = metric.evaluate(1)
    assert scores['STCrowd/mAP_density_0-1'] == 1 and scores['STCrowd/AR_density_4+'] == round((1 + 1 + 2) / 15, 4)
    assert scores['STCrowd/AP_0.25_density_4+'] < scores['STCrowd/AP_1.0_density_4+'] < .4
    assert scores['STCrowd/AR_2_density_4+'] == scores['STCrowd/AR_density_4+']
    assert np.isnan(scores['STCrowd/mAP_points_200+']) and np.isnan(scores['STCrowd/AR_0_density_4+'])


@pytest.mark.parametrize(('key', 'value', 'message'), [
    ('boxes', None, '33_0000 has no boxes'), ('pred_boxes', None, 'has no pred_boxes'),
    ('pred_scores', torch.ones(2), r'scores of shape \(2,\) for 1'),
    ('pred_scores', torch.tensor([np.nan]), r'one finite number'),
    ('pred_boxes', torch.full((1, 9), np.nan), 'pred_boxes of shape'),
    ('pred_boxes', torch.zeros(1, 9), 'sizes above 0'), ('boxes', torch.ones(1, 5), r'shape \(1, 5\)'),
    ('occlusion', torch.ones(3), r'occlusion of shape \(3,\) for 1 people')])
def test_broken_samples(key, value, message):
    one = sample([box(5, 0)], [box(5, 0)], [.9])
    one[key] = value
    with pytest.raises(DataError, match=message):
        STCrowdMetric().process(None, [one])


@pytest.mark.parametrize('arguments', [dict(dist='xy'), dict(ties='first'), dict(view='image'), dict(ignored='x'),
                                       dict(max_range=0), dict(max_boxes=-1)])
def test_bad_arguments(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        STCrowdMetric(**arguments)


def test_the_prefix_is_silent(caplog):
    caplog.set_level(logging.WARNING)
    assert STCrowdMetric().prefix == 'STCrowd' and not caplog.records
