"""Rotating laser scanners: which rays they send and what comes back."""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perception.common.scene.caster import Caster, Hits
from perception.common.scene.labels import PART
from perception.common.scene.materials import COLOURED, GLOSSY, MATERIAL, REFLECTANCE, ROUGHNESS

JITTER = 2e-4             # rad, direction noise of a beam
THRESHOLD = .03           # relative echo at 80 m that is seen half of the time
GLASS_PASSES = .75        # share of the rays that go on behind a car's window
GLASS_RETURNS = .15       # share of the rest that comes back
MIXED = .1                # share of the points at depth edges that lie between both surfaces
OUTLIERS = 3e-4           # share of false echoes
WET = ('road', 'marking', 'parking', 'sidewalk')     # wet, they throw the light away


@dataclass(frozen=True)
class LidarSpec:
    """A scanner.

    Attributes:
        elevations: degrees, one per ring, from the top down.
        columns: azimuth steps per turn, clockwise seen from above, the first one straight behind.
        height: metres above the ground.
        min_range, max_range: metres.
        noise: standard deviation of the range, metres.
        period: seconds per turn.
        roof: the ego's roof as depth below the sensor and half axes backwards, forwards and sideways of its outline,
            two half ellipses [m]; beams that meet it are gone.
        start: degrees, azimuth of the first column, 0 ahead, 90 to the left.
        reference: share of the turn at which the sensor is where the points say it is.
        echo: factor, exponent and regularity (shape of a Gamma distribution of mean 1) from echo to intensity.
        most: largest intensity.
        decimals: of the intensity.
    """
    elevations: tuple[float, ...]
    columns: int
    height: float
    min_range: float
    max_range: float
    noise: float
    period: float
    roof: tuple[float, float, float, float] | None = None
    start: float = 180.0
    reference: float = .5
    echo: tuple[float, float, float] = (.62, .33, 25)
    most: float = .99
    decimals: int = 2


# Velodyne HDL-64E as on KITTI's car; elevations, roof and columns as measured on real scans
HDL64E = LidarSpec(elevations=(*np.linspace(2.39, -8.41, 32).tolist(), *np.linspace(-8.93, -23.63, 32).tolist()),
                   columns=2083, height=1.73, min_range=2.5, max_range=80.0, noise=.015, period=.1,
                   roof=(.26, .82, .68, .46))
# Velodyne HDL-32E as on nuScenes' cars: 20 turns a second that start at the left and are given as seen at their end;
# elevations, roof and intensities as measured on a real key frame
HDL32E = LidarSpec(elevations=tuple((10.667 - 4 / 3 * np.arange(32)).tolist()), columns=1084, height=1.84,
                   min_range=1.3, max_range=100.0, noise=.015, period=.05, roof=(.32, .80, .90, .525), start=90.0,
                   reference=1.0, echo=(99, .7, 12), most=255.0, decimals=0)
# Ouster OS0-128 as on STCrowd's car; at 10 turns a second it has 1,024 columns or, as here, 2,048
OS0_128 = LidarSpec(elevations=tuple(np.linspace(45, -45, 128).tolist()), columns=2048, height=1.6, min_range=.5,
                    max_range=50.0, noise=.02, period=.1, start=0.0, echo=(162, .7, 12), most=255.0, decimals=0)


class Scan(NamedTuple):
    """One turn, in the sensor's frame at its reference time, the middle of the turn unless the scanner says otherwise.

    Attributes:
        points: (N, 4) float32 x, y, z [m], intensity in [0, 0.99] (HDL32E and OS0_128: 0 to 255).
        part: (N,) int16 part ids.
        instance: (N,) int32, 0 for what is no single thing.
        ring: (N,) int16, 0 at the top.
        time: (N,) float32 seconds relative to the reference time.
    """
    points: np.ndarray
    part: np.ndarray
    instance: np.ndarray
    ring: np.ndarray
    time: np.ndarray


def sensor_pose(ego: np.ndarray, spec: LidarSpec) -> np.ndarray:
    """4x4 pose of the scanner above the ego's ground point."""
    pose = ego.copy()
    pose[:3, 3] += spec.height * ego[:3, 2]
    return pose


def scan(caster: Caster, pose: np.ndarray, spec: LidarSpec, rng: np.random.Generator,
         velocity: np.ndarray | None = None) -> Scan:
    """What comes back in one turn of a scanner, ring by ring, already corrected for the ego's motion.

    Args:
        caster: the world at this moment.
        pose: 4x4 pose of the sensor at the reference time.
        spec: the scanner.
        rng: source of all noise.
        velocity: (3,) m/s of the sensor in the world; the rays start where it is at their time.
    """
    found, _, seen, _ = _turn(caster, pose, spec, rng, velocity)
    return Scan(*(values[seen] for values in found))


def rained(dry: Scan, strength: float, rng: np.random.Generator) -> Scan:
    """What is left of a scan in the rain: fewer points, above all far ones and those on wet ground, and some drops.

    Args:
        dry: the scan.
        strength: 0 for none to 1 for a downpour.
        rng: source of all choices.
    """
    distance = np.linalg.norm(dry.points[:, :3], axis=1)
    ground = np.isin(dry.part, [PART[name] for name in WET])
    chance = (1 - .25 * strength) * np.exp(-strength * distance / 60) * np.where(ground, 1 - .5 * strength, 1)
    stays = rng.random(len(distance)) < chance
    drop = ~stays & (rng.random(len(distance)) < .02 * strength) & (distance > 2)
    near = np.minimum(.8 + rng.exponential(2.5, len(distance)), .9 * distance)
    points = dry.points.copy()
    points[drop, :3] *= (near[drop] / distance[drop])[:, None].astype(np.float32)
    points[:, 3] = np.floor(points[:, 3] * np.where(drop, .2, 1 - .3 * strength))
    wet = Scan(points, np.where(drop, PART['outlier'], dry.part).astype(np.int16),
               np.where(drop, 0, dry.instance).astype(np.int32), dry.ring, dry.time)
    return Scan(*(values[stays | drop] for values in wet))


def beams(pose: np.ndarray, spec: LidarSpec) -> np.ndarray:
    """(R * C, 3) float32 unit directions in the world of a turn's beams without their jitter, ring by ring."""
    return (_directions(spec, None) @ pose[:3, :3].T).astype(np.float32)


def full_scan(caster: Caster, pose: np.ndarray, spec: LidarSpec, rng: np.random.Generator,
              velocity: np.ndarray | None = None) -> Scan:
    """One turn with a point for every beam, column by column and upwards, as nuScenes stores it; see `scan`.

    Beams that meet the ego's roof end there (part `ego`); those without a return stand where the sensor was at their
    time (part `void`).
    """
    found, origin, seen, local = _turn(caster, pose, spec, rng, velocity)
    roof = _meets_roof(local, spec)
    start = (origin - pose[:3, 3]) @ pose[:3, :3]
    reach = (spec.roof[0] if spec.roof else 0) / np.maximum(-local[:, 2], 1e-6)
    lost = np.where(roof[:, None], start + local * reach[:, None], start)
    dark = np.where(roof, rng.integers(1, 30, len(roof)), rng.integers(0, 120, len(roof)))
    points = np.where(seen[:, None], found.points, np.concatenate([lost, dark[:, None]], 1)).astype(np.float32)
    part = np.where(seen, found.part, np.where(roof, PART['ego'], PART['void'])).astype(np.int16)
    full = Scan(points, part, np.where(seen, found.instance, 0).astype(np.int32), found.ring, found.time)
    order = np.arange(len(seen)).reshape(len(spec.elevations), spec.columns)[::-1].T.ravel()
    return Scan(*(values[order] for values in full))


def _turn(caster: Caster, pose: np.ndarray, spec: LidarSpec, rng: np.random.Generator,
          velocity: np.ndarray | None) -> tuple[Scan, np.ndarray, np.ndarray, np.ndarray]:
    """All beams of a turn, ring by ring: points, where they started (N, 3), which came back (N,), directions (N, 3)."""
    rings, columns = len(spec.elevations), spec.columns
    local = _directions(spec, rng)
    time = np.tile((np.arange(columns) / columns - spec.reference) * spec.period, rings)
    origin = pose[:3, 3] + time[:, None] * (np.zeros(3) if velocity is None else velocity)
    direction = (local @ pose[:3, :3].T).astype(np.float32)
    hits, distance, passed = _through_glass(caster, origin, direction, rng)
    echo = _echo(hits)
    seen = hits.hit & ~_meets_roof(local, spec) & (distance >= spec.min_range) & (distance <= spec.max_range)
    seen &= passed & _detected(echo, distance, rng)
    spread = np.hypot(spec.noise, ROUGHNESS[hits.material])
    distance = distance + spread * rng.standard_normal(len(distance))
    distance = _mix_edges(distance, seen, (rings, columns), rng)
    false = rng.random(len(distance)) < OUTLIERS
    distance = np.where(false, distance * rng.uniform(.2, .95, len(distance)), distance)
    seen &= (distance >= spec.min_range) & (distance <= spec.max_range)
    factor, exponent, regularity = spec.echo
    intensity = np.clip(factor * echo**exponent * rng.gamma(regularity, 1 / regularity, len(echo)), 0, spec.most)
    world = origin + direction * distance[:, None]
    points = np.concatenate([(world - pose[:3, 3]) @ pose[:3, :3], np.round(intensity, spec.decimals)[:, None]], 1)
    part = np.where(false, PART['outlier'], hits.part).astype(np.int16)
    instance = np.where(false, 0, hits.instance).astype(np.int32)
    ring = np.repeat(np.arange(rings, dtype=np.int16), columns)
    return Scan(points.astype(np.float32), part, instance, ring, time.astype(np.float32)), origin, seen, local


def _directions(spec: LidarSpec, rng: np.random.Generator | None) -> np.ndarray:
    """(R * C, 3) unit directions in the sensor's frame, ring by ring, with the beams' jitter if `rng` draws it."""
    azimuth = np.deg2rad(spec.start) - 2 * np.pi * np.arange(spec.columns) / spec.columns
    elevation = np.deg2rad(spec.elevations)[:, None]
    shape = (len(spec.elevations), spec.columns)
    noise = rng.standard_normal if rng else np.zeros
    azimuth, elevation = azimuth + JITTER * noise(shape), elevation + JITTER * noise(shape)
    cos = np.cos(elevation)
    return np.stack([cos * np.cos(azimuth), cos * np.sin(azimuth), np.sin(elevation)], -1).reshape(-1, 3)


def _through_glass(caster: Caster, origin: np.ndarray, direction: np.ndarray,
                   rng: np.random.Generator) -> tuple[Hits, np.ndarray, np.ndarray]:
    """Hits, their distances and whether there is an echo, where most rays pass through the windows of cars."""
    hits = caster.cast(origin, direction)
    distance = hits.distance.astype(np.float64)
    passed = np.ones(len(distance), bool)
    glass = MATERIAL['car_glass']
    for _ in range(3):
        window = np.flatnonzero(hits.hit & (hits.material == glass) & passed)
        through = rng.random(len(window)) < GLASS_PASSES
        passed[window[~through]] = rng.random((~through).sum()) < GLASS_RETURNS
        go_on = window[through]
        if not len(go_on):
            break
        start = distance[go_on] + .01
        behind = caster.cast(origin[go_on] + start[:, None] * direction[go_on], direction[go_on])
        for field, new in zip(hits, behind):
            field[go_on] = new
        distance[go_on] = start + behind.distance
        if not (behind.hit & (behind.material == glass)).any():
            break
    return hits, distance, passed


def _echo(hits: Hits) -> np.ndarray:
    """(N,) returned energy before the distance: Lambert's law plus the shine of paint, metal and glass."""
    tone = hits.albedo.mean(1)
    tone = np.where(COLOURED[hits.material], .35 + 1.1 * tone, .7 + .6 * tone)
    shine = np.where(GLOSSY[hits.material], .8 * hits.cosine**40, 0)
    return REFLECTANCE[hits.material] * tone * hits.cosine + shine


def _detected(echo: np.ndarray, distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whether an echo is strong enough, a soft threshold."""
    strength = np.log(np.maximum(echo * (80 / np.maximum(distance, 4)) ** 2, 1e-9)) - np.log(THRESHOLD)
    return rng.random(len(echo)) < .995 / (1 + np.exp(-np.clip(strength / .45, -50, 50)))


def _meets_roof(local: np.ndarray, spec: LidarSpec) -> np.ndarray:
    if spec.roof is None:
        return np.zeros(len(local), bool)
    depth, back, front, half = spec.roof
    reach = depth / np.maximum(-local[:, 2], 1e-6)
    x, y = reach * local[:, 0], reach * local[:, 1]
    return np.hypot(x / np.where(x < 0, back, front), y / half) < 1


def _mix_edges(distance: np.ndarray, seen: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Some points at depth edges get a range between both surfaces, as a beam has a width."""
    grid, valid = distance.reshape(shape), seen.reshape(shape)
    nxt = np.roll(grid, -1, 1)
    gap = np.abs(nxt - grid)
    edge = valid & np.roll(valid, -1, 1) & (gap > .3) & (gap < 3) & (rng.random(shape) < MIXED)
    return np.where(edge, grid + rng.random(shape) * (nxt - grid), grid).reshape(-1)
