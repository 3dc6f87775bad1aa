"""What ends a training, or must not begin one: a loss that is no number, no step, other classes, another run."""
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper

import perception.apis.test
from perception.apis.train import train
from perception.utils.checkpoint import load_checkpoint, save_atomic
from perception.utils.errors import CheckpointError, ConfigError, DataError, TrainingError
from perception.utils.lock import LOCK, locked

evaluate = perception.apis.test.test


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of a training of the toy config."""
    folder = tmp_path_factory.mktemp('trained')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        train(Path(__file__).with_name('toy_config.py'), work_dir=str(folder))
    return folder


@pytest.mark.parametrize('check', [False, True])
def test_what_a_metric_refuses_is_said_before_the_first_step(toy, toy_config, tmp_path, monkeypatch, check):
    def refuse(model):
        raise ConfigError(f'{type(model).__name__} gives no logits')

    steps, forward = [], toy.ToyModel.forward
    monkeypatch.setattr(toy.ToyModel, 'forward', lambda self, *args, **kwargs: (steps.append(1), forward(
        self, *args, **kwargs))[1])
    monkeypatch.setattr(toy.ToyMetric, 'check_model', staticmethod(refuse), raising=False)
    with pytest.raises(ConfigError, match='ToyModel gives no logits'):
        train(toy_config, work_dir=str(tmp_path), check=check)
    assert not steps


@pytest.mark.parametrize('check', [False, True])
def test_what_is_wrong_with_samples_of_the_validation_is_said_before_the_first_step(toy, toy_config, tmp_path,
                                                                                    monkeypatch, check):
    trained, read = [], toy.ToyDataset.__getitem__

    def damaged(self, item):
        if len(self) == 11:  # the validation's
            raise DataError('a damaged sample')
        trained.append(item)
        return read(self, item)

    monkeypatch.setattr(toy.ToyDataset, '__getitem__', damaged)
    with pytest.raises(DataError, match='a damaged sample'):
        train(toy_config, work_dir=str(tmp_path), check=check)
    assert not trained


# --- losses that are no number ---
@pytest.fixture
def bad_steps(toy, monkeypatch):
    """A function: the losses of these steps, counted from 1, get a value, or their gradients do."""
    def spoil(steps, value=math.nan, gradient=False):
        forward, count = toy.ToyModel.forward, [0]

        def spoilt(self, inputs, data_samples=None, mode='tensor'):
            outputs = forward(self, inputs, data_samples, mode)
            if mode == 'loss':
                count[0] += 1
                if count[0] in steps and gradient:
                    self.head.bias.register_hook(lambda grad: grad * math.nan if count[0] in steps else grad)
                elif count[0] in steps:
                    outputs['loss_extra'] = outputs['loss_ce'] * value
            return outputs

        monkeypatch.setattr(toy.ToyModel, 'forward', spoilt)
        return count
    return spoil


@pytest.mark.parametrize('value, text', [(math.nan, 'loss_extra is nan'), (math.inf, 'loss_extra is inf'),
                                         (-math.inf, 'loss_extra is -inf')])
def test_the_first_loss_that_is_no_number_ends_the_training(bad_steps, toy_config, tmp_path, value, text):
    count = bad_steps([9], value)
    with pytest.raises(TrainingError, match=f'epoch 2, iteration 9: {text} at a learning rate of 0.01.*'
                                            f'last good checkpoint is {tmp_path}/epoch_1.pth'):
        train(toy_config, work_dir=str(tmp_path))
    assert count == [9]
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['epoch_1.pth', 'model.pth']


def test_without_a_checkpoint_that_is_said(bad_steps, toy_config, tmp_path):
    bad_steps([1])
    with pytest.raises(TrainingError, match='iteration 1: loss_extra is nan .*no checkpoint yet; begin anew'):
        train(toy_config, work_dir=str(tmp_path))


def test_a_gradient_that_is_no_number_ends_the_training_too(bad_steps, toy_config, tmp_path):
    bad_steps([2], gradient=True)
    with pytest.raises(TrainingError, match='iteration 2: the gradient of head.bias .* is not finite'):
        train(toy_config, work_dir=str(tmp_path))


@pytest.mark.parametrize('gradient', [False, True])
def test_a_skipped_step_leaves_weights_buffers_and_optimiser_as_they_are(bad_steps, toy_config, tmp_path, gradient,
                                                                         assert_same, monkeypatch):
    from perception.apis.loops import EpochLoop
    states, step = [], EpochLoop._step

    def watch(self, *args):
        step(self, *args)
        states.append({k: v.clone() for k, v in self.runner.model.state_dict().items()})
        optimizer = self.runner.optim_wrapper.optimizer
        states.append([[v.clone() for v in state.values()] for state in optimizer.state.values()])

    monkeypatch.setattr(EpochLoop, '_step', watch)
    bad_steps([3, 5], gradient=gradient)
    runner = train(toy_config, work_dir=str(tmp_path), allow_nan=2, options={'train_cfg.max_epochs': 1})
    for bad in (3, 5):
        assert_same(states[2 * bad - 2], states[2 * bad - 4])
        assert_same(states[2 * bad - 1], states[2 * bad - 3])
    assert not torch.equal(states[6]['head.weight'], states[4]['head.weight'])
    assert runner.message_hub.get_info('steps_skipped') == 2 and runner.iter == 6
    text = next(tmp_path.rglob('*.log')).read_text()
    assert 'this step is skipped, 1 of 2 allowed' in text and 'this step is skipped, 2 of 2 allowed' in text


def test_an_update_of_accumulated_gradients_that_is_skipped_is_not_added_to_the_next(bad_steps, toy_config, tmp_path,
                                                                                     monkeypatch):
    added, updates, count = [], [], bad_steps([2])
    backward, step = OptimWrapper.backward, OptimWrapper.step
    monkeypatch.setattr(OptimWrapper, 'backward', lambda self, loss: (added.append(count[0]), backward(self, loss))[1])
    monkeypatch.setattr(OptimWrapper, 'step', lambda self: (updates.append(list(added)), step(self))[1])
    monkeypatch.setattr(OptimWrapper, 'zero_grad', lambda self: (added.clear(), self.optimizer.zero_grad())[1])
    train(toy_config, work_dir=str(tmp_path), allow_nan=1,
          options={'train_cfg.max_epochs': 1, 'optim_wrapper.accumulative_counts': 2})
    assert updates == [[3, 4], [5, 6]]


def test_one_more_than_allowed_ends_the_training_also_after_a_resume(bad_steps, toy_config, tmp_path):
    bad_steps([2, 8])
    with pytest.raises(TrainingError, match=r'epoch 2, iteration 8.*\(1 such steps were skipped before\)'):
        train(toy_config, work_dir=str(tmp_path), allow_nan=1)
    bad_steps([2])
    with pytest.raises(TrainingError, match=r'epoch 2, iteration 8.*\(1 such steps were skipped before\)'):
        train(toy_config, work_dir=str(tmp_path), allow_nan=1, resume=True)
    with pytest.raises(ConfigError, match='--allow-nan: -1 came'):
        train(toy_config, work_dir=str(tmp_path), allow_nan=-1)


def test_a_rate_beyond_float32_ends_the_training(toy_config, tmp_path):
    with pytest.raises(TrainingError, match=r'iteration 1: the step is too large .* rate of 1e\+38') as caught:
        train(toy_config, work_dir=str(tmp_path), allow_nan=9, options={'optim_wrapper.optimizer.lr': 1e38})
    assert '--allow-nan' not in str(caught.value)  # no step can be taken


def test_denormal_numbers_slow_no_training_down(toy, toy_config, tmp_path, monkeypatch):
    def denormal():
        return float(torch.tensor(1e-30) * torch.tensor(1e-10))

    if not torch.set_flush_denormal(False):
        pytest.skip('a CPU without this mode')
    forward, seen = toy.ToyModel.forward, []

    def watched(self, inputs, data_samples=None, mode='tensor'):
        outputs = forward(self, inputs, data_samples, mode)
        if mode == 'loss':
            seen.append(denormal())
            outputs['loss_ce'].register_hook(lambda grad: seen.append(denormal()))
        return outputs

    monkeypatch.setattr(toy.ToyModel, 'forward', watched)
    assert 0 < denormal() < 1.2e-38
    train(toy_config, work_dir=str(tmp_path))
    assert len(seen) == 36 and set(seen) == {0.0}  # forward and backward of 18 steps
    assert denormal() > 0


def test_weights_that_are_no_numbers_are_not_saved(toy, toy_config, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, 'step', lambda self, closure=None: [
        p.data.fill_(math.inf) for group in self.param_groups for p in group['params']])
    options = {'train_dataloader.batch_size': 22}
    with pytest.raises(TrainingError, match=r'epoch_1.pth: 6 of 9 weights are not finite \(backbone.0.weight'):
        train(toy_config, work_dir=str(tmp_path), options=options)
    assert not list(tmp_path.glob('*.pth'))


def test_weights_that_are_no_numbers_are_not_loaded(trained, toy_config, tmp_path):
    weights = load_checkpoint(trained / 'model.pth')
    for name, value in (('head.bias', math.nan), ('head.bias', math.inf), ('backbone.1.running_var', math.inf)):
        bad = {k: v.clone() for k, v in weights.items()}
        bad[name][0] = value
        save_atomic(bad, tmp_path / 'bad.pth')
        for call in (lambda: evaluate(toy_config, tmp_path / 'bad.pth', options=dict(work_dir=str(tmp_path))),
                     lambda: train(toy_config, work_dir=str(tmp_path / 'run'),
                                   options=dict(load_from=str(tmp_path / 'bad.pth')))):
            with pytest.raises(CheckpointError, match=rf'bad.pth: 1 of 9 weights are not finite \({name}\)'):
                call()


# --- trainings that cannot be meant ---
@pytest.mark.parametrize('options, message', [
    ({'train_dataloader.batch_size': 64, 'train_dataloader.drop_last': True},
     '22 samples.* in batches of batch_size=64 with drop_last=True give no step'),
    ({'train_cfg.max_epochs': 0, 'param_scheduler': []}, 'max_epochs=0')])
def test_a_training_without_a_step_is_refused_before_it_begins(toy_config, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(toy_config, work_dir=str(tmp_path), options=options)
    assert not list(tmp_path.glob('*.pth'))


def test_a_batch_of_one_sample_is_named_where_it_cannot_be_normalised(toy_config, tmp_path):
    with pytest.raises(ConfigError, match='epoch 1, iteration 8: a batch of one sample .*drop_last=True'):
        train(toy_config, work_dir=str(tmp_path), options={'train_dataloader.batch_size': 3})


def test_a_warm_up_shorter_than_a_step_is_left_out(toy_config, tmp_path):
    warm_up = dict(type=LinearLR, start_factor=0.1, end=0.5, convert_to_iter_based=True)
    rest = dict(type=CosineAnnealingLR, begin=0.5, end=3, convert_to_iter_based=True)
    runner = train(toy_config, work_dir=str(tmp_path), options={
        'train_dataloader.batch_size': 22, 'param_scheduler': [warm_up, rest]})
    assert [type(part) for part in runner.param_schedulers] == [CosineAnnealingLR] and runner.iter == 3


def test_a_validation_without_data_is_refused_before_the_training(toy_config, tmp_path):
    with pytest.raises((DataError, ValueError), match='0 samples in batches'):
        train(toy_config, work_dir=str(tmp_path), options={'val_dataloader.dataset.size': 0})


def test_a_net_with_other_classes_than_the_data_is_refused_at_the_start(trained, toy_config, tmp_path):
    message = r'model.num_classes={} came for the 3 classes of the training data \(ToyDataset\), expected 3'
    for number in (2, 4):
        with pytest.raises(ConfigError, match=message.format(number)):
            train(toy_config, work_dir=str(tmp_path), options={'model.num_classes': number})
    weights = load_checkpoint(trained / 'model.pth')
    for name in ('head.weight', 'head.bias'):
        weights[name] = torch.cat([weights[name], weights[name][:1]])
    save_atomic(weights, tmp_path / 'four.pth')
    with pytest.raises(ConfigError, match='num_classes=4 came for the 3 classes of the test data'):
        evaluate(toy_config, tmp_path / 'four.pth', options={'model.num_classes': 4, 'work_dir': str(tmp_path)})


# --- weights to start from ---
def start(toy_config, weights, folder, **options):
    save_atomic(weights, folder / 'start.pth')
    options = {'load_from': str(folder / 'start.pth'), 'train_cfg.max_epochs': 1, 'optim_wrapper.optimizer.lr': 0.0,
               **options}
    runner = train(toy_config, work_dir=str(folder / 'run'), options=options)
    return runner, next((folder / 'run').rglob('*.log')).read_text()


def test_load_from_says_what_fits_and_what_is_new(trained, toy_config, tmp_path):
    weights = load_checkpoint(trained / 'model.pth')
    _, log = start(toy_config, weights, tmp_path)
    assert 'start.pth: 9 of 9 weights loaded.' in log


def test_a_head_of_other_classes_is_new(trained, toy_config, tmp_path):
    weights = load_checkpoint(trained / 'model.pth')
    other = dict(weights, **{'head.weight': torch.zeros(7, 16), 'head.bias': torch.zeros(7)})
    runner, log = start(toy_config, other, tmp_path)
    assert 'start.pth: 7 of 9 weights loaded; new: head.weight, head.bias.' in log
    assert torch.equal(runner.model.backbone[0].weight, weights['backbone.0.weight'])
    assert runner.model.head.weight.abs().sum() > 0


@pytest.mark.parametrize('change', [lambda w: {f'other.{k}': v for k, v in w.items()},
                                    lambda w: {k: v.repeat(2, *[1] * (v.ndim - 1)) if v.ndim else v
                                               for k, v in w.items()}])
def test_a_file_of_something_else_is_refused(trained, toy_config, tmp_path, change):
    with pytest.raises(CheckpointError, match='start.pth: .*of 9 weights of ToyModel'):
        start(toy_config, change(load_checkpoint(trained / 'model.pth')), tmp_path)


def test_a_bare_net_starts_from_the_student_in_a_distiller(trained, toy_config, tmp_path):
    weights = load_checkpoint(trained / 'model.pth')
    distilled = {**{f'student.{k}': v for k, v in weights.items()}, 'iteration': torch.tensor(7)}
    runner, log = start(toy_config, dict(state_dict=distilled, meta={}), tmp_path)
    assert '9 of 9 weights loaded' in log
    assert torch.equal(runner.model.head.weight, weights['head.weight'])


@pytest.mark.parametrize('as_student', [False, True])
def test_a_distiller_starts_with_its_student(trained, toy, toy_config, tmp_path, as_student):
    from perception.distill.distiller import Distiller
    weights = load_checkpoint(trained / 'model.pth')
    model = dict(type=Distiller, student=dict(type=toy.ToyModel, width=16), taps={}, losses={})
    given = {f'student.{k}': v for k, v in weights.items()} | {'iteration': torch.tensor(70)} if as_student else weights
    runner, log = start(toy_config, given, tmp_path, model=model)
    assert ('9 of 9 weights loaded' if as_student else '9 of 9 weights of the student loaded') in log
    assert torch.equal(runner.model.student.head.weight, weights['head.weight'])
    assert int(runner.model.iteration) == 6


# --- averaged weights ---
@pytest.mark.parametrize('buffers', [False, True])
def test_what_was_validated_is_exported_and_saved(toy, toy_config, tmp_path, buffers):
    hook = dict(type=EMAHook, momentum=0.3, update_buffers=buffers)
    runner = train(toy_config, work_dir=str(tmp_path), options=dict(custom_hooks=[hook]))
    hub = load_checkpoint(tmp_path / 'epoch_3.pth')['message_hub']
    best, scores = hub['runtime_info']['best_score'], hub['log_scalars']['val/toy/accuracy'][0].tolist()
    options = dict(work_dir=str(tmp_path / 'test'))
    assert evaluate(toy_config, tmp_path / 'model.pth', options=options)['toy/accuracy'] == best == max(scores)
    assert evaluate(toy_config, tmp_path / 'epoch_3.pth', options=options)['toy/accuracy'] == scores[-1]
    ema = next(h for h in runner.hooks if isinstance(h, EMAHook)).ema_model
    checkpoint = load_checkpoint(tmp_path / 'epoch_3.pth')
    mean, raw = checkpoint['state_dict']['head.weight'], checkpoint['ema_state_dict']['module.head.weight']
    assert torch.equal(ema.module.head.weight, mean) and torch.equal(runner.model.head.weight, raw)
    assert not torch.equal(mean, raw)
    save_atomic(dict(ema.state_dict()), tmp_path / 'ema.pth')
    assert evaluate(toy_config, tmp_path / 'ema.pth', options=options)['toy/accuracy'] == scores[-1]


def test_without_a_validation_the_averaged_weights_are_exported(toy_config, tmp_path):
    options = dict(custom_hooks=[dict(type=EMAHook, momentum=0.3)], val_dataloader=None, val_cfg=None,
                   val_evaluator=None)
    runner = train(toy_config, work_dir=str(tmp_path), options=options)
    ema = next(h for h in runner.hooks if isinstance(h, EMAHook)).ema_model
    assert torch.equal(load_checkpoint(tmp_path / 'model.pth')['head.weight'], ema.module.head.weight)


def test_an_averaged_run_goes_on_bit_for_bit(toy_config, tmp_path, assert_same):
    options = {'custom_hooks': [dict(type=EMAHook, momentum=0.3)], 'default_hooks.checkpoint.max_keep_ckpts': -1}
    train(toy_config, work_dir=str(tmp_path / 'whole'), options=options)
    train(toy_config, work_dir=str(tmp_path / 'part'), options=options, resume=str(tmp_path / 'whole/epoch_1.pth'))
    ours, theirs = (load_checkpoint(tmp_path / name / 'epoch_3.pth') for name in ('part', 'whole'))
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert_same(ours[key], theirs[key], key)


# --- another run in the folder ---
HOLD = ('import sys, time\nfrom perception.utils.lock import locked\nwith locked(*sys.argv[1:]):\n'
        "    print('locked', flush=True)\n    time.sleep(60)\n")


@pytest.fixture
def other_run(tmp_path):
    """A function that starts a process which holds folders."""
    started = []

    def start_one(*folders):
        process = subprocess.Popen([sys.executable, '-c', HOLD, *map(str, folders)], stdout=subprocess.PIPE, text=True,
                                   env=dict(os.environ, OMP_NUM_THREADS='1'))
        started.append(process)
        assert process.stdout.readline() == 'locked\n'
        return process
    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_run_in_a_folder_is_refused_and_a_killed_one_makes_room(other_run, trained, toy_config, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'epoch_7.pth').write_bytes(b'of the other run')
    process = other_run(folder)
    for resume in (False, True):
        with pytest.raises(DataError, match=rf'run: another run writes to it \(process {process.pid} on '):
            train(toy_config, work_dir=str(folder), resume=resume)
    with pytest.raises(DataError, match=rf'another run writes to it \(process {process.pid} on '):
        evaluate(toy_config, trained / 'model.pth', options=dict(work_dir=str(tmp_path / 't')), submit=str(folder))
    assert [p.name for p in folder.iterdir() if p.name != LOCK] == ['epoch_7.pth']
    process.kill()
    process.wait()
    (folder / '.epoch_8.pth.1234abcd.part').write_bytes(b'half')
    train(toy_config, work_dir=str(folder), options={'train_cfg.max_epochs': 1})
    assert not list(folder.glob('.*.part')) and not (folder / LOCK).exists()


def test_a_planted_link_is_not_followed(tmp_path):
    precious = tmp_path / 'precious'
    precious.write_text('mine')
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / LOCK).symlink_to(precious)
    with pytest.raises(DataError, match='expected a file that can be written'), locked(folder):
        pass
    (folder / LOCK).unlink()
    for name in ('.x.pth.part', '.x.pth.0.part'):
        (folder / name).symlink_to(precious)
    save_atomic(dict(a=1), folder / 'x.pth')
    assert precious.read_text() == 'mine'
    with locked(folder, folder, None, str(folder) + '/'):
        assert 'process' in (folder / LOCK).read_text()
    assert [p.name for p in folder.iterdir()] == ['x.pth']
