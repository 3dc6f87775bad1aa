"""Cross-entropy and agreement with another model's saved predictions."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perception.lidarseg.likelihood import LikelihoodMetric
from perception.utils.errors import ConfigError, DataError


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    return [dict(sample_id=f'08_{i}', logits=torch.randn(n, 4, generator=generator),
                 labels=torch.randint(0, 4, (n,), generator=generator)) for i, n in enumerate((5, 7))]


def test_means_over_all_points_of_all_scans(samples, tmp_path):
    samples[0]['labels'][2] = 255
    for sample in samples:
        predicted = sample['logits'].argmax(1).numpy().astype(np.uint8)
        predicted[1] = 3 - predicted[1]  # one point of each scan is said otherwise
        np.save(tmp_path / f'{sample["sample_id"]}.npy', predicted)
    metric = LikelihoodMetric(against=tmp_path)
    metric.process(None, samples)
    result = metric.evaluate(2)
    expected = [-float(row.double().log_softmax(0)[label]) for sample in samples
                for row, label in zip(sample['logits'], sample['labels'].tolist()) if label != 255]
    assert result == pytest.approx(dict(cross_entropy=sum(expected) / 11, agreement=10 / 12))
    metric = LikelihoodMetric()
    metric.process(None, samples)
    assert list(metric.evaluate(2)) == ['cross_entropy']


def test_rows_that_were_left_out_of_a_scan_do_not_count(samples, tmp_path):
    sample = samples[0]
    sample.update(kept=np.array([0, 1, 3]), num_points=5)
    np.save(tmp_path / '08_0.npy', sample['logits'].argmax(1).numpy().astype(np.uint8))
    metric = LikelihoodMetric(against=tmp_path)
    metric.process(None, [sample])
    assert metric.results[0][1:] == (3, 3, 3)


def test_what_is_missing_is_said(samples, tmp_path):
    with pytest.raises(DataError, match=r'08_0.npy: no predictions for 5 points'):
        LikelihoodMetric(against=tmp_path).process(None, samples)
    np.save(tmp_path / '08_0.npy', np.zeros(4, np.uint8))
    with pytest.raises(DataError, match='4 predictions for 5 points'):
        LikelihoodMetric(against=tmp_path).process(None, samples)
    with pytest.raises(ConfigError, match='keep_logits=True'):
        LikelihoodMetric().process(None, [dict(samples[0], logits=None)])
    with pytest.raises(DataError, match='has no labels'):
        LikelihoodMetric().process(None, [dict(samples[0], labels=None)])


def test_a_net_that_keeps_no_logits_is_refused():
    with pytest.raises(ConfigError, match='SimpleNamespace has keep_logits=False, expected True'):
        LikelihoodMetric.check_model(SimpleNamespace(keep_logits=False))
    for net in (SimpleNamespace(keep_logits=True), SimpleNamespace()):  # of another one only its samples tell
        LikelihoodMetric.check_model(net)
