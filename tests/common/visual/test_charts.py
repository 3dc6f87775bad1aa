"""Charts: what is drawn where."""
import numpy as np
import pytest

from perception.common.visual.canvas import PAPER
from perception.common.visual.charts import EMPTY, bar_chart, matrix_chart, polar_chart, polar_index, shade

NAMES = ('car', 'road', 'traffic-sign')
COLORS = np.array([[100, 150, 245], [255, 0, 255], [255, 0, 0]], np.uint8)


def columns_of(image, color):
    return np.flatnonzero((image == color).all(-1).any(0))


def test_bars_are_as_long_as_their_values():
    image = bar_chart(NAMES, np.array([0.25, 1.0, np.nan]), COLORS, 'title', 'note', width=700)
    assert image.shape[1] == 700 and image.dtype == np.uint8
    short, full = columns_of(image, COLORS[0]), columns_of(image, COLORS[1])
    assert len(columns_of(image, COLORS[2])) == 0
    assert (full[-1] - full[0]) / (short[-1] - short[0]) == pytest.approx(4, rel=0.02)
    assert short[0] == full[0] and full[-1] < 640  # room for the number behind it


def test_the_mean_is_a_line_across_all_bars():
    without = bar_chart(NAMES, np.array([0.2, 0.4, 0.9]), COLORS)
    image = bar_chart(NAMES, np.array([0.2, 0.4, 0.9]), COLORS, mean=0.5)
    changed = np.flatnonzero((image != without).any((0, 2)))
    assert len(changed) == 1
    bar = columns_of(image, COLORS[2])
    assert (changed[0] - bar[0]) / (bar[-1] - bar[0]) == pytest.approx(0.5 / 0.9, abs=0.02)


def test_a_cell_is_brighter_the_more_it_holds():
    shares = np.array([[0.9, 0.1, 0.0], [0.3, 0.7, 0.0], [np.nan] * 3])
    image = matrix_chart(shares, NAMES, NAMES, 'title', ['10', '20', '0'], ('true', 'predicted', 'points'), cell=40)
    rows, columns = np.nonzero((image == shade(0.9 ** 0.6)).all(-1))
    top, left = rows.min(), columns.min()

    def color(i, j):
        return image[top + 40 * i + 3, left + 40 * j + 3]

    assert [tuple(color(2, j)) for j in range(3)] == [EMPTY] * 3
    brightness = np.array([[color(i, j).astype(int).sum() for j in range(3)] for i in range(2)])
    assert (np.argsort(-brightness[0]) == [0, 1, 2]).all() and brightness[1, 1] > brightness[1, 0] > brightness[1, 2]


def test_a_long_name_fits_above_its_column():
    image = matrix_chart(np.eye(2), ('a', 'b'), ('x' * 40, 'y'))
    assert (image[36:64] == PAPER).all() and (image[64:80] != PAPER).any()  # its end is inside the picture


@pytest.mark.parametrize(('place', 'row', 'column'), [
    ((20, 0), 0, 0), ((0, 20), 0, -1), ((-20, 0), 1, 0), ((0, -20), 0, 1)], ids=['ahead', 'left', 'behind', 'right'])
def test_forward_is_up_and_left_is_left(place, row, column):
    values = np.full((6, 36), np.nan)
    values.ravel()[polar_index(np.hypot(*place), np.arctan2(place[1], place[0]) + 1e-3, 6, 36, 60.0)] = 1.0
    image = polar_chart(values, 60.0, size=400)[-400:, :400]
    rows, columns = np.nonzero((image == shade(1.0)).all(-1))
    assert len(rows) > 40
    down, right = (rows.mean() - 200) / 200, (columns.mean() - 200) / 200
    assert np.hypot(down, right) == pytest.approx(25 / 61.5, abs=0.06)  # the ring from 20 to 30 m
    expected = {(0, 0): (-1, 0), (1, 0): (1, 0), (0, -1): (0, -1), (0, 1): (0, 1)}[row, column]
    assert np.dot(expected, (down, right)) > 0.95 * np.hypot(down, right)


def test_places_find_their_cell():
    distance, angle = np.array([0.0, 9.99, 59.9, 60.0, 1e9]), np.array([-np.pi, np.pi, 0.0, 0.0, 1.0])
    assert polar_index(distance, angle, 6, 36, 60.0).tolist() == [0, 0, 5 * 36 + 18, 216, 216]
