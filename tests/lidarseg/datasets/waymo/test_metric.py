"""The score of Waymo against the official loops."""

import numpy as np
import pytest
import torch

from perception.lidarseg.datasets.base import official_confusion
from perception.lidarseg.datasets.waymo.metric import WaymoMetric, scores
from perception.lidarseg.datasets.waymo.reader import CLASSES
from perception.utils.errors import DataError


def slow_scores(pred: list, true: list) -> tuple[list[float], float]:
    """The official loops, in float32: a prediction outside the classes on a valid point is a miss."""
    ious = []
    for c in range(22):
        hit = sum(p == t == c for p, t in zip(pred, true))
        union = sum(t != 255 and (p == c or t == c) for p, t in zip(pred, true))
        ious.append(np.float32(1) if union == 0 else np.float32(hit) / np.float32(union))
    mean = np.float32(0)
    for iou in ious:
        mean = np.float32(mean + iou)
    return [float(iou) for iou in ious], float(mean / np.float32(22))


def test_the_score_is_the_official_one():
    rng = np.random.default_rng(0)
    ids = np.array([*range(20), 255])  # two classes occur nowhere: they count as 1
    pred, true = rng.choice(ids, (2, 900))
    metric = WaymoMetric()
    for part in (slice(0, 400), slice(400, 900)):
        metric.process(None, [dict(pred_labels=torch.from_numpy(pred[part]), labels=torch.from_numpy(true[part]),
                                   first_len=300)])
    result = metric.evaluate(2)
    iou, miou = slow_scores(pred.tolist(), true.tolist())
    assert [result[f'iou_{name}'] for name in CLASSES] == iou and result['miou'] == miou
    assert iou[20:] == [1.0, 1.0]
    first = np.r_[0:300, 400:700]
    iou, miou = slow_scores(pred[first].tolist(), true[first].tolist())
    assert [result[f'first_iou_{name}'] for name in CLASSES] == iou and result['first_miou'] == miou
    assert next(iter(result)) == 'miou'  # the best weights are those of both returns
    assert result['accuracy'] == pytest.approx((pred == true)[true != 255].mean())


def test_hand_made_cases_of_the_official_test():
    def pair(pred, true):  # car = 0, pedestrian = 6, others absent
        result = scores(official_confusion(np.array(pred), np.array(true), 22))
        return result['iou_car'], result['iou_pedestrian'], result['miou_present']
    assert pair([0, 0, 0, 6], [0, 0, 0, 6]) == (1, 1, 1)
    assert pair([0, 6, 0, 6], [0, 0, 0, 6]) == pytest.approx((2 / 3, .5, .5833), abs=1e-4)
    assert pair([0, 0, 0, 6], [0, 0, 0, 255]) == (1, 1, 1)  # the truth is undefined: nothing counts
    assert pair([0, 0, 0, 255], [0, 0, 0, 6])[:2] == (1, 0)
    assert scores(np.zeros((23, 23), int))['miou'] == 1.0 and scores(np.zeros((23, 23), int))['miou_present'] == 0.0


def test_frames_without_counts_of_returns_are_scored_together():
    metric = WaymoMetric()
    metric.process(None, [dict(pred_labels=torch.tensor([1]), labels=torch.tensor([1]))])
    assert not any(key.startswith('first_') for key in metric.evaluate(1))
    with pytest.raises(DataError, match='WaymoMetric: a scan has no labels, expected'):
        metric.process(None, [dict(pred_labels=torch.tensor([1]))])
    with pytest.raises(DataError, match='2 predictions for 1 labels of x'):
        metric.process(None, [dict(sample_id='x', pred_labels=torch.tensor([1, 2]), labels=torch.tensor([1]))])
