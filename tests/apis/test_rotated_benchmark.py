"""The benchmark of rotated boxes runs on few candidates, and its candidates overlap as those of a detector do."""
import argparse
import sys
import types

import pytest
import torch

from perception.apis.benchmarks import rotated
from perception.apis.listing import add_options
from perception.ops.rotated import nms_rotated, rotated_iou
from perception.utils.errors import ConfigError, MissingDependency


def arguments(*words):
    return add_options(argparse.ArgumentParser(), rotated.OPTIONS).parse_args([str(word) for word in words])


def test_ours_agrees_with_shapely_on_both_kinds():
    pytest.importorskip('shapely', minversion='2.0')
    threads = torch.get_num_threads()
    rows = rotated.run(arguments('--candidates', 60, '--rounds', 1))
    assert [(row['kind'], row['candidates']) for row in rows] == [('crowd', 60), ('cars', 60)]
    for row in rows:
        assert row['same_kept'] and row['largest_difference'] < 1e-9 and row['kept'] < 30
        assert set(row['seconds']) >= {'matrix', 'suppression', *row['ratios']} and min(row['ratios'].values()) > 0
        assert {name.split(',')[0] for name in row['ratios']} == {'matrix', 'suppression'}
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize('kind', ['crowd', 'cars'])
def test_the_candidates_are_those_of_a_detector(kind):
    boxes, scores = rotated.candidates(kind, 400)
    iou = rotated_iou(boxes, boxes)
    assert 8 < (iou > 0).sum() / 400 < 60, 'overlapping boxes of each'
    assert 40 < len(nms_rotated(boxes, scores, .2)) < 110, 'of 50 people or cars, some beside each other'


def test_compiled_operators_come_first_and_the_lack_of_both_is_said(monkeypatch):
    ops = types.SimpleNamespace(box_iou_rotated=rotated_iou, nms_rotated=lambda *given: (None, nms_rotated(*given)))
    monkeypatch.setitem(sys.modules, 'mmcv.ops', ops)
    peers = rotated.find_peers()
    assert set(peers) == {'matrix, mmcv', 'suppression, mmcv'}
    row = rotated.measure('crowd', 40, peers, .2, 1)
    assert row['same_kept'] and row['largest_difference'] < 1e-5  # of float32
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    monkeypatch.setitem(sys.modules, 'shapely', None)
    with pytest.raises(MissingDependency, match='shapely.*pip install shapely'):
        rotated.find_peers()


@pytest.mark.parametrize('words', [('--candidates', 0, 5), ('--rounds', 0), ('--threads', 0), ('--threshold', 0)])
def test_bad_arguments(words):
    with pytest.raises(ConfigError, match=f'{words[0].removeprefix("--")}=.* above 0'):
        rotated.run(arguments(*words))
