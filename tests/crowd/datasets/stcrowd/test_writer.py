"""Scans of one's own in STCrowd's layout: they read back, KITTI's people included."""
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.common.boxes import from_kitti, project_points
from perception.common.formats.kitti import read_calib, read_objects, read_points
from perception.crowd.datasets.stcrowd.reader import STCrowd
from perception.crowd.datasets.stcrowd.writer import write_sequence
from perception.utils.errors import DataError


def frame(rng, people=3, **more):
    boxes = np.column_stack([rng.uniform(3, 20, people), rng.uniform(-9, 9, people), rng.uniform(-1, 0, people),
                             rng.uniform(.4, .9, (people, 2)), rng.uniform(1.3, 2, people), rng.uniform(-9, 9, people)])
    points = np.column_stack([boxes[:, :3].repeat(20, 0) + rng.normal(0, .05, (20 * people, 3)),
                              rng.uniform(0, 255, 20 * people)])
    return {'points': points, 'boxes': boxes, **more}


def test_what_is_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((4, 6, 3), np.uint8))
    frames = [frame(rng, image=tmp_path / 'a.png', occlusion=[0, 1, 2], track_ids=[7, 8, 9]),
              frame(rng, 0, points=[[1, 2, 0, 5]])]
    matrix = np.array([[700, 0, 600, 0], [0, 700, 300, 0], [0, 0, 1, 0.]]) @ np.eye(4)[[1, 2, 0, 3]]
    write_sequence(tmp_path / 'set', 'yard', frames, matrix)
    dataset = STCrowd(tmp_path / 'set', sequences=['yard'])
    item, empty = dataset[0], dataset[1]
    sample = item['data_samples']
    np.testing.assert_allclose(item['inputs']['points'][:, :3], frames[0]['points'][:, :3], rtol=1e-6)
    np.testing.assert_allclose(sample.boxes[:, :6], frames[0]['boxes'][:, :6], rtol=1e-6)
    turn = sample.boxes[:, 6].numpy() - frames[0]['boxes'][:, 6]
    np.testing.assert_allclose(np.cos(turn), 1, atol=1e-6)
    assert sample.num_points.tolist() == [20] * 3 and sample.occlusion.tolist() == [0, 1, 2]
    assert sample.timestamp == 0 and Path(sample.image_path).read_bytes() == (tmp_path / 'a.png').read_bytes()
    np.testing.assert_allclose(sample.lidar_to_image[:3], matrix)
    assert len(empty['data_samples'].boxes) == 0


def test_people_without_tracks_are_not_taken_for_those_of_the_frame_before(tmp_path):
    rng = np.random.default_rng(0)
    for name, tracks, moves, people in (('a', None, 0, 6), ('b', [0, 1, 2], 3, 3)):
        write_sequence(tmp_path, name, [frame(rng, track_ids=tracks) for _ in range(2)])
        samples = [item['data_samples'] for item in STCrowd(tmp_path, sequences=[name])]
        assert samples[1].boxes[:, 7:].isfinite().all(1).sum() == moves
        assert len({i for sample in samples for i in sample.track_ids.tolist()}) == people


@pytest.mark.parametrize(('change', 'words'), [
    (dict(points=np.zeros((3, 3))), r'points of shape \(3, 3\)'),
    (dict(boxes=np.full((2, 7), np.nan)), 'boxes .*finite'),
    (dict(points='cloud'), 'points are no array'), (dict(occlusion=[0]), '1 occlusion for 3 boxes'),
    (dict(image='/none.png'), 'none.png cannot be copied'), (dict(occlusion=[0, 1, 3]), 'occlusion 3, .* to 2'),
    (dict(track_ids=[1, 2.5, 3]), 'track_ids 2.5'), (dict(track_ids=['a', 'b', 'c']), "track_ids 'a'"),
    (dict(track_ids=[1, -2, 3]), 'track_ids -2')])
def test_what_is_no_frame(tmp_path, change, words):
    with pytest.raises(DataError, match=words):
        write_sequence(tmp_path, 'yard', [dict(frame(np.random.default_rng(0)), **change)])


def test_no_frames(tmp_path):
    with pytest.raises(DataError, match='0 frames'):
        write_sequence(tmp_path, 'yard', [])


def test_people_of_kitti(tmp_path, shared):
    folder = shared / 'real/kitti/training'
    calib = read_calib(folder / 'calib/004139.txt')
    camera = calib['R0_rect'] @ calib['Tr_velo_to_cam']
    points = read_points(folder / 'velodyne/004139.bin') * np.float32([1, 1, 1, 255])
    boxes = from_kitti(read_objects(folder / 'label_2/004139.txt'), camera)
    write_sequence(tmp_path, 'kitti', [dict(points=points, boxes=boxes)], calib['P2'] @ camera)
    sample = STCrowd(tmp_path, sequences=['kitti'])[0]['data_samples']
    assert len(sample.boxes) == 16 and (sample.num_points >= 10).sum() >= 12
    uv, depth = project_points(sample.boxes[:, :3].numpy().astype(float), np.asarray(sample.lidar_to_image))
    assert (depth > 0).all() and (uv > 0).all() and (uv < [1242, 375]).all()


def test_official_annotations_are_not_replaced(tmp_path):
    for place in ('anno/8.json', 'camera.json'):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text('official')
        with pytest.raises(DataError, match=f'{place}: a file that no command of this project wrote is there'):
            write_sequence(tmp_path, 8, [frame(np.random.default_rng(0))], np.eye(4))
        assert (tmp_path / place).read_text() == 'official' and not (tmp_path / 'pcd').exists()
        (tmp_path / place).unlink()
    for _ in range(2):  # its own it writes again
        write_sequence(tmp_path, 8, [frame(np.random.default_rng(0))], np.eye(4))
