"""Scans in, labels, pictures and windows out, as tools and users meet them."""
import numpy as np
import pytest
import torch

from perception.common import predictor as base
from perception.common.formats.kitti import write_labels, write_points
from perception.common.predictor import Found
from perception.common.structures import PointSegSample
from perception.common.visual.points import vulkan_problem
from perception.lidarseg import predictor as module
from perception.lidarseg.datasets.nuscenes.reader import NuScenesLidarSeg
from perception.lidarseg.datasets.semantickitti.reader import CLASSES, PALETTE, SemanticKITTI, to_raw_ids
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.predictor import LidarPredictor
from perception.lidarseg.preprocessor import CylinderVoxelizer
from perception.utils.errors import ConfigError, DataError

needs_vulkan = pytest.mark.skipif(vulkan_problem() is not None, reason=f'{vulkan_problem()} here')
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
DATA = dict(type=SemanticKITTI, split='val')


@pytest.fixture(scope='module')
def net():
    """A net of a few thousand weights."""
    torch.manual_seed(0)
    voxelizer = dict(type=CylinderVoxelizer, grid_shape=(32, 24, 16))
    return Cylinder3D(voxelizer, base_channels=4, compression=4, point_channels=8).eval()


@pytest.fixture
def predictor(net):
    return LidarPredictor(net, DATA)


def scan(num=3000, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform((-40, -30, -3, 0), (40, 30, 1.5, 1), (num, 4)).astype(np.float32)
    return points, rng.integers(0, 19, num)


@pytest.fixture
def sequence(tmp_path):
    """Two scans and their labels in the official layout."""
    folder = tmp_path / 'sequences' / '08'
    for name in ('velodyne', 'labels'):
        (folder / name).mkdir(parents=True)
    for i in range(2):
        points, labels = scan(seed=i)
        write_points(folder / 'velodyne' / f'{i:06d}.bin', points)
        write_labels(folder / 'labels' / f'{i:06d}.label', to_raw_ids(labels, 'test'))
    return folder


# --- predicting ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('device', DEVICES)
def test_files_arrays_and_tensors_are_labelled_alike(net, sequence, device):
    predictor = LidarPredictor(net.to(device), DATA)
    points, file = scan()[0], sequence / 'velodyne' / '000000.bin'
    of_file = predictor(file)
    assert (of_file.sample_id, of_file.num_points, of_file.points_path) == ('000000', 3000, str(file))
    labels = of_file.pred_labels
    assert (labels.shape, labels.dtype, labels.device.type) == ((3000,), torch.int64, 'cpu')
    assert labels.min() >= 0 and labels.max() < 19
    for given in (str(file), points, points.astype(np.float64), torch.from_numpy(points)):
        assert torch.equal(predictor(given).pred_labels, labels)
    net.cpu()


@pytest.mark.parametrize('num', [0, 1])
def test_scans_of_no_point_and_of_one(predictor, num):
    assert predictor(np.full((num, 4), 0.5, np.float32)).pred_labels.shape == (num,)


def test_classes_and_colours_are_those_of_the_data_set(net):
    predictor = LidarPredictor(net, DATA)
    assert (predictor.meta['classes'], predictor.meta['palette']) == (CLASSES, PALETTE)
    assert not hasattr(net, 'dataset_meta') and not hasattr(net, 'dataset_cfg')


def test_points_that_cannot_be_predicted_are_refused(predictor, tmp_path):
    with pytest.raises(DataError, match=r'\(5, 3\), expected \(N, 4\)'):
        predictor(np.zeros((5, 3)))
    with pytest.raises(DataError, match='row 1'):
        predictor(np.array([[0, 0, 0, 0], [np.nan, 0, 0, 0]]))
    (tmp_path / 'short.bin').write_bytes(b'0' * 18)
    with pytest.raises(DataError, match='truncated'):
        predictor(tmp_path / 'short.bin')


def test_an_array_keeps_its_columns():
    predictor, points = LidarPredictor(None, DATA), np.arange(8.).reshape(2, 4)
    assert predictor.points(points).dtype == np.float32
    assert (predictor.points(torch.from_numpy(points)) == points).all()


def test_sources_are_a_scan_or_all_of_a_folder(sequence, tmp_path):
    predictor, folder = LidarPredictor(None, DATA), sequence / 'velodyne'
    assert [(name, file.name) for name, file in predictor.sources(folder)] == [
        ('000000', '000000.bin'), ('000001', '000001.bin')]
    assert list(predictor.sources(folder / '000001.bin')) == [('000001', folder / '000001.bin')]
    with pytest.raises(DataError, match=r'labels: no \.bin file in it'):
        list(predictor.sources(sequence / 'labels'))
    with pytest.raises(DataError, match='none: no such file or folder'):
        list(predictor.sources(tmp_path / 'none'))


def test_truth_is_read_where_it_stands_in_a_file_for_each_scan(sequence, tmp_path):
    predictor, file = LidarPredictor(None, DATA), sequence / 'velodyne/000001.bin'
    for labels in (sequence / 'labels', sequence / 'labels/000001.label'):
        assert (predictor.truth(labels, '000001', file) == scan(seed=1)[1]).all()
    write_labels(tmp_path / 'short.label', np.zeros(7, np.uint32))
    with pytest.raises(DataError, match='7 labels for 3,000 points'):
        predictor.truth(tmp_path / 'short.label', '000001', file)
    with pytest.raises(ConfigError, match='--labels: .* NuScenesLidarSeg'):
        LidarPredictor(None, dict(type=NuScenesLidarSeg)).truth(sequence, '000001', file)


# --- pictures --------------------------------------------------------------------------------------------------------
@needs_vulkan
def test_a_picture_shows_what_is_known(predictor, sequence):
    file, truth = sequence / 'velodyne/000000.bin', scan()[1]
    sample = predictor(file)
    widths = [predictor.draw(file, *known).shape[1] for known in ((), (sample,), (None, truth), (sample, truth))]
    assert widths == [1284, 1284, 1284, 1928]  # with both, prediction, ground truth and errors stand side by side
    assert (predictor.draw(file, sample) == predictor.draw(scan()[0], sample, title='000000')).all()


@needs_vulkan
@pytest.mark.parametrize('view', LidarPredictor.views[:2])
def test_each_scan_of_a_folder_is_drawn_without_a_model_too(net, sequence, view):
    for model in (None, net):
        pictures = dict(LidarPredictor(model, DATA).pictures(sequence / 'velodyne', sequence / 'labels', view))
        assert list(pictures) == ['000000', '000001']
        assert len({image.shape for image in pictures.values()}) == 1


@needs_vulkan
def test_a_film_begins_anew_for_each_folder(sequence):
    predictor = LidarPredictor(None, DATA)
    first, second = ([image for _, image in predictor.pictures(sequence / 'velodyne', view='follow')] for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second)) and (first[0] != first[1]).any()


@needs_vulkan
def test_without_a_display_pictures_are_drawn_and_that_is_said_once(sequence, monkeypatch):
    said = []
    monkeypatch.setattr(module, 'show_points', lambda *args: False)
    monkeypatch.setattr(base, 'print_log', lambda text, *args: said.append(text))
    assert len(list(LidarPredictor(None, DATA).pictures(sequence / 'velodyne', show=True))) == 2
    assert len(said) == 1 and '--show' in said[0]


@needs_vulkan
def test_a_window_shows_the_labelled_points(sequence, monkeypatch):
    shown = []
    monkeypatch.setattr(module, 'show_points', lambda points, colors, title: shown.append((colors, title)) or True)
    list(LidarPredictor(None, DATA).pictures(sequence / 'velodyne', sequence / 'labels', show=True))
    assert [title for _, title in shown] == ['000000.bin', '000001.bin']
    assert (shown[0][0] == np.array(PALETTE)[scan()[1]]).all()


class Recorder:
    """Keeps what is put into a recording."""

    def __init__(self):
        self.points_at = {}

    def points(self, place, points, colors):
        assert len(points) == len(colors)
        self.points_at[place] = len(points)


def test_a_recording_gets_points_prediction_truth_and_errors():
    points, labels = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32), np.arange(50) % 19
    for sample, truth, places in ((None, None, ['points']), (None, labels, ['points', 'truth']), (
            PointSegSample(pred_labels=torch.from_numpy(labels)), labels, ['points', 'prediction', 'truth', 'errors'])):
        recorder = Recorder()
        LidarPredictor(None, DATA).log(recorder, Found('a', points, sample, truth))
        assert recorder.points_at == {f'scan/{place}': 50 for place in places}
