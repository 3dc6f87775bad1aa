"""From a config file to a resolved config: mini, options, data, errors."""
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.visualization import Visualizer
from torch.optim import SGD, Adam, AdamW

from perception.apis import runner as runner_module
from perception.apis.cli import resume_command, run_command, sentence
from perception.apis.config import config_text, load_config, merge, names_config, parse_options, set_option
from perception.apis.runner import start_processes, use_amp, write_mini_data
from perception.apis.test import prepare
from perception.apis.test import test as evaluate
from perception.apis.train import train
from perception.common.amp import BFloat16OptimWrapper
from perception.registry import MODELS
from perception.utils.errors import CheckpointError, ConfigError, DataError


def write(folder, text, name='x.py'):
    path = folder / name
    path.write_text('from mmengine.config import read_base\nfrom torch.optim import SGD, Adam\n' + text)
    return path


# --- schedule ---
WARM_UP = ('from mmengine.optim import CosineAnnealingLR, LinearLR\ntrain_cfg = dict(max_epochs=9)\nparam_scheduler = ['
           'dict(type=LinearLR, end=3), dict(type=CosineAnnealingLR, begin=3)]\n')


def test_a_training_shorter_than_its_warm_up_is_refused(tmp_path):
    path = write(tmp_path, WARM_UP)
    assert load_config(path).train_cfg.max_epochs == 9
    with pytest.raises(ConfigError, match=r'x.py: param_scheduler.1, CosineAnnealingLR, begins at 3 and ends at 3, '
                                          r'expected an end.*train_cfg.max_epochs more than 3'):
        load_config(path, options={'train_cfg.max_epochs': 3, 'param_scheduler.0.end': 3})
    with pytest.raises(ConfigError, match='begins at 1 and ends at 1'):  # a warm-up of whole epochs
        load_config(path, options={'train_cfg.max_epochs': 1})
    both = {'train_cfg.max_epochs': 1, 'param_scheduler': []}
    assert load_config(path, options=both).train_cfg.max_epochs == 1


@pytest.mark.parametrize(('scheduler', 'expected'), [
    ('dict(type=PolyLR, end=8, convert_to_iter_based=True)', dict(end=20)),
    ('dict(type=PolyLR, end=8, by_epoch=True)', dict(end=20)),
    ('dict(type=CosineAnnealingLR, T_max=6, begin=2, end=8)', dict(T_max=15, begin=5, end=20)),
    ('dict(type=LinearLR, end=3, convert_to_iter_based=True)', dict(end=7.5)),
    ('dict(type=LinearLR, by_epoch=False, end=100)', dict(end=250)),
    ('dict(type=MultiStepLR, milestones=[4, 6])', dict(milestones=[10, 15])),
    ('dict(type=StepLR, step_size=2)', dict(step_size=5)),
    ('dict(type=CosineRestartLR, periods=[4, 4], eta_min=0)', dict(periods=[10, 10])),
    ('dict(type=OneCycleLR, eta_max=.1, total_steps=8)', dict(total_steps=20))])
def test_the_schedule_is_scaled_with_the_training(tmp_path, monkeypatch, scheduler, expected):
    said = []
    monkeypatch.setattr('perception.apis.schedule.print_log', lambda text, *_: said.append(text))
    kind = scheduler.split('type=')[1].split(',')[0]
    path = write(tmp_path, f'from mmengine.optim.scheduler import {kind}\n'
                           f'from mmengine.runner import EpochBasedTrainLoop\n'
                           f'train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=8)\n'
                           f'param_scheduler = [{scheduler}]\n')
    assert load_config(path, options={'train_cfg.max_epochs': 8}).param_scheduler == load_config(path).param_scheduler
    cfg = load_config(path, options={'train_cfg.max_epochs': 20})
    assert {key: cfg.param_scheduler[0][key] for key in expected} == expected
    key, value = list(expected.items())[-1]
    assert 'max_epochs=20 instead of 8' in said[0] and len(said) == 1 and cfg.train_cfg.max_epochs == 20
    cfg.dump(tmp_path / 'again.py')
    assert load_config(tmp_path / 'again.py').param_scheduler[0][key] == value


@pytest.mark.parametrize(('scheduler', 'message'), [
    ('dict(type=PolyLR, power=0.9, end=8)', 'PolyLR, ends at 8 with a rate near 0 in a training of 20'),
    ('dict(type=CosineAnnealingLR, T_max=8, end=8)', 'CosineAnnealingLR, ends at 8 with a rate near 0'),
    ('dict(type=CosineAnnealingLR, T_max=8)', 'is 8 long and runs from 0 to 20.*rise again'),
    ('dict(type=CosineRestartLR, periods=[8], eta_min=0)', 'is 8 long and runs from 0 to 20')])
def test_a_schedule_shorter_than_the_training_is_refused(tmp_path, scheduler, message):
    kind = scheduler.split('type=')[1].split(',')[0]
    text = (f'from mmengine.optim.scheduler import {kind}\ntrain_cfg = dict(max_epochs=20)\n'
            f'param_scheduler = [{scheduler}]\n')
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))
    load_config(write(tmp_path, text.replace('20', '8')))


@pytest.mark.parametrize('scheduler', [
    'dict(type=PolyLR, end=50)', 'dict(type=CosineAnnealingLR, T_max=50)',
    'dict(type=MultiStepLR, milestones=[4, 50])'])
def test_a_schedule_longer_than_the_training_is_said(tmp_path, monkeypatch, scheduler):
    said = []
    monkeypatch.setattr('perception.apis.schedule.print_log', lambda text, *_: said.append(text))
    text = ('from mmengine.optim.scheduler import CosineAnnealingLR, MultiStepLR, PolyLR\n'
            f'train_cfg = dict(max_epochs=20)\nparam_scheduler = [{scheduler}]\n')
    load_config(write(tmp_path, text))
    assert len(said) == 1 and 'reaches to 50 in a training of 20' in said[0]
    load_config(write(tmp_path, text.replace('50', '20')))
    load_config(write(tmp_path, text), options={'param_scheduler': []})
    assert len(said) == 1


def test_a_published_schedule_scales(root):
    for name in ('lanes/enet_culane', 'lidarseg/minkunet_half_kitti', 'lanes/enet_apolloscape', 'pvd/minkunet_kitti'):
        for mini in (False, True):
            for epochs in (2, 60):
                load_config(f'configs/{name}.py', mini, {'train_cfg.max_epochs': epochs})
    cfg = load_config('configs/lidarseg/minkunet_half_kitti.py', options={'train_cfg.max_epochs': 30})
    scheduler = cfg.param_scheduler
    assert (scheduler[0].end, scheduler[1].T_max, scheduler[1].end) == (250, 30, 30)


def test_a_schedule_counted_in_iterations_is_checked_where_their_number_is_known(tmp_path):
    path = write(tmp_path, WARM_UP.replace('end=3', 'by_epoch=False, end=300').replace('begin=3', 'by_epoch=False, '
                                                                                       'begin=300'))
    load_config(path)  # epochs of unknown length
    path = write(tmp_path, path.read_text().replace('max_epochs=9', 'max_iters=200').partition('\n')[2], 'y.py')
    with pytest.raises(ConfigError, match=r'begins at 300 and ends at 200.*train_cfg.max_iters more than 300'):
        load_config(path)


@pytest.mark.parametrize('size', [0, -1, 1.5, 'many'])
def test_a_batch_of_no_samples_is_refused(toy, toy_config, size):
    with pytest.raises(ConfigError, match=rf'val_dataloader.batch_size={size!r}, expected a whole number'):
        load_config(toy_config, options={'val_dataloader.batch_size': size})


# --- mini ---
def test_mini_overrides_nested_values_and_leaves_the_rest(toy, toy_config):
    full, mini = load_config(toy_config), load_config(toy_config, mini=True)
    assert (full.model.width, mini.model.width) == (16, 8)
    assert (full.train_cfg.max_epochs, mini.train_cfg.max_epochs, mini.train_cfg.val_interval) == (3, 2, 1)
    assert full.model.type is mini.model.type is toy.ToyModel
    assert 'mini' not in full and 'mini' not in mini and mini.mini_data.size == 3


def test_mini_replaces_lists_and_sections_of_another_type(tmp_path):
    path = write(tmp_path, 'steps = [dict(a=1), dict(a=2)]\nopt = dict(type=Adam, lr=1, betas=(0.9, 0.99))\n'
                           'same = dict(type=Adam, lr=1, betas=(0.9, 0.99))\nhead = dict(a=1)\n'
                           'mini = dict(steps=[dict(a=3)], opt=dict(type=SGD, lr=2), same=dict(lr=3), head=None)\n')
    cfg = load_config(path, mini=True)
    assert cfg.steps == [dict(a=3)] and cfg.head is None
    assert cfg.opt.type is SGD and dict(cfg.opt) == dict(type=SGD, lr=2)
    assert cfg.same.type is Adam and cfg.same.lr == 3 and cfg.same.betas == (0.9, 0.99)


def test_one_dict_under_two_names_is_overridden_under_one(tmp_path):
    path = write(tmp_path, 'a = dict(x=1, deep=dict(y=1))\nb = a\nmini = dict(b=dict(deep=dict(y=2)))\n')
    cfg = load_config(path, mini=True)
    assert (cfg.a.deep.y, cfg.b.deep.y) == (1, 2)


def test_minis_of_a_student_and_a_teacher_compose(tmp_path):
    write(tmp_path, 'model = dict(width=8)\nsteps = 5\nmini = dict(model=dict(width=2), steps=1)\n', 'student.py')
    write(tmp_path, 'model = dict(width=16)\nmini = dict(model=dict(width=4))\n', 'teacher.py')
    path = write(tmp_path, '''
with read_base():
    from .student import *
    from .student import mini as student_mini
    from .student import model as student
    from .teacher import mini as teacher_mini
    from .teacher import model as teacher
model = dict(student=student, teachers=dict(full=dict(model=teacher)))
mini = dict(student_mini, model=dict(student=student_mini['model'],
                                     teachers=dict(full=dict(model=teacher_mini['model']))))
''')
    cfg, mini = load_config(path), load_config(path, mini=True)
    assert (cfg.model.student.width, cfg.model.teachers.full.model.width, cfg.steps) == (8, 16, 5)
    assert (mini.model.student.width, mini.model.teachers.full.model.width, mini.steps) == (2, 4, 1)


@pytest.mark.parametrize('mini, message', [
    ("dict(opt=dict(lrr=3))", r"x.py: mini.opt: unknown key 'lrr'.*Did you mean lr\?"),
    ("dict(optt=dict(lr=3))", r"unknown key 'optt'.*Did you mean opt\?"),
    ("dict(opt=3)", r'mini.opt: 3 came, expected a dict or None. Its keys are type, lr'),
    ("dict()", 'expected the config to end with mini')])
def test_mini_refuses_what_the_config_does_not_have(tmp_path, mini, message):
    path = write(tmp_path, f'opt = dict(type=Adam, lr=1)\nmini = {mini}\n')
    with pytest.raises(ConfigError, match=message):
        load_config(path, mini=True)
    load_config(path)  # unused, it does no harm


def test_arguments_of_the_type_are_known_keys(tmp_path):
    path = write(tmp_path, 'opt = dict(type=Adam, lr=1)\nmini = dict(opt=dict(amsgrad=True))\n')
    assert load_config(path, mini=True).opt.amsgrad is True


# --- options ---
def test_options_reach_every_place(toy, toy_config):
    cfg = load_config(toy_config, options=parse_options([
        'model.width=4', 'train_cfg.max_epochs=7', 'param_scheduler.0.gamma=0.1', 'load_from=x/y.pth',
        'model.dropout=0.5', 'train_dataloader.persistent_workers=True', 'train_dataloader.num_workers=1',
        'optim_wrapper.clip_grad={"max_norm": 2}',
        'val_evaluator=None', 'param_scheduler.0.milestones=1,2']))
    assert cfg.model.width == 4 and cfg.train_cfg.max_epochs == 7 and cfg.param_scheduler[0].gamma == 0.1
    assert cfg.load_from == 'x/y.pth' and cfg.model.dropout == 0.5 and cfg.train_dataloader.persistent_workers is True
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=2) and cfg.val_evaluator is None
    assert cfg.param_scheduler[0].milestones == [1, 2]
    assert cfg.test_evaluator is not None


@pytest.mark.parametrize('pair, message', [
    ('model.wdth=4', r"unknown key 'wdth'.*Did you mean width\?"),
    ('modle.width=4', r"unknown key 'modle'.*Did you mean model"),
    ('train_cfg.max_epoch=4', r"unknown key 'max_epoch'.*Did you mean max_epochs"),
    ('train_dataloader.num_worker=4', r"unknown key 'num_worker'.*Did you mean num_workers"),
    ('param_scheduler.1.gamma=1', "'1' came, expected a position in a list of 1"),
    ('param_scheduler.x=1', "'x' came, expected a position"),
    ('model.width.x=1', "'x' came below the value 16"),
    ('optim_wrapper.clip_grad.max_norm=1', "'max_norm' came below the value None.*Give a whole dict"),
    ('model=3', '3 came, expected a dict or None')])
def test_unknown_options_are_refused_with_close_matches(toy_config, pair, message):
    with pytest.raises(ConfigError, match=message):
        load_config(toy_config, options=parse_options([pair]))


def test_option_values_are_literals_or_text():
    assert parse_options(['a=1', 'b=1e-3', 'c=true', 'd=None', 'e=some/path.pth', 'f=1,2', 'g=[1, "x"]', 'h=a,b',
                          'i=(1, 2)', 'j=x=y', 'k=', 'l=[car, person]', 'm=dict(max_norm=35, norm_type=2)',
                          'n=[dict(type=EMAHook, momentum=1e-4)]', 'o=08', 'p=[08,a/b.bin]', 'q={a: [1, x]}',
                          'r=[dict(type=\'A\', on=FALSE)]', 's=open("x")', 't=1,', 'u=[[1, 2], [a/b, c]]']) == dict(
        a=1, b=1e-3, c=True, d=None, e='some/path.pth', f=[1, 2], g=[1, 'x'], h=['a', 'b'], i=(1, 2), j='x=y', k='',
        l=['car', 'person'], m=dict(max_norm=35, norm_type=2), n=[dict(type='EMAHook', momentum=1e-4)], o='08',
        p=['08', 'a/b.bin'], q=dict(a=[1, 'x']), r=[dict(type='A', on=False)], s='open("x")', t=[1],
        u=[[1, 2], ['a/b', 'c']])
    assert isinstance(parse_options(['a=' + '[' * 5000])['a'], str)
    for bad in ('novalue', '=3'):
        with pytest.raises(ConfigError, match='expected KEY=VALUE'):
            parse_options([bad])


@pytest.mark.parametrize(('pair', 'expected'), [
    ('train_dataloader.sampler.shuffle=no', False), ('train_dataloader.sampler.shuffle=FALSE', False),
    ('train_dataloader.sampler.shuffle=off', False), ('train_dataloader.sampler.shuffle=Yes', True),
    ('train_dataloader.sampler.shuffle=0', False), ('train_dataloader.dataset.sequences=08', [8]),
    ('train_dataloader.dataset.sequences=08,09', [8, 9]), ('train_dataloader.dataset.sequences=[08]', [8]),
    ('train_dataloader.dataset.sequences=null', None), ('train_dataloader.dataset.sequences=a_b', ['a_b']),
    ("train_dataloader.dataset.sequences=['08', 9]", ['08', 9]),
     ('train_dataloader.batch_size=08', 8),
    ('optim_wrapper.optimizer.lr=1', 1), ('optim_wrapper.optimizer.momentum=.5', .5),
    ('optim_wrapper.clip_grad=dict(max_norm=35)', dict(max_norm=35)),
    ('optim_wrapper.paramwise_cfg=dict(bias_lr_mult=2)', dict(bias_lr_mult=2)),
    ('default_hooks.ema=dict(type=EMAHook)', dict(type=EMAHook)), ('train_dataloader.dataset.split=val', 'val'),
    ('default_hooks.logger.interval=1', 1)])
def test_options_become_what_stands_there(pair, expected):
    cfg = load_config('configs/lidarseg/minkunet_half_kitti.py', options=parse_options([pair]))
    node = cfg._cfg_dict
    for key in pair.partition('=')[0].split('.'):
        node = node[key]
    assert node == expected and type(node) is type(expected) or isinstance(expected, dict)


@pytest.mark.parametrize(('config', 'hook'), [
    ('medical/densenet121_aptos', 'training_set'), ('crckd/densenet121_ham10000', 'training_set'),
    ('steering/cnn_lstm_comma', 'target_statistics'), ('fm/resnet50_lstm_udacity', 'target_statistics')])
@pytest.mark.parametrize('mini', [False, True])
def test_hooks_of_ones_own_replace_none_that_a_net_needs(config, hook, mini):
    own = parse_options(["custom_hooks=[dict(type='EMAHook')]", 'default_hooks.progress=None'])
    cfg = load_config(f'configs/{config}.py', mini, own)
    assert hook in cfg.default_hooks and 'progress' not in cfg.default_hooks
    assert [one['type'] for one in cfg.custom_hooks] == [EMAHook]


def test_of_two_classes_of_a_name_this_projects_counts(tmp_path):
    """Also where nothing else has imported it."""
    code = f"""
from perception.apis.config import load_config
cfg = load_config({str(tmp_path / 'own.py')!r})
print(cfg.default_hooks.checkpoint.type.__module__, cfg.train_dataloader.dataset.type.__module__,
      cfg.default_hooks.timer.type.__module__)"""
    (tmp_path / 'own.py').write_text(
        "default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1), timer=dict(type='IterTimerHook'))\n"
        "train_dataloader = dict(batch_size=1, dataset=dict(type='ConcatDataset', datasets=[]))\n")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.split() == ['perception.common.hooks.checkpoint', 'perception.common.dataset',
                                   'mmengine.hooks.iter_timer_hook'], done.stderr[-500:]


def test_types_in_options_are_classes(toy_config):
    cfg = load_config(toy_config, options=parse_options(["custom_hooks=[dict(type='EMAHook')]",
                                                         'visualizer=dict(type=Visualizer)']))
    assert cfg.custom_hooks[0].type is EMAHook and cfg.visualizer.type is Visualizer
    assert load_config(toy_config, options=parse_options(['custom_hooks=dict(type=EMAHook)'])).custom_hooks == [
        dict(type=EMAHook)]
    for pair, message in (('custom_hooks=[dict(type=EMAHok)]', "no class 'EMAHok' is known.*Did you mean EMAHook"),
                          ('custom_hooks=[dict(type=SeedHook, sed=1)]', 'custom_hooks.0: unknown key .sed.')):
        with pytest.raises(ConfigError, match=message):
            load_config(toy_config, options=parse_options([pair]))
    cfg = load_config(toy_config, options=parse_options(['optim_wrapper.optimizer.type=AdamW']))
    assert cfg.optim_wrapper.optimizer.type is AdamW
    with pytest.raises(ConfigError, match="unknown key 'momentum', expected an argument of AdamW"):
        load_config('configs/lanes/enet_culane.py', options=parse_options(['optim_wrapper.optimizer.type=AdamW']))
    text = load_config(toy_config, options=parse_options(['model=dict(type=ToyModel)'])).model.type
    assert text == 'ToyModel'  # models are named by their registry when they are built


@pytest.mark.parametrize(('pair', 'message'), [
    ('train_cfg.max_epochs=1.5', 'train_cfg.max_epochs=1.5, expected a whole number'),
    ('train_cfg.max_epochs=0', 'max_epochs=0, expected a whole number of 1 or more'),
    ('optim_wrapper.optimizer.lr=abc', "lr='abc', expected a number"),
    ('optim_wrapper.optimizer.lr=-1', 'lr=-1, expected a number of 0 or more'),
    ('train_dataloader.sampler.shuffle=maybe', "shuffle='maybe', expected true or false"),
    ('train_dataloader.num_workers=two', "num_workers='two', expected a whole number"),
    ('train_dataloader.num_workers=-1', 'num_workers=-1, expected a whole number of 0 or more'),
    ('optim_wrapper.clip_grad=35', 'clip_grad=35, expected a dict or None'),
    ('train_dataloader.dataset.sequences=dict(a=1)', 'sequences={.a.: 1}, expected a list'),
    ('randomness.seed=1.5', 'randomness.seed=1.5, expected a whole number'),
    ('custom_hooks=3', 'custom_hooks=3, expected a list'), ('load_from=[1]', 'load_from=.1., expected text or None'),
    ('data_root=/data', 'data_root is a variable of the config file.*train_dataloader.dataset.data_root'),
    ('student.width=1', "unknown key 'student'")])
def test_a_value_of_another_type_is_refused(pair, message):
    with pytest.raises(ConfigError, match=message):
        load_config('configs/lidarseg/minkunet_half_kitti.py', options=parse_options([pair]))


@pytest.mark.parametrize(('text', 'message'), [
    ("optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr='abc'))",
     "x.py: optim_wrapper.optimizer.lr='abc', expected a number"),
    ('train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1.5)',
     'x.py: train_cfg.max_epochs=1.5, expected a whole number'),
    ('optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lrr=1))',
     "x.py: optim_wrapper.optimizer: unknown key 'lrr', expected an argument of SGD. Did you mean lr"),
    ("train_dataloader = dict(batch_size=2, dataset=dict(type=ToyDataset, size='7'), num_workers='a')",
     "x.py: train_dataloader.num_workers='a', expected a whole number")])
def test_a_value_in_a_file_is_checked_too(toy, tmp_path, text, message):
    imports = ('from mmengine.optim import OptimWrapper\nfrom mmengine.runner import EpochBasedTrainLoop\n'
               'from toy_room import ToyDataset\n')
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, imports + text + '\n'))


@pytest.mark.parametrize('pair, message', [
    ('optim_wrapper.clip_grad=dict(maxnorm=35)', 'clip_grad: unknown key .maxnorm.*Did you mean max_norm'),
    ('optim_wrapper.clip_grad=dict(max_norm=abc)', "clip_grad.max_norm='abc', expected a number"),
    ('optim_wrapper.clip_grad=dict()', 'OptimWrapper refuses a value'),
    ('optim_wrapper.accumulative_counts=0', 'OptimWrapper refuses a value'),
    ('optim_wrapper.optimizer.betas=(2, 3)', 'Adam refuses a value .ValueError: Invalid beta'),
    ('optim_wrapper.optimizer.weight_decay=-1', 'Adam refuses a value .*weight_decay value: -1'),
    ('optim_wrapper.paramwise_cfg=dict(norm_decay_mult=0.)', 'DefaultOptimWrapperConstructor refuses.*base_wd'),
    ('custom_hooks=EMAHook', "custom_hooks='EMAHook', expected a list .Hook or a dict each."),
    ('custom_hooks=[EMAHook]', 'custom_hooks=.*expected a list .Hook or a dict each.'),
    ('custom_hooks=[dict(momentum=0.1)]', 'Runner refuses a value .KeyError: .*must contain the key "type"'),
    ('custom_hooks=[dict(type=EMAHook, momentm=1)]', "ExponentialMovingAverage refuses a value .*'momentm'"),
    ('visualizer.vis_backends=tensorboard', 'Visualizer refuses a value .*vis_backends must be a list'),
    ('default_hooks.logger.interval=0', 'LoggerHook refuses a value .*greater than 0'),
    ('model=None', 'a training was asked for, expected the config to define model'),
    ('model.dropout=2', 'ToyModel refuses a value .*got 2'),
    ('model.width=-1', 'ToyModel refuses a value .RuntimeError: .*negative dimension'),
    ('model.dropout=nan', 'model.dropout=nan, expected a number'),
    ('model.type=ToyModl', 'registered as model. (?!.*AdamW)'),
    ('param_scheduler=[dict(type=StepLR, step_size=0)]', 'param_scheduler.0, StepLR, has step_size=0, expected more'),
    ('randomness.seed=4294967296', 'seed=4294967296, expected a whole number of 0 to 4294967295'),
    ('env_cfg.mp_cfg.mp_start_method=forks', "Runner refuses a value .*'forks'")])
def test_what_a_library_refuses_is_one_sentence(toy_config, tmp_path, pair, message):
    with pytest.raises(ConfigError, match=message):
        train(toy_config, work_dir=str(tmp_path), options=parse_options([pair]))


@pytest.mark.parametrize('config, pair, least', [
    ('lidarseg/minkunet_half_kitti', 'model.num_classes=0', 1), ('lidarseg/spvnas_kitti', 'model.ratio=inf', 0),
    ('lidarseg/cylinder3d_half_kitti', 'model.point_channels=0', 1), ('lanes/enet_culane', 'model.seg_weight=-1', 0),
    ('pvd/cylinder3d_kitti', 'model.losses.pvd.weight=-1', 0),
    ('lidarseg/minkunet_kitti', 'train_dataloader.dataset.seed=-1', 0)])
def test_numbers_are_as_large_as_their_names_say(config, pair, least):
    with pytest.raises(ConfigError, match=f'{pair.rpartition(".")[2]}, expected a .*number of {least} or more'):
        load_config(f'configs/{config}.py', options=parse_options([pair]))


def test_arguments_of_another_class_are_one_sentence(toy, toy_config, tmp_path):
    MODELS.register_module(name='Other', module=type('Other', (toy.ToyModel,), dict(__init__=lambda self: None)))
    try:
        with pytest.raises(ConfigError, match="Other refuses a value .TypeError: .*argument 'width'"):
            train(toy_config, work_dir=str(tmp_path), options={'model.type': 'Other'})
    finally:
        MODELS.module_dict.pop('Other')


def test_a_defect_of_our_own_classes_keeps_its_traceback(toy, toy_config, tmp_path, monkeypatch):
    def defect(self, **kwargs):
        raise TypeError('a defect')
    monkeypatch.setattr(toy.ToyDataset, '__init__', defect)
    with pytest.raises(TypeError, match='a defect'):
        train(toy_config, work_dir=str(tmp_path))


def test_a_default_tells_the_type_where_nothing_else_does(toy, toy_config, monkeypatch):
    class Model(toy.ToyModel):
        def __init__(self, width=8, deep=False, **kwargs):
            super().__init__(width, **kwargs)
    monkeypatch.setattr(toy, 'ToyModel', Model)
    for text, expected in (('off', False), ('TRUE', True)):
        assert load_config(toy_config, options=parse_options([f'model.deep={text}'])).model.deep is expected
    with pytest.raises(ConfigError, match="model.deep='maybe', expected true or false"):
        load_config(toy_config, options=parse_options(['model.deep=maybe']))


def test_known_names_are_no_imported_classes(tmp_path):
    path = write(tmp_path, 'model = dict(type=Adam, lr=1)\ntrain_cfg = dict(max_epochs=1)\n')
    with pytest.raises(ConfigError, match='Known: model, train_cfg') as error:
        load_config(path, options={'zzzzzz': 1})
    assert 'SGD' not in str(error.value)


def test_a_loader_without_workers_keeps_none():
    cfg = load_config('configs/lanes/enet_culane.py', options=parse_options(['train_dataloader.num_workers=0']))
    assert cfg.train_dataloader.persistent_workers is False and cfg.val_dataloader.persistent_workers is True


@pytest.mark.parametrize('option', ['train_cfg.val_interval=0', 'train_cfg.val_begin=4', 'val_dataloader=None',
                                    'val_cfg=None'])
def test_what_validates_nothing_reads_nothing(toy, toy_config, option):
    cfg = load_config(toy_config, options=parse_options([option]))
    assert cfg.val_dataloader is cfg.val_cfg is cfg.val_evaluator is None and cfg.test_dataloader is not None


# --- files ---
def test_a_config_is_found_from_any_folder(root, tmp_path, monkeypatch, toy):
    monkeypatch.chdir(tmp_path)
    cfg = load_config('tests/apis/toy_config.py')
    assert cfg.filename == str(root / 'tests/apis/toy_config.py')
    assert cfg.work_dir == str(root / 'work_dirs/apis/toy_config')
    assert load_config('tests/apis/toy_config.py', mini=True).work_dir == str(root / 'work_dirs/apis/toy_config_mini')


def test_a_missing_config_shows_close_matches(tmp_path, monkeypatch):
    folder = tmp_path / 'configs' / 'pvd'
    folder.mkdir(parents=True)
    (folder / 'cylinder3d_kitti.py').touch()
    monkeypatch.setattr('perception.apis.config.PROJECT_ROOT', tmp_path)
    with pytest.raises(ConfigError, match='pvd/cylinder_kitti.py: no such file, expected a config. Did you mean '
                                          'configs/pvd/cylinder3d_kitti.py'):
        load_config('configs/pvd/cylinder_kitti.py')


@pytest.mark.parametrize('text', ['a = (', 'import nowhere_at_all\na = dict(type=nowhere_at_all.X)\nb = 1 + "x"',
                                  'a = undefined_name'])
def test_an_error_in_a_config_names_the_file(tmp_path, text):
    with pytest.raises(ConfigError, match=r'x.py: the config cannot be read'):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize('place', ['x.yaml', 'x.json', '_base_', 'base of a base', 'computed'])
def test_only_python_is_read_as_a_config(tmp_path, place):
    suffix = place if place.startswith('x.') else 'x.yaml'
    (tmp_path / suffix).write_text(f'!!python/object/apply:pathlib.Path.touch [{tmp_path / "executed"}]\n')
    (tmp_path / 'z.py').write_text("_base_ = ['x.yaml']\n")
    bases = {'_base_': "'./x.yaml'", 'base of a base': "['z.py']", 'computed': "['x.' + 'yaml']"}
    path = tmp_path / (suffix if place.startswith('x.') else 'y.py')
    if place in bases:
        path.write_text(f'_base_ = {bases[place]}\n')
    with pytest.raises(ConfigError, match=r'a \.(yaml|json) file came, expected a Python config'):
        load_config(path)
    with pytest.raises(ConfigError, match=r'expected a Python config'):
        Config.fromfile(path)
    assert not (tmp_path / 'executed').exists()


def test_a_config_inherits_from_any_folder(tmp_path, root):
    path = write(tmp_path, 'with read_base():\n    from perception.configs.lanes.enet_culane import *\n'
                           'train_cfg.update(max_epochs=8, val_interval=2)\n')
    cfg, original = load_config(path, mini=True), load_config('configs/lanes/enet_culane.py', mini=True)
    assert cfg.model == original.model and cfg.train_cfg.val_interval == 10
    assert load_config(path).train_cfg.val_interval == 2
    assert cfg.work_dir == str(root / 'work_dirs' / tmp_path.name / 'x_mini')
    for text in ("_base_ = '../enet_culane.py'", 'with read_base():\n    from perception.configs.lanes.enett import *'):
        with pytest.raises(ConfigError, match='from perception.configs.lanes.enet_culane import'):
            load_config(write(tmp_path, text + '\n'))


def test_runs_are_named_by_folder_and_file(tmp_path, root):
    assert load_config('configs/kd/minkunet_kitti.py').experiment_name == 'kd/minkunet_kitti'
    assert load_config('configs/pvd/minkunet_kitti.py', mini=True).experiment_name == 'pvd/minkunet_kitti_mini'
    other = tmp_path / 'mine' / 'pvd' / 'minkunet_kitti.py'  # must not write into the project's own runs
    other.parent.mkdir(parents=True)
    write(other.parent, 'a = 1\n', other.name)
    assert load_config(other).work_dir == str(root / 'work_dirs/mine_pvd/minkunet_kitti')


def test_errors_name_the_config(toy_config):
    @names_config
    def fail(config):
        raise DataError('data/x: no such folder. Try `python tools/train.py CONFIG --mini`.')
    with pytest.raises(DataError, match=r'tools/train.py .*toy_config.py --mini'):
        fail(toy_config)

    @names_config
    def build(config):
        MODELS.build(dict(type='Seqential'))
    with pytest.raises(ConfigError, match=r"toy_config.py: type='Seqential', expected .* registered as model"):
        build(toy_config)

    @names_config
    def normalise(config):
        torch.nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))
    with pytest.raises(ConfigError, match='toy_config.py: a batch of one sample .*drop_last=True'):
        normalise(toy_config)


def test_every_value_survives_a_dump(tmp_path):
    path = write(tmp_path, "a = dict(b=float('inf'), c=[-float('inf')], d=(1,), e=(), f={}, g=[[(1, 2)], dict(x={})])\n"
                           "h = {'class': 1, 'None': 2, 'it\\'s': 3}\ni = {0: 'a', 7: dict(type=Adam, lr=1e-3)}\n"
                           "j = dict(k='x\\ny', l='\\'\"', m=None, n=True, o=['y' * 150, list(range(60))])\n")
    cfg = load_config(path)
    cfg.p = dict(q=np.array([[1, 2]]), r=np.float32(.5), s=tmp_path)
    cfg.dump(tmp_path / 'again.py')
    again = load_config(tmp_path / 'again.py')
    for key in 'aghj':
        assert again.get(key) == cfg.get(key), key
    assert again.i == {0: 'a', 7: dict(type=Adam, lr=1e-3)} and again.p == dict(q=[[1, 2]], r=.5, s=str(tmp_path))
    assert max(map(len, (tmp_path / 'again.py').read_text().splitlines())) < 170


def test_the_resolved_config_can_be_written_and_read_again(toy, toy_config, tmp_path):
    cfg = load_config(toy_config, mini=True)
    use_amp(cfg)  # puts classes in
    cfg.dump(tmp_path / 'dump.py')
    again = Config.fromfile(tmp_path / 'dump.py')
    assert again.model == dict(type='toy_room.ToyModel', width=8)
    assert again.optim_wrapper.type == 'perception.common.amp.BFloat16OptimWrapper'
    assert cfg.model.type is toy.ToyModel


def test_the_config_that_a_run_left_works_like_its_own(tmp_path):
    cfg = load_config('configs/lanes/enet_culane.py', mini=True)
    cfg.dump(tmp_path / 'enet_culane.py')
    again = load_config(tmp_path / 'enet_culane.py')
    assert again.predictor.type is cfg.predictor.type and again.draw.type is cfg.draw.type
    assert again.test_dataloader.dataset.type is cfg.test_dataloader.dataset.type
    assert again.model.type is cfg.model.type and again.model.decoder.type is cfg.model.decoder.type
    path = write(tmp_path, 'a = dict(type="perception.MinkUNet")\nb = dict(type="mmdet3d.SECOND")\n')
    assert (load_config(path).a.type, load_config(path).b.type) == ('perception.MinkUNet', 'mmdet3d.SECOND')


# --- data, processes, mixed precision ---
def test_mini_data_are_written_where_the_data_lie(toy, toy_config, tmp_path, monkeypatch):
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path))
    write_mini_data(load_config(toy_config, mini=True))
    assert (tmp_path / 'mini/toy/calls.txt').read_text() == '3\n'


def test_other_processes_do_not_write_mini_data(toy, toy_config, tmp_path, monkeypatch):
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path))
    monkeypatch.setattr(runner_module, 'is_main_process', lambda: False)
    write_mini_data(load_config(toy_config, mini=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('options', 'writes', 'says'), [
    ({}, True, ['simulated']), ({'test_dataloader.dataset.data_root': '/mine'}, True, ['simulated']),
    ({'train_dataloader.dataset.data_root': '/mine', 'val_dataloader.dataset.data_root': '/yours'}, False,
     ['/mine and /yours are not those']),
    ({'train_dataloader.dataset.data_root': '/mine'}, True, ['/mine are not those', 'simulated'])])
def test_own_data_are_not_called_simulated(monkeypatch, options, writes, says):
    said, written = [], []
    monkeypatch.setattr(runner_module, 'print_log', lambda text, *_: said.append(text))
    cfg = load_config('configs/lanes/enet_culane.py', mini=True, options=options)
    cfg.mini_data.type = lambda root: written.append(root)
    write_mini_data(cfg)
    assert bool(written) is writes and len(said) == len(says)
    assert all(part in text for part, text in zip(says, said))
    prepare(cfg)  # a test reads its own split alone
    said.clear()
    write_mini_data(cfg)
    assert ('/mine' in said[0]) is ('test_dataloader.dataset.data_root' in options)


def test_mini_without_a_writer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='expected mini_data = dict'):
        write_mini_data(load_config(write(tmp_path, 'a = 1\nmini = dict(a=2)\n'), mini=True))


def test_amp_changes_the_optimiser_and_the_evaluation(toy_config):
    cfg = load_config(toy_config)
    use_amp(cfg)
    assert cfg.optim_wrapper.type is BFloat16OptimWrapper and cfg.val_cfg.fp16 and cfg.test_cfg.fp16
    with pytest.raises(ConfigError, match='--amp: optim_wrapper is a .*BFloat16OptimWrapper'):
        use_amp(cfg)


def test_a_launcher_without_its_environment_is_explained(monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    with pytest.raises(ConfigError, match='torchrun --nproc_per_node=2'):
        start_processes('pytorch', Config())


# --- test preparation ---
def test_slurm_without_its_environment_is_explained(monkeypatch):
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    with pytest.raises(ConfigError, match='no SLURM_PROCID in the environment, expected srun'):
        start_processes('slurm', Config())


@pytest.mark.parametrize('name', ['save', 'submit', 'draw'])
def test_a_folder_without_a_name_is_refused(toy_config, name):
    with pytest.raises(ConfigError, match='--work-dir: an empty name'):
        train(toy_config, work_dir='')
    with pytest.raises(ConfigError, match=f'--{name}: an empty name'):
        evaluate(toy_config, 'x.pth', **{name: ''})


def test_a_tilde_names_the_home_and_a_score_counts_once(toy, toy_config, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    train(toy_config, work_dir='~/run', options={'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 0})
    weights, options = tmp_path / 'run/model.pth', {'more_metrics': dict(other=dict(type=toy.ToyMetric, prefix='two'))}
    evaluate(toy_config, weights, submit='~/answers', options=dict(work_dir='~/run'))
    assert any(path.is_file() and path.name[0] != '.' for path in (tmp_path / 'answers').iterdir())
    found = evaluate(toy_config, weights, metrics=['other', 'other'], options=dict(options, work_dir='~/run'))
    assert found['two/accuracy'] == found['toy/accuracy']
    with pytest.raises(ConfigError, match='--check: came with --resume, expected one of both'):
        train(toy_config, check=True, resume=True)
    with pytest.raises(CheckpointError, match=f'{re.escape(str(tmp_path))}/run/epoch_9.pth: no such file'):
        train(toy_config, work_dir='~/run', resume='~/run/epoch_9.pth')


def test_a_test_keeps_the_training_alone(toy_config, tmp_path):
    cfg = load_config(toy_config)
    prepare(cfg)
    assert cfg.train_dataloader is None and cfg.val_evaluator is None and cfg.work_dir.endswith('toy_config/test')
    cfg = load_config(toy_config)
    prepare(cfg, submit=str(tmp_path / 's'))
    assert cfg.test_dataloader.dataset.size == 7 and cfg.test_evaluator[0].out_dir == str(tmp_path / 's')


def test_of_a_distiller_the_student_is_tested(toy, toy_config):
    cfg = load_config(toy_config)
    cfg.model = dict(type='anything', student=dict(type=toy.ToyModel, width=4))
    prepare(cfg)
    assert cfg.model == dict(type=toy.ToyModel, width=4)


@pytest.mark.parametrize('arguments, absent', [(dict(draw='d'), 'draw'), (dict(submit='s'), 'submission')])
def test_a_config_that_cannot_do_it_says_so(toy_config, arguments, absent):
    cfg = load_config(toy_config)
    cfg.submission = None
    with pytest.raises(ConfigError, match=f'was asked for, expected the config to define {absent}'):
        prepare(cfg, **arguments)


# --- command line ---
def test_our_errors_end_with_their_sentence_and_code_2(capsys):
    def fail():
        raise DataError('scan.bin: 7 bytes, expected a multiple of 16. Fetch it again.')

    with pytest.raises(SystemExit) as end:
        run_command(fail)
    assert end.value.code == 2
    assert capsys.readouterr().err == 'DataError: scan.bin: 7 bytes, expected a multiple of 16. Fetch it again.\n'
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)
    assert run_command(lambda a, b: a + b, 1, b=2) == 3


def test_an_error_in_a_worker_keeps_its_sentence_alone():
    inner = ('Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n'
             '  File "x.py", line 3\nperception.utils.errors.DataError: scan.bin: bad, expected good. Do this.\n')
    assert sentence(DataError(inner)) == 'scan.bin: bad, expected good. Do this.'


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setattr('sys.argv', ['tools/train.py', 'a config.py', '--mini'])

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_command(interrupt, resumable=True)
    assert end.value.code == 130 and "tools/train.py 'a config.py' --mini --resume" in capsys.readouterr().err
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr('sys.argv', ['tools/train.py', 'x.py', '--resume', '--launcher', 'pytorch'])
    assert resume_command() == 'torchrun --nproc_per_node=2 tools/train.py x.py --launcher pytorch --resume'


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_help_ends_with_an_example_on_mini_data(run, root, tool, tmp_path):
    done = run(root / f'tools/{tool}.py', '--help', cwd=tmp_path)
    assert done.returncode == 0 and '--mini' in done.stdout.strip().splitlines()[-1]
    assert f'python tools/{tool}.py' in done.stdout.strip().splitlines()[-1]


def test_tools_end_with_one_sentence(run, root, tmp_path):
    done = run(root / 'tools/train.py', 'tests/apis/toy_config.py', '--cfg-options', 'model.wdth=1', cwd=tmp_path)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith('ConfigError: --cfg-options model.wdth: unknown key')


def test_merge_and_set_option_change_in_place():
    cfg = Config(dict(a=dict(b=1), c=[1, 2]))._cfg_dict
    merge(cfg, dict(a=dict(b=2)), 'x')
    set_option(cfg, 'c.1', 5)
    assert cfg == dict(a=dict(b=2), c=[1, 5])
    section = load_config('configs/lanes/enet_culane.py').mini_data
    set_option(section, 'train', '012')
    assert section.train == 12
    for name, value, message in (('train', 'many', "train='many', expected a whole"), ('resume', True, 'unknown')):
        with pytest.raises(ConfigError, match=message):
            set_option(section, name, value)


# --- what people bring in modules of their own ---
OWN = '''from perception.registry import HOOKS, METRICS
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

NAMES = ('ground', 'car')


@HOOKS.register_module(force=True)
class OwnHook(Hook):
    pass


@METRICS.register_module(force=True)
class OwnMetric(BaseMetric):
    pass
'''


def test_classes_of_ones_own_are_found_by_custom_imports(tmp_path, monkeypatch):
    (tmp_path / 'own_parts.py').write_text(OWN)
    text = ("custom_imports = dict(imports=['own_parts'])\nval_evaluator = dict(type='OwnMetric')\n"
            "custom_hooks = [dict(type='EMAHook')]\nmini = dict(custom_hooks=[dict(type='OwnHook')])\n")
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match="x.py: custom_imports: No module named 'own_parts', expected.*PYTHONPATH"):
        load_config(path)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_config(path, mini=True).custom_hooks[0].type.__name__ == 'OwnHook'
    cfg = load_config(path, options=parse_options(["custom_hooks=[dict(type='OwnHook')]"]))
    assert cfg.custom_hooks[0].type.__module__ == cfg.val_evaluator.type.__module__ == 'own_parts'
    with pytest.raises(ConfigError, match="x.py: val_evaluator: no class 'OwnMetrik' is known.*Did you mean OwnMetric"):
        load_config(write(tmp_path, text.replace("'OwnMetric'", "'OwnMetrik'")))


def test_imports_of_ones_own_that_fail_are_told_as_such(tmp_path, monkeypatch):
    path = write(tmp_path, 'from own_sizes import NAMES\nval_evaluator = dict(type=SGD, names=NAMES)\n')
    with pytest.raises(ConfigError, match=r"x.py, line 3 for No module named 'own_sizes', expected.*PYTHONPATH"):
        load_config(path)
    (tmp_path / 'own_sizes.py').write_text(OWN.replace('NAMES', 'NAMEN'))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match='Failed to import NAMES from own_sizes'):
        load_config(path)


def test_imported_constants_are_values_in_the_dump(tmp_path, monkeypatch):
    (tmp_path / 'own_names.py').write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = load_config(write(tmp_path, 'from own_names import NAMES\nval_dataloader = dict(classes=NAMES)\n'))
    assert "classes=('ground', 'car')" in config_text(cfg)


def test_a_config_in_place_of_its_path_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match='config: a Config came, expected the path of a config file'):
        load_config(load_config(write(tmp_path, '')))
