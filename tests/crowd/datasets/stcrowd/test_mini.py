"""The mini STCrowd: layout, names, labels, what they mean, and both sensors' agreement."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from perception.common.boxes import points_in_boxes
from perception.common.scene.camera import pixel_rays, project
from perception.common.scene.lidar import sensor_pose
from perception.crowd.datasets.stcrowd.mini import (
    CAMERA,
    INTERVAL,
    LEAST_POINTS,
    PROJECTION,
    REACH,
    TO_CAMERA,
    ZED,
    Job,
    SequenceWriter,
    corners_of,
    draw_sheet,
    to_image,
    write_sequence,
    write_stcrowd_mini,
)
from perception.utils.errors import DataError

SMALL = dict(train_sequences=2, train_frames=2, val_sequences=1, val_frames=1, test_sequences=1, test_frames=1,
             detail=.05, workers=1)


@pytest.fixture(scope='module')
def mini(tmp_path_factory):
    return write_stcrowd_mini(tmp_path_factory.mktemp('stcrowd') / 'data', **SMALL)


@pytest.fixture(scope='module')
def frames(mini):
    return [frame for file in sorted(mini.glob('anno/*.json')) for frame in json.loads(file.read_text())['frames']]


@pytest.fixture(scope='module')
def writer():
    """The second training sequence, as its writer knows it."""
    return SequenceWriter(Job(Path('nowhere'), 0, 9, 1, 2, 2048, .1, True))


def box(item):
    return np.array([*item['position'].values(), *item['boundingbox'].values(), item['rotation']])


def read(mini, frame):
    return np.fromfile(mini / frame['frame_name'], '<f4').reshape(-1, 4)


def test_layout_is_the_official_one(mini):
    assert json.loads((mini / 'split.json').read_text()) == dict(train=[3, 9], val=[33], test=[32])
    assert json.loads((mini / 'camera.json').read_text()) == CAMERA
    assert {path.name for path in (mini / 'anno').iterdir()} == {'3.json', '9.json', '33.json'}     # no test labels
    counts = {'3': 2, '9': 2, '33': 1, '32': 1}
    for folder, suffix in (('left', 'jpg'), ('right', 'jpg'), ('pcd', 'bin')):
        assert {path.name: len(list(path.glob(f'*.{suffix}'))) for path in (mini / folder).iterdir()} == counts
    assert json.loads((mini / 'mini.json').read_text())['simulated'] is True


def test_records_name_files_and_types_as_the_official_ones_do(mini):
    anno = json.loads((mini / 'anno/9.json').read_text())
    assert set(anno) == {'group_id', 'total_number', 'scene_class', 'frames'}
    assert (anno['group_id'], anno['total_number'], len(anno['frames'])) == (9, 2, 2)
    for index, frame in enumerate(anno['frames']):
        assert set(frame) == {'frameId', 'frame_name', 'items', 'images'}
        left, right = frame['images']
        assert frame['frameId'] == index
        assert left['image_name'].startswith(f'left/9/{14 + 6 * index}_1617250')
        assert (right['image_name'].split('/')[0], right['class'], right.get('items', [])) == ('right', 'left', [])
        assert Path(frame['frame_name']).stem not in left['image_name']
        assert cv2.imread(str(mini / left['image_name'])).shape == (720, 1280, 3)
        assert cv2.imread(str(mini / right['image_name'])).shape == (720, 1280, 3)
        assert {'id', 'number', 'category', 'position', 'boundingbox', 'rotation', 'occlusion', 'pointCount'} <= \
            set(frame['items'][0])
        assert set(left['items'][0]) == {'id', 'number', 'occlusion', 'points', 'boundingbox', 'dimension'}
    stamps = [float(Path(frame['frame_name']).stem) for frame in anno['frames']]
    assert np.diff(stamps) == pytest.approx(INTERVAL, abs=1e-6)
    ids = {type(item['id']) for file in mini.glob('anno/*.json') for frame in json.loads(file.read_text())['frames']
           for item in frame['items']}
    assert ids == {str}      # of odd sequences


def test_people_are_as_many_and_as_close_as_in_the_real_set(mini, frames):
    counts = [len(frame['items']) for frame in frames]
    assert np.mean(counts) == pytest.approx(20, abs=4)
    levels = np.bincount([item['occlusion'] for frame in frames for item in frame['items']], minlength=3)
    assert levels.min() / levels.sum() > .15
    assert levels.argmax() == 0
    neighbours = []
    for frame in frames:
        spots = np.array([box(item)[:2] for item in frame['items']])
        neighbours += [len(found) - 1 for found in cKDTree(spots).query_ball_point(spots, 2)]
    assert 1.8 < np.mean(neighbours) < 3.5


def test_labels_lie_ahead_and_count_their_points(mini, frames):
    for frame in frames:
        points = read(mini, frame)
        boxes = np.array([box(item) for item in frame['items']])
        assert np.isfinite(points).all()
        assert 100_000 < len(points) < 262_144
        assert points[:, 0].min() < -20      # the whole turn
        assert (boxes[:, 0] >= 0).all()
        assert (np.hypot(boxes[:, 0], boxes[:, 1]) <= REACH).all()
        for row, item in zip(boxes, frame['items']):
            off = points[:, :3] - row[:3]
            cos, sin = np.cos(row[6]), np.sin(row[6])
            local = np.stack([off[:, 0] * cos + off[:, 1] * sin, off[:, 1] * cos - off[:, 0] * sin, off[:, 2]], 1)
            assert (np.abs(local) <= row[3:6] / 2).all(1).sum() == pytest.approx(item['pointCount'], abs=1)
            assert item['pointCount'] >= .8 * LEAST_POINTS
            assert item['category'] == 'person'
    heights = np.array([box(item)[5] for frame in frames for item in frame['items']])
    assert .02 < (heights < 1.2).mean() < .3


def test_the_same_person_keeps_ids_and_size_and_some_are_in_the_image_alone(mini):
    first, second = json.loads((mini / 'anno/3.json').read_text())['frames']
    later = {item['id']: item for item in second['items']}
    both = [(item, later[item['id']]) for item in first['items'] if item['id'] in later]
    assert len(both) > 8
    for one, other in both:
        assert one['boundingbox'] == other['boundingbox']
        assert one['number'] == other['number']
        assert np.hypot(*(box(one) - box(other))[:2]) < 1.2
    for frame in (first, second):
        known = {str(item['number']): item for item in frame['items']}
        in_image = {str(item['number']): item for item in frame['images'][0]['items']}
        assert set(in_image) - set(known)
        assert set(known) - set(in_image)
        for number in set(known) & set(in_image):
            corners = np.array([[p['x'], p['y']] for p in in_image[number]['points']])
            assert np.abs(to_image(corners_of(box(known[number])))[0] - corners).max() < .05


def test_2d_boxes_are_given_by_their_middle(frames):
    shares = []
    for item in (item for frame in frames for item in frame['images'][0]['items']):
        corners = np.clip([[p['x'], p['y']] for p in item['points']], 0, (1280, 720))
        middle, size = (np.array(list(item[key].values())) for key in ('boundingbox', 'dimension'))
        overlap = np.prod(np.clip(np.minimum(corners.max(0), middle + size / 2) -
                                  np.maximum(corners.min(0), middle - size / 2), 0, None))
        shares.append(overlap / (np.prod(np.ptp(corners, axis=0)) + np.prod(size) - overlap))
    assert len(shares) > 30
    assert np.mean(shares) > .6


def test_the_calibration_projects_as_published():
    points = np.array([[10, 0, 0], [10, 2, -.5], [5, -3, -1], [20, 5, 0], [10, 8, 0]], float)
    pixels, depth = to_image(points)
    expected = [(683.67, 334.07), (546.49, 369.33), (1104.21, 459.97), (510.18, 340.22), (135.94, 337.47)]
    assert pixels == pytest.approx(np.array(expected), abs=.01)
    assert depth == pytest.approx([9.92, 9.96, 4.94, 19.95, 9.99], abs=.01)
    assert PROJECTION.shape == (3, 4)


def test_points_of_people_lie_in_their_boxes_and_where_the_camera_sees_them(writer):
    pose = sensor_pose(writer.world.drive.pose(0.0), writer.spec)
    writer.caster.set_actors(writer.world.frame(0.0))
    found = writer._scan(0.0, pose, 0)
    items = {int(item['number']): box(item) for item in writer._items(0.0, pose, found)[0]}
    eye, within = pose @ np.linalg.inv(TO_CAMERA), []
    for number, row in items.items():
        own = found.points[found.instance == writer.people[number - 1].instance, :3]
        within.append([points_in_boxes(own, row[None])[1][0], len(own)])
        row[3:6] += .2
        assert points_in_boxes(own, row[None])[1][0] >= .9 * len(own)      # mixed pixels lie behind thin legs
    within = np.array(within).sum(0)
    assert within[0] / within[1] > .95
    people = np.isin(found.instance, [actor.instance for actor in writer.people])
    points, instance = found.points[people & (found.points[:, 0] > 2), :3], found.instance[
        people & (found.points[:, 0] > 2)]
    pixels, _ = to_image(points)
    inner = ((pixels > 2) & (pixels < [1277, 717])).all(1)
    pixels, points, instance = pixels[inner], points[inner], instance[inner]
    assert len(points) > 500
    world = points @ pose[:3, :3].T + pose[:3, 3]
    assert np.abs(project(world, eye, ZED)[0] - .5 - pixels).max() < .25
    seen = np.zeros(len(points), bool)
    for u, v in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        rays = pixel_rays(eye, ZED, pixels[:, 1] + .5 + v, pixels[:, 0] + .5 + u)
        start = np.broadcast_to(eye[:3, 3].astype(np.float32), rays.shape)
        seen |= writer.caster.cast(start, rays).instance == instance
    assert seen.mean() > .97


def test_the_same_seed_gives_the_same_bytes_whatever_else_there_is(mini, tmp_path):
    (tmp_path / 'anno').mkdir()
    write_sequence(Job(tmp_path, 0, 33, 0, 1, 2048, .05, True))
    files = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert len(files) == 4
    assert all(path.read_bytes() == (mini / path.relative_to(tmp_path)).read_bytes() for path in files)


@pytest.mark.parametrize(('options', 'words'), [
    (dict(train_sequences=0), 'train_sequences=0.*1 to 16 sequences'), (dict(val_frames=101), 'val_frames=101'),
    (dict(columns=8), 'columns=8'), (dict(seed=-1), 'seed=-1'), (dict(detail=2), 'detail=2'),
    (dict(workers=-1), 'workers=-1')])
def test_impossible_arguments_are_refused(tmp_path, options, words):
    with pytest.raises(DataError, match=words):
        write_stcrowd_mini(tmp_path / 'data', **options)


def test_some_sequences_are_wet_and_ids_are_numbers_in_even_ones(tmp_path):
    jobs = [Job(tmp_path, 0, 3, index, 1, 64, .05, True) for index in range(10)]
    assert [job.rain for job in jobs] == [0, 0, .6, 0, 0, 0, .9, 0, 0, 0]


def test_a_sheet_shows_each_labelled_sequence(mini, tmp_path):
    image = cv2.imread(str(draw_sheet(mini, tmp_path / 'sheet.png')))
    assert image.shape[0] > 2 * 396
    assert (image == (90, 200, 90)).all(-1).sum() > 500
    with pytest.raises(DataError, match='no anno'):
        draw_sheet(tmp_path, tmp_path / 'other.png')
