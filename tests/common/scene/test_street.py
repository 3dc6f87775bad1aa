import numpy as np
import pytest

from perception.common.scene.drive import STEERING_RATIO, UNDERSTEER, WHEELBASE, Drive
from perception.common.scene.mesh import MeshBuilder
from perception.common.scene.paint import paint_street
from perception.common.scene.street import END, draw_street
from perception.utils.errors import ConfigError

STREETS = [(0, 'residential'), (1, 'residential'), (2, 'urban'), (3, 'urban')]


def drawn(seed, style, **kwargs):
    return draw_street(np.random.default_rng(seed), style, **kwargs)


@pytest.mark.parametrize(('seed', 'style'), STREETS)
def test_heading_is_the_direction_of_the_centre_line(seed, style):
    street = drawn(seed, style)
    s = np.arange(1, street.length, .5)
    step = street.at(s + .5, 0.0)[:, :2] - street.at(s - .5, 0.0)[:, :2]
    turn = np.arctan2(step[:, 1], step[:, 0]) - street.heading_at(s)
    assert np.abs(turn).max() < np.deg2rad(1)
    assert np.abs(np.linalg.norm(step, axis=1) - 1).max() < .01
    assert np.abs(street.heading).max() <= np.deg2rad(100) + 1e-9


@pytest.mark.parametrize(('seed', 'style'), STREETS)
def test_d_is_the_distance_to_the_left(seed, style):
    street = drawn(seed, style)
    s = np.linspace(0, street.length, 50)
    heading = street.heading_at(s)
    left = street.at(s, 6.0, 1.0) - street.at(s, 0.0)
    assert np.allclose(left, np.stack([-6 * np.sin(heading), 6 * np.cos(heading), np.ones(50)], -1))


def test_the_inner_side_of_a_bend_does_not_fold():
    street = drawn(5, 'residential', max_curvature=1 / 20)
    s = np.arange(0, street.length, 1.0)
    for d in (80.0, -80.0):
        step = np.diff(street.at(s, d)[:, :2], axis=0)
        forward = np.stack([np.cos(street.heading_at(s[:-1])), np.sin(street.heading_at(s[:-1]))], -1)
        assert (step * forward).sum(1).min() > -1e-6


@pytest.mark.parametrize(('seed', 'style'), STREETS)
def test_lanes_fill_the_carriageway_and_boundaries_are_in_order(seed, style):
    street = drawn(seed, style)
    assert sum(lane.width for lane in street.lanes) == pytest.approx(2 * street.half)
    assert {lane.direction for lane in street.lanes} == {1, -1}
    assert max(lane.d for lane in street.lanes if lane.direction > 0) < \
        min(lane.d for lane in street.lanes if lane.direction < 0)
    for block in street.blocks:
        middle = (block.s0 + block.s1) / 2
        d = [float(line.d(middle)) for line in street.boundaries if line.s0 < middle < line.s1]
        assert len(d) == len(street.lanes) + 1
        assert d == sorted(d)


@pytest.mark.parametrize('seed', range(6))
def test_every_street_has_every_kind_of_ground(seed):
    parts = {p.part for block in drawn(seed, 'residential').blocks for side in (1, -1) for p in block.sides[side]}
    assert {'parking', 'sidewalk', 'other_ground', 'terrain'} <= parts


def test_ground_height_follows_the_strips():
    street = drawn(0, 'residential')
    block = street.blocks[1]
    s = (block.s0 + block.s1) / 2
    assert street.ground(s, 0.0) == 0
    for side in (1, -1):
        for strip in block.sides[side]:
            height = street.ground(s, side * (strip.inner + strip.outer) / 2)
            assert height == pytest.approx((strip.h0 + strip.h1) / 2, abs=2e-3)
    assert street.block_at(street.junctions[0]) is None
    assert street.block_at(s) is block


def test_the_ground_mesh_lies_where_the_street_says():
    street = drawn(4, 'residential', length=120)
    mesh = street.mesh(np.random.default_rng(0))
    assert np.isfinite(mesh.vertices).all()
    road = mesh.vertices[np.unique(mesh.faces[mesh.part == 1])]
    ends = street.at(np.array([-END, street.length + END]), 0.0)
    for end in ends:
        assert np.linalg.norm(road[:, :2] - end[:2], axis=1).min() < street.half + .1


@pytest.mark.parametrize(('seed', 'style'), STREETS)
def test_paint_lies_on_its_lane_boundary(seed, style):
    street = drawn(seed, style)
    builder = MeshBuilder()
    paint_street(builder, street, np.random.default_rng(0))
    mesh = builder.build()
    corners = mesh.vertices[mesh.faces].mean(1)
    checked = 0
    for line in street.boundaries:
        if line.kind != 'solid':
            continue
        s = np.arange(line.s0 + 13, line.s1 - 14, 1.0) + .5
        near = np.linalg.norm(corners[None, :, :2] - street.at(s, line.d(s))[:, None, :2], axis=-1).min(1)
        assert near.max() < .3
        checked += len(s)
    assert checked > 50 or all(line.kind != 'solid' for line in street.boundaries)


@pytest.mark.parametrize(('kwargs', 'text'), [
    (dict(style='residental'), 'Did you mean residential'), (dict(length=50), 'length=50')])
def test_bad_streets_are_refused(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        draw_street(np.random.default_rng(0), **kwargs)


@pytest.mark.parametrize(('seed', 'max_curvature'), [(0, 1 / 35), (1, 1 / 70), (2, 1 / 100)])
def test_steering_reproduces_the_heading(seed, max_curvature):
    street = drawn(seed, 'residential', max_curvature=max_curvature, length=400.0)
    changes = [(100.0, 1.8), (250.0, -1.7)]
    drive = Drive(street, np.random.default_rng(0), 60.0, -1.7, 9.0, changes)
    t = np.arange(0, 20, .01)
    wheel = drive.steering_angle(t - .15)                      # the wheel leads by 0.15 s
    v = drive.speed(t)
    curvature = np.tan(wheel / STEERING_RATIO / (1 + UNDERSTEER * v**2)) / WHEELBASE
    # speed along the path is speed along the street times (1 - k d)
    own = v * (1 - street.curvature_at(drive.s(t)) * drive.d(t))
    turned = np.concatenate([[0], np.cumsum((curvature * own)[:-1] * .01)])
    yaw = np.unwrap([np.arctan2(p[1, 0], p[0, 0]) for p in (drive.pose(x) for x in t[::20])])
    for start in (0, 25, 50):                                  # windows of 10 s
        window = slice(start, start + 50)
        error = (yaw[window] - yaw[start]) - (turned[::20][window] - turned[::20][start])
        assert np.abs(error).max() < np.deg2rad(1.5)


def test_the_drive_keeps_to_its_speed_and_place():
    street = drawn(0, 'residential')
    drive = Drive(street, np.random.default_rng(0), 60.0, -1.7, 8.0)
    assert float(drive.s(0.0)) == pytest.approx(60)
    t = np.linspace(0, 15, 100)
    assert np.allclose([drive.time_at(s) for s in drive.s(t)], t, atol=1e-6)
    assert np.allclose(np.gradient(drive.s(t), t)[1:-1], drive.speed(t)[1:-1], atol=.1)
    assert drive.speed(t).max() <= 8.0 + 1e-9
    assert np.abs(drive.d(t) + 1.7).max() < .6
    bend = np.abs(street.curvature_at(drive.s(t)))
    assert (bend * drive.speed(t) ** 2).max() < 3.2            # lateral acceleration
