from math import pi

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from perception.ops import rotated
from perception.ops.rotated import giou_3d, iou_3d, nms_circle, nms_rotated, rotated_intersection, rotated_iou
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
SETS = ['random', 'crowd_people', 'crowd_cars', 'identical_or_turned', 'touching_contained', 'zero_size',
        'far_from_origin']


@pytest.fixture(scope='module')
def golden(shared):
    return np.load(shared / 'goldens/detection/rotated_A.npz')


def crowd(count, seed=0, spread=4.0):
    """Flat boxes of people (and some cars) that stand close together, and scores."""
    draw = torch.Generator().manual_seed(seed)
    places = torch.rand(count, 2, generator=draw, dtype=torch.float64) * spread
    sizes = .4 + .5 * torch.rand(count, 2, generator=draw, dtype=torch.float64)
    sizes[::5] *= 4
    yaws = 7 * torch.rand(count, 1, generator=draw, dtype=torch.float64) - 3.5
    return torch.cat([places, sizes, yaws], 1), torch.rand(count, generator=draw)


def upright(count, seed=0):
    """Boxes with height that lie across each other."""
    boxes = crowd(count, seed, 2.0)[0]
    z, h = torch.linspace(-.4, .5, count, dtype=torch.float64), torch.linspace(1, 2, count, dtype=torch.float64)
    return torch.stack([*boxes[:, :2].T, z, *boxes[:, 2:4].T, h, boxes[:, 4]], 1)


def polygon(box):
    x, y, l, w, yaw = box.tolist()  # noqa: E741
    ends = np.array([[l, -w], [l, w], [-l, w], [-l, -w]]) / 2
    return ends @ [[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]] + [x, y]


def clipped_area(a, b):
    """Common area of two boxes by cutting one polygon at each side of the other."""
    points, sides = polygon(a), polygon(b)
    for start, end in zip(sides, np.roll(sides, -1, 0)):
        left = np.cross(end - start, points - start)
        kept = []
        for i, (p, q) in enumerate(zip(points, np.roll(points, -1, 0))):
            one, two = left[i], left[(i + 1) % len(points)]
            kept += ([p] if one >= 0 else []) + ([p + (q - p) * one / (one - two)] if one * two < 0 else [])
        if len(kept) < 3:
            return 0.0
        points = np.array(kept)
    x, y = points.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


# ------------------------------------------------------------------------------------------------------------ overlap

@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', SETS)
def test_overlap_equals_exact_values(golden, name, device):
    a, b = (torch.from_numpy(golden[f'{name}/boxes_{key}']).to(device) for key in 'ab')
    exact = {key: torch.from_numpy(golden[f'{name}/{key}_exact']).to(device) for key in ('iou', 'intersection')}
    torch.testing.assert_close(rotated_iou(a, b), exact['iou'], rtol=0, atol=1e-9)
    torch.testing.assert_close(rotated_intersection(a, b), exact['intersection'], rtol=0, atol=1e-9)
    few = min(len(a), len(b))
    torch.testing.assert_close(rotated_iou(a[:few], b[:few], aligned=True), exact['iou'].diagonal(), rtol=0, atol=1e-9)


@pytest.mark.parametrize('device', DEVICES)
def test_overlap_equals_cut_polygons(device):
    a, b = crowd(25, 1)[0], crowd(20, 2)[0]
    expected = torch.tensor([[clipped_area(x, y) for y in b] for x in a], device=device)
    assert (expected > 0).sum() > 50 and (expected == 0).sum() > 50
    found = rotated_intersection(a.to(device), b.to(device))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotated_intersection(b.to(device), a.to(device)), expected.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize('shift', [0.0, 30.0, 1e5])
def test_boxes_whose_edges_coincide(shift):
    base = [shift, -shift, 4.0, 2.0, 0.3]
    c, s = np.cos(.3), np.sin(.3)
    others = {
        'identical': (base, 1.0), 'turned by pi': ([*base[:4], .3 + pi], 1.0),
        'turned by 2 pi': ([*base[:4], .3 - 2 * pi], 1.0), 'on its side': ([*base[:2], 2.0, 4.0, .3 + pi / 2], 1.0),
        'contained': ([*base[:2], 2.0, 1.0, .3], .25), 'contained, turned': ([*base[:2], 1.0, 1.0, 1.0], .125),
        'contained, edges in common': ([shift + c, -shift + s, 2.0, 2.0, .3], .5),
        'touching': ([shift + 4 * c, -shift + 4 * s, 4.0, 2.0, .3], 0.0),
        'touching at a corner': ([shift + 4 * c - 2 * s, -shift + 4 * s + 2 * c, 4.0, 2.0, .3], 0.0),
        'half beside': ([shift - s, -shift + c, 4.0, 2.0, .3], 1 / 3),
        'across': ([*base[:2], 2.0, 4.0, .3], 1 / 3), 'far': ([shift + 9, -shift, 4.0, 2.0, .3], 0.0)}
    boxes, expected = (torch.tensor(v, dtype=torch.float64) for v in zip(*others.values()))
    found = rotated_iou(torch.tensor([base], dtype=torch.float64), boxes)[0]
    wrong = {name: value for name, value, right in zip(others, found.tolist(), expected.tolist())
             if abs(value - right) > 1e-15 * (10 + 10 * shift)}
    assert not wrong
    assert (found <= 1 + 1e-12).all()


@pytest.mark.parametrize('turn', [pi / 2, pi / 4])
def test_boxes_on_a_grid_whose_edges_often_coincide(turn):
    rng = np.random.default_rng(0)
    boxes = torch.from_numpy(np.concatenate([rng.integers(-3, 4, (24, 2)) / 2, rng.integers(1, 5, (24, 2)) / 2,
                                             turn * rng.integers(-8, 9, (24, 1))], 1))
    for given in (boxes, boxes.float()):
        expected = torch.tensor([[clipped_area(x, y) for y in given] for x in given], dtype=torch.float64)
        torch.testing.assert_close(rotated_intersection(given, given), expected, rtol=0, atol=1e-12)


def test_boxes_without_a_size_have_no_overlap():
    boxes = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 3, 0, .4], [0, 0, -2, 1, 0], [0, 0, 2, 1, 0]], dtype=torch.float64)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[3, 3] = 1
    torch.testing.assert_close(rotated_iou(boxes, boxes), expected, rtol=0, atol=0)
    solid = boxes[:, [0, 1, 1, 2, 3, 3, 4]]
    torch.testing.assert_close(iou_3d(solid, solid), expected, rtol=0, atol=0)
    found = giou_3d(solid, solid)
    assert found.isfinite().all() and found[0, 0] == -1, 'no body at all encloses two points'


def test_not_a_number_gives_not_a_number():
    a, b = crowd(4)[0], crowd(3, 1)[0]
    a[1, 4], b[2, 0], a[3, 2] = torch.nan, torch.inf, torch.inf
    lost = torch.zeros(4, 3, dtype=torch.bool)
    lost[1], lost[3], lost[:, 2] = True, True, True
    for found in (rotated_iou(a, b), rotated_intersection(a, b)):
        assert torch.equal(found.isnan(), lost)
    assert rotated_iou(a[:3], b, aligned=True).isnan().tolist() == [False, True, True]
    solid = upright(3)
    solid[1, 2] = torch.nan
    for function in (iou_3d, giou_3d):
        assert function(solid, solid).isnan().sum() == 5 and function(solid, solid, aligned=True).isnan().sum() == 1


@pytest.mark.parametrize('function', [rotated_intersection, rotated_iou, iou_3d, giou_3d])
def test_all_with_all_is_rows_with_rows(function):
    boxes = upright if function in (iou_3d, giou_3d) else lambda *args: crowd(*args)[0]
    a, b = boxes(6, 3), boxes(5, 4)
    pairs = function(a.repeat_interleave(5, 0), b.repeat(6, 1), aligned=True).view(6, 5)
    torch.testing.assert_close(function(a, b), pairs, rtol=0, atol=1e-15)
    assert function(a[:0], b).shape == (0, 5) and function(a, b[:0]).shape == (6, 0)
    assert function(a[:0], b[:0], aligned=True).shape == (0,)
    assert function(a.float(), b.float()).dtype == torch.float64


def test_many_pairs_in_pieces(monkeypatch):
    a, b = upright(30, 5), upright(20, 6)
    expected = iou_3d(a, b), giou_3d(a, b), nms_rotated(*crowd(40), .1).double()
    monkeypatch.setattr(rotated, 'BLOCK', dict(cpu=7, cuda=7))
    monkeypatch.setattr('perception.ops.ranges.range_members.__defaults__', (3,))
    found = iou_3d(a, b), giou_3d(a, b), nms_rotated(*crowd(40), .1).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


# ----------------------------------------------------------------------------------------------------------- gradients

@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('function', [rotated_intersection, rotated_iou])
def test_gradients(function, device):
    a, b = (crowd(4, seed, 1.0)[0].to(device).requires_grad_() for seed in (7, 8))
    assert (rotated_iou(a, b) > 0).sum() > 8
    assert torch.autograd.gradcheck(lambda *v: function(*v, aligned=True), (a, b))
    assert torch.autograd.gradcheck(function, (a, b))


@pytest.mark.parametrize('function', [iou_3d, giou_3d])
def test_gradients_with_height(function):
    a, b = (upright(3, seed).requires_grad_() for seed in (9, 10))
    assert torch.autograd.gradcheck(lambda *v: function(*v, aligned=True), (a, b))
    assert torch.autograd.gradcheck(function, (a, b))


def test_gradient_along_the_axes_keeps_its_digits():
    a = torch.tensor([[0, 0, 4, 2, 0.0], [0, 0, 4, 2, pi / 2], [0, 0, 4, 2, -pi]], dtype=torch.float64)
    b = torch.tensor([[1, .5, 4, 2, pi], [.5, 1, 4, 2, 1.5 * pi], [1, .5, 2, 4, pi / 2]], dtype=torch.float64)
    a.requires_grad_()
    area = rotated_intersection(a, b, aligned=True)
    torch.testing.assert_close(area, torch.full_like(area, 4.5), rtol=0, atol=1e-14)
    area.sum().backward()
    # 1.5 m of its front and 3 m of its left side lie in the other box; a turn moves their middles by 0.25 m per rad
    # inwards and by 0.5 m outwards
    torch.testing.assert_close(a.grad[0], torch.tensor([1.5, 3, .75, 1.5, 1.125], dtype=torch.float64))
    torch.testing.assert_close(a.grad[1, :4], torch.tensor([3, 1.5, .75, 1.5], dtype=torch.float64))
    torch.testing.assert_close(a.grad[2], a.grad[0])


def test_gradient_of_coinciding_boxes_is_finite():
    boxes = crowd(5)[0].requires_grad_()
    (rotated_iou(boxes, boxes.detach(), aligned=True).sum() + rotated_iou(boxes, boxes).sum()).backward()
    assert boxes.grad.isfinite().all()


@pytest.mark.parametrize('device', DEVICES)
def test_volumes_equal_exact_values(shared, device):
    golden = np.load(shared / 'goldens/detection/rotated_iou3d_A.npz')
    a, b = (torch.from_numpy(golden[f'boxes_{key}_gravity']).double().to(device) for key in 'ab')
    b.requires_grad_()
    for function, name in ((giou_3d, 'giou3d_exact_convex_hull'), (iou_3d, 'iou3d_exact')):
        found = function(a, b, aligned=True)
        torch.testing.assert_close(found.detach().cpu(), torch.from_numpy(golden[name]), rtol=0, atol=1e-9)
    found.sum().backward()
    slope = torch.from_numpy(golden['iou3d_exact_grad_b_central_difference'])
    torch.testing.assert_close(b.grad.cpu()[4:], slope[4:], rtol=0, atol=1e-8)  # the first four were left out
    flat = torch.tensor([0, 1, 2, 3, 4, 5, 6])
    flat_a, flat_b = a.clone(), b.detach().clone()
    flat_a[:, 2], flat_b[:, 2], flat_a[:, 5], flat_b[:, 5] = 0, 0, 1, 1
    on_ground = giou_3d(flat_a[:, flat.to(device)], flat_b, aligned=True)
    torch.testing.assert_close(on_ground.cpu(), torch.from_numpy(golden['giou_bev_exact_convex_hull']), rtol=0,
                               atol=1e-9)


def test_volumes_of_all_with_all_equal_the_references(shared):
    golden = np.load(shared / 'goldens/detection/nuscenes_boxes_ops_A.npz')
    a, b = (torch.from_numpy(golden[name])[:, :7].double() for name in ('boxes_bottom', 'boxes2_bottom'))
    for boxes in (a, b):
        boxes[:, 2] += boxes[:, 5] / 2
    torch.testing.assert_close(iou_3d(a, b), torch.from_numpy(golden['overlaps_iou3d_exact']), rtol=0,
                               atol=1e-7)  # their common heights were computed in float32
    flat = [boxes[:, [0, 1, 3, 4, 6]] for boxes in (a, b)]
    mmdet3d = torch.from_numpy(golden['overlaps_bev_iou']).double()
    torch.testing.assert_close(rotated_iou(*flat), mmdet3d, rtol=0, atol=1e-5)


def test_hull_equals_that_of_scipy():
    a, b = upright(8, 11), upright(8, 12)
    a[0], b[1] = a[1], a[1]          # identical
    a[2, 6], b[2, 6] = 0, pi / 2     # along the axes
    b[3, :2] = a[3, :2] + 50         # far away
    b[4, [0, 1, 3, 4, 6]] = a[4, [0, 1, 3, 4, 6]] * torch.tensor([1, 1, .5, .5, 1])  # inside
    flat = [x[:, [0, 1, 3, 4, 6]] for x in (a, b)]
    hull = torch.tensor([ConvexHull(np.concatenate([polygon(x), polygon(y)])).volume for x, y in zip(*flat)],
                        dtype=torch.float64)
    top, bottom = (f(a[:, 2] + sign * a[:, 5] / 2, b[:, 2] + sign * b[:, 5] / 2)
                   for f, sign in ((torch.maximum, 1), (torch.minimum, -1)))
    volume, iou = hull * (top - bottom), iou_3d(a, b, aligned=True)
    union = (a[:, 3:6].prod(1) + b[:, 3:6].prod(1)) / (1 + iou)
    torch.testing.assert_close(giou_3d(a, b, aligned=True), iou - 1 + union / volume, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- suppression

@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', ['people', 'cars', 'tiny'])
def test_suppression_keeps_the_exact_boxes(golden, name, device):
    boxes, scores, labels = (torch.from_numpy(golden[f'nms_{name}/{key}']).to(device)
                             for key in ('boxes', 'scores', 'labels'))
    for threshold in (.1, .2, .5, .7):
        kept = nms_rotated(boxes, scores, threshold), nms_rotated(boxes, scores, threshold, labels)
        assert kept[0].tolist() == golden[f'nms_{name}/keep_exact_{threshold}'].tolist()
        assert kept[1].tolist() == golden[f'nms_{name}/keep_exact_labels_{threshold}'].tolist()
    for value in (.04, .175, .85, 4.0, 12.0):
        for radius, unit in ((value, 'metres'), (value ** .5, 'squared')):
            kept = nms_circle(boxes[:, :2], scores, radius)
            assert kept.tolist() == golden[f'nms_{name}/keep_circle_{unit}_{value}'].tolist()


def greedy(removes, scores):
    """What a loop over boxes keeps, `removes` (N, N) bool."""
    kept = []
    for row in sorted(range(len(scores)), key=lambda row: -scores[row]):
        if not any(removes[better, row] for better in kept):
            kept.append(row)
    return kept


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('seed', range(3))
def test_suppression_equals_a_loop_over_boxes(seed, device):
    boxes, scores = crowd(80, seed)
    labels = torch.arange(80) % 3
    same = labels[:, None] == labels
    iou, distance = rotated_iou(boxes, boxes), torch.cdist(boxes[:, :2], boxes[:, :2])
    inputs = boxes.to(device), scores.to(device)
    for threshold in (0.0, .3):
        assert nms_rotated(*inputs, threshold).tolist() == greedy(iou > threshold, scores)
        assert nms_rotated(*inputs, threshold, labels.to(device)).tolist() == greedy((iou > threshold) & same, scores)
    for radius in (.2, 1.0):
        centers = inputs[0][:, :2]
        assert nms_circle(centers, inputs[1], radius).tolist() == greedy(distance <= radius, scores)
        assert nms_circle(centers, inputs[1], radius, labels.to(device)).tolist() \
            == greedy((distance <= radius) & same, scores)


def test_a_long_chain_keeps_every_other_box():
    boxes = torch.zeros(301, 5)
    boxes[:, 0], boxes[:, 2:4] = torch.arange(301) * .8, 1
    scores = torch.arange(301.).flip(0)
    assert nms_rotated(boxes, scores, .1).tolist() == list(range(0, 301, 2))
    assert nms_circle(boxes[:, :2], scores, .9).tolist() == list(range(0, 301, 2))


def test_the_end_is_asked_for_seldom(monkeypatch):
    """On a GPU each question waits for it: a few for any number of boxes, none for each box."""
    asked = []
    monkeypatch.setattr(torch, 'equal', lambda a, b: asked.append(0) or bool((a == b).all()))
    assert len(nms_rotated(*crowd(1500, spread=30.0), .1)) > 300
    assert len(asked) <= 3


def test_equal_boxes_leave_one_and_equal_scores_the_first():
    boxes = torch.tensor([[1., 2, 3, 2, .5]]).repeat(4, 1)
    boxes[3, 4] += pi
    assert nms_rotated(boxes, torch.ones(4), .5).tolist() == [0]
    assert nms_circle(boxes[:, :2], torch.ones(4), 0.0).tolist() == [0]
    assert nms_rotated(boxes, torch.tensor([.1, torch.nan, .3, .2]), .5).tolist() == [2]
    assert nms_rotated(boxes, torch.ones(4), .5, torch.tensor([1, 0, 1, 0])).tolist() == [0, 1]
    assert nms_circle(torch.tensor([[0., 0], [3, 4]]), torch.ones(2), 5.0).tolist() == [0], 'the radius is inclusive'


def test_what_meets_nobody_stays():
    boxes = torch.tensor([[0., 0, 1, 1, 0], [torch.nan, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, torch.inf, 1, 1, 0],
                          [0, 0, 0, 0, 0], [0, 0, torch.inf, 1, 0]])
    scores = torch.tensor([.5, .9, .4, .8, .7, .6])
    assert nms_rotated(boxes, scores, .1).tolist() == [1, 3, 4, 5, 0]
    assert nms_circle(boxes[:4, :2], scores[:4], 1.0).tolist() == [1, 3, 0]
    nothing = torch.zeros(0, 5)
    assert nms_rotated(nothing, nothing[:, 0], .1).shape == nms_circle(nothing[:, :2], nothing[:, 0], 1.0).shape == (0,)
    assert nms_rotated(boxes[:1], scores[:1], .1).dtype == torch.int64


# --------------------------------------------------------------------------------------------------------------- checks

def test_shapes_that_do_not_fit_are_refused():
    boxes, solid = torch.zeros(3, 5), torch.zeros(3, 7)
    with pytest.raises(DataError, match=r'rotated_iou: shapes \(3, 7\) and \(3, 5\), expected \(N, 5\)'):
        rotated_iou(solid, boxes)
    with pytest.raises(DataError, match=r'iou_3d: shapes \(3, 7\) and \(2, 7\), expected \(N, 7\) twice'):
        iou_3d(solid, solid[:2], aligned=True)
    with pytest.raises(DataError, match=r'scores of shape \(2,\) for 3 boxes'):
        nms_rotated(boxes, torch.zeros(2), .5)
    with pytest.raises(DataError, match=r'labels of shape \(4,\) for 3 boxes'):
        nms_circle(boxes[:, :2], torch.zeros(3), .5, torch.zeros(4))
    with pytest.raises(DataError, match=r'nms_circle: shapes \(3, 5\)'):
        nms_circle(boxes, torch.zeros(3), .5)
    for value in (-1.0, torch.nan, torch.inf, None):
        with pytest.raises(ConfigError, match=f'threshold={value}'):
            nms_rotated(boxes, torch.zeros(3), value)
        with pytest.raises(ConfigError, match=f'radius={value}'):
            nms_circle(boxes[:, :2], torch.zeros(3), value)
