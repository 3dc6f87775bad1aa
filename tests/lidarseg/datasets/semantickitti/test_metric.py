"""The official SemanticKITTI score against the official tool's numbers and a loop over points."""
import json
import shutil

import numpy as np
import pytest
import torch

from perception.apis.test import test as run_test
from perception.common.formats.kitti import read_labels, write_labels
from perception.common.metrics import confusion as module
from perception.lidarseg.datasets.base import official_confusion, score_table, scores
from perception.lidarseg.datasets.semantickitti.metric import SemanticKITTIMetric, evaluate_folders
from perception.lidarseg.datasets.semantickitti.reader import CLASSES, learning_map, to_train_ids
from perception.utils.errors import DataError

NAMES = dict(accuracy_mean='accuracy', iou_mean='miou')


@pytest.fixture(scope='module')
def golden(shared):
    return json.loads((shared / 'goldens/lidarseg/semantickitti_eval_A.json').read_text())


@pytest.fixture(scope='module')
def folder(shared):
    return shared / 'goldens/lidarseg/semantickitti_eval_A'


def slow_scores(preds, labels, num_classes):
    """IoU and accuracy by counting points one after another."""
    tp, fp, fn = ([0] * num_classes for _ in range(3))
    for p, t in zip(np.concatenate(preds).tolist(), np.concatenate(labels).tolist()):
        if t == 255:
            continue
        if p == t:
            tp[t] += 1
            continue
        fn[t] += 1
        if p != 255:
            fp[p] += 1
    iou = [a / (a + b + c + 1e-15) for a, b, c in zip(tp, fp, fn)]
    return iou, sum(iou) / num_classes, sum(tp) / (sum(tp) + sum(fp) + 1e-15)


def scan(pred, true, sample_id='08_000000'):
    return dict(pred_labels=torch.tensor(pred, dtype=torch.int64), labels=torch.tensor(true, dtype=torch.int64),
                sample_id=sample_id)


def evaluate(scans, **options):
    metric = SemanticKITTIMetric(**options)
    for sample in scans:
        metric.process(None, [sample])
    return metric.evaluate(len(scans))


# --- the official tool's numbers -------------------------------------------------------------------------------------
@pytest.mark.parametrize('case, options', [('single', {}), ('single_torch_backend', {}), ('all', dict(multi=True)),
                                           ('single_limit_2000', dict(limit=2000))])
def test_folders_score_as_with_the_official_tool(golden, folder, case, options):
    result, _ = evaluate_folders(folder / 'dataset', folder / 'preds', **options)
    expected = {NAMES.get(name, name): value for name, value in golden['cases'][case]['scores'].items()}
    assert len(expected) == (27 if case == 'all' else 21)
    assert {name: result[name] for name in expected} == expected  # to the last digit


@pytest.mark.parametrize('case, multi', [('single_full', False), ('all_full', True)])
def test_confusion_matrix_equals_the_official_one(golden, folder, case, multi):
    _, confusion = evaluate_folders(folder / 'dataset', folder / 'preds', multi=multi)
    assert confusion.tolist() == golden[case]['confusion_rows_pred_cols_gt']


def official_scans(folder, replace=()):
    """The golden's scans as samples of the reader, with raw ids replaced in labels and predictions."""
    for path in sorted((folder / 'dataset/sequences/08/labels').glob('*.label')):
        raws = [read_labels(path), read_labels(folder / 'preds/sequences/08/predictions' / path.name)]
        raws = [np.where(np.isin(raw & 0xFFFF, replace), 10, raw).astype(np.uint32) for raw in raws]
        true, pred = (to_train_ids(raw, path, strict=False) for raw in raws)
        yield scan(pred.tolist(), true.tolist(), f'08_{path.stem}')


def test_metric_of_a_run_equals_the_official_tool(golden, folder):
    result = evaluate(list(official_scans(folder)))
    full = golden['single_full']
    assert (result['miou'], result['accuracy']) == (full['miou'], full['acc'])
    assert [result[f'iou_{name}'] for name in CLASSES] == full['iou'][1:]


def test_an_absent_class_counts_as_zero_and_is_left_out_of_the_mean_over_present_ones(golden, folder):
    result = evaluate(list(official_scans(folder, replace=(32, 255))))
    expected = golden['absent_class_motorcyclist']
    assert (result['miou'], result['accuracy']) == (expected['miou'], expected['acc'])
    assert [result[f'iou_{name}'] for name in CLASSES] == expected['iou'][1:]
    assert result['iou_motorcyclist'] == 0
    assert result['miou_present'] == pytest.approx(expected['miou'] * 19 / 18)


def test_input_that_stops_the_official_tool_is_refused(folder, tmp_path):
    shutil.copytree(folder / 'preds', tmp_path, dirs_exist_ok=True)
    path = tmp_path / 'sequences/08/predictions/000001.label'
    labels = read_labels(path).copy()
    write_labels(path, labels[:-1])
    with pytest.raises(DataError, match=r'000001\.label: 2,999 labels for 3,000 points'):
        evaluate_folders(folder / 'dataset', tmp_path)
    labels[0] = 400
    write_labels(path, labels)
    with pytest.raises(DataError, match=r'000001\.label: unknown raw label 400'):
        evaluate_folders(folder / 'dataset', tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r'000001\.label: no such file \(3 predictions, 4 labels\)'):
        evaluate_folders(folder / 'dataset', tmp_path)
    with pytest.raises(DataError, match='09/labels: no label file'):
        evaluate_folders(folder / 'dataset', tmp_path, sequences=[9])


# --- independent of the goldens --------------------------------------------------------------------------------------
@pytest.mark.parametrize('multi', [False, True])
def test_equals_a_loop_over_points(multi):
    rng = np.random.default_rng(0)
    ids = np.array([*range(25 if multi else 19), 255])
    preds, labels = rng.choice(ids, (2, 3, 400))
    result = evaluate([scan(p.tolist(), t.tolist()) for p, t in zip(preds, labels)], multi=multi)
    iou, miou, accuracy = slow_scores(preds, labels, len(ids) - 1)
    assert [v for k, v in result.items() if k.startswith('iou_')] == pytest.approx(iou, abs=1e-15)
    assert (result['miou'], result['accuracy']) == pytest.approx((miou, accuracy), abs=1e-15)
    assert next(iter(result)) == 'miou'  # what the best weights are chosen by


def test_perfect_ignored_and_empty_scans():
    everything = list(range(19))
    assert evaluate([scan(everything, everything)])['miou'] == pytest.approx(1)
    for nothing in (scan([], []), scan([3, 4], [255, 255])):
        result = evaluate([nothing])
        assert result['miou'] == result['accuracy'] == result['miou_present'] == 0
    both = evaluate([scan(everything, everything), scan([], []), scan([0], [255])])
    assert both['miou'] == pytest.approx(1) and both['accuracy'] == pytest.approx(1)


def test_predicting_unlabelled_is_a_miss_but_no_error_of_the_accuracy():
    result = evaluate([scan([0, 255, 8], [0, 0, 8])])
    assert result['iou_car'] == pytest.approx(0.5) and result['iou_road'] == pytest.approx(1)
    assert result['accuracy'] == pytest.approx(1)
    assert result['miou_present'] == pytest.approx(0.75)


def test_dtypes_do_not_matter():
    pred, true = np.array([0, 18, 255, 5]), np.array([255, 18, 3, 5])
    expected = official_confusion(pred, true, 19)
    assert expected[1, 0] == expected[19, 19] == expected[0, 4] == expected[6, 6] == 1 and expected.sum() == 4
    for dtype in (np.uint8, np.int16, np.int32):
        np.testing.assert_array_equal(official_confusion(pred.astype(dtype), true.astype(dtype), 19), expected)


def test_scans_repeated_to_fill_the_last_round_do_not_count():
    scans = [scan([0, 1], [0, 0]), scan([2], [2]), scan([8, 8], [8, 2])]
    metric = SemanticKITTIMetric()
    for sample in [*scans, scans[0]]:  # as samplers of two processes deal three scans
        metric.process(None, [sample])
    assert metric.evaluate(3) == evaluate(scans)
    assert metric.results == []  # ready for the next validation


def test_counts_of_processes_add_up():
    rng = np.random.default_rng(1)
    scans = [scan(*rng.integers(0, 19, (2, 50)).tolist()) for _ in range(5)]
    parts = [SemanticKITTIMetric() for _ in range(2)]
    for i, sample in enumerate(scans):
        parts[i % 2].process(None, [sample])
    merged = parts[0].results + parts[1].results
    assert SemanticKITTIMetric().compute_metrics(merged) == evaluate(scans)


def test_table_has_the_official_names_and_both_means(monkeypatch):
    logged = []
    monkeypatch.setattr(module, 'print_log', lambda text, *_: logged.append(text))
    result = evaluate([scan([0, 8], [0, 8])])
    assert len(logged) == 1
    for text in (*CLASSES, 'mIoU', 'mIoU of 2 present', 'accuracy'):
        assert f'\n{text} ' in logged[0]
    confusion = official_confusion(np.array([0]), np.array([0]), 19)
    row = next(line for line in score_table(scores(confusion, CLASSES), confusion, CLASSES).splitlines()
               if line.startswith('car'))
    assert row.split() == ['car', '100.00', '1']
    assert result['miou'] == pytest.approx(2 / 19)


@pytest.mark.parametrize('sample, message', [
    (dict(pred_labels=torch.zeros(3).long(), sample_id='08_000000'), '08_000000 has no labels, expected'),
    (dict(labels=torch.zeros(3).long()), 'a scan has no pred_labels'),
    (scan([0, 1], [0]), '2 predictions for 1 labels of 08_000000'),
    (scan([19], [0]), 'predictions from 20 to 20, expected 0..19'),
    (scan([-1], [0]), 'predictions from -1 to -1')])
def test_bad_samples_are_refused(sample, message):
    with pytest.raises(DataError, match=message):
        SemanticKITTIMetric().process(None, [sample])


def test_multi_scan_labels_need_the_multi_scan_metric():
    moving = to_train_ids(np.array([252], np.uint32), 'x', table=learning_map(multi=True))
    assert evaluate([scan(moving.tolist(), moving.tolist())], multi=True)['iou_moving-car'] == pytest.approx(1)
    with pytest.raises(DataError, match='expected 0..19'):
        evaluate([scan(moving.tolist(), moving.tolist())])


def test_files_of_anybody_are_scored_without_a_net(golden, folder, root, tmp_path):
    for path in (folder / 'dataset/sequences/08/labels').glob('*.label'):
        for name, data in ((f'labels/{path.name}', path.read_bytes()),
                           (f'velodyne/{path.stem}.bin', bytes(4 * path.stat().st_size))):
            (tmp_path / 'sequences/08' / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / 'sequences/08' / name).write_bytes(data)
    options = {'work_dir': str(tmp_path / 'w'), 'test_dataloader.num_workers': 0,
               'test_dataloader.dataset.data_root': str(tmp_path)}
    config = root / 'configs/lidarseg/minkunet_half_kitti.py'
    scores = run_test(config, predictions=folder / 'preds', options=options)
    full = golden['single_full']
    assert (scores['miou'], scores['accuracy']) == pytest.approx((full['miou'], full['acc']), abs=1e-12)
    with pytest.raises(DataError, match=r'no results of 08_000000 \(the first there are of sequences/08/labels/'):
        run_test(config, predictions=tmp_path, options=options)
