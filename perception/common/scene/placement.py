"""What stands in a street: houses, plants, furniture, parked vehicles. What would overlap is left out."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.common.scene import props
from perception.common.scene.actors import Actor, standing
from perception.common.scene.mesh import Mesh
from perception.common.scene.street import CROSS_HALF, END, FAR, JUNCTION, Block, Street
from perception.common.scene.vehicles import draw_vehicle

PIECE = 4.0             # metres of fence, hedge or wall per mesh
BACKDROP = .45          # trees in the distance per metre of street
OUT, IN = np.pi / 2, -np.pi / 2


@dataclass(frozen=True)
class Stock:
    """What stands parked in a street.

    Attributes:
        deck: what stands about beside the carriageway, one after the other, so that every street has some of each.
        rack: from how many to fewer than how many bicycles stand side by side.
        often: chance of each thing of the deck that is no bicycle or motorcycle, where there is room.
        filled: share of the parking places that are taken.
    """
    deck: tuple[str, ...] = ('bicycle', 'motorcycle', 'bicycle', 'trailer', 'motorcycle', 'truck', 'bicycle',
                             'motorcycle', 'construction')
    rack: tuple[int, int] = (3, 7)
    often: float = .35
    filled: float = .42


class Planner:
    """Furnishes a street.

    Args:
        street: the street.
        rng: source of all choices.
        stock: what stands parked.

    Attributes:
        meshes: everything without identity, in the world.
        actors: parked vehicles and other single things.
        lamps: where the street lamps shine from, (3,) each.
        booked: (B, 3) discs x, y, radius in the world that are taken.
    """

    def __init__(self, street: Street, rng: np.random.Generator, stock: Stock) -> None:
        self.street, self.rng, self.stock = street, rng, stock
        self.meshes: list[Mesh] = []
        self.actors: list[Actor] = []
        self.lamps: list[np.ndarray] = []
        self.booked = np.zeros((0, 3))
        self.trees = [props.tree(rng, h) for h in rng.uniform(5, 12, 6)]
        self.conifers = [props.conifer(rng, h) for h in rng.uniform(5, 12, 3)]
        self.far_trees = [props.tree(rng, h, 800) for h in rng.uniform(8, 14, 3)]
        self.bushes = [props.bush(rng) for _ in range(4)]
        self.borders = dict(fence=[props.fence(rng, PIECE) for _ in range(3)],
                            hedge=[props.hedge(rng, PIECE, h) for h in rng.uniform(1.0, 1.9, 3)],
                            wall=[props.wall(rng, PIECE) for _ in range(2)])
        self.colours = [props.WALLS[i] for i in rng.permutation(len(props.WALLS))[:4]]

    def furnish(self) -> None:
        """Places everything, in the order of who may push whom away."""
        if self.street.style.motorway:
            for block in self.street.blocks:
                for side in (1, -1):
                    self.roadside(block, side)
            self.backdrop()
            return
        for junction in self.street.junctions:
            self.junction(junction)
        sides = [(block, side) for block in self.street.blocks for side in (1, -1)]
        for step in (self.houses, self.parking, self.rare_things, self.kerb_line, self.plot_line, self.plot):
            for block, side in sides:
                step(block, side)
        self.backdrop()

    # ---- helpers
    def claim(self, spots: list[tuple[float, float]], radius: float) -> bool:
        """Books discs of that radius at (s, d) if all of them are free and not folded by a bend."""
        s, d = np.array(spots).T
        x, y, _ = self.street.at(s, d).T
        fits = np.abs(d) + radius < .85 / np.maximum(np.abs(self.street.curvature_at(s)), 1e-6)
        gap = np.hypot(self.booked[:, :1] - x, self.booked[:, 1:2] - y) - self.booked[:, 2:]
        if not fits.all() or (gap < radius).any():
            return False
        self.booked = np.concatenate([self.booked, np.stack([x, y, np.full(len(x), radius)], 1)])
        return True

    def put(self, mesh: Mesh, s: float, d: float, yaw: float = 0.0, scale: float = 1.0) -> np.ndarray:
        """Stands a mesh upright on the ground at (s, d); returns its pose."""
        height = float(self.street.ground(np.array(s), np.array(d))) - .03
        pose = np.eye(4)
        heading = float(self.street.heading_at(s)) + yaw
        pose[:2, :2] = [[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]]
        pose[:3, 3] = self.street.at(s, d, height)
        self.meshes.append(mesh.moved(pose, scale))
        return pose

    def lamp(self, s: float, d: float, yaw: float) -> None:
        """A street lamp whose arm reaches to its left, turned by `yaw`."""
        mesh = props.lamp(self.rng)
        head = mesh.bounds()[1] * [0, 1, 1] - [0, .3, .15]
        pose = self.put(mesh, s, d, yaw + self.rng.normal(0, .05))
        self.lamps.append(pose[:3, :3] @ head + pose[:3, 3])

    def park(self, part: str, s: float, d: float, yaw: float) -> None:
        """Stands a vehicle at (s, d) if there is room for it."""
        mesh = draw_vehicle(self.rng, part)
        low, high = mesh.bounds()
        length, width = (high - low)[:2]
        along = np.linspace(low[0] + width / 2, high[0] - width / 2, max(2, round(length / max(width, .8))))
        if self.claim([(s + o * np.cos(yaw), d + o * np.sin(yaw)) for o in along], width / 2):
            self.actors.append(Actor(part, [mesh], self.street, standing(s, d, yaw), len(self.actors) + 1, False))

    def tree(self, s: float, d: float, meshes: list[Mesh]) -> None:
        """One of the trees, turned and scaled, if its place is free."""
        rng = self.rng
        pick, turn, scale = rng.integers(len(meshes)), rng.uniform(0, 2 * np.pi), rng.uniform(.7, 1.35)
        if self.claim([(s, d)], 1.0):
            self.put(meshes[pick], s, d, turn, scale)

    def bush(self, s: float, d: float, low: float = .8, high: float = 2.2) -> None:
        """One of the bushes, turned and scaled, if its place is free."""
        rng = self.rng
        pick, turn, scale = rng.integers(len(self.bushes)), rng.uniform(0, 2 * np.pi), rng.uniform(low, high)
        if self.claim([(s, d)], .6 * scale):
            self.put(self.bushes[pick], s, d, turn, scale)

    def house(self, s: float, d: float, width: float, yaw: float) -> bool:
        """A house whose front has its middle at (s, d), if there is room; it reaches back along local +y."""
        rng = self.rng
        depth, storeys, colour = rng.uniform(8, 13), int(rng.integers(1, 5)), self.colours[rng.integers(4)]
        across, back = np.linspace(2 - width / 2, width / 2 - 2, 5), np.linspace(2, depth - 2, 3)
        spots = [(s + a * np.cos(yaw) - b * np.sin(yaw), d + a * np.sin(yaw) + b * np.cos(yaw))
                 for a in across for b in back]
        if not self.claim(spots, 1.9):
            return False
        self.put(props.building(rng, width, depth, storeys, colour), s, d, yaw)
        return True

    # ---- what is placed
    def junction(self, s: float) -> None:
        """Signals at the corners; houses, trees and cars along the cross street; trees that close it."""
        rng, half = self.rng, self.street.half
        for sign in (1, -1):
            for side in (1, -1):
                if rng.random() < .7 and self.claim([(s + sign * 9, side * (half + .6))], .3):
                    self.put(props.signal(rng), s + sign * 9, side * (half + .6), 0.0 if side < 0 else np.pi)
                for d in np.arange(half + 36, 76, 17):
                    if rng.random() < .6:
                        self.house(s + sign * (JUNCTION + 3), side * d, rng.uniform(9, 14), -sign * np.pi / 2)
                for d in np.arange(half + 14, 78, 9):
                    self.tree(s + sign * (JUNCTION - 1), side * (d + rng.uniform(-2, 2)), self.trees)
        for side in (1, -1):
            for _ in range(7):
                self.tree(s + rng.uniform(-9, 9), side * rng.uniform(80, 86), self.far_trees)
            for d in (half + 30, half + 52):
                way = rng.choice([-1, 1])
                self.park('car', s + way * (CROSS_HALF - 1.2), side * (d + rng.uniform(-8, 8)), way * np.pi / 2)

    def houses(self, block: Block, side: int) -> None:
        """Two rows of houses with gaps, and thickets where there is none."""
        rng, outer = self.rng, block.sides[side][-1].inner
        for row, chance in ((outer + rng.uniform(-1.5, 2), .76), (outer + rng.uniform(20, 28), .6)):
            s = block.s0 + rng.uniform(0, 6)
            while s < block.s1 - 10:
                width = min(rng.uniform(9, 22), block.s1 - 1 - s)
                built = rng.random() < chance and self.house(s + width / 2, side * row, width, 0 if side > 0 else np.pi)
                for _ in range(0 if built else 9):
                    self.tree(rng.uniform(s, s + width), side * rng.uniform(row, row + 14), self.trees + self.conifers)
                    self.bush(rng.uniform(s, s + width), side * rng.uniform(row - 1, row + 6))
                s += width + rng.choice([0, .5, 4, 9, 14])

    def parking(self, block: Block, side: int) -> None:
        """Vehicles in the parking strip."""
        strip, rng = block.strip(side, 'parking'), self.rng
        for s in np.arange(block.s0 + 6, block.s1 - 6, rng.uniform(5.6, 6.6)) if strip else ():
            if rng.random() < self.stock.filled:
                part = rng.choice(['car', 'truck', 'motorcycle', 'bicycle', 'trailer'], p=[.84, .02, .06, .06, .02])
                yaw = rng.normal(0, .03) + np.pi * (rng.random() < (.1 if side < 0 else .9))
                d = side * (strip.inner + strip.outer) / 2 + rng.normal(0, .08)
                self.park(part, s + rng.uniform(-.3, .3), d, yaw)

    def rare_things(self, block: Block, side: int) -> None:
        """Racks of bicycles, motorcycles, and now and then a truck, a trailer or an excavator."""
        rng, plot = self.rng, block.strip(side, 'plot')
        green = block.strip(side, 'verge') or block.strip(side, 'island')
        near = (green.inner + green.outer) / 2 if green and green.outer - green.inner > 1.9 else plot.inner + 1.3
        deck = self.stock.deck
        first = int(rng.integers(len(deck)))
        for index, s in enumerate(np.arange(block.s0 + rng.uniform(3, 8), block.s1 - 6, 8.5)):
            part = deck[(first + index) % len(deck)]
            if part in ('bicycle', 'motorcycle'):
                d = side * (near if rng.random() < .6 else plot.inner + 1.3)
                yaw = rng.choice([IN, OUT])
                pitch, count = (.7, rng.integers(*self.stock.rack)) if part == 'bicycle' else (1.3, rng.integers(1, 3))
                for i in range(count):
                    self.park(part, s + i * pitch, d, yaw + rng.normal(0, .1))
            elif rng.random() < self.stock.often and plot.outer - plot.inner > 4.5:
                self.park(part, s, side * (plot.inner + plot.outer) / 2, rng.choice([0, np.pi]) + rng.normal(0, .3))

    def kerb_line(self, block: Block, side: int) -> None:
        """Lamps, signs, the trees and shrubs of the verge, bins, benches and shelters."""
        rng, walk = self.rng, block.strip(side, 'sidewalk')
        edge, facing = block.strip(side, 'kerb').outer + .4, 0.0 if side < 0 else np.pi
        things = ((props.lamp, rng.uniform(22, 32), edge, .2), (props.sign, rng.uniform(12, 20), edge, .3),
                  (props.shelter, 150.0, walk.outer + .9, 1.5), (props.bench, 60.0, walk.outer - .5, .8),
                  (props.bin_, 17.0, walk.outer - .4, .4))
        for make, step, d, radius in things:
            for s in np.arange(block.s0 + rng.uniform(.1, .9) * step, block.s1 - 3, step):
                if self.claim([(s, side * d)], radius):
                    if make is props.lamp:
                        self.lamp(s, side * d, facing)
                    else:
                        self.put(make(rng), s, side * d, facing + rng.normal(0, .05))
        verge = block.strip(side, 'verge')
        if verge is not None:
            middle = side * (verge.inner + max(.9, .6 * (verge.outer - verge.inner)))
            shrubs = rng.random() < .5 and verge.outer - verge.inner > 2
            for s in np.arange(block.s0 + 5, block.s1 - 5, rng.uniform(7, 13)):
                if rng.random() < .8:
                    self.tree(s, middle, self.trees)
                for shift in (2.2, 3.8, 5.4) if shrubs else ():
                    self.bush(s + shift, middle, .6, 1.0)

    def plot_line(self, block: Block, side: int) -> None:
        """Fences, hedges, walls or nothing between the sidewalk and the plots."""
        rng, line = self.rng, block.strip(side, 'sidewalk').outer + .35
        s = block.s0 + 1.0
        while s < block.s1 - 8:
            length, kind = rng.uniform(6, 20), rng.choice([*self.borders, ''], p=[.26, .36, .06, .32])
            if kind:
                mesh = self.borders[kind][rng.integers(len(self.borders[kind]))]
                for at in np.arange(s + PIECE / 2, min(s + length, block.s1 - PIECE / 2), PIECE):
                    if self.claim([(at + o, side * line) for o in (-1.2, 0, 1.2)], .05):
                        self.put(mesh, at, side * line)
            s += length + rng.uniform(1, 4)

    def plot(self, block: Block, side: int) -> None:
        """Bushes and trees of the front gardens."""
        rng, strip = self.rng, block.strip(side, 'plot')
        low, high = strip.inner + 1.0, strip.outer + 7.5
        for s in np.arange(block.s0 + 2, block.s1 - 2, 2.5):
            if rng.random() < .6:
                self.bush(s, side * rng.uniform(low, high))
        for s in np.arange(block.s0 + 4, block.s1 - 4, 11.0):
            self.tree(s + rng.uniform(-4, 4), side * rng.uniform(low, high), self.trees + self.conifers)

    def roadside(self, block: Block, side: int) -> None:
        """Guard rails, lamps, signs and trees beside a motorway."""
        rng, facing = self.rng, 0.0 if side < 0 else np.pi
        shoulder, verge = block.strip(side, 'shoulder'), block.strip(side, 'verge')
        rail = props.guard_rail(PIECE)
        for s in np.arange(block.s0 + PIECE / 2, block.s1, PIECE):
            self.put(rail, s, side * (shoulder.outer + .3), facing)
        for s in np.arange(block.s0 + rng.uniform(5, 30), block.s1 - 3, rng.uniform(32, 42)) if side > 0 else ():
            self.lamp(s, side * (shoulder.outer + 1.0), facing)
        for s in np.arange(block.s0 + rng.uniform(5, 50), block.s1 - 3, rng.uniform(45, 70)):
            self.put(props.sign(rng), s, side * (shoulder.outer + 1.3), facing, 1.4)
        for s in np.arange(block.s0 + 4, block.s1 - 4, 7.0):
            d = rng.uniform(verge.inner + 4, verge.outer + 14)
            if rng.random() < .5:
                self.tree(s + rng.uniform(-3, 3), side * d, self.trees + self.conifers)
            else:
                self.bush(s + rng.uniform(-3, 3), side * d)

    def backdrop(self) -> None:
        """Trees in the distance; they fill the upper beams."""
        rng, street = self.rng, self.street
        count = int(BACKDROP * (street.length + 2 * END))
        places = zip(rng.uniform(-END, street.length + END, count), rng.uniform(26, FAR - 15, count),
                     rng.choice([-1, 1], count))
        for s, d, side in places:
            if street.block_at(s) is not None:
                self.tree(s, side * d, self.far_trees)
