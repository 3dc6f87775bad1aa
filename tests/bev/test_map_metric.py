"""Map scores against a slow loop, in each protocol; depth errors in bins."""
import numpy as np
import pytest
import torch

from perception.bev.depth_metric import DepthMetric
from perception.bev.map_metric import PRESETS, BEVSegMetric
from perception.utils.errors import ConfigError, DataError

SHAPE = (16, 12)  # Y, X


def samples(num, classes, seed=0, levels=20):
    rng = np.random.default_rng(seed)
    return [dict(sample_id=str(i), pred_map=torch.from_numpy(np.round(rng.random((classes, *SHAPE)) * levels).astype(
        np.float32) / levels), map_labels=torch.from_numpy(rng.random((classes, *SHAPE)) < .3).byte(),
        map_mask=torch.from_numpy(rng.random(SHAPE) < .7)) for i in range(num)]


def run(metric, some):
    metric.process(None, some)
    return metric.compute_metrics(metric.results)


def slow_iou(some, c, threshold, masked=False, ring=None, bounds=(-6, -8, 6, 8)):
    both = either = 0
    for sample in some:
        for row in range(SHAPE[0]):
            for column in range(SHAPE[1]):
                if masked and not sample['map_mask'][row, column]:
                    continue
                x = bounds[0] + (column + .5) * (bounds[2] - bounds[0]) / SHAPE[1]
                y = bounds[1] + (row + .5) * (bounds[3] - bounds[1]) / SHAPE[0]
                if ring and not ring[0] <= np.hypot(x, y) < ring[1]:
                    continue
                pred = bool(sample['pred_map'][c, row, column] >= np.float32(threshold))
                true = bool(sample['map_labels'][c, row, column])
                both, either = both + (pred and true), either + (pred or true)
    return both / either


@pytest.mark.parametrize('preset', list(PRESETS))
def test_equals_a_slow_loop(preset):
    values = PRESETS[preset]
    some = samples(2, len(values['classes']))
    scores = run(BEVSegMetric(preset), some)
    masked = values.get('masked', False)
    ious = {name: [slow_iou(some, c, t, masked) for t in values['thresholds']]
            for c, name in enumerate(values['classes'])}
    if values['mode'] == 'max':
        for name, row in ious.items():
            assert scores[f'IoU_{name}'] == max(row)
        assert scores['mIoU'] == pytest.approx(np.mean([max(row) for row in ious.values()]), abs=1e-15)
    else:
        for k, t in enumerate(values['thresholds']):
            end = f'@{t:.2f}' if len(values['thresholds']) > 1 else ''
            for c, name in enumerate(values['classes']):
                assert scores[f'IoU_{name}{end}'] == ious[name][k]
                if masked:
                    assert scores[f'IoU_{name}{end}_unmasked'] == slow_iou(some, c, t)


def test_rings():
    some = samples(2, 1)
    bounds = (-6, -8, 6, 8)
    scores = run(BEVSegMetric('lss_vehicle', bounds=bounds, rings=(0, 4, 9)), some)
    assert scores['IoU_vehicle_0-4m'] == slow_iou(some, 0, .5, ring=(0, 4))
    assert scores['IoU_vehicle_4-9m'] == slow_iou(some, 0, .5, ring=(4, 9))
    assert scores['IoU_vehicle'] == slow_iou(some, 0, .5)
    with pytest.raises(DataError, match='map_bounds'):
        run(BEVSegMetric('lss_vehicle', bounds=bounds, rings=(0, 4)), [dict(some[0], map_bounds=(-12, -16, 12, 16))])


def test_parts_merge():
    some = samples(5, 6)
    whole, one, other = (BEVSegMetric('bevfusion_map') for _ in range(3))
    one.process(None, some[:2])
    other.process(None, some[2:])
    assert run(whole, some) == whole.compute_metrics([*other.results, *one.results])
    assert one.results[0].dtype == np.int64


def test_perfect_and_absent_classes():
    labels = np.zeros((2, *SHAPE), np.uint8)
    labels[0, 3:5] = 1
    sample = dict(pred_map=labels.astype(np.float32), map_labels=labels)
    scores = run(BEVSegMetric(classes=('road', 'lawn'), thresholds=(.5,)), [sample])
    assert scores['IoU_road'] == 1 and np.isnan(scores['IoU_lawn']) and scores['mIoU'] == 1


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(pred_map=np.zeros((2, *SHAPE))), r'\(2, 16, 12\)'), (dict(pred_map=np.full((1, *SHAPE), np.nan)), 'NaN'),
    (dict(map_preset='lss_vehicle'), "map_preset=lss_vehicle, expected cvt_vehicle_s2"),
    (dict(map_labels=None), 'no map_labels'), (dict(map_mask=np.ones((3, 3))), r'map_mask of shape \(3, 3\)')])
def test_refuses_what_it_cannot_score(changes, message):
    with pytest.raises(DataError, match=message):
        BEVSegMetric('cvt_vehicle_s2').process(None, [dict(samples(1, 1)[0], **changes)])


@pytest.mark.parametrize('arguments', [{}, dict(preset='lss'), dict(preset='lss_vehicle', thresholds=(.5, .4)),
                                       dict(preset='lss_vehicle', mode='best'),
                                       dict(preset='lss_vehicle', rings=(0, 20))])
def test_refuses_impossible_arguments(arguments):
    with pytest.raises(ConfigError, match='BEVSegMetric'):
        BEVSegMetric(**arguments)


def test_depth_errors_in_bins():
    truth = np.array([[[5, 0, 15, 30, 70.0]]])
    pred = np.array([[[6, 9, 12, 30, 60.0]]])
    scores = run(DepthMetric(), [dict(pred_depth=torch.from_numpy(pred), depth=torch.from_numpy(truth))])
    assert scores['abs'] == pytest.approx((1 + 3 + 0 + 10) / 4)
    assert scores['abs_0-10m'] == pytest.approx(1) and scores['rel_0-10m'] == pytest.approx(.2)
    assert scores['rmse_10-20m'] == pytest.approx(3) and scores['abs_20-40m'] == 0
    assert scores['within_1.25'] == pytest.approx(3 / 4) and scores['within_1.25_10-20m'] == 0
    assert np.isnan(scores['abs_40-60m'])
    with pytest.raises(DataError, match='none'):
        DepthMetric().process(None, [dict(depth=torch.ones(1, 2, 2))])
    with pytest.raises(ConfigError, match='ascend'):
        DepthMetric((3, 2))
