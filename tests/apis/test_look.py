"""Looking at configs, samples and logs."""
import json

import cv2
import pytest

from perception.apis.config import load_config
from perception.apis.logs import compare, read_log
from perception.apis.look import resolved, samples
from perception.utils.errors import ConfigError, DataError


# --- config ---
def built(value):
    """A part of a config with its classes."""
    if isinstance(value, dict):
        return {key: built(value[key]) for key in value}
    return [built(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('config', ['configs/pvd/minkunet_kitti.py', 'configs/lanes/enet_apolloscape.py'])
def test_the_resolved_config_is_a_config_again(tmp_path, config):
    text = resolved(config, mini=True, options={'train_cfg.max_epochs': 7})
    assert 'mini_loaders' not in text and 'student_mini' not in text and 'max_epochs=7' in text
    path = tmp_path / 'again.py'
    path.write_text(text)
    again, original = load_config(path), load_config(config, mini=True, options={'train_cfg.max_epochs': 7})
    for part in ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'default_hooks', 'predictor',
                 'work_dir', 'experiment_name'):
        assert built(again[part]) == built(original[part]), part
    text = resolved(path)
    path.write_text(text)
    assert resolved(path) == text


# --- samples ---
def test_samples_are_drawn_after_augmentation(toy, toy_config, tmp_path, monkeypatch):
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path / 'data'))
    paths = list(samples(toy_config, tmp_path / 'a', num=3, mini=True))
    assert [path.name for path in paths] == ['train_000000.png', 'train_000010.png', 'train_000021.png']
    first = [cv2.imread(str(path))[0, 0, 0] for path in paths]
    later = [cv2.imread(str(path))[0, 0, 0] for path in samples(toy_config, tmp_path / 'b', num=3, epoch=1)]
    again = [cv2.imread(str(path))[0, 0, 0] for path in samples(toy_config, tmp_path / 'c', num=3)]
    assert first == again != later
    assert len(list(samples(toy_config, tmp_path / 'd', num=99, split='val'))) == 11
    for name, value in (('num', 0), ('epoch', -1)):
        with pytest.raises(ConfigError, match=f'--{name}={value}, expected'):
            samples(toy_config, tmp_path, **{name: value})
    with pytest.raises(ConfigError, match='expected the config to define val_dataloader'):
        samples(toy_config, tmp_path, split='val', options={'train_cfg.val_interval': 0})


def test_samples_of_a_road_are_what_the_net_sees(mini_culane, tmp_path):
    path, = samples('configs/lanes/enet_culane.py', tmp_path, num=1, options={
        'train_dataloader.dataset.data_root': str(mini_culane)})
    assert cv2.imread(str(path)).shape[1] == 960


def test_samples_of_a_scan_are_what_the_net_sees(mini_kitti, tmp_path):
    path, = samples('configs/lidarseg/minkunet_kitti.py', tmp_path, num=1, split='val', options={
        'val_dataloader.dataset.data_root': str(mini_kitti)})
    assert cv2.imread(str(path)).shape[2] == 3


# --- logs ---
def write_run(folder, rows, stamp='20260101_000000'):
    file = folder / stamp / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return folder


def epochs(first, last, loss=1.0):
    rows = []
    for epoch in range(first, last + 1):
        rows += [dict(lr=.1, loss=loss / epoch, time=.2, epoch=epoch, iter=10 * epoch - 5, step=10 * epoch - 5),
                 dict(lr=.1, loss=loss / epoch, time=.2, epoch=epoch, iter=10 * epoch, step=10 * epoch),
                 dict(miou=epoch / 10, time=.1, step=epoch)]
    return rows


def test_runs_are_compared(tmp_path):
    a, b = (write_run(tmp_path / 'kd' / name, epochs(1, n)) for name, n in (('a', 3), ('b', 5)))
    log = read_log(a)
    assert log.name == 'kd/a' and log.unit == 'epoch'
    assert log.curve('loss')[0].tolist() == [.5, 1, 1.5, 2, 2.5, 3] and log.curve('loss')[1][-1] == pytest.approx(1 / 3)
    assert log.curve('miou')[0].tolist() == [1, 2, 3] and log.curve('time')[1].tolist() == [.2] * 6
    for name in ('x.png', 'x.svg'):
        lines = compare([a, b], tmp_path / name)
        assert lines[0] == ('kd/a: epoch 3, loss 0.3333, miou 0.3000 at last, 0.1000 (epoch 1) to 0.3000 (epoch 3), '
                            '0.200 s a step')
        assert 'epoch 5' in lines[1] and lines[2] == str(tmp_path / name)
    assert '<svg' in (tmp_path / 'x.svg').read_text()
    assert cv2.imread(str(tmp_path / 'x.png')).shape[1] > 1000
    with pytest.raises(ConfigError, match='--keys mioo.*Did you mean miou'):
        compare([a, b], tmp_path / 'x.png', ['mioo'])
    with pytest.raises(ConfigError, match=r'expected one of .png, .svg, .pdf'):
        compare([a, b], tmp_path / 'x.jpg')
    (tmp_path / 'own.png').write_bytes(b'a picture of the user')
    with pytest.raises(DataError, match='own.png: a file that no command of this project wrote'):
        compare([a, b], tmp_path / 'own.png')


def test_a_resumed_run_is_one_and_a_new_one_replaces_it(tmp_path):
    run = write_run(tmp_path / 'r', epochs(1, 3))
    write_run(run, epochs(3, 4, loss=2.0), '20260102_000000')
    x, loss = read_log(run).curve('loss')
    assert x.tolist() == [.5, 1, 1.5, 2, 2.5, 3, 3.5, 4] and loss[4] == pytest.approx(2 / 3)
    assert read_log(run).curve('miou')[0].tolist() == [1, 2, 3, 4]
    write_run(run, epochs(1, 2), '20260103_000000')
    assert read_log(run).curve('loss')[0].tolist() == [.5, 1, 1.5, 2]


def test_a_run_that_first_repeats_a_validation_keeps_what_it_had(tmp_path):
    run = write_run(tmp_path / 'r', epochs(1, 3)[:-1])
    write_run(run, [dict(miou=.3, time=.1, step=3), *epochs(4, 4)], '20260102_000000')
    assert read_log(run).curve('loss')[0].tolist() == [.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert read_log(run).curve('miou')[0].tolist() == [1, 2, 3, 4]


def test_logs_that_cannot_be_read_are_named(tmp_path):
    run = write_run(tmp_path / 'r', epochs(1, 2))
    file, = run.rglob('scalars.json')
    whole = file.read_text()
    file.write_text(whole[:-9])  # killed while it wrote
    assert read_log(run).curve('loss')[0].tolist() == [.5, 1, 1.5, 2]
    file.write_text('{"lr"\n' + whole)
    with pytest.raises(DataError, match='scalars.json: line 1 is no JSON'):
        read_log(run)
    with pytest.raises(DataError, match='no line of a training'):
        read_log(tmp_path / 'nothing')


def test_the_tool_looks(run, root, tmp_path):
    write_run(tmp_path / 'r', epochs(1, 2))
    done = run(root / 'tools/look.py', 'logs', tmp_path / 'r', '--out', tmp_path / 'x.png')
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == str(tmp_path / 'x.png')
