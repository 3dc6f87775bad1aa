"""A frame of an info file becomes tables that the reader and nuscenes-devkit read back."""
import copy
import json
from pathlib import Path

import numpy as np
import pytest

from perception.common.nuscenes.index import CAMERAS
from perception.common.nuscenes.one_frame import ATTRIBUTES, attributes_of, write_one_frame
from perception.common.nuscenes.reader import read_index, read_split
from perception.utils.errors import DataError

CLASSES = dict(car=0, truck=1, trailer=2, bus=3, construction_vehicle=4, bicycle=5, motorcycle=6, pedestrian=7,
               traffic_cone=8, barrier=9)
OFFICIAL = dict(car='vehicle.car', truck='vehicle.truck', bus='vehicle.bus.rigid', trailer='vehicle.trailer',
                construction_vehicle='vehicle.construction', pedestrian='human.pedestrian.adult',
                motorcycle='vehicle.motorcycle', bicycle='vehicle.bicycle', traffic_cone='movable_object.trafficcone',
                barrier='movable_object.barrier')


def info_of(root):
    """An info as mmdet3d writes it, of a key frame of a data set."""
    index = read_index(root, 'v1.0-mini')
    frame = next(frame for frame in index.frames if frame.scene == 'scene-0103')
    found, names = index.boxes_of(frame.row), {name: label for label, name in enumerate(OFFICIAL.values())}
    labels = [CLASSES[[*OFFICIAL][names[name]]] if name in names else -1
              for name in index.category_names[found.categories].tolist()]
    items = [dict(bbox_3d=box[:7].tolist(), bbox_label_3d=label, num_lidar_pts=int(points), num_radar_pts=3)
             for box, label, points in zip(found.boxes, labels, found.lidar_points)]
    views = index.views(frame.row)
    centres = found.boxes[:, :3] @ views['CAM_FRONT'].lidar_to_cam[:3, :3].T + views['CAM_FRONT'].lidar_to_cam[:3, 3]
    return dict(
        token=frame.sample, timestamp=frame.timestamp / 1e6, ego2global=index.ego_to_world(frame.row).tolist(),
        lidar_points=dict(lidar_path=frame.points, lidar2ego=index.lidar_to_ego(frame.row).tolist()),
        images={name: dict(img_path=view.image, cam2img=view.cam_to_img.tolist(), cam2ego=view.cam_to_ego.tolist(),
                           lidar2cam=view.lidar_to_cam.tolist(), timestamp=view.timestamp / 1e6)
                for name, view in views.items()},
        instances=items, cam_instances=dict(CAM_FRONT=[
            dict(bbox_3d=[*centre.tolist(), 1, 1, 1, 0], attr_label=k % 9) for k, centre in enumerate(centres)]))


@pytest.fixture(scope='module', params=['simulated', 'real'])
def frame(request, tmp_path_factory):
    """The info of a frame, its classes, the folder of its files, and the data set that was written of it."""
    if request.param == 'real':
        folder = request.getfixturevalue('shared') / 'real/nuscenes_frame'
        found = json.loads((folder / 'info.json').read_text())
        info, classes = found['data_list'][0], found['metainfo']['categories']
    else:
        folder = request.getfixturevalue('mini_nuscenes')
        info, classes = info_of(folder), CLASSES
    root = tmp_path_factory.mktemp('frame') / 'nuscenes'
    return info, classes, folder, write_one_frame(root, info, classes, folder, scene='scene-0061')


def test_the_reader_finds_what_the_info_says(frame):
    info, classes, _, root = frame
    index, (found,) = read_split(root, 'mini_train')
    assert (found.sample, found.scene, found.timestamp) == (
        info['token'], 'scene-0061', round(info['timestamp'] * 1e6))
    np.testing.assert_allclose(index.ego_to_world(0), info['ego2global'], atol=1e-6)
    views = index.views(0, CAMERAS)
    for name, view in info['images'].items():
        np.testing.assert_allclose(views[name].lidar_to_cam, view['lidar2cam'], atol=1e-6)
        np.testing.assert_allclose(views[name].cam_to_ego, view['cam2ego'], atol=1e-6)
        assert views[name].cam_to_img.tolist() == view['cam2img']
        assert views[name].timestamp == round(view['timestamp'] * 1e6) and (root / views[name].image).is_file()
    boxes = index.boxes_of(0)
    truth = np.array([item['bbox_3d'] for item in info['instances']])
    np.testing.assert_allclose(boxes.boxes[:, :6], truth[:, :6], atol=1e-6)
    np.testing.assert_allclose(np.cos(boxes.boxes[:, 6] - truth[:, 6]), 1, atol=1e-9)
    assert np.isnan(boxes.boxes[:, 7:]).all() and (boxes.visibility == 0).all(), 'not known'
    assert boxes.lidar_points.tolist() == [item['num_lidar_pts'] for item in info['instances']]
    assert boxes.radar_points.tolist() == [item['num_radar_pts'] for item in info['instances']]
    names = {label: OFFICIAL[name] for name, label in classes.items()} | {-1: 'movable_object.debris'}
    assert index.category_names[boxes.categories].tolist() == [names[item['bbox_label_3d']]
                                                               for item in info['instances']]
    told = attributes_of(truth[:, :3], info)
    assert (told >= 0).mean() > .8
    assert [index.attribute_names[row] if row >= 0 else None for row in boxes.attributes.tolist()] == [
        ATTRIBUTES[row] if 0 <= row < 8 else None for row in told.tolist()]


def test_the_development_kit_loads_it(frame):
    info, _, folder, root = frame
    kit = pytest.importorskip('nuscenes').NuScenes('v1.0-mini', str(root), verbose=False)
    path, boxes, matrix = kit.get_sample_data(kit.get('sample', info['token'])['data']['LIDAR_TOP'])
    item = np.array([item['bbox_3d'] for item in info['instances']])
    np.testing.assert_allclose([box.center for box in boxes], item[:, :3], atol=1e-5)
    np.testing.assert_allclose([box.wlh for box in boxes], item[:, [4, 3, 5]], atol=1e-9)
    sweep = next(folder.rglob(info['lidar_points']['lidar_path'].rpartition('/')[2]))
    assert Path(path).read_bytes() == sweep.read_bytes()


def test_infos_that_cannot_be(frame, tmp_path):
    info, classes, folder, root = frame
    with pytest.raises(DataError, match='is there'):
        write_one_frame(root, info, classes, folder)

    def broken(*place, value=None):
        changed = inner = copy.deepcopy(info)
        for key in place[:-1]:
            inner = inner[key]
        if value is None:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        return changed
    turned = np.array(info['images']['CAM_BACK']['lidar2cam']) * 2
    for changed, match in ((broken('images'), 'images'), (broken('token'), 'token'), ([], 'list'),
                           (broken('images', 'CAM_BACK', 'cam2img'), 'cam2img'),
                           (broken('images', 'CAM_BACK', 'cam2img', value=[[1, 2]]), 'CAM_BACK: cam2img'),
                           (broken('images', 'CAM_BACK', 'lidar2cam', value=turned.tolist()), 'CAM_BACK: lidar2cam'),
                           (broken('images', 'CAM_BACK', 'img_path', value='none.jpg'), 'none.jpg'),
                           (broken('instances', 0, 'bbox_3d', value=[1, 2]), 'bbox_3d')):
        with pytest.raises(DataError, match=match):
            write_one_frame(tmp_path / 'new', changed, classes, folder)
        assert not (tmp_path / 'new').exists()
