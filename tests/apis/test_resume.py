"""A run killed at any moment and resumed ends like one that was never interrupted."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from perception.apis.train import train
from perception.utils.checkpoint import newest_checkpoint
from perception.utils.errors import CheckpointError

HERE = Path(__file__).parent
WORKERS = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True,
           'val_dataloader.num_workers': 1}
FIRST_IS_BEST = {'default_hooks.export.rule': 'less'}  # the toy's accuracy grows, so that epoch 1 is the lowest
KILLS = {  # 3 epochs of 6 iterations, a validation of 6 after each
    'in a step': (['step', 9], {}),
    'in the first epoch, before any checkpoint': (['step', 2], {}),
    'in a step, the best epoch being past': (['step', 9], FIRST_IS_BEST),
    'before the rename of a checkpoint': (['rename', 'epoch_2.pth', 'before', 1], {}),
    'after the rename of a checkpoint': (['rename', 'epoch_2.pth', 'after', 1], {}),
    'in validation': (['before_val_iter', 2, 3], {}),
    'in the last validation': (['before_val_iter', 3, 3], {}),
    'before the rename of model.pth': (['rename', 'model.pth', 'before', 2], {}),
    'after the rename of model.pth': (['rename', 'model.pth', 'after', 2], {}),
    'before the validation is noted': (['rename', 'epoch_2.pth', 'before', 2], {}),
    'after the validation is noted': (['rename', 'epoch_2.pth', 'after', 2], {}),
    'at the end of an epoch': (['after_train_epoch', 1], {}),
    'at the start of an epoch': (['before_train_epoch', 2], {}),
    'in a step, with workers': (['step', 9], WORKERS),
    'before the rename, with workers': (['rename', 'epoch_2.pth', 'before', 1], WORKERS),
    'after the rename, with workers': (['rename', 'epoch_2.pth', 'after', 1], WORKERS),
    'in validation, with workers': (['before_val_iter', 2, 3], WORKERS),
    'at the end of an epoch, with workers': (['after_train_epoch', 1], WORKERS),
}


@pytest.fixture(scope='module')
def runs(run, tmp_path_factory):
    """All scenarios, killed and resumed; the folder of each, and of the two runs without a kill."""
    folder = tmp_path_factory.mktemp('runs')
    scenarios = [[str(folder / 'whole'), None, {}, False], [str(folder / 'first'), None, FIRST_IS_BEST, False]]
    for name, (point, options) in KILLS.items():
        scenarios += [[str(folder / name), point, options, False], [str(folder / name), None, options, True]]
    done = run(HERE / 'killed_runs.py', json.dumps(scenarios), timeout=300)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    expected = [0, 0] + [-signal.SIGKILL, 0] * len(KILLS)
    wrong = [(s, end, Path(s[0], 'output.txt').read_text()[-500:])
             for s, end, right in zip(scenarios, ends, expected) if end != right]
    assert not wrong, wrong
    return folder


@pytest.mark.parametrize('name', KILLS)
def test_a_killed_run_ends_like_a_whole_one(runs, name, assert_same):
    whole = runs / ('first' if KILLS[name][1] is FIRST_IS_BEST else 'whole')
    assert_same(torch.load(runs / name / 'model.pth'), torch.load(whole / 'model.pth'), 'model.pth')
    theirs, ours = (torch.load(folder / 'epoch_3.pth') for folder in (whole, runs / name))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(ours[part], theirs[part], part)
    assert (ours['meta']['epoch'], ours['meta']['iter']) == (3, 18)
    hubs = [checkpoint['message_hub'] for checkpoint in (ours, theirs)]
    for scalar in ('train/loss', 'val/toy/accuracy'):
        assert_same(*(hub['log_scalars'][scalar] for hub in hubs), where=scalar)
    for info in ('best_score', 'best_epoch', 'step_validated'):
        assert_same(*(hub['runtime_info'][info] for hub in hubs), where=info)
    assert sorted(p.name for p in (runs / name).glob('*.pth')) == ['epoch_2.pth', 'epoch_3.pth', 'model.pth']
    assert not list((runs / name).glob('.*part'))


def test_the_comparison_can_fail(runs, assert_same):
    first, whole = (torch.load(runs / name / 'model.pth') for name in ('first', 'whole'))
    with pytest.raises(AssertionError):
        assert_same(first, whole)


def test_a_validation_that_was_cut_off_is_repeated_once(runs):
    for name, times in (('in validation', 1), ('in the last validation', 1), ('in a step', 0)):
        assert (runs / name / 'output.txt').read_text().count('was cut off; repeating it') == times, name


def test_a_damaged_newest_checkpoint_is_skipped(runs, toy_config, tmp_path, capsys, assert_same):
    for name in ('epoch_2.pth', 'epoch_3.pth'):
        data = (runs / 'whole' / name).read_bytes()
        (tmp_path / name).write_bytes(data if name == 'epoch_2.pth' else data[:-500])
    newest, problems = newest_checkpoint(tmp_path)
    assert newest == tmp_path / 'epoch_2.pth'
    assert len(problems) == 1 and 'epoch_3.pth: unreadable' in problems[0]
    train(toy_config, work_dir=str(tmp_path), resume=True)
    assert 'resumed epoch: 2' in ''.join(capsys.readouterr())
    assert_same(torch.load(tmp_path / 'epoch_3.pth')['state_dict'],
                torch.load(runs / 'whole' / 'epoch_3.pth')['state_dict'])


def test_nothing_is_resumed_when_all_checkpoints_are_damaged(toy_config, tmp_path):
    (tmp_path / 'epoch_1.pth').write_bytes(b'nothing')
    with pytest.raises(CheckpointError, match='none of 1 checkpoints can be read, expected one to resume from'):
        train(toy_config, work_dir=str(tmp_path), resume=True)


def test_ctrl_c_leaves_the_last_checkpoint_and_says_how_to_go_on(run, tmp_path, root):
    arguments = [root / 'tools/train.py', HERE / 'toy_config.py', '--work-dir', tmp_path, '--cfg-options',
                 'train_cfg.max_epochs=100000', 'train_dataloader.num_workers=2']
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get('PYTHONPATH', '')]),
               OMP_NUM_THREADS='1')
    process = subprocess.Popen([sys.executable, *map(str, arguments)], env=env, text=True, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.time() + 60
    while not (tmp_path / 'epoch_2.pth').exists() and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 130, errors
    command = next(line.strip() for line in errors.splitlines() if line.rstrip().endswith('--resume'))
    assert str(tmp_path) in command
    assert newest_checkpoint(tmp_path)[1] == []
    done = subprocess.run(command.replace('100000', '3'), shell=True, env=env, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=300, cwd=os.getcwd())
    assert done.returncode == 0 and 'resumed epoch' in done.stdout, done.stdout
