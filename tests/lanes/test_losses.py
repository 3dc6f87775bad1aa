"""Against versions with loops over images, classes and pixels, written here."""
import math

import numpy as np
import pytest
import torch

from perception.lanes.losses import existence_loss, soft_iou_loss, weighted_cross_entropy

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


def batch(seed=0, classes=4, size=(3, 5, 6), ignored=0.2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    labels[rng.random(size) < ignored] = 255
    logits = torch.from_numpy(rng.normal(0, 2, (size[0], classes, *size[1:])))
    return logits, torch.from_numpy(labels)


def slow_cross_entropy(logits, labels, weights):
    total = divisor = 0.0
    for b, y, x in np.ndindex(*labels.shape):
        k = int(labels[b, y, x])
        if k != 255:
            scores = [float(v) for v in logits[b, :, y, x]]
            total += weights[k] * (math.log(sum(math.exp(v) for v in scores)) - scores[k])
            divisor += weights[k]
    return total / divisor if divisor else 0.0


def slow_iou_loss(probs, labels):
    losses = []
    for b in range(len(labels)):
        for k in range(1, probs.shape[1]):
            both = predicted = true = 0.0
            for y, x in np.ndindex(*labels.shape[1:]):
                if labels[b, y, x] != 255:
                    p, t = float(probs[b, k, y, x]), float(labels[b, y, x] == k)
                    both, predicted, true = both + p * t, predicted + p, true + t
            if true:
                losses.append(1 - both / (predicted + true - both))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('weights', [[0.4, 1, 1, 1], [1, 0, 3, 0.5]])
def test_cross_entropy_equals_the_slow_one(device, weights):
    logits, labels = batch()
    ours = weighted_cross_entropy(logits.to(device), labels.to(device), torch.tensor(weights, device=device))
    assert float(ours) == pytest.approx(slow_cross_entropy(logits, labels, weights), rel=1e-9)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('seed', [0, 1])
def test_soft_iou_equals_the_slow_one(device, seed):
    logits, labels = batch(seed)
    labels[0][labels[0] == 2] = 0  # a class that one image lacks
    probs = logits.softmax(1)
    ours = soft_iou_loss(probs.to(device), labels.to(device))
    assert float(ours) == pytest.approx(slow_iou_loss(probs, labels), rel=1e-9)


def test_soft_iou_of_known_shapes():
    """A lane of 4 pixels predicted with certainty, shifted by two: 2 common pixels of 6."""
    labels = torch.zeros(1, 1, 8, dtype=torch.int64)
    labels[..., :4] = 1
    probs = torch.zeros(1, 2, 1, 8)
    probs[:, 1, :, 2:6] = 1
    probs[:, 0] = 1 - probs[:, 1]
    assert float(soft_iou_loss(probs, labels)) == pytest.approx(1 - 2 / 6)
    assert float(soft_iou_loss(probs, torch.where(labels == 1, 255, labels))) == 0  # no lane left
    truth = torch.stack([labels == 0, labels == 1], dim=1).float()
    assert float(soft_iou_loss(truth, labels)) == 0


def test_predictions_on_ignored_pixels_do_not_count():
    logits, labels = batch(ignored=0.5)
    other = logits.clone()
    other.movedim(1, -1)[labels == 255] += torch.tensor([5.0, -3, 1, 0])
    weights = torch.ones(4)
    assert torch.equal(weighted_cross_entropy(logits, labels, weights), weighted_cross_entropy(other, labels, weights))
    torch.testing.assert_close(soft_iou_loss(logits.softmax(1), labels), soft_iou_loss(other.softmax(1), labels))


@pytest.mark.parametrize('label', [255, 0])
def test_without_lanes_or_labels_losses_and_gradients_are_finite(label):
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    labels = torch.full((2, 4, 5), label)
    cross_entropy = weighted_cross_entropy(logits, labels, torch.tensor([0.4, 1, 1]))
    iou = soft_iou_loss(logits.softmax(1), labels)
    (cross_entropy + iou).backward()
    assert float(iou.detach()) == 0
    assert (float(cross_entropy.detach()) == 0) == (label == 255)
    assert torch.isfinite(logits.grad).all()
    assert bool(logits.grad.any()) == (label == 0)


def test_losses_pass_gradcheck():
    logits, labels = batch(size=(2, 2, 3))
    logits.requires_grad_()
    weights = torch.tensor([0.4, 1, 1, 1])
    assert torch.autograd.gradcheck(lambda x: weighted_cross_entropy(x, labels, weights), logits)
    assert torch.autograd.gradcheck(lambda x: soft_iou_loss(x.softmax(1), labels), logits)


@pytest.mark.parametrize('device', DEVICES)
def test_half_precision_is_summed_in_float32_under_autocast(device):
    logits, labels = batch(size=(2, 96, 128))
    logits, labels = logits.bfloat16().to(device), labels.to(device)
    weights = torch.tensor([0.4, 1, 1, 1], device=device)
    exact, probs = logits.double(), logits.double().softmax(1)
    with torch.autocast(device, torch.bfloat16):
        cross_entropy = weighted_cross_entropy(logits, labels, weights)
        iou = soft_iou_loss(probs.float(), labels)
        exist = existence_loss(logits[:, :, 0, 0], labels[:, :4, 0] > 1)
    assert cross_entropy.dtype == iou.dtype == exist.dtype == torch.float32
    torch.testing.assert_close(cross_entropy.double(), weighted_cross_entropy(exact, labels, weights), rtol=1e-5,
                               atol=0)
    torch.testing.assert_close(iou.double(), soft_iou_loss(probs, labels), rtol=1e-5, atol=0)


def test_existence_is_the_mean_binary_cross_entropy():
    logits, exist = torch.tensor([[0.0, 2.0], [-1.0, 40.0]]), torch.tensor([[1, 0], [1, 1]])
    expected = [math.log(2), math.log1p(math.exp(2)), math.log1p(math.exp(1)), 0]
    assert float(existence_loss(logits, exist)) == pytest.approx(sum(expected) / 4)
