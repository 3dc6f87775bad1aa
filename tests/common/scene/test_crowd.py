"""Crowds in the toy world: how many, how close, how they move, and what hides them."""
import numpy as np
import pytest
from scipy.spatial import cKDTree

from perception.common.scene import crowd as crowds
from perception.common.scene.caster import Caster, visible_rays
from perception.common.scene.crowd import REACH, SPACE, Crowd, add_crowd
from perception.common.scene.drive import Drive
from perception.common.scene.mesh import MeshBuilder, merge
from perception.common.scene.passers import ACTS, passer_by
from perception.common.scene.people import PHASES
from perception.common.scene.street import draw_street
from perception.common.scene.world import LEAD_IN, build_world
from perception.utils.errors import ConfigError

STYLES = ('urban', 'residential', 'avenue', 'boulevard')


def gather(seed, crowd, booked=()):
    """Street, drive and actors of a crowd without the street's furniture."""
    street = draw_street(np.random.default_rng(seed), STYLES[seed % 4], 170, 1 / 200)
    drive = Drive(street, np.random.default_rng(seed), LEAD_IN, street.lanes[0].d, crowd.speed)
    actors = []
    add_crowd(actors, street, drive, np.random.default_rng(seed), crowd, np.reshape(booked, (-1, 3)))
    return drive, actors


@pytest.fixture
def shapeless(monkeypatch):
    """People without meshes, which is all that the statistics need."""
    monkeypatch.setattr(crowds, 'passer_by', lambda rng, act, child, carries: {'person': [act]})


def places(drive, actors, t):
    """(K, 2) where people are in the ego's frame."""
    pose = drive.pose(t)
    return ((np.array([actor.pose(t)[:3, 3] for actor in actors]) - pose[:3, 3]) @ pose[:3, :3])[:, :2]


def test_as_many_people_stand_as_close_as_in_a_real_crowd(shapeless):
    ahead, neighbours, nearest = [], [], []
    for seed in range(8):
        drive, actors = gather(seed, Crowd(count=20, seconds=6.0, speed=(.05, 1.2)[seed % 2]))
        for t in (.1, 3.0, 5.9):
            spots = places(drive, actors, t)
            nearest.append(cKDTree(spots).query(spots, 2)[0][:, 1].min())
            assert np.linalg.norm(spots, axis=1).min() > 2
            spots = spots[(spots[:, 0] >= 0) & (np.linalg.norm(spots, axis=1) <= REACH)]
            ahead.append(len(spots))
            neighbours += [len(found) - 1 for found in cKDTree(spots).query_ball_point(spots, 2)]
    assert np.mean(ahead) == pytest.approx(20, abs=4)
    assert min(ahead) >= 14      # 15 at every fifth of a second
    assert max(ahead) <= 45
    assert 2.0 < np.mean(neighbours) < 3.5
    assert SPACE - .03 < min(nearest) < .6


def test_people_keep_off_what_stands_there_and_behave_as_asked(shapeless):
    drive, free = gather(1, Crowd(seconds=3.0))
    middle = free[0].pose(1.0)[:2, 3]
    drive, actors = gather(1, Crowd(seconds=3.0, standing=.5, low=.3), [*middle, 3.0])
    for t in np.arange(0, 3, .4):
        off = np.array([actor.pose(t)[:2, 3] for actor in actors]) - middle
        assert np.linalg.norm(off, axis=1).min() >= 3
    acts = [actor.meshes[0] for actor in actors]
    assert set(acts) == set(ACTS)
    assert .1 < np.isin(acts, ('bending', 'sitting')).mean() < .5
    assert [actor.moving for actor in actors] == [act == 'walking' for act in acts]
    speeds = np.array([np.linalg.norm(actor.velocity(1.0)[:2]) for actor in actors if actor.moving])
    assert speeds.min() > .75
    assert speeds.max() < 1.75


def test_rays_through_things_count_hidden_ones_too():
    builders = [MeshBuilder() for _ in range(3)]
    for builder, base, size in zip(builders, ([5, 0, 0], [10, 0, 0], [10, 9, 0]), ([1, 2, 1], [1, 2, 4], [1, 2, 4])):
        builder.boxes(base, size, 'cloth', (.1, .1, .1), 'person')
    caster = Caster(merge([builder.build(i + 1) for i, builder in enumerate(builders)]), 1)
    y, z = np.meshgrid(np.linspace(-.9, .9, 10), np.linspace(.1, 3.9, 20))
    rays = np.stack([np.full(y.size, 9.5), y.ravel(), z.ravel()], -1).astype(np.float32)
    ray, instance = caster.pierced(np.zeros((200, 3)), rays)
    assert np.bincount(instance, minlength=4).tolist() == [0, 110, 200, 0]     # the nearer one hides rays up to 2.1 m
    assert len({*zip(ray.tolist(), instance.tolist())}) == len(ray)
    seen, alone = visible_rays(caster, caster, np.zeros(3), rays, 4)
    assert seen.tolist() == [0, 110, 90, 0]
    assert alone.tolist() == [0, 110, 200, 0]


@pytest.mark.parametrize('act', ACTS)
def test_people_have_the_height_of_what_they_do(act):
    rng, heights = np.random.default_rng(3), []
    for _ in range(12):
        parts = passer_by(rng, act, carries=frozenset({'rucksack', 'bag'}))
        low, high = np.array([mesh.bounds() for mesh in parts['person']]).transpose(1, 0, 2)
        assert len(parts['person']) == (PHASES if act == 'walking' else 1)
        assert np.abs(low[:, 2]).max() < 1e-6
        assert (high - low).max(0)[:2].max() < 1.3
        heights += high[:, 2].tolist()
    if act in ('bending', 'sitting'):
        assert max(heights) < 1.2
        assert min(heights) > .6
    else:
        assert 1.4 < min(heights) < max(heights) < 2.05


def test_prams_and_umbrellas_are_things_of_their_own():
    carries = frozenset({'umbrella', 'pram'})
    parts = passer_by(np.random.default_rng(1), 'walking', carries=carries)
    assert set(parts) == {'person', 'other_object', 'stroller'}
    assert parts['other_object'][0].bounds()[1][2] > parts['person'][0].bounds()[1][2]
    assert parts['stroller'][0].bounds()[0][0] > .2
    child = passer_by(np.random.default_rng(2), 'standing', child=True)
    assert list(child) == ['child']
    assert child['child'][0].bounds()[1][2] < 1.5


def test_a_world_with_people_has_a_crawling_ego_and_no_traffic():
    world = build_world(3, 'residential', 140, people=dict(count=16, least=15, seconds=1.0, speed=.5))
    assert {actor.part for actor in world.actors if actor.moving} <= {'person', 'child', 'stroller', 'other_object'}
    assert world.moving.sum() > 5
    assert [actor.instance for actor in world.actors] == list(range(1, len(world.actors) + 1))
    assert np.linalg.norm(world.drive.pose(1.0)[:3, 3] - world.drive.pose(0.0)[:3, 3]) == pytest.approx(.5, abs=.1)


@pytest.mark.parametrize(('people', 'words'), [
    (dict(cuont=20), "people='cuont', expected one of .* Did you mean count"), (dict(count=90), 'count <= most <= 60'),
    (dict(least=0), '0 < least'), (dict(speed=9), '3 m/s'), (dict(low=2), 'shares')])
def test_impossible_crowds_are_refused(people, words):
    with pytest.raises(ConfigError, match=words):
        build_world(0, people=people)


def test_a_full_street_says_how_many_found_room(shapeless, monkeypatch):
    monkeypatch.setattr(crowds, 'TRIES', 3)
    with pytest.raises(ConfigError, match='found room, expected 40'):
        gather(0, Crowd(count=40, seconds=1.0))
