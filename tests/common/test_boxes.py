import warnings
from math import pi

import numpy as np
import pytest
import torch

from perception.common import boxes as module
from perception.common.boxes import (
    CORNERS,
    EDGES,
    NuScenesBoxes,
    corners,
    flat,
    flip,
    from_kitti,
    from_nuscenes,
    hull_2d,
    kitti_alpha,
    points_in_boxes,
    project,
    project_points,
    rotate,
    scale,
    to_kitti,
    to_nuscenes,
    transform,
    translate,
    wrap,
)
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
# a camera 100 pixels wide and high at the LiDAR: x forward becomes depth, y left u, z up v, focal length 50
CAMERA = np.array([[50.0, -50, 0, 0], [50, 0, -50, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture(scope='module')
def frame(shared):
    """Boxes of the real frame as the development kit has them."""
    return np.load(shared / 'goldens/detection/nuscenes_boxes_A.npz')


@pytest.fixture(scope='module')
def ops(shared):
    return np.load(shared / 'goldens/detection/nuscenes_boxes_ops_A.npz')


def centred(bottom):
    """Boxes with their centre in the middle of their height, not at the bottom."""
    bottom = bottom.astype(np.float64)
    bottom[:, 2] += bottom[:, 5] / 2
    return bottom


def some(count=6, columns=9, seed=0):
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(-20, 20, (count, 3)), rng.uniform(.3, 5, (count, 3)),
                            rng.uniform(-pi, pi, (count, 1)), rng.normal(0, 2, (count, 2))], 1)
    boxes[1, 7:] = np.nan
    return boxes[:, :columns]


def tilted(seed=0):
    """A rigid transform between frames whose z axes nearly agree."""
    angle, lean = np.random.default_rng(seed).uniform(-3, 3), .02
    c, s, a, b = np.cos(angle), np.sin(angle), np.cos(lean), np.sin(lean)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, a, -b], [0, b, a]]
    matrix[:3, 3] = 100, -20, 1
    return matrix


def close(found, expected, atol=1e-12):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def same_angle(found, expected, atol=1e-12, period=2 * pi):
    close((found - expected + period / 2) % period - period / 2, 0, atol)


# ----------------------------------------------------------------------------------------------- arrays and tensors

CALLS = {
    'corners': corners, 'flat': flat, 'flip x': lambda b: flip(b, 'x'), 'flip y': lambda b: flip(b, 'y'),
    'rotate': lambda b: rotate(b, .7), 'scale': lambda b: scale(b, 1.1), 'translate': lambda b: translate(b, [1, 2, 3]),
    'transform': lambda b: transform(b, tilted()), 'wrap': wrap, 'project': lambda b: project(b, CAMERA),
    'hull_2d': lambda b: hull_2d(b, CAMERA, (100, 100)), 'to_kitti': lambda b: to_kitti(b, tilted()),
    'from_kitti': lambda b: from_kitti(b[:, :7], CAMERA[[1, 2, 0, 3]] + np.eye(4)),
    'kitti_alpha': lambda b: kitti_alpha(b[:, :7]), 'to_nuscenes': lambda b: to_nuscenes(b, tilted()),
    'from_nuscenes': lambda b: from_nuscenes(NuScenesBoxes(b[:, :3], b[:, 3:6], b[:, 3:7], b[:, 7:]), tilted()),
    'points': lambda b: points_in_boxes(b[:, :3], b)}


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', CALLS)
def test_tensors_are_treated_like_arrays(name, device):
    def parts(value):
        return value if isinstance(value, tuple) else (value,)

    for dtype, atol in ((np.float64, 1e-9), (np.float32, 1e-3)):
        boxes = some().astype(dtype)
        arrays, tensors = parts(CALLS[name](boxes)), parts(CALLS[name](torch.from_numpy(boxes).to(device)))
        for array, tensor in zip(arrays, tensors, strict=True):
            assert isinstance(array, np.ndarray) and tensor.device.type == device
            assert array.dtype == tensor.cpu().numpy().dtype
            assert array.dtype == dtype or array.dtype in (bool, np.int64)
            np.testing.assert_allclose(tensor.cpu().numpy(), array, rtol=1e-5, atol=atol)


@pytest.mark.parametrize('name', CALLS)
def test_no_boxes(name):
    for boxes in (np.zeros((0, 9), np.float32), torch.zeros(0, 9)):
        found = CALLS[name](boxes)
        assert all(len(value) == 0 for value in (found if isinstance(found, tuple) else (found,)))


@pytest.mark.parametrize('name', [name for name in CALLS if not name.startswith(('from', 'wrap', 'kitti'))])
def test_other_columns_are_refused(name):
    with pytest.raises(DataError, match=r'boxes of shape \(3, 8\), expected \(K, 7 or 9\)'):
        CALLS[name](np.zeros((3, 8)))


def test_forms_of_kitti_have_seven_columns():
    for call in (lambda b: from_kitti(b, np.eye(4)), kitti_alpha):
        with pytest.raises(DataError, match=r'\(3, 9\), expected \(K, 7\)'):
            call(np.zeros((3, 9)))


# -------------------------------------------------------------------------------------------------------------- shape

def test_corners_of_a_box():
    box = np.array([[10, 20, 1, 4, 2, 1.6, pi / 2]])  # its front looks along +y
    expected = [[9, 22, 1.8], [11, 22, 1.8], [11, 22, .2], [9, 22, .2],
                [9, 18, 1.8], [11, 18, 1.8], [11, 18, .2], [9, 18, .2]]
    close(corners(box)[0], expected)
    lengths = np.linalg.norm(np.diff(corners(box)[0][EDGES], axis=1)[:, 0], axis=1)
    close(lengths, [2, 1.6, 2, 1.6, 2, 1.6, 2, 1.6, 4, 4, 4, 4])
    close(np.abs(CORNERS), 1)


def test_corners_equal_the_references(frame, ops):
    close(corners(frame['lidar/boxes_xyzlwh_yaw_gravity']), frame['lidar/boxes_corners_devkit'], 1e-9)
    ours, theirs = corners(centred(ops['boxes_bottom'])), ops['corners'].astype(float)  # ordered otherwise
    close(ours, theirs[:, [6, 5, 4, 7, 2, 1, 0, 3]], 1e-5)
    close(flat(centred(ops['boxes_bottom'])), ops['bev'], 1e-6)


# ------------------------------------------------------------------------------------------------------- points inside

def slow_inside(points, boxes):
    c, s = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    x, y, z = (points[:, None, :3] - boxes[:, :3]).transpose(2, 0, 1)
    local = np.stack([c * x + s * y, c * y - s * x, z], -1)
    return (np.abs(local) <= boxes[:, 3:6] / 2).all(-1)


def table(rows, counts, num_points):
    inside = np.zeros((num_points, len(counts)), bool)
    inside[rows, np.repeat(np.arange(len(counts)), counts)] = True
    assert inside.sum() == len(rows), 'no point twice in a box'
    return inside


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('cells', [1, 7, 512])
def test_points_inside_equal_a_table(monkeypatch, cells, dtype):
    monkeypatch.setattr(module, 'CELLS', cells)
    rng = np.random.default_rng(cells)
    points = rng.uniform(-25, 25, (3000, 4)).astype(dtype)
    boxes = some(40, seed=cells)
    boxes[::4, 3:5] *= 5
    rows, counts = points_in_boxes(points, boxes)
    inside = slow_inside(points.astype(float), boxes)
    assert np.array_equal(table(rows, counts, 3000), inside) and inside.sum() > 100
    assert all((np.diff(part) > 0).all() for part in np.split(rows, counts.cumsum()[:-1])), 'ascending within a box'


@pytest.mark.parametrize('device', DEVICES)
def test_points_inside_equal_the_references(shared, frame, ops, device):
    rows, counts = points_in_boxes(*(torch.from_numpy(v).to(device)
                                     for v in (ops['points'], centred(ops['boxes_bottom']))))
    assert np.array_equal(table(rows.cpu(), counts.cpu(), len(ops['points'])), ops['points_in_boxes_cpu'])
    path = next((shared / 'real').rglob(str(frame['lidar_file'])))
    scan = np.fromfile(path, np.float32).reshape(-1, 5)
    counts = points_in_boxes(scan, frame['lidar/boxes_xyzlwh_yaw_gravity'])[1]
    assert np.array_equal(counts, frame['lidar/points_in_box_devkit']) and counts.sum() == 984


def test_points_on_faces_and_what_is_not_finite():
    boxes = np.array([[0, 0, 0, 2, 2, 2, 0], [1, 0, 0, 4, 2, 2, 0], [0, 0, 0, 2, 2, 2, np.nan],
                      [5, 5, 5, 0, 0, 0, 1], [0, 0, 0, 1e12, 1e12, 1e12, .3]])
    points = np.array([[1, 1, -1], [1.1, 0, 0], [np.nan, 0, 0], [5, 5, 5], [np.inf, 0, 0], [-1, -1, 1],
                       [0, 0, -np.inf]])
    rows, counts = points_in_boxes(points, boxes)
    assert counts.tolist() == [2, 3, 0, 1, 4]
    assert rows.tolist() == [0, 5, 0, 1, 5, 3, 0, 1, 3, 5]
    rows, counts = points_in_boxes(points[[2, 4]], boxes)
    assert rows.tolist() == [] and counts.tolist() == [0] * 5
    rows, counts = points_in_boxes(np.zeros((1, 3), np.float32), boxes)
    assert counts.tolist() == [1, 1, 0, 0, 1]
    far = points.copy()
    far[:, 0] += 1e9
    far.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert points_in_boxes(far, translate(boxes[:4], [1e9, 0, 0]))[1].tolist() == [2, 3, 0, 1]
    with pytest.raises(DataError, match=r'points of shape \(5, 2\), expected \(N, 3\)'):
        points_in_boxes(np.zeros((5, 2)), boxes)


# ------------------------------------------------------------------------------------------------------------- motions

def test_motions_equal_the_references(ops):
    boxes = centred(ops['boxes_bottom'])
    moved = {'flip_horizontal': flip(boxes, 'y'), 'flip_vertical': flip(boxes, 'x'), 'scale_1.05': scale(boxes, 1.05),
             'translate_1_-2_0.5': translate(boxes, [1, -2, .5])}
    moved.update({f'rotate_{angle:.4f}': rotate(boxes, angle) for angle in (.4, -2.1, pi / 2)})
    for name, found in moved.items():
        close(found, centred(ops[f'{name}/boxes']), 2e-5)
    for name in (name for name in ops.files if name.startswith('limit_period/offset')):
        offset, period = name.removeprefix('limit_period/offset').split('_period_')
        period = dict(pi=pi)[period] if period == 'pi' else 2 * pi
        found = wrap(ops['limit_period/x'].astype(float), period, float(offset))
        same_angle(found, ops[name], 1e-5, period)
        assert (found >= -float(offset) * period - 1e-12).all() and (found < (1 - float(offset)) * period).all()


@pytest.mark.parametrize('move', [lambda b: flip(b, 'x'), lambda b: flip(b, 'y'), lambda b: rotate(b, 2.5),
                                  lambda b: scale(b, .9), lambda b: translate(b, [3, -1, .5]),
                                  lambda b: transform(b, tilted() @ np.diag([1.0, 1, 1, 1]))])
def test_a_box_moves_with_its_velocity(move):
    """Where it is a second later is moved as it is itself, and its corners stay the same body."""
    boxes = some()
    later = boxes.copy()
    later[:, :2] += boxes[:, 7:]
    step = move(later)[:, :2] - move(boxes)[:, :2]
    known = [0, 2, 3, 4, 5]
    close(move(boxes)[known, 7:], step[known], 1e-9)
    assert np.isnan(move(boxes)[1, 7:]).all() and np.isfinite(move(boxes)[1, :7]).all()
    ahead = boxes.copy()
    ahead[:, :2] += np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1)
    direction = move(ahead)[:, :2] - move(boxes)[:, :2]
    same_angle(move(boxes)[:, 6], np.arctan2(direction[:, 1], direction[:, 0]))
    close(move(boxes[:, :7]), move(boxes)[:, :7])


def test_motions_that_undo_each_other():
    boxes = some()
    pairs = [(lambda b: flip(flip(b, 'x'), 'x')), (lambda b: flip(flip(b, 'y'), 'y')),
             (lambda b: rotate(rotate(b, .3), -.3)), (lambda b: scale(scale(b, 2.0), .5)),
             (lambda b: translate(translate(b, [1, 2, 3]), [-1, -2, -3])),
             (lambda b: rotate(flip(flip(b, 'x'), 'y'), pi))]
    for undone in pairs:
        found = undone(boxes)
        close(found[:, [0, 1, 2, 3, 4, 5, 7, 8]], boxes[:, [0, 1, 2, 3, 4, 5, 7, 8]])
        same_angle(found[:, 6], boxes[:, 6])
    assert np.array_equal(boxes, some(), equal_nan=True), 'what came stays as it was'
    with pytest.raises(ConfigError, match=r"flip: axis='z', expected one of x, y"):
        flip(boxes, 'z')


def test_points_inside_move_along():
    boxes, rng = some(8), np.random.default_rng(3)
    points = boxes[rng.integers(0, 8, 300), :3] + rng.uniform(-2, 2, (300, 3))
    for move in (lambda b: flip(b, 'x'), lambda b: flip(b, 'y'), lambda b: rotate(b, 1.0), lambda b: scale(b, 1.05)):
        as_boxes = np.concatenate([points, np.ones((300, 3)), np.zeros((300, 1))], 1)
        moved = points_in_boxes(move(as_boxes)[:, :3], move(boxes))
        assert all(map(np.array_equal, moved, points_in_boxes(points, boxes)))


# ------------------------------------------------------------------------------------------------------------- cameras

def test_pixels_equal_the_references(frame):
    for name in frame['cameras']:
        matrix = np.eye(4)
        matrix[:3] = frame[f'{name}/K'] @ frame[f'{name}/lidar2cam_with_motion'][:3]
        pixels, depth = project_points(corners(frame['lidar/boxes_xyzlwh_yaw_gravity']), matrix)
        before = frame[f'{name}/corners_camera'][..., 2] > .1
        close(depth, frame[f'{name}/corners_camera'][..., 2], 1e-9)
        close(pixels[before], frame[f'{name}/corners_uv'][before], 1e-6)
        whole = before.all(1)
        edges, visible = project(frame['lidar/boxes_xyzlwh_yaw_gravity'], matrix[:3])
        close(edges[whole], frame[f'{name}/corners_uv'][whole][:, EDGES], 1e-6)
        assert visible[whole].all() and not visible[~before.any(1)].any()
        hulls = hull_2d(frame['lidar/boxes_xyzlwh_yaw_gravity'], matrix)
        uv = frame[f'{name}/corners_uv'][whole]
        close(hulls[whole], np.concatenate([uv.min(1), uv.max(1)], 1), 1e-6)
        assert np.isnan(hulls[~before.any(1)]).all()


def test_a_box_half_behind_the_camera_is_cut():
    boxes = np.array([[0, 1.0, 0, 4, 1, 1, 0],     # from 2 m behind to 2 m before, to the left
                      [-3, 0, 0, 2, 1, 1, 0],      # behind
                      [10, 0, 0, 2, 2, 2, 0],      # before
                      [np.nan, 0, 0, 1, 1, 1, 0]])
    edges, visible = project(boxes, CAMERA, near=.5)
    assert visible.sum(1).tolist() == [8, 0, 12, 0]
    assert visible[0].tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert np.isnan(edges[~visible]).all() and np.isfinite(edges[visible]).all()
    # the front's left top corner (2, 1.5, .5), the edge backwards from it ends at depth .5
    close(edges[0, 8], [[50 - 50 * .75, 50 - 50 * .25], [50 - 50 * 3, 50 - 50]])
    assert (edges[0, ..., 0] < 50)[visible[0]].all(), 'folded edges would come out on the right'
    hulls = hull_2d(boxes, CAMERA, near=.5)
    close(hulls[0], [50 - 50 * 3, 0, 50 - 50 * .25, 100])
    close(hulls[2], [50 - 50 / 9, 50 - 50 / 9, 50 + 50 / 9, 50 + 50 / 9])
    assert np.isnan(hulls[[1, 3]]).all()
    cut = hull_2d(boxes, CAMERA, (100, 100), near=.5)
    close(cut[0], [0, 0, 50 - 50 * .25, 100])
    aside = hull_2d(np.array([[5, 20.0, 0, 1, 1, 1, 0]]), CAMERA, (100, 100))
    assert np.isnan(aside).all(), 'before the camera, not in the image'
    with pytest.raises(DataError, match='near=0'):
        project(boxes, CAMERA, near=0)


def test_an_edge_along_the_near_plane():
    box = np.array([[1.0, 0, 0, 1, 1, 1, 0]])  # its rear face lies in the plane
    edges, visible = project(box, CAMERA, near=.5)
    assert visible.all() and np.isfinite(edges).all()
    assert not project(box, CAMERA, near=1.5 + 1e-9)[1].any()


# --------------------------------------------------------------------------------------------------------------- KITTI

def test_camera_boxes_equal_the_references(ops):
    boxes, matrix = centred(ops['boxes_bottom']), ops['lidar2cam']
    close(to_kitti(boxes, matrix), ops['to_camera_correct_yaw/boxes'][:, :7], 1e-5)
    back = from_kitti(ops['to_camera_correct_yaw/boxes'][:, :7].astype(float), matrix)
    theirs = centred(ops['back_to_lidar_correct_yaw/boxes'])
    close(back[:, :6], theirs[:, :6], 1e-5)
    same_angle(back[:, 6], theirs[:, 6], 1e-3)
    plain = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    found, theirs = to_kitti(boxes, plain), ops['to_camera_default/boxes'][:, :7]
    close(found[:, :6], theirs[:, :6], 1e-5)
    same_angle(found[:, 6], theirs[:, 6], 1e-5)


def test_camera_boxes_and_back(ops):
    boxes = some(20)
    again = from_kitti(to_kitti(boxes, ops['lidar2cam']), ops['lidar2cam'])
    close(again[:, :6], boxes[:, :6])
    same_angle(again[:, 6], boxes[:, 6])


def test_angles_of_kitti():
    axes = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    boxes = np.array([[10, 0, 0, 4, 2, 1.5, -pi / 2],  # looks to the right, as rotation_y 0 does
                      [10, 0, 0, 4, 2, 1.5, 0],        # drives away
                      [10, 10, 0, 4, 2, 1.5, pi / 4]])  # drives away along the ray to it
    camera = to_kitti(boxes, axes)
    close(camera[0], [0, .75, 10, 4, 1.5, 2, 0])
    same_angle(camera[:, 6], [0, -pi / 2, -3 * pi / 4])
    same_angle(kitti_alpha(camera), [0, -pi / 2, -pi / 2])


# ------------------------------------------------------------------------------------------------------------ nuScenes

def test_boxes_of_nuscenes_equal_the_references(frame):
    to_world = frame['lidar/ego2global'] @ frame['lidar/sensor2ego']
    official = NuScenesBoxes(frame['ann/translation'], frame['ann/size_wlh'], frame['ann/rotation_wxyz'],
                             frame['ann/velocity_global_devkit'])
    boxes = from_nuscenes(official, np.linalg.inv(to_world))
    close(boxes[:, :7], frame['lidar/boxes_xyzlwh_yaw_gravity'], 1e-9)
    assert boxes.shape == (68, 9) and np.isnan(boxes[:, 7:]).all()
    again = to_nuscenes(boxes, to_world)
    close(again.translation, official.translation, 1e-9)
    close(again.size, official.size, 1e-9)
    # the LiDAR leans against the world, in which boxes stand upright: headings agree
    assert (np.abs((again.rotation * official.rotation).sum(1)) > 1 - 1e-3).all()


@pytest.mark.parametrize('seed', range(3))
def test_boxes_of_nuscenes_and_back(seed):
    boxes, matrix = some(12), tilted(seed)
    official = to_nuscenes(boxes, matrix)
    again = from_nuscenes(official, np.linalg.inv(matrix))
    close(again[:, [0, 1, 2, 3, 4, 5, 7, 8]], boxes[:, [0, 1, 2, 3, 4, 5, 7, 8]])
    same_angle(again[:, 6], boxes[:, 6])
    close(np.linalg.norm(official.rotation, axis=1), 1)
    assert to_nuscenes(boxes[:, :7], matrix).velocity is None
    seven = from_nuscenes(official._replace(velocity=None, rotation=official.rotation * -3), np.linalg.inv(matrix))
    close(seven, again[:, :7])
    flat_velocity = from_nuscenes(official._replace(velocity=official.velocity[:, :2]), np.linalg.inv(matrix))
    close(flat_velocity[0, 7:], boxes[0, 7:], .01)  # without its small vertical part


def test_a_quaternion_of_a_known_turn():
    turned = to_nuscenes(np.array([[1, 2, 3, 4, 2, 1.5, pi / 2, 1, 0]]), np.eye(4))
    close(turned.rotation, [[np.sqrt(.5), 0, 0, np.sqrt(.5)]])
    close(turned.size, [[2, 4, 1.5]])
    close(turned.velocity, [[1, 0, 0]])
    half = np.diag([-1.0, -1, 1, 1])  # by pi about z, where the trace of the rotation is smallest
    close(np.abs(to_nuscenes(np.array([[0, 0, 0, 1, 1, 1, 0.0]]), half).rotation), [[0, 0, 0, 1]])
