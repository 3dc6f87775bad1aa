"""Who is on the move: vehicles in their lanes, riders, people, and a cast of rare things near the ego."""
from __future__ import annotations

import numpy as np

from perception.common.scene import people
from perception.common.scene.actors import Actor, Path, across, along, standing, with_ego
from perception.common.scene.drive import Drive
from perception.common.scene.mesh import Mesh
from perception.common.scene.street import CROSS_HALF, JUNCTION, Lane, Street
from perception.common.scene.vehicles import draw_vehicle

EGO = (4.9, 1.25)       # half length and half width that are kept free around the ego, metres
TOWED = 6.8             # metres between a trailer and the car before it
MIX = dict(car=.70, motorcyclist=.15, truck=.05, bus=.05, trailer=.05)      # of the vehicles in other lanes


def add_traffic(actors: list[Actor], street: Street, drive: Drive, lane: Lane, rng: np.random.Generator,
                amount: float = 1.0, crowd: bool = False) -> None:
    """Appends what moves and people who stand.

    Args:
        actors: the things with an identity so far; ids go on from their number.
        street: the street.
        drive: the ego's drive, which nobody may come near to.
        lane: the ego's lane.
        rng: source of all choices.
        amount: factor on the number of vehicles and people; the cast of rare things stays.
        crowd: whether the lanes ahead of the ego are full.
    """
    traffic = Traffic(actors, street, drive, rng)
    if crowd:
        traffic.jam()
    if street.style.motorway:
        traffic.motorway(lane, amount)
        return
    traffic.cast(lane)
    traffic.lanes(lane, amount)
    traffic.crossing()
    traffic.walkers(int(24 * amount), int(8 * amount))


class Traffic:
    """Adds actors so that nobody ever touches somebody else or the ego.

    Args:
        actors: the list to append to.
        street, drive: the street and the ego's drive.
        rng: source of all choices.
    """

    def __init__(self, actors: list[Actor], street: Street, drive: Drive, rng: np.random.Generator) -> None:
        self.actors, self.street, self.drive, self.rng = actors, street, drive, rng
        self.times = np.arange(0, drive.time_at(street.length - 50), .2)
        ego = np.stack([drive.s(self.times), drive.d(self.times)], -1)
        self._tracks = [np.concatenate([ego, np.broadcast_to(EGO, ego.shape)], 1)]
        self._tracks += [self._track(actor.meshes, actor.path) for actor in actors]

    def add(self, part: str, meshes: list[Mesh], path: Path, moving: bool = True, on_ground: bool = True) -> bool:
        """Adds an actor unless it would ever overlap with another one, both as rectangles in (s, d)."""
        track = self._track(meshes, path)
        others = np.stack(self._tracks)
        gap = np.abs(others[..., :2] - track[:, :2]) - others[..., 2:] - track[:, 2:]
        if (gap.max(-1) < .05).any():
            return False
        self._tracks.append(track)
        self.actors.append(Actor(part, meshes, self.street, path, len(self.actors) + 1, moving, on_ground))
        return True

    def _track(self, meshes: list[Mesh], path: Path) -> np.ndarray:
        """(T, 4) centre and half extents in s and d at `times`."""
        s, d, yaw = np.array([path(t) for t in self.times]).T
        length, width = np.max([np.abs(mesh.bounds()) for mesh in meshes], (0, 1))[:2]
        cos, sin = np.abs(np.cos(yaw)), np.abs(np.sin(yaw))
        metres = np.maximum(1 - self.street.curvature_at(s) * d, .1)      # per metre of s, at d
        return np.stack([s, d, (cos * length + sin * width) / metres, sin * length + cos * width], -1)

    def drive_by(self, part: str, path: Path) -> bool:
        """A vehicle or a rider on the carriageway."""
        rider = part in ('bicyclist', 'motorcyclist')
        meshes = people.rider(self.rng, part) if rider else [draw_vehicle(self.rng, part)]
        return self.add(part, meshes, path, on_ground=False)

    def near_ego(self, part: str, low: float, high: float, d: tuple[float, float], drift: float = 0.0) -> float | None:
        """A vehicle or rider that stays `low` to `high` metres ahead of or behind the ego; returns its gap."""
        rng = self.rng
        for _ in range(12):
            gap = rng.choice([-1, 1]) * rng.uniform(low, high)
            if self.drive_by(part, with_ego(self.drive, gap, rng.uniform(*d), rng.uniform(-drift, drift))):
                return gap
        return None

    def cast(self, lane: Lane) -> None:
        """Rare things that stay near the ego for the whole drive, and bicyclists who come towards it."""
        rng = self.rng
        for _ in range(2):
            self.near_ego('bicyclist', 7, 20, (lane.d - lane.width / 2 + .4, lane.d - lane.width / 2 + .9), .15)
        for _ in range(3):
            self.near_ego('motorcyclist', 9, 26, (lane.d - .6, lane.d + .6), .05)
        middle = lane.d, lane.d
        self.near_ego('bus', 30, 42, middle)
        self.near_ego('truck', 24, 46, middle)
        gap = self.near_ego('trailer', 26, 46, middle)
        if gap is not None:
            self.drive_by('car', with_ego(self.drive, gap + TOWED, lane.d))
        self.near_ego('car', 18, 40, middle)
        for start in np.arange(70 + rng.uniform(0, 20), self.street.length + 120, 36):
            self.drive_by('bicyclist', along(start + rng.uniform(0, 8), self.street.half - .4, -4.0))

    def lanes(self, lane: Lane, amount: float) -> None:
        """Vehicles in every lane; within a lane all keep the same speed."""
        rng = self.rng
        for gap in np.arange(54, 110, 14):
            if rng.random() < .5 * amount:
                self.drive_by('car', with_ego(self.drive, gap + rng.uniform(0, 5), lane.d))
        for own in self.street.lanes:
            if own is lane:
                continue
            speed, d = rng.uniform(5, 9), own.d + .2 * own.direction      # keeps off the bicycles at the edge
            s, stop = -60.0, self.street.length + speed * self.times[-1]
            while s < stop:
                part = rng.choice(list(MIX), p=list(MIX.values()))
                path = along(s, d, -speed) if own.direction < 0 else with_ego(self.drive, s - 40, d, .2)
                if (own.direction < 0 or s < 140) and self.drive_by(part, path) and part == 'trailer':
                    shift = TOWED * own.direction
                    self.drive_by('car', along(s + shift, d, -speed) if own.direction < 0 else
                                  with_ego(self.drive, s - 40 + shift, d, .2))
                s += rng.uniform(14, 55) / max(amount, .05)

    def jam(self) -> None:
        """Vehicles close together in all lanes, 8 to 60 m from the ego."""
        rng = self.rng
        for own in self.street.lanes:
            for gap in np.arange(8 + rng.uniform(0, 4), 60, 9.0):
                part = rng.choice(['car', 'truck', 'bus'], p=[.9, .06, .04])
                if own.direction > 0:
                    self.drive_by(part, with_ego(self.drive, gap + rng.uniform(0, 2), own.d + rng.normal(0, .12)))
                else:
                    self.drive_by('car', along(60 + 2 * gap + rng.uniform(0, 3), own.d, -3.0))

    def motorway(self, lane: Lane, amount: float) -> None:
        """Vehicles at about the ego's speed in every lane; trucks keep to the right."""
        rng = self.rng
        for own in self.street.lanes:
            parts = ['car', 'truck', 'bus', 'motorcyclist']
            shares = [.62, .30, .06, .02] if own is self.street.lanes[0] else [.90, .04, .02, .04]
            s = rng.uniform(22, 40) if own is lane else rng.uniform(-30, 10)
            while s < 170:
                drift = 0.0 if own is lane else rng.uniform(-.4, .4)
                self.drive_by(rng.choice(parts, p=shares), with_ego(self.drive, s, own.d + rng.normal(0, .12), drift))
                s += rng.uniform(18, 70) / max(amount, .05)

    def walkers(self, moving: int, still: int) -> None:
        """People on the sidewalks near where the ego passes; some in pairs."""
        rng, street = self.rng, self.street
        for index in range(moving + still):
            walks = index < moving
            s, side = rng.uniform(45, street.length - 35), int(rng.choice([-1, 1]))
            block = street.block_at(s)
            if block is None:
                continue
            strip = block.strip(side, 'sidewalk')
            d = side * rng.uniform(strip.inner + .75, strip.outer - .95)
            part = 'child' if rng.random() < .11 else 'person'
            speed = rng.choice([-1, 1]) * rng.uniform(.8, 1.6)
            for shift in ((0, .7) if rng.random() < .3 else (0,)):
                path = along(s + rng.normal(0, .2), d - side * shift, speed) if walks else \
                    standing(s, d - side * shift, rng.uniform(0, 2 * np.pi))
                self.add(part, people.person(rng, part, walks), path, moving=walks)

    def crossing(self) -> None:
        """Riders, cars and people who cross at the junctions before and after the ego passes."""
        rng = self.rng
        for junction in self.street.junctions:
            meets = self.drive.time_at(junction)
            for part, offset, v in (('bicyclist', CROSS_HALF - 1, 4.0), ('motorcyclist', 2.0, -6.0), ('car', 2.0, 6.0)):
                for when in (meets - rng.uniform(3, 4.5), meets + rng.uniform(3, 4.5)):
                    self.drive_by(part, across(junction + np.sign(v) * offset, -v * when, v))
            for end in (1, -1):
                v, when = rng.choice([-1, 1]) * rng.uniform(1, 1.5), meets + rng.choice([-1, 1]) * rng.uniform(4, 6)
                self.add('person', people.person(rng), across(junction + end * (JUNCTION + 2), -v * when, v))
