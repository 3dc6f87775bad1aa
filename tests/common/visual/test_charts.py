"""Charts: what is drawn where, in pixels and in vectors."""
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from perception.common.visual.charts import bar_chart, matrix_chart, polar_chart, polar_index, save_chart
from perception.utils.errors import ConfigError, DataError

NAMES = ('car', 'road', 'traffic-sign')
COLORS = np.array([[100, 150, 245], [255, 0, 255], [255, 0, 0]], np.uint8)


def test_bars_are_as_long_as_their_values():
    axes, = bar_chart(NAMES, np.array([0.25, 1.0, np.nan]), COLORS, 'title', 'note', mean=0.5).axes
    assert [bar.get_width() for bar in axes.patches] == [25, 100, 0]
    assert np.allclose([bar.get_facecolor()[:3] for bar in axes.patches], COLORS / 255)
    assert [text.get_text() for text in axes.texts] == ['25.0', '100.0', 'does not occur']
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES) and axes.yaxis_inverted()
    assert (axes.get_title(), axes.get_xlabel()) == ('title', 'note')
    assert list(axes.lines[0].get_xdata()) == [50, 50]


def test_a_cell_is_darker_the_more_it_holds():
    shares = np.array([[0.9, 0.1, 0.004], [0.3, 0.7, 0.0], [np.nan] * 3])
    figure = matrix_chart(shares, NAMES, NAMES, 'title', ['10', '20', '0'], ('true', 'predicted', 'points'))
    axes = figure.axes[0]
    values = axes.collections[0].get_array()
    assert np.allclose(values[:2], shares[:2] ** 0.6) and values.mask[2].all()
    assert {(*text.get_position(), text.get_text()) for text in axes.texts} == {
        (0.5, 0.5, '90'), (1.5, 0.5, '10'), (0.5, 1.5, '30'), (1.5, 1.5, '70')}
    assert axes.collections[0].cmap(0.9)[:3] < axes.collections[0].cmap(0.1)[:3]  # darker


@pytest.mark.parametrize(('place', 'row', 'column'), [
    ((20, 0), -1, 0), ((0, 20), 0, -1), ((-20, 0), 1, 0), ((0, -20), 0, 1)], ids=['ahead', 'left', 'behind', 'right'])
def test_forward_is_up_and_left_is_left(place, row, column):
    values = np.full((6, 36), np.nan)
    values.ravel()[polar_index(np.hypot(*place), np.arctan2(place[1], place[0]) + 1e-3, 6, 36, 60.0)] = 1.0
    figure = polar_chart(values, 60.0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    seen = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    box = figure.axes[0].get_window_extent()
    disc = seen[len(seen) - round(box.y1):len(seen) - round(box.y0), round(box.x0):round(box.x1)]
    rows, columns = np.nonzero(disc.max(-1) < 30)
    inner = np.hypot(rows - len(disc) / 2, columns - disc.shape[1] / 2) < 0.45 * len(disc)  # not its rim
    down, right = (rows[inner].mean() / len(disc) - 0.5) * 2, (columns[inner].mean() / disc.shape[1] - 0.5) * 2
    assert np.hypot(down, right) == pytest.approx(25 / 60, abs=0.1)  # the ring from 20 to 30 m
    assert np.dot((row, column), (down, right)) > 0.9 * np.hypot(down, right)


def test_places_find_their_cell():
    distance, angle = np.array([0.0, 9.99, 59.9, 60.0, 1e9]), np.array([-np.pi, np.pi, 0.0, 0.0, 1.0])
    assert polar_index(distance, angle, 6, 36, 60.0).tolist() == [0, 0, 5 * 36 + 18, 216, 216]


def test_files_in_pixels_and_vectors_are_the_same_each_time(tmp_path):
    def files(folder):
        chart = bar_chart(NAMES, np.array([0.2, 0.4, 0.9]), COLORS, 'title')
        return save_chart(tmp_path / folder / 'iou', chart, ('.png', '.svg', '.pdf'))

    first, second = files('a'), files('b')
    assert [path.name for path in first] == ['iou.png', 'iou.svg', 'iou.pdf']
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second))
    assert Image.open(first[0]).size[0] == 1350 and '>traffic-sign</text>' in first[1].read_text()
    assert first[2].read_bytes().startswith(b'%PDF')
    with pytest.raises(ConfigError, match="'.jpg', expected one of .png, .svg, .pdf"):
        save_chart(tmp_path / 'x', bar_chart((), np.zeros(0), COLORS[:0]), ['.jpg'])
    (tmp_path / 'a/iou.svg').write_text('mine')
    with pytest.raises(DataError, match=r'iou\.svg: a file that no command of this project wrote'):
        files('a')
    assert (tmp_path / 'a/iou.svg').read_text() == 'mine'


def test_a_long_title_fits_above_few_columns():
    title = 'Confusion: what the points of each true class are predicted as [%]'
    figure = matrix_chart(np.eye(2), NAMES[:2], NAMES[:2], title)
    text, = figure.texts
    box = text.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert text.get_text() == title and 0 <= box.x0 < box.x1 <= figure.bbox.width
