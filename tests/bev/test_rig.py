"""rig.json: what it says, what it must not say, and that a key frame through it is the key frame."""
import json
import random

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from perception.apis.benchmarks.fuzz import damage
from perception.bev import rig as rig_module
from perception.bev.datasets.nuscenes.reader import NuScenesRig
from perception.bev.rig import (
    Camera,
    Rig,
    find_moments,
    find_rigs,
    image_files,
    parse_rig,
    read_images,
    read_rig,
    rig_of_key_frame,
    rig_sample,
    to_json,
    write_rig,
)
from perception.common.formats.images import read_image
from perception.utils.errors import DataError, PerceptionError

POSE = [[0, 0, 1, 1.7], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]


def content(**changes):
    camera = dict(name='front', image='a.png', size=[80, 40], K=[[60, 0, 40], [0, 60, 20], [0, 0, 1]], pose=POSE)
    return dict(cameras=[dict(camera, **changes), dict(camera, name='back')])


def test_written_and_read_again(tmp_path):
    whole = dict(content(), lidar=dict(pose=np.eye(4).tolist()), map_range=30, timestamp=2.5,
                 car_to_world=np.eye(4).tolist())
    rig = parse_rig(whole)
    again = read_rig(write_rig(tmp_path / 'rig.json', rig))
    assert to_json(again) == to_json(rig) == whole
    assert again.cameras[0].size == (80, 40) and again.map_range == 30
    bare = parse_rig(content())
    assert bare.lidar_to_car is None and bare.car_to_world is None
    # without a LiDAR its frame is that of nuScenes: y ahead, 1.84 m above the ground
    np.testing.assert_allclose(bare.frame_to_car('lidar') @ [0, 10, -1.84023, 1], [10.943713, 0, 0, 1])
    np.testing.assert_array_equal(bare.frame_to_car('ego'), np.eye(4))


TURN = np.array(POSE, float)


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(K=[[60, 0, 40], [0, 0, 20], [0, 0, 1]]), 'singular'), (dict(K=[[60, 0, 40], [0, 60, 20], [0, 0, 0]]), 'row'),
    (dict(K=[[60, 0], [0, 60]]), '3 x 3'), (dict(K=None), 'K'), (dict(K=[[60, 0, 'x'], [0, 60, 1], [0, 0, 1]]), 'K'),
    (dict(pose=(TURN * [1.1, 1, 1, 1]).tolist()), 'not rigid'),
    (dict(pose=(TURN * [-1, 1, 1, 1]).tolist()), 'not rigid'),
    (dict(pose=TURN.T.tolist()), 'last row'), (dict(pose=(TURN * [1, 1, 1, 1000]).tolist()), 'last row'),
    (dict(pose=[[0, 0, 1, 1700], *POSE[1:]]), 'in metres'),
    (dict(pose=TURN[:3].tolist()), '4 x 4'), (dict(pose=[[float('nan')] * 4] * 4), 'finite'),
    (dict(size=[80]), 'width and height'), (dict(size=[80, 0]), 'width'), (dict(size=['80', 40]), 'width'),
    (dict(name=''), 'plain text'), (dict(name='a/b'), 'plain text'), (dict(image='../x.png'), 'below'),
    (dict(K=[[-60, 0, 40], [0, 60, 20], [0, 0, 1]]), 'mirrors'), (dict(K=[[1e300, 0, 4], [0, 60, 2], [0, 0, 1]]), 'K'),
    (dict(name='back'), "called 'back'"), (dict(D=[.1, 0]), 'k1, k2, p1, p2'), (dict(D=[.1, 0, 0, 'x']), 'k1, k2, p1'),
    (dict(pose=dict(translation=[0, 0, 1], rotation=[1, 0, 0, 0])), 'Name the parts'),
    (dict(pose=dict(translation=[0, 0, 1], rotation=dict(w=1, x=1, y=0, z=0))), 'length 1')])
def test_a_wrong_camera_gets_a_sentence(changes, message):
    with pytest.raises(DataError, match=message) as error:
        parse_rig(content(**changes), 'rig.json')
    assert 'rig.json' in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(K=[[600, 0, 400], [0, 600, 200], [0, 0, 1]]), 'middle at 400, 200, outside of an image of 80 x 40'),
    (dict(distortion=[.1, .2]), 'distortion left out'), ({}, None)])
def test_what_looks_wrong_is_told_once(monkeypatch, changes, message):
    told = []
    monkeypatch.setattr(rig_module, 'print_log', lambda text, *_: told.append(text))
    for _ in range(2):
        parse_rig(content(**changes), 'told once')
    assert [message in text for text in told] == [True] * (message is not None)
    parse_rig(dict(content(), mapRange=3), 'told once')
    assert 'mapRange left out; known are cameras' in told[-1]
    rig_module._warn.cache_clear()


@pytest.mark.parametrize('changes', [
    dict(cameras=[]), dict(cameras=None), dict(cameras=['front']), dict(cameras=content()['cameras'] * 7),
    dict(lidar=3), dict(lidar={}), dict(map_range=-1), dict(timestamp='now'), dict(car_to_world=[1]),
    dict(timestamp=10 ** 400), dict(map_range=10 ** 400)])
def test_a_wrong_rig_gets_a_sentence(changes):
    with pytest.raises(DataError, match='rig.json'):
        parse_rig(dict(content(), **changes), 'rig.json')


def test_a_file_that_is_no_json(tmp_path):
    (tmp_path / 'rig.json').write_text('{"cameras": [')
    with pytest.raises(DataError, match='no valid JSON'):
        read_rig(tmp_path / 'rig.json')
    with pytest.raises(DataError, match='no such file'):
        read_rig(tmp_path / 'rig2.json')


def test_images_must_fit(tmp_path):
    rig = parse_rig(content())
    good = np.zeros((40, 80, 3), np.uint8)
    assert len(read_images(rig, [good, good])) == 2
    cv2.imwrite(str(tmp_path / 'pixels.png'), noise := np.random.default_rng(0).integers(0, 255, (40, 80, 3), np.uint8))
    of_file, of_pixels = read_images(rig, [tmp_path / 'pixels.png', noise[..., ::-1]], reduce=2)
    assert of_file.shape == (20, 40, 3) and np.array_equal(of_file, of_pixels)
    for images, message in (([good], '1 images for 2'), ([good, good[:30]], '80 x 30 pixels, expected 80 x 40'),
                            ([good, good.astype(float)], 'float64'), ([good, good[..., 0]], 'shape')):
        with pytest.raises(DataError, match=message):
            read_images(rig, images)
    with pytest.raises(DataError, match=r'no a\.png'):
        image_files(rig, tmp_path)
    with pytest.raises(DataError, match='no camera left'):
        rig.choose(['front', 'left'])
    assert [camera.name for camera in rig.choose(['back']).cameras] == ['back']


def test_poses_as_calibrations_have_them(monkeypatch):
    told = []
    monkeypatch.setattr(rig_module, 'print_log', lambda text, *_: told.append(text))
    turn = Rotation.from_euler('zyx', [20, 3, 85], degrees=True)
    exact = np.eye(4)
    exact[:3, :3], exact[:3, 3] = turn.as_matrix(), (1.7, .3, 1.5)
    named = dict(translation=[1.7, .3, 1.5], rotation=dict(zip('xyzw', turn.as_quat().round(6).tolist())))
    np.testing.assert_allclose(parse_rig(content(pose=named)).cameras[0].cam_to_car, exact, atol=1e-5)
    assert not told
    for digits in (4, 3, 2):  # as somebody copied it from a print
        found = parse_rig(content(pose=exact.round(digits).tolist()), str(digits)).cameras[0].cam_to_car
        np.testing.assert_allclose(found, exact, atol=10. ** -digits)
        np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-12)
    assert told and all('nearly rigid' in text for text in told)
    rig_module._warn.cache_clear()


@pytest.mark.parametrize('distortion', [[-.3, .1, .001, -.002], [-.3, .1, .001, -.002, -.02],
                                        [.5, .1, .001, 0, .01, .8, .2, .02]])
def test_images_are_undistorted(tmp_path, distortion):
    """A point of the scene lies where `K` says that it does."""
    rig = parse_rig(content(size=[640, 320], K=[[400, 0, 330], [0, 410, 155], [0, 0, 1]], D=distortion))
    assert to_json(rig)['cameras'][0]['D'] == distortion and 'D' not in to_json(rig)['cameras'][1]
    camera = rig.cameras[0]
    points = np.array([[x, y, 1] for x in (-.5, -.2, .4) for y in (-.25, .2)])
    at, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.cam_to_img, np.array(distortion))
    v, u = np.mgrid[:320, :640]
    spots = sum(np.exp(-((u - x) ** 2 + (v - y) ** 2) / 18) for x, y in at[:, 0]) * 255
    image = np.repeat(spots.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    for reduce in (1, 2):
        found = [read_images(rig._replace(cameras=(camera,)), [source], reduce)[0] for source in (
            tmp_path / 'a.png', image)]
        np.testing.assert_array_equal(*found)
        for x, y in (points @ camera.cam_to_img.T)[:, :2]:
            x, y = (np.array([x, y]) + .5) / reduce - .5
            left, top = int(x) - 6, int(y) - 6
            part = found[0][top:top + 14, left:left + 14, 0].astype(float)
            rows, columns = np.mgrid[top:top + 14, left:left + 14]
            assert (part * columns).sum() / part.sum() == pytest.approx(x, abs=.4)
            assert (part * rows).sum() / part.sum() == pytest.approx(y, abs=.4)
    assert np.array_equal(read_images(rig._replace(cameras=(camera._replace(distortion=()),)), [image])[0], image)


def test_a_folder_for_each_camera(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(rig_module, 'print_log', lambda text, *_: told.append(text))
    cameras = [{key: value for key, value in camera.items() if key != 'image'} for camera in content()['cameras']]
    rig = parse_rig(dict(cameras=cameras))
    assert find_moments(rig, tmp_path) == []
    for name in ('front', 'back'):
        (tmp_path / name).mkdir()
    (tmp_path / 'front/1.png').touch()
    (tmp_path / 'back/2.png').touch()
    with pytest.raises(DataError, match=r'front/1\.png, back/2\.png'):
        find_moments(rig, tmp_path)
    for name in ('10', '9'):
        (tmp_path / f'front/{name}.png').touch()
        (tmp_path / f'back/{name}.jpg').touch()
    found = find_moments(rig, tmp_path)
    assert [name for name, _ in found] == ['9', '10']
    assert found[0][1] == (tmp_path / 'front/9.png', tmp_path / 'back/9.jpg')
    assert len(told) == 1 and '2 images of moments' in told[0]


def test_folders(tmp_path):
    with pytest.raises(DataError, match=r'no rig\.json'):
        find_rigs(tmp_path)
    for name in ('1', '2'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'a.png').touch()
    write_rig(tmp_path / 'rig.json', parse_rig(content()))
    assert [folder.name for folder, _ in find_rigs(tmp_path)] == ['1', '2']
    (tmp_path / 'a.png').touch()
    write_rig(tmp_path / '2/rig.json', parse_rig(content()))
    assert find_rigs(tmp_path) == [(tmp_path / '2', tmp_path / '2/rig.json')]
    assert find_rigs(tmp_path / '1' / '..' / '2')[0][0].name == '2'


def test_damaged_folders_are_read_or_refused(tmp_path):
    rng, pixels = random.Random(0), np.random.default_rng(0).integers(0, 255, (40, 80, 3), np.uint8)
    whole = dict(content(), lidar=dict(pose=np.eye(4).tolist()), map_range=30, timestamp=2.5,
                 car_to_world=np.eye(4).tolist())
    files = {tmp_path / 'rig.json': json.dumps(whole).encode(),
             tmp_path / 'a.png': cv2.imencode('.png', pixels)[1].tobytes()}
    for path, data in files.items():
        path.write_bytes(data)
    outcomes = []
    for turn in range(150):
        path = list(files)[turn % 3 == 0]
        path.write_bytes(damage(files[path], rng, b'{"cameras": 3}'))
        try:
            rig = read_rig(tmp_path / 'rig.json')
            sample = rig_sample(rig, read_images(rig, image_files(rig, tmp_path)), 'flat_ego')
            assert all(np.isfinite(sample[key]).all() for key in ('cam_to_img', 'frame_to_cam', 'image_aug'))
            outcomes.append('read')
        except PerceptionError as error:
            assert len(str(error)) < 700
            outcomes.append('refused')
        path.write_bytes(files[path])
    assert outcomes.count('refused') > 50 and 'read' in outcomes


@pytest.mark.parametrize('frame', ['lidar', 'ego', 'flat_ego'])
@pytest.mark.parametrize('reduce', [1, 2])
def test_a_key_frame_through_a_rig_is_the_key_frame(mini_rig, tmp_path, frame, reduce):
    dataset = NuScenesRig(mini_rig, 'mini_val', bev_frame=frame, reduce=reduce)
    own = dataset.read(0)
    rig = read_rig(write_rig(tmp_path / 'rig.json', rig_of_key_frame(dataset.index, dataset.frames[0].row)))
    images = read_images(rig, own['meta']['image_paths'], reduce)
    sample = rig_sample(rig, images, frame)
    for key in ('cam_to_img', 'frame_to_cam', 'image_aug', 'bev_aug'):
        np.testing.assert_allclose(sample[key], own[key], atol=1e-9)
    np.testing.assert_allclose(sample['meta']['frame_to_world'], own['meta']['frame_to_world'], atol=1e-9)
    assert all((a == b).all() for a, b in zip(sample['images'], own['images']))


def test_the_real_frame(shared, tmp_path):
    """Boxes of the file, through rig.json, fall where the file's own matrices have them."""
    folder = shared / 'real/nuscenes_frame'
    info = json.loads((folder / 'info.json').read_text())['data_list'][0]
    lidar = np.array(info['lidar_points']['lidar2ego'])
    cameras = []
    for name, view in info['images'].items():
        to_car = lidar @ np.linalg.inv(np.array(view['lidar2cam']))
        cameras.append(Camera(name, view['img_path'], (1600, 900), np.array(view['cam2img']), to_car))
    rig = read_rig(write_rig(tmp_path / 'rig.json', Rig(tuple(cameras), lidar)))
    files = image_files(rig, folder)
    sample = rig_sample(rig, [read_image(file, reduce=8) for file in files], 'lidar')
    centres = np.array([item['bbox_3d'][:3] for item in info['instances']])
    for k, view in enumerate(info['images'].values()):
        old = centres @ np.array(view['lidar2cam'])[:3, :3].T + np.array(view['lidar2cam'])[:3, 3]
        new = centres @ sample['frame_to_cam'][k][:3, :3].T + sample['frame_to_cam'][k][:3, 3]
        np.testing.assert_allclose(new, old, atol=1e-3)
