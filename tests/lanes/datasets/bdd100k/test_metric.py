"""The scores of BDD100K against slow implementations and hand-made cases."""
import numpy as np
import pytest
import torch

from perception.lanes.datasets.bdd100k import metric as bdd100k
from perception.lanes.datasets.bdd100k.metric import BDD100KMetric, BDD100KOfficialMetric, boundary_f, mask_scores
from perception.utils.errors import DataError

SIZE = (72, 128)


def stripe(left, width, size=SIZE):
    mask = np.zeros(size, bool)
    mask[20:, left:left + width] = True
    return mask


def one_hot(mask):
    return torch.stack([torch.from_numpy(~mask), torch.from_numpy(mask)]).float()


def sample(pred, true, **fields):
    labels = torch.from_numpy(true.astype(np.uint8))
    return dict(sample_id='val/a', lane_probs=one_hot(pred), full_labels=labels, **fields)


def evaluate(images, kind=BDD100KMetric, **options):
    metric = kind(**options)
    metric.process(None, images)
    return metric.evaluate(len(images))


def test_wide_predictions_of_thin_lines():
    assert evaluate([sample(stripe(40, 8), stripe(43, 2))]) == dict(accuracy=1, iou=.25)


def test_images_without_lane_stay_in_the_mean():
    nothing = np.zeros(SIZE, bool)
    images = [sample(stripe(40, 8), stripe(43, 2)), sample(nothing, nothing), sample(stripe(4, 2), nothing),
              sample(nothing, stripe(4, 2))]
    assert evaluate(images) == dict(accuracy=.25, iou=.0625)


@pytest.mark.parametrize('seed', range(5))
def test_pixel_counts(seed):
    rng = np.random.default_rng(seed)
    pred, true = rng.uniform(size=(2, 7, 9)) < .4
    pairs = list(zip(pred.ravel().tolist(), true.ravel().tolist()))
    tp, fp, fn = (pairs.count(x) for x in ((True, True), (True, False), (False, True)))
    found = bdd100k.lane_scores(torch.from_numpy(pred), torch.from_numpy(true))
    assert found == pytest.approx((tp / (tp + fn), tp / (tp + fp + fn)))


def test_small_predictions_are_enlarged():
    true = np.zeros(SIZE, np.uint8)
    true[12 + 30:, 64:] = 1
    half = torch.zeros(2, 30, 64)
    half[0], half[1, 15:, 32:] = .5, 1
    image = dict(sample_id='a', lane_probs=half, full_labels=torch.from_numpy(true), crop_top=12)
    assert evaluate([image])['iou'] > .95
    labels = dict(image, lane_probs=None, pred_labels=half.argmax(dim=0))
    assert evaluate([labels]) == dict(accuracy=1, iou=1)
    with pytest.raises(DataError, match='a has no pred_labels'):
        evaluate([dict(image, lane_probs=None)])
    with pytest.raises(DataError, match='a has no full_labels'):
        evaluate([dict(image, full_labels=None)])


def slow_f(pred, true, radius):
    """A pixel after another, each looking for the nearest line of the other image."""
    pred, true = (np.argwhere(x) for x in (pred, true))
    if not len(pred) or not len(true):
        return float(len(pred) == len(true))
    near = ((pred[:, None] - true) ** 2).sum(axis=2) <= radius ** 2
    precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize('radius', bdd100k.RADII)
@pytest.mark.parametrize('share', [0, .02, .2])
def test_boundary_scores(radius, share):
    rng = np.random.default_rng(radius)
    pred, true = (rng.uniform(size=(20, 30)) < s for s in (share, .03))
    assert boundary_f(pred, true, radius) == pytest.approx(slow_f(pred, true, radius))
    assert boundary_f(true & False, pred & False, radius) == 1


def test_masks_are_scored_per_class():
    true = np.full(SIZE, 8, np.uint8)
    true[:, 30] = 6  # solid single white line along the road
    true[:, 60] = 16 + 32 + 1  # dashed, across, double other
    pred = true.copy()
    pred[:, 60] = 8
    pred[:, 63] = 16 + 32 + 1
    found = mask_scores(pred, true)
    assert found.shape == (12, 3)
    missed = [1, 9, 11]  # double other, vertical, dashed
    assert (found[missed] == [0, 0, 1]).all() and (np.delete(found, missed, axis=0) == 1).all()
    result = bdd100k.official_scores([found, np.ones((12, 3))])
    assert (result['f5'], result['f1_category'], result['f1_style']) == (1, 1 - .5 / 8, .75)
    assert result['f1'] == pytest.approx((1 - .5 / 8 + .75 + .75) / 3)


def test_official_metric():
    true = np.full(SIZE, 255, np.uint8)
    true[20:, 43] = 6
    result = evaluate([sample(stripe(40, 7), true > 300) | dict(full_labels=torch.from_numpy(true))],
                      BDD100KOfficialMetric)
    assert result['f5'] == 1 and .9 < result['f1'] <= 1
    with pytest.raises(DataError, match='class 1 in a prediction, expected 0..0'):
        evaluate([sample(stripe(40, 7), true > 300)], BDD100KOfficialMetric, codes=())
