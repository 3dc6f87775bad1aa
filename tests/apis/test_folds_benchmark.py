"""Cross-validation by one command, with trainings that are made up."""
import argparse
from pathlib import Path

import pytest
import torch

from perception.apis.benchmarks import folds
from perception.utils.errors import ConfigError

CONFIG = 'configs/crckd/densenet121_aptos.py'


def arguments(work_dir, **values):
    return argparse.Namespace(**dict(dict(config=CONFIG, mini=True, folds='0,1,2,3,4', last=3, jobs=1, cfg_options=[],
                                          report_only=False, work_dir=str(work_dir)), **values))


@pytest.fixture
def trained(monkeypatch):
    """Trainings whose kappa is 0.1 of the fold after some worse epochs; those that ran, in order."""
    ran = []

    def train(jobs, side_by_side, after_each):
        for job in jobs:
            ran.append(job)
            job.work_dir.mkdir()
            kappa = torch.tensor([-9.0] * 5 + [job.seed / 10 - .1, job.seed / 10, job.seed / 10 + .1])
            scalars = {'val/kappa': (kappa, 0), 'val/F1': (torch.tensor([0, 1, float('nan'), 1]), 0),
                       'train/loss': (kappa, 0), 'val/time': (kappa, 0)}
            torch.save(dict(message_hub=dict(log_scalars=scalars)), job.work_dir / 'epoch_8.pth')
    monkeypatch.setattr(folds, 'train_jobs', train)
    monkeypatch.setattr(folds, 'read_run', lambda job: dict(scores=[0.0] * 8) if job.work_dir.is_dir() else None)
    monkeypatch.setattr(folds, 'newest_checkpoint', lambda folder: (folder / 'epoch_8.pth', []))
    return ran


def test_means_of_the_last_validations_then_over_folds(trained, tmp_path):
    report = folds.run(arguments(tmp_path))
    assert [job.seed for job in trained] == [0, 1, 2, 3, 4]
    assert 'val_dataloader.dataset.fold=3' in trained[3].command and '--mini' in trained[3].command
    assert report['folds'][4] == pytest.approx(dict(kappa=.4, F1=1))
    assert report['scores']['kappa'] == pytest.approx((.2, .158114), abs=1e-5)
    text = (tmp_path / 'report.md').read_text()
    assert '| fold 2 | 0.2000 | 1.0000 |' in text and '| all | 0.2000 ± 0.1581 |' in text
    folds.run(arguments(tmp_path))
    assert len(trained) == 5, 'finished folds are kept'
    assert folds.run(arguments(tmp_path, last=10))['last'] == 8, 'as many as there were'
    assert 'its last 8 validations' in (tmp_path / 'report.md').read_text()


def test_some_folds_at_full_scale(trained, tmp_path):
    report = folds.run(arguments(tmp_path, folds='3,1', mini=False))
    assert list(report['folds']) == [1, 3] and '--mini' not in trained[0].command
    report = folds.run(arguments(tmp_path, mini=False, report_only=True))
    assert len(trained) == 2 and report['planned'] == 5
    with pytest.raises(ConfigError, match='mini=False'):
        folds.run(arguments(tmp_path))


@pytest.mark.parametrize(('values', 'match'), [
    (dict(folds='0,x'), "'0,x'"), (dict(folds='0,7'), r'7 came, expected 0\.\.4 of'), (dict(last=0), 'last=0'),
    (dict(report_only=True), 'no fold of 0,1,2,3,4 is finished'),
    (dict(config='configs/lanes/enet_culane.py'), 'train_dataloader.dataset has no fold')])
def test_what_has_no_folds_is_said(values, match, tmp_path):
    with pytest.raises(ConfigError, match=match):
        folds.run(arguments(tmp_path, **values))


def test_its_place_follows_from_the_config(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(folds, 'from_root', lambda path: tmp_path / Path(path).name)
    folds.run(arguments('', folds='0'))
    assert (tmp_path / 'crckd_densenet121_aptos_mini/report.json').is_file()
