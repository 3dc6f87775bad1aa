"""PVD against slow implementations with loops, written here from the equations."""
import inspect
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perception.distill.pvd import (
    PVDLoss,
    affinity,
    affinity_loss,
    draw_without_replacement,
    keep_members,
    supervoxel_index,
)
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
SETTINGS = dict(teacher='full', minority_classes=[1, 3], supervoxel_size=(5, 4, 2), num_supervoxels=3, num_points=20,
                num_voxels=9)


def recorded(inputs, seed, channels, classes, sparse=False):
    """Made-up outputs of one net at the four taps."""
    rng = torch.Generator().manual_seed(seed)
    rows = dict(point=len(inputs['labels']), voxel=len(inputs['voxel_coords']))
    taps = {f'{kind}_{what}': torch.randn(count, width, generator=rng) for kind, count in rows.items()
            for what, width in (('logits', classes), ('feats', channels))}
    if sparse:
        taps.update({name: SimpleNamespace(feats=taps[name]) for name in ('voxel_logits', 'voxel_feats')})
    return taps


# --- slow implementations ---
def slow_kl(p_logits, q_logits):
    """KL(p || q) of one row of logits."""
    p, q = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (p_logits, q_logits))
    return sum(p[c] * (math.log(p[c]) - math.log(q[c])) for c in range(len(p)))


def slow_affinity_loss(student, teacher, groups, size):
    """Loops over supervoxels and pairs; `groups` holds the rows of each drawn supervoxel."""
    def cosine(a, b):
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / norms) if norms > 0 else 0.
    total = 0.
    for rows in groups:
        for i, j in itertools.product(rows, rows):
            total += (cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])) ** 2
    return total / (len(groups) * size ** 2)


def slow_mean_of_pairs(student, teacher, groups, _):
    """The same, a mean over the pairs there are."""
    gaps = []
    for rows in groups:
        for i, j in itertools.product(rows, rows):
            a, b = ((x[i] * x[j]).sum() / np.sqrt((x[i] ** 2).sum() * (x[j] ** 2).sum()) for x in (student, teacher))
            gaps.append((a - b) ** 2)
    return np.mean(gaps)


def slow_supervoxels(coords, grid, size):
    _, num_phi, num_z = (math.ceil(g / s) for g, s in zip(grid, size))
    return [(r // size[0] * num_phi + a // size[1]) * num_z + h // size[2] for _, r, a, h in coords.tolist()]


# --- the terms ---
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('options', [{}, dict(direction='student_teacher'), dict(reading='literal'),
                                     dict(mask_ignored=True), dict(reading='literal', mask_ignored=True)], ids=str)
def test_all_terms_equal_the_equations(toy, options, device):
    inputs = toy.make_inputs(150)
    student, teacher = recorded(inputs, 1, 6, toy.classes), recorded(inputs, 2, 11, toy.classes, sparse=True)
    loss = PVDLoss(**SETTINGS, alpha=(2., 3.), beta=(4., 5.), **options)
    torch.manual_seed(7)
    points, voxels = loss.sample(inputs)
    expected = {}
    for kind, labels, alpha in (('point', inputs['labels'], 2.), ('voxel', inputs['voxel_labels'], 3.)):
        s, t = student[f'{kind}_logits'], teacher[f'{kind}_logits']
        s, t = (getattr(x, 'feats', x).double().numpy() for x in (s, t))
        rows = [n for n in range(len(s)) if not options.get('mask_ignored') or labels[n] != 255]
        pair = (s, t) if options.get('direction') == 'student_teacher' else (t, s)
        total = sum(slow_kl(pair[0][n], pair[1][n]) for n in rows)
        expected[f'output_{kind}'] = alpha * total / len(rows) / (toy.classes if 'reading' in options else 1)
    for kind, members, beta in (('point', points, 4.), ('voxel', voxels, 5.)):
        s, t = student[f'{kind}_feats'], teacher[f'{kind}_feats']
        s, t = (getattr(x, 'feats', x).double().numpy() for x in (s, t))
        groups = [[i for i in row if i >= 0] for row in members.tolist()]
        slow = slow_affinity_loss if 'reading' in options else slow_mean_of_pairs
        expected[f'affinity_{kind}'] = beta * slow(s, t, groups, members.shape[1])

    def move(taps):
        return {k: SimpleNamespace(feats=v.feats.to(device)) if hasattr(v, 'feats') else v.to(device) if
                isinstance(v, torch.Tensor) else v for k, v in taps.items()}

    loss = loss.to(device)
    loss.sample = lambda _: (points.to(device), voxels.to(device))  # the CPU's draw on any device
    terms = loss(move(student), move(teacher), dict(inputs=move(inputs)))
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=2e-5), name


def test_each_reading_has_its_weights():
    assert [PVDLoss(**SETTINGS, **options).alpha for options in (
        {}, dict(reading='literal'), dict(reading='literal', alpha=[1., 2.]))] == [(.4, .6), (.1, .15), (1., 2.)]
    assert {PVDLoss(**SETTINGS, reading=reading).beta for reading in ('literal', 'practical')} == {(.15, .25)}


def test_padding_counts_in_the_literal_mean_alone():
    student, teacher = torch.randn(5, 3), torch.randn(5, 4)
    members = torch.tensor([[0, 1, -1], [2, 3, 4], [-1, -1, -1]])
    wide = torch.cat([members, torch.full((3, 3), -1)], 1)
    narrow, padded = (affinity_loss(student, teacher, x, literal=True) for x in (members, wide))
    assert padded.item() == pytest.approx(narrow.item() / 4, rel=1e-6)
    narrow, padded = (affinity_loss(student, teacher, x, literal=False) for x in (members, wide))
    assert padded.item() == pytest.approx(narrow.item(), rel=1e-6)
    assert narrow.item() == pytest.approx(affinity_loss(student, teacher, members).item() * 18 / 13, rel=1e-6)
    nobody = torch.full((2, 3), -1)
    assert affinity_loss(student, teacher, nobody, literal=False) == 0


def test_unlabelled_points_are_taught_unless_masked(toy):
    inputs = toy.make_inputs()
    inputs['labels'][:], inputs['voxel_labels'][:] = 255, 255
    student, teacher = recorded(inputs, 1, 6, toy.classes), recorded(inputs, 2, 11, toy.classes)
    for masked in (False, True):
        terms = PVDLoss(**SETTINGS, mask_ignored=masked)(student, teacher, dict(inputs=inputs))
        assert [bool(value) for value in terms.values()] == [not masked, not masked, True, True]


def test_the_draw_repeats_with_the_seed(toy):
    inputs = toy.make_inputs()
    loss = PVDLoss(**SETTINGS)
    student, teacher = recorded(inputs, 1, 6, toy.classes), recorded(inputs, 2, 11, toy.classes)

    def terms(seed):
        torch.manual_seed(seed)
        return loss(student, teacher, dict(inputs=inputs))
    first, again, other = terms(1), terms(1), terms(2)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert first['affinity_point'] != other['affinity_point']
    assert torch.equal(first['output_point'], other['output_point'])


def test_float32_under_autocast(toy):
    inputs = toy.make_inputs()
    student, teacher = recorded(inputs, 1, 6, toy.classes), recorded(inputs, 2, 11, toy.classes)
    student, teacher = ({k: v.bfloat16() for k, v in taps.items()} for taps in (student, teacher))
    loss = PVDLoss(**SETTINGS)
    torch.manual_seed(0)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = loss(student, teacher, dict(inputs=inputs))
    torch.manual_seed(0)
    full = loss({k: v.float() for k, v in student.items()}, {k: v.float() for k, v in teacher.items()},
                dict(inputs=inputs))
    for name in full:
        assert mixed[name].dtype == torch.float32
        assert torch.equal(mixed[name], full[name])


def test_gradients_of_zero_features_are_finite():
    feats = torch.zeros(6, 3, requires_grad=True)
    members = torch.tensor([[0, 1, 2, -1], [3, 4, 5, -1]])
    affinity_loss(feats, torch.randn(6, 3), members).backward()
    assert torch.isfinite(feats.grad).all()


def test_affinity_by_hand():
    feats = torch.tensor([[1., 0.], [0., 2.], [3., 3.]])
    half = math.sqrt(0.5)
    expected = torch.tensor([[[1., 0., half, 0.], [0., 1., half, 0.], [half, half, 1., 0.], [0., 0., 0., 0.]]])
    torch.testing.assert_close(affinity(feats, torch.tensor([[0, 1, 2, -1]])), expected)


# --- supervoxels ---
@pytest.mark.parametrize(('grid', 'size', 'count'), [((480, 360, 32), (120, 60, 8), 96),
                                                     ((960, 480, 32), (120, 60, 8), 256), ((12, 8, 4), (5, 3, 4), 9)])
def test_supervoxel_partition(grid, size, count):
    rng = np.random.default_rng(0)
    coords = torch.from_numpy(np.stack([np.zeros(500, np.int64), *(rng.integers(0, g, 500) for g in grid)], 1))
    coords[0, 1:] = torch.tensor(grid) - 1
    index, num = supervoxel_index(coords[:, 1:], grid, size)
    assert num == count
    assert index.tolist() == slow_supervoxels(coords, grid, size)
    assert index[0] == count - 1


def test_weights_by_hand():
    loss = PVDLoss('full', [0], supervoxel_size=(120, 180, 32), rho_range=(2., 50.))
    occupied = torch.tensor([[5, 5, 5, 0, 5, 5, 5, 5]])  # 4 rings, 2 sectors
    minor = torch.tensor([[0, 1, 0, 0, 3, 0, 0, 0]])
    weights = loss.sampling_weights(occupied, minor, (480, 360, 32))
    cell = 48 / 479
    distance = [min(2 + (ring + 1) * 120 * cell, 50.) for ring in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert distance[6] == 50.  # the outer arc of the last ring is the range itself
    frequency = [5, 4 * math.exp(-2) + 1, 5, 5, 4 * math.exp(-6) + 1, 5, 5, 5]
    expected = [d / 50 / f / 8 for d, f in zip(distance, frequency)]
    expected[3] = 0.
    torch.testing.assert_close(weights, torch.tensor([expected]))


def test_draws_follow_the_weights():
    torch.manual_seed(0)
    weights, draws = torch.tensor([0.1, 0.4, 0., 0.2, 0.3]), 40_000
    picks = draw_without_replacement(weights.expand(draws, 5), 2)
    first = torch.bincount(picks[:, 0], minlength=5) / draws
    assert torch.allclose(first, weights, atol=0.01)  # four standard deviations
    pairs = torch.zeros(5, 5).index_put_((picks[:, 0], picks[:, 1]), torch.ones(draws), accumulate=True) / draws
    for i, j in itertools.permutations(range(5), 2):
        assert float(pairs[i, j]) == pytest.approx(float(weights[i] * weights[j] / (1 - weights[i])), abs=0.01)
    assert pairs.diagonal().sum() == 0


def test_supervoxels_are_drawn_by_their_difficulty(toy):
    """Through the whole of `sample`: rarity and distance decide, scan by scan."""
    inputs = toy.make_inputs(400)
    loss = PVDLoss('full', [1], supervoxel_size=(4, 8, 4), num_supervoxels=1, num_points=4, num_voxels=4,
                   rho_range=(0., 11.))  # three rings
    inputs['voxel_labels'] = torch.where((inputs['voxel_labels'] == 1) & (inputs['voxel_coords'][:, 1] >= 4), 0,
                                         inputs['voxel_labels'])
    minor = [(inputs['voxel_labels'][inputs['voxel_coords'][:, 0] == b] == 1).sum().item() for b in range(2)]
    weights = np.array([[4 / 11 / (4 * math.exp(-2 * m) + 1), 8 / 11 / 5, 11 / 11 / 5] for m in minor])
    weights /= weights.sum(1, keepdims=True)
    counts = np.zeros((2, 3))
    torch.manual_seed(0)
    for _ in range(1500):
        _, voxels = loss.sample(inputs)
        for scan, ring in (inputs['voxel_coords'][voxels[:, 0], :2] // torch.tensor([1, 4])).tolist():
            counts[scan, ring] += 1
    assert np.allclose(counts / 1500, weights, atol=0.05)  # four standard deviations


@pytest.mark.parametrize('device', DEVICES)
def test_members_are_the_right_ones(toy, device):
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in toy.make_inputs(800).items()}
    loss = PVDLoss(**SETTINGS).to(device)
    points, voxels = loss.sample(inputs)
    assert points.shape == (6, 20)
    assert voxels.shape == (6, 9)
    index = slow_supervoxels(inputs['voxel_coords'], toy.grid, SETTINGS['supervoxel_size'])
    of_voxel = [(b, i) for b, i in zip(inputs['voxel_coords'][:, 0].tolist(), index)]
    of_point = [of_voxel[v] for v in inputs['point_to_voxel'].tolist()]
    drawn = []
    for members, where, labels, size in ((points, of_point, inputs['labels'].tolist(), 20),
                                         (voxels, of_voxel, inputs['voxel_labels'].tolist(), 9)):
        for slot, row in enumerate(members.tolist()):
            row = [i for i in row if i >= 0]
            assert len(set(row)) == len(row)
            group = {where[i] for i in row}
            assert len(group) == 1
            drawn.append((slot, *group))
            everyone = [i for i, g in enumerate(where) if g in group]
            minor = {i for i in everyone if labels[i] in SETTINGS['minority_classes']}
            assert len(row) == min(len(everyone), size)
            assert minor <= set(row) if len(minor) <= size else set(row) <= minor
    assert len(set(drawn)) == 6  # points and voxels of the same six supervoxels
    assert sorted(scan for _, (scan, _) in set(drawn)) == [0, 0, 0, 1, 1, 1]


def test_members_of_the_majority_are_discarded_at_random():
    torch.manual_seed(0)
    slots, minor = torch.tensor([0, 0, -1, 0, 0, 0, 1]), torch.tensor([0, 1, 1, 0, 0, 0, 0]).bool()
    counts = torch.zeros(7)
    for _ in range(2000):
        members = keep_members(slots, minor, 3, 3)
        counts += torch.bincount(members[members >= 0], minlength=7)
        assert (members[2] == -1).all()
    counts /= 2000
    assert counts[[1, 6]].tolist() == [1, 1]
    assert counts[2] == 0
    assert torch.allclose(counts[[0, 3, 4, 5]], torch.tensor(0.5), atol=0.05)


# --- corners ---
def test_more_supervoxels_wanted_than_occupied(toy):
    """A scan with one occupied supervoxel, a scan with two, and one without points; the mean counts three."""
    inputs = toy.make_inputs(40)
    coords = inputs['voxel_coords']
    coords[:, 1:] = torch.minimum(coords[:, 1:], torch.tensor([4, 3, 1]))
    coords[-1, 1] = 11  # of the second scan
    inputs['batch_size'] = 3
    loss = PVDLoss(**dict(SETTINGS, num_supervoxels=50, num_points=40, num_voxels=40, reading='literal'))
    student, teacher = recorded(inputs, 1, 6, toy.classes), recorded(inputs, 2, 11, toy.classes)
    terms = loss(student, teacher, dict(inputs=inputs))
    scan = coords[:, 0].tolist()
    groups = [[i for i, b in enumerate(scan) if b == 0], [i for i, b in enumerate(scan) if b == 1][:-1],
              [len(scan) - 1]]
    expected = 0.25 * slow_affinity_loss(student['voxel_feats'].numpy(), teacher['voxel_feats'].numpy(), groups, 40)
    assert terms['affinity_voxel'].item() == pytest.approx(expected, rel=1e-5)


def test_bad_batches_are_refused(toy):
    inputs = toy.make_inputs(30)
    loss = PVDLoss(**SETTINGS)
    student, teacher = recorded(inputs, 1, 6, toy.classes), recorded(inputs, 2, 11, toy.classes)
    with pytest.raises(DataError, match="no 'voxel_labels', expected a labelled batch"):
        loss(student, teacher, dict(inputs={k: v for k, v in inputs.items() if k != 'voxel_labels'}))
    with pytest.raises(DataError, match="tap 'point_feats' of the teacher has 29 rows, expected .* 30 points"):
        loss(student, dict(teacher, point_feats=teacher['point_feats'][1:]), dict(inputs=inputs))
    cubes = dict(inputs, voxel_feats=torch.zeros(len(inputs['voxel_coords']), 4))
    with pytest.raises(DataError, match='voxels of the batch are cubes, expected a cylindrical grid'):
        loss(student, teacher, dict(inputs=cubes))
    grid = dict(supervoxel_coords=inputs['voxel_coords'], supervoxel_grid=inputs['grid_shape'])
    assert loss(student, teacher, dict(inputs=dict(cubes, **grid)))


@pytest.mark.parametrize(('bad', 'message'), [
    (dict(direction='teacher'), "direction='teacher', expected one of teacher_student, student_teacher. Did you mean"),
    (dict(reading='practicle'), "reading='practicle', expected one of practical, literal. Did you mean practical"),
    (dict(num_points=0), 'num_points=0, expected a whole number of at least 1'),
    (dict(num_supervoxels=2.5), 'num_supervoxels=2.5'),
    (dict(supervoxel_size=(120, 60)), r'supervoxel_size=\(120, 60\), expected three'),
    (dict(supervoxel_size=(120, 0, 8)), r'supervoxel_size\[1\]=0'),
    (dict(alpha=0.4), 'alpha=0.4, expected two numbers of at least 0'),
    (dict(alpha=(0.4,)), r'alpha=\(0.4,\), expected two'), (dict(beta=(0.1, -1)), r'beta=\(0.1, -1\), expected two'),
    (dict(rho_range=(50., 0.)), r'rho_range=\(50.0, 0.0\), expected 0 <= first < last')])
def test_bad_arguments_are_refused(bad, message):
    with pytest.raises(ConfigError, match=message):
        PVDLoss(**{**SETTINGS, **bad})


# --- the reader's path ---
def test_the_formula_is_one_click_from_the_config(root):
    config = (root / 'configs/pvd/cylinder3d_kitti.py').read_text()
    assert 'from perception.distill.pvd import PVDLoss\n' in config
    assert len(config.splitlines()) <= 60
    source = inspect.getsource(PVDLoss.forward)
    for term, equation in (('output_point', '(1)'), ('output_voxel', '(2)'), ('affinity_point', '(5)'),
                           ('affinity_voxel', '(6)')):
        assert any(line.strip().startswith(f'{term}=') and line.rstrip().endswith(f'# {equation}')
                   for line in source.splitlines())
