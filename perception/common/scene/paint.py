"""Paint on the asphalt: triangles 4 mm above it, so that labels are exact at any resolution."""
from __future__ import annotations

import numpy as np

from perception.common.scene.mesh import MeshBuilder, fan_faces
from perception.common.scene.street import JUNCTION, LaneBoundary, Street

HEIGHT = .004
COLOURS = dict(white=('white_paint', (.78, .78, .76)), yellow=('yellow_paint', (.80, .55, .08)))


def paint_street(builder: MeshBuilder, street: Street, rng: np.random.Generator) -> None:
    """Lane boundaries, zebra crossings, stop lines and arrows of the street."""
    for line in street.boundaries:
        paint_boundary(builder, street, line)
    for junction in street.junctions:
        for end in (1, -1):
            _zebra(builder, street, junction + end * (JUNCTION + 2), end)
            for lane in street.lanes:
                if lane.direction == -end:
                    stop = junction + end * (JUNCTION + 4.2)
                    _patch(builder, street, [[stop, stop + end * .4]], [[lane.d - lane.width / 2 + .1,
                                                                        lane.d + lane.width / 2 - .1]], 'stop_line')
                    if rng.random() < .5:
                        _arrow(builder, street, stop + end * 9, lane.d, lane.direction)


def paint_boundary(builder: MeshBuilder, street: Street, line: LaneBoundary) -> None:
    """The stripes of one boundary; nothing for kind `'none'`."""
    if line.kind == 'none':
        return
    start, stop = line.paint_start, line.paint_stop
    if line.kind == 'dashed':
        begin = np.arange(start, stop - 3, line.period)
        cuts = begin[:, None] + np.arange(3)
    else:
        cuts = np.arange(start, stop - 1)
    s0 = cuts.reshape(-1)
    shifts = (-.12, .12) if line.kind == 'double' else (0.0,)
    for shift in shifts:
        s = np.stack([s0, s0 + 1, s0 + 1, s0], -1)
        _quads(builder, street, s, line.d(s) + shift + line.width / 2 * np.array([-1, -1, 1, 1]), line.colour,
               f'{line.colour}_{line.kind}')


def _quads(builder: MeshBuilder, street: Street, s: np.ndarray, d: np.ndarray, colour: str, mark: str) -> None:
    """Quadrilaterals of corners s, d (N, 4)."""
    if len(s):
        builder.quads(street.at(s, d, HEIGHT), *COLOURS[colour], 'marking', mark)


def _patch(builder: MeshBuilder, street: Street, s: np.ndarray, d: np.ndarray, mark: str) -> None:
    """White rectangles from intervals s, d (N, 2)."""
    s, d = np.broadcast_arrays(np.asarray(s, float), np.asarray(d, float))
    _quads(builder, street, s[:, [0, 1, 1, 0]], d[:, [0, 0, 1, 1]], 'white', mark)


def _zebra(builder: MeshBuilder, street: Street, s: float, end: int) -> None:
    bars = np.arange(-street.half + .5, street.half - .4, .95)
    _patch(builder, street, [[s - 1.4, s + 1.4]], np.stack([bars - .25, bars + .25], -1), 'zebra')


def _arrow(builder: MeshBuilder, street: Street, s: float, d: float, direction: int) -> None:
    _patch(builder, street, [[s, s + direction * 3]], [[d - .08, d + .08]], 'arrow_straight')
    tip = np.array([[s + direction * 3, s + direction * 3, s + direction * 4.3, s + direction * 4.3]])
    _quads(builder, street, tip, np.array([[d - .35, d + .35, d + .01, d - .01]]), 'white', 'arrow_straight')


# ---- special marks, as convex polygons of (forward, left) metres from their near end
def _bar(x0: float, y0: float, x1: float, y1: float, width: float) -> np.ndarray:
    """A stroke from one point to another."""
    along = np.array([x1 - x0, y1 - y0])
    side = np.array([-along[1], along[0]]) / np.hypot(*along) * width / 2
    start, end = np.array([x0, y0]), np.array([x1, y1])
    return np.stack([start - side, end - side, end + side, start + side])


def _chain(points: list[tuple[float, float]], width: float) -> list[np.ndarray]:
    return [_bar(*a, *b, width) for a, b in zip(points[:-1], points[1:])]


def _mirrored(shape: list[np.ndarray]) -> list[np.ndarray]:
    return [polygon * [1, -1] for polygon in shape]


_SHAFT = [_bar(0, 0, 2.0, 0, .16)]
_STRAIGHT = [_bar(0, 0, 3.0, 0, .16), np.array([[3.0, -.35], [4.3, 0], [3.0, .35]])]
_LEFT = [np.array([[1.2, .08], [2.0, .08], [2.75, .5], [2.35, .5]]), np.array([[2.0, .5], [3.1, .5], [2.55, 1.0]])]
_BOX = [(0, -1.1), (4.5, -1.1), (4.5, 1.1), (0, 1.1), (0, -1.1)]
_DIAMOND = [(0, 0), (1.25, .5), (2.5, 0), (1.25, -.5), (0, 0)]
_DIGITS = [(0, .65), (2.4, .65), (2.4, .15), (1.2, .15), (1.2, .65)], [(0, -.15), (2.4, -.15), (2.4, -.65), (0, -.65),
                                                                    (0, -.15)]
SHAPES = dict(
    arrow_straight=_STRAIGHT, arrow_straight_left=_STRAIGHT + _LEFT, arrow_straight_right=_STRAIGHT + _mirrored(_LEFT),
    arrow_left=_SHAFT + _LEFT, arrow_right=_SHAFT + _mirrored(_LEFT),
    arrow_left_right=_SHAFT + _LEFT + _mirrored(_LEFT),
    slow_down=[_bar(x, -1.25, x, 1.25, .35) for x in (0, .9, 1.8)],
    no_parking=_chain(_BOX, .12) + [_bar(x, -1.04, x + 1.5, 1.04, .10) for x in (0.1, 1.5, 2.9)],
    symbol=[polygon for digit in _DIGITS for polygon in _chain(digit, .14)],
    diamond=_chain(_DIAMOND, .14),
    chevron=[_bar(x, side * 1.0, x + 1.0, 0, .3) for x in (0, 1.2, 2.4) for side in (1, -1)])


def paint_mark(builder: MeshBuilder, street: Street, mark: str, s: float, d: float, direction: int = 1) -> None:
    """One mark whose near end is at (s, d), for drivers who move in `direction`.

    Args:
        mark: a key of `SHAPES`.
    """
    colour = COLOURS['yellow' if mark == 'no_parking' else 'white']
    for level, polygon in enumerate(SHAPES[mark]):
        places = street.at(s + direction * polygon[:, 0], d + direction * polygon[:, 1], HEIGHT + 1e-4 * level)
        builder.add(places, fan_faces(len(polygon)), *colour, 'marking', mark)


def paint_special(builder: MeshBuilder, street: Street, rng: np.random.Generator, pitch: float = 15.0) -> None:
    """All kinds of marks, one after the other, every `pitch` metres on each lane, and lines of parking bays."""
    names = list(SHAPES)
    deck = [names[i] for i in rng.permutation(len(names))]
    count = 0
    for block in street.blocks:
        for index, lane in enumerate(street.lanes):
            first = block.s0 + 30 + pitch * (index % 3) / 3
            for s in np.arange(first, block.s1 - 30, pitch):
                paint_mark(builder, street, deck[count % len(deck)], s, lane.d + .05 * rng.standard_normal(),
                           lane.direction)
                count += 1
        for side in (1, -1):
            bay = block.strip(side, 'parking')
            for s in np.arange(block.s0 + 6, block.s1 - 6, 6.0) if bay else ():
                inner, outer = side * (bay.inner + .05), side * (bay.outer - .05)
                corners = np.array([[s, inner, bay.h0], [s + .12, inner, bay.h0], [s + .12, outer, bay.h1],
                                    [s, outer, bay.h1]])
                builder.quads(street.at(corners[:, 0], corners[:, 1], corners[:, 2] + 2 * HEIGHT)[None],
                              *COLOURS['white'], 'marking', 'parking_bay')
