"""Points of nuScenes in the six cameras, against the development kit's own projection."""
import json
import shutil

import numpy as np
import pytest
import torch

from perception.common.formats.images import read_image
from perception.common.nuscenes.index import View
from perception.common.nuscenes.reader import read_index
from perception.lidarseg.datasets.nuscenes.draw import (
    CHANNELS,
    DrawKeyFrames,
    draw_cameras,
    paint_points,
    project_to_image,
)
from perception.lidarseg.datasets.nuscenes.reader import CLASSES, PALETTE, NuScenesLidarSeg, read_sweep
from perception.utils.errors import ConfigError, DataError

KIT = pytest.importorskip('nuscenes', reason='nuscenes-devkit is not installed')


def devkit_pixels(tables, token, camera):
    """Pixels (M, 2) and depths (M,) as the development kit computes them."""
    pixels, depth, _ = tables.explorer.map_pointcloud_to_image(token, camera)
    return pixels[:2].T, depth


def assert_same_pixels(ours, theirs):
    """Equal but for points at the image's border and the development kit's float32 in the map's frame."""
    (pixels, depth), (expected, expected_depth) = ours, theirs
    assert abs(len(pixels) - len(expected)) <= 3
    if len(pixels) == len(expected):
        near = np.abs(pixels - expected).max(1) < .5 / np.maximum(depth, 1) + .02
        assert near.all()
        assert np.abs(depth - expected_depth).max() < 2e-3


def test_projection_equals_the_development_kits(mini_nuscenes):
    tables = KIT.NuScenes('v1.0-mini', str(mini_nuscenes), verbose=False)
    index, data = read_index(mini_nuscenes, 'v1.0-mini'), NuScenesLidarSeg(mini_nuscenes, 'mini_val')
    for frame in data.frames[1:3]:
        points = read_sweep(mini_nuscenes / frame.points)
        views = index.views(frame.row)
        assert sorted(views) == sorted(CHANNELS)
        sample = tables.get('sample', tables.get('sample_data', frame.token)['sample_token'])
        for channel, view in views.items():
            _, pixels, depth = project_to_image(points, view)
            assert len(pixels) > 100
            assert_same_pixels((pixels, depth), devkit_pixels(tables, frame.token, sample['data'][channel]))


def _real_tables(shared, root):
    """The real key frame in tables, with a made-up motion of the ego between the sensors' times."""
    from perception.common.nuscenes.tables import CATEGORIES
    from perception.common.nuscenes.writer import Calibration, SceneRows, Tables, quaternion
    folder = shared / 'real/nuscenes_frame'
    frame = json.loads((folder / 'info.json').read_text())['data_list'][0]

    def calibration(channel, matrix, intrinsics=None):
        matrix = np.array(matrix)
        return Calibration(channel, tuple(matrix[:3, 3]), tuple(quaternion(matrix)), intrinsics)
    sensors = [calibration('LIDAR_TOP', frame['lidar_points']['lidar2ego'])]
    for channel, image in frame['images'].items():
        k = np.array(image['cam2img'])
        sensors.append(calibration(channel, image['cam2ego'], (k[0, 0], k[0, 2], k[1, 2])))
    tables = Tables(CATEGORIES, sensors)
    rows = SceneRows('scene-0061', 'n015', 'maps/a.png', labelled=False)
    sample = rows.add_sample(int(frame['timestamp'] * 1e6))
    ego = np.array(frame['ego2global'])
    tokens = {}
    for sensor in sensors:
        source = frame['lidar_points'] if sensor.channel == 'LIDAR_TOP' else frame['images'][sensor.channel]
        time = source.get('timestamp', frame['timestamp'])
        there = ego.copy()
        there[:3, 3] += ego[:3, 0] * 8.0 * (time - frame['timestamp'])
        tokens[sensor.channel] = rows.add_data(sample, sensor, int(time * 1e6), there, 'jpg')
        path = root / rows.file_of(tokens[sensor.channel])
        path.parent.mkdir(parents=True)
        shutil.copy(folder / source.get('img_path', source.get('lidar_path')), path)
    lidar = rows.tables['sample_data'][0]
    (root / lidar['filename']).rename(root / lidar['filename'].replace('.jpg', '.pcd.bin'))
    lidar['filename'] = lidar['filename'].replace('.jpg', '.pcd.bin')
    rows.finish()
    tables.extend(rows.tables)
    tables.rows.pop('lidarseg')
    tables.save(root / 'v1.0-mini')
    (root / 'maps').mkdir()
    (root / 'maps/a.png').write_bytes(b'')
    return frame, tokens


def test_a_real_key_frame_is_projected_alike(shared, tmp_path):
    frame, tokens = _real_tables(shared, tmp_path)
    tables, index = KIT.NuScenes('v1.0-mini', str(tmp_path), verbose=False), read_index(tmp_path, 'v1.0-mini')
    row = index.row_of(tokens['LIDAR_TOP'])
    views, points = index.views(row), read_sweep(tmp_path / index.frames[row].points)
    still = []
    for channel, view in views.items():
        _, pixels, depth = project_to_image(points, view)
        assert len(pixels) > 1500
        assert_same_pixels((pixels, depth), devkit_pixels(tables, tokens['LIDAR_TOP'], tokens[channel]))
        # the ego moved by up to 0.35 m between the two times, so the plain calibration is another transform
        plain = np.linalg.inv(frame['images'][channel]['cam2ego']) @ np.array(frame['lidar_points']['lidar2ego'])
        still.append(np.abs(view.lidar_to_cam - plain).max())
    assert max(still) > .2
    picture = draw_cameras(points, np.full((len(points), 3), 255, np.uint8), views, tmp_path, (160, 90))
    assert picture.shape[1] >= 480
    assert (picture == 255).all(-1).sum() > 2000


def test_labels_of_points_are_those_of_the_pixels(mini_nuscenes):
    """The simulated points lie on what the simulated cameras see: sky has none, and the road is below the horizon."""
    data = NuScenesLidarSeg(mini_nuscenes, 'mini_val')
    sample = data[1]
    view = read_index(mini_nuscenes, 'v1.0-mini').views(data.frames[1].row)['CAM_FRONT']
    rows, pixels, _ = project_to_image(sample['inputs']['points'].numpy(), view)
    labels = sample['data_samples'].labels.numpy()[rows]
    road = labels == CLASSES.index('driveable_surface')
    assert road.sum() > 20
    assert pixels[road, 1].min() > 420     # the horizon is at about row 491
    assert read_image(mini_nuscenes / view.image).shape == (900, 1600, 3)


def test_near_points_lie_over_far_ones():
    image = np.full((90, 160, 3), 100, np.uint8)
    colors = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
    pixels = np.array([[80.2, 45.7], [80.4, 45.1]])
    for order in ([0, 1], [1, 0]):
        picture = paint_points(image, pixels[order], np.array([30., 60.])[order], colors[order], (160, 90))
        assert picture[45, 80].tolist() == [255, 0, 0]
    assert picture[0, 0].tolist() == [55, 55, 55]


def test_an_image_of_another_size_is_told(mini_nuscenes):
    view = View('CAM_FRONT', 'a.png', 10, 10, np.eye(3), np.eye(4), np.eye(4), np.eye(4), 0)
    with pytest.raises(DataError, match='a.png: not readable'):
        draw_cameras(np.zeros((1, 4)), np.zeros((1, 3)), {'CAM_FRONT': view}, mini_nuscenes)
    view = read_index(mini_nuscenes, 'v1.0-mini').views(0)['CAM_FRONT']._replace(width=1280)
    with pytest.raises(DataError, match='1600 x 900 pixels, expected 1280 x 900'):
        draw_cameras(np.zeros((1, 4)), np.zeros((1, 3)), {'CAM_FRONT': view}, mini_nuscenes)
    with pytest.raises(DataError, match='no camera image'):
        draw_cameras(np.zeros((1, 4)), np.zeros((1, 3)), {}, mini_nuscenes)


def test_key_frames_are_drawn_beside_a_metric(mini_nuscenes, tmp_path):
    pytest.importorskip('open3d')
    data = NuScenesLidarSeg(mini_nuscenes, 'mini_val')
    drawer = DrawKeyFrames(tmp_path, max_scans=1, panel=(320, 180))
    drawer.dataset_meta = NuScenesLidarSeg.METAINFO
    with pytest.raises(ConfigError, match='expected data_root and split of nuScenes'):
        drawer.picture(np.zeros((1, 4)), np.zeros(1), None, 'x')
    drawer.dataset_meta = data.metainfo
    for i in range(2):
        item = data[i]
        sample = dict(sample_id=data.frames[i].token, labels=item['data_samples'].labels,
                      pred_labels=torch.full_like(item['data_samples'].labels, 3))
        drawer.process(dict(inputs=dict(points=[item['inputs']['points']])), [sample])
    (path,) = tmp_path.glob('*.png')
    assert path.stem == data.frames[0].token
    image = read_image(path)
    assert image.shape[0] > 1000
    assert (image == PALETTE[3]).all(-1).sum() > 500     # everything is predicted to be a car
    assert drawer.compute_metrics(drawer.results) == {}
