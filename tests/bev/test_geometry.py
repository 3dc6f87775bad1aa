import json
from dataclasses import replace
from math import cos, pi, sin

import numpy as np
import pytest
import torch

from perception.bev.geometry import BEVGrid, CameraGeometry
from perception.common.boxes import corners, points_in_boxes
from perception.ops.bev_pool import make_ranks
from perception.utils.errors import ConfigError, DataError


def turn(angle, size=4):
    """Rotation about z."""
    matrix = torch.eye(size, dtype=torch.float64)
    matrix[:2, :2] = torch.tensor([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    return matrix


def rig(samples=1, cameras=6, size=(64, 176), height=1.6):
    """Cameras all around a car; x to the right, y forward, z up; the first one looks forward."""
    cam_to_img = torch.tensor([[.55 * size[1], 0, size[1] / 2 - .5], [0, .55 * size[1], size[0] / 2 - .5], [0, 0, 1]])
    ahead = torch.tensor([[1., 0, 0, 0], [0, 0, -1, height], [0, 1, 0, -.3], [0, 0, 0, 1]], dtype=torch.float64)
    frame_to_cam = torch.stack([ahead @ turn(2 * pi * i / cameras) for i in range(cameras)]).float()
    return CameraGeometry(cam_to_img.expand(samples, cameras, 3, 3), frame_to_cam.expand(samples, cameras, 4, 4),
                          torch.eye(3).expand(samples, cameras, 3, 3), torch.eye(4).expand(samples, 4, 4), size)


def augmented(geometry, seed=0):
    """The same with images and frame changed at random: scale, crop, flip, rotation; rotation, scale, flips, shift."""
    draw = np.random.default_rng(seed)
    samples, cameras = geometry.cam_to_img.shape[:2]
    height, width = geometry.size
    image_aug, bev_aug = torch.eye(3).repeat(samples, cameras, 1, 1), torch.eye(4).repeat(samples, 1, 1)
    for matrix in image_aug.view(-1, 3, 3):
        flip = torch.diag(torch.tensor([-1., 1, 1]))
        flip[0, 2] = width - 1
        middle = torch.eye(3)
        middle[:2, 2] = torch.tensor([width / 2, height / 2])
        change = torch.diag(torch.tensor([*[draw.uniform(.4, 1.2)] * 2, 1.]))
        change[:2, 2] = torch.from_numpy(draw.uniform(-20, 20, 2))
        if draw.random() < .5:
            change = flip @ change
        matrix[:] = middle @ turn(draw.uniform(-.1, .1), 3).float() @ middle.inverse() @ change
    for matrix in bev_aug:
        signs = [*draw.choice([-1., 1.], 2), 1.]
        matrix[:] = turn(draw.uniform(-.4, .4)).float() @ torch.diag(torch.tensor([*signs, 1.], dtype=torch.float32))
        matrix[:3, :3] *= draw.uniform(.95, 1.05)
        matrix[:3, 3] = torch.from_numpy(draw.normal(0, .5, 3))
    return replace(geometry, image_aug=image_aug, bev_aug=bev_aug)


# -------------------------------------------------------------------------------------------------------- round trips

@pytest.mark.parametrize('cameras', [1, 2, 6, 12])
@pytest.mark.parametrize('seed', range(4))
def test_round_trip_under_augmentation(cameras, seed):
    geometry = augmented(rig(2, cameras, (256, 704)), seed)
    points = 60 * (2 * torch.rand(2, 500, 3, generator=torch.Generator().manual_seed(seed)) - 1)
    uv, depth, _ = geometry.project(points)
    back = geometry.unproject(uv, depth)
    before = depth > .5
    assert before.any((0, 2)).all()
    assert (back - points[:, None])[before].abs().max() < 1e-3


@pytest.mark.parametrize('align', ['centre', 'lss'])
@pytest.mark.parametrize('size', [(64, 176), (65, 171)])
def test_the_frustum_projects_onto_its_own_pixels(align, size):
    geometry = augmented(rig(2, 3, size))
    depths = torch.tensor([1., 7., 58.])
    points = geometry.frustum(depths, (4, 11), align)
    assert points.shape == (2, 3, 3, 4, 11, 3) and points.dtype == torch.float32
    for n in range(3):
        uv, depth, _ = geometry.project(points[:, n].flatten(1, 3))
        uv, depth = uv[:, n].view(2, 3, 4, 11, 2), depth[:, n].view(2, 3, 4, 11)
        assert (depth - depths[:, None, None]).abs().max() < 1e-4
        rows, columns = uv[0, 0, :, 0, 1], uv[0, 0, 0, :, 0]
        if align == 'lss':
            right = [torch.linspace(0, pixels - 1, cells) for pixels, cells in zip(size, (4, 11))]
        else:  # the middle of the pixels that a cell covers: 16 of them, of which the image may lack some at its end
            strides = (65 / 4 if size[0] == 65 else 16, 16)  # no halving makes 4 rows of 65
            right = [torch.tensor([(j + .5) * stride - .5 for j in range(cells)])
                     for stride, cells in zip(strides, (4, 11))]
        torch.testing.assert_close(rows, right[0], rtol=0, atol=2e-3)
        torch.testing.assert_close(columns, right[1], rtol=0, atol=2e-3)
        assert (uv - uv[:1, :1]).abs().max() < 2e-3  # the same at all depths and in all samples


def test_alignment_moves_pixels_by_up_to_half_a_stride():
    """16 pixels a cell: the middle of the first ones is 7.5, of the last ones 168.5 - 0.5."""
    geometry = rig(size=(64, 176))
    for align, first, last in (('centre', 7.5, 167.5), ('lss', 0., 175.)):
        points = geometry.frustum([10.], (4, 11), align)[:, 0].flatten(1, 3)
        u = geometry.project(points)[0][0, 0, :, 0].view(4, 11)[0]
        assert u[[0, -1]].tolist() == pytest.approx([first, last], abs=1e-3)


def test_a_translation_of_the_image_is_in_another_column_for_either_way():
    """Shifted by 5 pixels whatever the depth: added after the division by it."""
    geometry = rig()
    points = torch.tensor([[.3, 10., 1.], [1., 30., 2.]])
    shifted = replace(geometry, image_aug=geometry.image_aug.clone())
    shifted.image_aug[..., 0, 2] = 5
    (before, depth, _), (after, _, _) = geometry.project(points), shifted.project(points)
    torch.testing.assert_close(after[0, 0] - before[0, 0], torch.tensor([[5., 0], [5, 0]]), rtol=0, atol=1e-4)
    torch.testing.assert_close(shifted.unproject(after, depth)[0, 0], points, rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------------------- projection by hand

def test_an_asymmetric_scene_by_hand():
    """Forward is up in the grid: what lies to the left and ahead is seen left of the middle by the front camera."""
    geometry = rig(cameras=4, size=(100, 200))
    left_ahead = torch.tensor([[-2., 10.3, 1.6]])
    uv, depth, visible = geometry.project(left_ahead)
    assert visible[0, :, 0].tolist() == [True, False, False, False]
    assert depth[0, 0, 0].item() == pytest.approx(10)
    assert uv[0, 0, 0].tolist() == pytest.approx([99.5 - 2 / 10 * 110, 49.5])
    ranks = make_ranks(left_ahead.view(1, 1, 1, 1, 1, 3), (-20, 20, 1), (-20, 20, 1), (-5, 5))
    assert ranks.counts.nonzero().tolist() == [[30 * 40 + 18]]  # row 30 of 40: ahead; column 18: left


@pytest.mark.parametrize(('point', 'visible'), [
    ((0, 10, 1.6), True), ((0, -10, 1.6), False),  # behind
    ((0, .3, 1.6), False),                           # in the camera's own plane
    ((-9.0, 10.3, 1.6), True), ((-9.1, 10.3, 1.6), False),  # 99.5 pixels to the left are 9.045 m
    ((9.0, 10.3, 1.6), True), ((9.1, 10.3, 1.6), False)])
def test_what_the_front_camera_sees(point, visible):
    uv, depth, found = rig(cameras=1, size=(100, 200)).project(torch.tensor([point], dtype=torch.float32))
    assert found.item() == visible and torch.isfinite(uv).all() and torch.isfinite(depth).all()


def test_rig_turned_by_a_quarter():
    """Cameras that look 90 degrees further left see what was turned with them."""
    geometry, angle = augmented(rig(cameras=5)), pi / 2
    geometry.bev_aug = torch.eye(4)[None]
    turned = replace(geometry, frame_to_cam=geometry.frame_to_cam @ turn(-angle).float())
    points = 30 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    moved = points @ turn(angle, 3).float().T
    for before, after in zip(geometry.project(points), turned.project(moved)):
        visible = geometry.project(points)[2]
        torch.testing.assert_close(before[visible], after[visible], rtol=1e-5, atol=2e-3)
    frustum = turned.frustum([2., 20.], (4, 11))
    torch.testing.assert_close(frustum, geometry.frustum([2., 20.], (4, 11)) @ turn(angle, 3).float().T, rtol=1e-5,
                               atol=1e-4)


@pytest.mark.parametrize('axis', [0, 1])
def test_a_flip_of_the_frame_flips_the_frustum(axis):
    geometry, sign = rig(), torch.ones(3)
    sign[axis] = -1
    flipped = replace(geometry, bev_aug=torch.diag(torch.cat([sign, torch.ones(1)]))[None])
    depths, size = [2., 9.], (4, 11)
    torch.testing.assert_close(flipped.frustum(depths, size), geometry.frustum(depths, size) * sign)
    points = 20 * torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(flipped.project(points * sign), geometry.project(points)))


def test_a_flip_of_the_image_mirrors_pixels():
    geometry, flipped = rig(size=(64, 176)), rig(size=(64, 176))
    flipped.image_aug = torch.tensor([[-1., 0, 175], [0, 1, 0], [0, 0, 1]]).expand(1, 6, 3, 3)
    points = 20 * torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0))
    (uv, _, seen), (mirrored, _, also) = geometry.project(points), flipped.project(points)
    assert seen.any() and torch.equal(seen, also)
    torch.testing.assert_close(mirrored[seen][:, 0], 175 - uv[seen][:, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(flipped.frustum([5.], (4, 11)), geometry.frustum([5.], (4, 11)).flip(4), rtol=0,
                               atol=1e-5)


# -------------------------------------------------------------------------------------------------- precision, inputs

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_projection_ignores_autocast(dtype):
    geometry = augmented(rig(2))
    points = 30 * torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    expected = *geometry.project(points), geometry.frustum([3., 4.], (2, 3)), geometry.bev_to_image()
    with torch.autocast('cpu', dtype):
        found = *geometry.project(points), geometry.frustum([3., 4.], (2, 3)), geometry.bev_to_image()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected))
    assert found[0].dtype == torch.float32 and found[-1].dtype == torch.float64


def test_the_same_points_for_all_samples():
    geometry = augmented(rig(3))
    points = 30 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    for found, expected in zip(geometry.project(points), geometry.project(points.expand(3, 50, 3))):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_inputs_of_a_batch():
    geometry = rig(2, 3)
    inputs = dict(images=torch.zeros(2, 3, 3, 64, 176, dtype=torch.uint8), cam_to_img=geometry.cam_to_img,
                  frame_to_cam=geometry.frame_to_cam, image_aug=geometry.image_aug, bev_aug=geometry.bev_aug, points=[])
    found = CameraGeometry.from_inputs(inputs)
    assert found.size == (64, 176) and found.cam_to_img is inputs['cam_to_img']


@pytest.mark.parametrize(('change', 'match'), [
    (dict(bev_aug=torch.eye(4)), r'bev_aug of shape \(4, 4\)'),
    (dict(image_aug=torch.eye(4).expand(1, 6, 4, 4)), r'image_aug of shape \(1, 6, 4, 4\)'),
    (dict(frame_to_cam=torch.eye(4).expand(1, 5, 4, 4)), r'frame_to_cam of shape \(1, 5, 4, 4\)'),
    (dict(cam_to_img=torch.zeros(3, 3)), r'cam_to_img of shape \(3, 3\)')])
def test_shapes_that_do_not_fit(change, match):
    with pytest.raises(DataError, match=match):
        replace(rig(), **change)


def test_no_camera():
    with pytest.raises(DataError, match=r'\(1, 0, 3, 3\)'):
        CameraGeometry(torch.zeros(1, 0, 3, 3), torch.zeros(1, 0, 4, 4), torch.zeros(1, 0, 3, 3),
                       torch.zeros(1, 4, 4), (64, 176))


def test_grid():
    grid = BEVGrid(x=(-51.2, 51.2, .8), y=(-30, 20, .5), z=(-5, 3))
    assert grid.shape == (100, 128)
    centres = grid.centres()
    assert centres.shape == (100, 128, 2)
    assert centres[0, 0].tolist() == pytest.approx([-50.8, -29.75])
    assert centres[-1, 3].tolist() == pytest.approx([-48.4, 19.75])


@pytest.mark.parametrize(('change', 'match'), [
    (dict(x=(-51.2, 51.2, .7)), 'x='), (dict(y=(0, 0, 1)), 'y='), (dict(y=(0, 8)), 'y='), (dict(z=(3, -5)), 'z='),
    (dict(x=(0, 8, -1)), 'x='), (dict(x=(0, 8, 0)), 'x='), (dict(z=(-5, 3, 8)), 'z=')])
def test_grids_that_cannot_be(change, match):
    with pytest.raises(ConfigError, match=match):
        BEVGrid(**(dict(x=(-8, 8, 1), y=(-8, 8, 1)) | change))


# --------------------------------------------------------------------------------------------------------- a real rig

@pytest.fixture(scope='module')
def frame(shared):
    """Geometry, points, boxes, recorded numbers of points of a real frame, and its table."""
    folder = shared / 'real/nuscenes_frame'
    found = json.loads((folder / 'info.json').read_text())['data_list'][0]
    cameras = found['images'].values()
    cam_to_img, frame_to_cam = (torch.tensor([camera[key] for camera in cameras])[None]
                                for key in ('cam2img', 'lidar2cam'))
    geometry = CameraGeometry(cam_to_img, frame_to_cam, torch.eye(3).expand(1, 6, 3, 3), torch.eye(4)[None],
                              (900, 1600))
    points = np.fromfile(next(folder.glob('*LIDAR_TOP*')), np.float32).reshape(-1, 5)[:, :3]
    boxes = np.array([box['bbox_3d'] for box in found['instances']])
    return geometry, points, boxes, [box['num_lidar_pts'] for box in found['instances']], found


def test_points_in_real_boxes(frame):
    _, points, boxes, recorded, _ = frame
    counts = points_in_boxes(points, boxes)[1]
    assert len(boxes) == 69 and (counts == recorded).sum() == 61
    assert np.abs(counts - recorded).sum() == 29


@pytest.mark.parametrize('seed', [None, 0, 1])
def test_points_in_real_boxes_fall_into_the_projected_boxes(frame, seed):
    """In every camera before which a box lies whole; also with images and frame augmented."""
    geometry, points, boxes, _, _ = frame
    if seed is not None:
        geometry = augmented(geometry, seed)
    rows, counts = points_in_boxes(points, boxes)
    owner = np.repeat(np.arange(len(boxes)), counts)

    def project(given):
        moved = torch.from_numpy(given).double() @ geometry.bev_aug[0, :3, :3].double().T + geometry.bev_aug[0, :3, 3]
        return [values[0].numpy() for values in geometry.project(moved)]

    uv = project(points[rows])[0]
    around, far, _ = project(corners(boxes).reshape(-1, 3))
    around, far = around.reshape(6, -1, 8, 2)[:, owner], far.reshape(6, -1, 8)[:, owner]
    before, half_a_metre_before = (far > 1e-5).all(-1), (far > .5).all(-1)
    inside = ((uv >= around.min(2) - 1e-6) & (uv <= around.max(2) + 1e-6)).all(-1)
    assert inside[before].all() and before.sum() == 2872 and half_a_metre_before.sum() == 2381
