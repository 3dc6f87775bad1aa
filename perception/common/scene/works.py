"""Road works beside a street: rows of barriers and cones, an excavator, somebody who works there."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from perception.common.scene import people
from perception.common.scene.actors import standing
from perception.common.scene.mesh import Mesh, MeshBuilder, merge
from perception.common.scene.traffic import Traffic
from perception.common.scene.vehicles import draw_vehicle
from perception.common.scene.world import World

BARRIER = 2.2       # metres from one barrier to the next
ORANGE, WHITE, RED = (.75, .16, .02), (.7, .7, .7), (.55, .03, .03)


def barrier(rng: np.random.Generator) -> Mesh:
    """A barrier of plastic, 2 m along x, as broad at its foot as it needs to stand."""
    builder = MeshBuilder()
    colour = (WHITE, RED)[rng.integers(2)]
    builder.boxes([0, 0, 0], [2.0, .55, .25], 'plastic', colour, 'barrier', taper=.96)
    builder.boxes([0, 0, .25], [1.92, .24, .72], 'car_paint', colour, 'barrier', taper=.97)
    builder.boxes([0, .128, .6], [1.6, .01, .16], 'retro', WHITE, 'barrier')
    builder.boxes([0, -.128, .6], [1.6, .01, .16], 'retro', WHITE, 'barrier')
    return builder.build()


def cone(rng: np.random.Generator) -> Mesh:
    """A traffic cone with a reflecting band."""
    builder = MeshBuilder()
    height = rng.uniform(.7, .95)
    builder.boxes([0, 0, 0], [.42, .42, .05], 'plastic', ORANGE, 'cone')
    builder.tubes([0, 0, .05], [0, 0, height], .16, 'car_paint', ORANGE, 'cone', end_radius=.03, sides=10)
    builder.tubes([0, 0, .5 * height], [0, 0, .68 * height], .108, 'retro', WHITE, 'cone', end_radius=.086, sides=10)
    return builder.build()


def add_works(world: World, seed: int, start: float, stop: float, every: float = 26.0) -> World:
    """The same world with sites between s = start and stop [m], on both sides in turn; nothing of it touches others.

    Args:
        world: a street with sidewalks.
        seed: of the sites.
        start, stop: metres along the street.
        every: metres from one site to the next.
    """
    rng = np.random.default_rng([*world.seed, 8, seed])
    actors, count = list(world.actors), len(world.actors)
    traffic = Traffic(actors, world.street, world.drive, rng)
    for index, s in enumerate(np.arange(start, stop, every)):
        _site(traffic, world, float(s + rng.uniform(0, 6)), 1 if index % 2 else -1, rng)
    static = merge([world.static, *(actor.mesh(0.0) for actor in actors[count:])])
    return replace(world, static=static, actors=actors)


def _site(traffic: Traffic, world: World, s: float, side: int, rng: np.random.Generator) -> None:
    block = world.street.block_at(s)
    if block is None:
        return
    inner, walk = block.sides[side][0].inner, block.strip(side, 'sidewalk')
    middle = side * ((walk.inner + walk.outer) / 2 if walk else inner + 2)

    def put(part: str, mesh: Mesh, s: float, d: float, yaw: float = 0.0) -> bool:
        return traffic.add(part, [mesh], standing(s, d, yaw), moving=False)
    for i in range(6):
        put('barrier', barrier(rng), s + BARRIER * i, side * (inner + .7), rng.normal(0, .02))
    for i, offset in enumerate(np.linspace(-4, 17, 8)):
        put('cone', cone(rng), s + offset + rng.uniform(-.3, .3), middle + side * (.8 if i % 2 else .1), 0.0)
    put('worker', people.person(rng, 'worker', moving=False)[0], s + rng.uniform(2, 9), middle, rng.uniform(0, 6.28))
    outer = (walk.outer if walk else inner) + 3.2
    put('construction', draw_vehicle(rng, 'construction'), s + rng.uniform(3, 9), side * outer, rng.uniform(0, 6.28))
