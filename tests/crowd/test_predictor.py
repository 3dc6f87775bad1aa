"""Scans in, people, pictures and files out."""
import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from perception.common.boxes import points_in_boxes
from perception.common.predictor import Found
from perception.common.visual.video import read_frames, write_video
from perception.crowd.datasets.stcrowd.reader import STCrowd
from perception.crowd.draw import DrawPeople, layers_of
from perception.crowd.predictor import CrowdPredictor
from perception.utils.errors import ConfigError, DataError

DATA = dict(type=STCrowd, split='val')
PALETTE = STCrowd.METAINFO['palette']


class Finder(nn.Module):
    """Finds somebody at the mean of the points, and a weak somebody else; remembers what came."""

    def test_step(self, batch):
        self.came = batch['inputs']['points']
        for sample in batch['data_samples']:
            boxes = torch.tensor([[8.0, 3, -.8, .7, .6, 1.7, 0, .5, float('nan')]] * 2)
            boxes[0, 0] += 1
            sample.pred_boxes, sample.pred_scores = boxes, torch.tensor([.2, .9])
            sample.pred_labels = torch.zeros(2, dtype=torch.int64)
        return batch['data_samples']


@pytest.fixture
def predictor():
    return CrowdPredictor(Finder(), DATA, side=20)


@pytest.fixture
def pictures(folder):
    """The images of sequence 33, in grey."""
    for frame in json.loads((folder / 'anno/33.json').read_text())['frames']:
        path = folder / frame['images'][0]['image_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((720, 1280, 3), 90, np.uint8))
    return folder


def scans_of(folder, sequence=33):
    return sorted((folder / f'pcd/{sequence}').glob('*.bin'))


def test_files_arrays_and_tensors_are_alike(predictor, folder):
    file = scans_of(folder)[0]
    points = np.fromfile(file, np.float32).reshape(-1, 4)
    of_file = predictor(file)
    assert of_file.sample_id == file.stem and of_file.points_path == str(file) and len(of_file.pred_boxes) == 2
    seen = predictor.model.came[0].numpy()
    np.testing.assert_allclose(seen, np.c_[points[:, :3], np.tanh(points[:, 3] / 255)], rtol=1e-6)
    for source in (points, torch.from_numpy(points)):
        assert predictor(source).sample_id == 'scan' and (predictor.model.came[0].numpy() == seen).all()
    assert points[:, 3].max() > 1  # what was given is not changed


@pytest.mark.parametrize('size', [(1280, 720), (660, 400)])
def test_pictures_of_a_scan_are_those_of_its_test(folder, size):
    """Boxes, colours, texts and legend, also where the camera shows less than STCrowd's."""
    counts = dict(view='camera')
    for frame in json.loads((folder / 'anno/33.json').read_text())['frames']:
        path = folder / frame['images'][0]['image_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((*size[::-1], 3), np.uint8))
    dataset, predictor = STCrowd(folder, 'val', sequences=[33]), CrowdPredictor(Finder(), DATA, counts=counts)
    drawn = DrawPeople('unused', look=dict(counts=counts))
    for index in range(len(dataset)):
        tested, scan = dataset[index]['data_samples'], dataset.path(index)
        found = predictor(scan)
        tested.set_data({key: found.get(key) for key in ('pred_boxes', 'pred_scores', 'pred_labels')})
        shown = predictor._all(predictor.known(scan), found, predictor.truth(folder / 'anno', '', scan))
        (ours, score), (theirs, wanted) = (layers_of(one, PALETTE, look) for one, look in (
            (shown, predictor.look), (tested.to_dict(), drawn.look)))
        assert score == wanted and [layer.name for layer in ours] == [layer.name for layer in theirs]
        for one, other in zip(ours, theirs):
            assert np.array_equal(one.boxes, other.boxes, equal_nan=True) and list(one.texts) == list(other.texts)
            assert np.array_equal(one.rgb, other.rgb)


def test_the_net_gets_what_it_gets_from_the_data_set(folder):
    options = dict(intensity_scale=100.0, pipeline=[lambda sample: dict(sample, points=sample['points'][::2])])
    dataset = STCrowd(folder, 'val', **options)
    predictor = CrowdPredictor(Finder(), dict(DATA, **options))
    predictor(dataset.path(0))
    assert len(predictor.model.came[0]) < len(predictor.cloud(dataset.path(0)).points)
    assert (predictor.model.came[0] == dataset[0]['inputs']['points']).all()
    with pytest.raises(DataError, match=r'\(7,\)'):
        predictor(np.zeros(7))


def test_image_and_camera_are_known_in_the_official_layout(predictor, folder):
    known = predictor.known(scans_of(folder)[1])
    assert known['image_path'].startswith(str(folder / 'left/33/1_'))
    u, v, w, _ = known['lidar_to_image'] @ (10, 0, 0, 1)
    assert (u / w, v / w) == pytest.approx((683.67, 334.07), abs=.01)
    assert predictor.known(scans_of(folder, 32)[0])['image_path'] == ''  # no annotations, so nobody knows


def test_people_are_found_where_annotations_do_not_help(predictor, folder):
    other = scans_of(folder)[0].with_name('1617249999.5.bin')
    other.write_bytes(scans_of(folder)[0].read_bytes())
    assert len(predictor(other).pred_boxes) == 2 and predictor.known(other)['image_path'] == ''
    with pytest.raises(DataError, match='no frame of pcd/33/1617249999.5.bin'):
        predictor.truth(folder / 'anno', 'x', other)
    (folder / 'anno/33.json').write_text('{"frames": 7}')
    again = CrowdPredictor(Finder(), DATA)
    for scan in (other, *scans_of(folder)):
        assert len(again(scan).pred_boxes) == 2 and 'lidar_to_image' not in again.known(scan)


def test_images_of_others_are_told_by_options(folder, tmp_path):
    (tmp_path / 'images').mkdir()
    scan = scans_of(folder)[0]
    cv2.imwrite(str(tmp_path / f'images/{scan.stem}.png'), np.full((90, 160, 3), 77, np.uint8))
    predictor = CrowdPredictor(None, DATA, images=str(tmp_path / 'images'), camera=str(folder / 'camera.json'))
    assert predictor.known(scan)['image_path'].endswith('.png') and predictor.known(scan)['lidar_to_image'][0, 0] != 0
    assert predictor.known(scans_of(folder)[1])['image_path'] == ''
    with pytest.raises(DataError, match=f'images/{scans_of(folder)[1].stem} with the ending'):
        predictor.view('image', scans_of(folder)[1], None, None, '')
    with pytest.raises(DataError, match='pictures: no such folder'):
        CrowdPredictor(None, DATA, images=str(tmp_path / 'pictures'), camera=str(folder / 'camera.json'))
    for options in (dict(images='a'), dict(camera='b')):
        with pytest.raises(ConfigError, match='expected both'):
            CrowdPredictor(None, DATA, **options)
    with pytest.raises(DataError, match='none.json: no such file'):
        CrowdPredictor(None, DATA, images=str(tmp_path), camera='none.json')


def test_points_that_are_moved_project_to_the_pixels_that_show_them(folder):
    scan, camera = scans_of(folder)[0], dict(images=str(folder), camera=str(folder / 'camera.json'))
    plain, moved = CrowdPredictor(None, DATA, **camera), CrowdPredictor(None, DATA, forward='y', height=2.0, **camera)
    pixels = [predictor.known(scan)['lidar_to_image'][:3] @ np.c_[predictor.cloud(scan).points[:, :3], np.ones(480)].T
              for predictor in (plain, moved)]
    assert np.abs(plain.cloud(scan).points - moved.cloud(scan).points).max() > 1
    np.testing.assert_allclose(*pixels, rtol=1e-4, atol=.01)
    for predictor in (plain, moved):  # labels go with the points
        boxes, points = predictor.truth(folder / 'anno', '', scan)['boxes'], predictor.cloud(scan).points
        assert points_in_boxes(points, boxes)[1].min() >= 30


def test_sources_are_all_scans_of_a_folder(predictor, folder):
    assert [name for name, _ in predictor.sources(folder / 'pcd/33')] == [file.stem for file in scans_of(folder)]
    np.save(folder / 'own.npy', np.zeros((3, 4), np.float32))
    (name, source), = predictor.sources(folder / 'own.npy')
    assert name == 'own' and len(predictor.cloud(source).points) == 3


def test_truth_is_that_of_the_frame(predictor, folder):
    scan = scans_of(folder, 1)[0]
    for labels in (folder / 'anno', folder / 'anno/1.json'):
        truth = predictor.truth(labels, scan.stem, scan)
        assert truth['boxes'].shape == (4, 9) and truth['ignore'].tolist() == [False, False, True, False]
        assert len(set(truth['track_ids'])) == 4
    with pytest.raises(DataError, match='33.json: no frame of'):
        predictor.truth(folder / 'anno/33.json', 'a', scan)
    with pytest.raises(DataError, match='no file'):
        predictor.truth(folder / 'anno', 'a', np.zeros((1, 4)))


def test_a_scan_is_not_taken_for_one_whose_name_ends_alike(predictor, folder, make, tmp_path):
    make.write_sequence(folder, 7, [make.frame_of(7, k, [make.person(1, (x, 0, -.8))], [], stamp)
                                    for k, (stamp, x) in enumerate(((15.5, 8.), (5.5, 4.)))])
    scan = tmp_path / '5.500000000.bin'  # out of its folder, so that its name alone tells
    scan.write_bytes((folder / 'pcd/7' / scan.name).read_bytes())
    assert predictor.truth(folder / 'anno/7.json', 'a', scan)['boxes'][0, 0] == 4


def test_the_time_in_a_name_is_known_of_files_of_any_format(predictor):
    times = [predictor.known(f'scans/{name}')['timestamp'] for name in ('5.5.bin', '5.5.pcd', '5.5.npy', '000005.pcd')]
    np.testing.assert_array_equal(times, [5.5, 5.5, 5.5, np.nan])


@pytest.mark.parametrize('view', ['bev', 'image'])
def test_a_film_of_one_size_shows_where_people_came_from(predictor, pictures, view, tmp_path):
    drawn = [picture for _, picture in predictor.pictures(pictures / 'pcd/33', pictures / 'anno', view)]
    assert len(drawn) == 2 and drawn[0].shape == drawn[1].shape
    lines, ids, _ = predictor._trails.lines()
    assert len(lines) == 2 and np.abs(lines[ids == ids[0]][0, 1] - lines[ids == ids[0]][0, 0]).max() <= 1.0
    next(predictor.pictures(pictures / 'pcd/33', pictures / 'anno', view))
    assert len(predictor._trails.lines()[0]) == 0  # it began anew
    film = write_video(tmp_path / 'film.mp4', drawn, 2.5)
    even = tuple(side // 2 * 2 for side in drawn[0].shape[:2])
    assert [frame.shape for _, frame in read_frames(film)] == [(*even, 3)] * 2


def test_frames_without_an_image_keep_the_size_of_a_film(predictor, pictures):
    first, second = scans_of(pictures)
    (pictures / 'left/33').joinpath(next(p.name for p in (pictures / 'left/33').iterdir() if p.name[0] == '1')).unlink()
    predictor.begin(pictures, 'image')
    a, b = (predictor.view('image', scan, None, None, 'a') for scan in (first, second))
    assert a.shape == b.shape
    with pytest.raises(DataError, match='--view image'):
        CrowdPredictor(None, DATA).view('image', np.zeros((5, 4), np.float32), None, None, 'a')


def test_people_are_saved_in_every_form(predictor, folder, tmp_path):
    scan = scans_of(folder)[0]
    sample = predictor(scan)
    found = json.loads(predictor.save('json', tmp_path, 'a', scan, sample).read_text())
    assert [(one['class'], one['score']) for one in found] == [('pedestrian', .9), ('pedestrian', .2)]
    assert found[0]['box'] == [8.0, 3.0, -.8, .7, .6, 1.7, 0.0, .5, None]
    rows = np.load(predictor.save('npy', tmp_path, 'a', scan, sample))
    assert rows.shape == (2, 11) and rows[:, 9].tolist() == pytest.approx([.9, .2])
    with pytest.raises(ConfigError, match='json, npy'):
        predictor.save('txt', tmp_path, 'a', scan, sample)


class Recorder:
    """Keeps what is put into a recording."""

    def __init__(self):
        self.logged = {}

    def points(self, place, points, colors):
        self.logged[place] = len(points)

    def boxes(self, place, boxes, colors, texts):
        self.logged[place] = len(boxes)

    def image(self, place, image):
        self.logged[place] = image.shape


def test_a_recording_gets_points_image_and_boxes(predictor, pictures):
    scan, recorder = scans_of(pictures)[0], Recorder()
    predictor.log(recorder, Found('a', scan, predictor(scan), predictor.truth(pictures / 'anno', 'a', scan)))
    assert recorder.logged['image'] == (720, 1280, 3) and recorder.logged['scan/points'] > 400
    assert [recorder.logged[f'scan/{name}'] for name in ('found', 'missed, with its points', 'wrong')] == [1, 1, 0]


def test_a_sample_of_the_data_set_is_drawn(monkeypatch, folder):
    from perception.crowd import draw
    monkeypatch.setattr(draw, 'visible_points', lambda points, view, width, height: np.full((height, width), -1))
    picture = CrowdPredictor(None, DATA).draw_sample(STCrowd(folder, 'val')[0], 'a')
    assert picture.ndim == 3 and picture.shape[1] > 1280


def test_a_film_is_as_fast_as_scans_are_followed(predictor):
    rates = [one.rate('pcd/33') for one in (predictor, CrowdPredictor(None, DATA, interval=.1))]
    assert rates == pytest.approx([2.5, 10])


def test_the_view_of_tracks_follows_people_through_scans(predictor, pictures, tmp_path):
    drawn = [picture for _, picture in predictor.pictures(pictures / 'pcd/33', pictures / 'anno', 'tracks')]
    assert len(drawn) == 2 and drawn[0].shape == drawn[1].shape
    lines, ids, _ = predictor._trails.lines()
    assert len(lines) == 1 and ids.tolist() == [0]
    scan = scans_of(pictures)[0]
    sample = predictor(scan)  # a third frame
    assert sample.pred_track_ids.tolist() == [-1, 0]  # the weak one is nobody's
    assert [one['track'] for one in json.loads(predictor.save('json', tmp_path, 'a', scan, sample).read_text())] == [
        0, None]
    assert np.load(predictor.save('npy', tmp_path, 'a', scan, sample))[:, 11].tolist() == [0, -1]
    for batch in (1, 5):  # a scan that cannot be read takes its time too
        predictor.begin(pictures, 'tracks')
        scans_of(pictures)[1].write_bytes(b'xyz')
        found = [one.error is None for one in predictor.results(pictures / 'pcd/33', batch=batch)]
        assert found == [True, False] and predictor.tracker.frame == 2
    assert [layer.name for layer in layers_of(dict(sample.to_dict()), PALETTE, predictor.look)[0]] == [
        'of no track (yet)', 'followed, with its number']  # nobody is known to be there
    predictor.begin(pictures, 'plain')
    assert 'pred_track_ids' not in predictor(scan)
    with pytest.raises(ConfigError, match='--view tracks: no checkpoint'):
        CrowdPredictor(None, DATA).begin(pictures, 'tracks')
    assert CrowdPredictor(None, DATA, tracker='GreedyTracker', interval=.1).tracker.interval == .1
