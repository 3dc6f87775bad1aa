from dataclasses import replace

import numpy as np
import pytest

from perception.common.scene.caster import Caster
from perception.common.scene.labels import PART
from perception.common.scene.lidar import HDL64E, OS0_128, rained, scan
from perception.common.scene.materials import MATERIAL
from perception.common.scene.mesh import MeshBuilder, merge

SPEC = replace(HDL64E, columns=360)


def boxes(*rows):
    """A mesh of boxes, each (base, size, material, albedo, part)."""
    builder = MeshBuilder()
    for base, size, material, albedo, part in rows:
        builder.boxes(base, size, material, albedo, part)
    return builder.build()


def at(x=0.0, y=0.0, z=1.73):
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


GROUND = ([0, 0, -1], [400, 400, 1], 'asphalt', (.1, .1, .1), 'road')
FACADE = ([20.5, 0, 0], [1, 300, 40], 'plaster', (.6, .6, .6), 'building')


def test_rays_meet_the_nearest_box_of_either_scene():
    static = boxes(([10, 0, -5], [2, 10, 10], 'concrete', (.1, .2, .3), 'building'))
    caster = Caster(static)
    origin = np.zeros((3, 3))
    direction = np.array([[1, 0, 0], [np.sqrt(.5), np.sqrt(.5), 0], [-1, 0, 0]])
    hits = caster.cast(origin, direction)
    assert hits.hit.tolist() == [True, False, False]
    assert hits.distance[0] == pytest.approx(9)
    assert hits.cosine[0] == pytest.approx(1)
    assert np.allclose(hits.albedo[0], (.1, .2, .3))
    assert hits.material[0] == MATERIAL['concrete']
    for value in hits:
        assert np.isfinite(value).all()
        assert (value[1:] == 0).all()
    caster.set_actors(boxes(([5, 0, -5], [2, 2, 10], 'cloth', (0, 0, 0), 'person')).tagged(4))
    hits = caster.cast(origin, direction)
    assert (hits.distance[0], hits.part[0], hits.instance[0]) == (pytest.approx(4), PART['person'], 4)
    caster.set_actors(boxes(([50, 0, -5], [2, 2, 10], 'cloth', (0, 0, 0), 'person')).tagged(4))
    assert caster.cast(origin, direction).part[0] == PART['building']
    caster.set_actors(merge([]))
    assert caster.cast(origin, direction).distance[0] == pytest.approx(9)


def test_an_empty_world_returns_nothing():
    found = scan(Caster(merge([])), at(), SPEC, np.random.default_rng(0))
    assert found.points.shape == (0, 4)
    assert found.points.dtype == np.float32


def test_flat_ground_gives_circles_at_the_right_distance():
    found = scan(Caster(boxes(GROUND)), at(), SPEC, np.random.default_rng(0))
    real = found.part == PART['road']
    points, ring = found.points[real], found.ring[real]
    flat = np.hypot(points[:, 0], points[:, 1])
    for index in (20, 40, 63):
        expected = 1.73 / np.tan(np.deg2rad(-SPEC.elevations[index]))
        assert np.median(flat[ring == index]) == pytest.approx(expected, rel=.01)
    assert np.abs(np.median(points[:, 2]) + 1.73) < .01
    assert found.ring.max() == 63
    assert (np.abs(points[:, 2] + 1.73) < .1).mean() > .99
    elevation = np.rad2deg(np.arctan2(points[:, 2], flat))
    assert np.abs(elevation - np.array(SPEC.elevations)[ring]).max() < .1
    assert np.median(np.abs(elevation - np.array(SPEC.elevations)[ring])) < .02


def test_asphalt_fades_with_distance_and_facades_do_not():
    caster = Caster(boxes(GROUND, FACADE))
    found = scan(caster, at(), HDL64E, np.random.default_rng(0))
    flat = np.hypot(found.points[:, 0], found.points[:, 1])
    road = flat[found.part == PART['road']]
    assert (road < 45).mean() > .97
    assert (road > 30).any()
    per_ring = np.bincount(found.ring[found.part == PART['road']], minlength=64)
    assert per_ring[35] > 2 * per_ring[9]
    front = (np.abs(found.points[:, 1]) < 5) & (found.part == PART['building'])
    assert np.median(found.points[front, 0]) == pytest.approx(20, abs=.05)


def test_range_noise_of_a_facade_is_the_scanners():
    found = scan(Caster(boxes(FACADE)), at(), HDL64E, np.random.default_rng(0))
    x = found.points[(np.abs(found.points[:, 1]) < 3) & (found.part == PART['building']), 0]
    assert len(x) > 500
    assert np.std(x) == pytest.approx(.0155, rel=.15)


def test_range_limits_intensity_and_false_echoes():
    found = scan(Caster(boxes(GROUND, FACADE)), at(), HDL64E, np.random.default_rng(1))
    reach = np.linalg.norm(found.points[:, :3], axis=1)
    assert np.isfinite(found.points).all()
    assert reach.min() >= HDL64E.min_range - 1e-3
    assert reach.max() <= HDL64E.max_range + 1e-3
    assert found.points[:, 3].min() >= 0
    assert found.points[:, 3].max() <= .99
    assert len(np.unique(found.points[:, 3])) > 20
    false = found.part == PART['outlier']
    assert 0 < false.sum() < 1e-3 * len(false)


def test_the_roof_hides_the_lowest_beams_behind_and_ahead():
    found = scan(Caster(boxes(GROUND)), at(), HDL64E, np.random.default_rng(0))
    azimuth = np.rad2deg(np.arctan2(found.points[:, 1], found.points[:, 0]))
    lowest = found.ring == 63
    assert not (lowest & (np.abs(azimuth) > 150)).any()
    assert (lowest & (np.abs(np.abs(azimuth) - 90) < 20)).sum() > 200


@pytest.mark.parametrize(('material', 'share'), [('car_glass', (.72, .78)), ('glass', (-.01, .01))])
def test_most_rays_pass_the_windows_of_cars_only(material, share):
    pane = MeshBuilder()
    pane.quads(np.array([[[10, -30, 0], [10, 30, 0], [10, 30, 20], [10, -30, 20]]]), material, (.05, .05, .05), 'car')
    found = scan(Caster(merge([pane.build(), boxes(FACADE)])), at(), HDL64E, np.random.default_rng(0))
    front = np.abs(np.arctan2(found.points[:, 1], found.points[:, 0])) < .2
    level = np.abs(np.array(HDL64E.elevations)) < 3           # rings that meet both the pane and the facade
    behind = ((found.part == PART['building']) & front & level[found.ring]).sum()
    rays = level.sum() * HDL64E.columns * .4 / (2 * np.pi)
    assert share[0] < behind / rays < share[1]


def test_the_scan_is_corrected_for_the_egos_motion():
    velocity = np.array([15.0, 0, 0])
    found = scan(Caster(boxes(FACADE)), at(), HDL64E, np.random.default_rng(0), velocity)
    wall = found.part == PART['building']
    x, time = found.points[wall, 0], found.time[wall]
    assert np.ptp(time) > .03
    assert np.abs(np.polyfit(time, x, 1)[0]) < .3             # skewed points would drift by 15 m/s
    assert np.median(x) == pytest.approx(20, abs=.02)


def test_points_are_in_the_sensors_frame():
    turned = at(3.0, 1.0)
    turned[:2, :2] = [[0, -1], [1, 0]]                        # the ego looks along the world's y
    found = scan(Caster(boxes(FACADE)), turned, HDL64E, np.random.default_rng(0))
    wall = found.points[found.part == PART['building']]
    assert np.median(wall[:, 1]) == pytest.approx(-17, abs=.02)


def test_the_same_seed_gives_the_same_scan_on_any_number_of_threads():
    mesh = boxes(GROUND, FACADE)
    a, b = (scan(Caster(mesh, threads), at(), SPEC, np.random.default_rng(5)) for threads in (1, 2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b))
    other = scan(Caster(mesh), at(), SPEC, np.random.default_rng(6))
    assert a.points.shape != other.points.shape or not np.array_equal(a.points, other.points)


def test_os0_128_looks_half_up_and_half_down():
    found = scan(Caster(boxes(GROUND, FACADE)), at(z=1.6), replace(OS0_128, columns=256), np.random.default_rng(0))
    assert len(OS0_128.elevations) == 128
    assert OS0_128.columns == 2048
    elevation = np.rad2deg(np.arcsin(found.points[:, 2] / np.linalg.norm(found.points[:, :3], axis=1)))
    assert np.abs(elevation - np.array(OS0_128.elevations)[found.ring]).max() < .1
    assert elevation.min() < -44
    assert elevation.max() > 44
    assert np.linalg.norm(found.points[:, :3], axis=1).max() <= 50
    assert (found.points[:, 3] == np.round(found.points[:, 3])).all()
    assert 20 < np.median(found.points[:, 3]) < 200
    assert found.points[:, 3].max() <= 255


def test_rain_thins_a_scan_and_adds_drops():
    dry = scan(Caster(boxes(GROUND, FACADE)), at(), replace(HDL64E, columns=720), np.random.default_rng(0))
    wet = rained(dry, .8, np.random.default_rng(1))
    again = rained(dry, .8, np.random.default_rng(1))
    assert all(np.array_equal(x, y) for x, y in zip(wet, again))
    left = {name: ((wet.part == PART[name]).sum() / (dry.part == PART[name]).sum()) for name in ('road', 'building')}
    assert .2 < left['road'] < .5 < left['building'] < .75
    reach = np.linalg.norm(wet.points[wet.part == PART['outlier'], :3], axis=1)
    assert 20 < len(reach) < .02 * len(dry.points)
    assert np.median(reach) < 5
    assert np.isfinite(wet.points).all()
    none = rained(dry, 0.0, np.random.default_rng(1))
    assert np.array_equal(none.points[:, :3], dry.points[:, :3])
