"""Open3D's pictures against a pinhole projection by hand."""
import os
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from perception.common.visual import points as visual
from perception.common.visual.points import (
    BACKGROUND,
    BEHIND,
    TOP,
    View,
    has_display,
    paint,
    shaded,
    show,
    view_matrix,
    visible_points,
)
from perception.common.visual.renderer import point_sizes
from perception.utils.errors import ConfigError, DataError, MissingDependency

pytest.importorskip('open3d')
needs_vulkan = pytest.mark.skipif(visual.vulkan_problem() is not None, reason=f'{visual.vulkan_problem()} here')


def project(points, view, width, height):
    """(N, 2) column and row, and (N,) depth of points, by the definition of a pinhole or parallel camera."""
    forward = np.subtract(view.target, view.eye)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, view.up)
    right /= np.linalg.norm(right)
    x, y, depth = (np.subtract(points[:, :3], view.eye) @ axis for axis in (right, np.cross(right, forward), forward))
    if view.fov:
        focal = height / 2 / np.tan(np.radians(view.fov) / 2)
        return np.stack([width / 2 + focal * x / depth, height / 2 - focal * y / depth], 1), depth
    pixel = view.height / height
    return np.stack([width / 2 + x / pixel, height / 2 - y / pixel], 1), depth


@needs_vulkan
@pytest.mark.parametrize('view', [BEHIND, TOP, View((3, -20, 8), (0, 2, 0), fov=60, point_size=1)],
                         ids=['behind', 'top', 'side'])
@pytest.mark.parametrize('size', [(320, 180), (200, 240)], ids=str)
def test_each_pixel_shows_a_point_that_projects_there(view, size):
    points = np.random.default_rng(0).uniform((-20, -20, -3), (20, 20, 3), (150_000, 3))
    visible = visible_points(points, view, *size)
    assert visible.shape == (size[1], size[0])
    rows, columns = np.nonzero(visible >= 0)
    assert len(rows) > 0.3 * visible.size
    assert visible.max() > 140_000  # numbers beyond two bytes survive the way through colours
    where, _ = project(points[visible[rows, columns]], view, *size)
    sizes = point_sizes(points, asdict(view), size[1])[visible[rows, columns]]
    assert (np.abs(where - np.stack([columns, rows], 1) - 0.5).max(1) <= sizes / 2 + 0.02).all()


@needs_vulkan
@pytest.mark.parametrize(('point', 'view', 'column', 'row'), [
    ((10., 0., 0.), TOP, 'right', 'middle'), ((0., 10., 0.), TOP, 'middle', 'upper'),
    ((11., 0., 3.), BEHIND, 'middle', 'upper'), ((11., 5., -2.), BEHIND, 'left', 'middle')])
def test_left_is_left_and_forward_is_forward(point, view, column, row):
    rows, columns = np.nonzero(visible_points(np.array([point]), view, 160, 90) == 0)
    words = {'left': -1, 'upper': -1, 'middle': 0, 'right': 1}
    assert np.sign(round((columns.mean() + 0.5 - 80) / 4)) == words[column]
    assert np.sign(round((rows.mean() + 0.5 - 45) / 4)) == words[row]


@pytest.mark.parametrize('view', [BEHIND, TOP, View((3, -20, 8), (0, 2, 0), fov=60)], ids=['behind', 'top', 'side'])
def test_the_matrix_of_a_view_is_its_projection(view):
    matrix = view_matrix(view, 200, 100)
    looked_at = matrix @ (*view.target, 1)
    np.testing.assert_allclose(looked_at[:2] / looked_at[2], [99.5, 49.5], atol=1e-9)
    assert looked_at[3] == pytest.approx(np.linalg.norm(np.subtract(view.target, view.eye)))
    assert looked_at[2] == pytest.approx(looked_at[3] if view.fov else 1)
    if view is TOP:
        left = matrix @ (0, view.height / 2, 0, 1)
        assert left[1] == pytest.approx(-0.5)


@needs_vulkan
def test_points_lie_where_the_matrix_of_the_view_says():
    view, points = View((0, 0, 0), (1, 0, 0), point_size=1, metres=0), np.array([[10, 2.0, 1], [7, -1, -1.5]])
    visible = visible_points(points, view, 160, 90)
    for number, point in enumerate(points):
        u, v, w, _ = view_matrix(view, 160, 90) @ (*point, 1)
        row, column = np.argwhere(visible == number)[0]
        assert abs(u / w - column) <= 0.51 and abs(v / w - row) <= 0.51


@needs_vulkan
def test_the_nearer_point_hides_the_farther():
    points = np.array([[20., 0., 0.], [5., 0., 0.]])
    view = View(eye=(0., 0., 0.), target=(1., 0., 0.), point_size=4)
    for order in ([0, 1], [1, 0]):
        seen = visible_points(points[order], view, 64, 48)
        assert set(np.unique(seen)) == {-1, order.index(1)}


@needs_vulkan
def test_near_points_are_drawn_larger():
    points = np.array([[-4., 1., 3.], [11., 5., -2.], [60., -9., 0.]])
    seen = visible_points(points, BEHIND, 1280, 720)
    sizes = point_sizes(points, asdict(BEHIND), 720)
    assert sizes.tolist() == [6, 3, 2] and [(seen == i).sum() for i in range(3)] == (sizes ** 2).tolist()
    assert (point_sizes(points, asdict(TOP), 720) == 1).all()


def test_what_reflects_less_is_darker_whatever_the_scale():
    colors = np.full((100, 3), 200, np.uint8)
    remission = np.linspace(0, 1, 100)
    for scale in (1, 255, 65535):
        drawn = shaded(colors, remission * scale)[:, 0].astype(int)
        assert drawn[0] == 120 and (drawn[-5:] == 200).all() and (np.diff(drawn) >= 0).all()
    assert (shaded(colors, np.zeros(100)) == 200).all() and (shaded(colors, None) == 200).all()
    assert shaded(colors[:0], remission[:0]).shape == (0, 3)


@needs_vulkan
def test_colours_are_exact():
    rng = np.random.default_rng(1)
    points, colors = rng.uniform(-10, 10, (500, 4)), rng.integers(0, 256, (500, 3)).astype(np.uint8)
    image = paint(visible_points(points, TOP, 320, 200), colors)
    assert image.dtype == np.uint8
    drawn = {tuple(c) for c in image.reshape(-1, 3)} - {BACKGROUND}
    assert len(drawn) > 300
    assert drawn <= {tuple(c) for c in colors}


def test_paint_looks_colours_up():
    colors = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    image = paint(np.array([[-1, 1], [0, -1]]), colors, (9, 9, 9))
    assert image.tolist() == [[[9, 9, 9], [4, 5, 6]], [[1, 2, 3], [9, 9, 9]]]
    assert (paint(np.full((2, 2), -1), np.zeros((0, 3))) == BACKGROUND).all()


@needs_vulkan
def test_no_point_and_one_point():
    assert (visible_points(np.zeros((0, 4)), width=32, height=16) == -1).all()
    assert (visible_points(np.array([[5., 0., 0., 1.]]), width=64, height=36) == 0).sum() == BEHIND.point_size ** 2


@pytest.mark.parametrize('shape', [(5,), (5, 2), (2, 5, 3)])
def test_refuses_other_shapes(shape):
    with pytest.raises(DataError, match=r'expected \(N, 3\)'):
        visible_points(np.zeros(shape))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_refuses_coordinates_that_are_not_finite(value):
    points = np.zeros((4, 3))
    points[2, 1] = value
    with pytest.raises(DataError, match='row 2 is'):
        visible_points(points)


@pytest.mark.parametrize('size', [(0, 10), (4000, 100), (100, 4000)])
def test_refuses_sizes_it_cannot_draw(size):
    with pytest.raises(ConfigError, match='1920 x 1080'):
        visible_points(np.zeros((1, 3)), TOP, *size)


@pytest.mark.skipif(sys.platform != 'linux', reason='displays are named by variables on Linux alone')
@pytest.mark.parametrize('display', [None, ':973'], ids=['unset', 'nobody there'])
def test_show_says_when_there_is_no_display(monkeypatch, display):
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.setenv('XDG_RUNTIME_DIR', '/nowhere')
    if display:
        monkeypatch.setenv('DISPLAY', display)
    assert not has_display()
    assert show(np.zeros((4, 3)), np.zeros((4, 3))) is False


DRAW_TWICE = """
import numpy as np
from perception.common.visual.points import TOP, visible_points
for size in ((64, 48), (128, 96), (64, 48)):
    assert (visible_points(np.eye(3), TOP, *size) >= 0).any()
"""


def run(code, root, **env):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=root,
                          env=dict(os.environ, PYTHONPATH=str(root), **env))


@needs_vulkan
def test_a_process_that_drew_ends_quietly(root):
    done = run(DRAW_TWICE, root)
    assert (done.returncode, done.stdout) == (0, ''), done.stderr


def test_without_a_driver_a_sentence_comes_instead_of_an_abort(root):
    done = run(DRAW_TWICE, root, VK_ICD_FILENAMES='/nowhere.json', VK_DRIVER_FILES='/nowhere.json')
    assert done.returncode == 1
    assert 'MissingDependency' in done.stderr
    assert 'mesa-vulkan-drivers' in done.stderr


def test_without_the_vulkan_library_a_sentence_comes(monkeypatch):
    def absent(name):
        raise OSError(f'{name}: cannot open shared object file')
    monkeypatch.setattr(visual.ctypes, 'CDLL', absent)
    monkeypatch.setattr(sys, 'platform', 'linux')
    with pytest.raises(MissingDependency, match='cannot be loaded.* libvulkan1 mesa-vulkan-drivers'):
        visual._Renderer().start()


@pytest.fixture
def renderer(monkeypatch):
    """A renderer of this test's own."""
    own = visual._Renderer()
    monkeypatch.setattr(visual, '_renderer', lambda: own)
    yield own
    own.stop()


@needs_vulkan
def test_the_drawing_process_is_replaced_now_and_then(renderer, monkeypatch):
    monkeypatch.setattr(renderer, 'PICTURES', 2)
    points = np.random.default_rng(0).uniform(-10, 10, (100, 3))
    images, numbers = [], []
    for _ in range(3):
        images.append(visible_points(points, TOP, 64, 36))
        numbers.append(renderer.process.pid)
    assert (images[0] >= 0).any()
    assert all((image == images[0]).all() for image in images)
    assert numbers[0] == numbers[1] != numbers[2]


@needs_vulkan
@pytest.mark.parametrize('size', [2, 400_000], ids=['small', 'more than a pipe holds'])
def test_a_drawing_process_that_died_is_reported_once(renderer, size):
    points = np.random.default_rng(0).uniform(-10, 10, (size, 3))
    expected = visible_points(points, TOP, 64, 36)
    renderer.process.kill()
    with pytest.raises(MissingDependency, match='drawing point clouds'):
        visible_points(points, TOP, 64, 36)
    assert (visible_points(points, TOP, 64, 36) == expected).all()


@needs_vulkan
def test_no_old_answer_is_read_after_an_interruption(renderer, monkeypatch):
    points = np.random.default_rng(0).uniform(-10, 10, (100, 3))
    expected = visible_points(points, TOP, 64, 36)

    class Interrupted:
        def read(self, size):
            raise KeyboardInterrupt('Ctrl-C')

        def close(self):
            pass
    monkeypatch.setattr(renderer.process, 'stdout', Interrupted())
    with pytest.raises(KeyboardInterrupt):
        visible_points(points[:1], TOP, 64, 36)
    assert renderer.process is None
    assert (visible_points(points, TOP, 64, 36) == expected).all()


def test_why_open3d_ended_is_said(renderer, monkeypatch, tmp_path):
    (tmp_path / 'open3d.py').write_text("raise ImportError('libusb-1.0.so.0: cannot open shared object file')")
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.setattr(visual, 'vulkan_problem', lambda: None)
    with pytest.raises(MissingDependency, match=r'libusb-1\.0\.so\.0: cannot open .* Run `pip install open3d`'):
        visible_points(np.zeros((3, 3)))
