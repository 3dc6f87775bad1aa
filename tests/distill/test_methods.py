"""What holds for every method: nothing to learn from an equal, gradients to the student alone, precision, timing."""
import copy

import pytest
import torch
from mmengine.optim import OptimWrapper

from perception.distill.attention import AttentionTransferLoss
from perception.distill.cd import CDLoss
from perception.distill.distiller import Distiller
from perception.distill.ifv import IFVLoss
from perception.distill.intra_kd import IntRAKDLoss
from perception.distill.ka import KALoss
from perception.distill.kd import KDLoss
from perception.distill.sad import SADLoss
from perception.distill.skd import SKDLoss
from perception.distill.teachers import FrozenTeacher
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
PAIR = (dict(student='feats', teacher='feats', terms=('attention', 'affinity')),)
METHODS = dict(
    kd=dict(type=KDLoss),
    skd=dict(type=SKDLoss, region_size=(2, 2, 1)),
    at=dict(type=AttentionTransferLoss, feats=('feats', 'deep')),
    cd=dict(type=CDLoss),
    cd_labelled=dict(type=CDLoss, mask_ignored=True),
    cd_feats=dict(type=CDLoss, tap='feats', channels=(6, 9)),
    ifv=dict(type=IFVLoss),
    ka=dict(type=KALoss, channels=(6, 9), code=4),
    sad=dict(type=SADLoss, pairs=(('feats', 'deep'),), mimic_label='feats', begin=0),
    intra_kd=dict(type=IntRAKDLoss, num_classes=5, feature_pairs=PAIR, min_pixels=2),
    intra_kd_literal=dict(type=IntRAKDLoss, num_classes=5, feature_pairs=PAIR, moment_mode='literal', alpha=(0, 0, 1),
                          normalise_by='all'))


def build(name, rows='points', **options):
    cfg = dict(METHODS[name], teacher='full', **options)
    return cfg.pop('type')(**cfg, rows=rows).double()


def total(loss, student, teacher, batch):
    torch.manual_seed(3)  # for what is drawn at random
    value = loss(student, teacher, batch)
    return sum(value.values()) if isinstance(value, dict) else value


@pytest.mark.parametrize('name', METHODS)
def test_gradients_reach_the_student_alone_and_are_right(case, name):
    loss = build(name, case.rows)
    student, teacher = (case.map(lambda x: x.clone().requires_grad_(), taps) for taps in (case.student, case.teacher))
    value = total(loss, student, teacher, case.batch)
    assert value.shape == ()
    assert value > 0
    value.backward()
    assert all(getattr(x, 'feats', x).grad is None for x in teacher.values())
    for tap in loss.taps:
        assert getattr(student[tap], 'feats', student[tap]).grad.abs().sum() > 0
    loss.requires_grad_(False)
    leaves = [getattr(student[tap], 'feats', student[tap]) for tap in loss.taps]

    def function(*leaves):
        return total(loss, dict(student, **{tap: case.wrap(x) for tap, x in zip(loss.taps, leaves)}), teacher,
                     case.batch)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize('name', [name for name in METHODS if name not in ('ka', 'cd_feats', 'sad')])
def test_an_equal_teacher_has_nothing_to_say(case, name):
    student = case.map(lambda x: x.requires_grad_(), case.student)
    value = total(build(name, case.rows), student, case.student, case.batch)
    assert value.abs() < 1e-12
    value.backward()
    assert max(getattr(x, 'feats', x).grad.abs().max() for x in student.values()
               if getattr(x, 'feats', x).grad is not None) < 1e-9


@pytest.mark.parametrize('name', METHODS)
def test_mixed_precision_changes_nothing_but_the_inputs(case, name):
    loss = build(name, case.rows).float()
    half = [case.map(lambda x: x.bfloat16(), taps) for taps in (case.student, case.teacher)]
    full = [case.map(lambda x: x.float(), taps) for taps in half]
    expected = total(loss, *full, case.batch)
    assert expected.dtype == torch.float32
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(total(loss, *half, case.batch), expected)
        assert torch.equal(total(loss, *full, case.batch), expected)


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('labels', ['ignored', 'one class'])
def test_images_and_scans_without_contrast_give_finite_values(case, name, labels):
    for key in ('labels', 'voxel_labels'):
        if key in case.inputs:
            case.inputs[key] = torch.full_like(case.inputs[key], 255 if labels == 'ignored' else 2)
    student = case.map(lambda x: x.requires_grad_(), case.student)
    value = total(build(name, case.rows), student, case.teacher, case.batch)
    assert value.isfinite()
    value.backward()  # a graph even where nothing is labelled, for training on several devices
    grads = [getattr(x, 'feats', x).grad for x in student.values()]
    assert all(grad.isfinite().all() for grad in grads if grad is not None)
    if labels == 'ignored' and name in ('kd', 'cd_labelled', 'ifv', 'intra_kd_literal'):
        assert value == 0


@pytest.mark.parametrize('name', METHODS)
def test_zero_features_give_finite_gradients(make_case, name):
    case = make_case('map')
    student = case.map(lambda x: torch.zeros_like(x).requires_grad_(), case.student)
    total(build(name), student, case.teacher, case.batch).backward()
    assert all(x.grad.isfinite().all() for x in student.values() if x.grad is not None)


@pytest.mark.parametrize('name', [name for name in METHODS if name != 'sad'])
def test_positions_that_do_not_match_are_refused(make_case, name):
    case = make_case('points')
    teacher = case.map(lambda x: x[:-1], case.teacher)
    with pytest.raises(DataError, match='expected'):
        build(name)(case.student, teacher, case.batch)


@pytest.mark.parametrize('name', METHODS)
def test_what_a_tap_must_not_hold_is_refused(make_case, name):
    case, loss = make_case('map'), build(name)
    wrong = {tap: x.flatten(2) for tap, x in case.student.items()}
    with pytest.raises(DataError, match=r"tap '\w+': a tensor of shape \(2, \d, 35\) was recorded, expected a map"):
        loss(wrong, case.teacher, case.batch)
    with pytest.raises(DataError, match='tuple was recorded, expected a map'):
        loss({tap: (x,) for tap, x in case.student.items()}, case.teacher, case.batch)


@pytest.mark.parametrize('name', METHODS)
def test_unknown_rows_are_refused(name):
    with pytest.raises(ConfigError, match=r"rows='point', expected one of points, voxels. Did you mean points\?"):
        build(name, rows='point')


@pytest.mark.parametrize('name', ['cd', 'ka', 'at', 'ifv'])
def test_rows_without_their_samples_are_refused(make_case, name):
    case = make_case('points')
    del case.inputs['point_batch']
    with pytest.raises(DataError, match='no index of samples for 60 rows, expected one for each row'):
        build(name)(case.student, case.teacher, case.batch)


@pytest.mark.parametrize('name', ['kd', 'cd_labelled', 'ifv', 'intra_kd', 'skd'])
def test_a_batch_without_labels_is_refused(case, name):
    for key in ('labels', 'voxel_labels'):
        case.inputs.pop(key, None)
    with pytest.raises(DataError, match="the batch has no '(voxel_)?labels', expected a labelled batch"):
        build(name, case.rows)(case.student, case.teacher, case.batch)


# --- inside a Distiller ---
@pytest.fixture
def distiller(image_toy):
    def make(name, **options):
        cfg = dict(METHODS[name], teacher='full', **options)
        if 'channels' in cfg:
            cfg['channels'] = (12, 20)
        taps = dict(feats='stage4', deep='stage4', logits='logits')
        teachers = dict(full=dict(type=FrozenTeacher, model=dict(type=image_toy.Net, width=10), taps=taps))
        return Distiller(dict(type=image_toy.Net), taps, dict(method=cfg), teachers)
    return make


def steps(model, inputs, count=2):
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(count):
        logs = model.train_step(dict(inputs=inputs, data_samples=None), wrapper)
    return logs


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', METHODS)
def test_trains_a_student_and_leaves_the_teacher_alone(distiller, image_toy, name, device):
    model, inputs = distiller(name).train().to(device), image_toy.make_inputs()
    inputs = {key: value.to(device) for key, value in inputs.items()}
    teacher, alone = copy.deepcopy(model.teachers['full'].model.state_dict()), copy.deepcopy(model.student)
    logs = steps(model, inputs)
    assert [key for key in logs if key.startswith('loss_method')]
    assert all(torch.equal(v, teacher[k]) for k, v in model.teachers['full'].model.state_dict().items())
    steps(alone, inputs)
    assert not all(torch.equal(a, b) for a, b in zip(alone.parameters(), model.student.parameters()))
    assert set(model.student.state_dict()) == set(image_toy.Net().state_dict())


@pytest.mark.parametrize('name', METHODS)
def test_does_nothing_before_it_begins(distiller, image_toy, name):
    model, inputs = distiller(name, begin=2).train(), image_toy.make_inputs()
    alone = copy.deepcopy(model.student)
    assert not [key for key in steps(model, inputs) if key.startswith('loss_method')]
    steps(alone, inputs)
    assert all(torch.equal(a, b) for a, b in zip(alone.state_dict().values(), model.student.state_dict().values()))
    assert [key for key in steps(model, inputs, 1) if key.startswith('loss_method')]
