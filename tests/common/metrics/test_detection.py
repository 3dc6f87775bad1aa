"""Detections scored by the distance of centres: the development kit's numbers, an own slow loop, cases by hand."""
import json

import numpy as np
import pytest

from perception.common.metrics import detection
from perception.common.metrics.detection import (
    Boxes,
    attribute_errors,
    average_precision,
    box_errors,
    detection_score,
    evaluate,
    make_curve,
    match,
    mean_error,
    near_pairs,
    rank,
)
from perception.utils.errors import ConfigError, DataError

CLASSES = ('car', 'truck', 'bus', 'trailer', 'construction_vehicle', 'pedestrian', 'motorcycle', 'bicycle',
           'traffic_cone', 'barrier')
DISTANCES = (0.5, 1.0, 2.0, 4.0)
PERIODS = [np.pi if name == 'barrier' else 2 * np.pi for name in CLASSES]
MEANINGLESS = dict(traffic_cone=('orient', 'vel', 'attr'), barrier=('vel', 'attr'))  # errors of these classes


def from_records(records, names=CLASSES):
    """Boxes of a file of results, those of some classes."""
    rows = [(frame, row) for frame, token in enumerate(records) for row in records[token]
            if row['detection_name'] in names]
    boxes = [[*row['translation'], row['size'][1], row['size'][0], row['size'][2],
              2 * np.arctan2(row['rotation'][3], row['rotation'][0]),
              *(np.nan if v is None else v for v in row['velocity'] or [None, None])] for _, row in rows]
    return Boxes(np.array(boxes).reshape(-1, 9), np.array([frame for frame, _ in rows], np.int64),
                 np.array([names.index(row['detection_name']) for _, row in rows], np.int64),
                 np.array([row['detection_score'] for _, row in rows]),
                 np.array([int.from_bytes(row['attribute_name'][-7:].encode(), 'big') if row['attribute_name'] else -1
                           for _, row in rows], np.int64))


@pytest.fixture(scope='module')
def golden(shared):
    folder = shared / 'goldens/nuscenes_det_eval'
    truth, preds, results = (json.loads((folder / f'{name}.json').read_text()) for name in ('gt', 'pred', 'results'))
    return truth, preds, results, np.load(folder / 'curves.npz')


def test_every_number_of_the_development_kit(golden):
    truth, preds, results, arrays = golden
    assert list(truth) == list(preds)
    curves = evaluate(from_records(truth), from_records(preds), 10, DISTANCES, periods=PERIODS)
    aps = np.array([[average_precision(curve) for curve in row] for row in curves])
    expected = [[results['AP'][name][str(d)] for d in DISTANCES] for name in CLASSES]
    np.testing.assert_allclose(aps, expected, rtol=0, atol=1e-9)
    errors = {}
    for name, row in zip(CLASSES, curves):
        for error in ('trans', 'scale', 'orient', 'vel', 'attr'):
            value = np.nan if error in MEANINGLESS.get(name, ()) else mean_error(row[2], error)
            wanted = results['TP_errors'][name][f'{error}_err']
            assert value == pytest.approx(np.nan if wanted is None else wanted, abs=1e-9, nan_ok=True), (name, error)
            errors.setdefault(error, []).append(value)
    means = {name: np.nanmean(values) for name, values in errors.items()}
    for name, value in means.items():
        assert value == pytest.approx(results['tp_errors_mean'][f'{name}_err'], abs=1e-9)
    assert aps.mean() == pytest.approx(results['mean_ap'], abs=1e-9)
    assert detection_score(aps.mean(), list(means.values())) == pytest.approx(results['nd_score'], abs=1e-9)
    compared = 0
    for c, name in enumerate(CLASSES):
        for t, distance in enumerate(DISTANCES):
            key = f'{name}/{distance:g}'
            if f'{key}/precision' in arrays:
                curve = curves[c][t]
                assert curve.last == arrays[f'{key}/max_recall_ind']
                for what in ('precision', 'confidence'):
                    np.testing.assert_allclose(getattr(curve, what), arrays[f'{key}/{what}'], rtol=0, atol=1e-9)
                for what in curve.errors:
                    np.testing.assert_allclose(curve.errors[what], arrays[f'{key}/{what}_err'], rtol=0, atol=1e-9)
                compared += 1
    assert compared >= 16


def test_people_at_small_distances(golden):
    truth, preds, results, arrays = golden
    people = ('pedestrian',)
    curves = evaluate(from_records(truth, people), from_records(preds, people), 1, (0.25, 0.5, 1.0))[0]
    wanted = results['stcrowd_distances_pedestrian']
    for distance, curve in zip(('0.25', '0.5', '1.0'), curves):
        assert average_precision(curve) == pytest.approx(wanted[distance]['ap'], abs=1e-9)
        assert mean_error(curve, 'trans') == pytest.approx(wanted[distance]['trans_err'], abs=1e-9)
        assert curve.last / 100 == pytest.approx(wanted[distance]['max_recall'], abs=1e-9)
        np.testing.assert_allclose(curve.precision, arrays[f'stcrowd/{float(distance):g}/precision'], atol=1e-9)
    earlier = evaluate(from_records(truth, people), from_records(preds, people), 1, (1.0,), ties='earlier')[0][0]
    assert abs(average_precision(earlier) - average_precision(curves[2])) > 1e-4, 'the order of ties counts here'


def slow_match(pred_centers, pred_groups, centers, groups, threshold):
    """One prediction after the other."""
    taken, result = set(), []
    for center, group in zip(pred_centers, pred_groups):
        best, nearest = -1, np.inf
        for k, (other, of) in enumerate(zip(centers, groups)):
            distance = np.linalg.norm(center - other)
            if of == group and k not in taken and distance < nearest:
                best, nearest = k, distance
        if nearest < threshold:
            taken.add(best)
        result.append(best if nearest < threshold else -1)
    return result


@pytest.mark.parametrize('seed', range(12))
def test_the_matching_of_one_after_the_other(seed, monkeypatch):
    monkeypatch.setattr(detection, 'MAX_PAIRS', 50)  # several parts
    rng = np.random.default_rng(seed)
    dims, width = 2 + seed % 2, (1, 3, 8)[seed % 3]
    pred_centers, centers = (np.round(rng.uniform(0, width, (n, dims)), seed % 4) for n in (90, 60))  # many are equal
    pred_groups, groups = (np.sort(rng.integers(0, 4, n)) * 7 - 3 for n in (90, 60))
    order = rng.permutation(90)
    pred_centers, pred_groups, thresholds = pred_centers[order], pred_groups[order], (0.25, 1.0, 0.5)
    matched = match(pred_centers, pred_groups, centers, groups, thresholds)
    for row, threshold in zip(matched, thresholds):
        assert row.tolist() == slow_match(pred_centers, pred_groups, centers, groups, threshold)


def test_a_long_chain_of_refusals():
    """Each prediction, the better the farther right, likes best the box that the next better one takes."""
    x = np.arange(200.0)
    preds = np.stack([np.concatenate(([-0.4], x[:-1] + 0.6)), np.zeros(200)], 1)
    boxes = np.stack([x, np.zeros(200)], 1)
    zeros = np.zeros(200, np.int64)
    assert match(preds, zeros, boxes, zeros, [1.0])[0].tolist() == slow_match(preds, zeros, boxes, zeros, 1.0)
    crowd = np.zeros((40, 2))
    assert match(crowd, zeros[:40], crowd[:30], zeros[:30], [1.0])[0].tolist() == [*range(30), *[-1] * 10]


def test_nothing_on_one_side():
    empty, some, none = np.zeros((0, 2)), np.ones((3, 2)), np.zeros(0, np.int64)
    ones = np.ones(3, np.int64)
    assert match(empty, none, some, ones, [1.0, 2.0]).shape == (2, 0)
    assert match(some, ones, empty, none, [1.0]).tolist() == [[-1, -1, -1]]
    assert [len(part) for part in near_pairs(some, ones, some, ones + 1, 1.0)] == [0, 0, 0], 'other groups'
    assert match(some * np.nan, ones, some, ones, [1.0]).tolist() == [[-1, -1, -1]]


def test_a_box_at_the_threshold_is_not_found():
    one = np.zeros(1, np.int64)
    assert match(np.array([[0.5, 0]]), one, np.zeros((1, 2)), one, [0.5, 0.500001]).tolist() == [[-1], [0]]


@pytest.mark.parametrize(('ties', 'expected'), [('later', [3, 4, 2, 0, 1]), ('earlier', [3, 0, 2, 4, 1])])
def test_equal_scores(ties, expected):
    assert rank(np.array([0.5, 0.1, 0.5, 0.9, 0.5]), ties).tolist() == expected


def test_bad_scores_and_ties():
    with pytest.raises(DataError, match='1 of 2 scores are NaN'):
        rank(np.array([np.nan, 1]))
    with pytest.raises(ConfigError, match="ties='latest'.*Did you mean later"):
        rank(np.zeros(2), 'latest')


def test_a_curve_by_hand():
    curve = make_curve(np.array([True, False, True, False]), np.array([.9, .8, .7, .6]), 4,
                       dict(trans=np.array([.1, .3]), vel=np.full(2, np.nan), orient=np.array([np.nan, .4])))
    assert curve.recall == 0.5 and curve.last == 50
    assert curve.precision[0] == 1 and curve.precision[25] == 0.5, 'the last of equal recalls counts'
    assert curve.precision[50] == pytest.approx(0.5) and not curve.precision[51:].any()
    assert curve.errors['trans'][50] == pytest.approx(.2) and (curve.errors['vel'] == 1).all()
    assert curve.errors['orient'][0] == 0 and curve.errors['orient'][50] == pytest.approx(.4)
    assert average_precision(curve) == pytest.approx((curve.precision[11:51] - .1).sum() / 90 / .9)


@pytest.mark.parametrize(('found', 'num_boxes', 'recall'), [([], 3, 0.0), ([False, False], 3, 0.0),
                                                            ([False], 0, np.nan), ([], 0, np.nan)])
def test_curves_of_nothing_found(found, num_boxes, recall):
    curve = make_curve(np.array(found, bool), np.linspace(.9, .1, len(found)), num_boxes, dict(trans=np.zeros(0)))
    assert average_precision(curve) == 0 and mean_error(curve, 'trans') == 1
    assert curve.recall == pytest.approx(recall, nan_ok=True)


def test_perfect_detections():
    boxes = np.array([[i, 0, 0, 2, 1, 1.5, 0.1, 0, 1] for i in range(0, 100, 5)], float)
    frames, labels = np.arange(20) // 3, np.zeros(20, np.int64)
    curve = evaluate(Boxes(boxes, frames, labels), Boxes(boxes, frames, labels, np.ones(20)), 1, [0.5])[0][0]
    assert average_precision(curve) == pytest.approx(1) and curve.recall == 1
    assert all(mean_error(curve, name) == 0 for name in ('trans', 'scale', 'orient', 'vel'))


def test_errors_of_boxes():
    box = np.array([[0, 0, 0, 4, 2, 1, 3.0, 1, 0]])
    other = np.array([[3, 4, 9, 2, 2, 2, -3.0, 1, 2]])
    errors = box_errors(box, other)
    assert errors['trans'] == 5 and errors['scale'] == pytest.approx(1 - 4 / 12) and errors['vel'] == 2
    assert errors['orient'] == pytest.approx(2 * np.pi - 6)
    assert box_errors(box, other + [0, 0, 0, 0, 0, 0, 6 - np.pi, 0, 0], np.pi)['orient'] == pytest.approx(0, abs=1e-9)
    assert np.isnan(box_errors(box, other[:, :7])['vel']).all()
    np.testing.assert_array_equal(attribute_errors(np.array([1, 2, -1]), np.array([1, 1, 1])), [0, 1, np.nan])


def test_a_class_that_is_not_there():
    boxes = Boxes(np.zeros((1, 9)), np.zeros(1, np.int64), np.array([3]), np.ones(1))
    with pytest.raises(DataError, match='classes 3 to 3, expected 0 to 1'):
        evaluate(boxes, boxes, 2, [1.0])
