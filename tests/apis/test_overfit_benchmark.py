"""Samples learned by heart: the first validation samples, in memory, trained on and scored."""
import argparse

import pytest

from perception.apis.benchmarks import overfit
from perception.apis.listing import add_options
from perception.utils.errors import ConfigError, DataError


def arguments(*words):
    parser = add_options(argparse.ArgumentParser(), overfit.OPTIONS)
    return parser.parse_args([str(word) for word in words])


def test_a_small_net_learns_six_samples_by_heart(toy_config, monkeypatch):
    lines = []
    monkeypatch.setattr(overfit, 'print_log', lambda text, *args: lines.append(text))
    row, = overfit.run(arguments(toy_config, '--samples', 6, '--steps', 120, '--lr', .02, '--cfg-options',
                                 'model.dropout=0'))
    assert row['scores'] == {'toy/accuracy': 100.0, 'toy/count': 6}
    first, last = row['losses']['loss_ce']
    assert first > .5 and last < .1 * first and {*row['losses']} == {'loss', 'loss_ce'}
    assert row['seconds'] > 0 < row['cpu'] and row['memory'] > 50
    assert 'accuracy 100.0000, count 6.0000; loss ' in lines[-1] and ' %)' in lines[-1]


def test_the_same_seed_gives_the_same_net(toy_config):
    words = (toy_config, '--samples', 4, '--steps', 5)
    assert overfit.run(arguments(*words))[0]['losses'] == overfit.run(arguments(*words))[0]['losses']


def test_bad_arguments(toy_config):
    with pytest.raises(ConfigError, match='steps=0'):
        overfit.run(arguments(toy_config, '--steps', 0))
    with pytest.raises(DataError, match='11 validation samples, expected 20'):
        overfit.run(arguments(toy_config, '--samples', 20))
    with pytest.raises(DataError, match=r"no score \['mAP'\], expected some of toy/accuracy, toy/count"):
        overfit.run(arguments(toy_config, '--samples', 2, '--steps', 1, '--scores', 'accuracy,mAP'))
    with pytest.raises(ConfigError, match='val_evaluator'):
        overfit.run(arguments(toy_config, '--cfg-options', 'val_evaluator=None'))
