"""Many people on a street, in groups that walk, stand and sit around a slow vehicle."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.common.scene.actors import Actor, Path, standing
from perception.common.scene.drive import Drive
from perception.common.scene.passers import PRAM, passer_by
from perception.common.scene.street import Street
from perception.utils.errors import ConfigError

REACH = 35.0              # metres ahead in which people are counted
STEP = .2                 # seconds between the moments at which nobody may touch anybody
SPACE = .45               # metres between the middles of two people who carry nothing
EGO = 2.3                 # metres around the sensor that stay free
GROUPS = (.14, .20, .23, .23, .20)          # shares of groups of 1, 2, ... people
SPOTS, GATHERED = 3, .70    # places where groups meet, and share of the groups that are near one
TRIES = 1500


@dataclass(frozen=True)
class Crowd:
    """How many people there are around the ego, and how they behave.

    Attributes:
        count: people ahead of the ego within 35 m, on average over time.
        least, most: of them at any moment.
        seconds: from t = 0, for which this holds.
        speed: of the ego, m/s; it crawls.
        width: metres to both sides of the street's middle where people may be, but never beyond the sidewalks.
        standing: share of the groups that stay where they are.
        low: share of the people who bend or sit, below 1.2 m.
        umbrellas: share of the people upright who hold one.
    """
    count: float = 22.0
    least: int = 15
    most: int = 45
    seconds: float = 8.0
    speed: float = .6
    width: float = 9.0
    standing: float = .25
    low: float = .08
    umbrellas: float = .03

    def __post_init__(self) -> None:
        shares = (self.standing, self.low, self.umbrellas)
        if not 0 < self.least <= self.count <= self.most <= 60 or not 0 < self.seconds <= 120 or \
                not .01 <= self.speed <= 3 or not 4 <= self.width <= 15 or not all(0 <= v <= 1 for v in shares):
            raise ConfigError(f'build_world: people={self}, expected 0 < least <= count <= most <= 60, up to 120 '
                              'seconds, an ego of 0.01 to 3 m/s, a width of 4 to 15 m and shares in [0, 1]. Give '
                              'numbers in these ranges.')


def drifting(s: float, d: float, v: float, way: float) -> Path:
    """In a straight line over the street at constant speed, `way` radians to the left of its direction."""
    return lambda t: (s + v * np.cos(way) * t, d + v * np.sin(way) * t, way)


class Gathering:
    """Adds the people of a crowd so that nobody ever touches somebody, something that stands there, or the ego.

    Args:
        actors: the list to append to.
        street, drive: the street and the ego's drive.
        rng: source of all choices.
        crowd: what is wanted.
        booked: (B, 3) discs x, y, radius in the world where things stand.
    """

    def __init__(self, actors: list[Actor], street: Street, drive: Drive, rng: np.random.Generator, crowd: Crowd,
                 booked: np.ndarray) -> None:
        self.actors, self.street, self.drive, self.rng, self.crowd = actors, street, drive, rng, crowd
        self.times = np.arange(0, crowd.seconds + STEP, STEP)
        poses = np.stack([drive.pose(t) for t in self.times])
        self._ego, self._forward = poses[:, :2, 3], poses[:, :2, 0]
        self._tracks, self._radii = [self._ego], [EGO]       # (T, 2) in the world, metres
        near = np.linalg.norm(booked[:, None, :2] - self._ego[::10], axis=2).min(1) < REACH + 15
        self._booked = booked[near]
        walks = [strips.outer for block in street.blocks for side in (1, -1)
                 if (strips := block.strip(side, 'sidewalk'))]
        self.width = min([crowd.width, *(edge - .4 for edge in walks)])
        self._hot = np.stack([rng.uniform(5, 17, SPOTS), rng.uniform(-.7, .7, SPOTS) * self.width], -1)
        self.ahead = np.zeros(len(self.times), int)

    def fill(self) -> None:
        """Adds groups where there are fewest people until there are as many as wanted."""
        crowd = self.crowd
        for _ in range(TRIES):
            if self.ahead.mean() >= crowd.count and self.ahead.min() >= crowd.least:
                return
            self.group(float(self.times[self.ahead.argmin()]), self._middle())
        raise ConfigError(f'build_world: {self.ahead.mean():.0f} people found room, expected {crowd.count:.0f} of '
                          'them. Ask for fewer, or for a greater width.')

    def elsewhere(self) -> None:
        """Adds a few groups behind the ego and farther away than people are counted."""
        for low, high in ((-22, -3), (-22, -3), (36, 46), (36, 46)):
            spot = np.array([self.rng.uniform(low, high), self.rng.uniform(-self.width, self.width)])
            self.group(float(self.rng.uniform(0, self.crowd.seconds)), spot)

    def _middle(self) -> np.ndarray:
        """Where a group may be: metres ahead of the ego, and to the left of the street's middle."""
        rng, width = self.rng, self.width
        spot = np.array([rng.uniform(3, 30), rng.uniform(-width, width)])
        if rng.random() < GATHERED:
            spot = self._hot[rng.integers(len(self._hot))] + rng.normal(0, (3.0, 2.2))
        return np.clip(spot, (3, -width), (33, width))

    def group(self, when: float, spot: np.ndarray) -> None:
        """A group of 1 to 5 whose middle is at a spot (metres ahead of the ego, and left) at a moment."""
        rng, crowd = self.rng, self.crowd
        size = int(rng.choice(len(GROUPS), p=GROUPS)) + 1
        middle = spot + [float(self.drive.s(when)), 0]
        stays = rng.random() < crowd.standing
        across = rng.random() < .3
        way = rng.uniform(0, 2 * np.pi) if across else rng.choice([0, np.pi]) + rng.normal(0, .08)
        speed = rng.uniform(.8, 1.6)
        for _ in range(size):
            low = rng.random() < crowd.low
            act = rng.choice(['bending', 'sitting']) if low else 'standing' if stays else 'walking'
            child, carries = rng.random() < .10, self._luggage(low)
            carries = carries - {'pram'} if child or size > 3 else carries
            turn = rng.normal(0, .04)
            for _ in range(4):
                place = middle + rng.normal(0, .6, 2)
                if act == 'walking':
                    start = place - when * speed * np.array([np.cos(way + turn), np.sin(way + turn)])
                    path = drifting(*start, speed, way + turn)
                else:
                    inwards = np.arctan2(*(middle - place)[::-1]) + rng.normal(0, .4)
                    path = standing(*place, inwards if size > 1 else way)
                if self._add(act, bool(child), carries, path):
                    break

    def _luggage(self, low: bool) -> frozenset[str]:
        chances = dict(rucksack=.28, bag=.20, umbrella=0 if low else self.crowd.umbrellas, pram=0 if low else .05)
        draws = self.rng.random(len(chances))
        return frozenset(name for (name, chance), draw in zip(chances.items(), draws) if draw < chance)

    def _add(self, act: str, child: bool, carries: frozenset[str], path: Path) -> bool:
        """One person, unless there is no room or enough people are there."""
        s, d, yaw = np.array([path(t) for t in self.times]).T
        place = self.street.at(s, d)[:, :2]
        heading = self.street.heading_at(s) + yaw
        forward = np.stack([np.cos(heading), np.sin(heading)], -1)
        radius = SPACE / 2 + .22 * ('umbrella' in carries) + .12 * (act in ('bending', 'sitting'))
        tracks, radii = [place], [radius]
        if 'pram' in carries:
            tracks, radii = [place, place + PRAM * forward], [radius, .5]
        ahead = self._ahead(place)
        if np.abs(d).max() > self.width + .5 or (self.ahead + ahead).max() > self.crowd.most or \
                not self._free(np.stack(tracks), np.array(radii)):
            return False
        self._tracks += tracks
        self._radii += radii
        self.ahead = self.ahead + ahead
        for part, meshes in passer_by(self.rng, act, child, carries).items():
            self.actors.append(Actor(part, meshes, self.street, path, len(self.actors) + 1, act == 'walking'))
        return True

    def _ahead(self, place: np.ndarray) -> np.ndarray:
        off = place - self._ego
        return ((off * self._forward).sum(1) >= 0) & (np.linalg.norm(off, axis=1) <= REACH)

    def _free(self, tracks: np.ndarray, radii: np.ndarray) -> bool:
        others, apart = np.stack(self._tracks), np.array(self._radii)
        for track, radius in zip(tracks, radii):
            gap = np.linalg.norm(others - track, axis=2) - apart[:, None] - radius
            fixed = np.linalg.norm(self._booked[:, None, :2] - track, axis=2) - self._booked[:, 2:] - radius
            if (gap < 0).any() or (fixed < 0).any():
                return False
        return True


def add_crowd(actors: list[Actor], street: Street, drive: Drive, rng: np.random.Generator, crowd: Crowd,
              booked: np.ndarray) -> None:
    """Appends a crowd; see `Gathering` for the arguments.

    Raises:
        ConfigError: there is no room for so many.
    """
    gathering = Gathering(actors, street, drive, rng, crowd, booked)
    gathering.fill()
    gathering.elsewhere()
