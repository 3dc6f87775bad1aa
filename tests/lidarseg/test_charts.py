"""What the charts of a test count, against loops; and that they are there."""
import cv2
import numpy as np
import pytest
import torch

from perception.lidarseg import charts
from perception.lidarseg.charts import RINGS, SECTORS, DrawCharts, confusion_chart, count_scan, error_map, iou_chart
from perception.utils.errors import ConfigError, DataError

CLASSES = ('car', 'road', 'building')
PALETTE = ((100, 150, 245), (255, 0, 255), (255, 200, 0))


def scan(num=500, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.normal(scale=(25, 25, 2, 1), size=(num, 4)).astype(np.float32)
    labels, pred_labels = rng.choice([0, 1, 2, 255], (2, num))
    return points, pred_labels, labels


@pytest.mark.parametrize('forward', [0.0, np.pi / 2])
def test_counts_equal_a_loop_over_points(forward):
    points, pred_labels, labels = scan()
    confusion, errors = count_scan(points, pred_labels, labels, 3, forward)
    expected, matrix = np.zeros((2, RINGS, SECTORS), int), np.zeros((4, 4), int)
    for (x, y, *_), p, t in zip(points.astype(np.float64), pred_labels, labels):
        matrix[(p + 1) % 256, (t + 1) % 256] += 1
        ring, turn = int((x * x + y * y) ** 0.5 / 2), (np.arctan2(y, x) - forward + np.pi) % (2 * np.pi)
        if t != 255 and ring < RINGS:
            expected[1, ring, int(turn / np.radians(5))] += 1
            expected[0, ring, int(turn / np.radians(5))] += p != t
    assert (confusion == matrix).all() and (errors == expected).all() and errors[0].sum() > 100


def batch(num, seed=0, extra=0):
    points, pred_labels, labels = scan(num + extra, seed)
    return dict(inputs=dict(points=[torch.from_numpy(points)])), [dict(
        sample_id='a', pred_labels=torch.from_numpy(pred_labels[:num]), labels=torch.from_numpy(labels[:num]))]


def test_a_metric_draws_all_charts_and_scores_nothing(tmp_path, monkeypatch):
    sums, draw = [], charts.draw_charts
    monkeypatch.setattr(charts, 'draw_charts', lambda *args: sums.append(args[1:3]) or draw(*args))
    metric = DrawCharts(tmp_path / 'new')
    metric.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    for seed in range(3):
        metric.process(*batch(200, seed, extra=30))
    assert metric.evaluate(2) == {}  # the third one filled the round of two processes
    assert {p.name for p in (tmp_path / 'new').glob('*.*g')} == {
        f'{name}.{form}' for name in ('confusion', 'error_map', 'iou') for form in ('png', 'svg')}
    assert all(cv2.imread(str(p)) is not None for p in (tmp_path / 'new').glob('*.png'))
    parts = [count_scan(*(values[:200] for values in scan(230, seed)), 3) for seed in range(2)]
    for total, pair in zip(sums[0], zip(*parts)):
        assert (total == pair[0].astype(int) + pair[1]).all()


def test_a_class_that_does_not_occur_has_no_bar():
    points, pred_labels, labels = scan()
    pred_labels[pred_labels == 2], labels[labels == 2] = 0, 255
    axes, = iou_chart(count_scan(points, pred_labels, labels, 3)[0], CLASSES, PALETTE, 1).axes
    assert [bar.get_width() > 0 for bar in axes.patches] == [True, True, False]
    assert axes.texts[2].get_text() == 'does not occur'


def test_unlabelled_has_a_column_only_where_it_is_predicted():
    points, pred_labels, labels = scan()
    with_it = confusion_chart(count_scan(points, pred_labels, labels, 3)[0], CLASSES)
    without = confusion_chart(count_scan(points, pred_labels % 255 % 3, labels, 3)[0], CLASSES)
    names = [[label.get_text() for label in figure.axes[0].get_xticklabels()] for figure in (with_it, without)]
    assert names == [[*CLASSES, 'unlabeled'], list(CLASSES)]


def test_cells_with_few_points_stay_empty():
    errors = np.zeros((2, RINGS, SECTORS), np.int64)
    errors[:, 10] = [[9], [9]]
    empty = error_map(errors, 1).axes[0].collections[0].get_array()
    errors[:, 10] = [[450], [900]]
    full = error_map(errors, 1).axes[0].collections[0].get_array()
    assert empty.mask.all() and (full[10] == 0.5).all() and full.count() == SECTORS


def test_bad_input_is_refused(tmp_path):
    data, samples = batch(20)
    metric = DrawCharts(tmp_path)
    with pytest.raises(ConfigError, match='DrawCharts: the data set describes itself by .* expected classes'):
        metric.process(data, samples)
    metric.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    with pytest.raises(DataError, match='DrawCharts: a has no labels'):
        metric.process(data, [dict(samples[0], labels=None)])
    (tmp_path / 'file').write_text('')
    metric = DrawCharts(tmp_path / 'file')
    metric.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    metric.process(data, samples)
    with pytest.raises(DataError, match=r'iou\.png: .* expected a folder'):
        metric.evaluate(1)
