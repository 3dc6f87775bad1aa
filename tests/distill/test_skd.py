"""Structured distillation against slow implementations with loops, written here from the equations."""
import math

import numpy as np
import pytest
import torch

from perception.distill.kd import KDLoss
from perception.distill.skd import SKDLoss
from perception.utils.errors import ConfigError, DataError


def slow_pair(student, teacher):
    """Nodes (n, C) of one sample."""
    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    n = len(student)
    return sum((cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])) ** 2
               for i in range(n) for j in range(n)) / n ** 2


@pytest.mark.parametrize('kind', ['points', 'voxels', 'sparse'])
@pytest.mark.parametrize('size', [(2, 2, 1), (4, 3, 2), (100, 100, 100)])
def test_pairs_of_supervoxels_equal_the_equation(make_case, kind, size):
    case = make_case(kind)
    loss = SKDLoss('full', pixel_weight=0, region_size=size, rows=case.rows)
    assert loss.taps == ('feats',)
    coords = case.inputs['voxel_coords']
    coords = coords[case.inputs['point_to_voxel']] if kind == 'points' else coords
    losses = []
    for s, t, cells in zip(case.samples(case.student['feats']), case.samples(case.teacher['feats']),
                           case.samples(coords)):
        regions = {}
        for row, cell in enumerate(cells[:, 1:].tolist()):
            regions.setdefault(tuple(c // n for c, n in zip(cell, size)), []).append(row)
        losses.append(slow_pair(*([x[rows].mean(0) for rows in regions.values()] for x in (s, t))))
    value = loss(case.student, case.teacher, case.batch)['pair']
    assert value.item() == pytest.approx(np.mean(losses), rel=1e-10, abs=1e-15)


@pytest.mark.parametrize(('shape', 'pool'), [((6, 8), 2), ((6, 8), 1), ((5, 7), 3)])
def test_pairs_of_blocks_equal_the_equation(shape, pool):
    student, teacher = torch.randn(2, 4, *shape).double(), torch.randn(2, 5, *shape).double()
    value = SKDLoss('full', pixel_weight=0, pool=pool)(dict(feats=student), dict(feats=teacher), dict(inputs={}))
    rows, cols = (math.ceil(n / pool) for n in shape)
    losses = []
    for b in range(2):
        nodes = [[x[b, :, v * shape[0] // rows:-(-(v + 1) * shape[0] // rows),
                    u * shape[1] // cols:-(-(u + 1) * shape[1] // cols)].mean((1, 2)).numpy()
                  for v in range(rows) for u in range(cols)] for x in (student, teacher)]
        losses.append(slow_pair(*nodes))
    assert value['pair'].item() == pytest.approx(np.mean(losses), rel=1e-10)


def test_a_teacher_at_another_size_has_the_same_regions():
    student, teacher = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8)
    loss = SKDLoss('full', pixel_weight=0)
    large = teacher.repeat_interleave(2, 2).repeat_interleave(2, 3)
    first, second = (loss(dict(feats=student), dict(feats=x), dict(inputs={}))['pair'] for x in (teacher, large))
    assert first.item() == pytest.approx(second.item(), rel=1e-5)


def test_pixels_are_soft_labels_at_temperature_one(case):
    loss = SKDLoss('full', pixel_weight=10., pair_weight=0, rows=case.rows)
    assert loss.taps == ('logits',)
    terms = loss(case.student, case.teacher, case.batch)
    assert list(terms) == ['pixel']
    expected = KDLoss('full', temperature=1., rows=case.rows)(case.student, case.teacher, case.batch)
    assert terms['pixel'].item() == pytest.approx(10 * expected.item())


def test_both_terms_are_weighted(make_case):
    case = make_case('points')
    terms = SKDLoss('full', pixel_weight=2., pair_weight=3., region_size=(2, 2, 1))(
        case.student, case.teacher, case.batch)
    ones = SKDLoss('full', pixel_weight=1., pair_weight=1., region_size=(2, 2, 1))(
        case.student, case.teacher, case.batch)
    assert terms['pixel'].item() == pytest.approx(2 * ones['pixel'].item())
    assert terms['pair'].item() == pytest.approx(3 * ones['pair'].item())


@pytest.mark.parametrize(('options', 'message'), [
    (dict(pixel_weight=0, pair_weight=0), 'expected at least one above 0'), (dict(pair_weight=-1), 'pair_weight=-1'),
    (dict(region_size=(1, 2)), r'region_size=\(1, 2\), expected three numbers'),
    (dict(region_size=(2, 0, 1)), 'region_size=0'), (dict(pool=0), 'pool=0'), (dict(temperature=0), 'temperature=0')])
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ConfigError, match=f'SKDLoss: .*{message}'):
        SKDLoss('full', **options)


def test_cubes_of_another_level_than_the_cylindrical_grid_are_refused(make_case):
    case = make_case('sparse')
    finest = torch.zeros(len(case.student['feats'].feats) + 1, 4, dtype=torch.long)
    inputs = dict(case.inputs, supervoxel_coords=finest, supervoxel_grid=(4, 4, 4))
    with pytest.raises(DataError, match="rows of the tap 'feats' for .*Tap an output at full resolution"):
        SKDLoss('full', pixel_weight=0)(case.student, case.teacher, dict(inputs=inputs))


def test_points_without_a_grid_are_refused(make_case):
    case = make_case('points')
    del case.inputs['grid_shape']
    with pytest.raises(DataError, match='no voxel_coords or no grid_shape'):
        SKDLoss('full', pixel_weight=0)(case.student, case.teacher, case.batch)
