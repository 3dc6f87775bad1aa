"""One seeded world: a street with everything that stands and moves in it, and the ego's drive."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from perception.common.scene.actors import Actor
from perception.common.scene.caster import Caster
from perception.common.scene.crowd import Crowd, add_crowd
from perception.common.scene.drive import Drive
from perception.common.scene.mesh import Mesh, MeshBuilder, merge
from perception.common.scene.paint import paint_special, paint_street
from perception.common.scene.placement import Planner, Stock
from perception.common.scene.street import Street, draw_street
from perception.common.scene.traffic import add_traffic
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError

LEAD_IN = 60.0          # metres of street before the ego's start and behind its end
SCENE_VERSION = 2       # goes up when the same seed would give another world


class Boxes(NamedTuple):
    """All things with an identity at one moment, in the world's frame.

    Attributes:
        boxes_3d: (K, 7) x, y, z of the bottom centre, dx, dy, dz [m], yaw [rad].
        part: K names of `PARTS`.
        instance: (K,) ids.
        moving: (K,) bool.
        velocity: (K, 3) m/s.
    """
    boxes_3d: np.ndarray
    part: list[str]
    instance: np.ndarray
    moving: np.ndarray
    velocity: np.ndarray


@dataclass
class World:
    """What any sensor can look at.

    Attributes:
        seed: what it was drawn from.
        street: the street.
        drive: the ego's drive.
        static: mesh of all that never moves, parked vehicles included.
        actors: all things with an instance id; `actors[i].instance == i + 1`.
        lamps: (L, 3) where the street lamps shine from.
    """
    seed: tuple[int, ...]
    street: Street
    drive: Drive
    static: Mesh
    actors: list[Actor]
    lamps: np.ndarray

    def frame(self, t: float, reach: float = np.inf) -> Mesh:
        """Mesh of all that moves, at time t [s], up to `reach` metres of street before and behind the ego."""
        return merge([actor.mesh(t) for actor in self._around(t, reach) if actor.moving])

    def caster(self, t: float = 0.0, threads: int = 0) -> Caster:
        """A ray caster into the world at time t; `set_actors(world.frame(t))` takes it to another time."""
        caster = Caster(self.static, threads, self.lamps)
        caster.set_actors(self.frame(t))
        return caster

    @property
    def moving(self) -> np.ndarray:
        """(I + 1,) whether each instance moves; entry 0 stands for everything without identity."""
        return np.array([False] + [actor.moving for actor in self.actors])

    def boxes(self, t: float, reach: float = np.inf) -> Boxes:
        """Boxes of all things at time t [s], up to `reach` metres of street before and behind the ego."""
        actors = self._around(t, reach)
        return Boxes(np.array([actor.box(t) for actor in actors]).reshape(-1, 7), [actor.part for actor in actors],
                     np.array([actor.instance for actor in actors], np.int64),
                     np.array([actor.moving for actor in actors], bool),
                     np.array([actor.velocity(t) for actor in actors]).reshape(-1, 3))

    def _around(self, t: float, reach: float) -> list[Actor]:
        here = float(self.drive.s(t))
        return [actor for actor in self.actors if abs(actor.path(t)[0] - here) <= reach]


def build_world(seed: int | tuple[int, ...], style: str = 'residential', length: float = 300.0,
                max_curvature: float | None = None, traffic: float = 1.0, *, ego_lane: int | None = None,
                lane_changes: Sequence[tuple[float, int]] = (), painted: bool = True, special_marks: bool = False,
                crowd: bool = False, people: dict[str, Any] | None = None, stock: Stock | None = None,
                flat: bool = False) -> World:
    """Builds a world; the same arguments always give the same one.

    Args:
        seed: one number or several.
        style: a key of `street.STYLES`.
        length: metres of street; the ego starts at s = 60 and may go on to `length` - 60.
        max_curvature: 1/metres, the style's when None.
        traffic: factor on the number of vehicles and people that move.
        ego_lane: the ego's lane, counted from the left among those of its direction; the leftmost when None.
        lane_changes: (s, new lane) of the ego.
        painted: whether there is paint; without it the records of the lane boundaries are the same.
        special_marks: whether all kinds of arrows and other marks are painted on the lanes.
        crowd: whether vehicles stand close together ahead of the ego.
        people: arguments of `crowd.Crowd`: a crowd of people takes the place of all traffic, and the ego crawls.
        stock: what stands parked; the usual things when None.
        flat: whether all that is driven on is one plane, as maps without heights want it.

    Raises:
        ConfigError: a lane that the street does not have, or a crowd that cannot be.
    """
    for name in people or ():
        check_choice('build_world: people', name, [field.name for field in fields(Crowd)])
    gathered = None if people is None else Crowd(**people)
    seed = (seed,) if isinstance(seed, int) else tuple(seed)
    rng = np.random.default_rng([*seed, 1])
    street = draw_street(rng, style, length, max_curvature)
    if flat:
        street.flatten()
    own = sorted((lane for lane in street.lanes if lane.direction > 0), key=lambda lane: -lane.d)
    wanted = [ego_lane or 0, *(index for _, index in lane_changes)]
    if min(wanted) < 0 or max(wanted) >= len(own):
        raise ConfigError(f'build_world: lanes {wanted} of the ego, expected 0 to {len(own) - 1} on this street. Use '
                          'others, or a style with more lanes.')
    lane = own[ego_lane or 0]
    drive = Drive(street, np.random.default_rng([*seed, 2]), LEAD_IN, lane.d,
                  gathered.speed if gathered else street.style.speed,
                  [(s, own[index].d) for s, index in lane_changes])
    ground = street.mesh(np.random.default_rng([*seed, 3]))
    paint = MeshBuilder()
    if painted:
        paint_street(paint, street, np.random.default_rng([*seed, 4]))
    if painted and special_marks:
        paint_special(paint, street, np.random.default_rng([*seed, 7]))
    planner = Planner(street, np.random.default_rng([*seed, 5]), stock or Stock())
    planner.furnish()
    actors = planner.actors
    rng = np.random.default_rng([*seed, 6])
    if gathered:
        add_crowd(actors, street, drive, rng, gathered, planner.booked)
    else:
        add_traffic(actors, street, drive, lane, rng, traffic, crowd)
    parked = [actor.mesh(0.0) for actor in actors if not actor.moving]
    return World(seed, street, drive, merge([ground, paint.build(), *planner.meshes, *parked]), actors,
                 np.array(planner.lamps).reshape(-1, 3))
