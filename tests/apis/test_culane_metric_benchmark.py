"""The benchmark of the CULane score runs on few images, and its lanes are worth comparing."""
import argparse

import pytest

from perception.apis.benchmarks.lanes import culane_metric
from perception.apis.listing import add_options
from perception.lanes.datasets.culane.metric import count, evaluate_folders
from perception.utils.errors import ConfigError


def arguments(*words):
    parser = add_options(argparse.ArgumentParser(), culane_metric.OPTIONS)
    return parser.parse_args([str(word) for word in words])


def test_milliseconds_per_image():
    result = culane_metric.run(arguments('--images', 3, '--rounds', 1, '--threads', 1, 3))
    assert set(result) == {1, 3} and min(result.values()) > 0


def test_the_lanes_are_like_those_of_a_road(tmp_path):
    culane_metric.write_images(tmp_path, 4)
    results = evaluate_folders(tmp_path / 'anno', tmp_path / 'pred', tmp_path / 'list.txt')
    assert [(r.num_lanes, r.num_preds) for r in results] == [(4, 4)] * 4
    assert count(results, 0.3).tp == 16, 'each lane meets another one'
    assert all(0.3 < iou < 0.95 for r in results for iou in r.ious)


@pytest.mark.parametrize('words', [('--images', 0), ('--rounds', 0), ('--threads', 1, 0)])
def test_bad_arguments(words):
    with pytest.raises(ConfigError, match=f'{words[0]}: .* expected 1 or more'):
        culane_metric.run(arguments(*words))
