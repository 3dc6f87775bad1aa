"""CRCKD trained by its config: resumed bit for bit, on other data, scored by one or two processes alike."""
from pathlib import Path

import pytest
import torch

from perception.apis.config import load_config
from perception.apis.runner import Runner
from perception.common.hooks.start import StartHook
from perception.common.hooks.training_set import TrainingSetHook
from perception.utils.errors import CheckpointError

OPTIONS = {
    'model.student.growth': 4, 'model.student.blocks': (2, 2, 2), 'model.student.feature_dim': 12,
    'model.teachers.mean.model.growth': 4, 'model.teachers.mean.model.blocks': (2, 2, 2),
    'model.teachers.mean.model.feature_dim': 12, 'model.losses.crckd.channels': 12, 'model.losses.crckd.crp_begin': 2,
    'model.losses.mt.begin': 1, 'model.losses.mt.epoch': 2, 'train_dataloader.batch_size': 20,
    'train_cfg.max_epochs': 3, 'train_cfg.val_interval': 1, 'default_hooks.checkpoint.max_keep_ckpts': -1}


def build(root: Path, folder: Path, **options) -> Runner:
    cfg = load_config(root / 'configs/crckd/densenet121_aptos.py', mini=True, options=OPTIONS)
    for scheduler, end in zip(cfg.param_scheduler, (3, 1, 3)):
        scheduler.update(dict(total_steps=3) if 'total_steps' in scheduler else dict(end=end, T_max=1 + (end == 3)))
    cfg.param_scheduler[2].begin = 1
    for key, value in options.items():
        cfg.merge_from_dict({key.replace('__', '.'): value})
    cfg.work_dir = str(folder)
    return Runner.from_cfg(cfg)


@pytest.fixture(scope='module')
def whole(root, mini_set, tmp_path_factory):
    """A training of three epochs; its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PERCEPTION_DATA', str(mini_set('aptos').parents[1]))
        folder = tmp_path_factory.mktemp('whole')
        build(root, folder).train()
        yield folder


def test_a_resumed_training_ends_with_the_same_weights_and_memories(root, whole, tmp_path):
    build(root, tmp_path, resume=True, load_from=str(whole / 'epoch_1.pth')).train()
    one, two = (torch.load(folder / 'epoch_3.pth', weights_only=True)['state_dict'] for folder in (whole, tmp_path))
    assert set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)
    assert len(one['losses.crckd.memory_s']) == 48 and one['losses.crckd.scales'].min() > 0
    assert int(one['iteration']) == 9 and int(one['teachers.mean.updates']) == 8
    assert (whole / 'model.pth').is_file() and (whole / 'student.pth').is_file()
    assert 'features.conv0.weight' in torch.load(whole / 'model.pth', weights_only=True)
    text = next(whole.rglob('*.log')).read_text()
    assert 'mean of the last 3 validations: kappa' in text


def test_samples_that_are_trained_and_validated_with_and_other_epochs_are_named(root, mini_set, tmp_path, monkeypatch):
    monkeypatch.setenv('PERCEPTION_DATA', str(mini_set('aptos').parents[1]))
    runner, said = build(root, tmp_path, train_dataloader__batch_size=8, val_dataloader__dataset__fold=1), []
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    _ = runner.train_loop, runner.val_loop
    TrainingSetHook().before_run(runner)
    StartHook().before_train(runner)
    assert 'model.losses.mt.epoch=2 in a training with 6 iterations an epoch' in said[0]
    assert '12 of 12 samples of the validation are trained with too' in said[1] and 'the same fold' in said[1]
    assert len(said) == 2
    runner = build(root, tmp_path, train_dataloader__batch_size=24)
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    _ = runner.train_loop, runner.val_loop
    TrainingSetHook().before_run(runner)
    StartHook().before_train(runner)
    assert len(said) == 3 and 'losses.mt teaches in full from iteration 12 on' in said[2] and 'training at 6' in said[2]


def test_another_fold_does_not_take_these_memories(root, whole, tmp_path):
    with pytest.raises(CheckpointError, match=r'epoch_1.pth: memories of 48 training samples.*load_from='):
        build(root, tmp_path, resume=True, load_from=str(whole / 'epoch_1.pth'),
              train_dataloader__dataset__fold=1).train()


def test_the_schedule_is_that_of_torch():
    from mmengine.optim import CosineAnnealingMomentum, OneCycleLR
    parameter = torch.nn.Parameter(torch.zeros(1))
    ours, theirs = (torch.optim.Adam([parameter], lr, betas=(0.95, 0.999)) for lr in (1.2e-5, 3e-4))
    steps = 100
    schedulers = [OneCycleLR(ours, 3e-4, total_steps=steps, pct_start=0.3, by_epoch=False),
                  CosineAnnealingMomentum(ours, eta_min=0.85, begin=0, end=30, T_max=30, by_epoch=False),
                  CosineAnnealingMomentum(ours, eta_min=0.95, begin=30, end=100, T_max=70, by_epoch=False)]
    reference = torch.optim.lr_scheduler.OneCycleLR(theirs, 3e-4, total_steps=steps, pct_start=0.3)
    for step in range(steps - 1):
        assert ours.param_groups[0]['lr'] == pytest.approx(theirs.param_groups[0]['lr'], rel=1e-6), step
        assert ours.param_groups[0]['betas'][0] == pytest.approx(theirs.param_groups[0]['betas'][0], abs=5e-3), step
        ours.step()
        theirs.step()
        for scheduler in schedulers:
            scheduler.step()
        reference.step()
