"""A street: a centre line, a cross-section of strips to both sides, junctions and lane boundaries.

Everything stands at (s, d, h): metres along the centre line, metres to the left of it, metres above it;
`Street.at` maps these to the world. The world has x forward at s = 0, y left, z up.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from perception.common.scene.mesh import Mesh, MeshBuilder, grid_faces
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError

END = 60.0           # metres of straight street beyond both ends
FAR = 90.0           # metres to the side up to which there is ground
JUNCTION = 10.0      # half length of what a junction cuts out of the strips
CROSS_HALF = 5.0     # half width of a cross street's carriageway
SKIRT = 0.35         # metres that every ground piece hangs down at its rim: kerb faces and closed cracks
ASPHALT, KERB, PAVERS, GRAVEL = (.10, .10, .105), (.42, .41, .39), (.36, .34, .31), (.38, .33, .26)
GRASS, PARKING = (.10, .17, .05), (.20, .19, .19)


@dataclass(frozen=True)
class Style:
    """What the streets of a kind have in common; ranges are (low, high), lengths in metres.

    A motorway has one direction, no junctions and no houses; its left edge line is yellow.
    """
    lanes: tuple[int, int]
    max_curvature: float
    speed: float
    verge: float
    plot: tuple[float, float]
    edge_lines: float
    centre: str
    centre_colour: str = 'white'
    motorway: bool = False


STYLES = dict(
    residential=Style((2, 2), 1 / 70, 8.0, .6, (6.0, 18.0), .4, 'dashed'),
    urban=Style((3, 4), 1 / 150, 11.0, .5, (5.0, 14.0), .9, 'double', 'yellow'),
    avenue=Style((2, 4), 1 / 120, 11.0, .5, (5.0, 14.0), .9, 'dashed', 'yellow'),
    boulevard=Style((5, 6), 1 / 150, 12.0, .5, (5.0, 14.0), 1.0, 'double', 'yellow'),
    highway=Style((3, 4), 1 / 300, 24.0, 0, (8.0, 14.0), 1.0, 'none', motorway=True),
    wide_highway=Style((5, 6), 1 / 300, 24.0, 0, (8.0, 14.0), 1.0, 'none', motorway=True))


@dataclass(frozen=True)
class Strip:
    """Ground along one side of a block, from |d| = inner to outer, rising from `h0` to `h1`."""
    name: str
    inner: float
    outer: float
    h0: float
    h1: float
    part: str
    material: str
    albedo: tuple[float, float, float]
    cell: tuple[float, float]
    bump: float = 0.0


@dataclass(frozen=True)
class Block:
    """Street between two junctions; `sides` holds the strips to the left (+1) and to the right (-1)."""
    s0: float
    s1: float
    sides: dict[int, list[Strip]]

    def strip(self, side: int, name: str) -> Strip | None:
        """The strip of that name, if this side has one."""
        return next((strip for strip in self.sides[side] if strip.name == name), None)


@dataclass(frozen=True)
class LaneBoundary:
    """One painted or unpainted boundary: `offset` (K, 2) holds knots (s, d) of the line.

    Attributes:
        kind: `'solid'`, `'dashed'`, `'double'` or `'none'`.
        colour: `'white'` or `'yellow'`.
        width: metres.
        margin: metres at both ends that stay without paint.
        period: metres from the start of a dash of 3 m to the next.
    """
    s0: float
    s1: float
    offset: np.ndarray
    kind: str
    colour: str
    width: float = 0.14
    margin: float = 12.0
    period: float = 7.5

    @property
    def paint_start(self) -> float:
        """Where the paint begins."""
        return self.s0 + self.margin

    @property
    def paint_stop(self) -> float:
        """Where the paint ends."""
        return self.s1 - self.margin

    def d(self, s: np.ndarray) -> np.ndarray:
        """Lateral position at s."""
        return np.interp(s, self.offset[:, 0], self.offset[:, 1])


@dataclass(frozen=True)
class Lane:
    """A lane's centre `d`, width and direction of travel (+1 along s)."""
    d: float
    width: float
    direction: int


@dataclass
class Street:
    """A drawn street; use `draw_street`.

    Attributes:
        grid, x, y, heading, curvature, z: (K,) samples of the centre line every metre of s.
        length: the street runs from s = 0 to here, and straight on for `END` metres at both ends.
        half: half width of the carriageway.
    """
    style: Style
    length: float
    grid: np.ndarray
    curvature: np.ndarray
    heading: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    lanes: list[Lane] = field(default_factory=list)
    half: float = 0.0
    junctions: list[float] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    boundaries: list[LaneBoundary] = field(default_factory=list)

    def heading_at(self, s: np.ndarray) -> np.ndarray:
        """Radians, counter-clockwise from +x."""
        return np.interp(s, self.grid, self.heading)

    def curvature_at(self, s: np.ndarray) -> np.ndarray:
        """1/metres, positive to the left."""
        return np.interp(s, self.grid, self.curvature)

    def at(self, s: np.ndarray, d: np.ndarray, h: np.ndarray = 0.0) -> np.ndarray:
        """World points (..., 3); straight on beyond both ends.

        On the inner side of a bend |d| is limited, so that the ground does not fold.
        """
        heading, bend = self.heading_at(s), self.curvature_at(s)
        limit = np.where(bend * d > 0, .92 / np.maximum(np.abs(bend), 1e-6), np.inf)
        d = np.clip(d, -limit, limit)
        beyond = s - np.clip(s, self.grid[0], self.grid[-1])
        x = np.interp(s, self.grid, self.x) + beyond * np.cos(heading) - d * np.sin(heading)
        y = np.interp(s, self.grid, self.y) + beyond * np.sin(heading) + d * np.cos(heading)
        return np.stack(np.broadcast_arrays(x, y, np.interp(s, self.grid, self.z) + h), -1)

    def pose(self, s: float, d: float, h: float = 0.0, yaw: float = 0.0) -> np.ndarray:
        """4x4 pose of a thing that stands on the ground at (s, d), turned by `yaw` against the street."""
        heading = float(self.heading_at(s)) + yaw
        slope = float(np.interp(s + .5, self.grid, self.z) - np.interp(s - .5, self.grid, self.z)) * np.cos(yaw)
        forward = np.array([np.cos(heading), np.sin(heading), slope])
        forward /= np.linalg.norm(forward)
        left = np.array([-np.sin(heading), np.cos(heading), 0.0])
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1] = forward, left
        (a, b, c), (u, v, w) = forward, left
        pose[:3, 2] = b * w - c * v, c * u - a * w, a * v - b * u
        pose[:3, 3] = self.at(s, d, h)
        return pose

    def ground(self, s: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Height of the ground above the centre line, (...), without its bumps."""
        s, d = (np.asarray(v, float) for v in np.broadcast_arrays(s, d))
        height = np.zeros(s.shape)
        for block in self.blocks:
            for side, strips in block.sides.items():
                mask = (s > block.s0) & (s < block.s1) & (d * side > self.half)
                if mask.any():
                    edges = [e for strip in strips for e in (strip.inner + 1e-3, strip.outer - 1e-3)]
                    height[mask] = np.interp(np.abs(d[mask]), edges, [h for p in strips for h in (p.h0, p.h1)])
        for junction in self.junctions:
            off = np.abs(s - junction)
            height[(off > CROSS_HALF) & (off <= JUNCTION) & (np.abs(d) > self.half)] = .14
        return height

    def flatten(self) -> None:
        """Takes its hills away and levels its parking strips, so that all that is driven on is one plane."""
        self.z[:] = 0
        for block in self.blocks:
            for side, strips in block.sides.items():
                block.sides[side] = [replace(strip, h0=0.0, h1=0.0) if strip.name == 'parking' else strip
                                     for strip in strips]

    def block_at(self, s: float) -> Block | None:
        """The block that holds s, None in a junction."""
        return next((block for block in self.blocks if block.s0 <= s <= block.s1), None)

    def mesh(self, rng: np.random.Generator) -> Mesh:
        """The ground: carriageways and all strips, without paint."""
        builder = MeshBuilder()
        road = dict(part='road', material='asphalt', albedo=ASPHALT)
        self._patch(builder, rng, (-END, self.length + END), (-self.half, self.half), (0, 0), (1, 1.2), 0, **road)
        for block in self.blocks:
            for side, strips in block.sides.items():
                for p in strips:
                    self._patch(builder, rng, (block.s0, block.s1), (side * p.inner, side * p.outer), (p.h0, p.h1),
                                p.cell, p.bump, part=p.part, material=p.material, albedo=p.albedo)
        for junction in self.junctions:
            for side in (1, -1):
                self._cross_street(builder, rng, junction, side, road)
        return builder.build()

    def _cross_street(self, builder: MeshBuilder, rng: np.random.Generator, s: float, side: int, road: dict) -> None:
        d = (side * self.half, side * FAR)
        self._patch(builder, rng, (s - CROSS_HALF, s + CROSS_HALF), d, (0, 0), (1.25, 3), 0, **road)
        walk = dict(part='sidewalk', material='pavers', albedo=PAVERS)
        green = dict(part='terrain', material='grass', albedo=GRASS)
        for sign in (1, -1):
            edges = s + sign * CROSS_HALF, s + sign * (CROSS_HALF + 2.6), s + sign * JUNCTION
            self._patch(builder, rng, edges[:2], d, (.14, .14), (1.3, 3), 0, **walk)
            self._patch(builder, rng, edges[1:], d, (.14, .14), (1.2, 2), .03, **green)

    def _patch(self, builder: MeshBuilder, rng: np.random.Generator, s: tuple[float, float], d: tuple[float, float],
               h: tuple[float, float], cell: tuple[float, float], bump: float, *, part: str, material: str,
               albedo: Sequence[float]) -> None:
        """A rectangle of ground in (s, d) with a rim that hangs down."""
        rows = max(1, int(np.ceil(abs(s[1] - s[0]) / cell[0]))) + 1
        columns = max(1, int(np.ceil(abs(d[1] - d[0]) / cell[1]))) + 1
        ss, dd = np.meshgrid(np.linspace(*s, rows), np.linspace(*d, columns), indexing='ij')
        height = np.broadcast_to(np.linspace(*h, columns), ss.shape).copy()
        if bump:
            noise = cv2.GaussianBlur(rng.standard_normal(ss.shape), (0, 0), 1.2)
            height[1:-1, 1:-1] += bump * (noise / max(float(noise.std()), 1e-9))[1:-1, 1:-1]
        index = np.arange(rows * columns).reshape(rows, columns)
        rim = np.concatenate([index[0], index[1:, -1], index[-1, -2::-1], index[-2:0:-1, 0]])
        points = self.at(ss, dd, height).reshape(-1, 3)
        skirt = np.concatenate([points[rim], points[rim] - [0, 0, SKIRT]])
        faces = np.concatenate([grid_faces(rows, columns), grid_faces(2, len(rim), closed=True) + len(points)])
        builder.add(np.concatenate([points, skirt]), faces, material, albedo, part)


def draw_street(rng: np.random.Generator, style: str = 'residential', length: float = 300.0,
                max_curvature: float | None = None) -> Street:
    """Draws a street.

    Args:
        rng: source of all choices.
        style: a key of `STYLES`.
        length: metres, at least 120.
        max_curvature: 1/metres, the style's when None.

    Raises:
        ConfigError: unknown style or impossible length.
    """
    if style not in STYLES:
        raise ConfigError(f'draw_street: style={style!r}, expected one of {", ".join(STYLES)}. '
                          f'{close_matches(style, STYLES)}')
    if not 120 <= length <= 1500:
        raise ConfigError(f'draw_street: length={length}, expected 120 to 1500 metres. Choose a length in between.')
    kind = STYLES[style]
    street = Street(kind, float(length), *_centre_line(rng, length, max_curvature or kind.max_curvature))
    _draw_lanes(rng, street)
    first = rng.uniform(25, 125)
    if not kind.motorway:
        street.junctions = list(np.arange(first, length - 25, rng.uniform(110, 150)))
    edges = [-END, *[v for j in street.junctions for v in (j - JUNCTION, j + JUNCTION)], length + END]
    covers = _deck(rng, ['other_ground', 'terrain', 'terrain', 'paved'])
    parking = _deck(rng, [True, False])
    islands = _deck(rng, [True, False, False])
    for s0, s1 in zip(edges[::2], edges[1::2]):
        if kind.motorway:
            street.blocks.append(Block(s0, s1, {side: _draw_verge(rng, kind, street.half) for side in (1, -1)}))
            continue
        sides = {side: _draw_side(rng, kind, street.half, next(covers), next(parking), next(islands))
                 for side in (1, -1)}
        street.blocks.append(Block(s0, s1, sides))
    street.boundaries = _draw_boundaries(rng, street)
    return street


def _integral(values: np.ndarray, start: int) -> np.ndarray:
    """Trapezoid rule over samples 1 m apart, zero at index `start`."""
    total = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2)])
    return total - total[start]


def _centre_line(rng: np.random.Generator, length: float, max_curvature: float) -> tuple[np.ndarray, ...]:
    """Grid, curvature, heading, x, y and z, every metre."""
    grid = np.arange(-END - 40, length + END + 41)
    curvature = np.zeros(len(grid))
    s, sign = rng.uniform(10, 50), rng.choice([-1, 1])
    while s < length:
        bend = rng.uniform(30, 70)
        strength = sign * max_curvature * rng.uniform(.35, 1)
        curvature += strength * np.clip(np.minimum((grid - s) / 15, (s + bend - grid) / 15), 0, 1)
        s += bend + rng.uniform(15, 50)
        sign = -sign if rng.random() < .7 else sign
    start = int(END + 40)
    heading = _integral(curvature, start)
    most = np.abs(heading).max()
    if most > np.deg2rad(100):
        curvature, heading = curvature * np.deg2rad(100) / most, heading * np.deg2rad(100) / most
    x, y = _integral(np.cos(heading), start), _integral(np.sin(heading), start)
    z = rng.uniform(.2, .6) * np.sin(2 * np.pi * grid / rng.uniform(160, 260) + rng.uniform(0, 2 * np.pi))
    return grid, curvature, heading, x, y, z


def _draw_lanes(rng: np.random.Generator, street: Street) -> None:
    count = int(rng.integers(street.style.lanes[0], street.style.lanes[1] + 1))
    width = rng.uniform(3.2, 3.7)
    street.half = count * width / 2
    forward = count if street.style.motorway else count - count // 2
    street.lanes = [Lane((i + .5) * width - street.half, width, 1 if i < forward else -1) for i in range(count)]


def _deck(rng: np.random.Generator, cards: list):
    """Endless cards, drawn without replacement before they are shuffled again: each street gets every kind."""
    while True:
        yield from (cards[i] for i in rng.permutation(len(cards)))


def _draw_side(rng: np.random.Generator, style: Style, half: float, cover: str, parking: bool,
               island: bool) -> list[Strip]:
    """Strips of one side of a block, from the carriageway outwards."""
    strips: list[Strip] = []

    def put(name, width, h0, h1, part, material, albedo, cell, bump=0.0):
        inner = strips[-1].outer if strips else half
        strips.append(Strip(name, inner, inner + width, h0, h1, part, material, albedo, cell, bump))

    if parking:
        put('parking', 2.2, .005, .03, 'parking', 'parking_stone', PARKING, (1, 1.1))
    put('kerb', .16, .14, .14, 'sidewalk', 'kerb', KERB, (2, 1))
    grass, walk = ('terrain', 'grass', GRASS), ('sidewalk', 'pavers', PAVERS)
    if island:
        put('island', rng.uniform(1.5, 3.0), .14, .16, 'other_ground', 'gravel', GRAVEL, (.7, .6), .04)
    elif rng.random() < style.verge:
        put('verge', rng.uniform(1.4, 5.0), .14, .16, *grass, (.8, .7), .03)
    put('sidewalk', rng.uniform(1.8, 3.2), .14, .17, *walk, (2, 1.5))
    rise = rng.uniform(0, .4)
    width = rng.uniform(*style.plot)
    if cover == 'other_ground':
        put('plot', width, .15, .15 + rise, 'other_ground', 'gravel', GRAVEL, (.8, .7), .045)
    elif cover == 'paved':
        put('plot', width * .6, .17, .17 + rise * .5, *walk, (2, 2))
    else:
        put('plot', width, .15, .15 + rise, *grass, (.9, .8), .035)
    put('beyond', FAR - strips[-1].outer, strips[-1].h1, strips[-1].h1 + rng.uniform(.1, .8), *grass, (4, 4), .16)
    return strips


def _draw_verge(rng: np.random.Generator, style: Style, half: float) -> list[Strip]:
    """Strips beside a motorway: a shoulder, grass and a bank that rises or falls."""
    shoulder, bank = half + rng.uniform(1.5, 2.8), rng.uniform(-.5, 1.2)
    verge = shoulder + rng.uniform(*style.plot)
    grass = ('terrain', 'grass', GRASS)
    return [Strip('shoulder', half, shoulder, 0.0, -.03, 'road', 'asphalt', ASPHALT, (1, 1.2)),
            Strip('verge', shoulder, verge, -.03, bank, *grass, (1.2, 1.2), .05),
            Strip('beyond', verge, FAR, bank, bank + rng.uniform(.5, 4.0), *grass, (4, 4), .2)]


def _draw_boundaries(rng: np.random.Generator, street: Street) -> list[LaneBoundary]:
    """Records of all lane boundaries, cut at the junctions."""
    edge = 'solid' if rng.random() < street.style.edge_lines else 'none'
    left = 'yellow' if street.style.motorway else 'white'
    lines = [(-street.half + .25, edge, 'white'), (street.half - .25, edge, left)]
    for right, left in zip(street.lanes[:-1], street.lanes[1:]):
        between = right.d + right.width / 2
        if right.direction == left.direction:
            lines.append((between, 'dashed', 'white'))
        else:
            lines.append((between, street.style.centre, street.style.centre_colour))
    return [LaneBoundary(block.s0 + (3 if block.s0 > -END else 0), block.s1 - (3 if block.s1 < street.length else 0),
                         np.array([[block.s0, d], [block.s1, d]]), kind, colour,
                         period=12.0 if street.style.motorway else 7.5)
            for block in street.blocks for d, kind, colour in sorted(lines)]
