"""The hooks one by one; killed and resumed runs are in tests/apis/test_resume.py."""
import errno
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, Runner, ValLoop
from torch import nn

from perception.common.amp import BFloat16OptimWrapper
from perception.common.hooks.checkpoint import CheckpointHook
from perception.common.hooks.export import ExportHook
from perception.common.hooks.memory import MemoryHook
from perception.common.hooks.seed import SeedHook
from perception.common.hooks.start import StartHook
from perception.ops.sparse.modules import SubMConv3d
from perception.utils.checkpoint import load_checkpoint
from perception.utils.errors import CheckpointError, ConfigError


class Numbers(torch.utils.data.Dataset):
    metainfo = dict(classes=('a',), palette=np.zeros((1, 3)))
    official_size = 1000

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.full((2,), float(index)))


class Net(BaseModel):
    def __init__(self):
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs, mode='tensor'):
        out = self.layer(torch.stack(list(inputs)))
        return dict(loss=(out ** 2).mean()) if mode == 'loss' else [dict(out=x) for x in out]


class Distiller(Net):
    def __init__(self):
        super().__init__()
        self.student = nn.Linear(2, 2)


class Scores(BaseMetric):
    """Gives the scores it was told, one after the other."""

    def __init__(self, scores):
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(count=len(results), score=next(self.scores))


def make_runner(tmp_path, model=Net, epochs=3, scores=None, wrapper=OptimWrapper, val_interval=1, **hooks):
    def loader():
        return dict(dataset=Numbers(), sampler=dict(type=DefaultSampler, shuffle=False), batch_size=2)
    val = {} if scores is None else dict(val_dataloader=loader(), val_cfg=dict(type=ValLoop),
                                         val_evaluator=[Scores(scores)])
    hooks = dict(dict(checkpoint=CheckpointHook(), export=ExportHook(metric='score'), seed=SeedHook()), **hooks)
    return Runner(model(), str(tmp_path), loader(), train_cfg=dict(type=EpochBasedTrainLoop, max_epochs=epochs,
                                                                   val_interval=val_interval),
                  optim_wrapper=dict(type=wrapper, optimizer=dict(type=torch.optim.SGD, lr=0.1)), default_hooks=hooks,
                  log_processor=dict(type=LogProcessor), randomness=dict(seed=1), default_scope='mmengine',
                  experiment_name=tmp_path.name, **val)


def names(folder):
    return sorted(p.name for p in folder.glob('*.pth'))


# --- checkpoints ---
@pytest.mark.parametrize('keep, left', [(2, [4, 5]), (3, [3, 4, 5]), (-1, [1, 2, 3, 4, 5])])
def test_the_newest_checkpoints_stay(tmp_path, keep, left):
    make_runner(tmp_path, epochs=5, checkpoint=CheckpointHook(max_keep_ckpts=keep)).train()
    assert names(tmp_path) == [f'epoch_{n}.pth' for n in left] + ['model.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_5.pth')


def test_the_old_file_goes_after_the_new_one_is_there(tmp_path, monkeypatch):
    unlink, seen = type(tmp_path).unlink, []

    def watch(path, *args, **kwargs):
        if path.suffix == '.pth':
            seen.append((path.name, names(tmp_path)))
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(type(tmp_path), 'unlink', watch)
    make_runner(tmp_path, epochs=4).train()
    assert [name for name, _ in seen] == ['epoch_1.pth', 'epoch_2.pth']
    assert all(len([n for n in there if n.startswith('epoch')]) == 3 for _, there in seen)


def test_a_full_disk_stops_with_a_sentence_and_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if str(target).endswith('epoch_2.pth'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        replace(source, target)

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(CheckpointError, match='epoch_2.pth: writing failed .*No space left on device.*files written '
                                              'before are intact'):
        make_runner(tmp_path).train()
    assert names(tmp_path) == ['epoch_1.pth', 'model.pth']
    assert load_checkpoint(tmp_path / 'epoch_1.pth')['meta']['epoch'] == 1


@pytest.mark.parametrize('arguments, message', [
    (dict(max_keep_ckpts=1), 'max_keep_ckpts=1 came, expected 2 or more'),
    (dict(save_best='score'), "save_best='score' came, expected none"),
    (dict(published_keys='meta'), 'published_keys'), (dict(out_dir='x'), 'out_dir')])
def test_arguments_that_would_lose_something_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CheckpointHook(**arguments)


def test_checkpoints_are_plain_and_resume_gives_the_message_hub_back(tmp_path):
    first = make_runner(tmp_path, epochs=2, scores=[1.0, np.float64(3.0)])
    first.train()
    load_checkpoint(tmp_path / 'epoch_2.pth')  # would refuse anything else
    second = make_runner(tmp_path, epochs=3, scores=[2.0])
    second.resume(str(tmp_path / 'epoch_2.pth'))
    ours, theirs = second.message_hub, first.message_hub
    assert ours.get_info('best_score') == 3.0 and ours.get_info('best_epoch') == 2
    assert np.array_equal(ours.get_scalar('train/loss').data[0], theirs.get_scalar('train/loss').data[0])
    second.train()
    assert len(ours.get_scalar('train/loss').data[0]) == 6
    assert ours.get_info('best_score') == 3.0


def test_resuming_another_model_is_refused(tmp_path):
    make_runner(tmp_path, epochs=1).train()
    with pytest.raises(CheckpointError, match='2 missing .*student'):
        make_runner(tmp_path, model=Distiller).resume(str(tmp_path / 'epoch_1.pth'))


def test_resume_does_not_warn_of_a_data_set_that_is_the_same(tmp_path, caplog):
    make_runner(tmp_path, epochs=1).train()
    runner = make_runner(tmp_path, epochs=2)
    runner.logger.addHandler(caplog.handler)
    runner.resume(str(tmp_path / 'epoch_1.pth'))
    assert 'resumed epoch: 1' in caplog.text
    assert 'dataset metainfo' not in caplog.text


# --- export ---
@pytest.mark.parametrize('rule, scores, best', [
    ('greater', [1.0, 3.0, 2.0], 2), ('less', [3.0, 1.0, 2.0], 2), ('greater', [3.0, 3.0, 2.0], 1),
    ('greater', [float('nan'), 1.0, 0.5], 2), ('greater', [2.0, float('nan'), 1.0], 1)])
def test_model_pth_holds_the_best_epoch(tmp_path, rule, scores, best):
    runner = make_runner(tmp_path, scores=scores, export=ExportHook('score', rule),
                         checkpoint=CheckpointHook(max_keep_ckpts=-1))
    runner.train()
    exported = load_checkpoint(tmp_path / 'model.pth')
    for epoch in (1, 2, 3):
        state = load_checkpoint(tmp_path / f'epoch_{epoch}.pth')['state_dict']
        assert torch.equal(state['layer.weight'], exported['layer.weight']) == (epoch == best)
    assert runner.message_hub.get_info('best_epoch') == best


def test_without_validation_model_pth_holds_the_last_epoch(tmp_path):
    runner = make_runner(tmp_path)
    runner.train()
    assert torch.equal(load_checkpoint(tmp_path / 'model.pth')['layer.weight'], runner.model.layer.weight.cpu())


def test_a_distiller_leaves_its_student_under_plain_keys(tmp_path):
    runner = make_runner(tmp_path, model=Distiller, scores=[3.0, 2.0, 1.0])
    runner.train()
    for name in ('model.pth', 'student.pth'):
        assert load_checkpoint(tmp_path / name).keys() == {'weight', 'bias'}


def test_a_misspelt_metric_shows_the_right_one(tmp_path):
    with pytest.raises(ConfigError, match="metric 'scor' came.*Did you mean score"):
        make_runner(tmp_path, scores=[1.0], export=ExportHook('scor')).train()
    with pytest.raises(ConfigError, match="rule='more' came"):
        ExportHook(rule='more')


@pytest.mark.parametrize('metric, name', [('score', 'score'), (None, 'count')])
def test_the_worst_epoch_is_not_exported_as_the_best(tmp_path, monkeypatch, metric, name):
    monkeypatch.setattr(Scores, 'less_is_better', ('sc*', 'count'), raising=False)
    with pytest.raises(ConfigError, match=f"rule='greater' came for {name}, of which less is better.*rule=less"):
        make_runner(tmp_path / 'wrong', epochs=1, scores=[1.0], export=ExportHook(metric)).train()
    assert 'model.pth' not in names(tmp_path / 'wrong')
    make_runner(tmp_path / 'right', epochs=1, scores=[1.0], export=ExportHook(metric, 'less')).train()


def test_a_resumed_run_that_compares_otherwise_begins_anew(tmp_path):
    make_runner(tmp_path, epochs=1, scores=[0.9]).train()  # such as an F1
    runner = make_runner(tmp_path, epochs=3, scores=[5.0, 7.0], export=ExportHook('score', 'less'))
    runner._load_from, runner._resume = str(tmp_path / 'epoch_1.pth'), True
    runner.train()
    assert runner.message_hub.get_info('best_score') == 5.0 and runner.message_hub.get_info('best_epoch') == 2


def test_a_validation_alone_writes_nothing(tmp_path):
    make_runner(tmp_path, scores=[1.0]).val()
    assert names(tmp_path) == []


def test_a_sparse_validation_is_not_repeated_without_reason(tmp_path):
    make_runner(tmp_path, epochs=2, scores=[1.0], val_interval=2, checkpoint=CheckpointHook(max_keep_ckpts=-1)).train()
    for epoch, times in ((1, 1), (2, 0)):  # epoch 1 needs none itself, epoch 2 has had its own
        metric = Scores(iter([5.0, 6.0]))
        runner = make_runner(tmp_path, epochs=2, scores=[], val_interval=2)
        runner._val_evaluator = [metric]
        runner._load_from, runner._resume = str(tmp_path / f'epoch_{epoch}.pth'), True
        runner.train()
        assert len(list(metric.scores)) == 2 - times


# --- randomness, log ---
def test_random_numbers_depend_on_the_place_alone(tmp_path):
    class Draw(SeedHook):
        priority = 'LOWEST'
        draws = None

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.draws.append((torch.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
            torch.rand(batch_idx + 3)

    runs = []
    for folder in ('a', 'b'):
        hook = Draw()
        hook.draws = []
        torch.rand(len(runs) * 10)  # another past
        make_runner(tmp_path / folder, epochs=2, draw=hook).train()
        runs.append(hook.draws)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(runs[0]) == 4


def test_the_log_tells_sizes_and_memory(tmp_path, caplog):
    runner = make_runner(tmp_path, epochs=1, scores=[1.0], start=StartHook(), memory=MemoryHook())
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert 'training data: 4 samples (official: 1,000), Numbers, 0 workers' in caplog.text
    assert 'validation data: 4 samples' in caplog.text
    assert 'sparse convolution' not in caplog.text  # the net has none
    if not torch.cuda.is_available():
        assert 0 < runner.message_hub.get_scalar('train/memory_gb').current() < 1000


@pytest.mark.parametrize(('held_out', 'said'), [('de', []), ('bcd', ['2 of 3 samples of the validation'])])
def test_samples_that_are_trained_and_validated_with_are_named(held_out, said):
    class Named(str):
        path = str.__getitem__

    texts = []
    train, val = (SimpleNamespace(dataset=Named(names), num_workers=0) for names in ('abc', held_out))
    StartHook().before_train(SimpleNamespace(
        train_dataloader=train, val_dataloader=val, val_loop=0, model=nn.Identity(), cfg={},
        logger=SimpleNamespace(info=print, warning=texts.append)))
    assert len(texts) == len(said) and all(part in text for part, text in zip(said, texts))


def test_the_log_tells_what_computes_sparse_convolutions(tmp_path, caplog):
    class Sparse(Net):
        def __init__(self):
            super().__init__()
            self.conv = SubMConv3d(1, 1, 3)

    runner = make_runner(tmp_path, Sparse, epochs=1, scores=[1.0], start=StartHook())
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert 'sparse convolution by torch' in caplog.text


# --- mixed precision ---
@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason='no GPU here'))])
def test_bfloat16_is_used_in_the_step_and_weights_stay_float32(device, monkeypatch):
    monkeypatch.setattr('perception.common.amp.has_bfloat16', lambda: True)
    net = Net().to(device)
    wrapper = BFloat16OptimWrapper(optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    before = net.layer.weight.clone()
    with wrapper.optim_context(net):
        out = net.layer(torch.ones(3, 2, device=device))
        assert out.dtype == torch.bfloat16
        loss = (out.float() ** 2).mean()
    wrapper.update_params(loss)
    assert net.layer.weight.dtype == torch.float32 and not torch.equal(net.layer.weight, before)
    monkeypatch.setattr('perception.common.amp.has_bfloat16', lambda: False)
    if device == 'cpu':
        with pytest.raises(ConfigError, match='BFloat16OptimWrapper on a CPU without'), wrapper.optim_context(net):
            pass
