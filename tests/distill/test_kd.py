"""Soft labels against a slow implementation with loops, written here from the equation."""
import math

import numpy as np
import pytest
import torch

from perception.distill.kd import KDLoss, kl_divergence
from perception.utils.errors import ConfigError, DataError


def slow_kl(student, teacher, temperature):
    """T^2 KL(teacher || student) of one position."""
    p, q = ([math.exp(z / temperature) for z in logits] for logits in (teacher, student))
    p, q = ([x / sum(row) for x in row] for row in (p, q))
    return temperature ** 2 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q))


@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('temperature', [1., 4.])
def test_equals_the_equation(case, masked, temperature):
    loss = KDLoss('full', temperature=temperature, mask_ignored=masked, rows=case.rows)
    values = [slow_kl(s, t, temperature) for parts in
              zip(case.samples(case.student['logits']), case.samples(case.teacher['logits']), case.labels())
              for s, t, label in zip(*parts) if not (masked and label == 255)]
    value = loss(case.student, case.teacher, case.batch)
    assert value.item() == pytest.approx(np.mean(values), rel=1e-10)


def test_classes_may_weigh_differently(case):
    class_weights = [0.1, 1., 2., 0., 1.]
    terms = [(class_weights[int(label)], slow_kl(s, t, 4.)) for parts in
             zip(case.samples(case.student['logits']), case.samples(case.teacher['logits']), case.labels())
             for s, t, label in zip(*parts) if label != 255]
    value = KDLoss('full', rows=case.rows, class_weights=class_weights)(case.student, case.teacher, case.batch)
    assert value.item() == pytest.approx(sum(w * kl for w, kl in terms) / sum(w for w, _ in terms), rel=1e-10)
    even = KDLoss('full', rows=case.rows, class_weights=[3.] * 5)(case.student, case.teacher, case.batch)
    assert even.item() == pytest.approx(KDLoss('full', rows=case.rows)(case.student, case.teacher, case.batch).item())


def test_a_net_with_a_class_more_is_compared_in_those_of_both(case):
    more = case.map(lambda logits: torch.cat([logits, torch.ones_like(logits[:, :1])], 1), case.teacher)
    expected = KDLoss('full', rows=case.rows)(case.student, case.teacher, case.batch)
    assert KDLoss('full', rows=case.rows, classes=5)(case.student, more, case.batch).item() == expected.item()
    for classes in (None, 6):
        with pytest.raises(DataError, match='of the student against'):
            KDLoss('full', rows=case.rows, classes=classes)(case.student, more, case.batch)


def test_only_the_mask_reads_labels(make_case):
    case = make_case('map')
    del case.inputs['labels']
    assert KDLoss('full', mask_ignored=False)(case.student, case.teacher, case.batch) > 0
    with pytest.raises(DataError, match="the batch has no 'labels'"):
        KDLoss('full')(case.student, case.teacher, case.batch)


def test_the_temperature_leaves_the_size_of_gradients():
    z, target = torch.randn(1, 5, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    z, target = z - z.mean(), target - target.mean()  # then for large T: (z_S - z_T) / C
    x = z.clone().requires_grad_()
    kl_divergence(x, target, 1000.).sum().backward()
    assert torch.allclose(x.grad, (z - target) / 5, rtol=1e-2)


def test_a_teacher_at_half_the_size_is_enlarged(make_case):
    case = make_case('map')
    small = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    large = torch.nn.functional.interpolate(small, (5, 7), mode='bilinear')
    loss = KDLoss('full')
    assert torch.equal(loss(case.student, dict(logits=small), case.batch),
                       loss(case.student, dict(logits=large), case.batch))


def test_the_name_of_the_tap_is_an_argument(make_case):
    case, loss = make_case('voxels'), KDLoss('full', logits='voxel_logits', rows='voxels')
    assert loss.taps == ('voxel_logits',)
    renamed = [dict(voxel_logits=x['logits']) for x in (case.student, case.teacher)]
    expected = KDLoss('full', rows='voxels')(case.student, case.teacher, case.batch)
    assert loss(*renamed, case.batch) == expected


def test_bad_input_is_refused(make_case):
    case = make_case('points')
    with pytest.raises(DataError, match=r"tap 'logits': shape \(60, 5\).*against \(60, 4\).*positions and channels"):
        KDLoss('full')(case.student, dict(logits=case.teacher['logits'][:, 1:]), case.batch)
    voxels = {tap: x[:50] for tap, x in case.student.items()}
    with pytest.raises(DataError, match=r"'labels' of shape \(60,\) for an output of shape \(50, 5\).*Set rows"):
        KDLoss('full')(voxels, voxels, case.batch)
    with pytest.raises(ConfigError, match='KDLoss: temperature=0, expected a number above 0'):
        KDLoss('full', temperature=0)
    with pytest.raises(ConfigError, match='class_weights=.*mask_ignored=False.*Set mask_ignored=True'):
        KDLoss('full', mask_ignored=False, class_weights=[1.] * 5)
    for class_weights in ([], [0., 0.], [1., -1.]):
        with pytest.raises(ConfigError, match='expected weights of 0 or more, one of them above 0'):
            KDLoss('full', class_weights=class_weights)
    with pytest.raises(ConfigError, match='4 class_weights for 5 classes'):
        KDLoss('full', class_weights=[1.] * 4)(case.student, case.teacher, case.batch)
