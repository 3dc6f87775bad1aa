"""Paint on the asphalt: triangles 4 mm above it, so that labels are exact at any resolution."""
from __future__ import annotations

import numpy as np

from perception.common.scene.mesh import MeshBuilder
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
        begin = np.arange(start, stop - 3, 7.5)
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
