import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper

from perception.common.finite import FiniteSteps
from perception.distill.base import DistillLoss
from perception.distill.distiller import Distiller
from perception.distill.pvd import PVDLoss
from perception.distill.teachers import EMATeacher, FrozenTeacher
from perception.utils.errors import CheckpointError, ConfigError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


class Gap(DistillLoss):
    """Squared difference of the point logits; remembers what it was given."""

    taps = ('point_logits',)

    def forward(self, student, teacher, batch):
        self.seen = (student, teacher, batch)
        return (student['point_logits'] - teacher['point_logits'].detach()).square().mean()


def pvd(**kwargs):
    return dict(type=PVDLoss, teacher='full', minority_classes=[1, 3], supervoxel_size=(4, 4, 2), num_points=16,
                num_voxels=8, num_supervoxels=3, **kwargs)


@pytest.fixture
def make(toy):
    def make(losses=None, teachers=None, **student):
        if teachers is None:
            teachers = dict(full=dict(type=FrozenTeacher, model=dict(type=toy.Net, width=10, sparse=True),
                                      taps=toy.taps))
        return Distiller(dict(type=toy.Net, **student), toy.taps, losses or dict(pvd=pvd()), teachers)
    return make


def to(inputs, device):
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}


@pytest.mark.parametrize('device', DEVICES)
def test_adds_the_terms_to_the_students_own_loss(make, toy, device):
    model, inputs = make().to(device), to(toy.make_inputs(), device)
    assert next(model.teachers['full'].model.parameters()).device.type == device
    losses = model(inputs, mode='loss')
    own = model.student(inputs, mode='loss')
    assert list(losses) == ['loss_ce', 'loss_pvd_output_point', 'loss_pvd_output_voxel', 'loss_pvd_affinity_point',
                            'loss_pvd_affinity_voxel']
    assert torch.equal(losses['loss_ce'], own['loss_ce'])
    assert all(value > 0 for value in losses.values())
    assert model.tap_shapes['student']['point_logits'] == (300, toy.classes)
    assert model.tap_shapes['full']['voxel_feats'] == (len(inputs['voxel_coords']), 10)


def test_other_modes_are_the_students(make, toy):
    model, inputs = make().eval(), toy.make_inputs()
    assert torch.equal(model(inputs, mode='predict'), model.student(inputs, mode='predict'))
    assert torch.equal(model(inputs)['point_logits'], model.student(inputs)['point_logits'])
    assert model.tap_shapes == {}


def test_a_training_step_moves_the_student_alone(make, toy):
    model, inputs = make().train(), toy.make_inputs()
    teacher = model.teachers['full'].model
    before = copy.deepcopy(teacher.state_dict()), copy.deepcopy(model.student.state_dict())
    assert not teacher.training
    assert not any(p is q for p in model.parameters() for q in teacher.parameters())
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.5))
    model.train_step(dict(inputs=inputs, data_samples=None), wrapper)
    assert all(torch.equal(v, before[0][k]) for k, v in teacher.state_dict().items())  # BN statistics too
    assert all(p.grad is None for p in teacher.parameters())
    changed = {k for k, v in model.student.state_dict().items() if not torch.equal(v, before[1][k])}
    assert changed | {'stem.0.bias'} == set(before[1])  # batch normalisation takes that bias away


@pytest.mark.parametrize('term', ['output_point', 'output_voxel', 'affinity_point', 'affinity_voxel'])
def test_each_term_reaches_the_student(make, toy, term):
    model = make()
    model(toy.make_inputs(), mode='loss')[f'loss_pvd_{term}'].backward()
    assert model.student.stem[0].weight.grad.abs().sum() > 0


def test_all_terms_are_zero_when_the_student_equals_the_teacher(toy):
    net = toy.Net()
    teacher = FrozenTeacher(copy.deepcopy(net), toy.taps)
    model = Distiller(net.eval(), toy.taps, dict(pvd=pvd()), dict(full=teacher)).eval()
    losses = model(toy.make_inputs(), mode='loss')
    terms = [value for name, value in losses.items() if name.startswith('loss_pvd')]
    assert len(terms) == 4
    for value in terms:
        assert value.abs() < 1e-12
    sum(terms).backward()
    assert max(p.grad.abs().max() for p in net.parameters()) < 1e-7


def test_the_checkpoint_holds_no_teacher_and_loads_strictly(make, toy):
    model, inputs = make(), toy.make_inputs()
    model(inputs, mode='loss')
    state = model.state_dict()
    assert {name.split('.')[0] for name in state} == {'student', 'iteration'}
    other = make()
    other.load_state_dict(state)  # strict: nothing missing, nothing unexpected
    assert other.iteration == 1
    toy.Net().load_state_dict({k.removeprefix('student.'): v for k, v in state.items() if k != 'iteration'})


def test_building_a_student_with_and_without_teachers_draws_the_same_weights(make, toy):
    torch.manual_seed(3)
    alone = toy.Net()
    torch.manual_seed(3)
    distilled = make().student
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), distilled.parameters()))


def test_init_weights_leaves_the_teacher_alone(make):
    model = make()
    before = copy.deepcopy(model.teachers['full'].model.state_dict())
    model.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in model.teachers['full'].model.state_dict().items())


def test_a_deep_copy_records_into_itself(make, toy):
    model, inputs = make(losses=dict(gap=dict(type=Gap, teacher='full'))), toy.make_inputs()
    twin = copy.deepcopy(model)
    assert twin.teachers['full'].model is not model.teachers['full'].model
    with torch.no_grad():
        twin.student.point_logits.weight.zero_()
        twin.student.point_logits.bias.zero_()
    twin(inputs, mode='loss')
    assert twin.losses['gap'].seen[0]['point_logits'].abs().max() == 0
    assert not hasattr(model.losses['gap'], 'seen')
    assert model(inputs, mode='loss')['loss_gap'] > 0


def test_the_student_can_be_its_own_teacher(make, toy):
    model = make(losses=dict(gap=dict(type=Gap, teacher='student')), teachers={})
    assert model(toy.make_inputs(), mode='loss')['loss_gap'] == 0
    student, teacher, batch = model.losses['gap'].seen
    assert student is teacher
    assert batch['iteration'] == 0
    assert batch['inputs']['labels'].shape == (300,)


def test_begin_end_and_weight_survive_a_resume(make, toy):
    losses = dict(early=dict(type=Gap, teacher='full', end=1), late=dict(type=Gap, teacher='full', begin=2, weight=3.))
    model, inputs = make(losses=losses), toy.make_inputs()
    model.train()

    def names():
        return {name for name in model(inputs, mode='loss') if name != 'loss_ce'}

    assert [names(), names()] == [{'loss_early'}, set()]
    resumed = make(losses=losses)
    resumed.load_state_dict(model.state_dict())
    model = resumed.train()
    assert names() == {'loss_late'}
    model.eval()
    first, second = model(inputs, mode='loss'), model(inputs, mode='loss')
    assert model.iteration == 3  # only training counts
    assert torch.equal(first['loss_late'], second['loss_late'])
    model.losses['late'].weight = 1.
    assert torch.allclose(first['loss_late'], 3 * model(inputs, mode='loss')['loss_late'])


def test_a_frozen_teacher_loads_a_checkpoint_and_drops_its_preprocessor(toy, tmp_path):
    net = toy.Net(width=7)
    torch.save(net.state_dict(), tmp_path / 'model.pth')
    teacher = FrozenTeacher(dict(type=toy.Net, width=7), toy.taps, checkpoint=tmp_path / 'model.pth')
    assert torch.equal(teacher.model.head.weight, net.head.weight)
    assert teacher.model.data_preprocessor is None
    outputs = teacher.observe(dict(inputs=toy.make_inputs(), data_samples=None))
    assert set(outputs) == set(toy.taps)
    assert not any(value.requires_grad for value in outputs.values())


def test_a_teacher_can_look_at_another_view(toy):
    teacher = FrozenTeacher(dict(type=toy.Net), toy.taps, view='second')
    first, second = toy.make_inputs(200), toy.make_inputs(100)
    outputs = teacher.observe(dict(inputs=dict(first=first, second=second), data_samples=None))
    assert len(outputs['point_logits']) == 100
    with pytest.raises(ConfigError, match="view='second', expected one of the inputs .'first'."):
        teacher.observe(dict(inputs=dict(first=first), data_samples=None))


@pytest.mark.parametrize(('mini', 'command'), [(False, r'cylinder3d_kitti\.py`'),
                                               (True, r'cylinder3d_kitti\.py --mini`')])
def test_a_missing_checkpoint_says_how_to_train_it(toy, tmp_path, mini, command):
    with pytest.raises(CheckpointError, match=rf'x/model.pth does not exist.*`tools/train\.py .*{command}'):
        FrozenTeacher(dict(type=toy.Net), toy.taps, 'configs/lidarseg/cylinder3d_kitti.py', mini,
                      checkpoint=tmp_path / 'x/model.pth')


def test_a_teacher_finds_what_its_config_trained(toy, tmp_path, monkeypatch):
    monkeypatch.setattr('perception.utils.paths.PROJECT_ROOT', tmp_path)
    nets = {}
    for name in ('net', 'net_mini'):
        nets[name] = toy.Net()
        (tmp_path / 'work_dirs/room' / name).mkdir(parents=True)
        torch.save(nets[name].state_dict(), tmp_path / 'work_dirs/room' / name / 'model.pth')
    for mini, name in ((False, 'net'), (True, 'net_mini')):
        teacher = FrozenTeacher(dict(type=toy.Net), toy.taps, 'configs/room/net.py', mini)
        assert torch.equal(teacher.model.head.weight, nets[name].head.weight)


def test_a_checkpoint_of_another_width_is_refused(toy, tmp_path):
    torch.save(toy.Net(width=7).state_dict(), tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match='mis-shaped'):
        FrozenTeacher(dict(type=toy.Net, width=6), toy.taps, checkpoint=tmp_path / 'model.pth')


def test_bad_descriptions_are_refused(make, toy):
    with pytest.raises(ConfigError, match=r"teacher 'ful', expected.*Did you mean full\?"):
        make(losses=dict(gap=dict(type=Gap, teacher='ful')))
    with pytest.raises(ConfigError, match=r"no sub-module 'hed'.*Did you mean head\?"):
        Distiller(dict(type=toy.Net), dict(point_logits='hed'), dict(gap=dict(type=Gap, teacher='student')))
    with pytest.raises(ConfigError, match=r"no sub-module 'hed'.*Did you mean head\?"):
        FrozenTeacher(dict(type=toy.Net), dict(point_logits='hed'))
    with pytest.raises(ConfigError, match=r"reads the tap 'point_logits'.*taps of 'student'"):
        Distiller(dict(type=toy.Net), dict(logits='head'), dict(gap=dict(type=Gap, teacher='student')))
    with pytest.raises(ConfigError, match=r"reads the tap 'voxel_logits'.*taps of 'full'"):
        teacher = dict(type=FrozenTeacher, model=dict(type=toy.Net), taps=dict(point_logits='head'))
        make(teachers=dict(full=teacher), losses=dict(pvd=pvd(), gap=dict(type=Gap, teacher='full')))
    with pytest.raises(ConfigError, match="a teacher is called 'student'"):
        teacher = dict(type=FrozenTeacher, model=dict(type=toy.Net), taps=toy.taps)
        make(teachers=dict(student=teacher), losses=dict(gap=dict(type=Gap, teacher='student')))
    with pytest.raises(ConfigError, match='ran 0 times'):
        taps = dict(toy.taps, extra='unused')
        Distiller(dict(type=toy.Net), taps, dict(gap=dict(type=Gap, teacher='student')))(toy.make_inputs(), mode='loss')
    for begin, end in ((-1, None), (5, 5)):
        with pytest.raises(ConfigError, match='expected 0 <= begin < end'):
            Gap(teacher='full', begin=begin, end=end)
    with pytest.raises(NotImplementedError, match='no forward'):
        DistillLoss('full')({}, {}, {})


def test_a_teacher_with_another_preprocessor_is_announced(toy, monkeypatch):
    lines = []
    monkeypatch.setattr('perception.distill.distiller.print_log', lambda message, *_: lines.append(message))
    student = dict(type=toy.Net, data_preprocessor=dict(type='BaseDataPreprocessor'))
    teacher = dict(type=toy.Net, data_preprocessor=dict(type='BaseDataPreprocessor', non_blocking=True))
    Distiller(student, toy.taps, dict(gap=dict(type=Gap, teacher='full')),
              dict(full=dict(type=FrozenTeacher, model=teacher, taps=toy.taps)))
    assert [line for line in lines if 'data_preprocessor.non_blocking is True' in line]
    assert len(lines) == 1


def test_a_loss_never_takes_the_place_of_another_one(make, toy):
    model = make(losses=dict(ce=Gap('full')))  # the student's own is loss_ce
    with pytest.raises(ConfigError, match="the loss 'ce' gives 'loss_ce', expected a name that neither"):
        model(toy.make_inputs(), mode='loss')
    twice = make(losses=dict(pvd=pvd(), pvd_output_point=Gap('full')))
    with pytest.raises(ConfigError, match="'pvd_output_point' gives 'loss_pvd_output_point'"):
        twice(toy.make_inputs(), mode='loss')


class Odd(Gap):
    """Not a number at one of its calls."""

    def __init__(self, teacher, bad):
        super().__init__(teacher)
        self.bad, self.calls = bad, 0

    def forward(self, student, teacher, batch):
        self.calls += 1
        return super().forward(student, teacher, batch) * (float('nan') if self.calls == self.bad else 1)


def steps_of(model):
    """What takes the training steps of a model, one of which may be skipped."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    runner = SimpleNamespace(model=model, optim_wrapper=OptimWrapper(optimizer), message_hub=MessageHub('odd'),
                             logger=logging.getLogger('odd'), epoch=0, iter=0)
    return FiniteSteps(runner, allowed=1)


def test_a_skipped_step_is_no_iteration_of_the_losses(make, toy):
    model = make(losses=dict(odd=Odd('full', bad=1))).train()
    step, batch = steps_of(model), dict(inputs=toy.make_inputs(), data_samples=None)
    for iteration in (0, 1):  # the first one is skipped
        step(batch)
        assert model.now() == int(model.iteration) == iteration


def test_a_skipped_step_moves_no_teacher(make, toy):
    teachers = dict(mean=EMATeacher(dict(type=toy.Net), toy.taps, momentum=0.5))
    model = make(losses=dict(odd=Odd('mean', bad=3)), teachers=teachers).train()
    step, batch = steps_of(model), dict(inputs=toy.make_inputs(), data_samples=None)
    for _ in range(2):
        step(batch)
    before = copy.deepcopy(model.state_dict())
    step(batch)  # skipped
    assert step.runner.message_hub.get_info('steps_skipped') == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
