"""One seeded world: a street with everything that stands and moves in it, and the ego's drive."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from perception.common.scene import props
from perception.common.scene.actors import Actor, standing
from perception.common.scene.caster import Caster
from perception.common.scene.drive import Drive
from perception.common.scene.mesh import Mesh, MeshBuilder, merge
from perception.common.scene.paint import paint_street
from perception.common.scene.street import JUNCTION, Block, LaneBoundary, Street, draw_street
from perception.common.scene.traffic import add_traffic
from perception.common.scene.vehicles import draw_vehicle

LEAD_IN = 60.0          # metres of street before the ego's start and behind its end
SCENE_VERSION = 1       # goes up when the same seed would give another world


class Boxes(dict):
    """Ground truth boxes: `boxes_3d` (K, 7), `part` (K,) names, `instance` (K,), `moving` (K,), `velocity` (K, 3)."""


@dataclass
class World:
    """What any sensor can look at.

    Attributes:
        seed: what it was drawn from.
        street: the street.
        drive: the ego's drive.
        static: mesh of all that never moves, parked vehicles included.
        actors: all things with an instance id; `actors[i].instance == i + 1`.
    """
    seed: tuple[int, ...]
    street: Street
    drive: Drive
    static: Mesh
    actors: list[Actor] = field(default_factory=list)

    def frame(self, t: float) -> Mesh:
        """Mesh of all that moves, at time t [s]."""
        return merge([actor.mesh(t) for actor in self.actors if actor.moving])

    def caster(self, t: float = 0.0, threads: int = 0) -> Caster:
        """A ray caster into the world at time t; `set_actors(world.frame(t))` takes it to another time."""
        caster = Caster(self.static, threads)
        caster.set_actors(self.frame(t))
        return caster

    @property
    def moving(self) -> np.ndarray:
        """(I + 1,) whether each instance moves; entry 0 stands for everything without identity."""
        return np.array([False] + [actor.moving for actor in self.actors])

    @property
    def lanes(self) -> list[LaneBoundary]:
        """Records of all lane boundaries, painted or not."""
        return self.street.boundaries

    def boxes(self, t: float) -> Boxes:
        """Boxes of all things at time t [s], in the world's frame."""
        return Boxes(boxes_3d=np.array([actor.box(t) for actor in self.actors]).reshape(-1, 7),
                     part=np.array([actor.part for actor in self.actors]),
                     instance=np.array([actor.instance for actor in self.actors], np.int64),
                     moving=self.moving[1:],
                     velocity=np.array([actor.velocity(t) for actor in self.actors]).reshape(-1, 3))


def build_world(seed: int | tuple[int, ...], style: str = 'residential', length: float = 300.0,
                max_curvature: float | None = None, traffic: float = 1.0) -> World:
    """Builds a world; the same arguments always give the same one.

    Args:
        seed: one number or several.
        style: a key of `street.STYLES`.
        length: metres of street; the ego starts at s = 60 and may go on to `length` - 60.
        max_curvature: 1/metres, the style's when None.
        traffic: factor on the number of vehicles and people that move.
    """
    seed = (seed,) if isinstance(seed, int) else tuple(seed)
    rng = np.random.default_rng([*seed, 1])
    street = draw_street(rng, style, length, max_curvature)
    lane = max((lane for lane in street.lanes if lane.direction > 0), key=lambda lane: lane.d)
    drive = Drive(street, np.random.default_rng([*seed, 2]), LEAD_IN, lane.d, street.style.speed)
    ground = street.mesh(np.random.default_rng([*seed, 3]))
    paint = MeshBuilder()
    paint_street(paint, street, np.random.default_rng([*seed, 4]))
    planner = _Planner(street, np.random.default_rng([*seed, 5]))
    planner.furnish()
    actors = planner.actors
    add_traffic(actors, street, drive, lane, np.random.default_rng([*seed, 6]), traffic)
    parked = [actor.mesh(0.0) for actor in actors if not actor.moving]
    return World(seed, street, drive, merge([ground, paint.build(), *planner.meshes, *parked]), actors)


class _Planner:
    """Places what stands: houses, plants, street furniture, parked vehicles. What would overlap is left out."""

    def __init__(self, street: Street, rng: np.random.Generator) -> None:
        self.street, self.rng = street, rng
        self.meshes: list[Mesh] = []
        self.actors: list[Actor] = []
        self._booked = np.zeros((0, 3))
        heights = rng.uniform(5, 12, 6)
        self.trees = [props.tree(rng, h) for h in heights] + [props.conifer(rng, h) for h in rng.uniform(5, 12, 3)]
        self.far_trees = [props.tree(rng, h, 1500) for h in rng.uniform(8, 14, 3)]
        self.bushes = [props.bush(rng) for _ in range(4)]
        self.walls = [props.WALLS[i] for i in rng.permutation(len(props.WALLS))[:4]]

    # -- helpers ----------------------------------------------------------------------------------------------------
    def free(self, s: float, d: float, radius: float, book: bool = True) -> bool:
        """Whether a disc is free; books it if so."""
        x, y, _ = self.street.at(s, d)
        gap = np.hypot(self._booked[:, 0] - x, self._booked[:, 1] - y) - self._booked[:, 2]
        if (gap < radius).any() or abs(d) + radius > .85 / max(abs(float(self.street.curvature_at(s))), 1e-6):
            return False
        if book:
            self._booked = np.concatenate([self._booked, [[x, y, radius]]])
        return True

    def put(self, mesh: Mesh, s: float, d: float, yaw: float = 0.0, scale: float = 1.0) -> None:
        """Stands a mesh on the ground at (s, d)."""
        height = float(self.street.ground(np.array(s), np.array(d)))
        pose = self.street.pose(s, d, height - .03, yaw)
        pose[:3, :3] = _upright(pose)
        self.meshes.append(mesh.moved(pose, scale))

    def park(self, part: str, mesh: Mesh, s: float, d: float, yaw: float) -> None:
        """Stands a thing with an identity at (s, d) if there is room for it."""
        low, high = mesh.bounds()
        length, width = (high - low)[:2]
        offsets = np.linspace(-(length - width) / 2, (length - width) / 2, max(1, round(length / max(width, .8))))
        spots = [(s + o * np.cos(yaw), d + o * np.sin(yaw)) for o in offsets]
        if all(self.free(*spot, width / 2 + .05, book=False) for spot in spots):
            for spot in spots:
                self.free(*spot, width / 2)
            self.actors.append(Actor(part, [mesh], self.street, standing(s, d, yaw), len(self.actors) + 1, False))

    # -- what is placed ---------------------------------------------------------------------------------------------
    def furnish(self) -> None:
        """Everything, in the order of who may push whom away."""
        sides = [(block, side) for block in self.street.blocks for side in (1, -1)]
        for junction in self.street.junctions:
            self._junction(junction)
        for block, side in sides:
            self._houses(block, side)
        for block, side in sides:
            self._parking(block, side)
            self._kerb_line(block, side)
            self._plot_line(block, side)
            self._plot(block, side)
        self._backdrop()

    def _houses(self, block: Block, side: int) -> None:
        rng, outer = self.rng, block.sides[side][-1].inner
        for row, chance in ((outer + rng.uniform(-1.5, 2), .76), (outer + rng.uniform(20, 28), .6)):
            s = block.s0 + rng.uniform(0, 6)
            while s < block.s1 - 10:
                width, depth = rng.uniform(9, 22), rng.uniform(8, 13)
                middle, far = s + width / 2, row + depth / 2
                bend = abs(float(self.street.curvature_at(middle)))
                if rng.random() < chance and middle + width / 2 < block.s1 and row + depth < .85 / max(bend, 1e-6):
                    house = props.building(rng, width, depth, int(rng.integers(1, 5)), self.walls[rng.integers(4)])
                    self.put(house, middle, side * row, 0.0 if side > 0 else np.pi)
                    for offset in np.arange(-width / 2 + 2, width / 2 - 1, 4):
                        self.free(middle + offset, side * far, depth / 2 + .3)
                else:
                    for _ in range(9):
                        self._tree(rng.uniform(s, s + width), side * rng.uniform(row, row + 14))
                        self._bush(rng.uniform(s, s + width), side * rng.uniform(row - 1, row + 6))
                s += width + rng.choice([0, .5, 4, 9, 14])

    def _tree(self, s: float, d: float, far: bool = False, high: bool = False) -> None:
        rng = self.rng
        meshes = self.far_trees if far else self.trees
        mesh = meshes[rng.integers(6 if high else len(meshes))]
        scale, turn = rng.uniform(.7, 1.35), rng.uniform(0, 2 * np.pi)
        if self.free(s, d, 1.0):
            self.put(mesh, s, d, turn, scale)

    def _bush(self, s: float, d: float, low: float = .8, high: float = 2.2) -> None:
        rng = self.rng
        mesh, turn, scale = self.bushes[rng.integers(len(self.bushes))], rng.uniform(0, 2 * np.pi), rng.uniform(low, high)
        if self.free(s, d, .6 * scale):
            self.put(mesh, s, d, turn, scale)

    def _parking(self, block: Block, side: int) -> None:
        strip, rng = block.strip(side, 'parking'), self.rng
        if strip is None:
            return
        d = side * (strip.inner + strip.outer) / 2
        for s in np.arange(block.s0 + 6, block.s1 - 6, rng.uniform(5.6, 6.6)):
            if rng.random() > .42:
                continue
            kind = rng.choice(['car', 'truck', 'motorcycle', 'bicycle', 'trailer'], p=[.84, .02, .06, .06, .02])
            yaw = rng.normal(0, .03) + np.pi * (rng.random() < (.1 if side < 0 else .9))
            self.park(kind, draw_vehicle(self.rng, kind), s + rng.uniform(-.3, .3), d + rng.normal(0, .08), yaw)

    def _kerb_line(self, block: Block, side: int) -> None:
        rng, walk = self.rng, block.strip(side, 'sidewalk')
        verge, kerb = block.strip(side, 'verge'), block.strip(side, 'kerb')
        edge = kerb.outer + .45
        facing = 0.0 if side < 0 else np.pi
        for s in np.arange(block.s0 + rng.uniform(4, 14), block.s1 - 4, rng.uniform(22, 32)):
            if self.free(s, side * edge, .2):
                self.put(props.lamp(rng), s, side * edge, facing)
        for s in np.arange(block.s0 + rng.uniform(2, 9), block.s1 - 2, rng.uniform(12, 20)):
            if self.free(s, side * edge, .3):
                self.put(props.sign(rng), s, side * edge, facing + rng.normal(0, .1))
        if verge is not None:
            middle = side * (verge.inner + max(.9, .6 * (verge.outer - verge.inner)))
            step, shrubs = rng.uniform(7, 13), rng.random() < .5
            for s in np.arange(block.s0 + 5, block.s1 - 5, step):
                if rng.random() < .8:
                    self._tree(s, middle, high=True)
                for shift in (2.2, 3.8, 5.4) if shrubs and verge.outer - verge.inner > 2 else ():
                    self._bush(s + shift, middle, .6, 1.0)
        for make, step, d in ((props.bin_, 17, walk.outer - .4), (props.bench, 60, walk.outer - .5),
                              (props.shelter, 150, walk.outer + .9)):
            for s in np.arange(block.s0 + rng.uniform(.2, 1) * step, block.s1 - 6, step):
                if self.free(s, side * d, .9):
                    self.put(make(rng), s, side * d, facing)

    def _plot_line(self, block: Block, side: int) -> None:
        rng, line = self.rng, block.strip(side, 'sidewalk').outer + .35
        s = block.s0 + 1.0
        while s < block.s1 - 8:
            length = rng.uniform(6, 20)
            kind = rng.choice(['fence', 'hedge', 'wall', 'nothing'], p=[.26, .36, .06, .32])
            bend = abs(float(self.street.curvature_at(s)))
            if kind != 'nothing' and line < .85 / max(bend, 1e-6):
                height = rng.uniform(1.0, 1.9)
                pieces = max(1, round(length / 4))
                for i in range(pieces):
                    piece = min(4.0, (block.s1 - s) / pieces) * 1.0
                    at = s + (i + .5) * piece
                    stretch = piece * (1 - side * float(self.street.curvature_at(at)) * line) + .05
                    if at + piece / 2 < block.s1 and self.free(at, side * line, .3):
                        mesh = props.hedge(rng, stretch, height) if kind == 'hedge' else \
                            getattr(props, kind)(np.random.default_rng(int(1e6 * height)), stretch)
                        self.put(mesh, at, side * line)
            s += length + rng.uniform(1, 4)

    def _plot(self, block: Block, side: int) -> None:
        """Front gardens: bushes, trees, racks of bicycles, and machines that stand about."""
        rng, plot = self.rng, block.strip(side, 'plot')
        inner, outer = plot.inner + 1.0, plot.outer - .5
        for s in np.arange(block.s0 + 2, block.s1 - 2, 2.5):
            if rng.random() < .6:
                self._bush(s, side * rng.uniform(inner, outer + 8))
        for s in np.arange(block.s0 + 4, block.s1 - 4, 11.0):
            self._tree(s + rng.uniform(-4, 4), side * rng.uniform(inner, outer + 8))
        self._rare(block, side, inner, outer)

    def _rare(self, block: Block, side: int, inner: float, outer: float) -> None:
        """Racks of bicycles, motorcycles, and now and then a truck, a trailer or an excavator."""
        rng, walk = self.rng, block.strip(side, 'sidewalk')
        cycle = ('bicycle', 'motorcycle', 'bicycle', 'trailer', 'motorcycle', 'truck', 'bicycle', 'motorcycle',
                 'construction')
        for index, s in enumerate(np.arange(block.s0 + rng.uniform(3, 10), block.s1 - 6, 9.0)):
            part = cycle[(index + int(rng.integers(2))) % len(cycle)]
            if part in ('bicycle', 'motorcycle'):
                d, yaw = side * (walk.outer - .9 if rng.random() < .5 else inner + .6), rng.choice([-1, 1]) * np.pi / 2
                pitch = .65 if part == 'bicycle' else 1.1
                for i in range(int(rng.integers(3, 6) if part == 'bicycle' else rng.integers(1, 3))):
                    self.park(part, draw_vehicle(self.rng, part), s + i * pitch, d, yaw + rng.normal(0, .12))
            elif rng.random() < .6 and outer - inner > 3.5:
                yaw = rng.choice([0, np.pi]) + rng.normal(0, .3)
                self.park(part, draw_vehicle(self.rng, part), s, side * (inner + outer) / 2, yaw)

    def _junction(self, s: float) -> None:
        """Signals at the corners, houses and trees along the cross street and trees that close it."""
        rng, half = self.rng, self.street.half
        for sign in (1, -1):
            for side in (1, -1):
                if rng.random() < .7:
                    self.free(s + sign * 9, side * (half + .6), .3)
                    self.put(props.signal(rng), s + sign * 9, side * (half + .6), 0.0 if side < 0 else np.pi)
        for side in (1, -1):
            for d in np.arange(half + 14, 78, 9):
                for sign in (1, -1):
                    self._tree(s + sign * (JUNCTION - 1), side * (d + rng.uniform(-2, 2)))
            for _ in range(7):
                self._tree(s + rng.uniform(-9, 9), side * rng.uniform(80, 86), far=True)
            for d in (half + 30, half + 52):
                self._cross_car(s, side * (d + rng.uniform(-8, 8)))

    def _cross_car(self, s: float, d: float) -> None:
        way = self.rng.choice([-1, 1])
        self.park('car', draw_vehicle(self.rng, 'car'), s + way * 3.8, d, way * np.pi / 2)

    def _backdrop(self) -> None:
        rng, street = self.rng, self.street
        count = int(.45 * (street.length + 120))
        for s, d in zip(rng.uniform(-60, street.length + 60, count), rng.uniform(26, 75, count)):
            if street.block_at(s) is not None:
                self._tree(s, d * rng.choice([-1, 1]), far=True)


def _upright(pose: np.ndarray) -> np.ndarray:
    """The rotation of a pose without its slope."""
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    return np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1.0]])
