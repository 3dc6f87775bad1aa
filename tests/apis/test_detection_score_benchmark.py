"""The benchmark of the detection score runs on few boxes, and both ways give the same numbers."""
import argparse

import numpy as np
import pytest

from perception.apis.benchmarks import detection_score
from perception.apis.listing import add_options
from perception.utils.errors import ConfigError


def arguments(*words):
    parser = add_options(argparse.ArgumentParser(), detection_score.OPTIONS)
    return parser.parse_args([str(word) for word in words])


def test_the_numbers_are_those_of_the_development_kit():
    pytest.importorskip('nuscenes')
    result = detection_score.run(arguments('--samples', 6, '--preds', 60))
    assert result.numbers == 90 and result.equal > 80 and result.off < 1e-12  # last digits are a CPU's own
    assert result.seconds < result.kit_seconds


def test_a_number_that_but_one_has_is_off():
    nothing = np.nan
    compare = detection_score.compare
    assert compare(np.array([[.5, nothing, .25]]), np.array([[.5, nothing, .2]])) == (2, 3, pytest.approx(.25))
    assert compare(np.array([.5, nothing]), np.array([.5, .2])) == (1, 2, np.inf)
    assert compare(np.array([.5]), np.array([.5])) == (1, 1, 0)


@pytest.mark.parametrize('name', ['samples', 'preds', 'truth'])
def test_bad_arguments(name):
    with pytest.raises(ConfigError, match=f'detection_score: {name}=0'):
        detection_score.run(arguments(f'--{name}', 0))
