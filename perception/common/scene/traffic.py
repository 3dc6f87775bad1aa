"""Who is on the move: vehicles in their lanes, riders, people, and a cast of rare things near the ego."""
from __future__ import annotations

import numpy as np

from perception.common.scene import people
from perception.common.scene.actors import Actor, Path, across, along, standing, with_ego
from perception.common.scene.drive import Drive
from perception.common.scene.mesh import Mesh
from perception.common.scene.street import JUNCTION, Lane, Street
from perception.common.scene.vehicles import draw_vehicle

HEADWAY = 15.0          # metres ahead of the ego without a vehicle in its lane


def add_traffic(actors: list[Actor], street: Street, drive: Drive, lane: Lane, rng: np.random.Generator,
                amount: float = 1.0) -> None:
    """Appends moving actors and people who stand.

    Args:
        actors: the things with an identity so far; ids go on from their number.
        street: the street.
        drive: the ego's drive, which nobody may come near to.
        lane: the ego's lane.
        rng: source of all choices.
        amount: factor on the numbers.
    """
    traffic = _Traffic(actors, street, drive, rng)
    traffic.cast(lane)
    traffic.lanes(lane, amount)
    traffic.walkers(int(18 * amount), int(6 * amount))
    traffic.crossing()


class _Traffic:
    def __init__(self, actors: list[Actor], street: Street, drive: Drive, rng: np.random.Generator) -> None:
        self.actors, self.street, self.drive, self.rng = actors, street, drive, rng
        self.times = np.arange(0, drive.time_at(street.length - 50), .5)

    def add(self, part: str, meshes: list[Mesh], path: Path, moving: bool = True, on_ground: bool = True) -> None:
        """Adds an actor unless it would ever come near the ego or start inside another one."""
        low, high = meshes[0].bounds()
        reach, width = max(high[0], -low[0]), max(high[1], -low[1])
        places = np.array([path(t) for t in self.times])
        ahead, aside = places[:, 0] - self.drive.s(self.times), np.abs(places[:, 1] - self.drive.d(self.times))
        turned = np.abs(np.sin(places[:, 2])) > .5
        along_, across_ = np.where(turned, width, reach), np.where(turned, reach, width)
        if ((np.abs(ahead) < 3.2 + along_) & (aside < 1.25 + across_)).any():
            return
        self.actors.append(Actor(part, meshes, self.street, path, len(self.actors) + 1, moving, on_ground))

    def vehicle(self, part: str, path: Path) -> None:
        """A vehicle that moves on the carriageway."""
        self.add(part, [draw_vehicle(self.rng, part)], path, on_ground=False)

    def rider(self, part: str, path: Path) -> None:
        """Somebody on a cycle."""
        self.add(part, people.rider(self.rng, part), path, on_ground=False)

    def cast(self, lane: Lane) -> None:
        """Rare things that stay near the ego for the whole drive, and riders who come towards it."""
        rng, drive, half = self.rng, self.drive, self.street.half
        right, left = lane.d - lane.width / 2, half - .6
        self.rider('bicyclist', with_ego(drive, 9 + rng.uniform(0, 4), right + .35, rng.uniform(-.05, .05)))
        self.rider('bicyclist', with_ego(drive, -9 - rng.uniform(0, 4), right + .4, rng.uniform(-.05, .05)))
        self.rider('motorcyclist', with_ego(drive, 14 + rng.uniform(0, 4), lane.d + .4, rng.uniform(0, .3)))
        self.rider('motorcyclist', with_ego(drive, -12 - rng.uniform(0, 4), lane.d, rng.uniform(-.3, 0)))
        for part, speed, step in (('bicyclist', 4.0, 27), ('motorcyclist', 7.0, 34)):
            shift = left if part == 'bicyclist' else half - lane.width * .3
            for start in np.arange(70 + rng.uniform(0, 20), self.street.length + 120, step + speed * 3):
                self.rider(part, along(start, shift, -speed * rng.uniform(.95, 1.05)))
        ahead, behind = ('bus', 'truck') if rng.random() < .5 else ('truck', 'bus')
        self.vehicle(ahead, with_ego(drive, 36 + rng.uniform(0, 6), lane.d, rng.uniform(0, .2)))
        self.vehicle('trailer', with_ego(drive, -25 - rng.uniform(0, 5), lane.d))
        self.vehicle(behind, with_ego(drive, -42 - rng.uniform(0, 5), lane.d))

    def lanes(self, lane: Lane, amount: float) -> None:
        """Cars, and some larger ones, in every lane; within a lane all keep the same speed."""
        rng = self.rng
        for own in self.street.lanes:
            if own.d == lane.d:
                for gap in np.arange(52, 120, 14 / max(amount, .05)):
                    if rng.random() < .5:
                        self.vehicle('car', with_ego(self.drive, gap + rng.uniform(0, 5), own.d))
                self.vehicle('car', with_ego(self.drive, 25 + rng.uniform(0, 3), own.d))
                continue
            speed = rng.uniform(5, 9)
            s, stop = -60.0, self.street.length + speed * self.times[-1]
            while s < stop:
                part = rng.choice(['car', 'truck', 'bus', 'trailer'], p=[.86, .05, .05, .04])
                s += rng.uniform(14, 60) / max(amount, .05) + (8 if part != 'car' else 0)
                if own.direction < 0:
                    self.vehicle(part, along(s, own.d, -speed))
                elif s < 140:
                    self.vehicle(part, with_ego(self.drive, s - 40, own.d, .2))

    def walkers(self, moving: int, still: int) -> None:
        """People on the sidewalks near where the ego passes; some in pairs."""
        rng, street = self.rng, self.street
        for index in range(moving + still):
            walks = index < moving
            s = rng.uniform(45, street.length - 35)
            block, side = street.block_at(s), int(rng.choice([-1, 1]))
            if block is None:
                continue
            strip = block.strip(side, 'sidewalk')
            d = side * rng.uniform(strip.inner + .3, strip.outer - .9)
            part = 'child' if rng.random() < .11 else 'person'
            speed = rng.choice([-1, 1]) * rng.uniform(.8, 1.6)
            for shift in ((0, .65) if rng.random() < .3 else (0,)):
                path = along(s + rng.normal(0, .2), d - side * shift, speed) if walks else \
                    standing(s, d - side * shift, rng.uniform(0, 2 * np.pi))
                self.add(part, people.person(rng, part, walks), path, moving=walks)

    def crossing(self) -> None:
        """Riders, cars and people who cross at the junctions before and after the ego passes."""
        rng, half = self.rng, self.street.half
        for junction in self.street.junctions:
            meets = self.drive.time_at(junction)
            for part, d, v in (('bicyclist', -3.9, 4.0), ('motorcyclist', 1.8, -6.0), ('car', -1.8, 6.0)):
                for when in (meets - rng.uniform(3.0, 4.5), meets + rng.uniform(3.0, 4.5)):
                    path = across(junction - np.sign(v) * abs(d), -v * when, v)
                    (self.vehicle if part == 'car' else self.rider)(part, path)
            for end in (1, -1):
                walk = rng.uniform(1.0, 1.5) * rng.choice([-1, 1])
                when = meets + rng.choice([-1, 1]) * rng.uniform(4.0, 6.0)
                path = across(junction + end * (JUNCTION + 2), -walk * when, walk)
                if abs(path(meets)[1]) > 0 and half > 0:
                    self.add('person', people.person(rng, 'person', True), path)
