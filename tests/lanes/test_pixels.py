"""Cross-entropy and IoU of label maps against loops over pixels."""
import numpy as np
import pytest
import torch

from perception.apis.config import load_config, parse_options
from perception.lanes.datasets.culane.metric import scores
from perception.lanes.overlap import ImageResult
from perception.lanes.pixels import LabelMapMetric
from perception.utils.errors import DataError


def samples():
    rng = np.random.default_rng(0)
    probs = torch.from_numpy(rng.dirichlet(np.ones(4), (2, 5, 7))).permute(0, 3, 1, 2).float()
    labels = torch.from_numpy(rng.integers(0, 3, (2, 5, 7)))
    labels[0, 0, :3] = 255
    return [dict(lane_probs=p, labels=y) for p, y in zip(probs, labels)]


def test_sums_over_all_images_come_before_any_ratio():
    metric = LabelMapMetric(background_weight=0.1)
    metric.process(None, samples())
    total = weight = 0.0
    both, union = np.zeros(4), np.zeros(4)
    for sample in samples():
        for y, p in zip(sample['labels'].flatten().tolist(), sample['lane_probs'].flatten(1).T.numpy()):
            if y != 255:
                w, guess = (0.1 if y == 0 else 1.0), int(p.argmax())
                total, weight = total - w * float(np.log(np.float64(p[y]))), weight + w
                both[y] += guess == y
                union[list({y, guess})] += 1
    found = metric.evaluate(2)
    assert found['cross_entropy'] == pytest.approx(total / weight, rel=1e-9)
    assert found['lane_iou'] == pytest.approx((both[1:] / union[1:]).mean())


def test_a_perfect_map_and_images_without_lanes():
    metric = LabelMapMetric()
    probs = torch.eye(3)[:, :, None].repeat(1, 1, 2)
    metric.process(None, [dict(lane_probs=probs, labels=torch.arange(3)[:, None].repeat(1, 2))])
    assert metric.evaluate(1) == dict(cross_entropy=0.0, lane_iou=1.0)
    empty = torch.zeros(3, 4, 4)
    empty[0] = 1
    metric.process(None, [dict(lane_probs=empty, labels=torch.zeros(4, 4, dtype=torch.int64))])
    assert metric.evaluate(1) == dict(cross_entropy=0.0, lane_iou=0.0)


@pytest.mark.parametrize('sample, words', [
    (dict(lane_probs=torch.ones(2, 4, 4)), 'no labels'),
    (dict(lane_probs=torch.ones(2, 4, 4), labels=torch.zeros(4, 5, dtype=torch.int64)), r'labels of \(4, 5\)')])
def test_what_cannot_be_compared_is_said(sample, words):
    with pytest.raises(DataError, match=words):
        LabelMapMetric().process(None, [sample])


@pytest.mark.parametrize('name', ['lanes/erfnet', 'intra_kd/erfnet', 'lanes/pspnet', 'sad/enet'])
def test_comparisons_of_methods_find_their_scores(name):
    evidence = load_config(f'configs/{name}_culane.py', mini=True).evidence
    cfg = load_config(f'configs/{name}_culane.py', mini=True, options=parse_options(evidence.options))
    assert cfg.param_scheduler[0].end == cfg.train_cfg.max_epochs == 2 * cfg.train_cfg.val_interval
    assert [part.type.__name__ for part in cfg.val_evaluator] == ['CULaneMetric', 'LabelMapMetric']
    metric = LabelMapMetric()
    metric.process(None, samples())
    assert set(evidence.scores) <= {*metric.evaluate(2), *scores([ImageResult(1, 1, [0.6])])}
