"""Bodies of cars, trucks, buses, trailers, excavators, bicycles and motorcycles in their local frames."""
from __future__ import annotations

from functools import cache

import numpy as np

from perception.common.scene.mesh import Mesh, MeshBuilder

RUBBER, DARK, GREY, GLASS = (.02, .02, .02), (.03, .03, .035), (.30, .31, .32), (.04, .05, .06)
PAINTS = ((.75, .75, .74), (.40, .41, .42), (.02, .02, .022), (.16, .17, .18), (.30, .02, .02), (.03, .06, .22),
          (.04, .12, .07), (.30, .24, .16), (.62, .50, .10))
PAINT_SHARES = (.24, .20, .18, .10, .08, .09, .04, .04, .03)      # white, greys and black make 72 %
# half section of a body: fractions of the half width and of the height, from the sill to the middle of the top
_SECTION = np.array([[.90, 0], [1, .18], [1, .45], [.975, .75], [.93, .93], [.80, 1], [0, 1.02]])
# per kind: length, height, hood line knots (x from -.5 rear to .5 front, height), belt and roof x ranges, belt height
CARS = dict(
    sedan=(4.6, 1.46, [(-.5, .72), (-.44, .95), (-.25, .97), (.20, .95), (.40, .80), (.5, .62)], (-.33, .24),
           (-.19, .06), .95),
    hatch=(4.1, 1.52, [(-.5, .85), (-.45, .98), (.22, .96), (.42, .82), (.5, .64)], (-.46, .26), (-.36, .10), .96),
    estate=(4.7, 1.50, [(-.5, .85), (-.46, .97), (.22, .96), (.42, .82), (.5, .64)], (-.47, .25), (-.42, .08), .96),
    suv=(4.6, 1.72, [(-.5, .95), (-.46, 1.1), (.24, 1.08), (.44, .96), (.5, .78)], (-.46, .27), (-.40, .12), 1.08),
    van=(5.1, 1.95, [(-.5, 1.0), (-.48, 1.12), (.34, 1.08), (.46, .95), (.5, .75)], (-.48, .40), (-.46, .26), 1.10))


def paint(rng: np.random.Generator) -> tuple[float, float, float]:
    """A car colour; most are white, grey or black."""
    return PAINTS[rng.choice(len(PAINTS), p=PAINT_SHARES)]


def _ring(half_width: np.ndarray, low: float, high: np.ndarray) -> np.ndarray:
    """Closed sections (S, 13, 2) of (y, z) for half widths and top heights (S,)."""
    right = np.stack([half_width[:, None] * _SECTION[:, 0],
                      low + (high - low)[:, None] * _SECTION[:, 1]], -1)
    return np.concatenate([right, (right * [-1, 1])[:, -2::-1]], 1)


def _body(builder: MeshBuilder, x: np.ndarray, half_width: np.ndarray, low: float, high: np.ndarray, material: str,
          colour: tuple, part: str) -> None:
    ring = _ring(half_width, low, high)
    sections = np.concatenate([np.broadcast_to(x[:, None, None], (*ring.shape[:2], 1)), ring], -1)
    builder.loft(sections, material, colour, part)


def _wheels(builder: MeshBuilder, x: list[float], half_track: float, radius: float, width: float, part: str) -> None:
    centre = np.array([[xx, side * (half_track - width / 2), radius] for xx in x for side in (1, -1)])
    half = np.array([0, width / 2, 0])
    builder.tubes(centre - half, centre + half, radius, 'rubber', RUBBER, part, sides=14)
    builder.tubes(centre - half * 1.04, centre + half * 1.04, radius * .6, 'metal', GREY, part, sides=10)


def car(rng: np.random.Generator, kind: str, part: str = 'car') -> Mesh:
    """A car with rounded body, see-through glass, pillars, seats, wheels, mirrors, lamps and plates.

    Its paint is grey; `Mesh.recoloured('car_paint', ...)` gives it another colour.
    """
    length, height, hood, belt, roof, belt_height = CARS[kind]
    length, height, width = length * rng.uniform(.95, 1.05), height * rng.uniform(.97, 1.03), 1.82
    builder = MeshBuilder()
    u = np.array([-.5, -.48, -.42, -.30, -.18, -.05, .08, .20, .30, .40, .47, .5])
    plan = 1 - .22 * np.abs(2 * u) ** 8
    _body(builder, u * length, width / 2 * plan, .22, np.interp(u, *np.array(hood).T), 'car_paint', (.4, .4, .4), part)
    _greenhouse(builder, length, width, height, belt, roof, belt_height, part)
    axles = [-.30 * length, .31 * length]
    _wheels(builder, axles, width / 2 + .01, .32, .21, part)
    seats = np.array([[x * length, y, .35] for x in (-.18, .04) for y in (-.36, .36)])
    builder.boxes(seats, np.array([[.2, .45, .85]]), 'cloth', DARK, part)
    ends = np.array([[.492, .62, .60], [.492, -.62, .60], [-.495, .66, .72], [-.495, -.66, .72]]) * [length, 1, 1]
    for lamps, mark in ((ends[:2], 'head_lamp'), (ends[2:], 'tail_lamp')):
        builder.boxes(lamps, np.array([[.06, .30, .14]]), 'lamp', (.6, .55, .5), part, mark=mark)
    builder.boxes([[.5 * length, 0, .36], [-.5 * length, 0, .52]], np.array([[.03, .5, .11]]), 'retro', (.7, .7, .6),
                  part)
    builder.boxes([[.20 * length, .98, belt_height], [.20 * length, -.98, belt_height]], np.array([[.10, .18, .13]]),
                  'plastic', DARK, part)
    return builder.build()


def _greenhouse(builder: MeshBuilder, length: float, width: float, height: float, belt: tuple, roof: tuple,
                belt_height: float, part: str) -> None:
    """Glass on four sides, roof of paint, pillars."""
    b, t = .45 * width, .36 * width
    low = np.array([[belt[0] * length, -b], [belt[1] * length, -b], [belt[1] * length, b], [belt[0] * length, b]])
    top = np.array([[roof[0] * length, -t], [roof[1] * length, -t], [roof[1] * length, t], [roof[0] * length, t]])
    low = np.concatenate([low, np.full((4, 1), belt_height - .02)], 1)
    top = np.concatenate([top, np.full((4, 1), height - .05)], 1)
    nxt = [1, 2, 3, 0]
    builder.quads(np.stack([low, low[nxt], top[nxt], top], 1), 'car_glass', GLASS, part)
    inner = top * [.9, .8, 1] + [.1 * top[:, 0].mean(), 0, .05]
    builder.loft(np.stack([top, inner]), 'car_paint', (.4, .4, .4), part)
    middle = (.5 * (low[0] + low[1]), .5 * (low[2] + low[3]))
    heads = (.5 * (top[0] + top[1]), .5 * (top[2] + top[3]))
    builder.tubes(np.concatenate([low, middle]), np.concatenate([top, heads]), .04, 'car_paint', (.4, .4, .4), part,
                  sides=4, caps=False)


def truck(rng: np.random.Generator, part: str = 'truck') -> Mesh:
    """A lorry: cab, ribbed cargo box, under-frame, six wheels."""
    builder = MeshBuilder()
    length, height = rng.uniform(6.5, 9.5), rng.uniform(3.0, 3.6)
    front, colour = length / 2, (.5, .5, .52)
    x = front + np.array([-2.0, -1.9, -1.2, -.5, -.12, 0])
    _body(builder, x, np.array([1.1, 1.16, 1.18, 1.18, 1.12, 1.0]), .45,
          np.array([2.55, 2.7, 2.72, 2.6, 2.0, 1.3]), 'car_paint', (.4, .4, .4), part)
    builder.quads(np.array([[[front - .47, -.9, 2.66], [front - .47, .9, 2.66], [front - .07, .86, 2.04],
                             [front - .07, -.86, 2.04]]]), 'glass', GLASS, part)
    box = length - 2.25
    centre = -front + box / 2
    builder.boxes([centre, 0, 1.0], [box, 2.46, height - 1.0], 'metal', colour, part)
    ribs = np.arange(-front + .1, -front + box, .6)
    builder.boxes(np.stack([np.tile(ribs, 2), np.repeat([-1.25, 1.25], len(ribs)), np.full(2 * len(ribs), 1.0)], -1),
                  np.array([[.06, .05, height - 1.0]]), 'metal', GREY, part)
    builder.boxes([0, 0, .55], [length - .6, .9, .4], 'metal', DARK, part)
    _wheels(builder, [front - 1.0, -front + 1.3, -front + 2.4], 1.2, .5, .3, part)
    builder.boxes([-front, 0, .8], [.04, 2.3, .10], 'retro', (.6, .05, .05), part)
    return builder.build()


def bus(rng: np.random.Generator, part: str = 'bus') -> Mesh:
    """A city bus of 11 m with a row of windows on both sides."""
    builder = MeshBuilder()
    length, height = rng.uniform(10.5, 12), 3.1
    x = np.array([-.5, -.49, -.4, 0, .4, .485, .5]) * length
    _body(builder, x, 1.26 * np.array([.93, 1, 1, 1, 1, .99, .92]), .3, height * np.array([.95, 1, 1, 1, 1, .99, .93]),
          'car_paint', (.4, .4, .4), part)
    panes = np.arange(-.5 * length + .9, .5 * length - 1.2, 1.35)
    quad = np.array([[0, 0, 0], [1.2, 0, 0], [1.2, 0, 1.05], [0, 0, 1.05]])
    for side in (-1.272, 1.272):
        builder.quads(quad + np.stack([panes, np.full(len(panes), side), np.full(len(panes), 1.35)], -1)[:, None],
                      'glass', GLASS, part)
    builder.boxes([[.5 * length, 0, 1.1], [-.5 * length, 0, 1.5]], np.array([[.03, 2.1, 1.5], [.03, 2.0, .9]]),
                  'glass', GLASS, part)
    _wheels(builder, [.5 * length - 2.6, -.5 * length + 3.1], 1.24, .48, .3, part)
    builder.boxes([[.18 * length, 0, 3.05], [-.25 * length, 0, 3.05]], np.array([[2.0, 1.5, .25]]), 'plastic', GREY,
                  part)
    return builder.build()


def trailer(rng: np.random.Generator, part: str = 'trailer') -> Mesh:
    """A caravan or box trailer on one axle with a drawbar."""
    builder = MeshBuilder()
    length, height = rng.uniform(4.2, 5.6), rng.uniform(2.1, 2.6)
    x = np.array([-.5, -.48, -.3, .3, .45, .5]) * length
    _body(builder, x, 1.1 * np.array([.9, 1, 1, 1, 1, .88]), .45, height * np.array([.9, .99, 1, 1, .95, .8]),
          'car_paint', (.4, .4, .4), part)
    builder.tubes([[.5 * length, .5, .5], [.5 * length, -.5, .5], [.5 * length + 1.2, 0, .5]],
                  [[.5 * length + 1.2, 0, .5], [.5 * length + 1.2, 0, .5], [.5 * length + 1.2, 0, .05]], .05, 'metal',
                  DARK, part)
    panes = np.array([[-.2 * length, 1.115, 1.35], [-.2 * length, -1.115, 1.35]])
    builder.boxes(panes, np.array([[1.1, .02, .6]]), 'glass', GLASS, part)
    _wheels(builder, [0.0], 1.12, .33, .2, part)
    return builder.build()


def excavator(rng: np.random.Generator, part: str = 'construction') -> Mesh:
    """An excavator with its boom at a random angle."""
    builder = MeshBuilder()
    yellow = (.75, .45, .04)
    _body(builder, np.array([-1.7, -1.5, 1.5, 1.7]), np.array([1.3, 1.35, 1.35, 1.3]), 0, np.array([.5, .85, .85, .5]),
          'rubber', DARK, part)
    builder.boxes([-.4, 0, .95], [2.6, 2.3, 1.0], 'car_paint', yellow, part, taper=.94)
    builder.boxes([.5, .6, 1.9], [1.3, .95, 1.1], 'car_glass', GLASS, part)
    builder.boxes([[.5, .6, 3.0], [.5, .6, 1.0]], np.array([[1.4, 1.0, .08], [1.3, .95, .9]]), 'car_paint', yellow,
                  part)
    lift = rng.uniform(.5, 1.0)
    elbow = np.array([.8 + 2.8 * np.cos(lift), -.3, 1.5 + 2.8 * np.sin(lift)])
    wrist = elbow + [1.9 * np.cos(lift - 1.6), 0, 1.9 * np.sin(lift - 1.6)]
    builder.tubes([[.8, -.3, 1.5], elbow], [elbow, wrist], [.22, .16], 'car_paint', yellow, part, [.18, .12], sides=6)
    builder.boxes(wrist - [0, 0, .7], [.7, 1.0, .75], 'metal', GREY, part, taper=.6)
    return builder.build()


def _ring_of_tubes(builder: MeshBuilder, centre: np.ndarray, radius: float, thick: float, part: str,
                   spokes: int) -> None:
    angle = 2 * np.pi * np.arange(17) / 16
    rim = centre + radius * np.stack([np.cos(angle), 0 * angle, np.sin(angle)], -1)
    builder.tubes(rim[:-1], rim[1:], thick, 'rubber', RUBBER, part, sides=4, caps=False)
    ends = rim[:-1:16 // spokes]
    builder.tubes(np.broadcast_to(centre, ends.shape), ends, .006, 'metal', GREY, part, sides=3, caps=False)


def bicycle(part: str = 'bicycle', colour: tuple = (.1, .1, .3)) -> Mesh:
    """A bicycle of rims, spokes and frame tubes, upright; they differ in colour alone."""
    return _bicycle(part).recoloured('car_paint', colour)


@cache
def _bicycle(part: str) -> Mesh:
    builder = MeshBuilder()
    rear, front = np.array([-.52, 0, .34]), np.array([.52, 0, .34])
    for hub in (rear, front):
        _ring_of_tubes(builder, hub, .33, .022, part, 8)
    seat, head, crank, bar = [-.18, 0, .86], [.36, 0, .86], [-.06, 0, .30], [.34, 0, 1.02]
    start = np.array([rear, rear, crank, crank, seat, head, head, seat])
    end = np.array([crank, seat, seat, head, head, front, bar, [-.22, 0, .96]])
    builder.tubes(start, end, .022, 'car_paint', GREY, part, sides=5, caps=False)
    builder.tubes([.34, -.29, 1.03], [.34, .29, 1.03], .016, 'metal', GREY, part, sides=5)
    builder.boxes([-.23, 0, .95], [.26, .15, .06], 'plastic', DARK, part)
    builder.boxes([[-.06, .12, .14], [-.06, -.12, .42]], np.array([[.1, .1, .03]]), 'plastic', DARK, part)
    builder.boxes([-.60, 0, .70], [.02, .08, .06], 'retro', (.6, .05, .05), part)
    return builder.build()


def motorcycle(part: str = 'motorcycle', colour: tuple = (.4, .4, .4)) -> Mesh:
    """A motorcycle: two wheels, tank, engine, seat, fork and exhaust; they differ in colour alone."""
    return _motorcycle(part).recoloured('car_paint', colour)


@cache
def _motorcycle(part: str) -> Mesh:
    builder = MeshBuilder()
    hubs = np.array([[-.72, 0, .31], [.72, 0, .31]])
    builder.tubes(hubs - [0, .07, 0], hubs + [0, .07, 0], .31, 'rubber', RUBBER, part, sides=16)
    builder.tubes([[.72, .1, .31], [.72, -.1, .31], [-.72, .12, .31], [-.72, -.12, .31]],
                  [[.45, .1, .95], [.45, -.1, .95], [-.1, .12, .4], [-.1, -.12, .4]], .035, 'metal', GREY, part)
    builder.balls(np.array([[.18, 0, .82], [.5, 0, .86]]), np.array([[.30, .17, .16], [.14, .16, .17]]), 'car_paint',
                  GREY, part)
    builder.boxes([[0, 0, .25], [-.4, 0, .72], [-.68, 0, .74]], np.array([[.55, .36, .4], [.6, .28, .12],
                                                                        [.3, .2, .16]]), 'metal', DARK, part)
    builder.tubes([[-.75, -.2, .35], [.45, -.36, 1.03]], [[.1, -.18, .3], [.45, .36, 1.03]], [.06, .02], 'metal', GREY,
                  part)
    builder.boxes([-.9, 0, .6], [.03, .18, .14], 'retro', (.7, .7, .6), part)
    return builder.build()


def draw_vehicle(rng: np.random.Generator, part: str) -> Mesh:
    """A vehicle without driver, of a random kind, size and colour.

    Args:
        part: `'car'`, `'truck'`, `'bus'`, `'trailer'`, `'construction'`, `'bicycle'` or `'motorcycle'`.
    """
    if part == 'car':
        kind = rng.choice(list(CARS), p=[.25, .28, .17, .18, .12])
        return car(rng, kind).recoloured('car_paint', paint(rng))
    if part in ('bicycle', 'motorcycle'):
        return (bicycle if part == 'bicycle' else motorcycle)(colour=tuple(rng.uniform(.02, .5, 3)))
    make = dict(truck=truck, bus=bus, trailer=trailer, construction=excavator)[part]
    mesh = make(rng)
    return mesh if part == 'construction' else mesh.recoloured('car_paint', paint(rng))
