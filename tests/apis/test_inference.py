"""Loading, predicting and drawing as a user does it."""
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from perception.apis import inference
from perception.apis.inference import dataset_type, draw, load, predict, room_for, room_of, visualize
from perception.common.formats.kitti import write_labels, write_points
from perception.common.visual.points import vulkan_problem
from perception.common.visual.video import frame_rate, read_frames
from perception.lidarseg import predictor as lidarseg
from perception.lidarseg.datasets.semantickitti.reader import CLASSES, PALETTE, SemanticKITTI, to_raw_ids
from perception.lidarseg.predictor import find_scans, read_scan
from perception.registry import MODELS
from perception.utils.errors import CheckpointError, ConfigError, DataError

needs_vulkan = pytest.mark.skipif(vulkan_problem() is not None, reason=f'{vulkan_problem()} here')
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]

CONFIG = '''
"""A net of a few thousand weights."""
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTI
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.preprocessor import CylinderVoxelizer

default_scope = 'perception'
model = dict(type=Cylinder3D, base_channels=4, compression=4, point_channels=8,
             data_preprocessor=dict(type=CylinderVoxelizer, grid_shape=(32, 24, 16)))
test_dataloader = dict(dataset=dict(type=SemanticKITTI, split='val'))
mini = dict(model=dict(base_channels=2))
'''


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config and the weights of its net, of full and of mini width."""
    folder = tmp_path_factory.mktemp('model')
    config = folder / 'tiny.py'
    config.write_text(CONFIG)
    for mini in (False, True):
        torch.manual_seed(0)
        cfg = inference.load_config(config, mini)
        torch.save(MODELS.build(cfg.model).state_dict(), folder / f'{"mini" if mini else "full"}.pth')
    return config, folder / 'full.pth', folder / 'mini.pth'


@pytest.fixture(scope='module')
def model(trained):
    return load(*trained[:2], device='cpu')


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


@pytest.mark.parametrize('device', DEVICES)
def test_predicts_files_arrays_tensors_and_lists_alike(trained, sequence, device):
    model = load(*trained[:2], device=device)
    points, _ = scan()
    file = sequence / 'velodyne' / '000000.bin'
    of_file = predict(model, file)
    assert (of_file.sample_id, of_file.num_points, of_file.points_path) == ('000000', 3000, str(file))
    labels = of_file.pred_labels
    assert (labels.shape, labels.dtype, labels.device.type) == ((3000,), torch.int64, 'cpu')
    assert labels.min() >= 0 and labels.max() < 19
    for given in (str(file), points, points.astype(np.float64), torch.from_numpy(points)):
        assert torch.equal(predict(model, given).pred_labels, labels)
    both = predict(model, [file, sequence / 'velodyne' / '000001.bin'])
    assert [sample.sample_id for sample in both] == ['000000', '000001']
    assert torch.equal(both[0].pred_labels, labels)


def test_model_knows_its_classes_and_is_in_evaluation_mode(model):
    assert model.dataset_meta['classes'] == CLASSES
    assert model.dataset_meta['palette'] == PALETTE
    assert not model.training


@pytest.mark.parametrize('num', [0, 1])
def test_scans_of_no_point_and_of_one(model, num):
    assert predict(model, np.full((num, 4), 0.5, np.float32)).pred_labels.shape == (num,)


def test_mini_builds_the_mini_net(trained):
    config, full, mini = trained
    assert load(config, mini, device='cpu', mini=True).head.weight.shape[-1] == 8
    with pytest.raises(CheckpointError, match='mis-shaped'):
        load(config, full, mini=True)


def test_options_change_the_net(trained):
    config, _, mini = trained
    assert load(config, mini, device='cpu', options={'model.base_channels': 2}).head.weight.shape[-1] == 8


def test_refuses_what_it_cannot_load(trained, tmp_path):
    config, weights, _ = trained
    with pytest.raises(ConfigError, match='no such file'):
        load(tmp_path / 'none.py', weights)
    with pytest.raises(CheckpointError, match='no such file'):
        load(config, tmp_path / 'none.pth')
    other = tmp_path / 'other.py'
    other.write_text(config.read_text().replace('type=SemanticKITTI', 'type=dict'))
    with pytest.raises(ConfigError, match='METAINFO'):
        load(other, weights)


def test_data_set_may_be_named_by_a_string(trained):
    cfg = inference.load_config(trained[0])
    cfg.test_dataloader.dataset.type = 'SemanticKITTI'
    assert dataset_type(cfg).__name__ == 'SemanticKITTI'


def test_a_data_set_leads_to_its_room(sequence, tmp_path):
    class Own(SemanticKITTI):
        """A user's data set."""

    assert room_of(SemanticKITTI) is room_of(Own) is lidarseg
    with pytest.raises(ConfigError, match='expected one of .*perception.lidarseg'):
        room_of(dict)


def test_files_lead_to_the_room_that_reads_them(sequence, tmp_path):
    assert room_for(sequence / 'velodyne') is room_for('any.bin') is lidarseg
    assert room_for('drive.MP4').__name__ == room_for('a.jpg').__name__ == 'perception.lanes.inference'
    (tmp_path / 'x.txt').touch()
    for path, came in ((tmp_path, r'a folder with .*\.txt files'), (tmp_path / 'x.txt', 'such a file'),
                       (tmp_path / 'none', 'no such file or folder')):
        with pytest.raises(DataError, match=f'{came}, expected one that ends in .*bin'):
            room_for(path)


def test_attention_is_asked_of_image_nets_alone(trained, sequence, tmp_path):
    for model in ({}, dict(config=trained[0], checkpoint=trained[1])):
        with pytest.raises(ConfigError, match='--attention: .* expected a net whose stages are maps'):
            next(visualize(sequence / 'velodyne', tmp_path, attention=True, **model))


def test_refuses_points_it_cannot_predict(model, tmp_path):
    with pytest.raises(DataError, match=r'expected \(N, 4\)'):
        predict(model, np.zeros((5, 3)))
    with pytest.raises(DataError, match='row 1'):
        predict(model, np.array([[0, 0, 0, 0], [np.nan, 0, 0, 0]]))
    (tmp_path / 'short.bin').write_bytes(b'0' * 18)
    with pytest.raises(DataError, match='truncated'):
        predict(model, tmp_path / 'short.bin')


def test_read_scan_copies_no_column_order():
    points = np.arange(8.).reshape(2, 4)
    assert read_scan(points).dtype == np.float32
    assert (read_scan(torch.from_numpy(points)) == points).all()


def test_finds_a_scan_or_all_of_a_folder(sequence, tmp_path):
    folder = sequence / 'velodyne'
    assert [p.name for p in find_scans(folder)] == ['000000.bin', '000001.bin']
    assert find_scans(folder / '000001.bin') == [folder / '000001.bin']
    with pytest.raises(DataError, match=r'labels: no \.bin file in it'):
        find_scans(sequence / 'labels')
    with pytest.raises(DataError, match='no such file or folder'):
        find_scans(tmp_path / 'none')


@needs_vulkan
def test_draw_writes_the_picture_it_returns(model, sequence, tmp_path):
    file = sequence / 'velodyne' / '000000.bin'
    image = draw(model, file, predict(model, file), scan()[1], tmp_path / 'a' / 'out.png')
    assert (cv2.imread(str(tmp_path / 'a' / 'out.png'))[..., ::-1] == image).all()
    assert image.shape[1] > 1900  # prediction, ground truth and errors


@needs_vulkan
def test_visualize_a_folder_with_and_without_a_model(trained, sequence, tmp_path):
    for name, arguments, width in (('points', {}, 1284), ('truth', dict(labels=sequence / 'labels'), 1284),
                                   ('all', dict(labels=sequence / 'labels', config=trained[0], checkpoint=trained[1]),
                                    1928)):
        paths = list(visualize(sequence / 'velodyne', tmp_path / name, **arguments))
        assert paths == [tmp_path / name / f'00000{i}.png' for i in range(2)]
        assert all(cv2.imread(str(path)).shape[1] == width for path in paths)


@needs_vulkan
def test_scans_make_a_video(sequence, tmp_path):
    assert list(visualize(sequence / 'velodyne', tmp_path / 'a' / 'out.mp4', fps=4)) == [tmp_path / 'a' / 'out.mp4']
    assert len(list(read_frames(tmp_path / 'a' / 'out.mp4'))) == 2
    assert frame_rate(tmp_path / 'a' / 'out.mp4') == 4


@needs_vulkan
def test_show_without_a_display_still_writes_and_says_so_once(sequence, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(lidarseg, 'show_points', lambda *args: False)
    monkeypatch.setattr(lidarseg, 'print_log', lambda text, *args: said.append(text))
    assert len(list(visualize(sequence / 'velodyne', tmp_path, show=True))) == 2
    assert len(said) == 1 and 'no display' in said[0]


@needs_vulkan
def test_show_opens_a_window_for_each_scan(sequence, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(lidarseg, 'show_points', lambda points, colors, title: shown.append((colors, title)) or True)
    list(visualize(sequence / 'velodyne', tmp_path, labels=sequence / 'labels', show=True))
    assert [title for _, title in shown] == ['000000.bin', '000001.bin']
    assert (shown[0][0] == np.array(PALETTE)[scan()[1]]).all()


def test_refuses_half_a_model_and_labels_of_another_scan(trained, sequence, tmp_path):
    file = sequence / 'velodyne' / '000000.bin'
    with pytest.raises(ConfigError, match='expected both or neither'):
        next(visualize(file, tmp_path, config=trained[0]))
    write_labels(tmp_path / 'short.label', np.zeros(7, np.uint32))
    with pytest.raises(DataError, match='7 labels for 3,000 points'):
        next(visualize(file, tmp_path, labels=tmp_path / 'short.label'))


def run_tool(root, *arguments):
    return subprocess.run([sys.executable, root / 'tools' / 'visualize.py', *map(str, arguments)], capture_output=True,
                          text=True, cwd=root.parent, env=dict(os.environ, PYTHONPATH=str(root)))


@needs_vulkan
def test_tool_draws_from_any_directory(root, trained, sequence, tmp_path):
    done = run_tool(root, trained[0], trained[2], sequence / 'velodyne' / '000000.bin', '--labels', sequence / 'labels',
                    '--out', tmp_path / 'out', '--colors', 32, '--cfg-options', 'model.base_channels=2')
    assert (done.returncode, done.stdout.split()) == (0, [str(tmp_path / 'out' / '000000.png')]), done.stderr
    assert (tmp_path / 'out' / '000000.png').stat().st_size < 150_000


def test_tool_refuses_with_one_sentence(root, tmp_path):
    done = run_tool(root, tmp_path / 'none.bin', '--out', tmp_path)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('DataError: ') and done.stderr.count('\n') == 1
    assert run_tool(root, 'a', 'b', '--out', tmp_path).returncode == 2
