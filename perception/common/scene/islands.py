"""Islands of kerb stone in the middle of cross streets, which drivers pass on both sides."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from perception.common.scene.mesh import Mesh, MeshBuilder, grid_faces, merge
from perception.common.scene.street import KERB, Street
from perception.common.scene.world import World

HEIGHT = .14
NEAR, FAR_END, HALF = 12.0, 24.0, .7      # metres beside the carriageway where an island begins and ends; half width


def island_places(street: Street) -> list[tuple[float, float, float, float]]:
    """Where `add_islands` puts them: s from, s to, d from, d to; one on each side of a junction."""
    return [(s - HALF, s + HALF, *sorted((side * (street.half + NEAR), side * (street.half + FAR_END))))
            for s in street.junctions for side in (1, -1)]


def add_islands(world: World) -> World:
    """The same world with islands in its cross streets."""
    return replace(world, static=merge([world.static, island_mesh(world.street)]))


def island_mesh(street: Street) -> Mesh:
    """All islands of a street."""
    builder = MeshBuilder()
    for s0, s1, d0, d1 in island_places(street):
        corners = np.array([[s0, d0], [s1, d0], [s1, d1], [s0, d1]])
        top = street.at(corners[:, 0], corners[:, 1], HEIGHT)
        points = np.concatenate([top, top - [0, 0, HEIGHT + .1]])
        faces = np.concatenate([[[0, 1, 2], [0, 2, 3]], grid_faces(2, 4, closed=True)])
        builder.add(points, faces, 'kerb', KERB, 'other_ground')
    return builder.build()
