import numpy as np
import pytest

from perception.common.scene.camera import (
    CULANE,
    TUSIMPLE,
    CameraSpec,
    camera_pose,
    label_maps,
    pixel_rays,
    project,
    render,
)
from perception.common.scene.labels import APOLLOSCAPE_IDS, MARK, MARKS, PART
from perception.common.scene.lidar import HDL64E, scan, sensor_pose
from perception.common.scene.shading import Look
from perception.common.scene.world import build_world
from perception.utils.errors import ConfigError

SMALL = CameraSpec(410, 148, 310, 1.45, -1.5, scale=1.0)


@pytest.fixture(scope='module')
def road():
    return build_world((21, 0), 'boulevard', 200, traffic=.5, ego_lane=1, special_marks=True)


@pytest.fixture(scope='module')
def motorway():
    return build_world((21, 1), 'wide_highway', 200, ego_lane=2)


def at(world, s):
    t = world.drive.time_at(s)
    return world.caster(t, threads=1), world.drive.pose(t)


def test_the_horizon_lies_where_the_pitch_says():
    for spec, row in ((CULANE, 262.5), (TUSIMPLE, 254.9)):
        far = np.array([[1e6, 0, spec.height_above_ground]])
        points, depth = project(far, camera_pose(np.eye(4), spec), spec)
        assert points[0] == pytest.approx([spec.width / 2, row], abs=.2)
        assert depth[0] == pytest.approx(1e6, rel=.01)


def test_axes_of_the_image_are_right_and_down():
    pose = camera_pose(np.eye(4), CULANE)
    assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3))
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    points, _ = project(np.array([[20.0, 3, 0], [20, -3, 0], [20, 0, 3]]), pose, CULANE)
    assert points[0, 0] < 820 < points[1, 0]
    assert points[2, 1] < points[0, 1]
    rolled, _ = project(np.array([[20.0, 3, 1.45]]), camera_pose(np.eye(4), CULANE, roll=2.0), CULANE)
    assert rolled[0, 0] < 820
    assert abs(rolled[0, 1] - project(np.array([[20.0, 3, 1.45]]), pose, CULANE)[0][0, 1]) > 5


def test_rays_go_through_the_points_they_are_asked_for():
    rng = np.random.default_rng(0)
    pose = camera_pose(np.eye(4), TUSIMPLE, .4, -.3)
    points = pose[:3, 3] + rng.uniform(5, 60, (50, 1)) * pixel_rays(pose, TUSIMPLE, *rng.uniform(0, 700, (2, 50)))
    uv, _ = project(points, pose, TUSIMPLE)
    again = pixel_rays(pose, TUSIMPLE, uv[:, 1], uv[:, 0])
    assert np.allclose(np.cross(again, points - pose[:3, 3]), 0, atol=1e-3)
    half, _ = project(points, pose, TUSIMPLE.scaled(.5))
    assert np.allclose(half, uv / 2)


def test_depth_agrees_with_the_laser(road):
    caster, ego = at(road, 80)
    pose, sensor = camera_pose(ego, CULANE), sensor_pose(ego, HDL64E)
    found = scan(caster, sensor, HDL64E, np.random.default_rng(0))
    keep = ~np.isin(found.part, [PART[name] for name in ('vegetation', 'terrain', 'outlier', 'pole')])
    points = (found.points[:, :3] @ sensor[:3, :3].T + sensor[:3, 3])[keep]
    uv, depth = project(points, pose, CULANE)
    inside = (depth > 3) & (uv >= 0).all(1) & (uv < [CULANE.width, CULANE.height]).all(1)
    maps = label_maps(caster, pose, CULANE)
    column, row = uv[inside].astype(int).T
    seen = maps.depth[row, column]
    near = np.abs(seen - depth[inside]) < .05 + .02 * depth[inside]
    nearer = seen < depth[inside]                # the camera is lower and ahead: something may stand between
    assert inside.sum() > 3000
    assert (near | nearer).mean() > .95
    assert near.mean() > .8
    same = maps.part[row, column][near] == found.part[keep][inside][near]
    assert same.mean() > .95


def test_maps_agree_with_single_rays(road):
    caster, ego = at(road, 80)
    pose = camera_pose(ego, SMALL)
    frame = render(caster, pose, SMALL, Look(), np.random.default_rng(0))
    maps = label_maps(caster, pose, SMALL)
    rng = np.random.default_rng(1)
    row, column = rng.integers(SMALL.height, size=200), rng.integers(SMALL.width, size=200)
    rays = pixel_rays(pose, SMALL, row + .5, column + .5)
    hits = caster.cast(np.broadcast_to(pose[:3, 3].astype(np.float32), rays.shape), rays)
    for name in ('part', 'instance', 'mark'):
        wanted = getattr(hits, name)
        assert np.array_equal(getattr(frame, name)[row, column], wanted)
        assert np.array_equal(getattr(maps, name)[row, column], wanted)
    assert ((frame.mark > 0) <= np.isin(frame.part, [PART['marking'], PART['car']])).all()
    assert (frame.part == PART['marking']).sum() > 100
    assert np.isfinite(frame.depth).all()


def test_every_kind_of_mark_can_be_painted_and_has_a_label():
    ids = {mark: int(APOLLOSCAPE_IDS[MARK[mark]]) for mark in MARKS}
    official = {0, 200, 204, 213, 209, 201, 203, 217, 214, 218, 210, 220, 221, 222, 224, 225, 226, 205, 227, 212, 250}
    assert set(ids.values()) == official
    lamps = ('none', 'head_lamp', 'tail_lamp')
    assert [mark for mark, id_ in ids.items() if id_ == 0] == list(lamps)
    painted = set()
    for seed, style in enumerate(['boulevard', 'avenue', 'wide_highway', 'residential']):
        world = build_world((22, seed), style, 260, traffic=0, special_marks=True)
        painted |= {MARKS[i] for i in np.unique(world.static.mark)}
        assert (world.static.mark[world.static.part == PART['marking']] > 0).all()
    assert painted >= set(MARKS) - {'white_double', *lamps}


def test_a_street_without_paint_keeps_its_records():
    bare, painted = (build_world((23,), 'urban', 150, traffic=0, painted=value) for value in (False, True))
    assert not (bare.static.part == PART['marking']).any()
    lines, others = ([(line.s0, line.kind) for line in world.street.boundaries] for world in (bare, painted))
    assert lines == others


def test_the_ego_takes_the_lanes_it_is_told(motorway):
    d = sorted((lane.d for lane in motorway.street.lanes), reverse=True)
    assert float(motorway.drive.d(0.0)) == pytest.approx(d[2], abs=.6)
    changing = build_world((21, 1), 'wide_highway', 500, traffic=0, ego_lane=2, lane_changes=[(100.0, 1)])
    assert float(changing.drive.d(changing.drive.time_at(400))) == pytest.approx(d[1], abs=.6)
    with pytest.raises(ConfigError, match='expected 0 to'):
        build_world((21, 1), 'wide_highway', 200, ego_lane=9)


def test_motorways_have_no_people_and_no_junctions(motorway):
    assert motorway.street.junctions == []
    assert {lane.direction for lane in motorway.street.lanes} == {1}
    assert not {'person', 'child', 'bicyclist'} & {actor.part for actor in motorway.actors}
    assert motorway.moving.sum() > 8


def test_rows_above_the_first_show_only_sky(road):
    caster, ego = at(road, 80)
    spec = CameraSpec(400, 320, 270, 1.7, 6.5, forward=1.8, scale=.5, first_row=200)
    frame = render(caster, camera_pose(ego, spec), spec, Look(), np.random.default_rng(0))
    assert not frame.part[:198].any()
    assert frame.part[210:].all()
    assert frame.image.shape == (320, 400, 3)
    assert frame.image[:190].mean() > frame.image[220:].mean()


@pytest.mark.parametrize('change', [dict(width=2), dict(focal=0), dict(scale=0), dict(scale=2), dict(first_row=148),
                                    dict(first_row=-1)])
def test_bad_cameras_are_refused(change):
    with pytest.raises(ConfigError, match='CameraSpec'):
        CameraSpec(**{**dict(width=410, height=148, focal=310, height_above_ground=1.4, pitch=0), **change})
