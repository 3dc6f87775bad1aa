"""The ApolloScape lane mark score against counting pixel after pixel."""
import numpy as np
import pytest
import torch

from perception.lanes.datasets.apolloscape import metric as apolloscape
from perception.lanes.datasets.apolloscape.metric import CLASSES, ApolloScapeMetric, image_confusion
from perception.lanes.datasets.apolloscape.reader import SCORED
from perception.utils.errors import DataError


def slow_iou(preds, labels):
    """IoU of each scored class, NaN where it never occurs; pixels of other classes are no false positives."""
    pairs = [(36 if p == 255 else p, 36 if t == 255 else t) for pred, label in zip(preds, labels)
             for p, t in zip(pred.ravel().tolist(), label.ravel().tolist())]
    result = {}
    for k in SCORED:
        tp = sum(p == k == t for p, t in pairs)
        fp = sum(p == k and t != k and t in SCORED for p, t in pairs)
        fn = sum(p != k and t == k for p, t in pairs)
        result[k] = tp / (tp + fp + fn) if tp + fp + fn else float('nan')
    return result


@pytest.mark.parametrize('seed', range(4))
def test_scores_equal_counting(seed):
    rng = np.random.default_rng(seed)
    choice = rng.choice([0, 1, 2, 3, 7, 14, 18, 36, 255], (2, 3, 8, 9)).astype(np.uint8)
    preds, labels = choice
    confusion = sum(image_confusion(p, t) for p, t in zip(preds, labels))
    result, expected = apolloscape.scores(confusion), slow_iou(preds, labels)
    for k, value in expected.items():
        assert result[f'iou_{CLASSES[k]}'] == pytest.approx(value, nan_ok=True)
    known = {k: v for k, v in expected.items() if v == v}
    assert set(known) == {0, 1, 2, 7, 18}
    assert result['miou_void'] == pytest.approx(np.mean(list(known.values())))
    assert result['miou'] == pytest.approx(np.mean([v for k, v in known.items() if k]))


def test_eighteen_classes_are_scored():
    assert len(SCORED) == 18
    assert sum(key.startswith('iou_') for key in apolloscape.scores(np.eye(37, dtype=int))) == 18


def sample(**fields):
    labels = np.zeros((27, 34), np.uint8)
    labels[20:, 10:20] = 1
    small = torch.zeros(5, 17, dtype=torch.int64)
    small[1:, 5:10] = 1
    return {**dict(sample_id='a', full_labels=torch.from_numpy(labels), pred_labels=small, crop_top=17), **fields}


def test_metric_works_at_the_original_size():
    metric = ApolloScapeMetric()
    metric.process(None, [sample(), sample()])
    result = metric.evaluate(2)
    assert set(result) == {'miou', 'miou_void', 'iou_void', 'iou_s_w_d'}
    assert result['iou_s_w_d'] == pytest.approx(70 / 80) and result['iou_void'] == pytest.approx(838 / 848)
    assert result['miou'] == result['iou_s_w_d']
    table = apolloscape.score_table(image_confusion(*np.zeros((2, 3, 3), int)))
    assert 'void' in table and 's_y_d' not in table


def test_bad_input():
    for key in ('full_labels', 'pred_labels'):
        with pytest.raises(DataError, match=f'a has no {key}'):
            ApolloScapeMetric().process(None, [sample(**{key: None})])
    with pytest.raises(DataError, match='expected equal sizes'):
        image_confusion(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(DataError, match='expected 0..36'):
        image_confusion(np.full((2, 3), 40), np.zeros((2, 3), int))
