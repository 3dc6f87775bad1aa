"""Boxes on pictures: which pixels get which colour."""
import numpy as np
import pytest

from perception.common.visual.boxes import (
    EDGES,
    FACE,
    FILL,
    FLOOR,
    FRONT,
    HIDDEN,
    BoxLayer,
    _turned_away,
    clip_lines,
    common_area,
    corners,
    dashes,
    draw_boxes,
    draw_boxes_in_view,
    draw_lines,
    draw_trails_on_image,
    legend,
    place_labels,
    track_colors,
    write_labels,
)
from perception.common.visual.points import View
from perception.utils.errors import DataError

# x forward, y left, z up; 100 pixels focal length, its axis in pixel (50, 40)
CAMERA = np.array([[50, -100, 0, 0], [40, 0, -100, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
GREEN, RED = (0, 255, 0), (255, 0, 0)


def box(x=10.0, y=0.0, z=0.0, l=2.0, w=2.0, h=2.0, yaw=0.0):  # noqa: E741
    return np.array([[x, y, z, l, w, h, yaw]])


def image(height=81, width=101):
    return np.zeros((height, width, 3), np.uint8)


def ink(picture, color):
    """Rows and columns where a picture is near a colour."""
    return np.nonzero(np.abs(picture.astype(int) - color).max(-1) < 90)


def test_front_and_floor_are_the_right_corners():
    places = corners(box(0))[0]
    assert (places[FACE][:, 0] > 0).all() and (places[FLOOR][:, 2] < 0).all()
    assert FRONT.sum() == 4 and (places[EDGES[FRONT]][..., 0] > 0).all()
    for around in (FACE, FLOOR):  # neighbours differ along one axis
        assert ((places[around] != places[np.roll(around, 1)]).sum(1) == 1).all()


def test_a_box_before_the_camera_is_drawn_where_it_projects():
    picture = image()
    draw_boxes(picture, [BoxLayer(box(), GREEN)], CAMERA)
    rows, columns = ink(picture, GREEN)
    near = 100 * 1 / 9  # half the size of the near face, 9 m away
    assert (columns.min(), columns.max()) == (round(50 - near), round(50 + near))
    assert (rows.min(), rows.max()) == (round(40 - near), round(40 + near))


def test_the_front_face_is_filled_and_the_rear_one_is_not():
    filled, empty = image(), image()
    draw_boxes(filled, [BoxLayer(box(yaw=np.pi), GREEN)], CAMERA)  # looks at the camera
    draw_boxes(empty, [BoxLayer(box(y=-3, w=6, yaw=np.pi / 2), GREEN)], CAMERA)  # looks to the left
    assert filled[40, 50].tolist() == [0, FILL * 255, 0]
    assert not empty[40, 90].any() and empty[40, 72, 1] == FILL * 255  # its right side, and its front at the left


def test_a_box_half_behind_the_camera_is_cut_and_not_folded():
    picture = image()
    draw_boxes(picture, [BoxLayer(box(0, -1.5, 0, 20, 1, 1), GREEN)], CAMERA)  # from 10 m behind to 10 m before
    rows, columns = ink(picture, GREEN)
    assert len(rows) > 50 and columns.min() >= 50 + 100 * 1 / 10 - 2  # nothing at its mirror image, on the left
    behind = image()
    draw_boxes(behind, [BoxLayer(box(-10), GREEN, ['9'])], CAMERA)
    assert not behind.any()


def test_a_camera_inside_a_box_and_boxes_that_are_none_draw_no_rubbish():
    picture = image()
    bad = np.concatenate([box(l=100, w=100, h=100), box(np.nan), box(yaw=np.inf), box(l=0, w=0, h=0)])
    layer = BoxLayer(bad, GREEN, ['a', 'b', 'c', 'd'])
    assert list(layer.texts) == ['a', 'd'] and len(layer.rgb) == 2
    draw_boxes(picture, [layer, BoxLayer(np.zeros((0, 9)), GREEN)], CAMERA)
    assert picture.any()


@pytest.mark.parametrize(('values', 'texts', 'named'), [
    (np.zeros((3, 5)), (), r'\(3, 5\)'), (np.zeros(7), (), r'\(7,\)'), (np.zeros((3, 7)), ['a'], '1 texts for 3')])
def test_what_is_no_box_is_refused(values, texts, named):
    with pytest.raises(DataError, match=named):
        BoxLayer(values, GREEN, texts)


def test_the_nearer_of_two_boxes_lies_above_whatever_the_order():
    for order in ([0, 1], [1, 0]):
        picture = image()
        both = np.concatenate([box(5, 0, 0, 1, 1, 1), box(10, 0, 0, 1, 2, 2)])[order]
        draw_boxes(picture, [BoxLayer(both, np.array([GREEN, RED])[order])], CAMERA)
        assert picture[40, round(50 - 50 / 4.5), 1] > 200  # its left edge crosses the other's face


def test_what_a_nearer_box_hides_is_faint():
    far, both = box(10, -1, 0, 1, 2, 2), np.concatenate([box(5, 0, 0, 1, 1, 1), box(10, -1, 0, 1, 2, 2)])
    alone, hidden = image(), image()
    draw_boxes(alone, [BoxLayer(far, GREEN)], CAMERA)
    draw_boxes(hidden, [BoxLayer(both, [RED, GREEN])], CAMERA)
    u = 50  # its left edge lies behind the other box
    assert alone[40, u, 1] > 200 and 40 < hidden[40, u, 1] < 160
    assert (hidden[28:32, 67, 1] == alone[28:32, 67, 1]).all()  # the right of its upper edge does not


def test_edges_between_faces_that_look_away_are_told():
    away = _turned_away(box(), np.zeros(3))[0]
    assert away.sum() == 8  # of what is exactly behind a face but its own four edges
    assert _turned_away(box(), np.array([0, 5.0, 5.0]))[0].sum() == 3  # of a corner that three faces meet at
    assert not _turned_away(box(), np.array([10.0, 0.2, 0.3])).any()  # inside


def test_lines_are_clipped_to_the_picture():
    lines = np.array([[[-1e9, 5], [1e9, 5]], [[5, -50], [5, -20]], [[2, 2], [4, 4]], [[3, 3], [3, 3]],
                      [[-10, 0], [0, -10]]], float)
    kept, rows = clip_lines(lines, 11, 11, 0)
    assert rows.tolist() == [0, 2, 3]
    np.testing.assert_allclose(kept[0], [[0, 5], [10, 5]], atol=1e-6)
    np.testing.assert_allclose(kept[1:], lines[2:4])


def test_dashes_begin_and_end_with_the_line():
    lines = np.array([[[0, 0], [23, 0]], [[0, 0], [0, 2]], [[1, 1], [1, 1]]], float)
    pieces, rows = dashes(lines, 5, 4)
    assert rows.tolist() == [0, 0, 0, 1, 2]
    np.testing.assert_allclose(pieces[:3, :, 0], [[0, 5], [9, 14], [18, 23]])
    np.testing.assert_allclose(pieces[3:], lines[1:])
    pieces, rows = dashes(lines, 5, np.array([-1, 4, 4]))  # overlapping
    assert rows.tolist() == [0, 0, 0, 0, 0, 0, 1, 2] and pieces[5, 1, 0] == pytest.approx(23)
    np.testing.assert_allclose(pieces[:5, 1, 0] - pieces[1:6, 0, 0], 1)


def test_one_call_for_each_colour(monkeypatch):
    from perception.common.visual import boxes
    calls = []
    monkeypatch.setattr(boxes.cv2, 'polylines', lambda image, lines, *rest: calls.append(len(lines)))
    lines = np.tile([[[1.0, 1], [9, 9]]], (300, 1, 1))
    draw_lines(image(), lines, np.repeat([GREEN, RED, (1, 2, 3)], 100, 0))
    assert calls == [300, 100, 100, 100]  # the first one is their dark edge


def test_colours_of_tracks_are_bright_and_far_apart():
    assert track_colors(np.zeros(0)).shape == (0, 3)
    colors = track_colors(np.arange(30)).astype(int)
    assert (colors @ [0.299, 0.587, 0.114]).min() > 100
    assert np.abs(colors[:, None] - colors)[~np.eye(30, dtype=bool)].max(-1).min() >= 12
    assert np.abs(np.diff(colors, axis=0)).max(1).min() > 80  # those that follow each other
    assert (track_colors(np.array([7, -3])) == track_colors(np.array([7, -3, 5]))[:2]).all()


def test_labels_of_a_crowd_touch_neither_each_other_nor_what_is_taken():
    rng = np.random.default_rng(0)
    corner = rng.uniform((100, 150), (500, 300), (30, 2))
    hulls = np.concatenate([corner, corner + (20, 50)], 1)
    taken = np.array([[100, 100, 300, 140.0]])
    sizes = np.tile([38.0, 16.0], (30, 1))
    places = place_labels(hulls, sizes, 640, 360, taken)
    edges = np.concatenate([places, places + sizes], 1)
    assert np.isfinite(places).all()
    shared = common_area(edges, np.concatenate([edges, taken])) > 0
    assert (shared == np.eye(30, 31, dtype=bool)).all()
    assert (edges[:, :2] >= 0).all() and (edges[:, 2:] < (640, 360)).all()


def test_a_label_without_room_is_left_out_and_the_first_ones_choose_first():
    hulls = np.array([[5, 20, 15, 30.0]] * 8)
    places = place_labels(hulls, np.tile([18.0, 12.0], (8, 1)), 22, 50)
    assert np.isfinite(places[0]).all() and np.isnan(places).any()


def test_texts_are_written_beside_their_things():
    picture = np.full((60, 120, 3), 128, np.uint8)
    edges = write_labels(picture, ['', '0.75'], np.array([[0, 0, 5, 5], [50, 30, 70, 50.0]]), [RED, GREEN])
    assert len(edges) == 1 and edges[0, 3] <= 30
    rows, columns = ink(picture, GREEN)
    assert len(rows) > 10 and rows.max() < 30 and not len(ink(picture, RED)[0])


def test_trails_end_at_the_near_plane_and_fade():
    picture = image()
    lines = np.array([[[10, -3, 0], [10, -1, 0]], [[10, 1, 0], [10, 3, 0]], [[-5, 0, 0], [5, 0, 0]]], float)
    draw_trails_on_image(picture, lines, np.array([GREEN] * 3), np.array([0, .9, 0]), CAMERA)
    assert picture[40, 70, 1] > 200 and not picture[40, 50].any()
    assert 60 < picture[40, 30, 1] < 200 and picture[40, 30, 0] > 60


def test_a_legend_has_a_line_for_each_named_layer():
    layers = [BoxLayer(box(), GREEN, name='found'), BoxLayer(np.zeros((0, 7)), RED, dashed=True, name='missed'),
              BoxLayer(box(), (9, 9, 9))]
    strip = legend(layers, 300)
    found, missed = (len(ink(strip, color)[1]) for color in (GREEN, RED))
    assert strip.shape[1] == 300 and found > missed > 0
    assert len(legend(layers, 120)) > len(strip) and legend([], 300).shape[1] == 300


# --- in space --------------------------------------------------------------------------------------------------------
def test_lines_behind_points_are_faint_and_those_before_them_bright():
    view = View((0, 0, 0), (1, 0, 0), fov=90)
    points = np.array([[5.0, 0, 0]])
    visible = np.full((100, 100), -1)
    visible[:, 50:] = 0  # a wall 5 m away at the right
    picture = np.zeros((100, 100, 3), np.uint8)
    draw_boxes_in_view(picture, visible, points, [BoxLayer(box(10.0, 0, 0, 2, 6, 6), GREEN)], view)
    edge = 3 / 9 * 50
    left, right = picture[50, round(49.5 - edge)], picture[50, round(49.5 + edge)]
    assert left[1] > 150 and 0.3 * 255 * HIDDEN < right[1] <= 255 * HIDDEN + 1
    picture[:] = 0
    draw_boxes_in_view(picture, visible, points, [BoxLayer(box(3.0, 0, 0, 1, 2, 2), GREEN)], view)
    assert picture[50, 69:71, 1].max() > 150


def test_a_parallel_view_hides_lines_too():
    view = View((0, 0, 50), (0, 0, 0), up=(1, 0, 0), fov=0, height=20)
    visible = np.zeros((100, 100), np.int64)
    for z, bright in ((3.0, False), (0.0, True)):  # of the plane of points
        picture = np.zeros((100, 100, 3), np.uint8)
        draw_boxes_in_view(picture, visible, np.array([[0, 0, z]]), [BoxLayer(box(0, 0, 1, 8, 8, 1), RED)], view)
        column = picture[50].max(-1)
        assert (column.max() > 150) == bright and column.any()
        assert abs(np.argmax(column[:50]) - (49.5 - 4 * 5)) <= 1
