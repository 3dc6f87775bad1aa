"""Knowledge adaptation against a slow implementation, written here from the equations."""
import numpy as np
import pytest
import torch

from perception.distill.ka import KALoss
from perception.utils.errors import ConfigError


def make(case, **options):
    torch.manual_seed(0)
    return KALoss('full', (6, 9), rows=case.rows, **dict(dict(code=4), **options)).double()


def slow_terms(loss, student, teacher):
    """The three terms of one sample without weights."""
    weights = {name: value.detach().numpy() for name, value in loss.named_parameters()}

    def linear(x, name):
        return weights[f'{name}.weight'] @ x + weights[f'{name}.bias']

    def unit(x):
        return x / np.linalg.norm(x) if np.linalg.norm(x) > 0 else x
    codes = [np.maximum(linear(t, 'encoder.0'), 0) for t in teacher]
    rebuilt = np.mean([np.mean((linear(e, 'decoder') - t) ** 2) for e, t in zip(codes, teacher)])
    sparse = np.mean([np.abs(e).sum() for e in codes])
    adapt = np.mean([((unit(linear(s, 'adapter')) - unit(e)) ** 2).sum() for s, e in zip(student, codes)])
    affinity = np.mean([(unit(student[i]) @ unit(student[j]) - unit(codes[i]) @ unit(codes[j])) ** 2
                        for i in range(len(student)) for j in range(len(student))])
    return rebuilt + loss.sparsity * sparse, adapt, affinity


def test_equals_the_equations(case):
    loss = make(case, adapt_weight=2., affinity_weight=3., sparsity=0.1)
    terms = loss(case.student, case.teacher, case.batch)
    expected = np.mean([slow_terms(loss, s, t) for s, t in
                        zip(case.samples(case.student['feats']), case.samples(case.teacher['feats']))], 0)
    assert list(terms) == ['autoencoder', 'adapt', 'affinity']
    for value, reference in zip(terms.values(), expected * (1, 2, 3)):
        assert value.item() == pytest.approx(reference, rel=1e-10)


def test_each_part_learns_from_its_own_terms(make_case):
    case = make_case('map')
    loss, student = make(case), case.map(lambda x: x.requires_grad_(), case.student)
    terms = loss(student, case.teacher, case.batch)
    terms['autoencoder'].backward(retain_graph=True)
    assert student['feats'].grad is None
    assert loss.adapter.weight.grad is None
    encoder = loss.encoder[0].weight.grad.clone()
    assert encoder.abs().sum() > 0
    (terms['adapt'] + terms['affinity']).backward()
    assert torch.equal(loss.encoder[0].weight.grad, encoder)
    assert student['feats'].grad.abs().sum() > 0
    assert loss.adapter.weight.grad.abs().sum() > 0


def test_the_autoencoder_learns_alone_at_first(make_case):
    case = make_case('points')
    loss = make(case, warmup=3, begin=5)
    for iteration, teaches in ((5, False), (7, False), (8, True)):
        terms = loss(case.student, case.teacher, dict(case.batch, iteration=iteration))
        assert terms['autoencoder'] > 0
        assert (terms['adapt'] > 0) == (terms['affinity'] > 0) == teaches


def test_the_autoencoder_finds_a_code(make_case):
    case = make_case('points')
    plane = torch.randn(60, 4).double().abs() @ torch.randn(4, 9).double()
    loss = make(case, code=8)
    optimiser, values = torch.optim.Adam(loss.parameters(), lr=1e-2), []
    for _ in range(150):
        terms = loss(case.student, dict(feats=plane), case.batch)
        values.append(terms['autoencoder'].item())
        optimiser.zero_grad()
        terms['autoencoder'].backward()
        optimiser.step()
    assert values[-1] < 0.1 * values[0]


def test_a_subset_of_positions_stands_for_all(make_case):
    case = make_case('map')
    full, few = (make(case, num_positions=n) for n in (35, 10))
    expected = full(case.student, case.teacher, case.batch)['affinity'].item()
    drawn = [few(case.student, case.teacher, case.batch)['affinity'].item() for _ in range(200)]
    assert np.std(drawn) > 0
    pairs = np.mean(drawn) / (1 - 1 / 10) * (1 - 1 / 35)  # the diagonal adds nothing
    assert pairs == pytest.approx(expected, rel=0.05)


def test_the_code_is_a_quarter_of_the_teachers_channels(make_case):
    assert KALoss('full', (6, 40)).adapter.out_features == 10
    assert KALoss('full', (6, 3)).adapter.out_features == 1
    for options in (dict(code=0), dict(channels=(0, 3)), dict(num_positions=0), dict(warmup=-1)):
        name = next(iter(options))
        with pytest.raises(ConfigError, match=f'KALoss: {name}=.*expected (a number above|at least) 0'):
            KALoss('full', **dict(dict(channels=(6, 9)), **options))


def test_features_of_other_channels_are_refused(make_case):
    case = make_case('points')
    with pytest.raises(ConfigError, match=r'KALoss: features of 6 \(student\) and 9 .*Set channels=\(6, 9\)'):
        KALoss('full', (6, 12))(case.student, case.teacher, case.batch)
