"""IntRA-KD against slow implementations with loops, written here from the equations."""
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import skew
from torch.utils._python_dispatch import TorchDispatchMode

from perception.distill.distiller import Distiller
from perception.distill.intra_kd import IntRAKDLoss, areas_of_interest, moments
from perception.distill.positions import cosine_affinity
from perception.distill.teachers import FrozenTeacher
from perception.utils.errors import ConfigError, DataError

N = 5
PAIRS = (dict(student='stage3', teacher='stage2', terms=('attention',)),
         dict(student='stage4', teacher='head_input', terms=('attention', 'affinity')))


def striped_labels(size=(24, 32), stripes=((1, 4), (3, 15), (4, 25)), ignored=20):
    """Upright lines, two pixels wide, on background; rows from `ignored` on have no label."""
    labels = torch.zeros(size, dtype=torch.int64)
    for k, u in stripes:
        labels[:, u:u + 2] = k
    labels[ignored:] = 255
    return labels


def make_batch():
    """An image with four classes, one with background alone, one that is ignored."""
    labels = torch.stack([striped_labels(), striped_labels(stripes=()), striped_labels(ignored=0)])
    return dict(inputs=dict(labels=labels), data_samples=None, iteration=0)


def taps(seed, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    shapes = dict(stage2=(3, 7, 12, 16), stage3=(3, 6, 6, 8), stage4=(3, 6, 6, 8), head_input=(3, 9, 6, 8),
                  logits=(3, N, 24, 32))
    return {tap: torch.randn(shape, generator=rng, dtype=dtype) for tap, shape in shapes.items()}


# --- slow implementations ---
def slow_areas(labels, size, kernel):
    """(n, H, W) bool: a pixel of the class within the kernel around some pixel of the cell."""
    height, width = labels.shape
    reach, result = kernel // 2, np.zeros((N, *size), bool)
    for k in range(N):
        grown = np.zeros((height, width), bool)
        for v, u in itertools.product(range(height), range(width)):
            grown[v, u] = (labels[max(v - reach, 0):v + reach + 1, max(u - reach, 0):u + reach + 1] == k).any()
        for v, u in itertools.product(range(size[0]), range(size[1])):
            rows = slice(v * height // size[0], -(-(v + 1) * height // size[0]))
            result[k, v, u] = grown[rows, u * width // size[1]:-(-(u + 1) * width // size[1])].any()
    return result


def slow_moments(feats, area, mode, clamp=10., eps=1e-5):
    """Three vectors for one class; feats (P, c), area (P,)."""
    if not area.any():
        return [np.zeros(feats.shape[1])] * 3
    if mode == 'literal':  # sums over all positions, also where M F is zero
        count, masked = (area != 0).sum(), feats * area[:, None]
        mean = masked.sum(0) / count
        var = ((masked - mean) ** 2).sum(0) / count
        return [mean, var, (((masked - mean) / (var + eps)) ** 3).sum(0) / count]
    part = feats[area]
    var = part.var(0)
    third = (((part - part.mean(0)) / np.sqrt(var + eps)) ** 3).mean(0)
    return [part.mean(0), var, third.clip(-clamp, clamp)]


def slow_graph(feats, areas, mode, orders):
    def cosine(a, b):
        return a @ b / max(np.linalg.norm(a), 1e-6) / max(np.linalg.norm(b), 1e-6)
    mu = [slow_moments(feats, area, mode) for area in areas]
    return np.array([[[cosine(mu[i][r - 1], mu[j][r - 1]) for j in range(N)] for i in range(N)] for r in orders])


def slow_affinity_loss(samples, mode='masked', orders=(1, 2, 3), normalise_by='present', min_pixels=4):
    """Samples: (student's feats, its areas, teacher's feats, its areas) for each image."""
    losses = []
    for s, area_s, t, area_t in samples:
        graph_s, graph_t = slow_graph(s, area_s, mode, orders), slow_graph(t, area_t, mode, orders)
        here = [k for k in range(N) if min(area_s[k].sum(), area_t[k].sum()) >= min_pixels]
        gap = sum((graph_s[r, i, j] - graph_t[r, i, j]) ** 2 for r in range(len(orders)) for i in here for j in here)
        if normalise_by == 'all':
            losses.append(gap / len(orders) / N ** 2)
        elif len(here) >= 2:
            losses.append(gap / len(orders) / len(here) ** 2)
    return np.mean(losses) if losses else 0.


# --- the terms ---
@pytest.mark.parametrize('grids', [('stage4', 'stage2'), ('stage2', 'stage4')], ids='-'.join)
@pytest.mark.parametrize('options', [
    {}, dict(moment_mode='literal'), dict(moment_orders=(1,)), dict(moment_orders=(2, 3)), dict(normalise_by='all'),
    dict(aoi_kernel=1), dict(min_pixels=17)], ids=str)
def test_affinity_equals_the_equations(options, grids):
    student, teacher, batch = taps(1), taps(2), make_batch()
    ours, theirs = grids  # 6 x 8 and 12 x 16 positions
    pairs = (dict(student=ours, teacher=theirs, terms=('affinity',)),)
    terms = IntRAKDLoss('full', N, pairs, alpha=(0, 0, 3.), **options)(student, teacher, batch)
    assert list(terms) == ['affinity']
    samples = []
    for b, labels in enumerate(batch['inputs']['labels'].numpy()):
        areas = [slow_areas(labels, x.shape[2:], options.get('aoi_kernel', 5)).reshape(N, -1)
                 for x in (student[ours], teacher[theirs])]
        samples.append((student[ours][b].flatten(1).T.numpy(), areas[0],
                        teacher[theirs][b].flatten(1).T.numpy(), areas[1]))
    names = dict(moment_mode='mode', moment_orders='orders')
    expected = slow_affinity_loss(samples, **{names.get(k, k): v for k, v in options.items() if k != 'aoi_kernel'})
    assert expected > 0
    assert terms['affinity'].item() == pytest.approx(3 * expected, rel=1e-8)


@pytest.mark.parametrize('kind', ['points', 'voxels', 'sparse'])
def test_affinity_of_points_takes_their_labels(make_case, kind):
    case = make_case(kind)
    pairs = (dict(student='feats', teacher='deep', terms=('affinity',)),)
    loss = IntRAKDLoss('full', N, pairs, alpha=(0, 0, 1.), rows=case.rows)
    samples = [(s, [labels == k for k in range(N)], t, [labels == k for k in range(N)]) for s, t, labels in
               zip(case.samples(case.student['feats']), case.samples(case.teacher['deep']), case.labels())]
    value = loss(case.student, case.teacher, case.batch)['affinity']
    assert value.item() == pytest.approx(slow_affinity_loss(samples), rel=1e-8)


@pytest.mark.parametrize('norm', ['softmax', 'l2'])
def test_attention_and_probability_equal_the_equations(norm):
    student, teacher, batch = taps(1), taps(2), make_batch()
    loss = IntRAKDLoss('full', N, PAIRS, alpha=(2., 3., 0.), temperature=2., attention_norm=norm)
    terms = loss(student, teacher, batch)
    assert list(terms) == ['probability', 'attention']

    labels = batch['inputs']['labels'].numpy()
    total = []
    for b, v, u in zip(*np.nonzero(labels != 255)):
        z_s, z_t = (x['logits'][b, :, v, u].numpy() / 2 for x in (student, teacher))
        p, q = (np.exp(z) / np.exp(z).sum() for z in (z_t, z_s))
        total.append(4 * sum(p[c] * np.log(p[c] / q[c]) for c in range(N)))
    assert terms['probability'].item() == pytest.approx(2 * np.mean(total), rel=1e-8)

    def normalised(x):
        return x / np.sqrt((x ** 2).sum()) if norm == 'l2' else np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    gaps = []
    for ours, theirs in (('stage3', 'stage2'), ('stage4', 'head_input')):
        for s, t in zip(student[ours].numpy(), teacher[theirs].numpy()):
            s, t = (s ** 2).sum(0), (t ** 2).sum(0)
            if t.shape != s.shape:  # twice as large: between the middle two of each four, so their mean
                t = t.reshape(6, 2, 8, 2).mean((1, 3))
            gaps.append(((normalised(s) - normalised(t)) ** 2).sum())
    assert terms['attention'].item() == pytest.approx(3 * np.mean(gaps), rel=1e-8)


def test_the_larger_attention_is_resized_whichever_net_has_it():
    student, teacher, batch = taps(1), taps(2), make_batch()
    pair = dict(student='stage3', teacher='stage2', terms=('attention',))
    value = IntRAKDLoss('full', N, (pair,), alpha=(0, 1., 0))(student, teacher, batch)['attention']
    pair = dict(student='stage2', teacher='stage3', terms=('attention',))
    assert IntRAKDLoss('full', N, (pair,), alpha=(0, 1., 0))(teacher, student, batch)['attention'] == value


def test_only_labelled_pixels_make_the_probability_term():
    student, teacher, batch = taps(1), taps(2), make_batch()
    loss = IntRAKDLoss('full', N, (), alpha=(1., 0, 0))
    first = loss(student, teacher, batch)['probability']
    teacher['logits'][:, :, 20:] += torch.randn(N, 1, 1)
    assert loss(student, teacher, batch)['probability'] == first


# --- areas of interest ---
@pytest.mark.parametrize(('size', 'kernel'), [((6, 8), 5), ((7, 9), 3), ((24, 32), 11), ((12, 16), 1)])
def test_areas_are_the_grown_labels(size, kernel):
    labels = torch.randint(0, 60, (2, 24, 32), generator=torch.Generator().manual_seed(0))
    labels[labels >= N] = 0
    labels[0, :10, :12] = 255
    areas = areas_of_interest(labels, N, size, kernel)
    for b in range(2):
        assert np.array_equal(areas[b].numpy(), slow_areas(labels[b].numpy(), size, kernel))


def test_a_thin_line_survives():
    labels = torch.zeros(1, 64, 96, dtype=torch.int64)
    labels[0, :, 37] = 3  # nearest neighbour at an eighth of the size would see columns 0, 8, 16, ...
    assert areas_of_interest(labels, N, (8, 12), 1)[0, 3].any(1).all()
    assert areas_of_interest(labels, N, (8, 12), 5)[0, 3].sum() == 8
    assert areas_of_interest(labels, N, (8, 12), 5)[0, 4].sum() == 0


def test_soft_areas_are_blurred_labels():
    labels = striped_labels()[None]
    soft = areas_of_interest(labels, N, (24, 32), 3, soft=True)[0]
    for v, u in ((0, 0), (10, 3), (10, 4), (10, 15), (19, 25), (20, 25), (23, 31)):
        for k in range(N):
            around = labels[0, max(v - 1, 0):v + 2, max(u - 1, 0):u + 2] == k
            assert soft[k, v, u].item() == pytest.approx(around.sum().item() / 9)
    value = IntRAKDLoss('full', N, PAIRS, alpha=(0, 0, 1.), soft=True)(taps(1), taps(2), make_batch())['affinity']
    assert 0 < value < 4


# --- moments ---
def test_masked_moments_are_mean_variance_and_skewness():
    rng = np.random.default_rng(0)
    feats = rng.gamma(2., 1., (2, 200, 6)) + 3
    area = rng.random((2, N, 200)) < 0.3
    area[1, 4] = False
    found = moments(torch.from_numpy(feats).float(), torch.from_numpy(area).float()).numpy()
    assert found.dtype == np.float32
    for b, k in itertools.product(range(2), range(N)):
        part = feats[b, area[b, k]]
        if not len(part):
            assert not found[b, :, k].any()
            continue
        assert np.allclose(found[b, 0, k], part.mean(0), atol=1e-4)
        assert np.allclose(found[b, 1, k], part.var(0), atol=1e-4)
        assert np.allclose(found[b, 2, k], skew(part, bias=True), atol=1e-3)


def test_a_constant_channel_has_no_skewness_and_an_outlier_is_clamped():
    feats, area = torch.rand(1, 400, 3), torch.zeros(1, 1, 400)
    area[:, :, :150] = 1
    feats[:, :150, 0] = 0.  # switched off in the area, active elsewhere
    feats[:, :150, 1] = 7.3
    feats[:, :150, 2] = 0.
    feats[:, 0, 2] = 1000.
    _, var, third = moments(feats.requires_grad_(), area)[0, :, 0]
    assert var[:2].abs().max() < 1e-8
    assert third[:2].abs().max() < 1e-4
    assert third[2] == 10
    third.sum().backward()
    assert feats.grad.isfinite().all()


def test_no_tensor_has_classes_times_channels_times_positions():
    classes, channels, positions = 37, 24, 600

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(x, torch.Tensor):
                    Largest.numel = max(Largest.numel, x.numel())
            return out

    for mode in ('masked', 'literal'):
        feats = torch.randn(1, positions, channels, requires_grad=True)
        with Largest():
            cosine_affinity(moments(feats, torch.rand(1, classes, positions), mode)).sum().backward()
    assert channels * positions <= Largest.numel <= 2 * classes * positions


# --- properties ---
def test_affinity_is_blind_to_scale_order_of_channels_and_absent_classes():
    student, teacher, batch = taps(1), taps(2), make_batch()

    def value(student, classes=N, **options):
        loss = IntRAKDLoss('full', classes, PAIRS, alpha=(0, 0, 1.), **options)
        return loss(student, teacher, batch)['affinity'].item()

    first = value(student)
    scaled = dict(student, stage4=100 * student['stage4'][:, torch.randperm(6)])
    assert value(scaled) == pytest.approx(first, rel=1e-3)  # the eps of the skewness is not scaled
    assert value(student, N + 3) == pytest.approx(first)
    scarce = first * 4 ** 2 / (N + 3) ** 2 / 3  # 4 classes, in one image of three
    assert value(student, N + 3, normalise_by='all') == pytest.approx(scarce)


@pytest.mark.parametrize('stripes', [(), ((2, 10),)])
def test_an_image_without_two_classes_has_no_affinity(stripes):
    labels = striped_labels(stripes=stripes)[None]
    if stripes:
        labels[labels == 0] = 255
    student, teacher = ({tap: x[:1] for tap, x in taps(seed).items()} for seed in (1, 2))
    student['stage4'].requires_grad_()
    loss = IntRAKDLoss('full', N, PAIRS, alpha=(0, 0, 1.))
    value = loss(student, teacher, dict(inputs=dict(labels=labels)))['affinity']
    assert value.abs() < 1e-12
    value.backward()
    assert student['stage4'].grad.isfinite().all()


def test_taps_are_those_of_the_terms_in_use():
    loss = IntRAKDLoss('full', N, PAIRS)
    assert loss.taps == ('logits', 'stage3', 'stage4')
    assert loss.teacher_taps == ('logits', 'stage2', 'head_input')
    loss = IntRAKDLoss('full', N, PAIRS, alpha=(0, 0, 1.))
    assert (loss.taps, loss.teacher_taps) == (('stage4',), ('head_input',))


def test_affinity_is_learned_alone(image_toy):
    teacher_taps = dict(stage2='stage2', head_input='stage4', logits='logits')
    teacher = dict(type=FrozenTeacher, model=dict(type=image_toy.Net, width=10), taps=teacher_taps)
    model = Distiller(dict(type=image_toy.Net), dict(stage3='stage3', stage4='stage4', logits='logits'),
                      dict(intra=dict(type=IntRAKDLoss, teacher='full', num_classes=N, feature_pairs=PAIRS,
                                      min_pixels=2)), dict(full=teacher))
    inputs, optimiser = image_toy.make_inputs(), torch.optim.Adam(model.parameters(), lr=1e-2)
    values = []
    for _ in range(20):
        losses = model(inputs, mode='loss')
        assert list(losses) == ['loss_seg', 'loss_intra_probability', 'loss_intra_attention', 'loss_intra_affinity']
        values.append(losses['loss_intra_affinity'].item())
        optimiser.zero_grad()
        losses['loss_intra_affinity'].backward()
        optimiser.step()
    assert values[0] > 0
    assert values[-1] < 0.4 * values[0]  # measured: 0.01 to 0.12, by the seed


def test_unlike_taps_are_refused(image_toy):
    teacher = dict(type=FrozenTeacher, model=dict(type=image_toy.Net), taps=dict(stage2='stage2', logits='logits'))
    with pytest.raises(ConfigError, match="reads the tap 'head_input', expected it among the taps of 'full'"):
        Distiller(dict(type=image_toy.Net), dict(stage3='stage3', stage4='stage4', logits='logits'),
                  dict(intra=dict(type=IntRAKDLoss, teacher='full', num_classes=N, feature_pairs=PAIRS)),
                  dict(full=teacher))
    student, batch = taps(1), make_batch()
    with pytest.raises(DataError, match=r"shape \(3, 6, 6, 8\) of the tap 'stage4'.*\(2, 9, 6, 8\) of 'head_input'"):
        IntRAKDLoss('full', N, PAIRS, alpha=(0, 0, 1))(student, {k: x[:2] for k, x in taps(2).items()}, batch)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(aoi_kernel=4), 'aoi_kernel=4, expected an odd number'), (dict(aoi_kernel=0), 'aoi_kernel=0'),
    (dict(moment_orders=(1, 4)), r'moment_orders=\(1, 4\), expected some of 1, 2, 3'),
    (dict(moment_orders=()), r'moment_orders=\(\)'),
    (dict(moment_mode='mask'), r"moment_mode='mask', expected one of masked, literal. Did you mean masked\?"),
    (dict(normalise_by='none'), "normalise_by='none', expected one of present, all"),
    (dict(alpha=(0, 0, 0)), r'alpha=\(0, 0, 0\), expected three weights'),
    (dict(alpha=(0, 1, 0), feature_pairs=PAIRS[:0]), 'expected a pair for a term whose weight is not 0'),
    (dict(alpha=(1, 1)), r'alpha=\(1, 1\)'), (dict(num_classes=0), 'num_classes=0, expected a number above 0'),
    (dict(feature_pairs=(dict(student='a', teacher='b', terms='affinity'),)), 'among the feature_pairs, expected'),
    (dict(feature_pairs=(dict(student='a', terms=('affinity',)),)), 'among the feature_pairs, expected the keys'),
    (dict(feature_pairs=(dict(student='a', teacher='b', terms=('moment',)),)), 'some of attention, affinity')])
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ConfigError, match=f'IntRAKDLoss: .*{message}'):
        IntRAKDLoss('full', **dict(dict(num_classes=N), **options))
