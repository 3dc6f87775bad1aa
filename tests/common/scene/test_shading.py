import numpy as np
import pytest

from perception.common.scene import shading
from perception.common.scene.camera import CameraSpec, camera_pose, render
from perception.common.scene.labels import PART
from perception.common.scene.mesh import MeshBuilder, smooth_normals
from perception.common.scene.shading import KINDS, Look, Sun, develop, draw_look, noise
from perception.common.scene.world import build_world
from perception.utils.errors import ConfigError

SPEC = CameraSpec(410, 148, 310, 1.45, -1.5, scale=1.0)


@pytest.fixture(scope='module')
def scene():
    world = build_world((31, 4), 'urban', 180, traffic=.6)
    t = world.drive.time_at(85)
    return world.caster(t, threads=1), camera_pose(world.drive.pose(t), SPEC)


@pytest.fixture(scope='module')
def pictures(scene):
    return {kind: render(*scene, SPEC, Look(kind), np.random.default_rng(0)) for kind in KINDS}


def test_pictures_are_as_bright_as_their_look(pictures):
    mean = {kind: frame.image.mean() for kind, frame in pictures.items()}
    for kind in ('day', 'overcast', 'shadow'):
        assert 60 < mean[kind] < 150, kind
    assert 15 < mean['night'] < 60
    assert mean['glare'] > mean['shadow']
    for kind, frame in pictures.items():
        assert (frame.image >= 254).mean() < .05, kind
        assert frame.image.std() > (15 if kind == 'night' else 8), kind
        assert frame.image.dtype == np.uint8


def test_paint_is_brighter_than_the_road(pictures):
    for kind in ('day', 'overcast', 'night', 'glare'):
        frame = pictures[kind]
        near = (frame.depth < 25) & (frame.depth > 0)
        road = frame.image[near & (frame.part == PART['road'])].mean()
        paint = frame.image[near & (frame.part == PART['marking'])].mean()
        assert paint > road + 12, (kind, road, paint)


def test_fog_hides_what_is_far(pictures):
    far = (pictures['day'].depth > 60)
    assert pictures['fog'].image[far].std() < .6 * pictures['day'].image[far].std()


def test_the_same_seed_gives_the_same_picture(scene, pictures):
    again = render(*scene, SPEC, Look(), np.random.default_rng(0))
    other = render(*scene, SPEC, Look(), np.random.default_rng(1))
    assert np.array_equal(again.image, pictures['day'].image)
    assert not np.array_equal(other.image, again.image)
    assert np.array_equal(other.part, again.part)


def test_worn_paint_is_darker(scene):
    fresh, worn = (render(*scene, SPEC, Look(wear=wear), np.random.default_rng(0)) for wear in (0.0, 1.0))
    paint = fresh.part == PART['marking']
    assert worn.image[paint].mean() < fresh.image[paint].mean() - 15


def _ground(thing: bool):
    """A plane of 40 m, with a box of 2 m on it 10 m ahead."""
    builder = MeshBuilder()
    builder.quads(np.array([[[-40, -40, 0], [40, -40, 0], [40, 40, 0], [-40, 40, 0]]], float), 'plastic', (.3, .3, .3),
                  'road')
    if thing:
        builder.boxes([12, 0, 0], [2, 2, 2], 'plastic', (.3, .3, .3), 'building')
    return builder.build()


def test_things_cast_their_shadow_away_from_the_sun():
    from perception.common.scene.caster import Caster
    spec = CameraSpec(200, 120, 120, 3.0, -15, scale=1.0)
    pose = camera_pose(np.eye(4), spec)
    look = Look(azimuth=90.0, elevation=45.0)                        # the sun is on the left
    frames = [render(Caster(_ground(thing), 1), pose, spec, look, np.random.default_rng(0)) for thing in (False, True)]
    drop = frames[0].image.mean(-1) - frames[1].image.mean(-1)
    ground = (frames[1].part == PART['road']) & (drop > 25)
    assert ground.sum() > 100
    assert np.flatnonzero(ground.any(0)).mean() > 110                # to the right of the box


def test_the_sun_stands_where_the_look_says():
    pose = camera_pose(np.eye(4), SPEC)
    ahead = Sun.of(Look('glare'), pose).direction
    assert np.linalg.norm(ahead) == pytest.approx(1, abs=1e-5)
    assert ahead[0] > .95
    assert Sun.of(Look(azimuth=90, elevation=0), pose).direction == pytest.approx([0, 1, 0], abs=1e-6)
    for kind in KINDS:
        look = draw_look(kind, 30.0, np.random.default_rng(2))
        assert look.kind == kind
        assert 0 < look.elevation < 80
    assert draw_look('day', 0, np.random.default_rng(5)) == draw_look('day', 0, np.random.default_rng(5))


def test_noise_is_even_and_tiles():
    rng = np.random.default_rng(0)
    u, v = rng.uniform(-500, 500, (2, 20_000))
    values = noise(u, v, 7.0)
    assert values.shape == (20_000,)
    assert abs(values.mean()) < .1
    assert .8 < values.std() < 1.1
    assert np.allclose(noise(u + 7.0, v - 14.0, 7.0), values, atol=.05)


def test_the_guided_filter_keeps_edges_and_smooths_the_rest():
    rng = np.random.default_rng(0)
    guide = np.repeat([[0.0, 3.0]], 32, 1).reshape(1, 64).repeat(40, 0).astype(np.float32)
    value = (guide / 3 + .3 * rng.standard_normal(guide.shape)).astype(np.float32)
    smooth = shading._guided(guide, value, 9, .002)
    assert smooth[:, :32].std() < .1
    assert smooth[:, 32:].mean() - smooth[:, :32].mean() == pytest.approx(1, abs=.05)


def test_development_survives_anything():
    light = np.zeros((30, 40, 3), np.float32)
    light[5, 5], light[6, 6], light[7, 7] = np.nan, np.inf, -1
    picture = develop(light, (60, 80), Look(), np.random.default_rng(0))
    assert picture.shape == (60, 80, 3)
    assert picture[12:14, 12:14].min() > 150


def test_normals_are_rounded_but_not_over_sharp_edges():
    builder = MeshBuilder()
    builder.tubes([0, 0, 0], [0, 0, 2], 1.0, 'plastic', (1, 1, 1), 'car', sides=24)
    mesh = builder.build(1)
    normals = smooth_normals(mesh)
    assert np.allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-4)
    corners = mesh.vertices[mesh.faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    side = np.abs(flat[:, 2]) < 1e-6
    outward = corners[side][..., :2] / np.linalg.norm(corners[side][..., :2], axis=-1, keepdims=True)
    assert np.abs((normals[side][..., :2] * outward).sum(-1)).min() > .999
    assert np.abs(normals[~side][..., 2]).min() > .999


@pytest.mark.parametrize('kwargs', [dict(kind='nigth'), dict(wear=2), dict(exposure=0), dict(haze=-1)])
def test_bad_looks_are_refused(kwargs):
    with pytest.raises(ConfigError, match='Look'):
        Look(**kwargs)
