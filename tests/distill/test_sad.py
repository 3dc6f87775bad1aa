"""SAD against slow implementations with loops, written here from the equations."""
import copy
import math

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper

from perception.distill.distiller import Distiller
from perception.distill.sad import SADLoss
from perception.utils.errors import ConfigError, DataError

PAIRS = (('stage2', 'stage3'), ('stage3', 'stage4'))


def blocks(seed=0, dtype=torch.float64, requires_grad=False):
    """Activations at 8 x 12, 4 x 6 and 4 x 6 positions."""
    rng = torch.Generator().manual_seed(seed)
    shapes = dict(stage2=(2, 5, 8, 12), stage3=(2, 7, 4, 6), stage4=(2, 9, 4, 6))
    return {tap: torch.randn(shape, generator=rng, dtype=dtype).requires_grad_(requires_grad)
            for tap, shape in shapes.items()}


def batch(**inputs):
    return dict(inputs=inputs, data_samples=None, iteration=0)


# --- slow implementations ---
def slow_bilinear(image, size):
    """Pixel centres at half integers, borders repeated."""
    result = np.zeros(size)
    for v in range(size[0]):
        for u in range(size[1]):
            y = min(max((v + .5) * image.shape[0] / size[0] - .5, 0), image.shape[0] - 1)
            x = min(max((u + .5) * image.shape[1] / size[1] - .5, 0), image.shape[1] - 1)
            top, left = math.floor(y), math.floor(x)
            down, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            result[v, u] = ((1 - y + top) * ((1 - x + left) * image[top, left] + (x - left) * image[top, right])
                            + (y - top) * ((1 - x + left) * image[down, left] + (x - left) * image[down, right]))
    return result


def slow_strength(image, power=2, pool='sum'):
    reduce = sum if pool == 'sum' else max
    return np.array([[reduce(abs(value) ** power for value in image[:, v, u]) for u in range(image.shape[2])]
                     for v in range(image.shape[1])])


def slow_norm(image, norm='softmax', temperature=1.):
    if norm == 'l2':
        return image / math.sqrt((image ** 2).sum())
    if norm == 'mean_softmax':
        image = image / (sum(image.flatten()) / image.size)
    weights = [[math.exp((value - image.max()) / temperature) for value in row] for row in image]
    return np.array(weights) / np.sum(weights)


def slow_pair(block, deeper, power=2, pool='sum', **norm):
    total = 0.
    for ours, target in zip(block.detach().numpy(), deeper.detach().numpy()):
        target = slow_strength(target, power, pool)
        ours = slow_strength(ours, power, pool)
        if ours.shape != target.shape:
            ours = slow_bilinear(ours, target.shape)
        total += ((slow_norm(ours, **norm) - slow_norm(target, **norm)) ** 2).sum()
    return total / len(block)


@pytest.mark.parametrize('options', [
    {}, dict(power=1), dict(pool='max'), dict(power=3, pool='max', norm='l2'), dict(temperature=5.), dict(norm='l2'),
    dict(norm='mean_softmax'), dict(norm='mean_softmax', temperature=.5, pool='max')], ids=str)
def test_each_pair_equals_the_equations(options):
    taps = blocks()
    terms = SADLoss(**options)(taps, taps, batch())
    assert list(terms) == ['stage2_stage3', 'stage3_stage4']
    for (block, deeper), value in zip(PAIRS, terms.values()):
        assert value.item() == pytest.approx(slow_pair(taps[block], taps[deeper], **options), rel=1e-10)


def test_a_smaller_block_is_enlarged_before_the_softmax():
    taps = blocks()
    value = SADLoss(pairs=(('stage3', 'stage2'),))(taps, taps, batch())['stage3_stage2']
    assert value.item() == pytest.approx(slow_pair(taps['stage3'], taps['stage2']), rel=1e-10)


@pytest.mark.parametrize(('norm', 'order'), [('softmax', 1), ('mean_softmax', 1), ('l2', 2)])
def test_the_label_term_equals_the_share_of_foreground(norm, order):
    taps = blocks()
    labels = torch.zeros(2, 16, 24, dtype=torch.int64)
    labels[0, 3:9, 5] = 2
    labels[0, :, 11:13] = 4
    labels[0, 12:, :] = 255
    terms = SADLoss(mimic_label='stage4', norm=norm)(taps, taps, batch(labels=labels))
    share = np.zeros((4, 6))
    for v in range(12):  # rows below are ignored
        for u in range(24):
            share[v // 4, u // 4] += labels[0, v, u].item() > 0
    target = share / np.linalg.norm(share.ravel(), order)
    ours = slow_norm(slow_strength(taps['stage4'][0].numpy()), norm)
    expected = ((ours - target) ** 2).sum() / 2  # the second image has no lane
    assert terms['label'].item() == pytest.approx(expected, rel=1e-10)
    with pytest.raises(DataError, match="the batch has no 'labels'"):
        SADLoss(mimic_label='stage4')(taps, taps, batch())
    alone = SADLoss(pairs=(), mimic_label='stage4', norm=norm)
    assert list(alone(taps, taps, batch(labels=labels))) == ['label']
    assert (alone.taps, alone.teacher_taps) == (('stage4',), ())


def test_points_of_a_scan_share_one_softmax(case):
    loss = SADLoss(pairs=(('feats', 'deep'),), rows=case.rows)
    value = loss(case.student, case.student, case.batch)['feats_deep']
    total = 0.
    for ours, target in zip(case.samples(case.student['feats']), case.samples(case.student['deep'])):
        ours, target = (slow_norm((x ** 2).sum(1)[None]) for x in (ours, target))
        total += ((ours - target) ** 2).sum() / 2
    assert value.item() == pytest.approx(total, rel=1e-10)


def test_attention_is_a_distribution_and_blind_to_the_order_of_channels():
    taps, loss = blocks(), SADLoss()
    shuffled = {tap: x[:, torch.randperm(x.shape[1])] for tap, x in taps.items()}
    attention = loss._normalise(loss.attention(taps['stage2'], 'stage2').flatten(2).transpose(1, 2))
    assert torch.allclose(attention.sum(1), torch.ones(2, 1, dtype=torch.float64))
    for name, value in loss(taps, taps, batch()).items():
        assert loss(shuffled, shuffled, batch())[name].item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize('norm', ['softmax', 'mean_softmax'])
def test_a_factor_on_the_activations_counts_unless_the_mean_is_divided_out(norm):
    taps, loss = blocks(requires_grad=True), SADLoss(norm=norm)
    values, grads = [], []
    for factor in (1., 30., 1e-3):
        scaled = {tap: factor * x for tap, x in taps.items()}
        terms = loss(scaled, scaled, batch())
        values.append(torch.stack(list(terms.values())))
        grads.append(torch.autograd.grad(values[-1].sum(), taps['stage2'])[0])
    same = [torch.allclose(x, first, rtol=1e-9, atol=0 if i == 0 else 1e-14)
            for i, (first, *rest) in enumerate((values, grads)) for x in rest]
    assert same == [norm == 'mean_softmax'] * 4
    if norm == 'softmax':
        assert grads[1].abs().max() < 1e-9 < grads[0].abs().max()  # saturated


def test_dead_activations_stay_finite():
    taps = {tap: torch.zeros_like(x).requires_grad_() for tap, x in blocks(dtype=torch.float32).items()}
    total = sum(SADLoss(norm='mean_softmax')(taps, taps, batch()).values())
    total.backward()
    assert total == 0
    assert taps['stage2'].grad.abs().max() == 0


def test_identical_blocks_have_nothing_to_learn():
    x = blocks()['stage3']
    assert SADLoss(pairs=(('a', 'b'),))(dict(a=x), dict(b=x.clone()), batch())['a_b'] == 0


@pytest.mark.parametrize('detach', [True, False])
def test_only_the_shallow_block_moves_unless_told_otherwise(detach):
    taps = blocks(requires_grad=True)
    SADLoss(pairs=PAIRS[:1], detach_target=detach)(taps, taps, batch())['stage2_stage3'].backward()
    assert taps['stage2'].grad.abs().sum() > 0
    assert (taps['stage3'].grad is None) == detach


def test_large_activations_stay_finite_in_half_precision():
    taps = {tap: (200 * x).half() for tap, x in blocks(dtype=torch.float32).items()}
    assert all(x.square().sum(1).isinf().any() for x in taps.values())
    terms = SADLoss()(taps, taps, batch())
    assert all(value.isfinite() and value.dtype == torch.float32 for value in terms.values())


# --- as part of a Distiller ---
def make(toy, **options):
    return Distiller(dict(type=toy.Net), dict(stage2='stage2', stage3='stage3', stage4='stage4'),
                     dict(sad=dict(type=SADLoss, **options)))


def train(model, inputs, count):
    wrapper, names = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)), []
    for _ in range(count):
        names.append([name for name in model.train_step(dict(inputs=inputs, data_samples=None), wrapper)
                      if name.startswith('loss_')])
    return names


def test_a_self_distillation_begins_when_told_and_needs_no_teacher(image_toy):
    model, inputs = make(image_toy, begin=2).train(), image_toy.make_inputs()
    alone = copy.deepcopy(model.student)
    assert SADLoss().begin == 40_000
    assert train(model, inputs, 2) == [['loss_seg']] * 2
    train(alone, inputs, 2)
    assert all(torch.equal(a, b) for a, b in zip(alone.state_dict().values(), model.student.state_dict().values()))
    assert train(model, inputs, 1) == [['loss_seg', 'loss_sad_stage2_stage3', 'loss_sad_stage3_stage4']]
    train(alone, inputs, 1)
    assert not torch.equal(alone.stage1[0].weight, model.student.stage1[0].weight)


def test_the_deployed_student_has_no_trace_of_it(image_toy):
    plain, inputs = image_toy.Net(), image_toy.make_inputs()
    model = make(image_toy, begin=0, weight=10.).train()
    train(model, inputs, 2)
    state = model.state_dict()
    assert set(state) == {'iteration', *(f'student.{name}' for name in plain.state_dict())}
    student = model.student.eval()
    assert list(student.state_dict()) == list(plain.state_dict())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())

    class Deployed(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net.eval()

        def forward(self, images):
            return self.net(dict(images=images), mode='tensor')['logits']

    graphs = [torch.jit.trace(Deployed(net), inputs['images']).inlined_graph for net in (plain, student)]
    ops = [[node.kind() for node in graph.nodes()] for graph in graphs]
    assert ops[0] == ops[1]
    assert 'aten::convolution' in ops[0] or 'aten::_convolution' in ops[0]
    assert 'aten::softmax' not in ops[1]
    plain.load_state_dict(student.state_dict())
    assert torch.equal(Deployed(plain)(inputs['images']), model.eval()(inputs, mode='tensor')['logits'])


def test_it_lowers_its_own_value(image_toy):
    model, inputs = make(image_toy, begin=0, weight=100., norm='l2').train(), image_toy.make_inputs()
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), lr=1e-2))
    values = []
    for _ in range(30):
        logs = model.train_step(dict(inputs=inputs, data_samples=None), wrapper)
        values.append(sum(value.item() for name, value in logs.items() if name.startswith('loss_sad')))
    assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize(('options', 'message'), [
    (dict(power=0), 'power=0, expected a number above 0'), (dict(temperature=-1.), 'temperature=-1.0'),
    (dict(pool='mean'), "pool='mean', expected one of sum, max"),
    (dict(norm='softmx'), r"norm='softmx', expected one of softmax, mean_softmax, l2. Did you mean softmax"),
    (dict(pairs=('stage2', 'stage3')), r"pairs=\('stage2', 'stage3'\), expected .block, block it mimics."),
    (dict(pairs=()), r'pairs=\(\), expected')])
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ConfigError, match=f'SADLoss: {message}'):
        SADLoss(**options)


def test_a_missing_block_and_blocks_of_other_samples_are_refused(image_toy):
    with pytest.raises(ConfigError, match=r"reads the tap 'stage5', expected it among the taps of 'student'"):
        make(image_toy, pairs=(('stage4', 'stage5'),))
    taps = blocks()
    taps['stage3'] = taps['stage3'][:1]
    with pytest.raises(DataError, match="tap 'stage2 -> stage3': shape .2, 1, 4, 6. of the student against .1, 1, 4"):
        SADLoss()(taps, taps, batch())
