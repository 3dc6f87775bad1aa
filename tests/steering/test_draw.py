"""The path on the road by the camera's geometry, the wheel, the curves, films."""
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from perception.common.scene.camera import CameraSpec, camera_pose, project
from perception.common.structures import SteeringSample
from perception.steering.datasets.bdd.reader import BDDDriving
from perception.steering.datasets.comma.reader import CommaAI
from perception.steering.datasets.udacity.reader import UdacityCh2
from perception.steering.draw import (
    ERROR,
    PREDICTION,
    TRUTH,
    Car,
    DrawSteering,
    Moment,
    View,
    draw_actions,
    draw_curves,
    draw_moment,
    draw_path,
    draw_wheel,
    moments_of,
)


def colored(image, color):
    return (np.abs(image.astype(int) - color).max(-1) < 60)


@pytest.mark.parametrize('kind', [UdacityCh2, CommaAI, BDDDriving])
def test_places_on_the_ground_are_projected_as_the_scene_does(kind):
    view = View(**kind.METAINFO['camera'])
    spec = CameraSpec(**kind.METAINFO['camera'])
    ground = np.array([[5., 1], [12, -3], [30, 0]])
    expected, _ = project(np.c_[ground, np.zeros(3)], camera_pose(np.eye(4), spec), spec)
    assert np.allclose(view.project(ground, (view.height, view.width)), expected - .5)
    half = view.project(ground, (view.height // 2, view.width // 4))  # as in a clip, of other proportions
    assert np.allclose((half + .5) * (4, 2), expected, atol=1e-6)


def test_a_held_wheel_drives_a_circle():
    car = Car(wheelbase=3.0, ratio=15.0, understeer=0.0)
    path = car.path(150.0)  # road wheels at 10 degrees
    radius = 3 / np.tan(np.radians(10))
    assert np.allclose(np.hypot(path[:, 0], path[:, 1] - radius), radius) and path[5, 1] > 0
    assert np.allclose(np.hypot(*np.diff(path[:, :2], axis=0).T), .5, atol=1e-3)
    assert np.allclose(car.path(0.0)[:, 1], 0) and np.allclose(car.path(-150.0)[:, 1], -path[:, 1])
    assert np.abs(Car().path(150., 20.)[:, 1]).max() < np.abs(Car().path(150., 0.)[:, 1]).max()


def test_a_left_turn_is_drawn_to_the_left():
    means = []
    for angle in (90., 0., -90.):
        image = np.zeros((240, 320, 3), np.uint8)
        draw_path(image, angle, PREDICTION, View(), Car())
        rows, columns = np.nonzero(image.any(-1))
        means.append(columns[rows < rows.min() + 20].mean())
        assert rows.max() > 200
    assert means[0] < 130 < 150 < means[1] < 170 < 190 < means[2]
    image = np.zeros((240, 320, 3), np.uint8)
    draw_path(image, np.nan, PREDICTION, View(), Car())
    assert not image.any()
    for angle in (1e5, -1e5):  # a wild guess is drawn, too
        draw_path(image, angle, PREDICTION, View(), Car())


def test_a_wheel_shows_both_angles():
    image = draw_wheel(200, 90., 0.)
    top = colored(image, TRUTH)[:40, 80:120].sum()
    left = colored(image, PREDICTION)[80:120, :40].sum()
    assert top > 20 and left > 100 and colored(image, PREDICTION)[80:120, 160:].sum() < left
    assert not colored(draw_wheel(200, 20.), TRUTH).any() and not colored(draw_wheel(200), PREDICTION).any()


def test_curves_leave_out_what_is_not_known():
    times = np.arange(100) / 10
    truth = 20 * np.sin(times)
    image = draw_curves(400, 100, times, truth + 2, truth)
    assert colored(image, PREDICTION).any() and colored(image, TRUTH).any()
    assert not colored(draw_curves(400, 100, times, truth, np.full(100, np.nan)), TRUTH).any()
    assert draw_curves(400, 100, times[:1], truth[:1], truth[:1]).shape == (100, 400, 3)


def test_without_truth_there_is_no_field_of_errors():
    times, unknown = np.arange(100) / 10, np.full(100, np.nan)
    alone, both = (draw_curves(400, 100, times, np.zeros(100), truth) for truth in (unknown, np.zeros(100)))
    curve = colored(alone, PREDICTION)
    assert curve[49:52].any() and not curve[20:45].any()  # the middle of it all
    assert colored(alone, PREDICTION)[:20].any() and not colored(alone, TRUTH).any()  # words tell the colours
    assert colored(both, ERROR)[62:].any() and not colored(alone, ERROR).any()
    assert (draw_curves(400, 100, times, unknown, unknown)[62] == alone[62]).all()


def test_actions_are_bars():
    image = draw_actions(300, 80, np.array([.1, .8, .05, .05]), BDDDriving.METAINFO['classes'], 1)
    widths = [colored(image, PREDICTION)[20 * k + 10].sum() for k in range(4)]
    assert widths[1] > 6 * widths[0] > 0 and colored(image, TRUTH)[20:40].any() and not colored(image, TRUTH)[:20].any()


def test_a_moment_of_any_image_size():
    past = [Moment(k / 10, 5. + k, 4. + k, 8.) for k in range(20)]
    for size in ((160, 160), (480, 640)):
        image = draw_moment(np.full((*size, 3), 90, np.uint8), past, UdacityCh2.METAINFO, 'HMB_1', 480)
        assert image.shape[1] == 480 and colored(image, PREDICTION).any() and colored(image, TRUTH).any()
    meta = BDDDriving.METAINFO
    image = draw_moment(np.zeros((160, 160, 3), np.uint8), [Moment(0., probs=np.full(4, .25), action=2)], meta)
    assert colored(image, TRUTH).any()


def test_a_path_has_the_predicted_speed_where_the_true_one_is_not_known():
    """Udacity's test has none; without any a car at 20 m/s would seem to turn twice as much."""
    unknown = dict(targets=torch.tensor([[60., np.nan, np.nan]]), pred_targets=torch.tensor([[60., 0, 20]]),
                   timestamps=[0.0])
    known = dict(unknown, targets=torch.tensor([[60., 0, 20]]), pred_targets=torch.tensor([[60., 0, 5]]))
    ours, theirs, still = (draw_moment(np.full((48, 64, 3), 90, np.uint8), past, UdacityCh2.METAINFO, width=320)[30:240]
                           for past in (moments_of(unknown), moments_of(known), [Moment(0., 60., 60.)]))
    assert np.array_equal(ours, theirs) and not np.array_equal(ours, still)


def test_recordings_become_films(tmp_path):
    draw = DrawSteering(tmp_path, width=160)
    draw.dataset_meta = UdacityCh2.METAINFO
    for start, scored in ((0, [True] * 4), (2, [False, False, True, True])):
        sample = SteeringSample(metainfo=dict(sample_id=f'a/{start}', recording='a', image_paths=[],
                                              frames=[str(start + k) for k in range(4)],
                                              timestamps=[(start + k) / 10 for k in range(4)]))
        sample.targets = sample.pred_targets = torch.zeros(4, 3)
        sample.scored = torch.tensor(scored)
        draw.process(dict(inputs=dict(clip=[torch.zeros(4, 3, 16, 16, dtype=torch.uint8)])), [sample.to_dict()])
    assert draw.evaluate(2) == {}
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / 'a.mp4'))
    assert count == 6 and seconds == pytest.approx(.6, abs=.05)
