"""Pictures from above: forward is up, left is left, metres are metres."""
import numpy as np
import pytest

from perception.common.visual.bev import RING, BirdsEye, Trails
from perception.common.visual.boxes import BoxLayer
from perception.common.visual.points import BACKGROUND
from perception.utils.errors import ConfigError

GREEN, RED = (0, 255, 0), (255, 0, 0)


def view(**changes):
    """Ten pixels a metre, the sensor between columns 99 and 100 and rows 199 and 200."""
    return BirdsEye(**dict(dict(width=200, front=20, back=5, side=10), **changes))


def ink(picture, color):
    return np.nonzero(np.abs(picture.astype(int) - color).max(-1) < 90)


@pytest.mark.parametrize(('forward', 'ahead', 'left'), [
    (0, (1, 0), (0, 1)), (np.pi / 2, (0, 1), (-1, 0)), (np.pi, (-1, 0), (0, -1))], ids=['x', 'y', '-x'])
def test_forward_is_up_whatever_the_frame(forward, ahead, left):
    above = view(forward=forward)
    assert above.image.shape == (250, 200, 3)
    np.testing.assert_allclose(above.pixels(np.zeros((1, 2))), [[99.5, 199.5]])
    np.testing.assert_allclose(above.pixels(10 * np.array([ahead])), [[99.5, 99.5]], atol=1e-9)
    np.testing.assert_allclose(above.pixels(5 * np.array([left, left])), [[49.5, 199.5]] * 2, atol=1e-9)
    above.draw_points(np.array([[*np.multiply(ahead, 10.02), 0.5]]), np.array([GREEN]))
    assert tuple(above.image[99, 100]) == GREEN or tuple(above.image[99, 99]) == GREEN


def test_higher_points_lie_above_lower_ones_and_those_outside_are_left_out():
    above = view()
    points = np.array([[1, 1, 2.0, 9], [1, 1, -1, 9], [99, 0, 0, 9], [-99, 0, 0, 9], [0, 99, 0, 9]])
    above.draw_points(points, np.array([GREEN, RED, RED, RED, RED]))
    changed = np.argwhere((above.image != BACKGROUND).any(-1))
    assert len(changed) == 1 and tuple(above.image[tuple(changed[0])]) == GREEN
    above.draw_points(points)  # greys
    assert np.ptp(above.image[tuple(changed[0])].astype(int)) < 40
    above.draw_points(np.zeros((0, 4)))


def test_a_box_has_its_outline_and_a_line_to_its_front():
    above = view()
    above.draw_boxes(BoxLayer(np.array([[10, 0, 0, 4, 2, 1, 0.0]]), GREEN))
    rows, columns = ink(above.picture(), GREEN)
    assert (columns.min(), columns.max()) in {(88, 110), (89, 110), (89, 111), (90, 109), (90, 110)}
    assert abs(rows.max() - 119.5) <= 2  # its rear
    assert rows.min() < 78  # the line goes beyond its front
    assert not len(ink(above.picture()[103:117, 92:108], GREEN)[0])  # behind the middle there is none


def test_truth_is_dashed_and_predictions_are_not():
    amounts = []
    for dashed in (False, True):
        above = view()
        above.draw_boxes(BoxLayer(np.array([[10, 0, 0, 8, 8, 1, 0.3]]), GREEN, dashed=dashed))
        amounts.append(len(ink(above.picture(), GREEN)[0]))
    assert 0.4 * amounts[0] < amounts[1] < 0.8 * amounts[0]


def test_rings_tell_their_metres_beside_boxes():
    above = view()
    above.draw_rings(5)
    for metres in (5, 10, 15):
        assert np.abs(above.image[199 - 10 * metres:202 - 10 * metres, 99].astype(int) - RING).max(-1).min() < 40
    above = view()
    above.draw_rings(15)
    written = np.argwhere((above.picture() != above.image).any(-1))
    assert len(written) > 60
    ahead, aside = np.array([199.5, 99.5]) / 10 - (written.min(0) + written.max(0)) / 20
    above.draw_boxes(BoxLayer(np.array([[ahead, aside, 0, 0.5, 0.5, 1, 0]]), GREEN))
    low, high = above._labels[0][0].reshape(2, 2)[:, ::-1].astype(int)
    around = (slice(low[0], high[0] + 1), slice(low[1], high[1] + 1))
    assert (above.picture()[around] == above.image[around]).all()  # no metres over a box
    own = view()
    own.draw_rings()
    assert 1 < len(own._rings) <= 8


def test_texts_of_a_crowd_of_thirty_are_all_there():
    rng = np.random.default_rng(0)
    centers = np.repeat(rng.uniform((4, -15), (30, 15), (10, 2)), 3, 0) + rng.normal(0, .7, (30, 2))
    boxes = np.concatenate([centers, np.zeros((30, 1)), np.tile([.7, .6, 1.7], (30, 1)), np.zeros((30, 1))], 1)
    above = BirdsEye(900, 36, 2, 25)
    above.draw_boxes(BoxLayer(boxes, GREEN))
    without = above.picture()
    above._labels.clear()
    above.draw_boxes(BoxLayer(boxes, GREEN, [f'0.{i}' for i in range(10, 40)]))
    assert (above.picture() != without).any(-1).sum() > 30 * 40


@pytest.mark.parametrize(('changes', 'named'), [
    (dict(side=0), 'side=0'), (dict(width=-1), 'width=-1'), (dict(front=-5, back=5), 'front=-5'),
    (dict(side=0.1), 'at most 1.6 metres')])
def test_a_picture_of_nothing_or_like_a_ribbon_is_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        view(**changes)


def test_trails_join_the_places_of_each_track():
    trails = Trails(3)
    for step in range(5):
        trails.add([7, 9] if step != 3 else [7], np.array([[step, 0, 0.0], [step, 5, 0]])[:1 if step == 3 else 2])
    lines, ids, ages = trails.lines()
    assert ids.tolist() == [7, 7, 9]
    np.testing.assert_allclose(lines[:, :, 0], [[2, 3], [3, 4], [2, 4]])
    np.testing.assert_allclose(ages, [1 / 3, 0, 0])
    assert Trails().lines()[0].shape == (0, 2, 3)


def test_trails_stand_still_in_the_world_where_poses_are_known():
    trails = Trails()
    for step in range(3):  # the sensor turns and drives, the track stands at (10, 3)
        pose = np.eye(4)
        cos, sin = np.cos(step * .3), np.sin(step * .3)
        pose[:2, :2], pose[:2, 3] = [[cos, -sin], [sin, cos]], (step, 1)
        seen = np.linalg.inv(pose) @ (10, 3, 0, 1)
        trails.add([1], seen[None, :3], pose)
    np.testing.assert_allclose(trails.lines()[0], np.broadcast_to(seen[:3], (2, 2, 3)), atol=1e-12)


def test_old_ends_of_trails_are_faint():
    above = view()
    above.draw_trails(np.array([[[5, -5, 0], [5, -1, 0]], [[5, 1, 0], [5, 5, 0]]]), np.array([GREEN, GREEN]),
                      np.array([0, .95]))
    new, old = above.image[149:151, 130].max(), above.image[149:151, 70].max()
    assert new > 150 and 20 < old < 100
