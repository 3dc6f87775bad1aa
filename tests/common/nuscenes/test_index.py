"""The index of nuScenes: poses, images, sweeps and boxes, against the development kit, goldens and damaged tables."""
import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from perception.common.nuscenes import reader, tables
from perception.common.nuscenes.build import build_index
from perception.common.nuscenes.index import CAMERAS, Index
from perception.common.nuscenes.mini import CAMERAS as RIG
from perception.common.nuscenes.mini import LIDAR
from perception.common.nuscenes.poses import inverse_rigid, rigid, transforms
from perception.common.nuscenes.reader import read_index
from perception.common.nuscenes.tables import CATEGORIES
from perception.common.nuscenes.writer import SceneRows, Tables, token_of
from perception.utils.errors import DataError

FRAMES = 5
GONE = 'gone/../x'


def pose(x, yaw):
    """The ego at x, on a slope."""
    quaternion = np.array([np.cos(yaw / 2), .01, .02, np.sin(yaw / 2)])
    return transforms(np.array([x, 900 + x / 9, 1, *quaternion / np.linalg.norm(quaternion)]))


def scene_rows(name, labelled=True):
    """A scene of 5 key frames 0.5 s apart, 2 sweeps before each, a car and people who come and go."""
    rows = SceneRows(name, f'n{name}', 'maps/a.png', labelled)
    for frame in range(FRAMES):
        time = 10**15 + 500_000 * frame
        sample = rows.add_sample(time)
        for number in range(3):
            at = time - 100_000 + 50_000 * number
            rows.add_data(sample, LIDAR, at, pose(4 * frame + .4 * number, .1 * frame), 'pcd.bin')
            rows.tables['sample_data'][-1]['is_key_frame'] = number == 2
        for camera in RIG:
            rows.add_data(sample, camera, time + round(camera.delay * 1000), pose(
                4 * frame + .8 + camera.delay / 125, .1 * frame), 'jpg')
        if labelled:
            for instance, part, seen in ((1, 'car', range(5)), (2, 'person', (0, 3)), (3, 'barrier', (3,)),
                                         (4, 'person', (0, 4))):     # within 1.5 s, once, and 2 s apart
                if frame in seen:
                    box = np.array([20 + instance + 3 * frame, 905, .3, 4, 2 + instance / 9, 1.5, 6 * frame - instance])
                    rows.add_box(sample, part, instance, box, 5 * instance, .3 * instance, 2.0 * (instance % 2))
    rows.finish()
    return rows.tables


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Two scenes and their tables."""
    root = tmp_path_factory.mktemp('nuscenes')
    found = Tables(CATEGORIES, (LIDAR, *RIG))
    for name in ('scene-0103', 'scene-0061'):
        found.extend(scene_rows(name))
    found.rows.pop('lidarseg')
    found.save(root / 'v1.0-mini')
    (root / 'maps').mkdir()
    (root / 'maps/a.png').write_bytes(b'')
    return root


@pytest.fixture
def copy(whole, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / 'nuscenes'))


@pytest.fixture(scope='module')
def kit(whole):
    """The development kit's view of the same tables."""
    module = pytest.importorskip('nuscenes', reason='nuscenes-devkit is not installed')
    return module.NuScenes('v1.0-mini', str(whole), verbose=False)


def edit(root, name, change):
    path = root / f'v1.0-mini/{name}.json'
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def same(first: Index, second: Index) -> bool:
    return all(np.array_equal(getattr(first, field.name), getattr(second, field.name),
                              equal_nan=field.name in ('boxes', 'intrinsics', 'box_velocities'))
               for field in fields(Index))


# --- what a key frame has --------------------------------------------------------------------------------------------
def test_samples_stand_scene_by_scene_and_know_their_neighbours(whole):
    index = read_index(whole, 'v1.0-mini')
    frames = index.frames
    assert [frame.scene for frame in frames] == ['scene-0103'] * FRAMES + ['scene-0061'] * FRAMES
    assert [frame.previous for frame in frames] == [None, 0, 1, 2, 3, None, 5, 6, 7, 8]
    assert [frame.next for frame in frames] == [1, 2, 3, 4, None, 6, 7, 8, 9, None]
    assert [frame.row for frame in frames] == list(range(10))
    assert {frame.location for frame in frames} == {'singapore-onenorth'}
    assert frames[2].timestamp == 10**15 + 1_000_000
    assert frames[2].sample == token_of('scene-0103', 'sample', 10**15 + 1_000_000)
    assert index.row_of(frames[6].sample) == index.row_of(frames[6].token) == 6
    with pytest.raises(DataError, match="no key frame 'gone', expected the token of a sample"):
        index.row_of('gone')


def test_an_index_is_arrays_without_objects(whole):
    index = read_index(whole, 'v1.0-mini')
    for field in fields(Index):
        assert getattr(index, field.name).dtype.kind in 'ifUS', field.name
    assert index.box_offsets.tolist()[-1] == len(index.boxes)


def test_boxes_and_velocities_are_those_of_the_development_kit(whole, kit):
    index, unknown = read_index(whole, 'v1.0-mini'), 0
    for frame in index.frames:
        found = index.boxes_of(frame.row)
        boxes = kit.get_sample_data(frame.token)[1]
        records = [kit.get('sample_annotation', box.token) for box in boxes]
        assert len(boxes) == len(found.boxes)
        to_world = index.ego_to_world(frame.row) @ index.lidar_to_ego(frame.row)
        for box, record, ours, category, attribute, visibility, points, instance in zip(
                boxes, records, found.boxes, found.categories, found.attributes, found.visibility, found.lidar_points,
                found.instances):
            assert np.abs(ours[:3] - box.center).max() < 1e-9
            assert ours[3:6].tolist() == box.wlh[[1, 0, 2]].tolist()
            front = box.orientation.rotation_matrix[:2, 0]
            assert np.abs(front / np.linalg.norm(front) - [np.cos(ours[6]), np.sin(ours[6])]).max() < 1e-9
            velocity = to_world[:3, :3].T @ kit.box_velocity(record['token'])
            assert np.allclose(ours[7:], velocity[:2], rtol=0, atol=1e-9, equal_nan=True)
            unknown += np.isnan(ours[7:]).all()
            assert index.category_names[category] == record['category_name']
            names = [kit.get('attribute', token)['name'] for token in record['attribute_tokens']]
            assert ([index.attribute_names[attribute]] if attribute >= 0 else []) == names
            assert str(visibility) == record['visibility_token']
            assert points == record['num_lidar_pts']
            assert index.instance_tokens[instance] == record['instance_token']
    assert unknown == 2 * (1 + 2)      # the barriers and the people who were away for 2 s


def test_views_hold_the_motion_of_the_ego_between_the_sensors(whole, kit):
    index = read_index(whole, 'v1.0-mini')
    for frame in index.frames[:2]:
        views = index.views(frame.row, CAMERAS)
        assert tuple(views) == CAMERAS
        data = kit.get('sample', frame.sample)['data']
        for channel, view in views.items():
            record = kit.get('sample_data', data[channel])
            ego = rigid(kit.get('ego_pose', record['ego_pose_token']), 'ego')
            sensor = rigid(kit.get('calibrated_sensor', record['calibrated_sensor_token']), 'sensor')
            assert (view.image, view.timestamp) == (record['filename'], record['timestamp'])
            assert np.allclose(view.ego_to_world, ego, atol=1e-12)
            assert np.allclose(view.cam_to_ego, sensor, atol=1e-12)
            lidar = index.ego_to_world(frame.row) @ index.lidar_to_ego(frame.row)
            assert np.allclose(view.lidar_to_cam, np.linalg.inv(ego @ sensor) @ lidar, atol=1e-9)
            still = inverse_rigid(sensor) @ index.lidar_to_ego(frame.row)
            moved = np.linalg.norm(view.lidar_to_cam[:3, 3] - still[:3, 3])
            delay = next(camera.delay for camera in RIG if camera.channel == channel)
            assert moved == pytest.approx(abs(delay) / 125, rel=.02)     # along a road that also climbs


def test_sweeps_come_from_the_chain_of_the_lidar(whole):
    index = read_index(whole, 'v1.0-mini')
    assert [len(index.sweeps(row, 10)) for row in range(10)] == [2, 5, 8, 10, 10] * 2
    assert index.sweeps(1, 0) == []
    sweeps = index.sweeps(1, 4)
    assert [sweep.age for sweep in sweeps] == [.05, .1, .5, .55]
    assert sweeps[2].points == index.frames[0].points
    there, here = (index.ego_to_world(row) @ index.lidar_to_ego(row) for row in (0, 1))
    point = np.array([3., 4, 5, 1])
    assert np.allclose(here @ sweeps[2].to_key_frame @ point, there @ point, atol=1e-9)


def test_a_sample_may_have_no_boxes_but_a_version_without_any_says_so(copy):
    sample = read_index(copy, 'v1.0-mini').frames[3].sample
    edit(copy, 'sample_annotation', lambda rows: rows.__setitem__(slice(None), [
        dict(row, prev='', next='') for row in rows if row['sample_token'] != sample]))
    index = read_index(copy, 'v1.0-mini')
    assert index.boxes_of(3).boxes.shape == (0, 9)
    assert len(index.boxes_of(0).boxes) == 3
    edit(copy, 'sample_annotation', lambda rows: rows.clear())
    edit(copy, 'instance', lambda rows: rows.clear())
    index = read_index(copy, 'v1.0-mini')
    assert len(index) == 10
    with pytest.raises(DataError, match='no annotation at all, expected boxes'):
        index.boxes_of(0)
    edit(copy, 'scene', lambda rows: rows.clear())
    with pytest.raises(DataError, match=r'no key frame of the split mini_val \(found scenes: none\)'):
        reader.read_split(copy, 'mini_val')


def test_a_missing_camera_is_told_to_those_who_need_it(copy):
    token = read_index(copy, 'v1.0-mini').frames[1].sample
    edit(copy, 'sample_data', lambda rows: rows.__setitem__(slice(None), [
        row for row in rows if row['sample_token'] != token or 'CAM_BACK__' not in row['filename']]))
    index = read_index(copy, 'v1.0-mini')
    assert len(index.views(1)) == 5
    assert len(index.views(0, CAMERAS)) == 6
    with pytest.raises(DataError, match=f'sample {token} of scene-0103 has no key frame of CAM_BACK, expected all of'):
        index.views(1, CAMERAS)


def test_the_real_key_frame_has_the_boxes_and_views_of_the_goldens(shared):
    golden = np.load(shared / 'goldens/detection/nuscenes_boxes_A.npz')
    index = build_index(shared / 'real/nuscenes', 'v1.0-trainval')
    row = index.row_of(str(golden['sample_token']))
    found = index.boxes_of(row)
    assert np.abs(found.boxes[:, :7] - golden['lidar/boxes_xyzlwh_yaw_gravity']).max() < 1e-9
    assert np.isnan(found.boxes[:, 7:]).all()
    assert index.category_names[found.categories].tolist() == golden['ann/category'].tolist()
    assert found.lidar_points.tolist() == golden['ann/num_lidar_pts'].tolist()
    assert np.abs(index.ego_to_world(row) - golden['lidar/ego2global']).max() < 1e-9
    assert np.abs(index.lidar_to_ego(row) - golden['lidar/sensor2ego']).max() < 1e-9
    motion = []
    for channel, view in index.views(row, CAMERAS).items():
        assert np.abs(view.lidar_to_cam - golden[f'{channel}/lidar2cam_with_motion']).max() < 1e-9
        assert np.array_equal(view.cam_to_img, golden[f'{channel}/K'])
        assert [view.width, view.height] == golden[f'{channel}/size_w_h'].tolist()
        motion.append(np.linalg.norm(view.ego_to_world[:3, 3] - index.ego_to_world(row)[:3, 3]))
    assert [min(motion), max(motion)] == pytest.approx([.005, .4], abs=.005)


# --- tables ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('chunk', [900, 5000, 1 << 23])
def test_tables_are_read_in_blocks_of_any_size_and_style(copy, monkeypatch, chunk):
    fresh = build_index(copy, 'v1.0-mini')
    monkeypatch.setattr(tables, 'CHUNK', chunk)
    assert same(build_index(copy, 'v1.0-mini'), fresh)
    for name in ('sample_data', 'sample_annotation', 'ego_pose', 'scene'):
        edit(copy, name, lambda rows: [row.update(description='a "}, {" b', more=dict(x=[{}, {}])) for row in rows])
    path = copy / 'v1.0-mini/sample.json'
    path.write_bytes(b'\xef\xbb\xbf' + json.dumps(json.loads(path.read_text()), indent=8).replace(
        '\n', '\r\n').encode())
    assert same(build_index(copy, 'v1.0-mini'), fresh)


@pytest.mark.parametrize(('name', 'change', 'match'), [
    ('sample', lambda text: text[:-9], 'sample.json: not readable .*expected a JSON table'),
    ('sample', lambda text: text.rstrip()[:-1], 'sample.json: not readable'),
    ('sample', lambda text: text + ']', 'sample.json: not readable'),
    ('sample', lambda text: '', "sample.json: it begins with '', expected a list of records"),
    ('log', lambda text: text.strip()[1:-1], 'log.json: it begins with .*expected a list of records'),
    ('sensor', lambda text: '[' * 200_000, 'sensor.json: not readable'),
    ('ego_pose', lambda text: text.replace('rotation', 'r\xff', 1).encode('latin-1'), 'ego_pose.json: not readable'),
    ('ego_pose', lambda text: text.replace('}', '', 1), 'ego_pose.json: not readable'),
])
def test_a_table_that_is_no_json_is_named(copy, monkeypatch, name, change, match):
    path = copy / f'v1.0-mini/{name}.json'
    text = change(path.read_text())
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for chunk in (1 << 23, 700):
        monkeypatch.setattr(tables, 'CHUNK', chunk)
        with pytest.raises(DataError, match=match):
            read_index(copy, 'v1.0-mini')


def _set(**changes):
    return lambda rows: rows[1].update(changes)


def _all(**changes):
    return lambda rows: [row.update(changes) for row in rows]


def _swap(rows):
    rows[0]['prev'], rows[3]['prev'] = rows[3]['token'], ''


@pytest.mark.parametrize(('table', 'change', 'match'), [
    ('log', lambda rows: rows.append(3), 'expected a list of records'),
    ('log', lambda rows: rows.append(dict(token=3)), 'expected a list of records'),
    ('log', _set(location=None), "log.json: the location 'None'"),
    ('log', _set(location='../x'), r"log.json: the location '\.\./x'"),
    # names that become files
    ('sample_data', _all(filename=3), "sample_data.json: the filename '3'"),
    ('sample_data', _set(token='../../x'), r"sample_data.json: the token '../../x'"),
    ('sample', _set(token='a/b'), "the token 'a/b'"),
    ('scene', _set(name='../scene'), "the name '../scene'"),
    ('sample_data', _set(filename='../../etc/passwd'), 'a path below the data root'),
    ('sample_data', _set(filename='/etc/passwd'), 'a path below the data root'),
    ('sample_data', _set(filename='a\ud800'), 'a path below the data root'),
    ('map', _all(filename='maps/' + 'x' * 5000), r"map.json: the filename 'maps/xxx"),
    ('map', _all(filename='maps/\0'), 'map.json: the filename'),
    ('map', _all(filename='maps/b.png'), 'maps/b.png: no such file'),
    # tokens that refer to nothing
    ('scene', _set(log_token=GONE), "scene.json: record .* names log_token 'gone/../x', which is not in log.json"),
    ('scene', _set(first_sample_token=None), 'names first_sample_token None'),
    ('scene', _set(first_sample_token=['a']), 'names first_sample_token'),
    ('sample', _set(next=GONE), "sample.json: record .* names next 'gone/../x', which is not in sample.json"),
    ('sample', _set(next=None), 'names next None'),
    ('sample', _set(next=[]), 'names next'),
    ('sample', lambda rows: rows[1].pop('next'), 'names next None'),
    ('sample_data', _set(sample_token=GONE), 'names sample_token .* not in sample.json'),
    ('sample_data', _set(ego_pose_token=GONE), 'names ego_pose_token .* not in ego_pose.json'),
    ('sample_data', _set(calibrated_sensor_token=GONE), 'not in calibrated_sensor.json'),
    ('sample_data', _set(prev=GONE), "names prev 'gone/../x', which is not in sample_data.json"),
    ('sample_data', _set(prev=7), 'has the prev .7., expected a text'),
    ('calibrated_sensor', _set(sensor_token=GONE), 'not in sensor.json'),
    ('instance', _set(category_token=GONE), 'not in category.json'),
    ('instance', lambda rows: rows.pop(), 'names instance_token .* not in instance.json'),
    ('sample_annotation', _set(sample_token=GONE), 'sample_annotation.json: .* not in sample.json'),
    ('sample_annotation', _set(instance_token=''), "names instance_token '', which is not in instance.json"),
    ('sample_annotation', _set(visibility_token='9'), "names visibility_token '9', which is not in visibility.json"),
    ('sample_annotation', _set(attribute_tokens=[GONE]), 'names attribute_tokens .* not in attribute.json'),
    ('sample_annotation', _set(attribute_tokens='x'), "has the attribute_tokens 'x', expected a list of tokens"),
    ('sample_annotation', _set(next=GONE), "names next 'gone/../x', which is not in sample_annotation.json"),
    # records that do not belong together
    ('sample', lambda rows: rows[3].update(next=rows[1]['token']), 'comes again in its chain'),
    ('sample', lambda rows: rows.append(rows[0]), "sample.json: record .* expected one of its own; it comes twice"),
    ('sample_data', lambda rows: rows.append(rows[1]), 'sample_data.json: two records have the token'),
    ('sample_annotation', lambda rows: rows.append(rows[1]), 'sample_annotation.json: two records have the token'),
    ('sample_data', lambda rows: [r.update(is_key_frame=False) for r in rows], 'has no key frame of LIDAR_TOP'),
    ('sample_data', lambda rows: [r.update(is_key_frame=True) for r in rows], 'two key frames of one sensor'),
    ('sample_data', _swap, 'names a later one as prev'),
    ('sample_annotation', lambda rows: rows[0].update(prev=rows[0]['next'], next=''), 'a prev that is not earlier'),
    ('sample_annotation', lambda rows: rows[0].update(next=rows[1]['token']), 'one of another instance as next'),
    # numbers
    ('sample', _set(timestamp='1'), "has the timestamp '1', expected a whole number"),
    ('sample', _set(timestamp=1 << 70), 'has the timestamp .* expected a whole number'),
    ('sample_data', _set(timestamp=1.5), "has the timestamp '1.5', expected a whole number"),
    ('sample_data', _set(is_key_frame=1), "has the is_key_frame '1', expected true or false"),
    ('sample_data', _all(width=None), "has the width 'None', expected a whole number"),
    ('sample_data', _all(width=0), 'an image of 0 x '),
    ('calibrated_sensor', _set(rotation=[.7, .7, .7, .7]), 'a rotation of length 1.4, expected a quaternion of length'),
    ('calibrated_sensor', _set(rotation=None), 'rotation is None, expected 4 finite numbers'),
    ('calibrated_sensor', _set(translation=[1, 2]), r'translation is \[1, 2\], expected 3 finite numbers'),
    ('calibrated_sensor', _set(camera_intrinsic=[]), r'camera_intrinsic is \[\], expected 3 x 3 finite'),
    ('ego_pose', _set(rotation=[1, 0, 0, float('nan')]), 'ego_pose.json: .* rotation is'),
    ('ego_pose', _set(rotation=[0, 0, 0, 0]), 'ego_pose.json: .* a rotation of length 0'),
    ('ego_pose', _set(rotation=[1, 0, 0]), r'rotation is \[1, 0, 0\], expected 4 finite'),
    ('ego_pose', _set(translation='here'), 'translation is here'),
    ('ego_pose', _set(translation=['1', '2', '3']), r"translation is \['1', '2', '3'\], expected 3 finite"),
    ('sample_annotation', _set(translation=[1, 2, None]), r'translation is \[1, 2, None\], expected 3 finite'),
    ('sample_annotation', _set(rotation=[1, 1, 0, 0]), 'sample_annotation.json: .* a rotation of length 1.41421'),
    ('sample_annotation', _set(size=[1, 0, 2]), 'has the size .* expected a width, length and height above 0'),
    ('sample_annotation', _set(size=[1, 2]), r'size is \[1, 2\], expected 3 finite'),
    ('sample_annotation', _set(num_lidar_pts=-1), "has the num_lidar_pts '-1', expected a number of points"),
    ('sample_annotation', _set(num_radar_pts='2'), "has the num_radar_pts '2', expected a whole number"),
    ('visibility', _set(level='v1-2'), "has the level 'v1-2', expected one of v0-40"),
    ('category', _set(index=-4), 'has the index -4, expected a whole number'),
    ('category', _set(index=0), 'index 0 stands for noise and animal'),
])
def test_damaged_tables_are_told_in_one_sentence(copy, table, change, match):
    edit(copy, table, change)
    with pytest.raises(DataError, match=match) as caught:
        read_index(copy, 'v1.0-mini')
    assert '\n' not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_fields_of_records_that_nothing_needs_may_be_anything(copy):
    fresh = read_index(copy, 'v1.0-mini')
    edit(copy, 'sample_data', lambda rows: rows.append(dict(
        rows[5], token='radar/..', is_key_frame=False, filename=3, timestamp='x', ego_pose_token='none')))
    edit(copy, 'ego_pose', lambda rows: rows.append(dict(token='unused', rotation=3)))
    edit(copy, 'category', lambda rows: [row.pop('index') for row in rows])     # as before nuScenes-lidarseg
    edit(copy, 'sample_annotation', lambda rows: rows[1].update(visibility_token=''))
    index = read_index(copy, 'v1.0-mini')
    assert np.array_equal(index.boxes, fresh.boxes, equal_nan=True)
    assert index.categories == {}
    assert fresh.categories == dict(enumerate(CATEGORIES))
    assert np.bincount(index.box_visibility)[0] == 1


def test_fuzz_whatever_is_damaged_is_read_right_or_refused(copy):
    """Values of tables at random: key frames with all that they have, or a DataError of one sentence."""
    rng = np.random.default_rng(0)
    strange = [None, True, -1, 1 << 80, 2.5, float('nan'), 'x', '', [], [1], ['x'], {}, [[1, 2], 3], 'a' * 400]
    paths, outcomes = sorted((copy / 'v1.0-mini').glob('*.json')), dict(read=0, refused=0)
    for trial in range(52):
        path = paths[trial % len(paths)]
        whole = path.read_text()
        rows = json.loads(whole)
        row = rows[int(rng.integers(len(rows)))]
        field = list(row)[int(rng.integers(len(row)))]
        row[field] = strange[int(rng.integers(len(strange)))]
        if rng.random() < .2:
            del row[field]
        path.write_text(json.dumps(rows))
        try:
            index = read_index(copy, 'v1.0-mini')
            for frame in index.frames:
                found = index.boxes_of(frame.row)
                assert np.isfinite(found.boxes[:, :7]).all()
                assert all(np.isfinite(view.lidar_to_cam).all() for view in index.views(frame.row).values())
                assert all(sweep.age >= 0 for sweep in index.sweeps(frame.row, 3))
            outcomes['read'] += 1
        except DataError as error:
            assert '\n' not in str(error)
            outcomes['refused'] += 1
        path.write_text(whole)
    assert min(outcomes.values()) > 10, outcomes


# --- cache -----------------------------------------------------------------------------------------------------------
def test_the_index_is_kept_where_tables_are_slow(copy, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

    def read_index(*args):     # as another process does
        reader._index.cache_clear()
        return reader.read_index(*args)
    fresh = read_index(copy, 'v1.0-mini')
    assert not (tmp_path / 'cache').exists()     # fast tables leave nothing
    assert reader.read_index(copy, 'v1.0-mini') is fresh     # nor are they read twice in one process
    monkeypatch.setattr(reader, 'SLOW', 0.0)
    assert same(read_index(copy, 'v1.0-mini'), fresh)
    (kept,) = (tmp_path / 'cache/perception').iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(reader, 'build_index', None)     # would fail if it were called
        assert same(read_index(copy, 'v1.0-mini'), fresh)
    for damage in (b'{"frames": 3}', b'', kept.read_bytes()[:-100], kept.read_bytes().replace(b'scene', b'scemm')):
        kept.write_bytes(damage)     # made anew
        assert same(read_index(copy, 'v1.0-mini'), fresh)
    edit(copy, 'scene', lambda rows: rows.pop(0))     # other tables: another file in place of the old one
    assert len(read_index(copy, 'v1.0-mini')) == FRAMES
    assert len(list((tmp_path / 'cache/perception').iterdir())) == 1
    assert not kept.exists()


def test_files_that_a_mac_leaves_are_no_labels(tmp_path):
    for name in ('a_lidarseg.bin', '._a_lidarseg.bin'):
        (tmp_path / name).write_bytes(b'1')
    tables.check_label_files(tmp_path, ['lidarseg/v1.0-mini/a_lidarseg.bin'])
    with pytest.raises(DataError, match='1 label files for 2 records'):
        tables.check_label_files(tmp_path, ['a_lidarseg.bin', 'b_lidarseg.bin'])
