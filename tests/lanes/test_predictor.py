"""Nets on images of any kind, and what happens with those that are none."""
import json
import shutil
import time

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image

from perception.apis.config import load_config
from perception.common.formats.images import read_label_image
from perception.common.predictor import Found
from perception.common.structures import LaneSample
from perception.common.visual.video import write_video
from perception.lanes.datasets.apolloscape.reader import ApolloScapeLaneMark
from perception.lanes.datasets.culane.reader import CULane, read_lanes
from perception.lanes.datasets.folder.reader import LaneFolder
from perception.lanes.predictor import LanePredictor, fit, read
from perception.registry import MODELS
from perception.utils.errors import ConfigError, DataError

SIZE = CULane.IMAGE_SIZE


@pytest.fixture(scope='module')
def predictor():
    """Of a mini ENet with random weights."""
    cfg = load_config('configs/lanes/enet_culane.py', mini=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MODELS.build(cfg.model).eval()
    return LanePredictor(net, dict(cfg.test_dataloader.dataset, type=CULane))


@pytest.fixture
def painter(predictor):
    """A predictor without a net."""
    return LanePredictor(None, predictor.data)


@pytest.fixture(scope='module')
def noise():
    return np.random.default_rng(0).integers(0, 256, (118, 328, 3), np.uint8)


# --- which part of an image is seen ---
@pytest.mark.parametrize(('shape', 'box'), [(SIZE, (0, 0, 1640, 590)), ((295, 820), (0, 0, 820, 295)),
                                            ((720, 1280), (0, 260, 1280, 460)), ((100, 1000), (361, 0, 278, 100))])
def test_a_part_of_the_data_sets_shape_is_seen(shape, box):
    part, found = fit(np.zeros((*shape, 3), np.uint8), SIZE)
    assert part.shape[1::-1] == found[2:] and found == box


@pytest.mark.parametrize('shape', [(1, 1), (590, 3), (2, 1640), (40, 40)])
def test_images_with_next_to_no_pixels_are_refused(predictor, shape, tmp_path):
    path = tmp_path / 'street.png'
    cv2.imwrite(str(path), np.zeros((*shape, 3), np.uint8))
    message = rf'street\.png: {shape[1]} x {shape[0]} pixels, of which .* at least 16 a side'
    for use in (predictor, predictor.stage_maps):
        with pytest.raises(DataError, match=message):
            use(path)
    with pytest.raises(DataError, match='an image: .* at least 16 a side'):
        predictor(np.zeros((*shape, 3), np.uint8))


@pytest.mark.parametrize('array', [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)])
def test_arrays_that_are_no_image_are_refused(predictor, array):
    with pytest.raises(DataError, match='LanePredictor: an array of shape'):
        predictor(array)


def test_an_image_and_its_array_have_the_same_lanes(predictor, noise, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), noise[..., ::-1])
    file, array = predictor(tmp_path / 'x.png'), predictor(noise)
    assert (file.sample_id, file.original_shape, file.seen) == ('x', (118, 328), (0, 0, 328, 118))
    assert torch.equal(file.lane_probs, array.lane_probs) and len(file.pred_lanes) == len(array.pred_lanes)
    for ours, theirs in zip(file.pred_lanes, array.pred_lanes):
        assert np.array_equal(ours, theirs) and ours[:, 1].max() < 118


@pytest.mark.parametrize(('shape', 'crop', 'horizon', 'box'), [
    ((1080, 1920), (0, 300, 1920, 1080), None, (0, 389, 1920, 691)),
    ((1080, 1920), (200, 0, 1020, 295), None, (200, 0, 820, 295)),
    ((720, 1280), None, 300, (0, 95, 1280, 460)),  # where the horizon lies at 263 / 590
    ((720, 1280), None, 100, (328, 0, 623, 224)), ((720, 1280), None, 700, (590, 684, 100, 36)),
    ((720, 1280), (0, 100, 1280, 720), 200, (331, 100, 623, 224))])
def test_crop_and_horizon_choose_the_part(shape, crop, horizon, box):
    row = None if horizon is None else (horizon, 263 / 590)
    image = np.zeros((*shape, 3), np.uint8)
    if horizon is not None:
        image[horizon:] = 255
    part, found = fit(image, SIZE, 'x', crop, row)
    assert part.shape[1::-1] == found[2:] and found == pytest.approx(box, abs=5)
    if horizon is not None:
        assert abs((part[:, found[2] // 2, 0] < 128).mean() - 263 / 590) <= .03  # as in the data set's images


def test_crop_and_horizon_are_options(predictor, noise):
    for crop in ('0,20,300,100', (0, 20, 300, 100), '[0, 20, 300, 100]'):
        sample = LanePredictor(predictor.model, predictor.data, crop=crop)(noise)
        assert sample.seen == (39, 20, 222, 80)
        assert all((lane[:, 1] >= 20).all() and lane[:, 1].max() <= 100 for lane in sample.pred_lanes)
    level = LanePredictor(predictor.model, predictor.data, horizon='40')
    assert level(noise).seen[1] == 40 - round(263 / 590 * level(noise).seen[3])
    assert level.draw(noise, level(noise)).shape[1] == 960 and len(level.stage_maps(noise)) == 4
    for crop in ('1,2,3', '5,5,5,9', 'a,b,c,d', 7, '-1,0,5,5'):
        with pytest.raises(ConfigError, match='LanePredictor: crop='):
            LanePredictor(None, predictor.data, crop=crop)
    with pytest.raises(ConfigError, match="horizon='high', expected a row"):
        LanePredictor(None, predictor.data, horizon='high')
    with pytest.raises(DataError, match='expected an image that holds the crop 0,0,900,50'):
        LanePredictor(predictor.model, predictor.data, crop='0,0,900,50')(noise)
    with pytest.raises(DataError, match='expected the horizon, row 500, among them'):
        LanePredictor(predictor.model, predictor.data, horizon=500)(noise)


def test_a_folder_of_any_size_shows_the_net_whole_images(predictor, noise):
    data = dict(type=LaneFolder, num_lanes=4, input_size=predictor.data['input_size'])
    own = LanePredictor(predictor.model, data)
    sample = own(noise[:, :100])
    assert sample.seen == (0, 0, 100, 118) and own.meta['classes'][1] == 'lane 1'
    assert all(lane[:, 1].max() < 118 for lane in sample.pred_lanes)
    assert own.draw(noise[:, :100], sample).dtype == np.uint8
    with pytest.raises(DataError, match='118 rows, expected more than crop_top=118'):
        LanePredictor(predictor.model, dict(data, crop_top=118)).predict([noise])
    assert LanePredictor(predictor.model, dict(data, crop_top=118, image_size=(236, 656)))(noise).pred_lanes is not None
    with pytest.raises(ConfigError, match='horizon=5 for LaneFolder, expected a data set that says where'):
        LanePredictor(predictor.model, data, horizon=5)
    assert LanePredictor(predictor.model, dict(data, image_size=(118, 328), horizon=40), horizon=20)(noise).seen[1] >= 0


@pytest.mark.parametrize(('data', 'cut', 'seen'), [
    (dict(type=ApolloScapeLaneMark, input_size=(16, 32)), 32, (16, 32)),  # 1700 of 2710 rows, by default, of 51
    (dict(type=LaneFolder, crop_top=8.4), 8, (112, 64)), (dict(type=LaneFolder), 0, (120, 64))])
def test_a_net_sees_what_the_data_set_shows_it_by_default(data, cut, seen):
    class Net:
        def test_step(self, batch):
            assert tuple(batch['inputs']['image'][0].shape[1:]) == seen
            return batch['data_samples']

    sample = LanePredictor(Net(), data)(np.zeros((120, 64, 3), np.uint8))
    assert sample.crop_top == cut


def test_a_net_sees_what_the_pipeline_of_the_test_leaves(predictor, noise):
    dark = LanePredictor(predictor.model, dict(predictor.data, pipeline=[lambda sample: dict(
        sample, image=sample['image'] // 2)]))
    ours, theirs, without = (found.pred_labels for found in (dark(noise), predictor(noise // 2), predictor(noise)))
    assert torch.equal(ours, theirs) and not torch.equal(ours, without)


def test_smaller_copies_are_predicted_as_they_are_tested(predictor, mini_set, tmp_path):
    root = tmp_path / 'culane'
    shutil.copytree(mini_set('culane'), root)
    for path in root.rglob('*.jpg'):
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), None, fx=.5, fy=.5))
    for cut in (0, 200):
        data = dict(predictor.data, data_root=str(root), crop_top=cut)
        sample = CULane(**{key: value for key, value in data.items() if key != 'type'})[0]
        tested = predictor.model.test_step(pseudo_collate([sample]))[0]
        found = LanePredictor(predictor.model, data)(tested.image_path)
        assert found.original_shape == (295, 820) and found.crop_top == tested.crop_top == cut // 2
        assert torch.equal(found.lane_probs, tested.lane_probs) and len(found.pred_lanes) == len(tested.pred_lanes)
        for ours, theirs in zip(found.pred_lanes, tested.pred_lanes):
            np.testing.assert_array_equal(ours, theirs)


# --- files of predictions ---
def test_predictions_become_files(predictor, noise, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), noise)
    sample = predictor(tmp_path / 'x.png')
    sample.pred_lanes = [np.array([[50., 117], [80, 60]]), np.array([[5., 5]]), np.array([[300.12345, 117], [200, 60]])]
    sample.pred_labels = torch.zeros_like(sample.pred_labels)
    sample.pred_labels[:, :100] = 2
    sample.lane_probs = torch.zeros_like(sample.lane_probs)
    sample.lane_probs[2, :, :100] = sample.lane_probs[3, :, 100:] = .4
    paths = {form: predictor.save(form, tmp_path, 'x', tmp_path / 'x.png', sample) for form in predictor.saves}
    assert [path.name for path in paths.values()] == ['x.json', 'x.lines.txt', 'x_labels.png', 'x_probabilities.npy']
    found = json.loads(paths['json'].read_text())
    assert {key: found[key] for key in ('image', 'width', 'height', 'seen')} == dict(
        image='x.png', width=328, height=118, seen=[0, 0, 328, 118])
    assert [(lane['name'], lane['slot'], lane['points'][0]) for lane in found['lanes']] == [
        ('left', 2, [50, 117]), ('right', 3, [300.123, 117])]
    assert found['lanes'][0]['probability'] == pytest.approx(float(sample.exist_probs[1]), abs=1e-3)
    assert [lane.tolist() for lane in read_lanes(paths['lines'])] == [lane['points'] for lane in found['lanes']]
    labels = read_label_image(paths['png'])
    assert labels.shape == (118, 328) and set(np.unique(labels)) == {0, 2}
    probs = np.load(paths['probabilities'])
    assert probs.shape == tuple(sample.lane_probs.shape) and probs.dtype == np.float32
    del sample.pred_lanes
    with pytest.raises(DataError, match='no lanes, expected lanes to save as json'):
        predictor.save('json', tmp_path, 'x', noise, sample)
    with pytest.raises(ConfigError, match="--save-as='xml'"):
        predictor.save('xml', tmp_path, 'x', noise, sample)


@pytest.mark.parametrize('config, form', [
    ('enet_culane', 'json'), ('enet_bdd100k', 'png'), ('agnostic_bdd100k', 'json'), ('enet_apolloscape', 'png')])
def test_a_net_without_lanes_saves_classes_by_default(config, form):
    cfg = load_config(f'configs/lanes/{config}.py', mini=True)
    predictor = LanePredictor(MODELS.build(cfg.model), dict(cfg.test_dataloader.dataset))
    assert predictor.saves[0] == form and set(predictor.saves) <= set(LanePredictor.saves)


# --- kinds of image files ---
@pytest.mark.parametrize('suffix', ['.jpg', '.webp', '.tif', '.png'])
def test_phones_pictures_are_turned_upright(painter, noise, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(noise))).save(tmp_path / f'x{suffix}', exif=exif)
    (name, source), = painter.sources(tmp_path)
    assert name == 'x' and read(source).shape == noise.shape
    assert np.abs(read(source)[::8, ::8].astype(int) - noise[::8, ::8]).mean() < 60


def test_large_photographs_are_drawn_at_once(painter):
    image = np.zeros((6000, 8000, 3), np.uint8)
    lanes = [np.array([(u, 5999.), (4000, 3000)]) for u in (0, 3000, 5000, 8000)]
    start = time.process_time()
    picture = painter.draw(image, truth=dict(lanes=lanes))
    assert picture.shape[1] == 960 and (picture.max(axis=2) > 200).sum() > 1000
    assert time.process_time() < start + 5  # curves on all pixels take minutes


@pytest.mark.parametrize('kind', ['colour', 'grey', 'alpha', '16 bits', 'grey 16 bits'])
def test_every_kind_of_image_is_drawn(predictor, noise, kind, tmp_path):
    image = dict(colour=noise, grey=noise[..., 0], alpha=np.dstack([noise, noise[..., :1]]))
    image |= {'16 bits': noise.astype(np.uint16) * 257, 'grey 16 bits': noise[..., 0].astype(np.uint16) * 257}
    cv2.imwrite(str(tmp_path / 'x.png'), image[kind])
    (name, picture), = predictor.pictures(tmp_path / 'x.png')
    assert name == 'x' and picture.dtype == np.uint8 and picture.shape[1] == 960


def test_a_damaged_image_of_a_folder_is_named(predictor, noise, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.jpg'), noise)
    (tmp_path / 'b.jpg').write_bytes((tmp_path / 'a.jpg').read_bytes()[:500])
    drawn = predictor.pictures(tmp_path)
    assert next(drawn)[0] == 'a'
    with pytest.raises(DataError, match=r'b\.jpg: 500 bytes of an image without its end'):
        next(drawn)


def test_every_frame_of_a_video_is_a_source(painter, noise, tmp_path):
    write_video(tmp_path / 'drive.avi', [noise, noise[::-1]])
    found = dict(painter.sources(tmp_path / 'drive.avi'))
    assert list(found) == ['drive_000000', 'drive_000001'] and found['drive_000001'].shape == noise.shape
    assert [name for name, _ in painter.pictures(tmp_path / 'drive.avi')] == list(found)
    with pytest.raises(DataError, match='no such file or folder'):
        next(painter.sources(tmp_path / 'none'))


# --- attention ---
def test_attention_covers_what_the_net_sees(predictor, noise):
    maps = predictor.stage_maps(noise)
    assert list(maps) == ['stage1', 'stage2', 'stage3', 'stage4']
    for strength in maps.values():
        assert strength.shape == noise.shape[:2] and strength.min() >= 0 and 0 < strength.max() <= 1


def test_the_stages_of_a_net_are_one_picture(predictor, painter, noise, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), noise)
    (_, picture), = predictor.pictures(tmp_path / 'x.png', view='attention')
    assert picture.shape[1] == 5 * 420 + 4 * 4  # the image and four stages
    with pytest.raises(ConfigError, match='--view attention: no net came'):
        next(painter.pictures(tmp_path / 'x.png', view='attention'))
    with pytest.raises(ConfigError, match="--view='follow', expected one of plain, attention"):
        next(predictor.pictures(tmp_path / 'x.png', view='follow'))


# --- truth ---
def test_labels_that_are_not_there_are_no_empty_labels(painter, tmp_path):
    (tmp_path / 'a.lines.txt').write_text('1 2 3 4\n')
    for labels, name in ((tmp_path, 'a'), (tmp_path / 'a.lines.txt', 'b')):
        assert len(painter.truth(labels, name, None)['lanes']) == 1
    with pytest.raises(DataError, match=r'b\.lines\.txt: no such file, expected the lanes of b'):
        painter.truth(tmp_path, 'b', None)
    with pytest.raises(DataError, match=r'none\.txt: no such file, expected the lanes of a'):
        painter.truth(tmp_path / 'none.txt', 'a', None)


def test_labels_may_be_of_cvat(painter, noise, tmp_path):
    path, source = tmp_path / 'annotations.xml', tmp_path / 'drive/a.png'
    source.parent.mkdir()
    cv2.imwrite(str(source), noise)
    text = '<annotations><image name="drive/a.png" width="328" height="118">{}</image></annotations>'
    path.write_text(text.format('<polyline label="lane" points="5,6;7,100"/>'))
    assert painter.truth(path, 'a', source)['lanes'][0].tolist() == [[5, 6], [7, 100]]
    cv2.imwrite(str(tmp_path / 'drive/b.png'), noise)
    assert painter.truth(path, 'b', tmp_path / 'drive/b.png')['lanes'] == []


def test_labels_may_be_of_labelme_or_an_image(painter, noise, tmp_path):
    labels = np.zeros((118, 328), np.uint8)
    labels[60:, 100:110] = 2
    cv2.imwrite(str(tmp_path / 'x.png'), labels)
    truth = painter.truth(tmp_path, 'x', noise)
    assert np.array_equal(truth['labels'], labels)
    assert painter.draw(noise, truth=truth).shape[1] == 960
    shapes = [dict(label='a', points=[[5, 6], [7, 100]], shape_type='linestrip')]
    (tmp_path / 'x.json').write_text(json.dumps(dict(shapes=shapes, imageHeight=118, imageWidth=328)))
    assert painter.truth(tmp_path, 'x', noise)['lanes'][0].tolist() == [[5, 6], [7, 100]]
    with pytest.raises(DataError, match='made on an image of 118 x 328 pixels, expected 50 x 50'):
        painter.truth(tmp_path, 'x', noise[:50, :50])
    shapes.append(dict(label='car', points=[[0, 0], [9, 9]], shape_type='rectangle'))
    (tmp_path / 'x.json').write_text(json.dumps(dict(shapes=shapes)))
    own = LanePredictor(None, dict(type=LaneFolder, shapes=['a']))  # those of the shapes that the data set learns
    assert len(own.truth(tmp_path, 'x', noise)['lanes']) == 1


@pytest.mark.parametrize('text', ['', '\n\n', '100 60\n', '100 60 90\n', '-500 80 -600 60 -700 40 -800 30\n',
                                  '1e30 1 1e30 90\n'])
def test_odd_lanes_are_drawn(painter, noise, text, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), noise)
    (tmp_path / 'x.lines.txt').write_text(text)
    (_, picture), = painter.pictures(tmp_path / 'x.png', tmp_path)
    assert picture.shape[1] == 960


def test_prediction_and_truth_stand_above_each_other(predictor, noise):
    sample, truth = predictor(noise), dict(lanes=[np.array([(100., 117), (150, 60)])])
    one, two = (predictor.draw(noise, sample, found, 'x') for found in (None, truth))
    assert one.shape[1] == two.shape[1] == 960 and two.shape[0] > 1.8 * one.shape[0]


def test_a_recording_gets_the_image_and_lanes_or_the_picture(painter):
    put = []

    class Recorder:
        def image(self, place, image):
            put.append((place, image.shape))

        def lines(self, place, lines, colors):
            put.append((place, len(lines), len(colors)))

    pixels, lane = np.zeros((59, 164, 3), np.uint8), np.array([[40.0, 58.0], [50.0, 30.0]])
    painter.log(Recorder(), Found('a', pixels, LaneSample(pred_lanes=[lane, lane]), dict(lanes=[lane])))
    assert put == [('image', pixels.shape), ('image/prediction', 2, 2), ('image/truth', 1, 1)]
    put.clear()
    painter.log(Recorder(), Found('a', pixels, None, dict(lanes=None, labels=pixels[..., 0])))
    assert [place for place, _ in put] == ['picture']
