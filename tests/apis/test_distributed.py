"""Two processes over gloo do what one process does on their samples."""
from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate

import perception.apis.test
from perception.apis.config import load_config
from perception.common.hooks.seed import SeedHook
from perception.common.samplers import EpochSampler
from perception.utils.checkpoint import load_checkpoint

HERE = Path(__file__).parent
SEED, BATCH = 0, 4  # as in the toy config and the runtime


@pytest.fixture(scope='module')
def two(run, tmp_path_factory):
    """A training and a test by two processes; the folder with what each of them noted."""
    folder = tmp_path_factory.mktemp('two')
    done = run('-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone', HERE / 'two_processes.py', folder,
               cwd=folder, PERCEPTION_DATA=str(folder / 'data'), CUDA_VISIBLE_DEVICES='')
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def notes(two):
    return [torch.load(two / f'notes_{rank}.pth') for rank in (0, 1)]


def one_process_step(toy, config, note, rank):
    """Loss and gradients of one process on the samples of a rank, from the same weights and random state."""
    dataset = toy.ToyDataset(**{k: v for k, v in config.train_dataloader.dataset.items() if k != 'type'})
    sampler = EpochSampler(dataset, seed=SEED)
    sampler.rank, sampler.world_size = rank, 2
    batch = pseudo_collate([dataset[item] for item in list(sampler)[:BATCH]])
    model = toy.ToyModel(width=config.model.width)
    model.load_state_dict(note['before'])
    model.train()
    SeedHook._reseed(type('Place', (), dict(seed=SEED, _randomness_cfg={}))(), 0, 0, 0)
    loss = model(**model.data_preprocessor(batch, True), mode='loss')['loss_ce']
    loss.backward()
    return [s.sample_id for s in batch['data_samples']], loss, [p.grad for p in model.parameters()]


def test_each_process_has_the_loss_of_one_process_on_its_samples(toy, toy_config, notes):
    cfg = load_config(toy_config, mini=True)
    for rank, note in enumerate(notes):
        ids, loss, _ = one_process_step(toy, cfg, note, rank)
        assert note['ids'] == ids
        torch.testing.assert_close(note['loss'], loss.detach(), rtol=1e-6, atol=1e-6)
    assert not set(notes[0]['ids']) & set(notes[1]['ids'])
    assert notes[0]['loss'] != notes[1]['loss']


def test_after_a_step_both_hold_equal_weights_made_from_the_mean_gradient(toy, toy_config, notes):
    cfg = load_config(toy_config, mini=True)
    parameters = [name for name, _ in toy.ToyModel(width=8).named_parameters()]
    for when in ('before', 'after', 'last'):
        for name in parameters:
            assert torch.equal(notes[0][when][name], notes[1][when][name]), (when, name)
    grads = [one_process_step(toy, cfg, note, rank)[2] for rank, note in enumerate(notes)]
    for ours, first, second in zip(notes[0]['grads'], *grads):
        torch.testing.assert_close(ours, (first + second) / 2, rtol=1e-5, atol=1e-7)
    model = toy.ToyModel(width=8)
    model.load_state_dict(notes[0]['before'])
    for parameter, mean in zip(model.parameters(), notes[0]['grads']):
        parameter.grad = mean  # to the bit: Adam makes a whole step of the rounding error of a gradient that is zero
    torch.optim.Adam(model.parameters(), lr=0.01).step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(notes[0]['after'][name], parameter.data, rtol=1e-5, atol=1e-4)


def test_batch_statistics_stay_with_their_process(notes):
    assert not torch.equal(notes[0]['after']['backbone.1.running_mean'], notes[1]['after']['backbone.1.running_mean'])


def test_a_test_by_two_processes_gives_the_metric_of_one(two, notes, toy, toy_config, tmp_path, monkeypatch):
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path))
    one = perception.apis.test.test(toy_config, two / 'model.pth', mini=True, options=dict(work_dir=str(tmp_path)))
    assert one['toy/count'] == 11
    assert notes[0]['results'] == notes[1]['results'] == one


def test_a_file_of_predictions_is_scored_by_two_processes(notes, toy):
    ones = int((toy.ToyDataset(size=11, seed=4).labels == 1).sum())
    assert notes[0]['stored'] == notes[1]['stored'] == {'toy/accuracy': 100 * ones / 11, 'toy/count': 11}


def test_one_process_alone_writes_files(two):
    assert not list(two.rglob('.collect')) and not list(two.rglob('.dist_test'))
    assert (two / 'data/mini/toy/calls.txt').read_text() == '3\n3\n'  # once by the training, once by the test
    assert sorted(p.name for p in two.glob('*.pth') if 'notes' not in p.name) == [
        'epoch_1.pth', 'epoch_2.pth', 'model.pth']
    assert load_checkpoint(two / 'epoch_2.pth')['meta']['epoch'] == 2


# --- faults of one process ---
def with_fault(run, folder, fault):
    """Two processes, of which the second meets a fault in its eighth step."""
    return run('-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone', HERE / 'faulty_processes.py',
               folder, fault, cwd=folder, CUDA_VISIBLE_DEVICES='')


def test_a_process_that_is_killed_ends_the_run_with_a_sentence(run, tmp_path):
    done = with_fault(run, tmp_path, 'kill')
    assert done.returncode != 0
    # whichever is first to see the end, torchrun, which then stops the other process, or that one itself
    said = [line for line in done.stderr.splitlines()
            if 'another process of this run ended' in line or 'Stopped by SIGTERM' in line]
    assert len(said) == 1 and '[/' not in said[0], done.stderr
    assert 'RuntimeError' not in done.stderr
    assert load_checkpoint(tmp_path / 'epoch_2.pth')['meta']['iter'] == 6


def test_all_processes_skip_a_step_alike_and_have_the_buffers_that_are_saved(run, tmp_path, assert_same):
    (tmp_path / 'allow').touch()
    done = with_fault(run, tmp_path, 'nan')
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'epoch 3, iteration 8: loss_extra is nan; this step is skipped, 1 of 1 allowed' in done.stdout
    first, second = (torch.load(tmp_path / f'buffers_{rank}.pth') for rank in (0, 1))
    assert len(first) == 6  # of three epochs, after the training and in the validation
    assert_same(first, second)
    saved = load_checkpoint(tmp_path / 'epoch_3.pth')['state_dict']
    assert first[-1] and all(torch.equal(value, saved[name]) for name, value in first[-1].items())
