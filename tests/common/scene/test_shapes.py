import numpy as np
import pytest

from perception.common.scene import people, props, vehicles
from perception.common.scene.labels import PARTS

SIZES = dict(car=((3.8, 5.6), (1.7, 2.3), (1.3, 2.1)), truck=((6, 10), (2.2, 2.8), (2.7, 3.8)),
             bus=((10, 12.6), (2.3, 2.8), (2.9, 3.5)), trailer=((4, 7.5), (2, 2.5), (1.9, 2.9)),
             construction=((3, 9), (2, 3), (2.8, 6)), bicycle=((1.5, 2), (.4, .7), (.9, 1.2)),
             motorcycle=((1.8, 2.4), (.6, 1), (.9, 1.2)))


@pytest.mark.parametrize('part', SIZES)
def test_vehicles_have_their_size_and_stand_on_the_ground(part):
    for seed in range(4):
        mesh = vehicles.draw_vehicle(np.random.default_rng(seed), part)
        low, high = mesh.bounds()
        assert all(a <= x <= b for x, (a, b) in zip(high - low, SIZES[part])), (part, high - low)
        assert abs(low[2]) < .06
        assert {PARTS[p] for p in np.unique(mesh.part)} == {part}
        assert np.isfinite(mesh.vertices).all()


@pytest.mark.parametrize('kind', vehicles.CARS)
def test_cars_are_symmetric(kind):
    mesh = vehicles.car(np.random.default_rng(0), kind)
    low, high = mesh.bounds()
    assert low[1] == pytest.approx(-high[1], abs=1e-5)


def test_people_walk_with_one_topology():
    meshes = people.person(np.random.default_rng(0))
    assert len(meshes) == people.PHASES
    assert all(np.array_equal(mesh.faces, meshes[0].faces) for mesh in meshes)
    assert not np.allclose(meshes[0].vertices, meshes[2].vertices, atol=.05)
    for mesh in meshes:
        low, high = mesh.bounds()
        assert 1.4 < high[2] < 2.1
        assert -.1 < low[2] < .15


@pytest.mark.parametrize('seed', range(3))
def test_children_are_small_and_standing_people_have_one_mesh(seed):
    meshes = people.person(np.random.default_rng(seed), 'child', moving=False)
    assert len(meshes) == 1
    assert 1.0 < meshes[0].bounds()[1][2] < 1.6


@pytest.mark.parametrize('part', ['bicyclist', 'motorcyclist'])
def test_riders_carry_the_label_of_the_rider_everywhere(part):
    mesh = people.rider(np.random.default_rng(0), part)[0]
    assert {PARTS[p] for p in np.unique(mesh.part)} == {part}
    assert 1.4 < mesh.bounds()[1][2] < 2.0


@pytest.mark.parametrize(('make', 'part', 'height'), [
    (lambda r: props.tree(r, 8.0), 'vegetation', (6, 12)), (lambda r: props.conifer(r, 8.0), 'vegetation', (7, 10)),
    (props.bush, 'vegetation', (.8, 2.5)), (lambda r: props.hedge(r, 4, 1.4), 'vegetation', (1.3, 1.7)),
    (lambda r: props.fence(r, 4), 'fence', (1.0, 2.0)), (lambda r: props.wall(r, 4), 'fence', (.9, 2.1)),
    (props.lamp, 'pole', (5, 9)), (props.sign, 'sign', (2.3, 3.5)), (props.signal, 'sign', (2.7, 3.5)),
    (props.bin_, 'other_object', (.9, 1.2)), (props.bench, 'other_structure', (.7, 1.1)),
    (props.shelter, 'other_structure', (2.3, 2.7)),
    (lambda r: props.building(r, 14, 10, 2, props.WALLS[0]), 'building', (5, 13))])
def test_props_have_their_part_and_height(make, part, height):
    for seed in range(3):
        mesh = make(np.random.default_rng(seed))
        assert part in {PARTS[p] for p in np.unique(mesh.part)}
        assert np.isfinite(mesh.vertices).all()
        assert height[0] < mesh.bounds()[1][2] < height[1]


def test_beams_pass_through_crowns_and_fences():
    from perception.common.scene.caster import Caster
    y, z = np.meshgrid(np.linspace(-1.5, 1.5, 60), np.linspace(.2, .9, 20))
    origin = np.stack([np.full(y.size, -20.0), y.ravel(), z.ravel()], -1)
    direction = np.broadcast_to([1.0, 0, 0], origin.shape)
    turned = np.eye(4)
    turned[:2, :2] = [[0, -1], [1, 0]]
    for make, share in ((lambda r: props.fence(r, 4), (.2, .95)), (lambda r: props.hedge(r, 4, 1.4), (.5, 1.0)),
                        (lambda r: props.wall(r, 4), (1.0, 1.01))):
        hits = Caster(make(np.random.default_rng(1)).moved(turned)).cast(origin, direction)
        assert share[0] <= hits.hit.mean() < share[1]


def test_facades_are_layered():
    from perception.common.scene.caster import Caster
    house = props.building(np.random.default_rng(0), 14, 10, 2, props.WALLS[0])
    x, z = np.meshgrid(np.linspace(-6.5, 6.5, 80), np.linspace(.5, 5, 40))
    origin = np.stack([x.ravel(), np.full(x.size, -20.0), z.ravel()], -1)
    hits = Caster(house).cast(origin, np.broadcast_to([0, 1.0, 0], origin.shape))
    depth = hits.distance[hits.hit] - 20
    assert .05 < (depth > .1).mean() < .6
    assert (np.abs(depth) < .01).mean() > .3
