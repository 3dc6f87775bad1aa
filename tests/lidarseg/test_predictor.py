"""Scans in, labels, pictures and windows out, as tools and users meet them."""
import shutil

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from torch import nn

from perception.common import predictor as base
from perception.common.formats.kitti import write_labels, write_points
from perception.common.predictor import Found
from perception.common.structures import PointSegSample
from perception.common.visual.points import vulkan_problem
from perception.lidarseg import predictor as module
from perception.lidarseg.datasets.base import pack
from perception.lidarseg.datasets.nuscenes.reader import NuScenesLidarSeg
from perception.lidarseg.datasets.semantickitti.reader import CLASSES, PALETTE, SemanticKITTI, to_raw_ids
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.points import label_points, masked_cross_entropy
from perception.lidarseg.predictor import LidarPredictor
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.lidarseg.transforms import RandomRotate, RandomSector, RandomThin, WithinRange
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


# --- other sensors and files -----------------------------------------------------------------------------------------
def test_real_scans_of_two_sensors_are_labelled_by_one_net(net, shared, tmp_path):
    kitti = shared / 'real/semantickitti_original/sequences/08/velodyne/000000.bin'
    sweep = next((shared / 'real/nuscenes_frame').glob('*.pcd.bin'))
    plain = LidarPredictor(net, DATA)
    assert len(plain(kitti).pred_labels) == kitti.stat().st_size // 16
    assert len(plain(sweep).pred_labels) == 34688
    shutil.copy(sweep, tmp_path / 'a.bin')
    with pytest.raises(DataError, match='looks like 5 columns'):
        plain(tmp_path / 'a.bin')
    options = dict(intensity_scale='1/255', forward='y', height=1.84)
    ours = LidarPredictor(net, DATA, columns='x,y,z,i,ring', **options)
    of_file, of_sweep = ours.predict([tmp_path / 'a.bin', sweep])
    assert torch.equal(of_file.pred_labels, of_sweep.pred_labels)
    raw = np.fromfile(sweep, '<f4').reshape(-1, 5)
    by_hand = np.stack([raw[:, 1], -raw[:, 0], raw[:, 2] + 0.11, raw[:, 3] / 255], 1)
    assert (plain(by_hand).pred_labels == of_file.pred_labels).float().mean() > 0.999
    nuscenes = LidarPredictor(None, dict(type=NuScenesLidarSeg))
    assert (nuscenes.points(tmp_path / 'a.bin') == raw[:, :4]).all()
    with pytest.raises(DataError, match='looks like 4 columns'):
        nuscenes.points(kitti)


def test_predictions_of_dropped_rows_are_ignored(net, tmp_path):
    points = scan()[0]
    points[[1, 5]] = np.nan
    np.save(tmp_path / 'a.npy', points)
    predictor = LidarPredictor(net, DATA, invalid='drop')
    sample = predictor(tmp_path / 'a.npy')
    assert sample.num_points == len(sample.pred_labels) == 3000
    assert torch.nonzero(sample.pred_labels == 255).flatten().tolist() == [1, 5]
    alone = LidarPredictor(net, DATA)(np.delete(points, [1, 5], 0)).pred_labels
    assert (np.delete(sample.pred_labels.numpy(), [1, 5]) == alone.numpy()).all()
    with pytest.raises(DataError, match='in row 1'):
        LidarPredictor(net, DATA)(tmp_path / 'a.npy')


def test_a_scan_passes_the_pipeline_of_the_data_set(net, sequence):
    """A net that is tested within a radius predicts within it; its voxels begin at the lowest point that is left."""
    data = dict(DATA, data_root=str(sequence.parents[1]), pipeline=[dict(type=WithinRange, radius=20.)])
    tested = net.test_step(pseudo_collate([SemanticKITTI(**{k: v for k, v in data.items() if k != 'type'})[0]]))[0]
    predictor, file = LidarPredictor(net, data), sequence / 'velodyne/000000.bin'
    sample = predictor(file)
    assert torch.equal(sample.pred_labels, tested.pred_labels) and len(sample.pred_labels) == sample.num_points == 3000
    near = np.hypot(*scan()[0][:, :2].T) <= 20
    assert ((sample.pred_labels != 255).numpy() == near).all() and len(predictor.points(file)) == near.sum()
    assert (predictor.probabilities(file).any(axis=1) == near).all()
    assert torch.equal(predictor(np.fromfile(file, '<f4').reshape(-1, 4)).pred_labels, sample.pred_labels)
    assert predictor.draw(file, sample, predictor.truth(sequence / 'labels', '000000', file)).ndim == 3


def test_random_steps_draw_the_same_whenever_a_scan_is_looked_at(net, sequence, tmp_path):
    steps = [dict(type=RandomThin, keep=.25), dict(type=RandomSector), dict(type=RandomRotate)]
    predictor, file = LidarPredictor(net, dict(DATA, pipeline=steps)), sequence / 'velodyne/000000.bin'
    sample, cloud = predictor(file), predictor.cloud(file)
    seen = sample.pred_labels != 255
    assert 0 < seen.sum() == len(cloud.points) < 500 and len(sample.pred_labels) == cloud.num_rows == 3000
    assert np.array_equal(np.flatnonzero(seen), cloud.kept)
    assert torch.equal(predictor(file).pred_labels, sample.pred_labels)
    path = predictor.save('label', tmp_path, 'a', file, sample)  # a row for each of the file
    assert path.stat().st_size == 4 * 3000


def test_predictions_are_saved_in_every_form(net, sequence, tmp_path):
    predictor, file = LidarPredictor(net, DATA), sequence / 'velodyne/000000.bin'
    sample = predictor(file)
    paths = [predictor.save(form, tmp_path, 'a', file, sample) for form in predictor.saves]
    assert [path.name for path in paths] == ['a.label', 'a.npy', 'a.ply', 'a_probabilities.npy']
    labels = sample.pred_labels.numpy()
    assert (np.fromfile(paths[0], '<u4') == to_raw_ids(labels, 'test')).all()
    assert (predictor.truth(paths[0], 'a', file) == labels).all()  # it can be read as the truth
    assert np.load(paths[1]).dtype == np.uint8 and (np.load(paths[1]) == labels).all()
    probs = np.load(paths[3])
    assert probs.shape == (3000, 19) and probs.dtype == np.float32 and (probs.argmax(1) == labels).all()
    again = LidarPredictor(None, DATA)
    np.testing.assert_allclose(again.points(paths[2]), again.points(file))
    colours = again.cloud(paths[2]).fields
    assert (np.stack([colours[c] for c in ('red', 'green', 'blue')], 1) == np.array(PALETTE)[labels]).all()
    with pytest.raises(ConfigError, match='--save-as'):
        predictor.save('jpg', tmp_path, 'a', file, sample)


def test_each_cloud_of_a_folder_of_any_formats_is_a_source(net, tmp_path):
    points = scan(200)[0]
    np.save(tmp_path / '2.npy', points)
    np.savez(tmp_path / '10.npz', points=points)
    write_points(tmp_path / '1.bin', points)
    predictor = LidarPredictor(net, DATA)
    found = list(predictor.sources(tmp_path))
    assert [name for name, _ in found] == ['1', '2', '10']
    first, *others = predictor.predict([source for _, source in found])
    assert all(torch.equal(first.pred_labels, other.pred_labels) for other in others)


def test_the_net_of_the_readme_learns_and_predicts(root):
    block = next(block for block in (root / 'perception/lidarseg/README.md').read_text().split('```python')
                 if 'class PointMLP' in block).split('```')[0].replace('@MODELS.register_module()\n', '')
    names = dict(BaseModel=BaseModel, nn=nn, CubeVoxelizer=CubeVoxelizer, label_points=label_points,
                 masked_cross_entropy=masked_cross_entropy)
    exec(block, names)
    net = names['PointMLP'](num_classes=19)
    batch = [pack(dict(points=points, labels=labels, sample_id='a')) for points, labels in (scan(50), scan(70, 1))]
    losses = net(**net.data_preprocessor(pseudo_collate(batch), True), mode='loss')
    losses['loss_ce'].backward()
    assert [len(sample.pred_labels) for sample in net.test_step(pseudo_collate(batch))] == [50, 70]
    assert LidarPredictor(net.eval(), DATA)(scan()[0]).pred_labels.shape == (3000,)
