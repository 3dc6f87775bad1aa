import numpy as np
import pytest
from scipy.spatial import cKDTree

from perception.common.scene.labels import PART, PARTS
from perception.common.scene.world import build_world
from perception.utils.errors import ConfigError

STATIC = [PART[name] for name in ('building', 'pole', 'trunk', 'sign', 'fence')]
TIMES = (0.0, 3.0)


def inside(points, box, margin):
    """Whether points (N, 3) lie in a box (7,) enlarged by a margin."""
    cos, sin = np.cos(box[6]), np.sin(box[6])
    off = points - box[:3]
    local = np.stack([cos * off[:, 0] + sin * off[:, 1], -sin * off[:, 0] + cos * off[:, 1], off[:, 2]], -1)
    low, high = -box[3:6] / 2, box[3:6] / 2
    low[2], high[2] = 0, box[5]
    return ((local > low - margin) & (local < high + margin)).all(1)


def corners(box, shrink=.03):
    """(4, 2) ground corners."""
    dx, dy = box[3] / 2 - shrink, box[4] / 2 - shrink
    local = np.array([[dx, dy], [-dx, dy], [-dx, -dy], [dx, -dy]])
    cos, sin = np.cos(box[6]), np.sin(box[6])
    return local @ np.array([[cos, sin], [-sin, cos]]) + box[:2]


def overlap(a, b):
    """Whether two boxes overlap on the ground: no axis of either separates them."""
    ca, cb = corners(a), corners(b)
    for yaw in (a[6], a[6] + np.pi / 2, b[6], b[6] + np.pi / 2):
        axis = np.array([np.cos(yaw), np.sin(yaw)])
        pa, pb = ca @ axis, cb @ axis
        if pa.max() <= pb.min() or pb.max() <= pa.min():
            return False
    return True


def test_a_real_scan_has_enough_points_of_every_ring(look):
    _, found = look(0.0)
    assert 80_000 < len(found.points) < 128_000
    assert np.bincount(found.ring, minlength=64).min() > 300
    reach = np.linalg.norm(found.points[:, :3], axis=1)
    assert (reach < 5).mean() < .25
    assert (reach > 40).mean() > .02


@pytest.mark.parametrize('t', TIMES)
def test_points_of_things_lie_in_their_boxes(world, look, t):
    pose, found = look(t)
    points = found.points[:, :3] @ pose[:3, :3].T + pose[:3, 3]
    boxes = world.boxes(t)
    within = []
    for box, instance, part in zip(boxes.boxes_3d, boxes.instance, boxes.part):
        own = found.instance == instance
        assert set(found.part[own]) <= {PART[part]}
        if own.sum() >= 30:
            within.append(inside(points[own], box, .10))
            assert within[-1].mean() >= .75          # thin things have mixed pixels, between them and what is behind
    assert len(within) > 15
    assert np.concatenate(within).mean() >= .99
    assert (found.instance[np.isin(found.part, STATIC)] == 0).all()


def test_things_do_not_overlap(world):
    for t in (0.0, 3.5, 7.0):
        found = world.boxes(t)
        pairs = cKDTree(found.boxes_3d[:, :2]).query_pairs(12.0)
        touching = [(found.part[i], found.part[j]) for i, j in pairs if overlap(found.boxes_3d[i], found.boxes_3d[j])]
        assert not touching, (t, touching)


def test_nothing_comes_near_the_ego(world):
    for t in np.arange(0, world.drive.time_at(world.street.length - 60), .5):
        pose = world.drive.pose(t)
        ego = np.array([*pose[:3, 3], 4.4, 1.9, 1.6, np.arctan2(pose[1, 0], pose[0, 0])])
        near = [part for box, part in zip(world.boxes(t).boxes_3d, world.boxes(t).part)
                if np.hypot(*(box[:2] - ego[:2])) < 9 and overlap(box, ego)]
        assert not near


def test_instances_persist_and_moving_ones_move(world):
    first, later = world.boxes(0.0), world.boxes(2.0)
    assert np.array_equal(first.instance, np.arange(1, len(world.actors) + 1))
    assert np.array_equal(first.instance, later.instance)
    shift = np.linalg.norm((later.boxes_3d - first.boxes_3d)[:, :2], axis=1)
    assert (shift[first.moving] > .6).all()
    assert (shift[~first.moving] == 0).all()
    assert first.moving.sum() > 15
    speed = np.linalg.norm(first.velocity, axis=1)
    assert (speed[first.moving] > .3).all()
    assert speed.max() < 16
    assert len(world.moving) == len(world.actors) + 1


def test_poses_register_consecutive_scans(look):
    clouds = []
    for t in (1.0, 1.5):
        pose, found = look(t, seed=int(10 * t))
        keep = np.isin(found.part, STATIC) & (np.linalg.norm(found.points[:, :3], axis=1) < 20)
        clouds.append(found.points[keep, :3] @ pose[:3, :3].T + pose[:3, 3])
    assert np.linalg.norm(clouds[0].mean(0)) > 0
    distance, _ = cKDTree(clouds[1]).query(clouds[0])
    assert np.median(distance) < .10


def test_the_mesh_is_finite_and_fully_tagged(world):
    mesh = world.static
    assert np.isfinite(mesh.vertices).all()
    assert mesh.faces.min() == 0
    assert mesh.faces.max() < len(mesh.vertices)
    assert {len(mesh.faces)} == {len(x) for x in (mesh.material, mesh.albedo, mesh.part, mesh.instance)}
    assert mesh.albedo.min() >= 0
    assert mesh.albedo.max() <= 1.2
    assert len(np.unique(mesh.part)) > 14


def test_the_cast_of_rare_things_is_there(world):
    parts = {actor.part for actor in world.actors}
    assert {'car', 'truck', 'bus', 'bicycle', 'motorcycle', 'person', 'bicyclist', 'motorcyclist'} <= parts
    assert parts & {'trailer', 'construction'}
    assert parts <= set(PARTS)


def test_the_seed_decides_everything():
    a, b, c = (build_world(seed, length=120) for seed in ((1, 2), (1, 2), (1, 3)))
    assert np.array_equal(a.static.vertices, b.static.vertices)
    assert np.array_equal(a.static.albedo, b.static.albedo)
    assert np.array_equal(a.frame(2.5).vertices, b.frame(2.5).vertices)
    assert not np.array_equal(a.static.vertices[:100], c.static.vertices[:100])


def test_time_may_be_asked_in_any_order(world):
    later = world.frame(5.0).vertices
    world.frame(1.0)
    assert np.array_equal(world.frame(5.0).vertices, later)


def test_an_urban_street_builds_and_traffic_can_be_thinned():
    few, many = (build_world(4, 'urban', 130, traffic=amount) for amount in (.3, 1.0))
    assert len(few.street.lanes) >= 3
    assert few.moving.sum() < many.moving.sum()
    assert few.street.boundaries


def test_unknown_styles_are_refused():
    with pytest.raises(ConfigError, match='expected one of residential, urban'):
        build_world(0, 'motorway')
