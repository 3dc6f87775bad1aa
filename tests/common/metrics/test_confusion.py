"""The confusion matrix against a loop over the elements."""
import numpy as np
import pytest

from perception.common.metrics import confusion as module
from perception.common.metrics.confusion import ConfusionMetric, confusion_matrix
from perception.utils.errors import DataError


@pytest.mark.parametrize('dtype', [np.uint8, np.int64])
def test_equals_a_loop(dtype):
    rng = np.random.default_rng(0)
    pred, true = rng.integers(0, 26, (2, 2000)).astype(dtype)
    expected = np.zeros((26, 26), int)
    for p, t in zip(pred, true):
        expected[p, t] += 1
    result = confusion_matrix(pred, true, 26)
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, expected)


def test_rows_are_predictions_and_parts_add_up():
    pred, true = np.array([0, 0, 1, 2]), np.array([1, 1, 1, 0])
    whole = confusion_matrix(pred, true, 3)
    assert whole.tolist() == [[0, 2, 0], [0, 1, 0], [1, 0, 0]]
    parts = [confusion_matrix(pred[rows], true[rows], 3) for rows in (slice(0, 1), slice(1, 1), slice(1, 4))]
    np.testing.assert_array_equal(sum(parts), whole)


def test_nothing_to_count():
    assert confusion_matrix(np.zeros(0, int), np.zeros(0, int), 3).tolist() == [[0] * 3] * 3


def test_large_numbers_of_classes_do_not_overflow_small_types():
    result = confusion_matrix(np.full(3, 199, np.uint8), np.full(3, 198, np.uint8), 200)
    assert result[199, 198] == 3 and result.sum() == 3


@pytest.mark.parametrize('pred, true, message', [
    ([0, 3], [0, 1], 'predictions from 0 to 3, expected 0..2'),
    ([0, 1], [-1, 1], 'labels from -1 to 1, expected 0..2'),
    ([0, 1], [0], '2 predictions for 1 labels, expected equal numbers')])
def test_bad_input_is_refused(pred, true, message):
    with pytest.raises(DataError, match=message):
        confusion_matrix(np.array(pred), np.array(true), 3)


class Accuracy(ConfusionMetric):
    unit = 'images'

    def count(self, sample):
        return confusion_matrix(sample['pred'], sample['true'], 2)

    def report(self, confusion):
        return dict(accuracy=np.trace(confusion) / confusion.sum()), 'a table'


def test_a_metric_adds_up_the_counts_of_samples(monkeypatch):
    logged, metric = [], Accuracy()
    monkeypatch.setattr(module, 'print_log', lambda text, *_: logged.append(text))
    samples = [dict(pred=[0, 1], true=[0, 0]), dict(pred=[1, 1], true=[1, 1]), dict(pred=[0], true=[1])]
    metric.process(None, samples[:2])
    metric.process(None, [*samples[2:], samples[0]])  # repeated to fill the last round
    assert metric.evaluate(3) == dict(accuracy=3 / 5)
    assert logged == ['3 images\na table']
