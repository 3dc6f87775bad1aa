"""The benchmark of targets compares equal ones, and says so where they are not."""
import argparse

import pytest

from perception.apis.benchmarks import heatmaps
from perception.utils.errors import ConfigError, DataError


def arguments(**values):
    return argparse.Namespace(**dict(rounds=1, boxes=5, samples=2) | values)


def test_a_table_of_both_ways():
    rows = heatmaps.run(arguments())
    assert [(row['name'], row['samples']) for row in rows] == [('people', 1), ('people', 2), ('cars', 1), ('cars', 2)]
    assert all(row['ratio'] == row['ours_ms'] / row['loop_ms'] > 0 for row in rows)


def test_targets_that_differ_and_no_boxes_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match='boxes=0'):
        heatmaps.run(arguments(boxes=0))
    monkeypatch.setattr(heatmaps, 'draw_one', lambda *_: None)
    with pytest.raises(DataError, match='targets of people'):
        heatmaps.run(arguments())
