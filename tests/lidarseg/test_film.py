"""Films of drives: where the cameras stand, what stays visible, which colours."""
import numpy as np
import pytest

from perception.common.formats.kitti import write_calib, write_labels, write_points, write_poses
from perception.common.visual.points import vulkan_problem
from perception.lidarseg.datasets.folder.reader import PointFolder
from perception.lidarseg.datasets.semantickitti.reader import CLASSES, PALETTE, SemanticKITTI, lidar_poses, to_raw_ids
from perception.lidarseg.film import (
    CAR,
    DIM,
    HISTORY,
    Film,
    Past,
    car_outline,
    moved,
    smoothed,
    stand_beside,
)
from perception.lidarseg.predictor import LidarPredictor
from perception.utils.errors import ConfigError, DataError

pytest.importorskip('open3d')
needs_vulkan = pytest.mark.skipif(vulkan_problem() is not None, reason=f'{vulkan_problem()} here')
TR = np.array([[0, -1, 0, 0.1], [0, 0, -1, 0.2], [1, 0, 0, 0.3], [0, 0, 0, 1.0]])


def drive(frames=12, step=2.0, turn=0.05):
    """Poses (F, 4, 4) of a car that turns left."""
    poses = np.tile(np.eye(4), (frames, 1, 1))
    for i in range(1, frames):
        cos, sin = np.cos(turn), np.sin(turn)
        poses[i] = poses[i - 1] @ np.array([[cos, -sin, 0, step], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    return poses


def wall(rows=900, ahead=12.0):
    """Points of a wall ahead, and their labels: building."""
    rng = np.random.default_rng(0)
    points = np.stack([np.full(rows, ahead), rng.uniform(-4, 4, rows), rng.uniform(-1.5, 2, rows)], 1)
    return points, np.full(rows, 12)


@pytest.fixture
def sequence(tmp_path):
    """Three scans with labels and poses in the official layout."""
    folder = tmp_path / 'sequences/08'
    for name in ('velodyne', 'labels'):
        (folder / name).mkdir(parents=True)
    for i in range(3):
        points, labels = wall()
        write_points(folder / f'velodyne/{i:06d}.bin', np.pad(points, ((0, 0), (0, 1))))
        write_labels(folder / f'labels/{i:06d}.label', to_raw_ids(labels, 'test'))
    write_calib(folder / 'calib.txt', dict(Tr=TR))
    write_poses(folder / 'poses.txt', TR @ drive(3) @ np.linalg.inv(TR))
    return folder


def pictures(*arguments, **options):
    return LidarPredictor(None, dict(type=SemanticKITTI)).pictures(*arguments, **options)


def has(image, color):
    return (image == np.array(color)).all(-1).sum()


# --- poses and cameras -----------------------------------------------------------------------------------------------
def test_poses_of_the_official_files_lead_from_lidar_to_lidar(sequence):
    files = sorted((sequence / 'velodyne').glob('*'))
    np.testing.assert_allclose(SemanticKITTI.scan_poses(files, {}), drive(3), atol=1e-9)
    np.testing.assert_allclose(SemanticKITTI.scan_poses(files[1:], {}), lidar_poses(sequence, 3)[1:], atol=1e-12)
    (sequence / 'calib.txt').unlink()
    assert SemanticKITTI.scan_poses(files, {}) is None


def test_too_few_poses_are_one_sentence(sequence):
    write_poses(sequence / 'poses.txt', drive(2))
    with pytest.raises(DataError, match=r'poses\.txt: 2 poses for 3 scans'):
        SemanticKITTI.scan_poses(sorted((sequence / 'velodyne').glob('*')), {})


@pytest.mark.parametrize('frames', [1, 2, 5, 40])
def test_a_smooth_camera_stays_near_the_car_and_is_level(frames):
    poses = drive(frames, step=0.5, turn=0.0)
    poses[:, 2, 3] = np.linspace(0, 1, frames)
    calm = smoothed(poses)
    np.testing.assert_allclose(calm[:, :3, 3], poses[:, :3, 3], atol=1e-9)  # a straight line stays what it is
    np.testing.assert_allclose(calm[:, :3, :3] @ calm[:, :3, :3].transpose(0, 2, 1), np.tile(np.eye(3), (frames, 1, 1)),
                               atol=1e-12)
    rng = np.random.default_rng(0)
    shaken = poses.copy()
    shaken[:, 1, 3] += rng.normal(scale=0.1, size=frames)
    if frames == 40:
        assert smoothed(shaken)[8:-8, 1, 3].std() < 0.6 * shaken[8:-8, 1, 3].std()


@pytest.mark.parametrize(('frames', 'step'), [(1, 0.0), (12, 2.0), (400, 1.0)], ids=['standing', 'short', 'long'])
def test_a_fixed_camera_sees_the_middle_of_the_drive(frames, step):
    poses = drive(frames, step, 0.0)
    view = stand_beside(poses)
    middle = poses[len(poses) // 2, :3, 3]
    forward = np.subtract(view.target, view.eye) / np.linalg.norm(np.subtract(view.target, view.eye))
    to_middle = middle - view.eye
    assert np.degrees(np.arccos(forward @ to_middle / np.linalg.norm(to_middle))) < 15
    assert view.eye[2] > 8 and view.eye[1] < -5 and np.linalg.norm(to_middle) < 80  # above, at the right of the road


def test_the_newest_point_of_each_cube_stays_for_some_scans():
    rng, past, newest = np.random.default_rng(0), Past(), {}
    for age in range(HISTORY + 5):
        points = rng.uniform(-3, 3, (300, 3)) + [age % 3, 0, 0]
        past.add(points, np.full((300, 1), age))
        seen = {}
        for cell in map(tuple, np.floor(points / 0.2).astype(int)):
            seen[cell] = age
        newest.update(seen)
    newest = {cell: age for cell, age in newest.items() if age > 4}
    found = {tuple(cell): age for cell, age in zip(np.floor(past.points / 0.2).astype(int), past.values[:, 0])}
    assert found == newest and len(past.points) == len(newest)
    past.add(np.zeros((0, 3)), np.zeros((0, 1), np.int64))
    assert 0 < len(past.points) < len(newest)


def test_the_outline_is_a_box_around_the_sensor():
    points = car_outline()
    assert (points.min(0) < 0).all() and (points.max(0)[:2] > 0).all() and len(points) == 12 * 90


# --- frames ----------------------------------------------------------------------------------------------------------
@needs_vulkan
@pytest.mark.parametrize('camera', ['follow', 'fixed'])
def test_earlier_scans_stay_visible_but_darker(camera):
    film, (points, labels) = Film(camera, drive(3, 4.0, 0.0), CLASSES, PALETTE), wall()
    bright, dark = PALETTE[12], (np.array(PALETTE[12]) * DIM).astype(np.uint8)
    first = film.frame(0, points, labels)[58:778]
    moved_on = film.frame(1, points, labels)[58:778]
    assert has(first, bright) and not has(first, dark)
    assert has(moved_on, bright) and has(moved_on, dark) > 100
    assert has(first, CAR) > 100 and has(moved_on, CAR) > 100
    assert film.frame(2, points, labels).shape == (952, 1280, 3)


@needs_vulkan
def test_the_fixed_camera_sees_the_car_move_and_the_other_one_does_not():
    points, labels = wall(ahead=40.0)
    shift = {}
    for camera in ('follow', 'fixed'):
        film = Film(camera, drive(2, 6.0, 0.0), CLASSES, PALETTE)
        places = [np.argwhere((film.frame(i, points, labels)[58:778] == CAR).all(-1)).mean(0) for i in range(2)]
        shift[camera] = np.linalg.norm(places[1] - places[0])
    assert shift['follow'] < 2 < 30 < shift['fixed']


@needs_vulkan
def test_with_prediction_and_truth_errors_stand_beside():
    points, labels = wall()
    pred_labels = np.where(np.arange(len(labels)) % 2, labels, 0)
    image = Film('follow', None, CLASSES, PALETTE).frame(0, points, pred_labels, labels, 'title')
    assert image.shape[1] == 1924
    left, right = image[58:598, :960], image[58:598, 964:]
    assert has(left, PALETTE[0]) and has(left, PALETTE[12]) and not has(left, (255, 40, 40))
    assert has(right, (255, 40, 40)) and has(right, (150, 150, 156)) and not has(right, PALETTE[12])


@needs_vulkan
def test_it_is_said_why_points_are_dark(monkeypatch):
    notes = []
    monkeypatch.setattr('perception.lidarseg.film.canvas.titled', lambda panel, name, note: notes.append(note) or panel)
    points, labels = wall()
    for poses in (None, np.eye(4)[None]):
        Film('follow', poses, CLASSES, PALETTE).frame(0, points, labels, labels)
    assert notes == ['', 'wrong red, right grey, ignored dark', 'earlier scans darkened',
                     'wrong red, right grey, ignored and earlier scans dark']


@needs_vulkan
def test_without_labels_points_are_coloured_by_height_and_empty_scans_are_drawn():
    film = Film('follow', drive(2), CLASSES, PALETTE)
    image = film.frame(0, np.zeros((0, 4)))
    assert image.shape == (804, 1280, 3) and has(image, CAR)
    assert len(np.unique(film.frame(1, wall()[0]).reshape(-1, 3), axis=0)) > 30


@needs_vulkan
def test_forward_may_be_another_axis():
    points, labels = wall()
    sideways = np.stack([-points[:, 1], points[:, 0], points[:, 2]], 1)  # nuScenes: x right, y forward
    quarter = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    usual = Film('follow', drive(2), CLASSES, PALETTE)
    turned = Film('follow', quarter @ drive(2) @ quarter.T, CLASSES, PALETTE, forward=np.pi / 2)
    for i in range(2):
        a, b = usual.frame(i, points, labels), turned.frame(i, sideways, labels)
        assert (a != b).any(-1).mean() < 0.01


@needs_vulkan
@pytest.mark.parametrize('camera', ['follow', 'fixed'])
def test_the_origin_may_be_on_the_ground_behind_the_sensor(camera):
    points, labels = wall()
    on_ground, poses = points + [1.43, 0, 1.73], drive(2)  # Waymo: the frame of the vehicle
    on_ground_poses = poses @ np.array([[1, 0, 0, -1.43], [0, 1, 0, 0], [0, 0, 1, -1.73], [0, 0, 0, 1.0]])
    usual = Film(camera, poses, CLASSES, PALETTE)
    film = Film(camera, on_ground_poses, CLASSES, PALETTE, height=0.0, ahead=1.43)
    for i in range(2):
        assert (usual.frame(i, points, labels) != film.frame(i, on_ground, labels)).any(-1).mean() < 0.01


@needs_vulkan
def test_a_folder_becomes_frames(sequence):
    frames = dict(pictures(sequence / 'velodyne', sequence / 'labels', 'fixed'))
    assert list(frames) == ['000000', '000001', '000002']
    assert all(has(image[58:778], PALETTE[12]) for image in frames.values())


# --- bad input -------------------------------------------------------------------------------------------------------
def test_bad_input_is_one_sentence(sequence, tmp_path):
    with pytest.raises(ConfigError, match="--view='fixe', expected one of plain, follow, fixed.*fixed"):
        next(pictures(sequence / 'velodyne', view='fixe'))
    with pytest.raises(DataError, match='--view fixed.*nothing tells'):  # each scan has a frame of its own
        next(LidarPredictor(None, dict(type=SemanticKITTI), origin='middle').pictures(sequence / 'velodyne',
                                                                                     view='fixed'))
    (sequence / 'poses.txt').unlink()
    with pytest.raises(DataError, match='--view fixed.*nothing tells the poses.*expected poses.txt and calib.txt'):
        next(pictures(sequence / 'velodyne', view='fixed'))
    with pytest.raises(DataError, match='--view fixed.*expected scans of a data set that tells poses'):
        next(LidarPredictor(None, dict(type=PointFolder, classes=['road'])).pictures(sequence / 'velodyne',
                                                                                     view='fixed'))
    with pytest.raises(DataError, match='a fixed camera without poses'):
        Film('fixed', None, CLASSES, PALETTE)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match=r'empty: no \.bin file in it'):
        next(pictures(tmp_path / 'empty', view='follow'))


def test_moving_points_is_a_rigid_motion():
    pose = drive(3)[2]
    np.testing.assert_allclose(moved(pose, np.array([[1.0, 2, 3]]))[0], (pose @ [1, 2, 3, 1])[:3])
