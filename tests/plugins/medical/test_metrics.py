"""Scores against scikit-learn and against slow loops."""
import itertools

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from perception.plugins.medical.draw import feature_chart, neighbour_plane, principal_plane
from perception.plugins.medical.metrics import ClassMetric, auc, decision_scores, feature_cosines, ranking_scores
from perception.utils.errors import DataError


def cases():
    """Scores with ties, classes that are absent, predicted alone, or of one sample."""
    for seed, classes, count in ((0, 5, 200), (1, 7, 60), (2, 5, 12), (6, 2, 30), (4, 7, 9)):
        rng = np.random.default_rng(seed)
        scores = rng.dirichlet(np.ones(classes), count).round(1 + seed % 2) + 1e-3
        yield scores / scores.sum(1, keepdims=True), rng.integers(0, classes - seed % 2, count)


CASES = list(cases())


@pytest.mark.parametrize(('scores', 'labels'), CASES)
def test_decisions_score_as_in_scikit_learn(scores, labels):
    sklearn = pytest.importorskip('sklearn.metrics')
    predicted, k = scores.argmax(1), scores.shape[1]
    mine = decision_scores(predicted, labels, k)
    macro = dict(average='macro', zero_division=0)
    theirs = dict(
        ACC=sklearn.accuracy_score(labels, predicted), precision=sklearn.precision_score(labels, predicted, **macro),
        recall=sklearn.recall_score(labels, predicted, **macro), F1=sklearn.f1_score(labels, predicted, **macro),
        kappa=sklearn.cohen_kappa_score(labels, predicted, labels=range(k), weights='quadratic'))
    counts = sklearn.confusion_matrix(labels, predicted, labels=range(k))
    theirs['BACC'] = np.mean([counts[i, i] / counts[i].sum() for i in range(k) if counts[i].sum()])
    seen = sorted(set(labels) | set(predicted))
    theirs['specificity'] = np.mean([sklearn.recall_score(labels != i, predicted != i, zero_division=0) for i in seen])
    assert mine == pytest.approx(theirs, abs=1e-12, rel=0)


@pytest.mark.parametrize(('scores', 'labels'), CASES)
def test_ranks_score_as_in_scikit_learn(scores, labels):
    sklearn = pytest.importorskip('sklearn.metrics')
    mine, k = ranking_scores(scores, labels), scores.shape[1]
    ovr = np.mean([sklearn.roc_auc_score(labels == i, scores[:, i]) for i in np.unique(labels)])
    assert mine['AUC_ovr'] == pytest.approx(ovr, abs=1e-12, rel=0)
    if k > 2 and len(np.unique(labels)) == k:
        for kind in ('ovr', 'ovo'):
            theirs = sklearn.roc_auc_score(labels, scores, multi_class=kind, average='macro')
            assert mine[f'AUC_{kind}'] == pytest.approx(theirs, abs=1e-12, rel=0)


def test_ranks_and_kappa_by_slow_loops():
    scores, labels = CASES[1]
    for k in np.unique(labels):
        pairs = [(p > n) + (p == n) / 2 for p in scores[labels == k, k] for n in scores[labels != k, k]]
        assert auc(scores[:, k], labels == k) == pytest.approx(np.mean(pairs), abs=1e-12)
    predicted, observed, chance = scores.argmax(1), 0.0, 0.0
    for t, p in zip(labels, predicted):
        observed += (t - p) ** 2
    for t, p in itertools.product(labels, predicted):
        chance += (t - p) ** 2 / len(labels)
    assert decision_scores(predicted, labels, 7)['kappa'] == pytest.approx(1 - observed / chance, abs=1e-12)


def test_what_is_undefined_is_no_number():
    one = ranking_scores(np.eye(3)[[0, 0]], np.array([0, 0]))
    assert np.isnan(one['AUC_ovr']) and np.isnan(one['AUC_ovo']) and np.isnan(auc(np.ones(2), np.ones(2, bool)))
    perfect = decision_scores(np.array([1, 1]), np.array([1, 1]), 3)
    assert np.isnan(perfect['kappa']) and perfect['BACC'] == perfect['F1'] == 1


def test_cosines_by_a_double_loop():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(12, 5)), np.array([0] * 5 + [1] * 6 + [3])
    pairs = dict(same_class=[], other_class=[])
    for i, j in itertools.permutations(range(12), 2):
        cosine = features[i] @ features[j] / np.linalg.norm(features[i]) / np.linalg.norm(features[j])
        pairs['same_class' if labels[i] == labels[j] else 'other_class'].append(cosine)
    assert feature_cosines(features, labels) == pytest.approx({k: np.mean(v) for k, v in pairs.items()}, abs=1e-12)
    assert np.isnan(feature_cosines(features[:1], labels[:1])['same_class'])


def samples(scores, labels):
    return [dict(sample_id=f's{i}', label=torch.tensor(int(y)), pred_scores=torch.tensor(s), feature=torch.tensor(s))
            for i, (s, y) in enumerate(zip(scores, labels))]


@pytest.mark.parametrize(('meta', 'first'), [(dict(classes='ABCDE', ordered=True), 'kappa'), (dict(), 'BACC')])
def test_the_metric_of_parts_is_that_of_the_whole(meta, first):
    MMLogger.get_instance('medical', logger_name='medical')
    scores, labels = CASES[0]
    metric = ClassMetric()
    metric.dataset_meta = meta
    for part in range(0, 200, 70):
        metric.process(None, samples(scores[part:part + 70], labels[part:part + 70]))
    found = metric.evaluate(200)
    assert next(iter(found)) == first
    assert found['F1'] == pytest.approx(decision_scores(scores.argmax(1), labels, 5)['F1'], abs=1e-12)
    assert {'AUC_ovr', 'AUC_ovo', 'same_class', 'other_class', 'specificity'} <= set(found)


@pytest.mark.parametrize(('change', 'match'), [
    (dict(label=None), 's0 has no label'), (dict(pred_scores=None), 's0 has no pred_scores'),
    (dict(pred_scores=torch.tensor([0.5, float('nan')])), 'expected numbers')])
def test_broken_predictions_are_refused(change, match):
    with pytest.raises(DataError, match=match):
        ClassMetric().process(None, [dict(samples(*CASES[3])[0], **change)])


def test_the_plane_shows_what_differs_most():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(50, 6)) * (9, 4, .1, .1, .1, .1)
    places, shares = principal_plane(features)
    assert abs(np.corrcoef(places[:, 0], features[:, 0])[0, 1]) > 0.99
    assert shares.sum() > 0.99 and shares[0] > shares[1]
    assert principal_plane(features[:1])[0].shape == (1, 2) and principal_plane(features[:, :1])[0].shape == (50, 2)
    figure = feature_chart(features, np.arange(50) % 3, 'ABC', [(0, 0, 0)] * 3, 'title')
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ['A (17)', 'B (17)', 'C (16)']


def test_neighbours_stay_neighbours():
    pytest.importorskip('sklearn.manifold')
    rng = np.random.default_rng(1)
    labels = np.arange(24) % 3
    features = rng.normal(size=(24, 6)) + 20 * rng.normal(size=(3, 6))[labels]
    places = neighbour_plane(features)
    distance = np.linalg.norm(places[:, None] - places, axis=2) + 1e9 * np.eye(24)
    assert (labels[distance.argmin(1)] == labels).all() and np.array_equal(places, neighbour_plane(features))
    assert [neighbour_plane(features[:n]).shape for n in (1, 3)] == [(1, 2), (3, 2)]
    assert neighbour_plane(np.ones((5, 1))).shape == (5, 2)
    assert len(feature_chart(features, labels, 'ABC', [(0, 0, 0)] * 3, 'title', tsne=True).axes) == 2


def test_two_processes_give_the_score_of_one(two_processes, tmp_path):
    scores, labels = np.random.default_rng(0).dirichlet(np.ones(4), 21), np.arange(21) % 4
    MMLogger.get_instance('medical', logger_name='medical')

    def score(rows):
        metric = ClassMetric()
        metric.collect_dir = str(tmp_path / 'collect')
        metric.process(None, samples(scores[rows], labels[rows]))
        return metric.evaluate(21)

    alone = score(range(21))
    first, second = two_processes(lambda rank: score([*range(21), 0][rank::2]))  # the sampler repeats one
    assert first == second == pytest.approx(alone, abs=1e-12)
