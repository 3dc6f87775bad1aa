import numpy as np
import pytest

from perception.common.scene.labels import PART, PARTS, semantickitti_labels
from perception.common.scene.materials import MATERIAL
from perception.common.scene.mesh import MeshBuilder, merge, perpendicular

LOOK = ('concrete', (.5, .5, .5), 'building')


def area(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def test_a_box_has_its_size_and_stands_on_its_base():
    builder = MeshBuilder()
    builder.boxes([1, 2, 3], [4, 2, 5], *LOOK)
    mesh = builder.build()
    low, high = mesh.bounds()
    assert np.allclose(low, [-1, 1, 3])
    assert np.allclose(high, [3, 3, 8])
    assert area(mesh) == pytest.approx(2 * (4 * 2 + 4 * 5 + 2 * 5))


def test_a_box_turns_about_its_upright_axis():
    builder = MeshBuilder()
    builder.boxes([0, 0, 0], [4, 2, 1], *LOOK, yaw=np.pi / 2)
    assert np.allclose(builder.build().bounds()[1], [1, 2, 1], atol=1e-6)


def test_many_boxes_at_once_equal_single_ones():
    rng = np.random.default_rng(0)
    base, size, yaw = rng.normal(size=(5, 3)), rng.uniform(.5, 2, (5, 3)), rng.uniform(0, 6, 5)
    together, alone = MeshBuilder(), MeshBuilder()
    together.boxes(base, size, *LOOK, yaw=yaw)
    for b, s, y in zip(base, size, yaw):
        alone.boxes(b, s, *LOOK, yaw=y)
    assert np.array_equal(together.build().vertices, alone.build().vertices)
    assert np.array_equal(together.build().faces, alone.build().faces)


def test_a_tube_keeps_its_radius():
    builder = MeshBuilder()
    start, end = np.array([1.0, 0, 2]), np.array([3.0, 4, -1])
    builder.tubes(start, end, .3, *LOOK, sides=12, caps=False)
    axis = (end - start) / np.linalg.norm(end - start)
    off = builder.build().vertices - start
    off = off - (off @ axis)[:, None] * axis
    assert np.allclose(np.linalg.norm(off, axis=1), .3, atol=1e-6)


def test_a_ball_lies_on_its_ellipsoid():
    builder = MeshBuilder()
    builder.balls([1, 1, 1], [.5, 1, 2], *LOOK, nu=12, nv=9)
    assert np.allclose((((builder.build().vertices - 1) / [.5, 1, 2]) ** 2).sum(1), 1, atol=1e-6)


def test_perpendicular_of_zero_and_upright_axes_is_finite():
    first, second = perpendicular(np.array([[0, 0, 0], [0, 0, 2.0], [1, 0, 0]]))
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    assert np.allclose(np.linalg.norm(first[1:], axis=1), 1)


def test_merge_keeps_every_triangle_and_its_tags():
    builder = MeshBuilder()
    builder.boxes([0, 0, 0], [1, 1, 1], *LOOK)
    a = builder.build()
    builder = MeshBuilder()
    builder.balls([5, 0, 0], 1.0, 'leaf', (.1, .2, .1), 'vegetation')
    b = builder.build().tagged(9)
    both = merge([a, b])
    assert area(both) == pytest.approx(area(a) + area(b), rel=1e-6)
    assert np.array_equal(both.part, [PART['building']] * len(a.faces) + [PART['vegetation']] * len(b.faces))
    assert np.array_equal(both.instance, [0] * len(a.faces) + [9] * len(b.faces))
    assert len(merge([]).faces) == 0


def test_moving_turns_scales_and_shifts():
    builder = MeshBuilder()
    builder.boxes([0, 0, 0], [2, 1, 1], *LOOK)
    pose = np.eye(4)
    pose[:2, :2] = [[0, -1], [1, 0]]
    pose[:3, 3] = [10, 0, 1]
    low, high = builder.build().moved(pose, 2.0).bounds()
    assert np.allclose(low, [9, -2, 1])
    assert np.allclose(high, [11, 2, 3])


def test_recolouring_changes_one_material_only():
    builder = MeshBuilder()
    builder.boxes([0, 0, 0], [1, 1, 1], 'car_paint', (.4, .4, .4), 'car')
    builder.boxes([0, 0, 0], [1, 1, 1], 'rubber', (0, 0, 0), 'car')
    mesh = builder.build().recoloured('car_paint', (1, 0, 0))
    assert (mesh.albedo[mesh.material == MATERIAL['car_paint']] == [1, 0, 0]).all()
    assert (mesh.albedo[mesh.material == MATERIAL['rubber']] == 0).all()


@pytest.mark.parametrize('names', [('stone of the wise', 'building'), ('concrete', 'castle')])
def test_unknown_names_are_refused(names):
    with pytest.raises(KeyError):
        MeshBuilder().boxes([0, 0, 0], [1, 1, 1], names[0], (0, 0, 0), names[1])


def test_semantickitti_labels_hold_moving_ids_and_instances():
    part = np.array([PART[name] for name in ('car', 'car', 'road', 'bicyclist', 'marking', 'trailer', 'outlier')])
    labels = semantickitti_labels(part, np.array([1, 2, 0, 2, 0, 2, 0]), np.array([False, False, True]))
    assert labels.dtype == np.uint32
    assert (labels & 0xFFFF).tolist() == [10, 252, 40, 253, 60, 259, 1]
    assert (labels >> 16).tolist() == [1, 2, 0, 2, 0, 2, 0]


def test_every_part_has_a_raw_id_of_the_official_list():
    known = {0, 1, 10, 11, 13, 15, 16, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 52, 60, 70, 71, 72, 80, 81, 99,
             252, 253, 254, 255, 256, 257, 258, 259}
    for moving in (False, True):
        labels = semantickitti_labels(np.arange(len(PARTS)), np.ones(len(PARTS), int), np.array([False, moving]))
        assert set((labels & 0xFFFF).tolist()) <= known
