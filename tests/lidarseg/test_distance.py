"""Scores by distance against a loop over points."""
import numpy as np
import pytest
import torch

from perception.lidarseg import distance as module
from perception.lidarseg.datasets.semantickitti.metric import SemanticKITTIMetric
from perception.lidarseg.datasets.semantickitti.reader import CLASSES
from perception.lidarseg.distance import EDGES, DistanceMetric, bin_names, binned_confusion
from perception.utils.errors import ConfigError, DataError

NAMES = ('car', 'road', 'building')


def scan(num=300, seed=0, classes=3, extra=0):
    """A batch of one scan as the data loader and the model give it."""
    rng = np.random.default_rng(seed)
    points = rng.normal(scale=(18, 18, 3, 1), size=(num + extra, 4)).astype(np.float32)
    points[:4, :3] = [[0, 0, 0], [10, 0, 0], [0, -20, 0], [0, 30, 0]][:num]  # on the bounds
    ids = np.array([*range(classes), 255])
    values = dict(pred_labels=torch.from_numpy(rng.choice(ids, num)), labels=torch.from_numpy(rng.choice(ids, num)))
    return dict(inputs=dict(points=[torch.from_numpy(points)])), [dict(values, sample_id=f'08_{seed:06d}')]


def evaluate(scans, names=NAMES, metric=None, **options):
    metric = metric or DistanceMetric(**options)
    metric.dataset_meta = dict(classes=names)
    for data, samples in scans:
        metric.process(data, samples)
    return metric.evaluate(len(scans))


def slow(scans, near, far, classes):
    """IoU by class, their mean and the accuracy by counting points one after another."""
    hit, wrong, missed = ([0] * classes for _ in range(3))
    for data, samples in scans:
        points, pred, true = data['inputs']['points'][0], samples[0]['pred_labels'], samples[0]['labels']
        for (x, y, z), p, t in zip(points[:len(true), :3].double().tolist(), pred.tolist(), true.tolist()):
            if not near < (x * x + y * y + z * z) ** 0.5 < far or t == 255:
                continue
            if p == t:
                hit[t] += 1
            else:
                missed[t] += 1
                if p != 255:
                    wrong[p] += 1
    iou = [h / max(h + w + m, 1e-15) for h, w, m in zip(hit, wrong, missed)]
    return iou, sum(iou) / classes, sum(hit) / max(sum(hit) + sum(wrong), 1e-15)


@pytest.mark.parametrize('edges', [EDGES, (0.0, 5.0, 7.5, 30.0), (10.0, 20.0)], ids=str)
def test_equals_a_loop_over_points(edges):
    scans = [scan(seed=seed, extra=50) for seed in range(3)]  # points of other scans that follow have no labels
    result = evaluate(scans, edges=edges)
    for name, near, far in zip(bin_names(edges), edges, edges[1:]):
        _, miou, accuracy = slow(scans, near, far, 3)
        assert (result[f'distance/miou_{name}'], result[f'distance/accuracy_{name}']) == pytest.approx((miou, accuracy))
        assert miou > 0


def test_points_on_a_bound_are_in_no_bin():
    labels = np.zeros(5, np.int64)
    counts = binned_confusion(labels, labels, np.float32([0, 10, 10.5, 20, 51]), EDGES, 3)
    assert counts.sum(axis=(1, 2)).tolist() == [0, 1, 0, 0, 0]


def test_the_official_total_stays_what_it_is():
    scans = [scan(seed=seed, classes=19) for seed in range(2)]
    alone = evaluate(scans, CLASSES, SemanticKITTIMetric())
    beside = SemanticKITTIMetric()
    evaluate(scans, CLASSES)
    assert evaluate(scans, CLASSES, beside) == alone
    whole = evaluate(scans, CLASSES, edges=(0.0, 1000.0))  # every point but the one at the origin
    assert whole['distance/miou_0-1000m'] == pytest.approx(alone['miou'], abs=0.02)


def test_the_table_has_a_row_for_each_class_and_a_column_for_each_bin(monkeypatch):
    logged = []
    monkeypatch.setattr(module, 'print_log', lambda text, *_: logged.append(text))
    data, samples = scan()
    samples[0]['labels'][samples[0]['labels'] == 2] = 255
    samples[0]['pred_labels'][samples[0]['pred_labels'] == 2] = 255
    evaluate([(data, samples)])
    lines = logged[0].splitlines()
    assert lines[1].split() == ['class', '0-10m', '10-20m', '20-30m', '30-40m', '40-50m']
    assert [line.split()[0] for line in lines[2:]] == ['car', 'road', 'building', 'mIoU', 'mIoU', 'accuracy', 'points']
    assert lines[4].split() == ['building', *'-----']
    assert len({len(line) for line in lines[1:]}) == 1
    data['inputs']['points'][0][:, :3] /= 4  # nothing is left in the last bins
    evaluate([(data, samples)])
    assert all(line.split()[-1] == ('0' if line.startswith('points') else '-') for line in logged[1].splitlines()[2:])


def test_scans_repeated_to_fill_the_last_round_do_not_count():
    scans = [scan(seed=seed) for seed in range(3)]
    metric = DistanceMetric()
    metric.dataset_meta = dict(classes=NAMES)
    for data, samples in [*scans, scans[0]]:
        metric.process(data, samples)
    assert metric.evaluate(3) == evaluate(scans)


@pytest.mark.parametrize('edges', [(10.0,), (0.0, 10.0, 10.0), (20.0, 10.0), (-5.0, 10.0), (0.0, float('nan'))])
def test_edges_must_ascend(edges):
    with pytest.raises(ConfigError, match='expected at least two ascending numbers of metres'):
        DistanceMetric(edges)


def test_bad_samples_are_refused():
    data, samples = scan()
    for change, came in ((dict(labels=None), '08_000000 has no labels'),
                         (dict(labels=torch.zeros(7)), '300 predictions for 7 labels and 300 points of 08_000000')):
        with pytest.raises(DataError, match=came):
            evaluate([(data, [dict(samples[0], **change)])])
    with pytest.raises(ConfigError, match='the data set names no classes'):
        DistanceMetric().process(data, samples)
