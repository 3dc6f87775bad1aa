"""Going on inside an epoch, with other settings, and from checkpoints that were meddled with."""
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.optim import CosineAnnealingLR, LinearLR, OneCycleLR, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from perception.apis.resume import _compare_teachers, compare, facts
from perception.apis.train import train
from perception.distill.teachers import FrozenTeacher
from perception.utils.checkpoint import load_checkpoint, save_atomic
from perception.utils.errors import CheckpointError, ConfigError

KEEP = {'default_hooks.checkpoint.max_keep_ckpts': -1}
BY_ITERATION = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 4, **KEEP}
WARM_UP = [dict(type=LinearLR, start_factor=0.1, by_epoch=False, begin=0, end=7),
           dict(type=CosineAnnealingLR, T_max=3, by_epoch=True, convert_to_iter_based=True)]
LOOP = {'train_cfg': dict(type=IterBasedTrainLoop, max_iters=15, val_interval=4),
        'log_processor.by_epoch': False, **BY_ITERATION}


@pytest.fixture
def log(caplog, monkeypatch):
    """What the runs of a test log."""
    import perception.apis.runner
    build = perception.apis.runner.Runner.build_logger

    def listen(self, *args, **kwargs):
        logger = build(self, *args, **kwargs)
        logger.addHandler(caplog.handler)
        return logger

    monkeypatch.setattr(perception.apis.runner.Runner, 'build_logger', listen)
    return caplog


@pytest.fixture
def going_on(toy_config, tmp_path):
    """Train a config whole, and again from a copy of one of its checkpoints; both folders."""
    def run(name, options, later=None, change=None):
        whole, part, options = tmp_path / 'whole', tmp_path / 'part', dict(KEEP, **options)
        train(toy_config, work_dir=str(whole), options=options)
        part.mkdir()
        for file in (name, 'model.pth'):
            shutil.copy(whole / file, part / file)
        if change:
            checkpoint = load_checkpoint(part / name)
            change(checkpoint)
            save_atomic(checkpoint, part / name)
        return whole, part, train(toy_config, work_dir=str(part), options=dict(options, **(later or {})), resume=True)
    return run


@pytest.fixture
def assert_equal_ends(assert_same):
    """A function: two runs ended alike."""
    def compare(whole, part, name):
        ours, theirs = (load_checkpoint(folder / name) for folder in (part, whole))
        for key in ('state_dict', 'optimizer', 'param_schedulers'):
            assert_same(ours[key], theirs[key], key)
        for key in ('epoch', 'iter'):
            assert ours['meta'][key] == theirs['meta'][key]
        for scalar in ('train/loss', 'train/lr', 'val/toy/accuracy'):
            assert_same(*(c['message_hub']['log_scalars'][scalar] for c in (ours, theirs)), where=scalar)
        assert_same(load_checkpoint(part / 'model.pth'), load_checkpoint(whole / 'model.pth'))
    return compare


# --- checkpoints by iteration ---
@pytest.mark.parametrize('start, workers', [(4, 0), (8, 0), (12, 0), (16, 0), (8, 2)])  # 6 iterations an epoch
def test_a_checkpoint_inside_an_epoch_goes_on_there(going_on, start, workers, assert_equal_ends, assert_same):
    options = dict(BY_ITERATION, param_scheduler=WARM_UP, **{'train_dataloader.num_workers': workers})
    whole, part, runner = going_on(f'iter_{start}.pth', options)
    assert (runner.epoch, runner.iter) == (3, 18)
    assert_equal_ends(whole, part, 'iter_16.pth')
    assert_same(load_checkpoint(whole / 'model.pth'), load_checkpoint(part / 'model.pth'))


@pytest.mark.parametrize('start', [4, 8, 12])
def test_a_loop_over_iterations_goes_on_at_its_batch(going_on, start, assert_equal_ends):
    whole, part, runner = going_on(f'iter_{start}.pth', dict(LOOP, param_scheduler=WARM_UP[:1]))
    assert runner.iter == 15
    assert_equal_ends(whole, part, 'iter_12.pth')


@pytest.mark.parametrize('options', [{'optim_wrapper.accumulative_counts': 3}, {'optim_wrapper.accumulative_counts': 5},
                                     {'train_dataloader.sampler': dict(type=DefaultSampler, shuffle=True)},
                                     {'param_scheduler': [dict(type=OneCycleLR, eta_max=0.1, total_steps=18,
                                                               by_epoch=False)]}])
def test_accumulated_gradients_and_other_samplers_go_on_too(going_on, options, assert_equal_ends):
    whole, part, _ = going_on('iter_8.pth', dict(BY_ITERATION, **options))
    assert_equal_ends(whole, part, 'iter_16.pth')


def test_a_loop_over_iterations_needs_checkpoints_by_iteration(toy_config, tmp_path):
    options = {name: value for name, value in LOOP.items() if 'checkpoint' not in name}
    with pytest.raises(ConfigError, match='by_epoch=True came for a loop over iterations'):
        train(toy_config, work_dir=str(tmp_path), options=options)


# --- other settings ---
def rates(runner):
    return [group['lr'] for group in runner.optim_wrapper.optimizer.param_groups]


def test_a_rate_on_the_command_line_counts_and_the_schedule_goes_on_from_it(going_on, log):
    seen = {}
    whole, part, runner = going_on('epoch_2.pth', {}, {'optim_wrapper.optimizer.lr': 0.5})
    seen = load_checkpoint(part / 'epoch_3.pth')['message_hub']['log_scalars']['train/lr'][0]
    assert seen.tolist()[:12] == pytest.approx([0.01] * 12) and seen.tolist()[12:] == [0.25] * 6
    assert 'optim_wrapper.optimizer.lr is 0.5 from now on (before: 0.01)' in log.text
    assert 'learning rate goes on at 0.25' in log.text


def test_a_rate_that_only_the_config_has_is_overruled_and_that_is_said(toy_config, tmp_path, log):
    whole = tmp_path / 'whole'
    train(toy_config, work_dir=str(whole), options={'optim_wrapper.optimizer.lr': 0.002, 'train_cfg.max_epochs': 1})
    log.clear()
    runner = train(toy_config, work_dir=str(whole), resume=True)
    assert rates(runner) == [0.001]  # halved after epoch 2
    assert 'optim_wrapper.optimizer.lr stays 0.002, as in the checkpoint (the config says 0.01)' in log.text
    assert 'train_cfg.max_epochs is 3 from now on (before: 1)' in log.text


def test_a_rate_that_was_overruled_before_is_still_known(toy_config, tmp_path, log):
    """The config of the second run says another rate than the one in use."""
    def go_on(epochs, **options):
        log.clear()
        options = {'train_cfg.max_epochs': epochs, 'param_scheduler.0.milestones': [90], **options}
        return rates(train(toy_config, work_dir=str(tmp_path), options=options, resume=epochs > 1))

    assert go_on(1, **{'optim_wrapper.optimizer.lr': 0.002}) == go_on(2) == go_on(3) == [0.002]
    assert 'optim_wrapper.optimizer.lr stays 0.002, as in the checkpoint (the config says 0.01)' in log.text
    assert go_on(4, **{'optim_wrapper.optimizer.lr': 0.01}) == [0.01]
    assert 'optim_wrapper.optimizer.lr is 0.01 from now on (before: 0.002)' in log.text
    assert go_on(5) == [0.01] and 'optim_wrapper' not in log.text


def test_another_schedule_on_the_command_line_counts(going_on):
    _, part, _ = going_on('epoch_1.pth', {}, {'param_scheduler.0.gamma': 0.1, 'param_scheduler.0.milestones': [1]})
    seen = load_checkpoint(part / 'epoch_3.pth')['message_hub']['log_scalars']['train/lr'][0]
    assert seen.tolist() == pytest.approx([0.01] * 6 + [0.001] * 12)


def test_the_same_options_as_before_change_nothing(going_on, assert_equal_ends):
    options = {'optim_wrapper.optimizer.lr': 0.02, 'param_scheduler': WARM_UP}
    whole, part, _ = going_on('epoch_1.pth', options)
    assert_equal_ends(whole, part, 'epoch_3.pth')


def test_another_batch_size_keeps_the_place_by_samples_seen(going_on, log):
    """22 samples: 6 steps of 4, then 11 steps of 2."""
    whole, part, runner = going_on('epoch_1.pth', dict(param_scheduler=WARM_UP), {'train_dataloader.batch_size': 2})
    assert (runner.epoch, runner.iter) == (3, 33)
    assert 'batches of 2 in 1 process(es), 11 steps an epoch (before: 4, 1, 6)' in log.text
    assert 'epoch 1 of 3 goes on, iteration 6 becomes 11' in log.text
    ours, theirs = (load_checkpoint(f / 'epoch_3.pth')['message_hub']['log_scalars']['train/lr'][0].tolist()
                    for f in (part, whole))
    assert ours[6] == pytest.approx(0.01 * .5 * (1 + torch.cos(torch.tensor(11 / 33 * torch.pi)).item()), rel=1e-3)
    assert ours[-1] < theirs[-1] < 0.001


def test_another_batch_size_inside_an_epoch_goes_on_with_the_samples_that_are_left(going_on, toy, monkeypatch):
    seen, read = [], toy.ToyDataset.__getitem__

    def watch(self, item):
        if isinstance(item, tuple):
            seen.append(item)
        return read(self, item)

    monkeypatch.setattr(toy.ToyDataset, '__getitem__', watch)
    _, _, runner = going_on('iter_8.pth', BY_ITERATION, {'train_dataloader.batch_size': 2})
    first, again = seen[:66], seen[66:]
    assert again == first[22 + 8:] and runner.iter == 33


def test_another_number_of_batches_in_a_loop_over_iterations(going_on, log):
    _, _, runner = going_on('iter_8.pth', LOOP, {'train_dataloader.batch_size': 2, 'train_cfg.max_iters': 30})
    assert runner.iter == 30 and 'iteration 8 becomes 16 of 30' in log.text


def test_a_complete_training_says_so(going_on, log):
    going_on('epoch_3.pth', {})
    assert 'this training was complete (3 of 3)' in log.text


@pytest.mark.parametrize('start', [2, 3])  # the last one is that of the end
def test_a_training_that_waits_for_a_better_score_ends_where_the_whole_one_did(going_on, start, assert_equal_ends):
    stop = dict(type='EarlyStoppingHook', monitor='toy/accuracy', rule='greater', min_delta=1000, patience=2)
    whole, part, runner = going_on(f'epoch_{start}.pth', {'train_cfg.max_epochs': 6, 'custom_hooks': [stop]})
    assert runner.epoch == 3
    assert_equal_ends(whole, part, 'epoch_3.pth')


def test_a_schedule_that_is_taken_away_gives_the_rate_of_the_config(going_on):
    _, _, runner = going_on('epoch_2.pth', {}, {'param_scheduler': None})
    assert rates(runner) == [0.01]


def test_a_checkpoint_without_optimiser_or_schedule_takes_those_of_the_config_where_it_is(going_on, log):
    for part in ('optimizer', 'param_schedulers'):
        def change(checkpoint, part=part):
            del checkpoint[part]
        _, folder, runner = going_on('epoch_2.pth', {}, change=change)
        assert rates(runner) == [0.005]
        shutil.rmtree(folder)
    assert 'holds no optimiser' in log.text


# --- meddled checkpoints ---
def test_nothing_that_a_checkpoint_holds_is_run(going_on, tmp_path, assert_equal_ends):
    def plant(checkpoint):
        code = f"open({str(tmp_path / 'executed')!r}, 'w')\nmodel = dict(a=open({str(tmp_path / 'executed')!r}, 'w'))\n"
        checkpoint['meta'].update(config=code, cfg=code)

    whole, part, _ = going_on('epoch_2.pth', {}, change=plant)
    assert not (tmp_path / 'executed').exists()
    assert_equal_ends(whole, part, 'epoch_3.pth')


@pytest.mark.parametrize('text', ['((' * 3000, 'x = ', '\x00', 3, None, ['x'], '9' * 5000 + '=1', '*a, b = 1'])
def test_whatever_stands_in_place_of_a_config_is_no_obstacle(text):
    assert compare(text, 'draw = 1\n') in (None, {'draw': ('-', '1')})


def test_configs_are_compared_by_their_text():
    then = "model=dict(\n    type='x.Net',\n    width=8)\ncustom_hooks=[dict(a=1)]\nwork_dir='a'\ndraw=1\nhelper=1\n"
    now = "model=dict(\n    type='x.Net',\n    width=9)\ncustom_hooks=[dict(a=2)]\nwork_dir='b'\nhelper=2\n"
    assert compare(then, now) == {'custom_hooks.0.a': ('1', '2'), 'draw': ('1', '-'), 'model.width': ('8', '9')}


def test_a_class_is_the_same_by_each_of_its_names():
    then = "model=dict(type='torch.optim.SGD', lr=1)\ndraw=dict(type='torch.optim.sgd.SGD')\n"
    assert compare(then, then.replace('torch.optim.SGD', 'torch.optim.sgd.SGD')) == {}
    assert compare(then, then.replace('sgd.SGD', 'adam.Adam')) == {
        'draw.type': ("'torch.optim.sgd.SGD'", "'torch.optim.adam.Adam'")}
    assert compare(then.replace('torch.optim.SGD', 'no.such.SGD'), then)['model.type'][0] == "'no.such.SGD'"


@pytest.mark.parametrize('where, value, message', [
    (('meta', 'epoch'), -5, "its epoch is '-5', expected a whole number"),
    (('meta', 'epoch'), 'two', "its epoch is 'two'"), (('meta', 'iter'), [6], r"its iter is '\[6\]'"),
    (('meta', 'iter'), 2.5, 'its iter is'), (('meta', 'iter'), 10**30, 'its iter is'),
    (('meta', 'iter'), 999, 'epoch 2, iteration 999, expected an iteration of that epoch'),
    (('meta', 'seed'), 'x', "its seed is 'x'"), (('meta', 'seed'), 2**32, r'its seed is .*below 2\*\*32'),
    (('message_hub', 'runtime_info', 'keep_ckpt_ids'), 5, 'its keep_ckpt_ids is'),
    (('message_hub', 'runtime_info', 'keep_ckpt_ids'), ['../x'], 'its keep_ckpt_ids is'),
    (('message_hub', 'runtime_info', 'best_score'), 'x', "its best_score is 'x'"),
    (('optimizer', 'param_groups', 0, 'betas'), 'x', "its optimiser does not fit .*betas is 'x'"),
    (('optimizer', 'state', 0, 'exp_avg'), torch.zeros(5), 'its optimiser does not fit'),
    (('state_dict', 'head.bias'), torch.zeros(3).to_sparse(), r'1 weights are sparse.*head.bias'),
    (('state_dict', 'head.bias'), torch.zeros(3, dtype=torch.complex64), r'1 weights are sparse, complex.*head.bias'),
    (('meta',), 'text', 'weights alone came'),
    (('meta',), [1, 2], 'weights alone came'),
    (('message_hub',), 'text', 'its message_hub is a str'), (('message_hub',), {}, 'its message_hub|message hub'),
    (('message_hub', 'log_scalars'), 3, 'message hub'), (('message_hub', 'runtime_info'), 'x', 'message hub'),
    (('optimizer',), [1], 'its optimizer is a list'), (('optimizer', 'param_groups'), 'x', 'its optimiser does not'),
    (('optimizer', 'param_groups'), [], 'its optimiser does not'), (('optimizer', 'state'), 3, 'its optimiser does'),
    (('optimizer', 'param_groups', 0, 'lr'), float('nan'), 'its learning rate is nan'),
    (('optimizer', 'param_groups', 0, 'lr'), 'fast', 'its optimiser does not'),
    (('param_schedulers',), 'x', 'its param_schedulers is a str'),
    (('param_schedulers', 0, 'last_step'), 'x', 'its schedule does not fit'),
    (('state_dict', 'head.bias'), torch.full((3,), float('nan')), r'1 of 9 weights are not finite \(head.bias\)')])
def test_a_checkpoint_with_impossible_values_is_refused_in_one_sentence(runs_of, toy_config, tmp_path, where, value,
                                                                        message):
    checkpoint = node = load_checkpoint(runs_of / 'epoch_2.pth')
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value
    save_atomic(checkpoint, tmp_path / 'epoch_2.pth')
    with pytest.raises(CheckpointError, match=message) as error:
        train(toy_config, work_dir=str(tmp_path / 'run'), resume=str(tmp_path / 'epoch_2.pth'))
    assert '\n' not in str(error.value)


@pytest.fixture(scope='module')
def runs_of(tmp_path_factory):
    """A training of the toy config."""
    from pathlib import Path
    folder = tmp_path_factory.mktemp('training')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        train(Path(__file__).with_name('toy_config.py'), work_dir=str(folder))
    return folder


@pytest.mark.parametrize('known', [True, False])
def test_an_optimiser_of_another_kind_is_refused(runs_of, toy_config, tmp_path, known):
    checkpoint = load_checkpoint(runs_of / 'epoch_2.pth')
    if not known:
        del checkpoint['meta']['training']
    save_atomic(checkpoint, tmp_path / 'epoch_2.pth')
    with pytest.raises(CheckpointError, match="its optimiser is .*, the config's SGD, expected the same"):
        train(toy_config, work_dir=str(tmp_path / 'run'), resume=str(tmp_path / 'epoch_2.pth'),
              options={'optim_wrapper.optimizer': dict(type=torch.optim.SGD, lr=0.1)})


def test_a_checkpoint_of_another_net_is_named(runs_of, toy_config, tmp_path):
    with pytest.raises(CheckpointError, match='epoch_2.pth: 7 mis-shaped'):
        train(toy_config, work_dir=str(tmp_path), resume=str(runs_of / 'epoch_2.pth'), options={'model.width': 8})


def test_a_checkpoint_of_an_older_version_goes_on(going_on, assert_equal_ends):
    whole, part, _ = going_on('epoch_2.pth', {}, change=lambda checkpoint: checkpoint['meta'].pop('training'))
    assert_equal_ends(whole, part, 'epoch_3.pth')


def test_a_teacher_that_was_trained_again_is_told(caplog):
    student = nn.Module()
    student.teachers = nn.ModuleDict(dict(full=FrozenTeacher(nn.Linear(2, 2), {}), flow=nn.Identity()))
    runner = SimpleNamespace(model=student, train_dataloader=torch.utils.data.DataLoader([0, 1]),
                             optim_wrapper=OptimWrapperDict(), logger=logging.getLogger('teachers'))
    meta = dict(training=facts(runner))
    assert list(meta['training']['teachers']) == ['full']
    _compare_teachers(runner, meta)
    student.teachers['full'].model.weight.data += 1
    for older in (dict(), dict(training=dict(meta['training'], teachers=None))):
        _compare_teachers(runner, older)
    assert not caplog.messages
    _compare_teachers(runner, meta)
    assert "the teacher 'full' has other weights than before" in caplog.text
