"""Predictions of any rig, of one moment or a sequence, drawn and saved; the net is a stand-in that knows the truth."""
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from perception.apis.config import load_config
from perception.bev.datasets.nuscenes.metric import RANGES, read_frame
from perception.bev.datasets.nuscenes.reader import CLASSES, PALETTE, NuScenesRig, from_world
from perception.bev.draw import DrawRig, arrays_of, file_views, in_rows, layers_of, make_look, map_colors
from perception.bev.predictor import RigPredictor, RigSource
from perception.bev.rig import rig_of_key_frame, write_rig
from perception.bev.transforms import ImageAug
from perception.common.visual.boxes import bright
from perception.utils.errors import ConfigError, DataError

GRID = dict(x=(-25.6, 25.6, .8), y=(-25.6, 25.6, .8))


class Oracle(nn.Module):
    """Says what the car sees at fixed places of its own frame, whatever the images."""

    def __init__(self, maps=0, depth=False):
        super().__init__()
        self.maps, self.depth, self.seen = maps, depth, []

    def test_step(self, batch):
        for images, sample in zip(batch['inputs']['images'], batch['data_samples']):
            self.seen.append(images)
            to_car = np.linalg.inv(sample.ego_to_world) @ sample.frame_to_world
            car = np.array([[12, 3, 1, 4.5, 1.9, 1.6, .1, 5, 0], [6, -4, .9, .6, .6, 1.8, 2, 0, 1]])
            boxes = from_world(car, to_car)
            sample.pred_boxes = torch.from_numpy(boxes).float()
            sample.pred_scores, sample.pred_labels = torch.tensor([.5, .9]), torch.tensor([0, 5])
            if self.maps:
                sample.pred_map = torch.rand(self.maps, 64, 64)
            if self.depth:
                sample.pred_depth = torch.full((len(images), 4, 11), 12.0)
        return batch['data_samples']


def config(root, **changes):
    return dict(dict(type=NuScenesRig, data_root=str(root), split='mini_val', reduce=2,
                     pipeline=[dict(type=ImageAug, size=(64, 176))]), **changes)


@pytest.fixture
def folder(mini_rig, tmp_path):
    """A moment as a folder of images with rig.json."""
    dataset = NuScenesRig(mini_rig, 'mini_val')
    return write_moment(dataset, tmp_path / 'moment')


def write_moment(dataset, folder, index=0, cameras=()):
    row = dataset.frames[index].row
    rig = rig_of_key_frame(dataset.index, row, cameras)
    folder.mkdir()
    views = dataset.index.views(row)
    for camera in rig.cameras:
        (folder / camera.image).symlink_to(dataset.data_root / views[camera.name].image)
    write_rig(folder / 'rig.json', rig)
    return folder


@pytest.mark.parametrize('frame', ['lidar', 'ego'])
def test_boxes_come_in_the_cars_frame(mini_rig, folder, tmp_path, frame):
    predictor = RigPredictor(Oracle(), config(mini_rig, bev_frame=frame))
    (name, source), = predictor.sources(folder)
    path = predictor.save('json', tmp_path, name, source, predictor(source))
    first, second = json.loads(path.read_text())
    assert first['class'] == 'pedestrian' and first['attribute'] == 'pedestrian.moving' and first['score'] == .9
    np.testing.assert_allclose(second['box'], [12, 3, 1, 4.5, 1.9, 1.6, .1, 5, 0], atol=1e-3)


def test_a_key_frame_and_its_folder_look_alike(mini_rig, folder):
    net = Oracle()
    predictor = RigPredictor(net, config(mini_rig))
    dataset = NuScenesRig(mini_rig, 'mini_val')
    views = dataset.index.views(dataset.frames[0].row)
    for source in (mini_rig / views['CAM_BACK'].image, mini_rig / dataset.frames[0].points, folder,
                   folder / 'rig.json'):
        predictor(str(source))
    assert all(torch.equal(images, net.seen[0]) for images in net.seen) and net.seen[0].shape == (6, 3, 64, 176)
    with pytest.raises(DataError, match='no image or sweep'):
        predictor(mini_rig / 'mini.json')


@pytest.mark.parametrize('num', [1, 8])
def test_any_number_of_cameras_from_python(mini_rig, num):
    dataset = NuScenesRig(mini_rig, 'mini_val')
    rig = rig_of_key_frame(dataset.index, dataset.frames[0].row)
    cameras = tuple(camera._replace(name=f'{camera.name}_{i}') for i, camera in enumerate((*rig.cameras, *rig.cameras)))
    rig = rig._replace(cameras=cameras[:num])
    images = (dataset.read(0)['images'] * 2)[:num]
    net = Oracle(maps=6, depth=True)
    predictor = RigPredictor(net, config(mini_rig, map_preset='bevfusion_map', map_grid=GRID))
    sample = predictor(images, rig)
    assert net.seen[0].shape == (num, 3, 64, 176) and len(sample.cameras) == num and len(sample.pred_boxes) == 2
    source = RigSource(rig, tuple(images))
    for view in ('plain', 'image', 'bev', 'depth'):
        picture = predictor.view(view, source, sample, None, 'x')
        assert picture.shape[1] == 1600 and picture.dtype == np.uint8


def test_chosen_cameras_and_batches(mini_rig, folder, tmp_path):
    net = Oracle()
    predictor = RigPredictor(net, config(mini_rig), cameras='CAM_BACK,CAM_FRONT')
    whole = RigPredictor(net, config(mini_rig))
    assert predictor(folder).cameras == ['CAM_BACK', 'CAM_FRONT']
    few = shutil.copytree(folder, tmp_path / 'few')
    next(few.glob('*CAM_FRONT_LEFT*')).unlink()  # an image that this net does not see
    assert [sample.cameras for sample in map(predictor, (few, few / 'rig.json'))] == 2 * [['CAM_BACK', 'CAM_FRONT']]
    assert predictor(next(predictor.sources(few))[1]).cameras == ['CAM_BACK', 'CAM_FRONT']
    net.seen[1:] = []
    whole(folder)
    assert torch.equal(net.seen[0][1], net.seen[1][whole(folder).cameras.index('CAM_FRONT')])
    net.seen.clear()
    assert len(whole.predict([folder, folder])) == 2 and len(net.seen) == 2
    with pytest.raises(DataError, match='no camera LEFT'):
        RigPredictor(net, config(mini_rig), cameras='LEFT')(folder)


def test_sequences(mini_rig, tmp_path, capfd):
    dataset = NuScenesRig(mini_rig, 'mini_val')
    (tmp_path / 'drive').mkdir()
    for i in range(2):
        write_moment(dataset, tmp_path / f'drive/{i}', i)
    predictor = RigPredictor(Oracle(), config(mini_rig))
    pictures = list(predictor.pictures(tmp_path / 'drive'))
    assert [name for name, _ in pictures] == ['0', '1'] and pictures[0][1].shape == pictures[1][1].shape
    scene = RigPredictor(Oracle(), config(mini_rig), scene='scene-0103')
    names = [name for name, _ in scene.sources(mini_rig)]
    assert scene.rate(mini_rig) == 2  # key frames a second
    assert names == ['scene-0103_000']
    (name, picture), = scene.pictures(mini_rig, labels=mini_rig)
    assert picture.shape[1] == 1600
    with pytest.raises(DataError, match='no key frame'):
        list(predictor.pictures(tmp_path / 'drive', labels=mini_rig))
    (tmp_path / 'drive/1/rig.json').write_text('{}')
    found = list(predictor.results(tmp_path / 'drive'))
    assert found[0].error is None and 'cameras' in str(found[1].error)


def test_files_of_maps_and_arrays(mini_rig, folder, tmp_path):
    predictor = RigPredictor(Oracle(maps=6), config(mini_rig, map_preset='bevfusion_map', map_grid=GRID))
    sample = predictor(folder)
    picture = cv2.imread(str(predictor.save('map', tmp_path, 'a', folder, sample)))
    assert picture.shape == (256, 256, 3) and picture.std() > 5
    arrays = np.load(predictor.save('npz', tmp_path, 'a', folder, sample))
    assert arrays['pred_map'].shape == (6, 64, 64) and arrays['frame_to_car'].shape == (4, 4)
    bare = RigPredictor(Oracle(), config(mini_rig))
    with pytest.raises(DataError, match='no map'):
        bare.save('map', tmp_path, 'b', folder, bare(folder))
    with pytest.raises(DataError, match='no depths'):
        bare.view('depth', folder, bare(folder), None, '')


def test_a_net_of_another_frame_is_refused(mini_rig):
    net = Oracle()
    net.bev_frame = 'ego'
    with pytest.raises(ConfigError, match="bev_frame='ego'"):
        RigPredictor(net, config(mini_rig))


# --- drawing ---------------------------------------------------------------------------------------------------------
def test_cameras_stand_in_rows(mini_rig):
    sample = NuScenesRig(mini_rig, 'mini_val', reduce=2)[0]
    views = file_views(sample['data_samples'], sample['inputs'])
    names = [[view.name for view in row] for row in in_rows(views, np.pi / 2)]
    assert names == [['CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT'], ['CAM_BACK_LEFT', 'CAM_BACK',
                                                                        'CAM_BACK_RIGHT']]


def test_boxes_are_drawn_where_they_are(mini_rig, folder):
    """A car ahead and to the left: in the front image, and above and left of the middle from above."""
    predictor = RigPredictor(Oracle(), config(mini_rig))
    sample = predictor(folder)
    plain = predictor.view('bev', folder, sample, None, '')
    sample.pred_boxes = sample.pred_boxes[:0]
    sample.pred_scores, sample.pred_labels = sample.pred_scores[:0], sample.pred_labels[:0]
    empty = predictor.view('bev', folder, sample, None, '')
    top = min(len(plain), len(empty))
    changed = np.argwhere((plain[40:top] != empty[40:top]).any(-1))
    row, column = changed.min(0) + (40, 0)
    middle = (plain.shape[0] // 2, 400)
    assert row < middle[0] and column < middle[1]


def test_found_and_missed(mini_rig):
    truth = NuScenesRig(mini_rig, 'mini_val', reduce=2).read(0)
    values = arrays_of(dict(boxes=truth['boxes'], labels=truth['labels'], pred_boxes=truth['boxes'][:3] + .1,
                            pred_labels=truth['labels'][:3], pred_scores=np.array([.9, .8, .1])), .3)
    predicted, true, score = layers_of(values, [(1, 2, 3)] * len(CLASSES))
    assert len(predicted[0].boxes) == 2 and score.startswith(f'found 2 of {len(truth["boxes"])}')
    assert len(true[0].boxes) == 2
    with pytest.raises(DataError, match='2 labels'):
        arrays_of(dict(boxes=truth['boxes'], labels=truth['labels'][:2]))
    with pytest.raises(ConfigError, match='min_score'):
        make_look(dict(min_scores=.5))


@pytest.mark.parametrize('frame', ['lidar', 'ego'])
def test_truth_that_the_score_leaves_out_is_neither_found_nor_missed(mini_rig, frame):
    """A picture counts the boxes that the test scores, such as those within 25 m at the mini scale."""
    sample = NuScenesRig(mini_rig, 'mini_val', bev_frame=frame, reduce=2, training=False)[0]['data_samples']
    boxes, labels = sample.boxes.numpy(), sample.labels.numpy()
    sample.set_data(dict(pred_boxes=sample.boxes, pred_labels=sample.labels, pred_scores=torch.full((len(boxes),), .9)))
    for far, ranges in ((25, np.minimum(RANGES, 25)), (None, RANGES)):
        scored = read_frame(sample.to_dict(), ranges)
        predicted, true, score = layers_of(arrays_of(sample), PALETTE, make_look(dict(max_range=far)))
        assert score.startswith(f'found {len(scored.boxes)} of {len(scored.boxes)} within')
        assert 0 < len(scored.boxes) < len(boxes) or far is None
        assert sum(len(layer.boxes) for layer in true) == len(predicted[0].boxes) == len(boxes)
    values = dict(arrays_of(sample), pred_boxes=boxes[:0], pred_labels=labels[:0], pred_scores=np.zeros(0))
    beyond, _, missed = layers_of(values, PALETTE, make_look(dict(max_range=25)))[1]
    assert len(missed.boxes) == len(read_frame(sample.to_dict(), np.minimum(RANGES, 25)).boxes)
    assert beyond.name.startswith('beyond') and len(beyond.boxes) + len(missed.boxes) == len(boxes)


def test_pictures_show_what_the_net_predicts_alone(mini_rig, folder):
    """No true boxes where a net of masks has its prediction; layers in the colours of the legend; depths have no
    number of boxes."""
    net = Oracle(maps=1, depth=True)
    predictor = RigPredictor(net, config(mini_rig, map_preset='lss_vehicle', map_grid=GRID))
    name, source = next(iter(predictor.sources(mini_rig)))
    sample, truth = predictor(source), predictor.truth(mini_rig, name, source)
    for key in ('pred_boxes', 'pred_scores', 'pred_labels'):
        delattr(sample, key)
    alone, beside = (predictor.view('bev', source, sample, known, 'x') for known in (None, truth))
    inside = np.s_[100:780, 10:780]
    assert not any((beside[inside] == color).all(-1).any() for color in bright(np.array(PALETTE)))
    vehicle = map_colors(['vehicle'])[0]
    assert (alone == vehicle).all(-1)[inside].any() and (alone == vehicle).all(-1)[-40:].any()
    plain, depth = (predictor.view(view, source, predictor(source), None, '')[:40, 800:] for view in ('bev', 'depth'))
    assert plain.max() > 150 > depth.max()


def test_pictures_of_a_test_and_of_augmented_samples(mini_rig, tmp_path):
    dataset = NuScenesRig(mini_rig, 'mini_val', reduce=2, map_preset='bevfusion_map', map_grid=GRID,
                          pipeline=[ImageAug((64, 176), degrees=5, flip=.5)])
    sample = dataset[0]
    drawing = DrawRig(tmp_path)
    drawing.dataset_meta = dataset.metainfo
    drawing.process(dict(inputs={key: [value] for key, value in sample['inputs'].items()}),
                    [sample['data_samples'].to_dict()])
    picture = cv2.imread(str(tmp_path / f'{sample["data_samples"].sample_id}.png'))
    assert picture.shape[1] == 1600
    predictor = RigPredictor(None, config(mini_rig, map_preset='bevfusion_map', map_grid=GRID))
    assert predictor.draw_sample(sample, 'x').shape[1] == 1600


def test_true_boxes_and_maps_of_a_key_frame(mini_rig, folder):
    predictor = RigPredictor(Oracle(), config(mini_rig, map_preset='bevfusion_map', map_grid=GRID))
    name, source = next(iter(predictor.sources(mini_rig)))
    truth = predictor.truth(mini_rig, name, source)
    assert len(truth['boxes']) == len(truth['labels']) > 0 and truth['map_labels'].shape == (6, 64, 64)
    for view in ('bev', 'map'):
        bare, known = (predictor.view(view, source, predictor(source), boxes, name) for boxes in (None, truth))
        rows = min(len(bare), len(known))
        assert (bare[:rows] != known[:rows]).any(-1).mean() > .001
    with pytest.raises(DataError, match='no key frame of nuScenes'):
        predictor.truth(mini_rig, 'moment', folder)
    with pytest.raises(DataError, match='--view map'):
        predictor.view('map', folder, None, None, 'moment')


@pytest.mark.parametrize('cell', ['10', '10,x', [1, 2, 3]])
def test_a_cell_is_two_numbers(mini_rig, cell):
    with pytest.raises(ConfigError, match='--cell.*two numbers'):
        RigPredictor(None, config(mini_rig), cell=cell)


def test_the_base_config_names_it_all(root):
    cfg = load_config(root / 'configs/_base_/nuscenes_rig.py')
    assert cfg.predictor.type is RigPredictor and cfg.draw.type is DrawRig


def test_a_folder_for_each_camera(mini_rig, folder, tmp_path):
    predictor = RigPredictor(Oracle(), config(mini_rig), cameras='CAM_BACK,CAM_FRONT')
    (name, whole), = predictor.sources(folder)
    files = dict(zip((camera.name for camera in whole.rig.cameras), whole.images))
    place = tmp_path / 'cameras'
    for camera, file in files.items():
        for number in ('9', '10'):
            (place / camera).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / camera / f'{number}{file.suffix}')
    rig = whole.rig._replace(cameras=tuple(camera._replace(image='') for camera in whole.rig.cameras))
    write_rig(place / 'rig.json', rig)
    found = list(predictor.sources(place))
    assert [name for name, _ in found] == ['9', '10']
    for (_, source), sample in zip(found, predictor.predict([source for _, source in found])):
        assert sample.image_paths == [str(file) for file in source.images]
    one, _ = predictor.model.seen[-1], predictor(whole)
    assert torch.equal(one, predictor.model.seen[-1])
