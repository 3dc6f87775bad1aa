"""The mini nuScenes: layout, tables, labels, boxes and rig, with the development kit as judge."""
import json

import numpy as np
import pytest

from perception.common.formats import stamped
from perception.common.formats.images import read_image
from perception.common.nuscenes import mini as mini_nuscenes
from perception.common.nuscenes.mini import CAMERAS, inside, write_nuscenes_mini
from perception.common.nuscenes.poses import rigid
from perception.common.nuscenes.reader import read_index
from perception.common.nuscenes.tables import CATEGORIES, TABLES
from perception.common.scene.lidar import HDL32E
from perception.lidarseg.datasets.nuscenes.draw import draw_sheet, project_to_image
from perception.lidarseg.datasets.nuscenes.reader import CHALLENGE, CLASSES, NuScenesLidarSeg, read_sweep
from perception.utils.errors import DataError

KIT = pytest.importorskip('nuscenes', reason='nuscenes-devkit is not installed')
SMALL = dict(train_frames=1, val_frames=1, test_frames=1, train_scenes=1, test_scenes=1, columns=64, detail=.01,
             workers=1)


@pytest.fixture(scope='module')
def tables(mini_nuscenes):
    return KIT.NuScenes('v1.0-mini', str(mini_nuscenes), verbose=False)


def test_layout_and_stamp(mini_nuscenes):
    for version in ('v1.0-mini', 'v1.0-test'):
        assert {path.stem for path in (mini_nuscenes / version).iterdir()} == {*TABLES, 'lidarseg'}
    stamp = json.loads((mini_nuscenes / 'mini.json').read_text())
    assert stamp['simulated'] is True
    assert len(list((mini_nuscenes / 'lidarseg/v1.0-mini').iterdir())) == 5
    assert not list((mini_nuscenes / 'lidarseg/v1.0-test').iterdir())     # test labels are not public
    for camera in CAMERAS:
        images = sorted((mini_nuscenes / 'samples' / camera.channel).iterdir())
        assert len(images) == 6
        assert read_image(images[0]).shape == (900, 1600, 3)


def test_the_development_kit_reads_scenes_and_finds_its_way(tables):
    assert {scene['name'] for scene in tables.scene} == {'scene-0061', 'scene-0103', 'scene-0916'}
    for scene in tables.scene:
        token, samples = scene['first_sample_token'], []
        while token:
            samples.append(tables.get('sample', token))
            token = samples[-1]['next']
        assert len(samples) == scene['nbr_samples']
        assert samples[-1]['token'] == scene['last_sample_token']
        for sample in samples:
            assert set(sample['data']) == {'LIDAR_TOP', *(camera.channel for camera in CAMERAS)}
            times = {name: tables.get('sample_data', token)['timestamp'] for name, token in sample['data'].items()}
            for camera in CAMERAS:
                assert times[camera.channel] - times['LIDAR_TOP'] == round(camera.delay * 1000)
    assert len({row['token'] for row in tables.ego_pose}) == len(tables.sample_data)


def test_sweeps_are_columns_of_32_rings(mini_nuscenes, shared):
    real = read_sweep(next((shared / 'real/nuscenes_frame').glob('*.pcd.bin')))
    frame = NuScenesLidarSeg(mini_nuscenes, 'mini_val').frames[1]
    points = read_sweep(mini_nuscenes / frame.points)
    assert points[:, 4].tolist() == np.tile(np.arange(32), 150).tolist()
    distance, far = np.linalg.norm(points[:, :3], axis=1), np.linalg.norm(real[:, :3], axis=1) > 1.3
    seen = distance > 1.3
    assert .65 < seen.mean() < .9
    assert .65 < far.mean() < .9
    elevation, real_elevation = (np.rad2deg(np.arcsin(p[:, 2] / np.maximum(d, 1e-6))) for p, d in (
        (points, distance), (real, np.linalg.norm(real[:, :3], axis=1))))
    for ring in range(32):
        ours = np.median(elevation[(points[:, 4] == ring) & seen])
        assert ours == pytest.approx(np.median(real_elevation[(real[:, 4] == ring) & far]), abs=.6)
    first, last = points[:32][seen[:32]], points[-32:][seen[-32:]]
    for end in (first, last):     # turns begin and end at the left
        assert np.abs(np.rad2deg(np.arctan2(end[:, 1], -end[:, 0]))).max() < 25
    quarter = points[len(points) // 4:len(points) // 4 + 32]
    assert np.median(quarter[np.linalg.norm(quarter[:, :3], axis=1) > 1.3, 1]) > 2     # then they come to the front
    assert (points[:, 3] == np.round(points[:, 3])).all()
    assert points[:, 3].min() >= 0
    assert points[:, 3].max() <= 255


def test_points_that_never_came_back_lie_on_the_ego_s_way(mini_nuscenes):
    data = NuScenesLidarSeg(mini_nuscenes, 'mini_val')
    points = read_sweep(mini_nuscenes / data.frames[1].points)
    fine = np.fromfile(mini_nuscenes / data.frames[1].labels, np.uint8)
    names = np.array(list(CATEGORIES))[fine]
    distance = np.linalg.norm(points[:, :3], axis=1)
    assert set(names[distance < 1.3]) == {'noise', 'vehicle.ego'}
    assert (distance[names == 'vehicle.ego'] < 1.3).all()
    lost = (names == 'noise') & (distance < 1.3)
    column = np.arange(len(points)) // 32
    early, late = (np.median(points[lost & part, 1]) for part in (column < 30, column > 120))
    assert early < late - .1     # the car drove on
    assert abs(late) < .15


def test_all_classes_occur(mini_nuscenes):
    data = NuScenesLidarSeg(mini_nuscenes, 'mini_val')
    counts = sum(np.bincount(data[i]['data_samples'].labels, minlength=256) for i in range(len(data)))
    assert not [name for name, count in zip(CLASSES, counts) if count == 0]


def test_boxes_hold_the_points_of_their_class(mini_nuscenes, tables):
    from nuscenes.utils.geometry_utils import points_in_box
    data = NuScenesLidarSeg(mini_nuscenes, 'mini_val')
    checked = 0
    for index, frame in enumerate(data.frames[:2]):
        points = read_sweep(mini_nuscenes / frame.points)
        labels = data[index]['data_samples'].labels.numpy()
        returned = np.linalg.norm(points[:, :3], axis=1) > HDL32E.min_range
        for box in tables.get_sample_data(frame.token)[1]:
            record = tables.get('sample_annotation', box.token)
            within = points_in_box(box, points[:, :3].T) & returned
            assert abs(int(within.sum()) - record['num_lidar_pts']) <= 1
            coarse = CHALLENGE.get(box.name)
            if within.sum() >= 20 and coarse not in (None, 'pedestrian'):
                share = (labels[within] == CLASSES.index(coarse)).mean()
                assert share > (.5 if coarse in ('bicycle', 'motorcycle', 'construction_vehicle', 'car') else .8)
                checked += 1
    assert checked > 2


def test_boxes_have_chains_attributes_and_velocities(tables):
    moving = {tables.get('attribute', token)['name'] for row in tables.sample_annotation
              for token in row['attribute_tokens']}
    assert {'vehicle.moving', 'vehicle.parked', 'pedestrian.moving', 'pedestrian.standing', 'cycle.with_rider',
            'cycle.without_rider'} <= moving
    speeds = []
    for instance in tables.instance:
        token, count = instance['first_annotation_token'], 0
        while token:
            row = tables.get('sample_annotation', token)
            assert row['instance_token'] == instance['token']
            names = {tables.get('attribute', t)['name'] for t in row['attribute_tokens']}
            if instance['nbr_annotations'] > 1 and 'vehicle.moving' in names:
                speeds.append(float(np.linalg.norm(tables.box_velocity(token))))
            token, count = row['next'], count + 1
        assert count == instance['nbr_annotations']
    assert np.median(speeds) > 2
    assert {row['visibility_token'] for row in tables.sample_annotation} <= {'1', '2', '3', '4'}


def test_static_points_meet_between_key_frames(mini_nuscenes, tables):
    """Poses are right: the ego moved by metres, but the road of two key frames is one surface in the map."""
    data = NuScenesLidarSeg(mini_nuscenes, 'mini_val')
    clouds, places = [], []
    for index in range(2):
        record = tables.get('sample_data', data.frames[index].token)
        ego = rigid(tables.get('ego_pose', record['ego_pose_token']), 'ego')
        pose = ego @ rigid(tables.get('calibrated_sensor', record['calibrated_sensor_token']), 'sensor')
        sample = data[index]
        road = sample['data_samples'].labels.numpy() == CLASSES.index('driveable_surface')
        points = sample['inputs']['points'].numpy()[road, :3]
        points = points[np.linalg.norm(points, axis=1) < 15]
        clouds.append(points @ pose[:3, :3].T + pose[:3, 3])
        places.append(ego[:3, 3])
    assert 3 < np.linalg.norm(places[1] - places[0]) < 20
    assert min(place.min() for place in (places[0][:2], places[1][:2])) > 0     # maps have no negative coordinates
    gap = np.linalg.norm(clouds[0][:, None, :2] - clouds[1][None, :, :2], axis=2)
    near = gap.min(1) < .3
    assert near.sum() > 20
    heights = clouds[0][near, 2] - clouds[1][gap.argmin(1)[near], 2]
    assert np.abs(heights).mean() < .05


def test_maps_cover_the_ego(mini_nuscenes, tables):
    for record in tables.sample_data[:14]:
        sample = tables.get('sample', record['sample_token'])
        log = tables.get('log', tables.get('scene', sample['scene_token'])['log_token'])
        mask = tables.get('map', log['map_token'])['mask']
        x, y = tables.get('ego_pose', record['ego_pose_token'])['translation'][:2]
        assert mask.is_on_mask(np.array([x]), np.array([y]))[0]
        assert not mask.is_on_mask(np.array([x]), np.array([y - 45]))[0] or not mask.is_on_mask(
            np.array([x - 45]), np.array([y]))[0]


def test_points_of_people_and_vehicles_fall_on_them(mini_nuscenes, tables):
    """Boxes and points meet in the images: a car's points lie inside its box there."""
    data = NuScenesLidarSeg(mini_nuscenes, 'mini_val')
    sample = data[0]
    points, labels = sample['inputs']['points'].numpy(), sample['data_samples'].labels.numpy()
    hits = 0
    index = read_index(mini_nuscenes, 'v1.0-mini')
    for channel, view in index.views(data.frames[0].row).items():
        token = tables.get('sample', tables.get('sample_data', data.frames[0].token)['sample_token'])['data'][channel]
        boxes = [box for box in tables.get_sample_data(token)[1] if box.name == 'vehicle.car']
        rows, pixels, _ = project_to_image(points, view)
        cars = pixels[labels[rows] == CLASSES.index('car')]
        outlines = []
        for box in boxes:
            corners = view.cam_to_img @ box.corners()
            outlines.append((corners[:2] / corners[2:]).T)
        for pixel in cars:
            hits += any((low.min(0) - 12 < pixel).all() and (pixel < low.max(0) + 12).all() for low in outlines)
        assert len(cars) == 0 or boxes
    assert hits > 20


def test_inside_a_box():
    box = np.array([10, 0, 0, 4, 2, 1.5, np.pi / 2])
    points = np.array([[10, 1.9, .1], [10, 2.1, .1], [10.9, 0, 1.4], [11.1, 0, 1], [10, 0, -.1], [10, 0, 1.6]])
    assert inside(points, box).tolist() == [True, False, True, False, False, False]


# --- the writer ------------------------------------------------------------------------------------------------------
def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(mini_nuscenes, 'VAL_SCENES', ())
    first = write_nuscenes_mini(tmp_path / 'a', **SMALL)
    before = files(first)
    stamp = (first / 'mini.json').stat().st_mtime_ns
    write_nuscenes_mini(tmp_path / 'a', **SMALL)     # complete, so it is kept
    assert (first / 'mini.json').stat().st_mtime_ns == stamp
    assert files(write_nuscenes_mini(tmp_path / 'b', **dict(SMALL, workers=2))) == before


def test_it_says_that_the_data_are_simulated(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(stamped, 'print_log', lambda text, logger=None: said.append(text))
    monkeypatch.setattr(mini_nuscenes, '_write_all', lambda root, **more: (root / 'x').touch())
    write_nuscenes_mini(tmp_path / 'a', **SMALL)
    assert len(said) == 1
    assert 'SIMULATED' in said[0]


@pytest.mark.parametrize('bad', [dict(seed=-1), dict(train_frames=0), dict(val_frames=41), dict(train_scenes=9),
                                 dict(test_scenes=0), dict(columns=3), dict(detail=2.0), dict(workers=-1)])
def test_arguments_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(DataError, match='expected'):
        write_nuscenes_mini(tmp_path / 'a', **dict(SMALL, **bad))
    assert not list(tmp_path.iterdir())


def test_a_sheet_shows_each_scene(mini_nuscenes, tmp_path):
    image = read_image(draw_sheet(mini_nuscenes, tmp_path / 'sheet.png'))
    assert image.shape[0] > 3 * 360
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100
