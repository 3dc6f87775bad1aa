"""Things that have an identity: where each is at any time and what it looks like then."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perception.common.scene.drive import Drive
from perception.common.scene.mesh import Mesh
from perception.common.scene.people import PHASES, STRIDE
from perception.common.scene.street import Street

Path = Callable[[float], tuple[float, float, float]]       # time -> s, d, yaw against the street


@dataclass(frozen=True)
class Actor:
    """A thing with an instance id, at rest or on its way.

    Attributes:
        part: name in `PARTS`.
        meshes: one mesh, or the `PHASES` meshes of a walking cycle.
        street: where it lives.
        path: s, d and yaw at a time; never a state that is stepped, so any time can be asked in any order.
        instance: id, 1 and up.
        moving: whether it ever moves; the label of its whole life.
        on_ground: whether its height follows the ground (else the carriageway).
    """
    part: str
    meshes: list[Mesh]
    street: Street
    path: Path
    instance: int
    moving: bool
    on_ground: bool = True

    def pose(self, t: float) -> np.ndarray:
        """4x4 pose of its ground point at time t [s]."""
        s, d, yaw = self.path(t)
        height = float(self.street.ground(np.array(s), np.array(d))) if self.on_ground else 0.0
        return self.street.pose(s, d, height, yaw)

    def velocity(self, t: float) -> np.ndarray:
        """(3,) m/s in the world at time t [s]."""
        return (self.pose(t + .05)[:3, 3] - self.pose(t - .05)[:3, 3]) / .1 if self.moving else np.zeros(3)

    def shape(self, t: float) -> Mesh:
        """The mesh it shows at time t [s], in its own frame."""
        if len(self.meshes) == 1:
            return self.meshes[0]
        s, d, _ = self.path(t)
        s0, d0, _ = self.path(0.0)
        return self.meshes[int(PHASES * (abs(s - s0) + abs(d - d0)) / STRIDE) % PHASES]

    def mesh(self, t: float) -> Mesh:
        """The mesh it shows at time t [s], in the world."""
        return self.shape(t).moved(self.pose(t)).tagged(self.instance)

    def box(self, t: float) -> np.ndarray:
        """(7,) x, y, z of the bottom centre, dx, dy, dz, yaw, in the world."""
        low, high = self.shape(t).bounds()
        pose = self.pose(t)
        centre = pose[:3, :3] @ np.array([*(low + high)[:2] / 2, low[2]]) + pose[:3, 3]
        return np.array([*centre, *(high - low), np.arctan2(pose[1, 0], pose[0, 0])])


def standing(s: float, d: float, yaw: float) -> Path:
    """A path that stays where it is."""
    return lambda t: (s, d, yaw)


def along(s: float, d: float, v: float) -> Path:
    """Along the street at constant speed; v < 0 is oncoming."""
    return lambda t: (s + v * t, d, 0.0 if v >= 0 else np.pi)


def across(s: float, d: float, v: float) -> Path:
    """Across the street at constant speed, to the left when v > 0."""
    return lambda t: (s, d + v * t, np.pi / 2 if v >= 0 else -np.pi / 2)


def with_ego(drive: Drive, gap: float, d: float, drift: float = 0.0) -> Path:
    """Ahead of the ego by `gap` metres, which grow by `drift` m/s: in view for the whole drive."""
    return lambda t: (float(drive.s(t)) + gap + drift * t, d, 0.0)
