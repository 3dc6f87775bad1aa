"""CRCKD: golden values of the published code, and what they do not cover."""
import math
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from perception.distill.crckd import ConsistencyLoss, CRCKDLoss, SPLoss, contrastive_loss, relation_loss
from perception.distill.distiller import Distiller
from perception.distill.teachers import EMATeacher
from perception.utils.checkpoint import check_weights, start_from
from perception.utils.errors import CheckpointError, ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


@pytest.fixture
def golden(shared):
    return {key: torch.as_tensor(value) for key, value in np.load(shared / 'goldens/crckd_A.npz').items()}


def small(labels, device='cpu', **arguments):
    """A loss of 10 channels that knows a training set."""
    arguments = dict(dict(channels=10, embedding=16, positives=4, negatives=24, ccd_weight=1), **arguments)
    loss = CRCKDLoss('mean', **arguments).to(device)
    loss.know_training_set(torch.as_tensor(labels))
    return loss


# --- the published code ---
@pytest.mark.parametrize('device', DEVICES)
def test_three_steps_are_those_of_the_published_code(golden, device):
    golden = {key: value.to(device) for key, value in golden.items()}
    loss = small(golden['labels_all'], device, positives=int(golden['P']), negatives=int(golden['K']))
    with torch.no_grad():
        for side, embed in (('s', loss.embed_s), ('t', loss.embed_t)):
            embed.linear.weight.copy_(golden[f'embed_{side}_weight'])
            embed.linear.bias.copy_(golden[f'embed_{side}_bias'])
    loss.memory_s, loss.memory_t = golden['memory_v1_init'].clone(), golden['memory_v2_init'].clone()
    for step in range(3):
        def of(name, step=step):
            return golden[f'step{step}/{name}']
        f_s, f_t = of('f_s').clone().requires_grad_(), of('f_t').clone().requires_grad_()
        leaves = dict(f_s=f_s, f_t=f_t, embed_s_weight=loss.embed_s.linear.weight,
                      embed_s_bias=loss.embed_s.linear.bias, embed_t_weight=loss.embed_t.linear.weight,
                      embed_t_bias=loss.embed_t.linear.bias)
        g_s, g_t = loss.embed_s(f_s), loss.embed_t(f_t)
        torch.testing.assert_close(g_s, of('g_s'), rtol=1e-5, atol=1e-6)
        ccd = loss.contrast(g_s, g_t, of('contrast_idx_used'))
        loss.remember(of('index'), g_s.detach(), g_t.detach())
        crp = loss.relate(g_s, g_t)
        torch.testing.assert_close(ccd, of('loss_ccd'), rtol=1e-5, atol=0)
        torch.testing.assert_close(crp, of('loss_crp'), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(loss.scales, of('Z_v1_Z_v2'), rtol=1e-5, atol=0)
        torch.testing.assert_close(loss.memory_s, of('memory_v1_after'), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(loss.memory_t, of('memory_v2_after'), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(loss.centers(loss.memory_s), of('centroid_relu_mean_v1'), rtol=1e-5, atol=1e-6)
        for name, value in (('ccd', ccd), ('crp', crp)):
            grads = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
            for leaf, grad in zip(leaves, grads):
                expected = of(f'grad_{name}_{leaf}')
                assert (grad is None) == (expected.numel() == 0), f'{name} {leaf}'
                if grad is not None:
                    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_formulas_alone_are_those_of_the_published_code(golden):
    scores, count = golden['scores'][..., 0], int(golden['n_data'])
    torch.testing.assert_close(contrastive_loss(scores, 4, count), golden['scores_loss'], rtol=1e-5, atol=0)
    torch.testing.assert_close(contrastive_loss(scores[:, :25], 1, count), golden['scores_loss_P1'], rtol=1e-5, atol=0)
    relation = [golden[f'rel_{name}'] for name in ('f_s', 'f_t', 'anchor_s', 'anchor_t')]
    torch.testing.assert_close(relation_loss(*relation, 0.07), golden['rel_loss'], rtol=1e-5, atol=0)
    one = contrastive_loss(scores[:1], 4, count)  # the published code is wrong there
    rows = [contrastive_loss(scores[i:i + 1], 4, count) for i in range(len(scores))]
    torch.testing.assert_close(torch.stack(rows).mean(), golden['scores_loss'], rtol=1e-5, atol=0)
    assert abs(float(one) - float(golden['scores_row0_loss_reference_B1'])) > 9


def test_the_loss_is_the_double_sum():
    scores = torch.rand(3, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c, total = 5 / 30, 0.0
    for row in scores.tolist():
        total -= sum(math.log(x / (x + c + 1e-7)) for x in row[:4]) / 4
        total -= sum(math.log(c / (x + c + 1e-7)) for x in row[4:])
    assert float(contrastive_loss(scores, 4, 30)) == pytest.approx(total / 3, abs=1e-12)


# --- the samples that are drawn ---
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(('negatives_of', 'negatives'), [('others', 8), ('others', 500), ('all', 8), ('all', 500)])
def test_draws_positives_of_the_class_and_negatives_of_others(device, negatives_of, negatives):
    labels = torch.tensor([0] * 30 + [2] * 12 + [1] * 3 + [3])[torch.randperm(46)]
    loss = small(labels, device, negatives=negatives, negatives_of=negatives_of, positives=5)
    index = torch.arange(46, device=device)
    chosen = loss.choose(index, loss._generator(3, index.device)).cpu()
    assert chosen.shape == (46, 5 + negatives)
    for row, drawn in enumerate(chosen.tolist()):
        near, far = drawn[:5], drawn[5:]
        assert near[0] == row and all(labels[i] == labels[row] for i in near)
        assert len(set(near)) == 5 or (labels == labels[row]).sum() < 5
        if negatives_of == 'others':
            assert all(labels[i] != labels[row] for i in far)
        else:
            assert row not in far
            assert negatives < 500 or labels[row] == 3 or any(labels[i] == labels[row] for i in far)
        assert len(set(far)) == min(8, negatives) or negatives == 500
    again = loss.choose(index, loss._generator(3, index.device)).cpu()
    other = loss.choose(index, loss._generator(4, index.device)).cpu()
    assert torch.equal(chosen, again) and not torch.equal(chosen, other)


def test_every_other_sample_is_drawn_about_as_often():
    loss = small([0] * 10 + [1] * 20 + [2] * 10, negatives=4000, positives=2)
    far = loss.choose(torch.tensor([0, 15, 39]), loss._generator(0, torch.device('cpu')))[:, 2:]
    for row, width in ((far[0], 30), (far[1], 20), (far[2], 30)):
        counts = row.bincount(minlength=40)
        assert (counts > 0).sum() == width
        assert counts[counts > 0].min() > 0.7 * 4000 / width


# --- losses in a Distiller ---
class Net(BaseModel):
    """Features of a batch of rows, and their classes."""

    def __init__(self, width=6):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Tanh())
        self.point_feats, self.point_logits = nn.Identity(), nn.Linear(width, 5)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        feats = self.point_feats(self.stem(inputs['points']))
        logits = self.point_logits(feats)
        if mode == 'loss':
            return dict(loss_ce=F.cross_entropy(logits, inputs['labels']))
        return logits


LABELS = torch.tensor([0, 0, 1, 1, 2, 3, 4, 4])


def batch(rows=range(8), seed=0):
    points = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))[list(rows)]
    return dict(inputs=dict(points=points, labels=LABELS[list(rows)], index=torch.tensor(list(rows)),
                            second=dict(points=points.flip(1))))


def distiller(**crckd):
    torch.manual_seed(0)
    taps = dict(features='point_feats', logits='point_logits')
    loss = CRCKDLoss('mean', channels=6, embedding=8, positives=2, negatives=6, **crckd)
    loss.know_training_set(LABELS)
    return Distiller(Net(), taps, dict(crckd=loss, mt=ConsistencyLoss('mean', ramp=0)),
                     dict(mean=EMATeacher(Net(), taps, view='second')))


def train(model, steps, optimizer=None):
    """Losses of some steps."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(steps):
        out = model(**batch(seed=int(model.iteration)), mode='loss')
        optimizer.zero_grad()
        sum(out.values()).backward()
        optimizer.step()
        losses.append({name: float(value.detach()) for name, value in out.items()})
    return losses, optimizer


def test_the_teacher_is_the_running_mean_of_the_parameters_alone():
    model = distiller()
    teacher, student = model.teachers['mean'], model.student
    assert not any(p.requires_grad for p in teacher.parameters()) and teacher.training
    weight = teacher.model.point_logits.weight.clone()
    train(model, 1)
    assert torch.equal(teacher.model.point_logits.weight, weight), 'nothing to follow yet'
    seen, expected, shares = [], None, []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for t in range(1, 5):
        theirs = student.point_logits.weight.detach().clone()
        share = 1 - min(1 - 1 / t, 0.99)
        expected = theirs if expected is None else (1 - share) * expected + share * theirs
        train(model, 1, optimizer)
        seen.append(teacher.model.point_logits.weight.clone())
        torch.testing.assert_close(seen[-1], expected)
        shares.append(share)
    assert shares[:2] == [1.0, 0.5]
    assert not torch.equal(teacher.model.stem[1].running_mean, student.stem[1].running_mean), 'its own statistics'
    assert int(teacher.model.stem[1].num_batches_tracked) == 5


@pytest.mark.parametrize(('updates', 'keep'), [(0, 0), (1, 0.5), (98, 1 - 1 / 99), (99, 0.99), (500, 0.99)])
def test_the_warm_up_of_the_mean(updates, keep):
    teacher = EMATeacher(Net(), {})
    student = Net()
    for parameters, value in ((teacher.model.parameters(), 1.0), (student.parameters(), 0.0)):
        for parameter in parameters:
            torch.nn.init.constant_(parameter, value)
    teacher.updates.fill_(updates)
    teacher.follow(student, updates)
    assert float(teacher.model.point_logits.weight[0, 0]) == 1, 'it has followed that far'
    teacher.follow(student, updates + 1)
    assert float(teacher.model.point_logits.weight[0, 0]) == pytest.approx(keep, abs=1e-7)


def test_a_loss_is_left_out():
    model = Distiller(Net(), {}, dict(mt=None))
    assert set(model(**batch(), mode='loss')) == set(Net()(**batch(), mode='loss'))


def test_a_training_from_the_weights_of_a_checkpoint_has_a_teacher_that_follows():
    trained, model = distiller(), distiller()
    train(trained, 4)
    start_from(model, dict(trained.state_dict()))
    assert int(model.iteration) == 0 and int(model.teachers['mean'].updates) == 3
    train(model, 3)
    assert int(model.teachers['mean'].updates) == 2


def test_a_teacher_of_another_model_or_a_wrong_momentum_is_refused():
    with pytest.raises(ConfigError, match='5 parameters differ'):
        EMATeacher(Net(width=5), {}).follow(Net(), 1)
    with pytest.raises(ConfigError, match='momentum=0'):
        EMATeacher(Net(), {}, momentum=0)
    with pytest.raises(ConfigError, match="view='third', expected one of the inputs"):
        EMATeacher(Net(), {}, view='third').observe(dict(batch(), data_samples=None))


def test_the_ramp_is_that_of_the_paper():
    loss = ConsistencyLoss('mean', epoch=46, begin=20 * 46)
    table = {0: .0067, 5: .031, 10: .108, 15: .287, 20: .574, 25: .870, 30: 1, 79: 1}
    assert {e: loss.factor(46 * e + 45) for e in table} == pytest.approx(table, abs=6e-4)
    assert not loss.is_active(919) and loss.is_active(920) and loss.teaches_from == 1380


def test_consistency_is_the_divergence_of_predictions():
    s, t = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = {}
    for kind, weights in (('kl', None), ('mse', None), ('mse', [2.0] * 5)):
        loss = ConsistencyLoss('mean', kind=kind, class_weights=weights, ramp=0)
        out[kind, weights is None] = float(loss(dict(logits=s), dict(logits=t), dict(iteration=0)))
    p, q = t.softmax(1), s.softmax(1)
    assert out['kl', True] == pytest.approx(float((p * (p / q).log()).sum() / 4), rel=1e-5)
    assert out['mse', True] == pytest.approx(float(((p - q) ** 2).sum() / 4), rel=1e-5)
    assert out['mse', False] == pytest.approx(2 * out['mse', True], rel=1e-5)
    for weights in ([2.0], [1.0, 2.0]):
        with pytest.raises(ConfigError, match=f'{len(weights)} class_weights for 5 classes'):
            loss = ConsistencyLoss('mean', kind='mse', class_weights=weights)
            loss(dict(logits=s), dict(logits=t), dict(iteration=0))


def test_sp_compares_which_samples_are_alike():
    s, t = torch.randn(4, 6), torch.randn(4, 9)
    total = 0.0
    rows = [[F.normalize(torch.stack([f[i] @ f[j] for j in range(4)]), dim=0) for i in range(4)] for f in (s, t)]
    for ours, theirs in zip(*rows):
        total += float(((ours - theirs) ** 2).sum())
    loss = SPLoss('mean')(dict(features=s), dict(features=t), {})
    assert float(loss) == pytest.approx(total / 16, rel=1e-5)
    assert float(SPLoss('mean')(dict(features=s), dict(features=3 * s), {})) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(('arguments', 'terms'), [
    (dict(), {'loss_crckd_ccd', 'loss_crckd_crp'}), (dict(crp_weight=0), {'loss_crckd_ccd'}),
    (dict(ccd_weight=0), {'loss_crckd_crp'}), (dict(crp_begin=2), {'loss_crckd_ccd'}),
    (dict(mode='exact'), {'loss_crckd_ccd', 'loss_crckd_crp'}),
    (dict(anchors='class', anchors_per_class=3), {'loss_crckd_ccd', 'loss_crckd_crp'})])
def test_each_part_can_be_left_out(arguments, terms):
    losses = train(distiller(**arguments), 1)[0][0]
    assert set(losses) == {'loss_ce', 'loss_mt', *terms}
    assert all(np.isfinite(list(losses.values())))


def test_the_weight_of_the_published_code_is_applied_twice_from_crp_on():
    once, twice = ([losses['loss_crckd_ccd'] for losses in train(distiller(crp_begin=1, **more), 2)[0]]
                   for more in (dict(), dict(legacy_double_weight=True)))
    assert once[0] == twice[0] and twice[1] == pytest.approx(0.1 * once[1], rel=1e-2)


def test_gradients_reach_the_student_and_both_projections():
    model = distiller()
    train(model, 2)
    loss = model.losses['crckd']
    assert all(float(p.grad.abs().sum()) > 0 for p in (
        model.student.stem[0].weight, loss.embed_s.linear.weight, loss.embed_t.linear.weight))
    assert all(p.grad is None for p in model.teachers.parameters())


def test_a_resumed_training_goes_on_bit_for_bit():
    whole = train(distiller(), 5)[0]
    model = distiller()
    _, optimizer = train(model, 3)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    again = distiller(seed=0)
    check_weights(again, state)
    again.load_state_dict(state)
    other = torch.optim.Adam(again.parameters(), 1e-2)
    other.load_state_dict(optimizer.state_dict())
    assert train(again, 2, other)[0] == whole[3:]


def test_memories_of_other_samples_are_refused_on_resume_and_left_out_at_a_start():
    state = distiller().state_dict()
    model = distiller()
    model.losses['crckd'].know_training_set(torch.tensor([1, 0, 1, 1, 2, 3, 4, 4]))
    with pytest.raises(CheckpointError, match='memories of 8 training samples in 5 classes'):
        check_weights(model, state, 'epoch_3.pth')
    model.load_state_dict(state)
    assert model.losses['crckd'].labels.tolist() == [1, 0, 1, 1, 2, 3, 4, 4]
    model.losses['crckd'].know_training_set(torch.arange(9) % 3)
    with pytest.raises(CheckpointError, match='those of the 9 in 3 classes'):
        check_weights(model, state, 'epoch_3.pth')
    model.losses['crckd'].know_training_set(LABELS, 'abcdefgh')  # other images of the same classes
    with pytest.raises(CheckpointError, match='those of the 8 in 5 classes that are trained with now, by class and'):
        check_weights(model, state, 'epoch_3.pth')
    memory = model.losses['crckd'].memory_s.clone()
    model.load_state_dict(state)
    assert torch.equal(model.losses['crckd'].memory_s, memory)


def test_rows_are_of_length_1_and_other_rows_stay():
    model = distiller()
    loss = model.losses['crckd']
    before = loss.memory_s.clone()
    model(**batch([1, 4, 1]), mode='loss')  # a row that comes twice
    changed = (loss.memory_s != before).any(1)
    assert changed.nonzero().flatten().tolist() == [1, 4]
    torch.testing.assert_close(loss.memory_s[changed].norm(dim=1), torch.ones(2))
    scales = loss.scales.clone()
    model(**batch(seed=4), mode='loss')
    assert torch.equal(loss.scales, scales) and bool((scales > 0).all())


def test_a_batch_of_one_and_classes_of_one_sample():
    model = distiller().eval()
    out = model(**batch([5]), mode='loss')
    assert all(torch.isfinite(value) for value in out.values())
    loss = model.losses['crckd']
    assert loss.choose(torch.tensor([5]), torch.Generator())[0, :2].tolist() == [5, 5]


def test_equal_nets_have_equal_relations_and_absent_classes_are_no_anchors():
    loss = small([0, 0, 3, 3, 5])
    loss.memory_t = loss.memory_s.clone()
    g = F.normalize(torch.randn(3, 16), dim=1).requires_grad_()
    assert float(loss.relate(g, g.detach())) == pytest.approx(0, abs=1e-6)
    assert loss.centers(loss.memory_s).shape == (3, 16)


@pytest.mark.parametrize(('change', 'error', 'match'), [
    (lambda loss, b: b.pop('index'), DataError, 'no index for 2'),
    (lambda loss, b: b.update(index=torch.tensor([0, 99])), DataError, 'row 99, expected rows below 5'),
    (lambda loss, b: setattr(loss, 'labels', loss.labels[:0]), ConfigError, 'TrainingSetHook')])
def test_a_batch_without_rows_is_refused(change, error, match):
    loss, inputs = small([0, 0, 3, 3, 5]), dict(index=torch.tensor([0, 1]))
    change(loss, inputs)
    feats = dict(features=torch.randn(2, 10))
    with pytest.raises(error, match=match):
        loss(feats, feats, dict(inputs=inputs, iteration=0))


@pytest.mark.parametrize(('arguments', 'match'), [
    (dict(mode='relax'), "mode='relax'"), (dict(negatives=0), 'negatives=0'), (dict(momentum=1), 'momentum=1'),
    (dict(anchors='centre'), 'Did you mean center'), (dict(ccd_weight=-1), 'ccd_weight=-1')])
def test_arguments_out_of_range_are_refused(arguments, match):
    with pytest.raises(ConfigError, match=match):
        CRCKDLoss('mean', **arguments)
    with pytest.raises(DataError, match='5 training samples of one class'):
        small([2] * 5)


# --- two processes ---
def test_processes_exchange_their_memories(two_processes):
    feats = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))

    def step(rows):
        torch.manual_seed(0)
        loss = CRCKDLoss('mean', channels=6, embedding=8, positives=2, negatives=6)
        loss.know_training_set(LABELS)
        loss(dict(features=feats[rows]), dict(features=feats[rows] + 1), dict(inputs=dict(index=rows), iteration=0))
        return {name: value.numpy() for name, value in loss.state_dict().items()}

    first, second = two_processes(lambda rank: step(torch.arange(rank, 8, 2)))
    alone = step(torch.arange(8))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
        if name.startswith('memory'):
            np.testing.assert_allclose(value, alone[name], rtol=1e-5, atol=1e-6)


def test_the_hook_tells_the_labels_before_weights_are_loaded():
    from mmengine.runner import BaseLoop

    from perception.common.hooks.training_set import TrainingSetHook

    class Loop(BaseLoop):
        def __init__(self, dataset):
            self.dataloader = type('Loader', (), dict(dataset=dataset, __len__=lambda loader: 1))()

        def run(self):
            pass

    model = distiller()
    data = type('D', (), dict(labels=[0, 1, 2], ids='abc'))
    runner = type('R', (), dict(model=model, _train_loop=Loop(data), _val_loop=None))
    hook = TrainingSetHook()
    assert isinstance(hook, Hook)
    hook.before_run(runner)
    assert model.losses['crckd'].labels.tolist() == [0, 1, 2]
    assert model.losses['crckd'].samples.tolist() == [zlib.crc32(name) for name in (b'a', b'b', b'c')]
    runner._train_loop = Loop(object())
    with pytest.raises(ConfigError, match='class of each sample in `labels`'):
        hook.before_run(runner)
    runner._train_loop = None
    hook.before_run(runner)
