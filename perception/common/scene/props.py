"""Things that stand along a street, as meshes in their local frames; see `MeshBuilder` for the frame."""
from __future__ import annotations

import numpy as np

from perception.common.scene.mesh import Mesh, MeshBuilder

BARK, GREY, DARK, WOOD, WHITE = (.10, .07, .05), (.35, .36, .37), (.03, .03, .035), (.20, .13, .08), (.7, .7, .68)
WALLS = ((.62, .55, .42), (.55, .38, .28), (.68, .66, .62), (.42, .24, .18), (.60, .58, .45), (.36, .36, .38))
RED, BLUE = (.6, .03, .03), (.03, .10, .5)


def _crown(builder: MeshBuilder, rng: np.random.Generator, centre: np.ndarray, radius: np.ndarray, count: int,
           size: float, colour: np.ndarray) -> None:
    """Leaf triangles near the surfaces of balls (K, 3) with radii (K,)."""
    pick = rng.integers(len(centre), size=count)
    direction = rng.standard_normal((count, 3))
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-12)
    at = centre[pick] + direction * (radius[pick] * rng.uniform(.55, 1.05, count) ** .6)[:, None]
    normal = direction + .7 * rng.standard_normal((count, 3))
    shade = rng.uniform(.6, 1.5, count) * (.75 + .25 * direction[:, 2])
    builder.leaves(at, normal, size, colour * shade[:, None], rng.uniform(0, 2 * np.pi, count))


def tree(rng: np.random.Generator, height: float, leaves: int = 1600) -> Mesh:
    """A broad-leaved tree: bent trunk, branches, and leaf triangles that let beams through."""
    builder = MeshBuilder()
    trunk = height * rng.uniform(.18, .34)
    bend = np.cumsum(rng.normal(0, .05 * height, (5, 2)) * np.array([0, .4, .6, .8, 1])[:, None], 0)
    knots = np.concatenate([bend, np.linspace(0, .8 * height, 5)[:, None]], 1)
    radius = np.array([1.25, .95, .7, .45, .2]) * height * .013
    builder.tubes(knots[:-1], knots[1:], radius[:-1], 'bark', BARK, 'trunk', radius[1:], sides=8, caps=False)
    count = rng.integers(6, 11)
    level = rng.uniform(trunk, .75 * height, count)
    foot = np.stack([np.interp(level, knots[:, 2], knots[:, i]) for i in range(3)], -1)
    angle = rng.uniform(0, 2 * np.pi, count)
    reach = height * rng.uniform(.14, .26, count)
    tip = foot + np.stack([reach * np.cos(angle), reach * np.sin(angle), reach * rng.uniform(.3, 1, count)], -1)
    builder.tubes(foot, tip, .006 * height, 'bark', BARK, 'trunk', .003 * height, sides=5, caps=False)
    top = knots[-1] + [0, 0, .04 * height]
    balls = np.concatenate([tip, top[None], knots[3:4]])
    green = np.array([.06, .13, .03]) * rng.uniform(.7, 1.4, 3)
    _crown(builder, rng, balls, height * rng.uniform(.12, .19, len(balls)), leaves,
           (.07 + .013 * height) * np.sqrt(2600 / leaves), green)
    return builder.build()


def conifer(rng: np.random.Generator, height: float, leaves: int = 1400) -> Mesh:
    """A tree with a cone of leaf triangles almost down to the ground."""
    builder = MeshBuilder()
    builder.tubes([0, 0, 0], [0, 0, .9 * height], .014 * height, 'bark', BARK, 'trunk', .004 * height, sides=7)
    level = np.linspace(.1, .97, 10) * height
    _crown(builder, rng, np.stack([0 * level, 0 * level, level], -1), .24 * (1.08 * height - level), leaves,
           .07 + .012 * height, np.array([.03, .08, .03]))
    return builder.build()


def bush(rng: np.random.Generator) -> Mesh:
    """A shrub of 1 to 2 m."""
    builder = MeshBuilder()
    radius = rng.uniform(.4, .9, 4)
    centre = np.concatenate([rng.normal(0, .5, (4, 2)), radius[:, None] * .8], 1)
    _crown(builder, rng, centre, radius, 420, .13, np.array([.07, .14, .04]) * rng.uniform(.7, 1.4))
    return builder.build()


def hedge(rng: np.random.Generator, length: float, height: float) -> Mesh:
    """A clipped hedge along x: leaf triangles on and in a box 0.7 m deep."""
    builder = MeshBuilder()
    count = int(240 * length * height / 1.3)
    at = rng.uniform([-length / 2, -.35, .02], [length / 2, .35, height], (count, 3))
    side = rng.integers(4, size=count) % 3
    at[side == 0, 1] = np.sign(at[side == 0, 1]) * .35
    at[side == 1, 2] = height
    at += rng.normal(0, .04, at.shape)
    normal = rng.standard_normal((count, 3)) * .7 + np.stack([0 * at[:, 0], np.sign(at[:, 1]), at[:, 2] / height], -1)
    shade = rng.uniform(.6, 1.4, (count, 1))
    builder.leaves(at, normal, .11, np.array([.05, .12, .03]) * shade, rng.uniform(0, 2 * np.pi, count))
    return builder.build()


def fence(rng: np.random.Generator, length: float) -> Mesh:
    """A slatted or barred fence along x that beams pass between the slats of."""
    builder = MeshBuilder()
    height, kind = rng.uniform(1.0, 1.8), rng.integers(3)
    material, colour = (('wood', WOOD), ('metal', DARK), ('wood', WHITE))[kind]
    pitch, width = ((.16, .10), (.13, .025), (.14, .07))[kind]
    slats = np.arange(-length / 2 + .05, length / 2, pitch)
    base = np.stack([slats, np.full(len(slats), .03), np.full(len(slats), .06)], -1)
    builder.boxes(base, np.array([[width, .02, height - .06]]), material, colour, 'fence')
    builder.boxes([[0, 0, .25], [0, 0, height - .25]], np.array([[length, .04, .07]]), material, colour, 'fence')
    posts = np.linspace(-length / 2, length / 2, max(2, int(length / 2.2) + 1))
    builder.boxes(np.stack([posts, 0 * posts, 0 * posts], -1), np.array([[.09, .09, height + .08]]), material, colour,
                  'fence')
    return builder.build()


def wall(rng: np.random.Generator, length: float) -> Mesh:
    """A garden wall with a coping, along x."""
    builder = MeshBuilder()
    height, colour = rng.uniform(.9, 1.9), WALLS[rng.integers(len(WALLS))]
    builder.boxes([0, 0, -.1], [length, .22, height + .1], 'brick', colour, 'fence')
    builder.boxes([0, 0, height], [length, .30, .07], 'concrete', GREY, 'fence')
    return builder.build()


def guard_rail(length: float) -> Mesh:
    """A guard rail along x: a plate of three folds on posts every 2 m."""
    builder = MeshBuilder()
    posts = np.arange(-length / 2 + 1, length / 2, 2.0)
    builder.boxes(np.stack([posts, 0 * posts + .06, 0 * posts - .2], -1), np.array([[.10, .06, .92]]), 'metal', GREY,
                  'fence')
    for z, y in ((.46, 0), (.58, -.04), (.66, 0)):
        builder.boxes([0, y, z], [length, .03, .11], 'metal', (.45, .46, .47), 'fence')
    return builder.build()


def lamp(rng: np.random.Generator) -> Mesh:
    """A street lamp whose arm reaches out to +y."""
    builder = MeshBuilder()
    height, arm = rng.uniform(5.5, 8), rng.uniform(.8, 1.6)
    builder.tubes([[0, 0, 0], [0, 0, 1.0], [0, 0, height]], [[0, 0, 1.0], [0, 0, height], [0, arm, height + .3]],
                  np.array([.10, .075, .045]), 'metal', GREY, 'pole', sides=8)
    builder.boxes([0, arm + .25, height + .22], [.22, .6, .12], 'metal', GREY, 'pole')
    return builder.build()


def sign(rng: np.random.Generator) -> Mesh:
    """A traffic sign that faces -x (the driver who moves along +x)."""
    builder = MeshBuilder()
    height, size, kind = rng.uniform(2.2, 2.7), rng.uniform(.26, .36), rng.integers(4)
    builder.tubes([0, 0, 0], [0, 0, height + size], .035, 'metal', GREY, 'pole', sides=8)
    corners = (20, 3, 4, 4)[kind]
    angle = 2 * np.pi * np.arange(corners) / corners + (0, np.pi / 2, np.pi / 4, np.pi / 4)[kind]
    size = size * (1.0, 1.35, 1.35, 1.35)[kind]
    stretch = (1.0, 1.0, 1.0, 1.6)[kind]
    for scale, x, material, colour in ((1, -.05, 'retro', (RED, RED, BLUE, BLUE)[kind]),
                                       (.78, -.054, 'retro', (WHITE, WHITE, BLUE, WHITE)[kind]),
                                       (1, -.035, 'metal', GREY)):
        outline = np.stack([np.full(corners, x), scale * size * np.cos(angle),
                            height + scale * size * stretch * np.sin(angle)], -1)
        builder.add(outline, _polygon(corners), material, colour, 'sign')
    return builder.build()


def _polygon(corners: int) -> np.ndarray:
    k = np.arange(1, corners - 1)
    return np.stack([0 * k, k, k + 1], -1)


def signal(rng: np.random.Generator) -> Mesh:
    """A traffic light that faces -x."""
    builder = MeshBuilder()
    height = rng.uniform(2.4, 3.0)
    builder.tubes([0, 0, 0], [0, 0, height + .4], .06, 'metal', GREY, 'pole', sides=8)
    builder.boxes([-.14, 0, height - .45], [.22, .32, .95], 'plastic', DARK, 'sign')
    lamps = np.array([[-.25, 0, height - .3 + .3 * i] for i in range(3)])
    builder.tubes(lamps, lamps - [.01, 0, 0], .10, 'lamp', RED, 'sign', sides=8)
    return builder.build()


def bin_(rng: np.random.Generator) -> Mesh:
    """A wheeled bin."""
    builder = MeshBuilder()
    colour = (DARK, (.03, .12, .05), (.10, .07, .03))[rng.integers(3)]
    builder.boxes([0, 0, .06], [.5, .55, .95], 'plastic', colour, 'other_object', taper=1.12)
    builder.boxes([0, 0, 1.0], [.6, .66, .07], 'plastic', colour, 'other_object')
    return builder.build()


def bench(rng: np.random.Generator) -> Mesh:
    """A bench of slats."""
    builder = MeshBuilder()
    rows = np.arange(4)[:, None]
    builder.boxes(rows * [0, .11, 0] + [0, -.2, .43], np.array([[1.7, .09, .04]]), 'wood', WOOD, 'other_structure')
    builder.boxes(rows[:3] * [0, .02, .13] + [0, .26, .5], np.array([[1.7, .03, .10]]), 'wood', WOOD,
                  'other_structure')
    builder.boxes([[-.7, 0, 0], [.7, 0, 0]], np.array([[.08, .45, .43]]), 'metal', DARK, 'other_structure')
    return builder.build()


def shelter(rng: np.random.Generator) -> Mesh:
    """A bus shelter: glass on three sides, open to +y."""
    builder = MeshBuilder()
    builder.boxes([[x, y, 0] for x in (-1.9, 1.9) for y in (-.6, .6)], np.array([[.08, .08, 2.4]]), 'metal', GREY,
                  'other_structure')
    builder.boxes([0, 0, 2.4], [4.1, 1.6, .12], 'metal', GREY, 'other_structure')
    builder.boxes([[0, -.6, .15], [-1.9, 0, .15], [1.9, 0, .15]], np.array([[3.7, .02, 2.1], [.02, 1.1, 2.1],
                                                                          [.02, 1.1, 2.1]]), 'car_glass', GREY,
                  'other_structure')
    builder.boxes([0, -.35, .4], [3, .35, .06], 'wood', WOOD, 'other_structure')
    return builder.build()


# One facade cell over [0, 1] x [0, 1]: eight corners of the wall frame (outer, hole), four of the recessed pane.
_CELL_FACES = np.array([[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7],            # frame
                        [4, 5, 9, 8], [5, 6, 10, 9], [6, 7, 11, 10], [7, 4, 8, 11]])       # reveal
_CELL_TRIANGLES = np.concatenate([_CELL_FACES[:, [0, 1, 2]], _CELL_FACES[:, [0, 2, 3]]])


def _facade(builder: MeshBuilder, origin: np.ndarray, along: np.ndarray, inward: np.ndarray, columns: np.ndarray,
            levels: np.ndarray, hole: np.ndarray, recess: float, wall_look: tuple) -> None:
    """Cells of wall with a recessed pane each.

    Args:
        origin: (3,) lower left corner of the facade.
        along, inward: (3,) unit vectors of the facade and into the building.
        columns, levels: (C + 1,), (L + 1,) cell borders in metres.
        hole: (C * L, 4) window borders as fractions of the cell: left, bottom, right, top; level by level.
        recess: depth of the pane, metres.
        wall_look: material and colour.
    """
    left, low = (v.reshape(-1) for v in np.meshgrid(columns[:-1], levels[:-1]))
    width, tall = (v.reshape(-1) for v in np.meshgrid(np.diff(columns), np.diff(levels)))
    outer = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    inner = hole[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    unit = np.concatenate([np.broadcast_to(outer, inner.shape), inner, inner], 1)              # (N, 12, 2)
    u, v = left[:, None] + width[:, None] * unit[..., 0], low[:, None] + tall[:, None] * unit[..., 1]
    depth = np.repeat([0, 0, recess], 4)
    points = origin + u[..., None] * along + v[..., None] * [0, 0, 1] + depth[:, None] * inward
    builder.add(points, _CELL_TRIANGLES, *wall_look, 'building')
    builder.quads(points[:, 8:], 'glass', (.05, .06, .07), 'building')


def building(rng: np.random.Generator, width: float, depth: float, storeys: int, colour: tuple) -> Mesh:
    """A house with its front on y = 0 facing -y, width along x; windows are recessed, some have balconies."""
    builder = MeshBuilder()
    base, storey = rng.uniform(.3, .6), rng.uniform(2.7, 3.1)
    height = base + storeys * storey
    look = (('plaster', 'brick', 'concrete')[rng.integers(3)], colour)
    levels = np.concatenate([[-.3], base + storey * np.arange(1, storeys + 1)])
    recess = rng.uniform(.12, .28)
    share = rng.uniform(.2, .3), rng.uniform(.28, .36), rng.uniform(.7, .8), rng.uniform(.78, .88)
    shop = rng.random() < .25
    half = width / 2
    for origin, along, inward, length, front in (((-half, 0, 0), (1, 0, 0), (0, 1, 0), width, True),
                                                 ((half, depth, 0), (-1, 0, 0), (0, -1, 0), width, False),
                                                 ((-half, depth, 0), (0, -1, 0), (1, 0, 0), depth, False),
                                                 ((half, 0, 0), (0, 1, 0), (-1, 0, 0), depth, False)):
        columns = np.linspace(0, length, max(2, int(length / rng.uniform(2.4, 3.4))) + 1)
        count = len(columns) - 1
        hole = np.tile(share, (count * storeys, 1)).astype(float)
        if not front:
            blind = rng.random(len(hole)) < .35
            hole[blind] = .5
        if front and shop:
            hole[:count] = .06, .15, .94, .80
        hole[rng.integers(count) if front else 0, 1:2] = .10
        _facade(builder, np.array(origin, float), np.array(along, float), np.array(inward, float), columns, levels,
                hole, recess, look)
        if front and storeys > 2 and rng.random() < .4:
            _balconies(builder, rng, columns - half, levels)
    _roof(builder, rng, width, depth, height)
    return builder.build()


def _balconies(builder: MeshBuilder, rng: np.random.Generator, columns: np.ndarray, levels: np.ndarray) -> None:
    """Slab, hand rail and bars before some columns of windows."""
    middle = ((columns[1:] + columns[:-1]) / 2)[rng.random(len(columns) - 1) < .5]
    if not len(middle):
        return
    x, z = (v.reshape(-1) for v in np.meshgrid(middle, levels[1:-1]))
    wide = min(2.4, columns[1] - columns[0])
    base = np.stack([x, np.full(len(x), -.55), z], -1)
    builder.boxes(base, np.array([[wide, 1.1, .15]]), 'concrete', GREY, 'building')
    builder.boxes(base + [0, -.52, 1.0], np.array([[wide, .05, .06]]), 'metal', DARK, 'building')
    bars = np.linspace(-wide / 2, wide / 2, 9)
    at = (base[:, None] + np.stack([bars, np.full(9, -.52), np.full(9, .15)], -1)).reshape(-1, 3)
    builder.boxes(at, np.array([[.03, .03, .9]]), 'metal', DARK, 'building')


def _roof(builder: MeshBuilder, rng: np.random.Generator, width: float, depth: float, height: float) -> None:
    """A gable roof with eaves, or a flat one with a parapet and a box on top."""
    if rng.random() < .6:
        rise, eave, half = depth * rng.uniform(.25, .42), .45, width / 2 + .3
        ridge, low = height + rise, height - eave * .6
        sides = [[[-half, -eave, low], [half, -eave, low], [half, depth / 2, ridge], [-half, depth / 2, ridge]],
                 [[half, depth + eave, low], [-half, depth + eave, low], [-half, depth / 2, ridge],
                  [half, depth / 2, ridge]]]
        builder.quads(np.array(sides), 'roof', (.25, .10, .07), 'building')
        ends = [[[x, 0, height], [x, depth, height], [x, depth / 2, ridge - .2]] for x in (-width / 2, width / 2)]
        builder.add(np.array(ends), np.array([[0, 1, 2]]), 'plaster', WHITE, 'building')
        builder.boxes([rng.uniform(-.3, .3) * width, depth * .6, height + rise * .3], [.6, .6, rise], 'brick',
                      WALLS[3], 'building')
    else:
        builder.boxes([0, depth / 2, height], [width + .5, depth + .5, .35], 'concrete', GREY, 'building')
        builder.boxes([0, depth / 2, height + .35], [width * .3, depth * .3, 1.6], 'metal', GREY, 'building')
