"""Training and testing of a config in one process, with every switch of the tools."""
import errno
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine import dataset as mmengine_data
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper

import perception.apis.runner
import perception.apis.test
import perception.apis.train
from perception.apis.cli import run_command
from perception.apis.config import load_config
from perception.common.amp import has_bfloat16
from perception.common.dataset import ConcatDataset
from perception.utils.checkpoint import load_checkpoint, save_atomic
from perception.utils.errors import CheckpointError, ConfigError, DataError, MissingDependency

evaluate = perception.apis.test.test
train = perception.apis.train.train


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The work dir of a training with the mini section."""
    folder = tmp_path_factory.mktemp('trained')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        patch.setenv('PERCEPTION_DATA', str(folder / 'data'))
        train(Path(__file__).with_name('toy_config.py'), mini=True, work_dir=str(folder))
    return folder


@pytest.fixture
def score(trained, toy_config, tmp_path, monkeypatch):
    """Test the trained weights with further arguments."""
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path / 'data'))

    def call(checkpoint='model.pth', options=None, **arguments):
        options = dict(dict(work_dir=str(tmp_path)), **(options or {}))
        return evaluate(toy_config, trained / checkpoint, mini=True, options=options, **arguments)
    return call


def log_of(folder):
    return '\n'.join(p.read_text() for p in sorted(folder.rglob('*.log')))


# --- train ---
def test_a_training_leaves_weights_a_log_and_its_config(trained):
    assert {'epoch_1.pth', 'epoch_2.pth', 'model.pth', 'toy_config.py'} <= {p.name for p in trained.iterdir()}
    log = log_of(trained)
    for part in ('perception 0', 'training data: 22 samples',
                 'validation data: 11 samples', 'eta:', 'loss_ce:', 'memory', 'toy/accuracy', 'to test and deploy'):
        assert part in log, part
    assert 'FileClient' not in log and 'SyncBatchNorm' not in log
    assert 'width=8' in (trained / 'toy_config.py').read_text().replace(' ', '')


def test_the_same_seed_gives_the_same_weights(trained, toy_config, tmp_path, monkeypatch):
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path / 'data'))
    for name, options in (('same', {}), ('other', {'randomness.seed': 5})):
        train(toy_config, mini=True, work_dir=str(tmp_path / name), options=options)
        weights, ours = (load_checkpoint(folder / 'epoch_2.pth')['state_dict'] for folder in (trained, tmp_path / name))
        assert all(torch.equal(weights[k], ours[k]) for k in weights) == (name == 'same')


def test_data_sets_are_joined_in_a_training_alone(toy, toy_config, tmp_path):
    two = [dict(type=toy.ToyDataset, size=22), dict(type=toy.ToyDataset, size=6, seed=8)]
    joined = {'train_dataloader.dataset': dict(type='ConcatDataset', datasets=two), 'train_cfg.max_epochs': 1}
    runner = train(toy_config, work_dir=str(tmp_path), options=joined)
    assert runner.iter == 28 // 4
    said = ''.join(path.read_text() for path in tmp_path.rglob('*.log'))
    assert 'training data: 22 samples, ToyDataset' in said and 'training data: 6 samples, ToyDataset' in said
    evaluate(toy_config, tmp_path / 'model.pth', options={'work_dir': str(tmp_path), **joined})
    for split in ('val', 'test'):
        with pytest.raises(ConfigError, match=f'{split}_dataloader.dataset: ConcatDataset came, expected one data set'):
            load_config(toy_config, options={f'{split}_dataloader.dataset': dict(type=ConcatDataset, datasets=two)})
    for wrapper in (dict(type=mmengine_data.ConcatDataset, datasets=two), dict(type='RepeatDataset', times=2)):
        with pytest.raises(ConfigError, match='does not tell a data set the epoch, expected one data set or percep'):
            load_config(toy_config, options={'train_dataloader.dataset': wrapper})


def test_an_earlier_run_is_moved_aside(toy_config, tmp_path):
    (tmp_path / 'epoch_40.pth').write_bytes(b'precious')
    train(toy_config, work_dir=str(tmp_path), options={'train_cfg.max_epochs': 1})
    assert [p.read_bytes() for p in tmp_path.glob('before_*/epoch_40.pth')] == [b'precious']
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['epoch_1.pth', 'model.pth']


def test_a_run_without_weights_leaves_those_of_an_earlier_one_where_they_were(toy_config, tmp_path):
    for name in ('model.pth', 'last_checkpoint', 'earlier.py'):
        (tmp_path / name).write_text(name)
    with pytest.raises(ConfigError, match='model.num_classes=2') as caught:
        train(toy_config, work_dir=str(tmp_path), options={'model.num_classes': 2})
    assert not caught.value.resumable
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {
        name: name for name in ('model.pth', 'last_checkpoint', 'earlier.py')}
    assert not list(tmp_path.glob('before_*'))
    train(toy_config, work_dir=str(tmp_path), options={'train_cfg.max_epochs': 1})
    assert {path.name for path in tmp_path.glob('before_*/*')} == {'model.pth', 'last_checkpoint', 'earlier.py'}
    assert [path.name for path in tmp_path.glob('*.py')] == ['toy_config.py']


def test_a_work_dir_that_cannot_be_written_is_refused(toy_config, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match=r'file/run: Not a directory where results are to be written'):
        train(toy_config, work_dir=str(tmp_path / 'file/run'))
    with pytest.raises(DataError, match=r'file/run/test: Not a directory where results are to be written'):
        evaluate(toy_config, tmp_path / 'model.pth', options=dict(work_dir=str(tmp_path / 'file/run')))


def test_amp_trains_and_validates_in_bfloat16(toy, toy_config, tmp_path, monkeypatch):
    seen, forward = [], toy.ToyModel.forward

    def watch(self, inputs, data_samples=None, mode='tensor'):
        seen.append((mode, torch.is_autocast_enabled(next(self.parameters()).device.type)))
        return forward(self, inputs, data_samples, mode)

    monkeypatch.setattr(toy.ToyModel, 'forward', watch)
    for module in (perception.apis.runner, perception.common.amp):
        monkeypatch.setattr(module, 'has_bfloat16', lambda: True)
    runner = train(toy_config, work_dir=str(tmp_path), amp=True, options={'train_cfg.max_epochs': 1})
    assert set(seen) == {('loss', True), ('predict', True)}
    assert {p.dtype for p in runner.model.parameters()} == {torch.float32}
    seen.clear()
    evaluate(toy_config, tmp_path / 'model.pth', amp=True, options=dict(work_dir=str(tmp_path)))
    assert set(seen) == {('predict', True)}
    seen.clear()
    evaluate(toy_config, tmp_path / 'model.pth', options=dict(work_dir=str(tmp_path)))
    assert set(seen) == {('predict', False)}


def test_amp_on_a_cpu_without_bfloat16_is_float32_and_says_so(toy_config, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(perception.apis.runner, 'print_log', lambda text, *where: said.append(text))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict(avx2=True, avx512_bf16=False), raising=False)
    runner = train(toy_config, work_dir=str(tmp_path), amp=True, options={'train_cfg.max_epochs': 1})
    assert type(runner.optim_wrapper) is OptimWrapper and not runner.val_loop.fp16
    assert len(said) == 1 and 'no instructions for bfloat16' in said[0]
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict(avx512_bf16=False, amx_bf16=True), raising=False)
    assert has_bfloat16()


def test_without_a_seed_one_is_drawn_and_kept_on_resume(toy_config, tmp_path):
    options = {'randomness.seed': None, 'train_cfg.max_epochs': 2}
    train(toy_config, work_dir=str(tmp_path / 'whole'), options=options)
    seed = load_checkpoint(tmp_path / 'whole/epoch_1.pth')['meta']['seed']
    (tmp_path / 'cut').mkdir()
    (tmp_path / 'whole/epoch_1.pth').rename(tmp_path / 'cut/epoch_1.pth')
    runner = train(toy_config, work_dir=str(tmp_path / 'cut'), options=options, resume=True)
    assert runner.seed == seed == runner.train_dataloader.sampler.seed
    weights, ours = (load_checkpoint(tmp_path / name / 'epoch_2.pth')['state_dict'] for name in ('whole', 'cut'))
    assert all(torch.equal(weights[k], ours[k]) for k in weights)


def test_resume_from_a_given_file(toy_config, trained, tmp_path, monkeypatch):
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path / 'data'))
    (tmp_path / 'new').mkdir()
    for name in ('model.pth', 'epoch_1.pth'):  # of another run, which is neither deleted nor taken for the best
        (tmp_path / 'new' / name).write_bytes(b'another')
    runner = train(toy_config, mini=True, work_dir=str(tmp_path / 'new'), resume=str(trained / 'epoch_1.pth'))
    weights, ours = (load_checkpoint(f / 'epoch_2.pth')['state_dict'] for f in (trained, tmp_path / 'new'))
    assert runner.epoch == 2 and all(torch.equal(weights[k], ours[k]) for k in weights)
    assert {path.name for path in (tmp_path / 'new').glob('before_*/*')} == {'model.pth', 'epoch_1.pth'}
    with pytest.raises(CheckpointError, match='weights alone came, expected a training checkpoint'):
        train(toy_config, mini=True, work_dir=str(tmp_path / 'new'), resume=str(trained / 'model.pth'))


def test_resume_without_a_checkpoint_starts_from_the_beginning(toy_config, tmp_path):
    runner = train(toy_config, work_dir=str(tmp_path), resume=True, options={'train_cfg.max_epochs': 1})
    assert runner.epoch == 1


def test_load_from_follows_weights_that_are_moved_aside(toy_config, tmp_path):
    for options in ({}, dict(load_from=str(tmp_path / 'model.pth'))):
        train(toy_config, work_dir=str(tmp_path), options={'train_cfg.max_epochs': 1, **options})
    moved = next(tmp_path.glob('before_*/model.pth'))
    assert f'load_from: {moved}: 9 of 9 weights loaded.' in log_of(tmp_path)


def test_resume_in_the_config_counts_too(toy_config, tmp_path):
    train(toy_config, work_dir=str(tmp_path), options={'train_cfg.max_epochs': 1})
    runner = train(toy_config, work_dir=str(tmp_path), options={'train_cfg.max_epochs': 2, 'resume': True})
    assert runner.epoch == 2 and not list(tmp_path.glob('before_*'))
    assert 'resumed epoch: 1' in log_of(tmp_path)


def test_load_from_starts_from_weights(toy_config, trained, tmp_path, monkeypatch):
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path / 'data'))
    options = dict(load_from=str(trained / 'model.pth'))
    options['optim_wrapper.optimizer.lr'] = 0.0
    runner = train(toy_config, mini=True, work_dir=str(tmp_path), options=options)
    start = load_checkpoint(trained / 'model.pth')
    assert all(torch.equal(p, start[name]) for name, p in runner.model.named_parameters())


# --- check ---
@pytest.fixture
def heard(caplog, monkeypatch):
    """What the loggers of all Runners said."""
    build = perception.apis.train.Runner.build_logger

    def listen(self, *args, **kwargs):
        logger = build(self, *args, **kwargs)
        logger.addHandler(caplog.handler)
        return logger

    monkeypatch.setattr(perception.apis.train.Runner, 'build_logger', listen)
    return caplog


def test_check_logs_losses_and_taps_and_writes_nothing(toy, toy_config, tmp_path, heard, monkeypatch):
    class Tapped(toy.ToyModel):
        tap_shapes = dict(student=dict(logits=(4, 3)), full=dict(logits=(4, 5)))

    monkeypatch.setattr(toy, 'ToyModel', Tapped)
    runner = train(toy_config, work_dir=str(tmp_path / 'w'), check=True)
    assert runner.iter == 1 and not (tmp_path / 'w').exists()
    for part in ('tap student.logits: (4, 3)', 'tap full.logits: (4, 5)', 'iteration 1: loss ', 'iteration 2: loss ',
                 'everything was built'):
        assert heard.text.count(part) == 1, part
    assert 'iteration 2: loss ' in heard.text and ', loss_ce ' in heard.text


def test_check_reads_what_a_training_reads(toy_config, tmp_path):
    with pytest.raises(ValueError, match='non-negative'):
        train(toy_config, work_dir=str(tmp_path), check=True, options={'val_dataloader.dataset.seed': -1})
    elsewhere = {f'{part}_dataloader.dataset.seed': -1 for part in ('test', 'submit')}
    train(toy_config, work_dir=str(tmp_path), check=True, options=elsewhere)
    train(toy_config, work_dir=str(tmp_path), check=True,
          options=elsewhere | {'train_cfg.val_interval': 0, 'val_dataloader.dataset.seed': -1})


def test_check_needs_no_trained_teacher(tmp_path, mini_culane, heard, monkeypatch):
    said = []
    monkeypatch.setattr('perception.apis.train.print_log', lambda text, *_: said.append(text))
    monkeypatch.setattr('perception.distill.teachers.default_work_dir', lambda *_: tmp_path / 'nothing')
    monkeypatch.setattr('perception.apis.train.write_mini_data', lambda cfg: None)
    roots = {f'{part}_dataloader.dataset.data_root': str(mini_culane) for part in ('train', 'val')}
    runner = train('configs/kd/enet_culane.py', mini=True, check=True, options=roots | {
        'train_dataloader.batch_size': 1, 'custom_hooks': [], 'model.losses.kd.weight': 1e-9,
        'model.losses.kd.begin': 500})
    assert runner.iter == 1
    assert runner.model.iteration == 2  # measuring is no step
    for part in ('INFO .*loss_kd: [0-9.e-]+ % of the gradient', "INFO .*loss 'kd' teaches from iteration 500",
                 'WARNING .*loss_kd [0-9.e-]+ % .*expected at least 1 %'):
        assert len(re.findall(part, heard.text)) == 1, part
    assert "'full' is not trained yet" in said[0] and 'tools/train.py configs/lanes/pspnet_culane.py --mini' in said[0]
    with pytest.raises(CheckpointError, match='nothing.*does not exist.*tools/train.py configs/lanes/pspnet_culane.py'):
        train('configs/kd/enet_culane.py', mini=True, work_dir=str(tmp_path / 'w'), options=roots)


def test_an_interval_of_0_leaves_the_latest_weights(toy_config, tmp_path):
    train(toy_config, work_dir=str(tmp_path), options={'train_cfg.val_interval': 0, 'train_cfg.max_epochs': 1})
    assert (tmp_path / 'model.pth').is_file() and 'toy/accuracy' not in log_of(tmp_path)


def test_a_run_says_its_name_once(trained):
    assert log_of(trained).count('Exp name: apis/toy_config_mini_') == 1


def test_logs_go_to_tensorboard_too(toy_config, tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    train(toy_config, work_dir=str(tmp_path), log=['tensorboard'], options={'train_cfg.max_epochs': 1})
    assert list(tmp_path.rglob('events.out.tfevents.*')) and list(tmp_path.rglob('scalars.json'))
    with pytest.raises(ConfigError, match="--log='tensorbord'.*Did you mean tensorboard"):
        train(toy_config, work_dir=str(tmp_path), log=['tensorbord'])
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(MissingDependency, match='--log wandb.*pip install wandb'):
        train(toy_config, work_dir=str(tmp_path), log=['wandb'])


def test_a_full_disk_at_the_start_is_one_sentence(toy_config, tmp_path, monkeypatch):
    def full(self, file=None):
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(Config, 'dump', full)
    with pytest.raises(DataError, match='No space left on device where the config of the run'):
        train(toy_config, work_dir=str(tmp_path), options={'visualizer': dict(type='Visualizer', vis_backends=[])})


# --- test ---
def test_the_best_weights_give_the_score_of_their_validation(trained, score):
    best = load_checkpoint(trained / 'epoch_2.pth')['message_hub']['runtime_info']['best_score']
    assert score() == {'toy/accuracy': best, 'toy/count': 11}


def test_a_test_leaves_the_training_alone(trained, toy_config, monkeypatch, tmp_path):
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path / 'data'))
    before = {p: p.stat().st_mtime_ns for p in trained.glob('*.*')}
    evaluate(toy_config, trained / 'model.pth', mini=True, options=dict(work_dir=str(trained)))
    assert before == {p: p.stat().st_mtime_ns for p in trained.glob('*.*')}


def test_samples_that_weights_were_trained_with_are_named(toy, score, trained, tmp_path, heard, monkeypatch):
    monkeypatch.setattr(toy.ToyDataset, 'path', lambda self, i: f'{self.seed}/{i:02d}', raising=False)
    score()
    assert 'trained with too' not in heard.text
    score(options={'test_dataloader.dataset.seed': 3, 'test_dataloader.dataset.size': 30})
    assert 'model.pth: 22 of 30 samples of the test are trained with too (3/00), so that its scores' in heard.text
    heard.clear()
    fold = tmp_path / 'fold'  # of which the config tests what was trained with
    fold.mkdir()
    text = (trained / 'toy_config.py').read_text()
    assert text.count('seed=4') >= 2 and 'size=22' in text
    (fold / 'toy_config.py').write_text(text.replace('size=22', 'size=5, seed=4'))
    (fold / 'model.pth').write_bytes((trained / 'model.pth').read_bytes())
    score(fold / 'model.pth')
    assert 'fold/model.pth: 5 of 11 samples of the test are trained with too (4/00)' in heard.text
    heard.clear()
    checkpoint = load_checkpoint(trained / 'epoch_2.pth')  # tells it alone
    checkpoint['meta']['cfg'] = checkpoint['meta']['cfg'].replace('size=22', 'size=2, seed=4')
    save_atomic(checkpoint, tmp_path / 'alone.pth')
    score(tmp_path / 'alone.pth')
    assert 'alone.pth: 2 of 11 samples of the test' in heard.text
    heard.clear()
    for text in ('import os\nos.abort()', '(',
                 'train_dataloader = dict(dataset=dict(type="ToyDataset", size=open("x")))'):
        (fold / 'toy_config.py').write_text(text)  # is not run, and need not be a config
        score(fold / 'model.pth')
    assert 'trained with too' not in heard.text


def test_tta_wraps_the_model(score):
    assert score(tta='flip4')['toy/accuracy'] != score()['toy/accuracy']


def test_a_submission_is_made_from_the_test_split(score, tmp_path):
    assert score(submit=str(tmp_path / 'answers')) == {'toy/written': 7}
    assert len((tmp_path / 'answers/answers.txt').read_text().splitlines()) == 7
    score(submit=str(tmp_path / 'answers'))
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/answers.txt').write_text('mine')
    with pytest.raises(DataError, match=r'mine: 1 things .* such as answers\.txt, expected an empty folder'):
        score(submit=str(tmp_path / 'mine'))
    assert (tmp_path / 'mine/answers.txt').read_text() == 'mine'


@pytest.fixture
def answers(toy, tmp_path):
    """A file with the right answers of the mini config's test set but one, and one that is not asked for."""
    labels = dict(enumerate(toy.ToyDataset(size=11, seed=4).labels.tolist()))
    path = tmp_path / 'answers.json'
    path.write_text(json.dumps({**labels, 3: (labels[3] + 1) % 3, 99: 0}))
    return path


def test_a_file_of_predictions_is_scored_without_a_net(toy, toy_config, answers, tmp_path, heard, monkeypatch):
    monkeypatch.setattr(toy.nn, 'Linear', None)  # no net is built
    options = dict(work_dir=str(tmp_path / 'work'))
    results = evaluate(toy_config, predictions=answers, options=options)
    assert results == {'toy/accuracy': pytest.approx(1000 / 11), 'toy/count': 11}
    assert '12 samples, 11 of which are tested' in heard.text
    assert evaluate(toy_config, predictions=answers, options=options, submit=str(tmp_path / 'out')) == {
        'toy/written': 7}
    answers.write_text('{"0": 1}')
    with pytest.raises(DataError, match=r'answers\.json: predictions of 1 samples, expected some of each of the 11'):
        evaluate(toy_config, predictions=answers, options=options)


def test_nothing_that_needs_a_net_stands_beside_predictions(toy_config, answers, tmp_path):
    for others in (dict(checkpoint='model.pth'), dict(tta='flip'), dict(save='x'), dict(amp=True),
                   dict(ensemble=[('c', 'd')])):
        with pytest.raises(ConfigError, match=rf'--predictions: .*answers\.json came with {next(iter(others))}'):
            evaluate(toy_config, predictions=answers, options=dict(work_dir=str(tmp_path)), **others)
    with pytest.raises(ConfigError, match='--predictions was asked for, expected the config to define predictions'):
        evaluate(toy_config, predictions=answers, options=dict(work_dir=str(tmp_path), predictions=None))
    with pytest.raises(ConfigError, match='no checkpoint came'):
        evaluate(toy_config, options=dict(work_dir=str(tmp_path)))


def test_pictures_come_from_a_metric_or_a_hook(toy, toy_config, trained, tmp_path, monkeypatch):
    seen = []

    class DrawHook(Hook):
        def __init__(self, out_dir):
            self.out_dir = out_dir

        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.extend((self.out_dir, sample.sample_id) for sample in outputs)

    class DrawMetric(toy.ToyMetric):
        default_prefix = 'drawn'

        def __init__(self, out_dir):
            super().__init__()
            self.out_dir = out_dir

        def process(self, data_batch, data_samples):
            super().process(data_batch, data_samples)
            seen.extend((self.out_dir, sample['sample_id']) for sample in data_samples)

    def with_drawing(kind):
        def load(*args, **kwargs):
            cfg = load_config(*args, **kwargs)
            cfg.draw = dict(type=kind)
            return cfg
        return load

    for kind in (DrawHook, DrawMetric):
        seen.clear()
        monkeypatch.setattr(toy, kind.__name__, kind, raising=False)
        kind.__module__, kind.__qualname__ = 'toy_room', kind.__name__
        monkeypatch.setattr(perception.apis.test, 'load_config', with_drawing(kind))
        monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path / 'data'))
        results = evaluate(toy_config, trained / 'model.pth', mini=True, draw=str(tmp_path / 'pictures'),
                           options=dict(work_dir=str(tmp_path)))
        assert sorted(seen) == [(str(tmp_path / 'pictures'), i) for i in range(11)] and 'toy/accuracy' in results


def test_weights_of_another_width_are_refused_by_name(score, toy_config, trained, tmp_path):
    with pytest.raises(CheckpointError, match=r'model.pth: 7 mis-shaped .*The widths differ.*--mini'):
        evaluate(toy_config, trained / 'model.pth', options=dict(work_dir=str(tmp_path)))
    with pytest.raises(CheckpointError, match='of it has 3 outputs, that of the model 5: .*num_classes'):
        score(options={'model.num_classes': 5})


def test_a_foreign_checkpoint_is_refused(toy_config, tmp_path):
    (tmp_path / 'x.pth').write_bytes(b'what is this')
    with pytest.raises(CheckpointError, match='x.pth: unreadable'):
        evaluate(toy_config, tmp_path / 'x.pth', options=dict(work_dir=str(tmp_path)))


def test_the_student_of_a_distiller_is_tested_by_its_own_config(toy, score, trained):
    weights = load_checkpoint(trained / 'model.pth')
    distilled = {f'student.{k}': v for k, v in weights.items()}
    distilled['losses.kd.weight'] = torch.ones(2)
    save_atomic(dict(state_dict=distilled, meta={}), trained / 'distilled.pth')
    assert score('distilled.pth') == score()


def test_tta_must_be_offered_by_the_config(toy_config, trained, monkeypatch):
    with pytest.raises(ConfigError, match='--tta was asked for, expected the config to define tta_model'):
        evaluate(toy_config, trained / 'model.pth', tta='flip4', options=dict(tta_model=None))


def test_an_error_in_a_worker_reaches_the_user_as_one_sentence(toy, toy_config, tmp_path, monkeypatch, capsys):
    def broken(self, item):
        raise DataError('scan 7: 3 bytes, expected 16. Fetch it again.')

    monkeypatch.setattr(toy.ToyDataset, '__getitem__', broken)
    for workers in (0, 1):
        with pytest.raises(SystemExit) as end:
            run_command(train, toy_config, work_dir=str(tmp_path), options={'train_dataloader.num_workers': workers})
        assert end.value.code == 2
        assert capsys.readouterr().err.strip().splitlines()[-1] == \
            'DataError: scan 7: 3 bytes, expected 16. Fetch it again.'


