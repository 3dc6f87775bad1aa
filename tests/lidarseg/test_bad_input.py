"""What a user of the tools meets with each LiDAR net: scans without points are labelled, damage gets one sentence."""
import shutil

import numpy as np
import pytest
import torch

from perception.apis.cli import run_command
from perception.apis.config import load_config
from perception.apis.test import test as evaluate
from perception.apis.train import train
from perception.common.formats.kitti import write_labels, write_points
from perception.registry import MODELS
from perception.utils.checkpoint import save_atomic

CUBES = {'model.data_preprocessor.voxel_size': .8}
NETS = {  # options that make each net small
    'cylinder3d': {'model.base_channels': 2, 'model.compression': 2, 'model.point_channels': 4,
                   'model.point_widths': [4, 4, 4], 'model.data_preprocessor.grid_shape': [48, 36, 8]},
    'minkunet': {'model.width': .0625, **CUBES}, 'spvcnn': {'model.width': .0625, **CUBES},
    'spvnas': {'model.ratio': .0625, **CUBES}}
LOADERS = {f'{part}_dataloader.{key}': value for part in ('train', 'val', 'test', 'submit')
           for key, value in (('num_workers', 0), ('persistent_workers', False))}
VAL = '08/{}/000000.{}'


@pytest.fixture
def root_of_data(mini_kitti, tmp_path, monkeypatch):
    """A copy of the tiny data set, whose scans are cut to few points, as configs find it."""
    folder = tmp_path / 'data/semantickitti'
    shutil.copytree(mini_kitti, folder)
    for path in folder.rglob('*.bin'):
        path.write_bytes(path.read_bytes()[:16 * 200])
    for path in folder.rglob('*.label'):
        path.write_bytes(path.read_bytes()[:4 * 200])
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path / 'data'))
    return folder / 'sequences'


@pytest.fixture(params=NETS)
def net(request, root, tmp_path):
    """Config, checkpoint and options of a small net."""
    config = root / f'configs/lidarseg/{request.param}_half_kitti.py'
    options = NETS[request.param] | LOADERS | {'work_dir': str(tmp_path / 'run')}
    torch.manual_seed(0)
    save_atomic(MODELS.build(load_config(config, options=options).model).state_dict(), tmp_path / 'model.pth')
    return config, tmp_path / 'model.pth', options


def write_scan(sequences, points):
    write_points(sequences / VAL.format('velodyne', 'bin'), np.array(points, np.float32).reshape(-1, 4))
    write_labels(sequences / VAL.format('labels', 'label'), np.full(len(points), 40))


def sentence_of(capsys, function, *args, **kwargs):
    """What a tool prints before it ends with code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_command(lambda: function(*args, **kwargs))
    errors = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert end.value.code == 2 and len(errors) == 1, errors
    return errors[0]


def test_scans_of_no_and_one_point_are_labelled_scored_and_submitted(net, root_of_data, tmp_path):
    config, checkpoint, options = net
    for points, draw in (([], str(tmp_path / 'pictures')), ([(5, 1, -1, .5)], None)):
        write_scan(root_of_data, points)
        assert 0 <= evaluate(config, checkpoint, draw=draw, options=options)['miou'] <= 1
    assert {'08_000000.png', '08_000001.png'} <= {path.name for path in (tmp_path / 'pictures').rglob('*.png')}
    write_points(root_of_data / '11/velodyne/000000.bin', np.zeros((0, 4)))
    write_points(root_of_data / '12/velodyne/000000.bin', np.ones((1, 4)))
    evaluate(config, checkpoint, submit=str(tmp_path / 'out'), options=options)
    sizes = [(tmp_path / f'out/sequences/{n}/predictions/000000.label').stat().st_size for n in (11, 12)]
    assert sizes == [0, 4] and (tmp_path / 'out/submission.zip').exists()


def test_damage_gets_one_sentence(net, root_of_data, tmp_path, capsys):
    config, checkpoint, options = net
    scan = root_of_data / VAL.format('velodyne', 'bin')
    good = scan.read_bytes()
    for damage, problem in ((good[:-7], '3,193 bytes, expected a multiple of 16'),
                            (good[:-16], '200 labels for 199 points'),
                            (np.float32(np.nan).tobytes() + good[4:], 'expected finite numbers'),
                            (np.float32(1e20).tobytes() + good[4:], 'points up to 1e+20 m away')):
        scan.write_bytes(damage)
        message = sentence_of(capsys, evaluate, config, checkpoint, options=options)
        assert message.startswith('DataError: ') and '/08/' in message and problem in message
    scan.write_bytes(good)
    (tmp_path / 'cut.pth').write_bytes(checkpoint.read_bytes()[:-300])
    (tmp_path / 'text.pth').write_text('no weights')
    save_atomic({'a.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    for path, problem in ((tmp_path / 'absent.pth', 'no such file'), (tmp_path, 'a folder came'),
                          (tmp_path / 'cut.pth', 'unreadable'), (tmp_path / 'text.pth', 'unreadable'),
                          (tmp_path / 'other.pth', '1 unexpected (a.weight)')):
        message = sentence_of(capsys, evaluate, config, path, options=options)
        assert message.startswith(f'CheckpointError: {path}: ') and problem in message
    whole = {name: value for name, value in options.items() if not name.startswith('model.')}
    message = sentence_of(capsys, evaluate, config, checkpoint, options=whole)
    assert 'mis-shaped' in message and 'use the config it was trained with' in message
    (tmp_path / 'file').write_text('')
    for submit in (str(tmp_path / 'file/x'), str(tmp_path / 'file')):
        message = sentence_of(capsys, evaluate, config, checkpoint, submit=submit, options=options)
        assert f'{submit}: ' in message and 'expected a folder' in message


def test_scans_that_teach_nothing_get_one_sentence(net, root_of_data, tmp_path, capsys):
    config, _, options = net
    options |= {'train_dataloader.dataset.sequences': [0]}
    for points in ([], [(5, 1, -1, .5)]):
        for path in (root_of_data / '00/velodyne').iterdir():
            write_points(path, np.array(points, np.float32).reshape(-1, 4))
            write_labels(root_of_data / f'00/labels/{path.stem}.label', np.full(len(points), 40))
        message = sentence_of(capsys, train, config, options=options)
        assert f'{len(points)} points in a training scan, expected at least 2' in message
    shutil.rmtree(root_of_data)
    assert 'expected SemanticKITTI in its official layout' in sentence_of(capsys, train, config, options=options)
