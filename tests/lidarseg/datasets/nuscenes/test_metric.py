"""The official evaluation of nuScenes-lidarseg, against the development kit and goldens."""
import json

import numpy as np
import pytest
import torch

from perception.common.nuscenes.tables import CATEGORIES
from perception.lidarseg.datasets.nuscenes.metric import (
    NuScenesLidarSegMetric,
    evaluate_results,
    official_confusion,
    scores,
)
from perception.lidarseg.datasets.nuscenes.reader import (
    CLASSES,
    NuScenesLidarSeg,
    learning_map,
    to_official_ids,
    to_train_ids,
)
from perception.lidarseg.datasets.nuscenes.submission import NuScenesLidarSegResults
from perception.utils.errors import DataError

KIT = pytest.importorskip('nuscenes.eval.lidarseg.utils', reason='nuscenes-devkit is not installed')


@pytest.mark.parametrize(('case', 'from_gt', 'from_pred'), [
    ('three_scans_ignore0', {}, {}), ('classes_5_9_absent', {5: 7, 9: 7}, {5: 7, 9: 7}),
    ('class_5_only_predicted', {5: 7}, {})])
def test_scores_equal_the_official_evaluation(shared, case, from_gt, from_pred):
    folder = shared / 'goldens/lidarseg'
    golden = json.loads((folder / 'nuscenes_lidarseg_eval_A.json').read_text())['cases'][case]
    arrays = np.load(folder / 'nuscenes_lidarseg_eval_A.npz')
    table = learning_map(dict(enumerate(CATEGORIES)), 'category.json')
    metric = NuScenesLidarSegMetric()
    for i in range(3):
        gt = to_train_ids(arrays[f'fine{i}'], table, 'fine')
        assert np.array_equal(np.where(gt == 255, 0, gt + 1), arrays[f'gt{i}'])
        gt, pred = gt.astype(int), arrays[f'pred{i}'].astype(int) - 1
        for old, new in from_gt.items():
            gt[gt == old - 1] = new - 1
        for old, new in from_pred.items():
            pred[pred == old - 1] = new - 1
        metric.process(None, [dict(labels=torch.tensor(gt), pred_labels=torch.tensor(pred))])
    assert np.sum(metric.results, axis=0).tolist() == golden['confusion_rows_gt_cols_pred']
    result = metric.compute_metrics(metric.results)
    assert result['miou'] == golden['miou']
    assert result['fwiou'] == golden['fwiou']
    for name, expected in zip(CLASSES, golden['iou'][1:]):
        assert (np.isnan(result[f'iou_{name}']) and expected is None) or result[f'iou_{name}'] == expected


def test_scores_against_a_slow_count():
    rng = np.random.default_rng(1)
    pred, labels = rng.integers(0, 16, 500), rng.integers(0, 17, 500)
    labels[labels == 16] = 255
    pred[labels == 3] = 3
    result = scores(official_confusion(pred, labels))
    for c, name in enumerate(CLASSES):
        counted = [(p, t) for p, t in zip(pred, labels) if t != 255]
        hit = sum(p == t == c for p, t in counted)
        union = sum(p == c or t == c for p, t in counted)
        assert result[f'iou_{name}'] == pytest.approx(hit / union)
    assert result['iou_car'] < 1     # others are taken for cars


def test_nothing_counted_gives_nan_and_bad_predictions_are_refused():
    empty = scores(official_confusion(np.array([3]), np.array([255])))
    assert np.isnan(empty['miou'])
    assert np.isnan(empty['fwiou'])
    for bad in (16, 255, -1):
        with pytest.raises(DataError, match=f'predicted class {bad} at 1 points'):
            official_confusion(np.array([3, bad]), np.array([3, 3]))
    with pytest.raises(DataError, match='expected train ids 0..15'):
        to_official_ids(np.array([255]), 'x')
    metric = NuScenesLidarSegMetric()
    with pytest.raises(DataError, match='has no pred_labels'):
        metric.process(None, [dict(labels=torch.zeros(3))])
    with pytest.raises(DataError, match='3 predictions for 4 labels'):
        metric.process(None, [dict(labels=torch.zeros(4).long(), pred_labels=torch.zeros(3).long())])


def test_the_development_kit_scores_a_folder_alike(mini_nuscenes, tmp_path):
    from nuscenes import NuScenes
    from nuscenes.eval.lidarseg.evaluate import LidarSegEval
    rng = np.random.default_rng(0)
    data = NuScenesLidarSeg(mini_nuscenes, 'mini_val')
    metric = NuScenesLidarSegMetric()
    folder = tmp_path / 'lidarseg/mini_val'
    folder.mkdir(parents=True)
    for i in range(len(data)):
        sample = data[i]['data_samples']
        pred = torch.from_numpy(rng.integers(0, 16, len(sample.labels)))
        known = (sample.labels < 16) & (torch.from_numpy(rng.random(len(pred))) < .6)
        pred[known] = sample.labels[known]
        metric.process(None, [dict(labels=sample.labels, pred_labels=pred)])
        to_official_ids(pred.numpy(), 'x').tofile(folder / f'{sample.sample_id}_lidarseg.bin')
    official = LidarSegEval(NuScenes('v1.0-mini', str(mini_nuscenes), verbose=False), str(tmp_path),
                            'mini_val').evaluate()
    ours = metric.compute_metrics(metric.results)
    again, _ = evaluate_results(mini_nuscenes, tmp_path, 'mini_val')
    assert again == pytest.approx(ours, abs=0, nan_ok=True)
    assert ours['miou'] == official['miou']
    assert ours['fwiou'] == official['freq_weighted_iou']
    for name in CLASSES:
        assert ours[f'iou_{name}'] == pytest.approx(official['iou_per_class'][name], abs=0, nan_ok=True)
    stored, scored = NuScenesLidarSegResults(tmp_path), NuScenesLidarSegMetric()  # --predictions FOLDER
    stored.check(len(data))
    for i in range(len(data)):
        scored.process(None, [stored.test_step(dict(data_samples=[data[i]['data_samples']]))[0].to_dict()])
    assert scored.compute_metrics(scored.results) == pytest.approx(ours, abs=0, nan_ok=True)
    for wrong, words in ((np.zeros(3, 'u1'), 'labels'), (np.zeros(len(data[0]['data_samples'].labels), 'u1'), '0')):
        wrong.tofile(folder / f'{data.frames[0].token}_lidarseg.bin')
        with pytest.raises(DataError, match=words):
            scored.process(None, [stored.test_step(dict(data_samples=[data[0]['data_samples']]))[0].to_dict()])
    with pytest.raises(DataError, match='no labels for'):
        evaluate_results(mini_nuscenes, tmp_path, 'test')
    (folder / f'{data.frames[0].token}_lidarseg.bin').unlink()
    with pytest.raises(DataError, match='No such file'):
        evaluate_results(mini_nuscenes, tmp_path, 'mini_val')
