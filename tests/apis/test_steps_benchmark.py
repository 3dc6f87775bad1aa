"""What a training step costs, on nets and samples that take no time."""
import argparse

import pytest
import torch

from perception.apis.benchmarks import steps
from perception.apis.listing import add_options
from perception.distill.base import DistillLoss
from perception.distill.distiller import Distiller
from perception.distill.teachers import EMATeacher
from perception.utils.errors import ConfigError


def arguments(*words):
    parser = add_options(argparse.ArgumentParser(), steps.OPTIONS)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def late(toy, toy_config, monkeypatch):
    """A config beside the toy's whose loss has a short time of its own; iterations at which it was asked."""
    asked, load = [], steps.load_config

    class LateLoss(DistillLoss):
        taps = ('hidden',)

        def forward(self, student, teacher, batch):
            asked.append(batch['iteration'])
            return student['hidden'].square().mean()

    def config(path, mini=False, options=None):
        cfg = load(toy_config, mini, options)
        if path.endswith('late.py'):
            loss = dict(type=LateLoss, teacher='student', begin=5, end=6)
            cfg.model = dict(type=Distiller, student=cfg.model, taps=dict(hidden='backbone'), losses=dict(late=loss),
                             teachers=dict(mean=dict(type=EMATeacher, model=cfg.model, taps={})))
        return cfg

    monkeypatch.setattr(steps, 'load_config', config)
    monkeypatch.setattr(steps.cost, 'config_name', str)
    return asked


def test_a_step_with_a_loss_that_begins_late(late, toy, monkeypatch):
    seen, nets, step = {}, [], toy.ToyModel.forward

    def forward(self, inputs, *args, **kwargs):
        seen.setdefault(id(self), []).append(torch.stack(list(inputs)))
        nets.append(self)
        return step(self, inputs, *args, **kwargs)

    monkeypatch.setattr(toy.ToyModel, 'forward', forward)
    rows = steps.run(arguments('toy.py', 'late.py', 'toy.py', '--batch', 2, '--rounds', 3))
    assert [(row['config'], row['batch']) for row in rows] == [('toy.py', 2), ('late.py', 2)]
    assert rows[0]['ratio'] == 1 and rows[1]['ratio'] == rows[1]['step_ms'] / rows[0]['step_ms'] > 0
    assert late == [5, 6, 7, 8]  # one step before the three that count
    alone, taught = seen.values()
    assert all(torch.equal(a, b) for a, b in zip(alone, taught)) and not torch.equal(alone[0], alone[1])
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters()))


def test_numbers_below_one_are_refused():
    with pytest.raises(ConfigError, match='batch=0'):
        steps.run(arguments('toy.py', '--batch', 0))


def test_a_batch_that_the_data_do_not_fill(late):
    with pytest.raises(ConfigError, match=r'steps: \d+ samples, expected a whole batch of 500.*Lower --batch'):
        steps.run(arguments('toy.py', '--batch', 500, '--rounds', 1, '--cfg-options',
                            'train_dataloader.drop_last=True'))
