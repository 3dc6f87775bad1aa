"""Lane configs train, test, draw and submit on tiny simulated data, as a user would."""
from pathlib import Path

import pytest
import torch

import perception.apis.test
import perception.apis.train
from perception.apis.config import load_config
from perception.registry import MODELS

# of each kind one; tests/house/test_every_config.py takes all of them a step
CONFIGS = ['configs/lanes/enet_tusimple.py', 'configs/lanes/agnostic_tusimple.py', 'configs/lanes/enet_llamas.py']
METHODS = ['configs/sad/enet_tusimple.py', 'configs/intra_kd/resnet18_llamas.py']
SIZES = dict(train=4, val=2, test=2, detail=0.05, workers=1)  # of the mini data


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Folder in place of `data`, so that all tests of this file share the mini data that the first one writes."""
    folder = tmp_path_factory.mktemp('data')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PERCEPTION_DATA', str(folder))
        yield folder


def options_of(**more):
    options = {f'mini_data.{key}': value for key, value in SIZES.items()}
    return {**options, 'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'train_dataloader.batch_size': 2, **more}


def run(config, folder, **more):
    """Train one epoch, test with pictures, write a submission; returns the scores."""
    runner = perception.apis.train.train(config, mini=True, work_dir=str(folder), options=options_of(**more))
    assert runner.iter >= 2 and all(bool(torch.isfinite(p).all()) for p in runner.model.parameters())
    options = dict(options_of(**more), work_dir=str(folder / 'tested'))
    scores = perception.apis.test.test(config, folder / 'model.pth', mini=True, options=options,
                                       draw=str(folder / 'pictures'))
    perception.apis.test.test(config, folder / 'model.pth', mini=True, options=options, submit=str(folder / 'answers'))
    return scores


@pytest.mark.parametrize('config', CONFIGS)
def test_trains_tests_draws_and_submits(config, data, tmp_path):
    scores = run(config, tmp_path)
    assert scores and all(value == value for value in list(scores.values())[:1])
    assert (tmp_path / 'pictures/contact_sheet.png').stat().st_size > 10_000
    assert any(path.is_file() for path in (tmp_path / 'answers').rglob('*'))


@pytest.mark.parametrize('config', METHODS)
def test_methods_train_and_their_student_is_tested(config, data, tmp_path):
    more = {}
    if 'teachers' in load_config(config, mini=True).model:
        teacher = MODELS.build(load_config('configs/lanes/pspnet_llamas.py', mini=True).model)
        torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
        more['model.teachers.full.checkpoint'] = str(tmp_path / 'teacher.pth')
    else:
        more['model.losses.sad.begin'] = 1
    assert run(config, tmp_path / 'run', **more)
    log = '\n'.join(path.read_text() for path in tmp_path.rglob('*.log'))
    assert f'loss_{Path(config).parent.name}' in log
