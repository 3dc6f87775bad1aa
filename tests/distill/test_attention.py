"""Attention transfer against a slow implementation, written here from the equations."""
import numpy as np
import pytest
import torch

from perception.distill.attention import AttentionTransferLoss, activation_map, normalise
from perception.utils.errors import ConfigError


@pytest.mark.parametrize('power', [1., 2., 4.])
def test_equals_the_equation(case, power):
    terms = AttentionTransferLoss('full', ('feats', 'deep'), power, case.rows)(case.student, case.teacher, case.batch)
    assert list(terms) == ['feats', 'deep']
    for tap, value in terms.items():
        distances = []
        for s, t in zip(case.samples(case.student[tap]), case.samples(case.teacher[tap])):
            s, t = ([sum(abs(v) ** power for v in row) for row in x] for x in (s, t))
            s, t = (np.array(x) / np.sqrt(sum(q ** 2 for q in x)) for x in (s, t))
            distances.append(((s - t) ** 2).sum() / 2)
        assert value.item() == pytest.approx(np.mean(distances), rel=1e-10)


def test_is_blind_to_the_scale_of_either_net(case):
    loss = AttentionTransferLoss('full', ('feats',), rows=case.rows)
    value = loss(case.student, case.teacher, case.batch)['feats']
    scaled = loss(case.map(lambda x: 7 * x, case.student), case.map(lambda x: x / 3, case.teacher), case.batch)['feats']
    assert scaled.item() == pytest.approx(value.item(), rel=1e-10)


def test_a_teacher_of_another_size_is_resized_after_pooling_its_channels():
    student, teacher = torch.randn(2, 4, 6, 8), torch.randn(2, 5, 3, 4)
    value = AttentionTransferLoss('full', ('x',))(dict(x=student), dict(x=teacher), dict(inputs={}))['x']
    resized = torch.nn.functional.interpolate(activation_map(teacher), (6, 8), mode='bilinear').flatten(1)
    ours = activation_map(student).flatten(1)
    gap = ours / ours.norm(dim=1, keepdim=True) - resized / resized.norm(dim=1, keepdim=True)
    assert value.item() == pytest.approx(gap.square().sum(1).mean().item() / 2, rel=1e-5)


def test_normalised_maps_have_unit_sum_or_norm():
    maps = torch.rand(3, 20, 1)
    assert torch.allclose(normalise(maps).sum(1), torch.ones(3, 1))
    assert torch.allclose(normalise(maps, 'mean_softmax').sum(1), torch.ones(3, 1))
    assert torch.allclose(normalise(maps, 'l2').square().sum(1), torch.ones(3, 1))
    assert normalise(maps, temperature=100.).std() < 0.1 * normalise(maps).std()


@pytest.mark.parametrize('feats', ['stage3', ()])
def test_taps_are_a_tuple(feats):
    with pytest.raises(ConfigError, match='expected a tuple of taps'):
        AttentionTransferLoss('full', feats)
    with pytest.raises(ConfigError, match='power=0'):
        AttentionTransferLoss('full', power=0)
