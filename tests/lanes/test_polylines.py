"""Lanes rounded, at rows, in order and drawn."""
import numpy as np
import pytest

from perception.lanes.polylines import angle_order, at_rows, dilate, draw_instances, draw_lanes, quantise
from perception.utils.errors import DataError

ROWS = list(range(160, 720, 10))


def test_lanes_come_back_as_from_a_text_file():
    assert quantise([(1.23456, 2), (3, 4)], 'x').tolist() == [[1.235, 2], [3, 4]]
    assert quantise([], 'x').shape == (0, 2)
    for lane in ([(1, np.nan)], [(1, 2, 3)], [1, 2]):
        with pytest.raises(DataError, match=r'x: a lane of shape .*expected \(P, 2\) finite'):
            quantise(lane, 'x')


def test_lanes_at_rows():
    sparse = np.array([[100., 710], [90, 690], [80, 680]])
    u = dict(zip(ROWS, at_rows(sparse, ROWS)))
    assert (u[710], u[700], u[690], u[680], u[670]) == (100, -2, 90, 80, -2), 'points on rows keep their gaps'
    u = dict(zip(ROWS, at_rows(np.array([[100., 705], [80, 685]]), ROWS)))
    assert (u[710], u[700], u[690], u[680]) == (-2, 95, 85, -2), 'others are interpolated'
    assert (at_rows(np.zeros((0, 2)), ROWS) == -2).all()


def test_lanes_are_ordered_and_numbered_from_left_to_right():
    lanes = [np.array([(60 + 20 * k, 58.), (60 + 2 * k, 20)]) for k in (2, -2, 1, -1)] + [np.zeros((1, 2))]
    assert angle_order(lanes) == ([1, 3, 2, 0], 2)
    row = draw_instances(lanes, (60, 128), 1)[50]
    assert row[row > 0].tolist() == [1, 2, 3, 4]


def test_lanes_far_outside_are_not_drawn():
    assert not draw_lanes([np.array([[1e30, 5], [1e30, 50]])], [1], (72, 128), 15).any()
    assert not draw_lanes([np.array([[5., 5]])], [1], (72, 128), 15).any(), 'one point is no line'


def test_lines_become_wider():
    image = draw_lanes([np.array([[10., 0], [10, 40]])], [3], (40, 40), 1)
    assert (dilate(image, 8)[20] == 3).sum() == 8
