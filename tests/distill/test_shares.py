"""Shares of the gradient against plain backward passes; what the measuring leaves behind."""
import copy

import pytest
import torch

from perception.distill.base import DistillLoss
from perception.distill.distiller import Distiller
from perception.distill.ka import KALoss
from perception.distill.kd import KDLoss
from perception.distill.pvd import PVDLoss
from perception.distill.sad import SADLoss
from perception.distill.shares import gradient_shares, report
from perception.distill.teachers import EMATeacher, FrozenTeacher

TERMS = [f'loss_pvd_{term}' for term in ('output_point', 'output_voxel', 'affinity_point', 'affinity_voxel')]


@pytest.fixture
def make(toy):
    def make(net=toy.Net, **losses):
        teacher = dict(type=FrozenTeacher, model=dict(type=toy.Net, width=10, sparse=True), taps=toy.taps)
        return Distiller(dict(type=net), toy.taps, losses, dict(full=teacher)).train()
    return make


@pytest.fixture
def batch(toy):
    inputs = toy.make_inputs()
    return dict(inputs=inputs | dict(point_batch=inputs['voxel_coords'][inputs['point_to_voxel'], 0]),
                data_samples=None)


def pvd(**options):
    return dict(type=PVDLoss, teacher='full', minority_classes=[1, 3], supervoxel_size=(4, 4, 2), num_points=16,
                num_voxels=8, num_supervoxels=3, **options)


def kd(**options):
    return dict(type=KDLoss, teacher='full', logits='point_logits', **options)


def norm_after_backward(model, batch, *names):
    """The norm of the student's .grad after a backward pass of some terms, each in a forward of its own."""
    model = copy.deepcopy(model)
    torch.manual_seed(5)
    losses = model(**batch, mode='loss')
    sum(losses[name] for name in names).backward()
    return sum((p.grad ** 2).sum().item() for p in model.student.parameters() if p.grad is not None) ** .5


def test_equal_separate_backward_passes(make, batch):
    model = make(pvd=pvd(weight=3.), kd=kd())
    torch.manual_seed(5)
    shares = gradient_shares(model, batch)
    assert list(shares) == [*TERMS, 'loss_kd']
    task = norm_after_backward(model, batch, 'loss_ce')
    for name, share in shares.items():
        assert share == pytest.approx(norm_after_backward(model, batch, name) / task, rel=1e-4), name


def test_all_of_the_students_own_losses_are_the_task(make, batch, toy):
    class TwoLosses(toy.Net):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            losses = super().forward(inputs, data_samples, mode)
            if mode == 'loss':
                losses |= dict(loss_more=[value := losses['loss_ce'], 2 * value], accuracy=torch.tensor(50.))
            return losses
    one, two = make(kd=kd()), make(TwoLosses, kd=kd())
    two.load_state_dict(one.state_dict())
    object.__setattr__(two.teachers['full'], 'model', one.teachers['full'].model)
    assert gradient_shares(two, batch)['loss_kd'] == pytest.approx(gradient_shares(one, batch)['loss_kd'] / 4, rel=1e-4)


def test_leaves_no_trace(make, batch):
    model = make(pvd=pvd(), ka=dict(type=KALoss, teacher='full', channels=(6, 10), feats='point_feats'))
    model(**batch, mode='loss')['loss_ce'].backward()
    twin, state = copy.deepcopy(model), torch.get_rng_state()
    grads = copy.deepcopy([p.grad for p in model.parameters()])
    gradient_shares(model, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.iteration == 1
    assert model.training
    assert grads[0] is not None
    assert all(p.grad is before or torch.equal(p.grad, before) for p, before in zip(model.parameters(), grads))


def test_measuring_moves_no_teacher(toy, batch):
    mean = dict(type=EMATeacher, model=dict(type=toy.Net), taps=toy.taps, momentum=0.5)
    model = Distiller(dict(type=toy.Net), toy.taps, dict(kd=dict(kd(), teacher='mean')), dict(mean=mean)).train()
    model(**batch, mode='loss')
    before = copy.deepcopy(model.state_dict())
    gradient_shares(model, batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_buffers_come_back_after_an_error_too(make, batch):
    class Broken(DistillLoss):
        def forward(self, *_):
            raise ValueError('on purpose')
    model = make(bad=dict(type=Broken, teacher='full'))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match='on purpose'):
        gradient_shares(model, batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_losses_that_begin_later_or_have_ended_are_measured_as_if_active(make, batch):
    model = make(kd=kd(begin=40_000), old=kd(end=3))
    model.iteration.fill_(7)
    assert list(gradient_shares(model, batch)) == ['loss_kd', 'loss_old']
    lines, _ = report(model, batch)
    assert [line for line in lines if "'kd' teaches from iteration 40,000" in line]
    assert [line for line in lines if "'old' ended at iteration 3" in line]
    assert not any('iteration' in line for line in report(make(kd=kd()), batch)[0])
    assert list(model(**batch, mode='loss')) == ['loss_ce']  # measuring switched nothing on


def test_what_only_trains_the_loss_is_left_out_and_its_warm_up_skipped(make, batch):
    ka = dict(type=KALoss, teacher='full', channels=(6, 10), feats='point_feats', warmup=50)
    model = make(ka=ka)
    shares = gradient_shares(model, batch)
    assert list(shares) == ['loss_ka_adapt', 'loss_ka_affinity']
    assert min(shares.values()) > 0
    assert "'ka' teaches from iteration 50" in ' '.join(report(model, batch)[0])


def test_self_distillation_has_its_shares(image_toy):
    model = Distiller(dict(type=image_toy.Net), {name: name for name in ('stage2', 'stage3', 'stage4')},
                      dict(sad=dict(type=SADLoss)))
    shares = gradient_shares(model, dict(inputs=image_toy.make_inputs(), data_samples=None))
    assert list(shares) == ['loss_sad_stage2_stage3', 'loss_sad_stage3_stage4']
    assert min(shares.values()) > 0


def test_too_small_and_too_large_shares_are_warned_of(make, batch):
    model = make(kd=kd())
    share = gradient_shares(model, batch)['loss_kd']
    for wanted, sentence in ((0.005, 'loss_kd 0.5 %.*at least 1 %.*hardly.*raise'), (0.5, None),
                             (3., 'loss_kd 300 %.*at most 100 %.*outweigh.*lower')):
        model.losses['kd'].weight = wanted / share
        lines, warnings = report(model, batch)
        assert lines == [f"loss_kd: {100 * wanted:.3g} % of the gradient of the student's own losses"]
        assert len(warnings) == bool(sentence)
        if sentence:
            with pytest.raises(AssertionError, match=sentence):
                raise AssertionError(warnings[0])


def test_terms_or_tasks_without_a_gradient(make, batch):
    class Blind(DistillLoss):
        def forward(self, student, teacher, batch):
            return student['point_logits'].detach().mean()
    model = make(blind=dict(type=Blind, teacher='full'), kd=kd(mask_ignored=False))
    assert gradient_shares(model, batch)['loss_blind'] == 0
    model.student.requires_grad_(False)
    model.student.head.requires_grad_(True)  # the task does not look at it, and neither does KD on points
    assert gradient_shares(model, batch) == dict(loss_blind=0., loss_kd=0.)
    model.losses['voxels'] = KDLoss('full', 'voxel_logits', mask_ignored=False, rows='voxels')
    assert gradient_shares(model, batch)['loss_voxels'] == float('inf')
    assert 'loss_voxels inf %' in report(model, batch)[1][1]
