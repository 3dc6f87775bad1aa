"""The mini nuScenes for cameras and maps: tables, sweeps, boxes, CAN bus, and maps that lie on the images' pixels."""
import json

import numpy as np
import pytest

from perception.bev.datasets.nuscenes import mini
from perception.bev.datasets.nuscenes.mini import (
    SCENES,
    Job,
    SceneWriter,
    draw_sheet,
    placed,
    street_length,
    write_bev_mini,
)
from perception.common.formats.images import read_image
from perception.common.nuscenes.maps import read_map
from perception.common.nuscenes.mini import CAMERAS, STYLES, TRAIN_SCENES, VAL_SCENES
from perception.common.nuscenes.reader import read_index
from perception.common.scene.labels import NUSCENES, PART
from perception.common.scene.street import END, FAR, draw_street
from perception.utils.errors import DataError

KIT = pytest.importorskip('nuscenes', reason='nuscenes-devkit is not installed')
SMALL = dict(train_frames=3, val_frames=1, train_scenes=1, val_scenes=1, test_scenes=0, width=64, detail=1.0,
             columns=180, workers=1)
DRIVABLE = [PART[name] for name in ('road', 'marking', 'parking')]


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """The folder, and what wrote its scenes."""
    writers, make = [], mini.SceneWriter

    def record(*args):
        writers.append(make(*args))
        return writers[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini, 'SceneWriter', record)
        return write_bev_mini(tmp_path_factory.mktemp('bev') / 'mini', **SMALL), writers


@pytest.fixture(scope='module')
def root(written):
    return written[0]


@pytest.fixture(scope='module')
def index(root):
    return read_index(root, 'v1.0-mini')


# --- tables ----------------------------------------------------------------------------------------------------------
def test_the_kit_finds_key_frames_sweeps_and_maps(root):
    tables = KIT.NuScenes('v1.0-mini', str(root), verbose=False)
    assert {scene['name']: scene['nbr_samples'] for scene in tables.scene} == {'scene-0061': 3, 'scene-0103': 1}
    assert len({row['token'] for row in tables.map}) == len(tables.map) == 2
    times = sorted(row['timestamp'] for row in tables.sample)
    assert np.diff(times)[:2].tolist() == [500_000, 500_000]
    for sample in tables.sample:
        assert set(sample['data']) == {'LIDAR_TOP', *(camera.channel for camera in CAMERAS)}
        lidar = tables.get('sample_data', sample['data']['LIDAR_TOP'])
        for before in (50_000, 100_000):
            lidar = tables.get('sample_data', lidar['prev'])
            assert not lidar['is_key_frame']
            assert lidar['sample_token'] == sample['token']
            assert sample['timestamp'] - lidar['timestamp'] == before
            assert (root / lidar['filename']).stat().st_size == 180 * 32 * 20
            assert lidar['filename'].startswith('sweeps/LIDAR_TOP/')
        log = tables.get('log', tables.get('scene', sample['scene_token'])['log_token'])
        x, y, z = tables.get('ego_pose', lidar['ego_pose_token'])['translation']
        assert z == 0
        assert tables.get('map', log['map_token'])['mask'].is_on_mask(np.array([x]), np.array([y]))[0]
    assert not (root / 'v1.0-test').exists()
    assert 'lidarseg' not in {path.stem for path in (root / 'v1.0-mini').iterdir()}


def test_images_are_of_the_size_that_their_calibration_is_for(root, index):
    views = index.views(0, tuple(camera.channel for camera in CAMERAS))
    for camera in CAMERAS:
        view = views[camera.channel]
        assert read_image(root / view.image).shape == (36, 64, 3)
        assert (view.width, view.height) == (64, 36)
        # the middle of the official image is the middle of the small one
        official, small = np.array(camera.intrinsics), view.cam_to_img
        assert (800 - .5 - official[1]) / official[0] == pytest.approx((32 - .5 - small[0, 2]) / small[0, 0])
        assert (450 - .5 - official[2]) / official[0] == pytest.approx((18 - .5 - small[1, 2]) / small[1, 1])


def test_sweeps_meet_the_key_frame(root, index):
    """The ego drives and sways, yet what the sweeps saw of the street lies where the key frame saw it."""
    def heights(file, to_key_frame):
        points = np.fromfile(root / file, '<f4').reshape(-1, 5)[:, :3]
        points = points[(np.linalg.norm(points, axis=1) > 3) & (np.linalg.norm(points, axis=1) < 9)]
        to_ego = index.lidar_to_ego(1) @ to_key_frame
        return (points @ to_ego[:3, :3].T + to_ego[:3, 3])[:, 2]
    sweeps = index.sweeps(1, 10)
    assert len(sweeps) == 5      # two of its own, the key frame before, and its two
    assert [round(sweep.age, 6) for sweep in sweeps] == [.05, .1, .5, .55, .6]
    for file, to_key_frame in ((index.frames[1].points, np.eye(4)), *((s.points, s.to_key_frame) for s in sweeps[:2])):
        low = heights(file, to_key_frame)
        assert abs(np.median(low[np.abs(low) < .3])) < .03
    assert np.linalg.norm(sweeps[2].to_key_frame[:2, 3]) > 2      # metres driven in half a second


def test_boxes_have_attributes_visibility_and_velocities(index):
    names, attributes, speeds = index.category_names, index.attribute_names, []
    boxes = [index.boxes_of(row) for row in range(3)]
    kinds = {(names[c], attributes[a] if a >= 0 else '') for b in boxes for c, a in zip(b.categories, b.attributes)}
    for name, attribute in kinds:
        start = name.split('.')[0]
        assert (attribute == '') == (start not in ('vehicle', 'human'))
        if name in ('vehicle.bicycle', 'vehicle.motorcycle'):
            assert attribute.startswith('cycle.')
    assert {'vehicle.moving', 'vehicle.parked', 'pedestrian.moving', 'pedestrian.standing', 'cycle.with_rider',
            'cycle.without_rider'} <= {attribute for _, attribute in kinds}
    assert {level for b in boxes for level in b.visibility.tolist()} == {1, 2, 3, 4}
    for some in boxes:
        moving = np.isin(attributes[some.attributes], ['vehicle.moving', 'pedestrian.moving'])
        speed = np.linalg.norm(some.boxes[:, 7:], axis=1)
        assert np.isfinite(speed).mean() > .6
        assert (speed[~moving & ~(attributes[some.attributes] == 'cycle.with_rider') & np.isfinite(speed)] < .05).all()
        speeds += speed[moving & np.isfinite(speed)].tolist()
    assert np.median(speeds) > .8
    assert max(speeds) < 25


def test_cars_and_people_are_the_most(written):
    counts = {}
    for writer in written[1]:
        for t in (1.0, 4.0):
            for part in writer.world.boxes(t, 70).part:
                name = NUSCENES[part]
                kind = 'pedestrian' if 'pedestrian' in name else name
                counts[kind] = counts.get(kind, 0) + 1
    total, order = sum(counts.values()), sorted(counts, key=counts.get)[::-1]
    assert order[:2] == ['vehicle.car', 'pedestrian']
    assert len(order) == 10
    assert min(counts.values()) > .01 * total


# --- places and maps -------------------------------------------------------------------------------------------------
def test_scenes_stand_apart_on_the_maps_of_their_places():
    assert len({(location, place) for location, place, _ in SCENES.values()}) == len(SCENES)
    location = {name: SCENES[name][0] for name in (*TRAIN_SCENES, *VAL_SCENES)}
    assert sorted(map(list(location.values()).count, set(location.values()))) == [1, 2, 3, 4]
    length = street_length(20, .5)
    cell = length + 2 * (END + FAR) + 20
    for number in range(4):
        street = draw_street(np.random.default_rng(number), STYLES[number], length, mini.BEND)
        s = np.arange(-END, length + END, 3.0)
        ground = np.concatenate([street.at(s, np.full(len(s), side * FAR))[:, :2] for side in (1, -1)])
        for angle in (0.0, 1.0, 2.5):
            matrix = placed(type('World', (), dict(street=street)), angle, (1, 2), cell)
            turned = ground @ matrix[:2, :2].T + matrix[:2, 3]
            assert (turned > [cell, 2 * cell]).all()
            assert (turned < [2 * cell, 3 * cell]).all()


def features(root, writer):
    """Points (P, 3) on the map: kerbs, dividers where there is paint (or half a double line off), crossings."""
    import shapely
    found = read_map(root, writer.location)
    areas = found.layers['drivable_area'].shapes
    kerbs = []
    for row, area in enumerate(areas):
        ring = shapely.get_exterior_ring(area)
        points = shapely.line_interpolate_point(ring, np.arange(0, ring.length, .8))
        alone = shapely.distance(shapely.union_all(np.delete(areas, row)), points) > .3     # no kerb where areas meet
        kerbs.append(shapely.get_coordinates(points[alone]))
    lines = shapely.union_all(np.concatenate([found.layers[name].shapes for name in ('road_divider', 'lane_divider')]))
    divider = []
    for line in writer.world.street.boundaries:
        s = np.arange(line.paint_start, line.paint_stop - 3, line.period)[:, None] + [.5, 1.5, 2.5]      # on dashes
        shift = .12 if line.kind == 'double' else 0
        points = writer.world.street.at(s.ravel(), line.d(s.ravel()) + shift) @ writer.to_map[:3, :3].T
        points = points[:, :2] + writer.to_map[:2, 3]
        divider.append(points[np.abs(shapely.distance(lines, shapely.points(points)) - shift) < .01])
    corners = [shapely.get_coordinates(shape)[:-1] for shape in found.layers['ped_crossing'].shapes]
    # outlines go once around; both ends of a zebra are sides of bars
    corners = [np.array([[1 - share, share]]) @ shape[rows] for shape in corners for rows in ([0, 1], [2, 3])
               for share in (.3, .5, .7)]
    return {name: np.pad(np.concatenate(some), ((0, 0), (0, 1))) for name, some in (
        ('kerb', kerbs), ('divider', divider), ('crossing', corners))}


def test_kerbs_dividers_and_crossings_lie_on_their_pixels_in_all_cameras(written):
    writer = written[1][1]
    world, caster, points = writer.world, writer.caster, features(written[0], writer)
    seen, wrong = {}, []
    offsets = np.stack(np.meshgrid(*[np.linspace(-2, 2, 7)] * 2), -1).reshape(-1, 2)
    offsets = offsets[np.linalg.norm(offsets, axis=1) <= 2]      # pixels of images of the official size
    junction = world.drive.time_at(next(s for s in world.street.junctions if s > 80))
    back = np.diag([-1.0, -1, 1, 1])      # a car that is turned around: its right cameras see the middle of the street
    for after, turn in ((-2.0, np.eye(4)), (-1.4, back), (-.8, np.eye(4)), (.6, back), (1.4, np.eye(4)), (1.4, back),
                        (3.2, np.eye(4)), (3.6, back), (4.0, back)):
        t = junction + after
        caster.set_actors(world.frame(t, 60))
        for camera in CAMERAS:
            pose = writer.to_map @ writer.pose(t) @ turn @ camera.matrix
            focal, cx, cy = camera.intrinsics
            for kind, places in points.items():
                local = (places - pose[:3, 3]) @ pose[:3, :3]
                # nearer than 4 m one would see that paint is 4 mm thick
                local = local[(local[:, 2] > 4) & (np.linalg.norm(local, axis=1) < 22)]
                u, v = (focal * local[:, axis] / local[:, 2] + centre for axis, centre in ((0, cx), (1, cy)))
                inside = (np.abs(u - 799.5) < 795) & (np.abs(v - 449.5) < 445)
                around = np.stack([u[inside], v[inside]], -1)[:, None] + offsets
                rays = np.concatenate([(around - [cx, cy]) / focal, np.ones((*around.shape[:2], 1))], -1)
                street = np.linalg.inv(writer.to_map) @ pose
                rays = (rays @ street[:3, :3].T).astype(np.float32).reshape(-1, 3)
                hits = caster.cast(np.broadcast_to(street[:3, 3].astype(np.float32), rays.shape), rays)
                shape = around.shape[:2]
                # distances count in lengths of rays, whose depth is 1
                open_view = (np.abs(hits.distance.reshape(shape) / local[inside, 2:3] - 1) < .06).all(1)
                open_view &= (hits.instance.reshape(shape) == 0).all(1)
                centre = len(offsets) // 2      # which nothing low hides, such as a kerb on this side
                open_view &= np.abs(hits.distance.reshape(shape)[:, centre] / local[inside, 2] - 1) < .01
                if kind == 'kerb':
                    there = np.isin(hits.part, DRIVABLE).reshape(shape)
                else:
                    there = (hits.part == PART['marking']).reshape(shape)
                good = there.any(1) & ((~there).any(1) | (kind == 'divider'))     # an edge, or paint
                seen[kind, camera.channel] = seen.get((kind, camera.channel), 0) + int(open_view.sum())
                wrong += [(kind, camera.channel, t)] * int((open_view & ~good).sum())
    assert len(seen) == 18
    assert min(seen.values()) > 0, seen
    assert len(wrong) <= .01 * sum(seen.values()), wrong


# --- CAN bus, files --------------------------------------------------------------------------------------------------
def test_can_bus_messages_follow_the_ego(root, index):
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus
    messages = NuScenesCanBus(str(root)).get_messages('scene-0061', 'pose')
    times = np.array([message['utime'] for message in messages])
    assert set(np.diff(times)) == {20_000}
    for row in range(3):
        pose = index.ego_to_world(row)
        near = messages[int(np.argmin(np.abs(times - index.sample_times[row])))]
        assert abs(near['utime'] - index.sample_times[row]) < 11_000
        np.testing.assert_allclose(near['pos'], pose[:3, 3], atol=.2)
        w, x, y, z = near['orientation']
        assert 2 * np.arctan2(z, w) == pytest.approx(np.arctan2(pose[1, 0], pose[0, 0]), abs=.02) or abs(
            abs(2 * np.arctan2(z, w) - np.arctan2(pose[1, 0], pose[0, 0])) - 2 * np.pi) < .02
    places = np.array([message['pos'] for message in messages])
    speed = np.linalg.norm(np.diff(places, axis=0), axis=1) * 50
    np.testing.assert_allclose([message['vel'][0] for message in messages][1:], speed, atol=.1)
    assert np.median([message['accel'][2] for message in messages]) == pytest.approx(9.81, abs=.1)
    meta = json.loads((root / 'can_bus/scene-0061_meta.json').read_text())
    assert meta['pose']['message_count'] == len(messages)


def test_a_scene_is_the_same_whatever_others_there_are(written, tmp_path):
    root, writers = written
    job = Job(**{**vars(writers[1].job), 'root': tmp_path})
    for folder in {path.parent.relative_to(root) for path in root.rglob('*.jpg')} | {'samples/LIDAR_TOP',
                                                                                   'sweeps/LIDAR_TOP', 'can_bus'}:
        (tmp_path / folder).mkdir(parents=True)
    again = SceneWriter(job, writers[1].world)
    again.key_frame(0)
    files = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert len(files) == 9
    for path in files:
        assert path.read_bytes() == (root / path.relative_to(tmp_path)).read_bytes()


@pytest.mark.parametrize('bad', [dict(seed=-1), dict(train_frames=0), dict(val_frames=41), dict(train_scenes=9),
                                 dict(val_scenes=0), dict(test_scenes=3), dict(columns=3), dict(detail=2.0),
                                 dict(workers=-1), dict(width=100), dict(width=1616), dict(rate=0)])
def test_arguments_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(DataError, match='expected'):
        write_bev_mini(tmp_path / 'a', **dict(SMALL, **bad))
    assert not list(tmp_path.iterdir())


def test_a_sheet_shows_each_scene_on_its_map(root, tmp_path):
    image = read_image(draw_sheet(root, tmp_path / 'sheet.png'))
    assert image.shape[0] > 2 * 450
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 1000
