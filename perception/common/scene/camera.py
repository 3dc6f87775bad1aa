"""Cameras in the toy world: pictures, and exact maps of what each pixel shows.

Camera frames are x right, y down, z forward. An image's corner is (0, 0) and the centre of pixel (row i, column j) is
(j + .5, i + .5).
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from perception.common.scene.caster import Caster, Hits
from perception.common.scene.shading import Look, Sun, ambient_occlusion, develop, radiance, sky
from perception.utils.errors import ConfigError

EDGE_SAMPLES = np.array([[-.25, -.375], [.375, -.125], [-.375, .25], [.125, .375]])     # more rays at edges, in pixels
NEAR = .3           # metres before the camera below which points have no place in the image


@dataclass(frozen=True)
class CameraSpec:
    """A camera on the ego vehicle.

    Attributes:
        width, height: pixels of its images.
        focal: pixels.
        height_above_ground: metres.
        pitch: degrees, negative when it looks down; the horizon lies at row `centre[1] + focal * tan(pitch)`.
        forward: metres before the ego's ground point.
        centre: principal point from the image's corner, pixels; the middle of the image when None.
        scale: images are rendered at this share of their size and enlarged; pictures take time with its square.
        first_row: above it an image shows only sky: nothing is cast for rows that a data set cuts off.
        smooth: whether vehicles and people are rounded; in small images nobody sees it.
    """
    width: int
    height: int
    focal: float
    height_above_ground: float
    pitch: float
    forward: float = 1.5
    centre: tuple[float, float] | None = None
    scale: float = .5
    first_row: int = 0
    smooth: bool = True

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 8 or self.focal <= 0 or not 0 < self.scale <= 1 or \
                not 0 <= self.first_row < self.height:
            raise ConfigError(f'CameraSpec: {self}, expected at least 8 x 8 pixels, a positive focal length, a scale '
                              'in (0, 1] and a top row inside the image. Give numbers in these ranges.')

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) intrinsics, from the image's corner."""
        cx, cy = self.centre or (self.width / 2, self.height / 2)
        return np.array([[self.focal, 0, cx], [0, self.focal, cy], [0, 0, 1.0]])

    def scaled(self, share: float) -> CameraSpec:
        """The same camera with images of `share` of the size, rendered as large as they are."""
        cx, cy = self.matrix[:2, 2]
        return replace(self, width=round(self.width * share), height=round(self.height * share),
                       focal=self.focal * share, centre=(cx * share, cy * share), scale=1.0,
                       first_row=int(self.first_row * share))


# the data sets publish no calibration; focal lengths and horizons as their pictures suggest
CULANE = CameraSpec(1640, 590, 1240, 1.45, -1.5)
TUSIMPLE = CameraSpec(1280, 720, 1000, 1.6, -6)
BDD100K = CameraSpec(1280, 720, 1000, 1.4, -1)
LLAMAS = CameraSpec(1276, 717, 1050, 1.4, -3.2)
APOLLOSCAPE = CameraSpec(3384, 2710, 2300, 1.7, 6.5, forward=1.8, scale=.25, first_row=1700)


class Frame(NamedTuple):
    """A picture and what it shows, all at the size of the spec.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        part: (H, W) int16 part ids, 0 for sky.
        instance: (H, W) int32, 0 for what is no single thing.
        depth: (H, W) float32 metres along the optical axis, 0 for sky.
        mark: (H, W) uint8 index into `labels.MARKS`: which paint or lamp, 0 for none.
    """
    image: np.ndarray
    part: np.ndarray
    instance: np.ndarray
    depth: np.ndarray
    mark: np.ndarray


class Maps(NamedTuple):
    """What each pixel shows, as in `Frame`."""
    part: np.ndarray
    instance: np.ndarray
    depth: np.ndarray
    mark: np.ndarray


def camera_pose(ego: np.ndarray, spec: CameraSpec, roll: float = 0.0, pitch: float = 0.0) -> np.ndarray:
    """4x4 pose (camera to world) of a camera on the ego.

    Args:
        ego: 4x4 pose of the ego's ground point, x forward, z up.
        spec: the camera.
        roll, pitch: degrees by which the vehicle shakes, on top of the spec.
    """
    tilt, lean = np.deg2rad(spec.pitch + pitch), np.deg2rad(roll)
    axes = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])       # columns: right, down, forward in the ego's frame
    about_right = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    about_forward = np.array([[np.cos(lean), -np.sin(lean), 0], [np.sin(lean), np.cos(lean), 0], [0, 0, 1]])
    mount = np.eye(4)
    mount[:3, :3] = axes @ about_right @ about_forward
    mount[:3, 3] = spec.forward, 0, spec.height_above_ground
    return ego @ mount


def project(points: np.ndarray, pose: np.ndarray, spec: CameraSpec) -> tuple[np.ndarray, np.ndarray]:
    """World points (N, 3) to u, v (N, 2) from the image's corner and depths (N,) [m] along the optical axis.

    Points less than `NEAR` before the camera have no place in the image: theirs are those of that depth.
    """
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    depth = local[:, 2]
    return (local[:, :2] / np.maximum(depth, NEAR)[:, None]) * spec.focal + spec.matrix[:2, 2], depth


def pixel_rays(pose: np.ndarray, spec: CameraSpec, v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Unit directions (N, 3) float32 in the world through rows v and columns u (N,), from the image's corner."""
    cx, cy = spec.matrix[:2, 2]
    local = np.stack([(u - cx) / spec.focal, (v - cy) / spec.focal, np.ones(len(u))], 1)
    local /= np.linalg.norm(local, axis=1, keepdims=True)
    return (local @ pose[:3, :3].T).astype(np.float32)


def _rays(spec: CameraSpec, scale: float) -> tuple[tuple[int, int], int, np.ndarray]:
    """Size (h, w) at a scale, the first row to cast, and points (h, w, 2) of its pixels in full-size pixels."""
    h, w = max(1, round(spec.height * scale)), max(1, round(spec.width * scale))
    u, v = np.meshgrid((np.arange(w) + .5) * (spec.width / w), (np.arange(h) + .5) * (spec.height / h))
    return (h, w), int(spec.first_row * h / spec.height), np.stack([u, v], -1)


def _directions(pixels: np.ndarray, spec: CameraSpec, pose: np.ndarray) -> np.ndarray:
    return pixel_rays(pose, spec, pixels[..., 1].reshape(-1), pixels[..., 0].reshape(-1))


def label_maps(caster: Caster, pose: np.ndarray, spec: CameraSpec, scale: float = 1.0) -> Maps:
    """What each pixel shows, (H, W) of the full-size image, without the picture; cast at `scale` and enlarged to it."""
    size, top, pixels = _rays(spec, scale)
    direction = _directions(pixels[top:], spec, pose)
    hits = caster.cast(_origins(pose, len(direction)), direction)
    return _maps(hits, direction, pose, spec, size, top)


def _origins(pose: np.ndarray, count: int) -> np.ndarray:
    return np.broadcast_to(pose[:3, 3].astype(np.float32), (count, 3))


def _maps(hits: Hits, direction: np.ndarray, pose: np.ndarray, spec: CameraSpec, size: tuple[int, int],
          top: int) -> Maps:
    depth = hits.distance * (direction @ pose[:3, 2].astype(np.float32))
    return Maps(*(_enlarged(values, spec, size, top) for values in (hits.part, hits.instance, depth, hits.mark)))


def _enlarged(values: np.ndarray, spec: CameraSpec, size: tuple[int, int], top: int) -> np.ndarray:
    """Values (N,) of the cast rows as a map of the full size; rows above are 0."""
    full = np.zeros(size, values.dtype)
    full[top:] = values.reshape(-1, size[1])
    if size == (spec.height, spec.width):
        return full
    rows = ((np.arange(spec.height) + .5) * size[0] / spec.height).astype(int)
    columns = ((np.arange(spec.width) + .5) * size[1] / spec.width).astype(int)
    return full[rows][:, columns]


def render(caster: Caster, pose: np.ndarray, spec: CameraSpec, look: Look, rng: np.random.Generator) -> Frame:
    """A picture of the world and what it shows.

    Args:
        caster: the world at this moment.
        pose: 4x4 pose of the camera, see `camera_pose`.
        spec: the camera; rendered at `spec.scale`, then enlarged: labels must come from geometry, not from pixels.
        look: light and weather.
        rng: source of the noise.
    """
    size, top, pixels = _rays(spec, spec.scale)
    direction = _directions(pixels, spec, pose)
    sun, cut = Sun.of(look, pose), top * size[1]
    lower = direction[cut:]
    hits = caster.cast(_origins(pose, len(lower)), lower, smooth=spec.smooth)
    open_sky = ambient_occlusion(caster, hits, pose[:3, 3], lower, size[1], rng)
    colour = np.concatenate([sky(direction[:cut], look, sun),
                             radiance(caster, hits, pose, lower, look, sun, open_sky)])
    edges = _edges(hits, size[1])
    if len(edges):
        factor = np.array([spec.width / size[1], spec.height / size[0]])
        around = (pixels.reshape(-1, 2)[edges + cut][:, None] + EDGE_SAMPLES * factor)
        more = _directions(around, spec, pose)
        found = caster.cast(_origins(pose, len(more)), more, smooth=spec.smooth)
        extra = radiance(caster, found, pose, more, look, sun, np.repeat(open_sky[edges], len(EDGE_SAMPLES)))
        colour[edges + cut] = (colour[edges + cut] + extra.reshape(len(edges), -1, 3).sum(1)) / (1 + len(EDGE_SAMPLES))
    picture = develop(colour.reshape(*size, 3), (spec.height, spec.width), look, rng)
    return Frame(picture, *_maps(hits, lower, pose, spec, size, top))


def _edges(hits: Hits, width: int) -> np.ndarray:
    """Indices of pixels that differ from a neighbour in what they show."""
    facing = np.rint(hits.normal * 2).astype(np.int64) @ np.array([1, 7, 49]) + 60
    code = (hits.part.astype(np.int64) * 64 + hits.material) * 128 + facing
    code = (code * 4096 + hits.instance).reshape(-1, width)
    edge = np.zeros(code.shape, bool)
    for axis in (0, 1):
        differs = np.diff(code, axis=axis) != 0
        edge[:-1 if axis == 0 else None, :-1 if axis == 1 else None] |= differs
        edge[1 if axis == 0 else 0:, 1 if axis == 1 else 0:] |= differs
    return np.flatnonzero(edge)
