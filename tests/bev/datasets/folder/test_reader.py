"""Images of one's own rig are the same samples as nuScenes'; what is wrong with them is told."""
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from perception.bev.datasets.folder import mini
from perception.bev.datasets.folder.reader import CLASSES, RigFolder, label_map_of, read_boxes
from perception.bev.datasets.nuscenes.metric import NuScenesDetectionMetric
from perception.bev.datasets.nuscenes.reader import NuScenesRig
from perception.bev.draw import DrawRig, file_views
from perception.bev.predictor import RigPredictor
from perception.bev.rig import read_rig, write_rig
from perception.bev.transforms import ImageAug
from perception.utils.errors import ConfigError, DataError

SIZE = (64, 176)


@pytest.fixture(scope='module')
def drives(mini_rig, tmp_path_factory) -> Path:
    """The key frames of mini_val as drives of moments, to train and to validate with."""
    root = tmp_path_factory.mktemp('drives')
    dataset = NuScenesRig(mini_rig, 'mini_val', bev_frame='ego', training=False)
    for frame in dataset.frames:
        mini._write_moment(dataset, frame.row, root / 'val' / frame.scene, '000')
    shutil.copytree(root / 'val', root / 'train')
    return root


@pytest.fixture
def own(drives, tmp_path) -> Path:
    """The first of them, whose files may be changed."""
    first = min((drives / 'train').iterdir())
    shutil.copytree(first, tmp_path / 'rigs/train/yard')
    return tmp_path / 'rigs'


@pytest.mark.parametrize('frame', ['ego', 'lidar', 'flat_ego'])
def test_moments_are_the_key_frames(mini_rig, drives, frame):
    theirs = NuScenesRig(mini_rig, 'mini_val', bev_frame=frame, reduce=2, training=False, pipeline=[ImageAug(SIZE)])
    ours = RigFolder(drives, 'val', bev_frame=frame, reduce=2, pipeline=[ImageAug(SIZE)])
    assert len(ours) == len(theirs) == 2 and ours.path(0) != ours.path(1)
    for i in range(2):
        one, other = ours[i], theirs[i]
        for key in ('images', 'image_aug', 'cam_to_img'):
            torch.testing.assert_close(one['inputs'][key], other['inputs'][key])
        torch.testing.assert_close(one['inputs']['frame_to_cam'], other['inputs']['frame_to_cam'], atol=1e-4, rtol=1e-4)
        one, other = one['data_samples'], other['data_samples']
        assert one.sample_id == f'{theirs.frames[i].scene}_000' and len(one.boxes) > 5
        torch.testing.assert_close(one.boxes, other.boxes, atol=5e-4, rtol=0, equal_nan=True)
        for key in ('labels', 'attributes'):
            assert torch.equal(one.get(key), other.get(key))
        np.testing.assert_allclose(one.annotations.boxes, other.annotations.boxes, atol=5e-4)
        assert np.array_equal(one.annotations.points, other.annotations.points)


def test_the_truth_as_prediction_is_perfect(drives):
    """Of the classes that are there; a net of few classes is not judged by the others."""
    evaluator, official = Evaluator(NuScenesDetectionMetric(present=True)), Evaluator(NuScenesDetectionMetric())
    samples = [sample['data_samples'] for sample in RigFolder(drives, 'val')]
    for sample in samples:
        some = (sample.labels == 0) | (sample.labels == 5)
        sample.set_metainfo(dict(annotations=sample.annotations._replace(
            points=sample.annotations.points * np.isin(sample.annotations.labels, (0, 5)))))
        sample.pred_boxes, sample.pred_labels = sample.boxes[some], sample.labels[some]
        sample.pred_scores = torch.linspace(.2, .9, int(some.sum()))
        for one in (evaluator, official):
            one.process(data_samples=[sample])
    scores = evaluator.evaluate(2)
    assert scores['NuScenes/mAP'] == pytest.approx(1) and scores['NuScenes/mATE'] < 1e-3
    assert official.evaluate(2)['NuScenes/mAP'] == pytest.approx(.2)


def test_a_folder_for_each_camera_and_own_names(own):
    drive = own / 'train/yard'
    rig = read_rig(drive / '000/rig.json')
    first = rig.cameras[0]._replace(distortion=(-.2, .05, 0, 0))
    write_rig(drive / 'rig.json', rig._replace(cameras=(first, *rig.cameras[1:3])))
    for camera in rig.cameras[:3]:
        (drive / camera.name).mkdir()
        for number in ('8', '12'):
            shutil.copy(drive / f'000/{camera.name}.jpg', drive / camera.name / f'{number}.jpg')
    shutil.rmtree(drive / '000')
    boxes = [{'class': 'taxi', 'box': [10, 2, 1, 4, 2, 1.5, .1]}, {'class': 'dog', 'box': [1, 2]},
             {'class': 'pedestrian', 'box': [5, 2, 1, 1, 1, 2, 0, None, None], 'points': 0}]
    for number in ('8', '12'):
        (drive / f'boxes/{number}.json').write_text(json.dumps(boxes))
    names = dict(taxi='car', dog=None)
    dataset = RigFolder(own, label_map=names, drives=['yard'])
    assert [name for name, *_ in dataset.moments] == ['yard_8', 'yard_12']
    sample = dataset[0]
    assert sample['data_samples'].labels.tolist() == [0] and 'annotations' not in sample['data_samples']
    np.testing.assert_allclose(sample['data_samples'].boxes[0, :7], boxes[0]['box'], rtol=1e-6)
    chosen = RigFolder(own, label_map=names, cameras=[rig.cameras[2].name, rig.cameras[0].name])
    assert torch.equal(chosen[0]['inputs']['images'], sample['inputs']['images'][[2, 0]])
    # pictures show what the net was shown: without the distortion
    raw = cv2.imread(str(drive / first.name / '8.jpg'))[:, :, ::-1]
    seen, drawn = sample['inputs']['images'][0].numpy().transpose(1, 2, 0), file_views(**sample_and(sample))[0].image
    assert np.abs(seen.astype(int) - raw).mean() > 1
    small = cv2.resize(seen, drawn.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - drawn).mean() < np.abs(
        cv2.resize(raw, drawn.shape[1::-1], interpolation=cv2.INTER_AREA).astype(int) - drawn).mean() / 3


def sample_and(packed):
    return dict(sample=packed['data_samples'], inputs=packed['inputs'])


def test_predictions_are_written_as_truth_is_read(own, tmp_path):
    config = dict(type=RigFolder, data_root=str(own), bev_frame='lidar', pipeline=[ImageAug(SIZE)])
    predictor, dataset = RigPredictor(None, config), RigFolder(own, bev_frame='lidar', training=False)
    (name, source), = predictor.sources(own / 'train/yard')
    two = RigPredictor(None, dict(config, cameras=['CAM_BACK', 'CAM_FRONT']))  # as the net was trained
    assert [camera.name for camera in next(two.sources(own / 'train/yard'))[1].rig.cameras] == ['CAM_BACK', 'CAM_FRONT']
    by_image = predictor.read(source.images[2])
    assert by_image['sample_id'] == name == '000' and len(by_image['images']) == 6
    truth = predictor.truth(own / 'train/yard/boxes', name, source)
    sample = dataset[0]['data_samples']
    np.testing.assert_allclose(truth['boxes'][sample.annotations.points > 0], sample.boxes, atol=1e-4)
    sample.pred_boxes, sample.pred_labels = sample.boxes, sample.labels
    sample.pred_scores = torch.linspace(.9, .2, len(sample.boxes))
    path = predictor.save('json', tmp_path, name, source, sample)
    again = read_boxes(path, label_map_of(config))
    before = read_boxes(own / f'train/yard/boxes/{name}.json', label_map_of(config))
    some = before.points > 0
    np.testing.assert_allclose(again.boxes[:, :7], before.boxes[some, :7], atol=1e-3)
    assert np.array_equal(again.labels, before.labels[some])
    assert predictor.view('plain', source, None, truth, name).ndim == 3
    writer = DrawRig(tmp_path / 'pictures')
    writer.dataset_meta = dataset.metainfo
    packed = dataset[0]
    writer.process(dict(inputs={key: [value] for key, value in packed['inputs'].items()}),
                   [dict(packed['data_samples'].to_dict())])
    assert (tmp_path / 'pictures/yard_000.png').is_file()


GOOD = {'class': 'car', 'box': [1, 2, 1, 4, 2, 1.5, 0]}


@pytest.mark.parametrize(('content', 'message'), [
    ('[', 'no valid JSON'), ({}, 'a dict came'), ([3], 'box 0: a int'), ([GOOD, dict(GOOD, box=None)], 'box 1: box'),
    ([{'class': 'tram', 'box': []}], "class 'tram'"), ([dict(GOOD, box=[1, 2, 1, 4, 2, 0, 0])], 'sizes above 0'),
    ([dict(GOOD, box=[1, 2, 1, 4, 2, 'x', 0])], 'sizes'), ([dict(GOOD, box=[4000, 2, 1, 4, 2, 1, 0])], 'within 1000 m'),
    ([dict(GOOD, box=[float('nan'), 2, 1, 4, 2, 1, 0])], 'within'), ([dict(GOOD, attribute='x')], "attribute 'x'"),
    ([dict(GOOD, points=-1)], 'points -1'), ([dict(GOOD, box=[1, 2, 1, 4, 2, 1, 0, 1e9, 0])], 'velocities'),
    ([], 'no box in 1 moments'), (None, 'no such file')])
def test_wrong_boxes_get_a_sentence(own, content, message):
    path = own / 'train/yard/boxes/000.json'
    path.unlink()
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        RigFolder(own)
    assert len(str(error.value)) < 500


def test_wrong_folders_get_a_sentence(own):
    with pytest.raises(DataError, match='no drive in it'):
        RigFolder(own, 'val')
    for options, message in ((dict(split='vla'), 'split'), (dict(label_map=dict(taxi='taxi')), 'label_map'),
                             (dict(drives=['park']), 'drive'), (dict(drives=[]), 'expected some')):
        with pytest.raises(ConfigError, match=message):
            RigFolder(own, **options)
    shutil.copytree(own / 'train/yard', own / 'test/yard')
    shutil.rmtree(own / 'test/yard/boxes')
    sample = RigFolder(own, 'test')[0]['data_samples']  # is only predicted
    assert 'boxes' not in sample
    shutil.copytree(own / 'train/yard/000', own / 'train/yard/001')
    (own / 'train/yard/boxes/001.json').write_text('[]')
    rig = read_rig(own / 'train/yard/001/rig.json')
    write_rig(own / 'train/yard/001/rig.json', rig._replace(cameras=rig.cameras[:4]))
    with pytest.raises(DataError, match='expected the same in the same order'):
        RigFolder(own)
    four = RigFolder(own, cameras=[camera.name for camera in rig.cameras[:4]])
    assert len(four) == 2 and len(four[1]['data_samples'].boxes) == 0
    (own / 'train/yard/001' / f'{rig.cameras[0].name}.jpg').unlink()
    with pytest.raises(DataError, match='of the camera'):
        RigFolder(own)


def test_the_mini_set_has_both_splits(mini_set):
    root = mini_set('rig_folder')
    for split in ('train', 'val'):
        assert len(RigFolder(root, split)) == 1
    assert not (root / '.nuscenes').exists() and {*CLASSES} >= {row['class'] for row in json.loads(
        next(root.glob('train/*/boxes/*.json')).read_text())}
