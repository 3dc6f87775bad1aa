"""Lovasz-softmax against its definition by sets, and against the reference's numbers."""
import json

import numpy as np
import pytest
import torch

from perception.common.losses import lovasz
from perception.common.losses.lovasz import lovasz_softmax
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
CASES = ['present_ignore0_5d', 'present_ignore0_few_classes', 'present_no_ignore', 'all_ignore0_few_classes',
         'per_image_ignore0', 'classlist_1_3_5_ignore0', 'ignore255', '2d_4dim_ignore0']


def slow_loss(probs: np.ndarray, labels: np.ndarray, classes: list) -> float:
    """Definition 1 of the paper: J over growing sets of mispredicted points, in the order of falling errors."""
    losses = []
    for c in classes:
        truth = {i for i, y in enumerate(labels) if y == c}
        errors = [1 - probs[i, c] if i in truth else probs[i, c] for i in range(len(labels))]
        order = sorted(range(len(labels)), key=lambda i: -errors[i])
        loss, before, wrong = 0.0, 0.0, set()
        for i in order:
            wrong.add(i)
            jaccard = len(wrong) / len(truth | wrong)
            loss, before = loss + errors[i] * (jaccard - before), jaccard
        losses.append(loss)
    return float(np.mean(losses))


def sample(num_points=40, num_classes=6, seed=0):
    rng = np.random.default_rng(seed)
    probs = torch.from_numpy(rng.normal(size=(num_points, num_classes))).softmax(dim=1)
    return probs, torch.from_numpy(rng.integers(0, num_classes - 1, num_points))  # the last class is absent


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('seed', range(3))
def test_equals_the_definition(device, seed):
    probs, labels = (x.to(device) for x in sample(seed=seed))
    known = probs.cpu().numpy(), labels.cpu().numpy()
    present = sorted(set(labels.tolist()))
    assert float(lovasz_softmax(probs, labels)) == pytest.approx(slow_loss(*known, present), abs=1e-12)
    assert float(lovasz_softmax(probs, labels, classes='all')) == pytest.approx(slow_loss(*known, range(6)), abs=1e-12)
    assert float(lovasz_softmax(probs, labels, classes=[1, 5])) == pytest.approx(slow_loss(*known, [1, 5]), abs=1e-12)


@pytest.mark.parametrize('far', [False, True])
@pytest.mark.parametrize('case', CASES)
def test_equals_the_reference(shared, monkeypatch, case, far):
    """As on a CPU, and as on a GPU."""
    monkeypatch.setattr(lovasz, '_is_far', lambda probs: far)
    folder = shared / 'goldens' / 'lidarseg'
    options = json.loads((folder / 'lovasz_A.json').read_text())[case]
    arrays = np.load(folder / 'lovasz_A.npz')
    logits = torch.from_numpy(arrays[f'{case}/logits']).requires_grad_()
    labels = torch.from_numpy(arrays[f'{case}/labels'])
    ignore_index = options.pop('ignore', None)
    loss = lovasz_softmax(logits.softmax(dim=1), labels, ignore_index=ignore_index, **options)
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays[f'{case}/value']), abs=1e-6)
    np.testing.assert_allclose(logits.grad, arrays[f'{case}/grad_logits'], atol=1e-7)


def test_total_training_loss_equals_the_reference(shared):
    arrays = np.load(shared / 'goldens' / 'lidarseg' / 'lovasz_A.npz')
    logits = torch.from_numpy(arrays['present_ignore0_5d/logits']).requires_grad_()
    labels = torch.from_numpy(arrays['present_ignore0_5d/labels']).long()
    ce = torch.nn.functional.cross_entropy(logits, labels, ignore_index=0)
    lovasz = lovasz_softmax(logits.softmax(dim=1), labels, ignore_index=0)
    (ce + lovasz).backward()
    assert lovasz.item() == pytest.approx(float(arrays['total/lovasz']), abs=1e-6)
    assert ce.item() == pytest.approx(float(arrays['total/ce']), abs=1e-5)
    np.testing.assert_allclose(logits.grad, arrays['total/grad_logits'], atol=1e-7)


def test_gradient_is_that_of_the_value():
    probs, labels = sample(12, 4)
    assert torch.autograd.gradcheck(lambda p: lovasz_softmax(p, labels), probs.requires_grad_())


def test_ignored_points_do_not_matter():
    probs, labels = sample()
    noise, _ = sample(7, seed=9)
    both = torch.cat([noise, probs]), torch.cat([torch.full((7,), 255), labels])
    assert torch.equal(lovasz_softmax(*both), lovasz_softmax(probs, labels))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('num_points', [0, 5])
@pytest.mark.parametrize('classes', ['present', 'all', [1]])
def test_nothing_labelled_gives_zero_with_a_gradient(device, num_points, classes):
    probs = torch.rand(num_points, 3, device=device, requires_grad=True)
    labels = torch.full((num_points,), 255, device=device)
    loss = lovasz_softmax(probs, labels, classes=classes)
    loss.backward()
    assert loss.shape == () and loss.item() == 0
    assert torch.equal(probs.grad, torch.zeros_like(probs))


def test_one_labelled_point():
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]], requires_grad=True)
    loss = lovasz_softmax(probs, torch.tensor([2, 255]))
    loss.backward()
    assert loss.item() == pytest.approx(0.7)  # 1 - p of its class
    assert probs.grad.tolist() == [[0, 0, -1], [0, 0, 0]]


def test_perfect_and_worst_predictions():
    labels = torch.tensor([0, 1, 1, 2])
    right = torch.nn.functional.one_hot(labels, 3).double()
    assert lovasz_softmax(right, labels).item() == 0
    assert lovasz_softmax(right[:, [1, 2, 0]], labels).item() == 1


def test_per_image_is_the_mean_over_images():
    probs, labels = sample(36)
    probs, labels = probs.T.reshape(1, 6, 4, 9).repeat(2, 1, 1, 1), labels.reshape(1, 4, 9).repeat(2, 1, 1)
    labels[1, :2] = 255
    expected = [lovasz_softmax(probs[i:i + 1], labels[i:i + 1]) for i in range(2)]
    assert expected[0] != expected[1]
    torch.testing.assert_close(lovasz_softmax(probs, labels, per_image=True), sum(expected) / 2)


@pytest.mark.parametrize('shape, labels, options, error, message', [
    ((4, 3), torch.zeros(5).long(), {}, DataError, r'probs \(4, 3\) with labels \(5,\)'),
    ((4, 3), torch.zeros(4).long(), dict(per_image=True), DataError, 'per_image with probs'),
    ((2, 3), torch.tensor([0, 3]), {}, DataError, r'labels from 0 to 3, expected 0\.\.2'),
    ((2, 3), torch.tensor([0, -1]), {}, DataError, 'labels from -1 to 0'),
    ((2, 3), torch.tensor([0, 1]), dict(classes='presents'), ConfigError, "classes='presents', expected 'present'"),
    ((2, 3), torch.tensor([0, 1]), dict(classes=[3]), ConfigError, r'classes=\[3\], expected numbers in 0\.\.2')])
def test_bad_input_is_refused(shape, labels, options, error, message):
    with pytest.raises(error, match=message):
        lovasz_softmax(torch.rand(shape), labels, **options)


@pytest.mark.parametrize('classes', ['present', 'all'])
def test_without_labels_the_loss_is_zero_on_a_gpu_too(monkeypatch, classes):
    monkeypatch.setattr(lovasz, '_is_far', lambda probs: True)
    for rows in (0, 4):
        probs = torch.full((rows, 3), 1 / 3, requires_grad=True)
        loss = lovasz_softmax(probs, torch.full((rows,), 255), classes, ignore_index=255)
        loss.backward()
        assert loss == 0 and not probs.grad.any()
    with pytest.raises(RuntimeError, match='out of range'):
        lovasz_softmax(probs, torch.full((4,), 3))
