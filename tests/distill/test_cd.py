"""Channel-wise distillation against a slow implementation, written here from the equations."""
import numpy as np
import pytest
import torch

from perception.distill.cd import CDLoss
from perception.utils.errors import ConfigError, DataError


def slow_cd(student, teacher, temperature):
    """(P, C) of one sample."""
    total = 0.
    for c in range(student.shape[1]):
        p, q = (np.exp(x[:, c] / temperature) / np.exp(x[:, c] / temperature).sum() for x in (teacher, student))
        total += sum(p[i] * np.log(p[i] / q[i]) for i in range(len(p)))
    return temperature ** 2 * total / student.shape[1]


@pytest.mark.parametrize('temperature', [1., 4.])
def test_equals_the_equation(case, temperature):
    value = CDLoss('full', temperature=temperature, rows=case.rows)(case.student, case.teacher, case.batch)
    expected = [slow_cd(s, t, temperature) for s, t in
                zip(case.samples(case.student['logits']), case.samples(case.teacher['logits']))]
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-10)


def test_only_labelled_positions_are_taught_if_told(case):
    loss = CDLoss('full', mask_ignored=True, rows=case.rows)
    keep = [labels != 255 for labels in case.labels()]
    assert not all(k.all() for k in keep)
    expected = [slow_cd(s[k], t[k], 4.) for s, t, k in
                zip(case.samples(case.student['logits']), case.samples(case.teacher['logits']), keep)]
    student = case.map(lambda x: x.requires_grad_(), case.student)
    value = loss(student, case.teacher, case.batch)
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-10)
    value.backward()
    grads = case.samples(case.wrap(getattr(student['logits'], 'feats', student['logits']).grad))
    assert all((grad[~k] == 0).all() and (grad[k] != 0).any() for grad, k in zip(grads, keep))


def test_a_sample_without_labels_counts_zero(make_case):
    case = make_case('map')
    whole = CDLoss('full', mask_ignored=True)(case.student, case.teacher, case.batch)
    first = slow_cd(*(case.samples(x['logits'])[0][case.labels()[0] != 255] for x in (case.student, case.teacher)), 4.)
    case.inputs['labels'][1] = 255
    value = CDLoss('full', mask_ignored=True)(case.student, case.teacher, case.batch)
    assert value.item() == pytest.approx(first / 2, rel=1e-10)
    assert value < whole
    case.inputs['labels'][0] = 255
    assert CDLoss('full', mask_ignored=True)(case.student, case.teacher, case.batch) == 0


def test_an_adapter_gives_the_teachers_channels(case):
    loss = CDLoss('full', 'feats', channels=(6, 9), rows=case.rows).double()
    value = loss(case.student, case.teacher, case.batch)
    weight = loss.adapter.weight.detach().numpy()
    expected = [slow_cd(s @ weight.T, t, 4.) for s, t in
                zip(case.samples(case.student['feats']), case.samples(case.teacher['feats']))]
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-10)
    value.backward()
    assert loss.adapter.weight.grad.abs().sum() > 0


def test_an_added_constant_changes_no_channel(case):
    loss = CDLoss('full', rows=case.rows)
    shifted = case.map(lambda x: x + torch.arange(x.shape[1]).view(-1, *[1] * (x.ndim - 2)), case.student)
    assert loss(shifted, case.teacher, case.batch).item() == pytest.approx(
        loss(case.student, case.teacher, case.batch).item(), rel=1e-10)


def test_bad_input_is_refused(make_case):
    case = make_case('map')
    with pytest.raises(DataError, match="tap 'feats': .*same positions and channels"):
        CDLoss('full', 'feats')(case.student, case.teacher, case.batch)
    with pytest.raises(ConfigError, match='CDLoss: temperature=-1'):
        CDLoss('full', temperature=-1)
    for channels in ((6, 8), (5, 9)):
        with pytest.raises(ConfigError, match=r'CDLoss: features of 6 \(student\) and 9 .*Set channels=\(6, 9\)'):
            CDLoss('full', 'feats', channels=channels)(case.student, case.teacher, case.batch)
