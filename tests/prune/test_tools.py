"""From a trained net by the search to a slim one that is trained, resumed, scored and exported, as the tools do it."""
import argparse
import json
import shlex

import cv2
import numpy as np
import pytest
import torch

from perception.apis.benchmarks import cost
from perception.apis.config import load_config, parse_options
from perception.apis.inference import load
from perception.apis.listing import add_options
from perception.apis.prune.search import find, search, settings
from perception.apis.runner import Runner
from perception.apis.test import test as score
from perception.apis.train import train
from perception.prune.search import PEEL
from perception.registry import MODELS
from perception.utils.checkpoint import load_checkpoint
from perception.utils.errors import ConfigError, DataError
from tests.prune.conftest import rows, running, trained

pytest.importorskip('torch_pruning')
CONFIG = 'configs/peel/resnet18_imagenet.py'
OPTIONS = {'mini_data.count': 60, 'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'model.width': 0.125,
           'train_dataloader.batch_size': 10, 'prune.divisor': 2}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A trained net, its structure, and the slim net that was trained from its weights."""
    folder = tmp_path_factory.mktemp('prune')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PERCEPTION_DATA', str(folder / 'data'))
        train(CONFIG, True, str(folder / 'whole'), options=OPTIONS)
        lines = search(CONFIG, folder / 'whole/model.pth', folder / 's.json', mini=True, options=OPTIONS)
        options = {**OPTIONS, 'load_from': str(folder / 'whole/model.pth')}
        train(CONFIG, True, str(folder / 'slim'), options=options, structure=str(folder / 's.json'))
        yield folder, lines


def test_the_table_the_file_and_the_chart(made):
    folder, lines = made
    structure = json.loads((folder / 's.json').read_text())
    assert lines[0].split()[:3] == ['group', 'role', 'full'] and len(structure['groups']) == 12
    assert any('unspent' in line for line in lines)
    advised = f'train it: tools/train.py {CONFIG} --mini --structure {folder / "s.json"} --cfg-options '
    assert advised in lines[-1]  # with the overrides of the search but its own, of which divisor is one
    assert parse_options(shlex.split(lines[-1].partition(advised)[2])) == {
        key: value for key, value in OPTIONS.items() if key != 'prune.divisor'}
    assert (folder / 's.png').read_bytes()[:4] == b'\x89PNG'


def test_the_slim_net_was_trained_and_is_scored(made):
    folder, _ = made
    checkpoint = load_checkpoint(folder / 'slim/model.pth')
    structure = json.loads((folder / 's.json').read_text())
    assert checkpoint['meta']['structure'] == structure
    assert sum(p.numel() for name, p in load(CONFIG, folder / 'slim/model.pth', mini=True, options=OPTIONS)
               .model.named_parameters()) == structure['params']['final']
    scores = score(CONFIG, str(folder / 'slim/model.pth'), mini=True, options=OPTIONS)
    assert 0 <= scores['top1'] <= scores['top5'] <= 1
    log = next((folder / 'slim').glob('*/*.log')).read_text()
    assert 'renewed on 5 training batches' in log


def test_a_slim_training_goes_on(made):
    folder, _ = made
    runner = train(CONFIG, True, str(folder / 'slim'), resume=True, options={**OPTIONS, 'train_cfg.max_epochs': 2})
    assert runner.epoch == 2 and runner.model.structure is not None


def test_a_slim_net_is_not_searched_again(made):
    folder, _ = made
    with pytest.raises(ConfigError, match='a pruned net came'):
        search(CONFIG, folder / 'slim/model.pth', folder / 't.json', mini=True, options=OPTIONS)
    with pytest.raises(ConfigError, match='json'):
        search(CONFIG, folder / 'whole/model.pth', folder / 't.txt', mini=True, options=OPTIONS)


def test_trained_weights_are_not_replaced_by_slim_ones(tmp_path):
    (tmp_path / 'model.pth').write_bytes(b'weeks of training')
    with pytest.raises(DataError, match='model.pth: a file that no command of this project wrote is there'):
        search(CONFIG, tmp_path / 'model.pth', tmp_path / 's.json', mini=True, weights=tmp_path / 'model.pth')
    assert (tmp_path / 'model.pth').read_bytes() == b'weeks of training'


def test_the_command_line_sets_the_budget():
    cfg = load_config('configs/peel/resnet50_imagenet.py')
    assert settings(cfg).target['value'] == 2.05e9
    assert settings(cfg, ratio=0.3).target == dict(kind='macs', ratio=0.3, value=None)
    assert settings(cfg, value=7.0, kind='params').target == dict(kind='params', ratio=None, value=7.0)
    with pytest.raises(ConfigError, match='--type params'):
        settings(cfg, kind='params')
    assert settings(load_config('configs/lanes/erfnet_culane.py')).target['ratio'] == 0.5


@pytest.mark.parametrize(('pairs', 'section', 'expected'), [
    (['prune.importance.kind=l2'], 'importance', dict(kind='l2', normalize_by='role', batches=8)),
    (['prune.importance=dict(kind=taylor)', 'prune.importance.batches=2'], 'importance',
     dict(kind='taylor', normalize_by='role', batches=2)),
    (['prune.backbone.rho=.5', 'prune.backbone.ends=.5,1.5'], 'backbone',
     dict(kind='uniform', rho=.5, ends=[.5, 1.5], widths=None)),
    (['prune.reallocation.donors=0.25'], 'reallocation', dict(alpha=1.0, donors=.25, pool='macs'))])
def test_parts_of_a_section_that_the_config_leaves_out_are_options(pairs, section, expected):
    assert getattr(settings(load_config(CONFIG, True, parse_options(pairs))), section) == expected
    assert getattr(settings(load_config(CONFIG, True)), section) == getattr(PEEL(), section)  # nothing stays changed


@pytest.mark.parametrize(('pair', 'message'), [
    ('prune.importance.kind=l3', "prune: importance kind='l3', expected one of bn_mean, bn_active, l2, taylor"),
    ('prune.importance.normalize_by=x', "prune: importance normalize_by='x', expected one of role, none"),
    ('prune.backbone.kind=liner', "prune: backbone kind='liner', .* Did you mean linear"),
    ('prune.importance.knd=l2', r"prune.importance.knd: unknown key 'knd', .* Did you mean kind\?"),
    ('prune.reallocation.alpha=abc', "prune.reallocation.alpha='abc', expected a number")])
def test_wrong_parts_of_a_section_are_refused_before_a_net_is_built(tmp_path, monkeypatch, pair, message):
    monkeypatch.setattr(MODELS, 'build', None)
    with pytest.raises(ConfigError, match=message):
        search(CONFIG, None, tmp_path / 's.json', mini=True, options=parse_options([pair]))


def test_gradients_of_training_batches_tell_the_importance(made, monkeypatch):
    folder, _ = made
    monkeypatch.setenv('PERCEPTION_DATA', str(folder / 'data'))
    cfg = load_config(CONFIG, True, {**OPTIONS, 'prune.importance': dict(kind='taylor', batches=2)})
    torch.manual_seed(0)
    found = find(cfg, trained(MODELS.build(cfg.model)), settings(cfg))
    assert found.structure['macs']['final'] <= 0.5 * found.structure['macs']['full']


def test_a_students_structure_goes_into_a_distillation(tmp_path):
    """The student of a distiller becomes slim where its model is built."""
    cfg = load_config('configs/peel/minkunet_pvd_kitti.py', True)
    for teacher in cfg.model.teachers.values():
        teacher.trained_by = None
    student = trained(MODELS.build(cfg.model.student))
    structure = settings(cfg).search(student, [running(rows())]).structure
    (tmp_path / 's.json').write_text(json.dumps(structure))
    cfg.structure, cfg.work_dir = str(tmp_path / 's.json'), str(tmp_path / 'run')
    runner = Runner.from_cfg(cfg)
    assert sum(p.numel() for p in runner.model.student.parameters()) == structure['params']['final']


def test_a_budget_is_tried_before_any_training(tmp_path, monkeypatch):
    """Widths, the slim net's weights, and what it costs beside the whole one, of a net as it is built."""
    lines = search(CONFIG, None, tmp_path / 's.json', mini=True, weights=tmp_path / 'slim.pth')
    assert 'slim.pth' in lines[-2] and 'slim.pth: scores tell little' in lines[-1]
    structure = json.loads((tmp_path / 's.json').read_text())
    slim = load(CONFIG, tmp_path / 'slim.pth', mini=True).model
    assert sum(p.numel() for p in slim.parameters()) == structure['params']['final']
    cv2.imwrite(str(tmp_path / 'digit.png'), np.zeros((32, 32), np.uint8))
    monkeypatch.setattr(cost, 'process_memory', lambda function, cfg: 512.0)
    words = [CONFIG, '--mini', '--rounds', '1', '--no-onnx', '--source', str(tmp_path / 'digit.png'), '--structure',
             str(tmp_path / 's.json'), '--out', str(tmp_path)]
    parser = add_options(argparse.ArgumentParser(), cost.OPTIONS)
    whole, small = cost.run(parser.parse_args(words))
    assert (round(whole['gmac'] * 1e9), round(small['gmac'] * 1e9)) == (
        structure['macs']['full'], structure['macs']['final'])
    assert small['parameters'] == structure['params']['final'] and small['against'] == whole['config']
    with pytest.raises(ConfigError, match='--structure with 2'):
        cost.run(parser.parse_args([CONFIG, *words]))
