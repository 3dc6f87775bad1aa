"""The three scores of LLAMAS against the official scripts' numbers and slow implementations."""
import json

import numpy as np
import pytest
import torch

from perception.common.formats.images import read_label_image
from perception.lanes.datasets.culane.reader import read_lanes
from perception.lanes.datasets.llamas import metric as llamas
from perception.lanes.datasets.llamas.metric import (
    LLAMASMetric,
    column_distance,
    compare_lanes,
    lane_columns,
    precision_recall,
)
from perception.lanes.datasets.llamas.reader import SIZE, SLOTS
from perception.lanes.overlap import count
from perception.utils.errors import ConfigError, DataError

EMPTY = np.zeros((0, 2))


@pytest.fixture(scope='module')
def folder(shared):
    return shared / 'goldens/llamas_eval'


@pytest.fixture(scope='module')
def golden(folder):
    return json.loads((folder / 'results.json').read_text())


@pytest.fixture(scope='module')
def columns(folder):
    arrays = np.load(folder / 'spline_x.npz')
    return dict(zip(arrays['keys'].tolist(), arrays['x']))


def lane(u, slope=0.0, first=300, last=716):
    v = np.arange(last, first - 1, -1, dtype=float)
    return np.stack([u + slope * (716 - v), v], axis=1)


def points(values):
    rows = np.flatnonzero(values >= 0)[::-1]
    return np.stack([values[rows], rows], axis=1)


def test_f1_of_the_golden(folder, golden, columns):
    results = []
    for key, expected in golden['culane_f1']['per_image'].items():
        preds = read_lanes(folder / 'lanes/valid' / key.replace('.json', '.lines.txt'))
        result, iou = compare_lanes([points(values) for values in columns[key]], preds)
        np.testing.assert_allclose(iou, expected['iou_pred_by_anno'], atol=1e-8)
        counts = count([result])
        assert (counts.tp, counts.fp, counts.fn) == (expected['tp'], expected['fp'], expected['fn'])
        results.append(result)
    counts, overall = count(results), golden['culane_f1']['overall']
    assert [counts.tp, counts.fp, counts.fn, counts.precision, counts.recall, counts.f1] == pytest.approx(
        [overall[key] for key in ('TP', 'FP', 'FN', 'Precision', 'Recall', 'F1')])


def test_regression_of_the_golden(folder, golden, columns):
    preds, found = json.loads((folder / 'regression.json').read_text()), {}
    for key, expected in golden['lane_regression']['per_image'].items():
        found[key] = column_distance(columns[key], np.array([preds[key][slot][-417:] for slot in SLOTS]))
        np.testing.assert_allclose(found[key], [np.nan if expected[s] is None else expected[s] for s in SLOTS],
                                   rtol=1e-9)
    result = llamas.scores([llamas.ImageScores(None, values, None) for values in found.values()])
    assert result['distance'] == pytest.approx(golden['lane_regression']['mean'], rel=1e-9)
    for slot, value in golden['lane_regression']['per_lane'].items():
        assert result[f'distance_{slot}'] == pytest.approx(value, rel=1e-9)


def test_segmentation_of_the_golden(folder, golden):
    golden = golden['segmentation']
    areas = []
    for key, expected in golden['multi_per_image'].items():
        arrays = np.load(folder / 'seg' / key.replace('.json', '.json_label.npz'))
        multi = np.unpackbits(arrays['multi'])[:np.prod(SIZE) * 5].reshape(*SIZE, 5).astype(bool)
        curves = [precision_recall(read_label_image(folder / 'seg' / f'{key}_{k}.png'), multi[..., k])
                  for k in range(5)]
        areas.append([curve.auc for curve in curves])
        for k, curve in enumerate(curves):
            assert curve._asdict() == pytest.approx(expected[str(k)], abs=1e-9), (key, k)
        binary = precision_recall(read_label_image(folder / 'seg' / f'{key}_1.png'), arrays['binary'] > 0)
        assert binary._asdict() == pytest.approx(golden['binary_per_image_using_file_1'][key]['1'], abs=1e-9)
    result = llamas.scores([llamas.ImageScores(None, None, values) for values in areas])
    assert result['map'] == pytest.approx(golden['lane_class_mAP'], abs=1e-9)
    for k, name in enumerate(('background', *SLOTS)):
        assert result[f'auc_{name}'] == pytest.approx(golden['multi_mean'][str(k)]['auc'], abs=1e-9)


@pytest.mark.parametrize('seed', range(5))
def test_curves_equal_a_slow_implementation(seed):
    rng = np.random.default_rng(seed)
    grey, labels = rng.integers(0, 256, (9, 11)).astype(np.uint8), rng.uniform(size=(9, 11)) < (.3 if seed else 0)
    area, last = 0.0, (1.0, 0.0)
    for percent in range(100, -1, -1):
        chosen = grey / 255 >= percent / 100
        hits = (chosen & labels).sum()
        precision = hits / chosen.sum() if chosen.any() else 0.0
        recall = hits / labels.sum() if labels.any() else 0.0
        area += (recall - last[1]) * last[0]
        last = (precision, recall)
    assert precision_recall(grey, labels).auc == pytest.approx(area, abs=1e-12)


def test_lanes_that_are_no_lanes_do_not_count():
    result, iou = compare_lanes([EMPTY, lane(400), EMPTY, lane(800, last=310)], [EMPTY, lane(400), lane(5)[:1], EMPTY])
    assert (result.num_lanes, result.num_preds) == (2, 1) and iou.shape == (1, 2)
    assert result.ious[0] > .95  # coordinates are truncated, so even an exact lane may lie a pixel beside
    assert compare_lanes([EMPTY] * 4, [EMPTY] * 4)[0].ious == []


def test_columns_of_lanes():
    lanes = [EMPTY, np.array([[400., 700], [300, 500]]), EMPTY, lane(800)]
    found = lane_columns(lanes)
    assert found.shape == (4, 717) and (found[[0, 2]] == -1).all()
    assert (found[1, 700], found[1, 600], found[1, 500]) == (400, -1, 300) and (found[1, 701:] == -1).all()
    full = lane_columns(lanes, extend=True)
    assert (full >= 0).all() and full[1, [716, 600, 0]].tolist() == [400, 350, 300] and full[0, 5] == SIZE[1] / 2
    with pytest.raises(DataError, match='3 lanes, expected those of l1, l0, r0, r1'):
        lane_columns(lanes[:3])


def sample():
    labels = np.zeros(SIZE, np.uint8)
    labels[400:700, 300:340] = 2
    lanes = [EMPTY, lane(500, -.3), lane(700, .3), EMPTY]
    probs = torch.from_numpy(np.eye(5, dtype=np.float32)[labels]).permute(2, 0, 1)
    return dict(sample_id='r/1', lanes=lanes, pred_lanes=lanes, lane_probs=probs, full_labels=torch.from_numpy(labels))


def test_metric():
    metric = LLAMASMetric()
    metric.process(None, [sample()] * 2)
    result = metric.evaluate(2)
    assert result['f1'] == 1 and result['distance'] == pytest.approx(0, abs=1e-9)
    assert result['auc_l0'] == pytest.approx(1) and result['auc_l1'] == 0 and result['map'] == pytest.approx(.25)
    metric = LLAMASMetric(parts=('f1',))
    metric.process(None, [{**sample(), 'lane_probs': None, 'pred_lanes': [EMPTY] * 4}])
    assert metric.evaluate(1) == dict(f1=0, precision=0, recall=0)


@pytest.mark.parametrize('scale', [1, .5])
def test_truth_is_not_rounded_before_it_is_cut_off(scale):
    """Of a scaled image it is as it was before, so that no column falls below a whole number."""
    true, pred = [[EMPTY, lane(u), EMPTY, EMPTY] for u in (99.9996, 100.)]
    found = dict(sample(), original_shape=tuple(round(n * scale) for n in (720, 1280)), label_shape=(720, 1280),
                 lanes=[one * scale for one in true], pred_lanes=[one * scale for one in pred])
    metric = LLAMASMetric(parts=('f1',))
    metric.process(None, [found])
    (iou,), = [result.lanes.ious for result in metric.results]
    assert iou == compare_lanes(true, pred)[0].ious[0] != compare_lanes(pred, pred)[0].ious[0]


def test_bad_input():
    with pytest.raises(ConfigError, match='expected some of f1'):
        LLAMASMetric(parts=('f2',))
    for key in ('lanes', 'pred_lanes', 'lane_probs', 'full_labels'):
        with pytest.raises(DataError, match=f'r/1 has no {key}'):
            LLAMASMetric().process(None, [{**sample(), key: None}])
    with pytest.raises(DataError, match='no spline through a predicted lane'):
        compare_lanes([lane(5)], [np.array([[5., 400]] * 4)])
