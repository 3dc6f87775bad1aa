"""Light in the toy world: textures, sun, sky, night, and how a camera turns light into a picture.

All colours are linear RGB, float32, until `develop`. Every formula works on N rays at once.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from perception.common.scene.caster import Caster, Hits
from perception.common.scene.labels import MARK, PART
from perception.common.scene.materials import MATERIAL
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError

TEXTURE = 512                # texels of the noise image
OFFSET = .02                 # metres that shadow rays start above a surface
OCCLUSION_REACH = 2.5        # metres around a point that darken it
LAMP_REACH = 30.0            # metres a street lamp lights
ASPHALT = np.array([.105, .105, .11], np.float32)
SUNLIGHT, WARM = np.array([3.0, 2.82, 2.52], np.float32), np.array([1.0, .78, .48], np.float32)
HORIZON, ZENITH = np.array([.80, .86, .92], np.float32), np.array([.22, .42, .80], np.float32)
HAZE = np.array([.68, .75, .83], np.float32)


@dataclass(frozen=True)
class Look:
    """Light and weather of a picture.

    Attributes:
        kind: `'day'`, `'overcast'`, `'shadow'` (low sun from the side), `'glare'` (low sun ahead), `'night'`, `'fog'`.
        azimuth: degrees in the world that the sun stands at, counter-clockwise from +x; None: where the kind wants it
            as seen from the camera. Give a number for the frames of a sequence.
        elevation: degrees of the sun above the horizon; None: the kind's.
        haze: metres over which the view fades; None: the kind's.
        wear: 0 for fresh paint to 1 for paint that is nearly gone.
        exposure: factor on the light.
    """
    kind: str = 'day'
    azimuth: float | None = None
    elevation: float | None = None
    haze: float | None = None
    wear: float = .2
    exposure: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f'Look: kind={self.kind!r}, expected one of {", ".join(KINDS)}. '
                              f'{close_matches(self.kind, KINDS)}')
        if not 0 <= self.wear <= 1 or self.exposure <= 0 or (self.haze is not None and self.haze <= 0):
            raise ConfigError(f'Look: {self}, expected wear in [0, 1], a positive exposure and positive haze. Give '
                              'numbers in these ranges.')


class Kind(NamedTuple):
    """What a kind of look means: sun relative to the view [degrees to the left], its height, light, haze, exposure."""
    azimuth: float
    elevation: float
    sun: float
    sky: float
    haze: float
    exposure: float
    noise: float = .010


KINDS = dict(
    day=Kind(125, 48, 1.0, .75, 900, 1.0), overcast=Kind(60, 50, 0.0, 1.5, 600, 1.0),
    shadow=Kind(75, 27, 1.05, .70, 900, 1.05), glare=Kind(5, 9, 1.0, .85, 500, 1.25),
    night=Kind(90, 40, 0.0, .015, 900, 1.0, .016), fog=Kind(60, 50, 0.0, 1.6, 75, 1.0))


def draw_look(kind: str, heading: float, rng: np.random.Generator) -> Look:
    """A look of a kind with sun, haze and wear drawn at random.

    Args:
        kind: a key of `KINDS`.
        heading: degrees in the world that the camera looks at, counter-clockwise from +x.
        rng: source of all choices.
    """
    base = Look(kind)
    spread, side = (12.0, 1.0) if kind == 'glare' else (25.0, rng.choice([-1.0, 1.0]))
    usual = KINDS[kind]
    return replace(base, azimuth=heading + side * usual.azimuth + rng.uniform(-spread, spread),
                   elevation=usual.elevation + rng.uniform(-.12, .25) * usual.elevation,
                   haze=usual.haze * rng.uniform(.7, 1.4), wear=rng.uniform(0, .55), exposure=rng.uniform(.88, 1.12))


class Sun(NamedTuple):
    """Where the light comes from.

    Attributes:
        direction: (3,) float32 towards the sun.
        strength, sky: factors on sun and sky light.
    """
    direction: np.ndarray
    strength: float
    sky: float

    @classmethod
    def of(cls, look: Look, pose: np.ndarray) -> Sun:
        """The sun of a look, for a camera with that 4x4 pose."""
        kind = KINDS[look.kind]
        heading = np.arctan2(pose[1, 2], pose[0, 2])
        azimuth = heading + np.deg2rad(kind.azimuth) if look.azimuth is None else np.deg2rad(look.azimuth)
        up = np.deg2rad(kind.elevation if look.elevation is None else look.elevation)
        direction = np.array([np.cos(up) * np.cos(azimuth), np.cos(up) * np.sin(azimuth), np.sin(up)], np.float32)
        return cls(direction, kind.sun, kind.sky)


# ---- noise
@cache
def _noise_image() -> np.ndarray:
    """(512, 512) float32 tileable noise of many octaves, zero mean, unit variance."""
    rng = np.random.default_rng(20_240_501)
    total = np.zeros((TEXTURE, TEXTURE), np.float32)
    for octave in range(2, 10):
        cells = 2**octave
        values = rng.standard_normal((cells, cells)).astype(np.float32)
        padded = np.pad(values, 4, mode='wrap')
        factor = TEXTURE // cells
        large = cv2.resize(padded, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        total += .6**octave * large[4 * factor:4 * factor + TEXTURE, 4 * factor:4 * factor + TEXTURE]
    return (total - total.mean()) / total.std()


def noise(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    """(N,) noise at places (N,), repeated every `period` metres."""
    count = len(u)
    rows = max(1, -(-count // 4096))
    x, y = (np.resize((w / period % 1 * TEXTURE).astype(np.float32), (rows, 4096)) for w in (u, v))
    return cv2.remap(_noise_image(), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP).reshape(-1)[:count]


# ---- surfaces
def _of(hits: Hits, *names: str) -> np.ndarray:
    """Indices of hits on materials."""
    return np.flatnonzero(np.isin(hits.material, [MATERIAL[name] for name in names]))


def _albedo(hits: Hits, points: np.ndarray, look: Look) -> np.ndarray:
    """(N, 3) colours with texture; all hits are real ones."""
    albedo = np.array(hits.albedo, np.float32)
    flat = np.abs(hits.normal[:, 2]) > .7
    along = hits.normal[:, 1] * points[:, 0] - hits.normal[:, 0] * points[:, 1]
    u = np.where(flat, points[:, 0], along)
    v = np.where(flat, points[:, 1], points[:, 2])
    fine = 1 / (1 + (hits.distance / 22) ** 2)

    def vary(index: np.ndarray, *waves: tuple[float, float]) -> None:
        factor = np.ones(len(index), np.float32)
        for turn, (amount, period) in enumerate(waves):              # turned, so that repetitions do not show
            fade = fine[index] if period < 5 else 1
            x, y, angle = u[index], v[index], .6 + 1.1 * turn
            factor += amount * fade * noise(np.cos(angle) * x - np.sin(angle) * y,
                                            np.sin(angle) * x + np.cos(angle) * y, period)
        albedo[index] *= np.clip(factor, .15, 2)[:, None]

    asphalt = _of(hits, 'asphalt', 'parking_stone')
    vary(asphalt, (.05, 5.7), (.08, .83), (.05, .31), (.04, 31))
    albedo[asphalt] *= _repairs(u[asphalt], v[asphalt], fine[asphalt])[:, None]
    paint = _of(hits, 'white_paint', 'yellow_paint')
    albedo[paint] = _worn(albedo[paint], u[paint], v[paint], fine[paint], look.wear)
    vary(_of(hits, 'grass', 'soil', 'gravel'), (.30, 1.3), (.15, 11))
    vary(_of(hits, 'plaster', 'concrete', 'roof', 'kerb'), (.08, 2.7), (.09, 13))
    pavers = _of(hits, 'pavers')
    joint = (np.minimum(u[pavers] / .5 % 1, v[pavers] / .5 % 1) < .06) & (hits.distance[pavers] < 25)
    albedo[pavers] *= np.where(joint, np.float32(.72), np.float32(1))[:, None]
    vary(pavers, (.08, .9), (.07, 7))
    brick = _of(hits, 'brick')
    row = np.floor(v[brick] / .075)
    joint = ((v[brick] / .075 % 1 < .16) | ((u[brick] / .24 + .5 * (row % 2)) % 1 < .06)) & (hits.distance[brick] < 25)
    albedo[brick] = np.where(joint[:, None], .6 * albedo[brick] + .14, albedo[brick])
    vary(brick, (.10, .9), (.08, 11))
    albedo[hits.mark == MARK['tail_lamp']] = .45, .02, .02
    return albedo


def _repairs(u: np.ndarray, v: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """(N,) darkening of asphalt by patches and cracks."""
    patch = np.clip((noise(u, v, 61) - 1.25) * 8, 0, 1)
    crack = (np.abs(noise(u + 11, v + 5, 37)) < .022) * fine
    return (1 - .20 * patch) * (1 - .30 * crack)


def _worn(albedo: np.ndarray, u: np.ndarray, v: np.ndarray, fine: np.ndarray, wear: float) -> np.ndarray:
    """Paint (N, 3) that lets the asphalt show through where it is worn."""
    rough = .65 * noise(u, v, 4.3) + .5 * noise(u + 3, v, .8) * fine + .25 * noise(u, v, .21) * fine
    gone = np.clip((rough - (1.9 - 2.7 * wear)) * 1.7, 0, 1)[:, None] * .92
    dirt = (1 - .25 * wear) * (1 + .05 * noise(u, v, .5) * fine)
    return albedo * dirt[:, None] * (1 - gone) + ASPHALT * gone


# ---- light
def sky(direction: np.ndarray, look: Look, sun: Sun) -> np.ndarray:
    """(N, 3) what is seen in directions (N, 3) where nothing stands."""
    up = np.clip(direction[:, 2:], 0, 1)
    if look.kind == 'night':
        return (np.array([.016, .019, .030], np.float32) + np.array([.030, .024, .018], np.float32) * (1 - up) ** 8)
    far = 6 / (direction[:, 2] + .08).clip(.08)
    cover = .6 * noise(direction[:, 0] * far, direction[:, 1] * far, 21) + .4 * noise(direction[:, 0] * far,
                                                                                     direction[:, 1] * far, 7)
    if look.kind in ('overcast', 'fog'):
        grey = np.array([.82, .86, .90], np.float32) * (1 + .06 * cover[:, None] * (look.kind == 'overcast'))
        return grey * (.95 + .15 * up) * sun.sky / 1.5 * 1.25
    clear = ZENITH + (HORIZON - ZENITH) * (1 - up) ** 3
    cloud = np.clip((cover - .1) * .6, 0, .75)[:, None] * np.clip(up * 8, 0, 1)
    colour = clear * (1 - cloud) + np.array([.95, .95, .96], np.float32) * cloud
    towards = np.clip(direction @ sun.direction, 0, 1)[:, None]
    halo = 4.0 if look.kind == 'glare' else 1.0
    return colour + SUNLIGHT * (towards**3000 * 12 + halo * .08 * towards**12 + halo * .06 * towards**90)


def ambient_occlusion(caster: Caster, hits: Hits, eye: np.ndarray, direction: np.ndarray, width: int,
                      rng: np.random.Generator) -> np.ndarray:
    """(N,) share of the surroundings that a point sees: one random ray each, smoothed along surfaces.

    Args:
        caster: the world.
        hits: what the image's rays met, row by row.
        eye: (3,) the camera.
        direction: (N, 3) the rays.
        width: pixels per row.
        rng: source of the directions.
    """
    index = np.flatnonzero(hits.hit)
    value = np.ones(len(hits.hit), np.float32)
    if not len(index):
        return value
    way = rng.standard_normal((len(index), 3), dtype=np.float32)
    way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
    way += hits.normal[index] * 1.001
    way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
    start = eye + direction[index] * hits.distance[index, None] + OFFSET * hits.normal[index]
    value[index] = np.where(caster.occluded(start, way, OCCLUSION_REACH), .15, 1)
    guide = np.log(np.where(hits.hit, hits.distance, 1e3)).astype(np.float32).reshape(-1, width)
    return np.clip(_guided(guide, value.reshape(-1, width), 9, .002), .1, 1).reshape(-1)


def _guided(guide: np.ndarray, value: np.ndarray, size: int, eps: float) -> np.ndarray:
    """Guided filter (He et al. 2010): box means of `value` that keep the edges of `guide`."""
    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(x, -1, (size, size), borderType=cv2.BORDER_REFLECT)
    average, level = mean(guide), mean(value)
    slope = (mean(guide * value) - average * level) / (np.maximum(mean(guide * guide) - average**2, 0) + eps)
    return mean(slope) * guide + mean(level - slope * average)


def radiance(caster: Caster, hits: Hits, pose: np.ndarray, direction: np.ndarray, look: Look, sun: Sun,
             open_sky: np.ndarray) -> np.ndarray:
    """(N, 3) light that comes back along rays of a camera.

    Args:
        caster: the world, for shadows and reflections.
        hits: what the rays met, with rounded normals.
        pose: 4x4 pose of the camera, where the rays start.
        direction: (N, 3) unit.
        look, sun: the light.
        open_sky: (N,) from `ambient_occlusion`.
    """
    colour = np.empty((len(direction), 3), np.float32)
    miss = np.flatnonzero(~hits.hit)
    colour[miss] = sky(direction[miss], look, sun)
    index = np.flatnonzero(hits.hit)
    if not len(index):
        return colour
    seen, way = Hits(*(values[index] for values in hits)), direction[index]
    points = (pose[:3, 3] + way * seen.distance[:, None]).astype(np.float32)
    albedo = _albedo(seen, points, look)
    light = _ambient(seen.normal, sun, look) * open_sky[index, None]
    facing = seen.normal @ sun.direction
    lit = _sunlit(caster, points, seen.normal, facing, sun)
    light += (lit * np.clip(facing, 0, 1) * sun.strength)[:, None] * SUNLIGHT
    if look.kind == 'night':
        light += _head_lights(points, seen, pose, way) + _street_lamps(points, seen.normal, caster.lamps, pose)
    result = albedo * light
    leaves = _of(seen, 'leaf')
    result[leaves] += albedo[leaves] * (.45 * sun.strength * lit[leaves])[:, None] * np.array([2.2, 2.6, .9],
                                                                                             np.float32)
    result += _shine(seen, way, lit, look, sun)
    _mirror(caster, result, seen, points, way, look, sun)
    if look.kind == 'night':
        result += _glow(seen, points, albedo, caster.lamps)
    fade = np.minimum(1 - np.exp(-seen.distance / (look.haze or KINDS[look.kind].haze)),
                      .8 if look.kind != 'fog' else .985)[:, None]
    veil = np.array([.018, .02, .028], np.float32) if look.kind == 'night' else HAZE * sun.sky / .75
    if look.kind in ('overcast', 'fog'):
        veil = np.array([.82, .86, .90], np.float32) * 1.1
    colour[index] = result * (1 - fade) + veil * fade
    return colour


def _ambient(normal: np.ndarray, sun: Sun, look: Look) -> np.ndarray:
    """(N, 3) light of the sky from above and of the ground from below."""
    up = (.5 + .5 * normal[:, 2:]).astype(np.float32)
    grey = look.kind in ('overcast', 'fog')
    blue = np.array([.90, .93, 1.0] if grey else [.46, .58, .78], np.float32)
    ground = np.array([.20, .18, .16], np.float32) * (1.6 if sun.strength else 1)
    return (blue * up + ground * (1 - up)) * np.float32(sun.sky)


def _sunlit(caster: Caster, points: np.ndarray, normal: np.ndarray, facing: np.ndarray, sun: Sun) -> np.ndarray:
    """(N,) 1 where the sun reaches, 0 in shadow and on the far side."""
    lit = np.zeros(len(points), np.float32)
    if sun.strength:
        front = np.flatnonzero(facing > .01)
        start = points[front] + OFFSET * normal[front]
        lit[front] = ~caster.occluded(start, np.broadcast_to(sun.direction, start.shape))
    return lit


def _shine(hits: Hits, way: np.ndarray, lit: np.ndarray, look: Look, sun: Sun) -> np.ndarray:
    """(N, 3) gloss: the sky in car paint and metal, the low sun on asphalt."""
    result = np.zeros((len(way), 3), np.float32)
    cosine = np.clip(-(way * hits.normal).sum(1), 0, 1)
    glossy = _of(hits, 'car_paint', 'metal')
    mirror = way[glossy] + 2 * cosine[glossy, None] * hits.normal[glossy]
    fresnel = .7 * (.04 + .96 * (1 - cosine[glossy]) ** 5)
    above = np.clip(mirror[:, 2:] * 6 + .5, 0, 1)
    if look.kind == 'night':
        result[glossy] = fresnel[:, None] * .03
    else:
        bright = HORIZON + (ZENITH - HORIZON) * np.clip(mirror[:, 2:], 0, 1)
        ground = np.array([.14, .14, .14], np.float32)
        result[glossy] = fresnel[:, None] * (above * bright + (1 - above) * ground) * min(1.0, sun.sky + .25)
        spot = np.clip(mirror @ sun.direction, 0, 1) ** 120
        result[glossy] += (.5 * sun.strength * lit[glossy] * spot)[:, None] * SUNLIGHT
        road = _of(hits, 'asphalt', 'white_paint', 'yellow_paint', 'parking_stone')
        mirror = way[road] + 2 * cosine[road, None] * hits.normal[road]
        spot = np.clip(mirror @ sun.direction, 0, 1) ** 14 * (1 - cosine[road]) ** 4
        result[road] += (.16 * sun.strength * lit[road] * spot)[:, None] * SUNLIGHT
    return result


def _mirror(caster: Caster, result: np.ndarray, hits: Hits, points: np.ndarray, way: np.ndarray, look: Look,
            sun: Sun) -> None:
    """Adds what panes reflect, in place."""
    panes = _of(hits, 'glass', 'car_glass')
    if not len(panes):
        return
    normal = hits.normal[panes]
    cosine = np.clip(-(way[panes] * normal).sum(1), 0, 1)
    out = way[panes] + 2 * cosine[:, None] * normal
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)
    met = caster.cast(points[panes] + OFFSET * normal, out)
    light = _ambient(met.normal, sun, look) + np.clip(met.normal @ sun.direction, 0, 1)[:, None] * SUNLIGHT * (
        .6 * sun.strength)
    seen = np.where(met.hit[:, None], met.albedo * light, np.minimum(sky(out, look, sun), 1.3))
    fresnel = np.minimum(1.3 * (.04 + .96 * (1 - cosine) ** 5) + .08, .9)[:, None]
    result[panes] = result[panes] * (1 - fresnel) + seen * fresnel


# ---- night
def _head_lights(points: np.ndarray, hits: Hits, pose: np.ndarray, way: np.ndarray) -> np.ndarray:
    """(N, 3) light of the ego's head lights, 0.6 m below the camera."""
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    forward = pose[:3, 2] * [1, 1, 0]
    forward = forward / max(float(np.linalg.norm(forward)), 1e-6)
    origin = pose[:3, 3] - [0, 0, .6]
    off = points - origin
    ahead = np.maximum(off @ forward, .1)
    rise = np.rad2deg(np.arctan2(off[:, 2], ahead))
    beam = np.exp(-(local[:, 0] / ahead / .34) ** 2) * (1 / (1 + np.exp((rise - .6) * 2.2)) + .02)
    square = (off**2).sum(1)
    facing = np.clip(-(off * hits.normal).sum(1) / np.sqrt(np.maximum(square, 1e-6)), 0, 1)
    facing = np.where(np.isin(hits.part, [PART['road'], PART['marking'], PART['parking']]), .12 + facing, facing)
    strength = 160 * beam / (square + 25) * facing
    retro = np.where(hits.material == MATERIAL['retro'], 25 * beam / (1 + square / 900), 0)
    paint = np.where(hits.part == PART['marking'], 2.2, 1)           # glass beads send light back
    return ((strength * paint + retro)[:, None] * np.array([1, .95, .86])).astype(np.float32)


def _street_lamps(points: np.ndarray, normal: np.ndarray, lamps: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """(N, 3) light of the lamps, which have no shadows."""
    total = np.zeros(len(points), np.float32)
    ahead = (lamps - pose[:3, 3]) @ pose[:3, 2]
    for lamp in lamps[(ahead > -LAMP_REACH) & (ahead < 160)]:
        near = np.flatnonzero(((points[:, :2] - lamp[:2].astype(np.float32)) ** 2).sum(1) < LAMP_REACH**2)
        off = lamp.astype(np.float32) - points[near]
        square = (off**2).sum(1)
        unit = off / np.sqrt(np.maximum(square, 1e-6))[:, None]
        total[near] += 14 / (square + 4) * np.clip((unit * normal[near]).sum(1), 0, 1) * np.clip(unit[:, 2], 0, 1)
    return total[:, None] * WARM


def _glow(hits: Hits, points: np.ndarray, albedo: np.ndarray, lamps: np.ndarray) -> np.ndarray:
    """(N, 3) what shines by itself: lamps of vehicles on the move, signals, street lamps and some windows."""
    result = np.zeros((len(points), 3), np.float32)
    result[hits.moving & (hits.mark == MARK['head_lamp'])] = 7, 6.6, 5.6
    result[hits.moving & (hits.mark == MARK['tail_lamp'])] = 1.8, .06, .04
    result[(hits.material == MATERIAL['lamp']) & (hits.part == PART['sign'])] = 1.2, .10, .06
    poles = np.flatnonzero((hits.part == PART['pole']) & (hits.normal[:, 2] < .5))
    for lamp in lamps:
        close = ((points[poles] - lamp.astype(np.float32)) ** 2).sum(1) < .42**2
        result[poles[close]] = 6 * WARM
    panes = np.flatnonzero((hits.material == MATERIAL['glass']) & (hits.part == PART['building']))
    cell = np.floor(points[panes] / [3.1, 3.1, 2.9]).astype(np.int64) @ np.array([73_856_093, 19_349_663, 83_492_791])
    result[panes[(cell * 2_654_435_761 >> 7) % 100 < 14]] = .55, .38, .18
    return result


# ---- the camera's electronics
def develop(light: np.ndarray, size: tuple[int, int], look: Look, rng: np.random.Generator) -> np.ndarray:
    """A picture (H, W, 3) uint8 of the given size from light (h, w, 3): bloom, tone, gamma, vignette, noise.

    Args:
        light: linear RGB.
        size: (H, W) of the picture; the light is enlarged to it.
        look: for exposure and noise.
        rng: source of the noise.
    """
    kind = KINDS[look.kind]
    light = np.maximum(np.nan_to_num(light, nan=0.0, posinf=20.0), 0).astype(np.float32) * kind.exposure * look.exposure
    h, w = light.shape[:2]
    small = cv2.resize(np.maximum(light - 1.8, 0), (max(1, w // 4), max(1, h // 4)), interpolation=cv2.INTER_AREA)
    spread = max(1.0, w / 4 * .012)
    bloom = .6 * cv2.GaussianBlur(small, (0, 0), spread) + .4 * cv2.GaussianBlur(small, (0, 0), 4 * spread)
    strength = dict(glare=1.5, night=.7).get(look.kind, .5)
    light += strength * cv2.resize(bloom, (w, h), interpolation=cv2.INTER_LINEAR)
    picture = np.clip(1 - np.exp(-1.25 * light), 0, 1) ** np.float32(1 / 2.2)
    y, x = np.ogrid[-1:1:h * 1j, -1:1:w * 1j]
    picture *= (1 - .18 * (x**2 + y**2) / 2)[..., None].astype(np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), .45)
    grain = rng.standard_normal((h, w), dtype=np.float32) * kind.noise
    picture += grain[..., None] + .4 * kind.noise * rng.standard_normal((h, w, 3), dtype=np.float32)
    if (h, w) != tuple(size):
        picture = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_CUBIC)
    return (np.clip(picture, 0, 1) * 255 + .5).astype(np.uint8)
