import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from perception.common.hooks.teacher_score import TeacherScoreHook
from perception.utils.errors import ConfigError


class Answer(BaseModel):
    """Predicts one value for every sample."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.calls = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.calls.append((mode, torch.is_grad_enabled(), len(inputs)))
        return [self.value + 0 * x for x in inputs]


class Exact(BaseMetric):
    """Share of samples whose prediction is the sample itself."""

    def process(self, data_batch, data_samples):
        self.results += [float(p == x) for p, x in zip(data_samples, data_batch['inputs'])]

    def compute_metrics(self, results):
        return dict(exact=sum(results) / len(results), size=len(results))


class Model(BaseModel):
    def __init__(self, teacher):
        super().__init__()
        self.teachers = nn.ModuleDict(dict(full=nn.Module()))
        self.teachers['full'].model = teacher

    def forward(self, inputs, data_samples=None, mode='tensor'):
        raise NotImplementedError('the student has no part in this')


def collate(samples):
    return dict(inputs=[torch.tensor(float(s)) for s in samples], data_samples=None)


@pytest.fixture
def runner():
    teacher = Answer(1.)
    return SimpleNamespace(model=Model(teacher), teacher=teacher, iter=0, rank=0, world_size=1,
                           val_dataloader=DataLoader([1, 0, 1, 1, 0, 0, 0], 2, collate_fn=collate),
                           val_loop=SimpleNamespace(evaluator=Evaluator([Exact()]), fp16=False),
                           logger=logging.getLogger('teacher score'))


def test_logs_the_score_on_the_first_samples_and_draws_no_random_number(runner, caplog):
    before = torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        TeacherScoreHook(num_samples=4).before_train(runner)
    assert caplog.messages[-1] == "Teacher 'full': exact 0.7500 on the first 4 of 7 validation samples"
    assert torch.equal(before, torch.get_rng_state())
    assert runner.teacher.calls == [('predict', False, 2)] * 2


def test_teachers_without_a_net_have_no_score(runner, caplog):
    runner.model.teachers['flow'] = nn.Module()
    with caplog.at_level('INFO'):
        TeacherScoreHook(num_samples=4).before_train(runner)
    assert "Teacher 'full'" in caplog.text and 'flow' not in caplog.text


def test_fewer_samples_than_wanted_and_another_metric(runner, caplog):
    with caplog.at_level(logging.INFO):
        TeacherScoreHook(metric='size').before_train(runner)
    assert caplog.messages[-1] == "Teacher 'full': size 7.0000 on the first 7 of 7 validation samples"


@pytest.mark.parametrize('change', [dict(iter=5), dict(val_loop=None), dict(model=Answer(0.))], ids=str)
def test_stays_silent_when_resumed_or_without_validation_or_teachers(runner, change, caplog):
    for name, value in change.items():
        setattr(runner, name, value)
    with caplog.at_level(logging.INFO):
        TeacherScoreHook().before_train(runner)
    assert caplog.messages == []


def test_can_be_switched_off(runner):
    TeacherScoreHook(num_samples=0).before_train(runner)
    assert runner.teacher.calls == []


def test_bad_arguments(runner):
    with pytest.raises(ConfigError, match='num_samples=-1 came, expected 0 or more'):
        TeacherScoreHook(num_samples=-1)
    with pytest.raises(ConfigError, match="metric 'miou' came, expected one of exact, size"):
        TeacherScoreHook(metric='miou').before_train(runner)
