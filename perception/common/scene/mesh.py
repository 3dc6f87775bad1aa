"""Triangle meshes that know of each triangle what it is, and a builder of them out of batches of primitives.

Local frames: origin on the ground under the centre, x forward, y left, z up, metres.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from perception.common.scene.labels import MARK, PART
from perception.common.scene.materials import MATERIAL

MOST_SHARING = 16         # faces at one vertex that smoothing looks at


@dataclass(frozen=True)
class Mesh:
    """Triangles with a material, a colour, a part and an instance each.

    Attributes:
        vertices: (V, 3) float32, metres.
        faces: (F, 3) int32 vertex indices.
        material: (F,) uint8, index into `MATERIALS`.
        albedo: (F, 3) float32 linear RGB in [0, 1].
        part: (F,) int16, index into `PARTS`.
        instance: (F,) int32, 0 for what is no single thing.
        mark: (F,) uint8, index into `MARKS`: which paint or lamp it is.
    """
    vertices: np.ndarray
    faces: np.ndarray
    material: np.ndarray
    albedo: np.ndarray
    part: np.ndarray
    instance: np.ndarray
    mark: np.ndarray

    def moved(self, pose: np.ndarray, scale: float = 1.0) -> Mesh:
        """A copy scaled and then moved by a 4x4 pose."""
        matrix = (pose[:3, :3] * scale).T.astype(np.float32)
        return replace(self, vertices=self.vertices @ matrix + pose[:3, 3].astype(np.float32))

    def tagged(self, instance: int) -> Mesh:
        """A copy whose triangles all belong to one instance."""
        return replace(self, instance=np.full(len(self.faces), instance, np.int32))

    def recoloured(self, material: str, albedo: Sequence[float]) -> Mesh:
        """A copy where the triangles of a material have another colour."""
        colours = self.albedo.copy()
        colours[self.material == MATERIAL[material]] = albedo
        return replace(self, albedo=colours)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner, (3,) each."""
        return self.vertices.min(0), self.vertices.max(0)


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of all, in their order."""
    if not meshes:
        return MeshBuilder().build()
    start = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    faces = np.concatenate([mesh.faces + np.int32(first) for mesh, first in zip(meshes, start)])
    rest = {name: np.concatenate([getattr(mesh, name) for mesh in meshes])
            for name in ('vertices', 'material', 'albedo', 'part', 'instance', 'mark')}
    return Mesh(faces=faces, **rest)


@cache
def grid_faces(rows: int, columns: int, closed: bool = False) -> np.ndarray:
    """Two triangles per cell of a (rows, columns) vertex grid; `closed` joins the last column to the first."""
    across = columns if closed else columns - 1
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(across), indexing='ij')
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = a + columns, b + columns
    return np.stack([np.stack([a, b, d], -1), np.stack([a, d, c], -1)], 2).reshape(-1, 3).astype(np.int32)


@cache
def fan_faces(count: int, first: int = 0) -> np.ndarray:
    """Triangles of a convex polygon with `count` corners."""
    k = np.arange(1, count - 1)
    return (np.stack([np.zeros_like(k), k, k + 1], -1) + first).astype(np.int32)


@cache
def _tube_template(sides: int, caps: bool) -> tuple[np.ndarray, np.ndarray]:
    """Unit circle (sides, 2) and the faces between two of them."""
    angle = 2 * np.pi * np.arange(sides) / sides
    faces = [grid_faces(2, sides, closed=True)]
    if caps:
        faces += [fan_faces(sides), fan_faces(sides, sides)]
    return np.stack([np.cos(angle), np.sin(angle)], -1), np.concatenate(faces)


@cache
def _ball_template(nu: int, nv: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit sphere of nv rings of nu vertices."""
    u, v = 2 * np.pi * np.arange(nu) / nu, np.pi * np.arange(nv) / (nv - 1)
    ring = np.stack([np.cos(u), np.sin(u), np.zeros(nu)], -1)
    points = np.sin(v)[:, None, None] * ring + np.cos(v)[:, None, None] * np.array([0, 0, 1.0])
    return points.reshape(-1, 3), grid_faces(nv, nu, closed=True)


_BOX = np.array([[x, y, z] for z in (0, 1) for x, y in ((-.5, -.5), (.5, -.5), (.5, .5), (-.5, .5))])
_BOX_FACES = np.concatenate([grid_faces(2, 4, closed=True), fan_faces(4), fan_faces(4, 4)])


def perpendicular(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors (N, 3) at right angles to each axis (N, 3) and to each other."""
    axis = axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-12)
    other = np.where(np.abs(axis[:, 2:]) < .9, np.array([0, 0, 1.0]), np.array([1.0, 0, 0]))
    first = _cross(axis, other)
    first /= np.maximum(np.linalg.norm(first, axis=-1, keepdims=True), 1e-12)
    return first, _cross(axis, first)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """np.cross of (N, 3) and (N, 3), without what that spends on other shapes: several times as fast for a few rows."""
    result = np.empty_like(a)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        np.subtract(a[:, j] * b[:, k], a[:, k] * b[:, j], out=result[:, i])
    return result


class MeshBuilder:
    """Collects batches of primitives; every method takes one primitive or N at once."""

    def __init__(self) -> None:
        self._vertices, self._faces, self._tags, self._albedo = [], [], [], []
        self._count = 0

    def add(self, vertices: np.ndarray, faces: np.ndarray, material: str, albedo: Sequence[float], part: str,
            mark: str = 'none') -> None:
        """Adds N copies of a topology.

        Args:
            vertices: (N, M, 3) or (M, 3).
            faces: (F, 3) indices into one copy's M vertices.
            material: name in `MATERIALS`.
            albedo: (3,) or (N, 3) linear RGB.
            part: name in `PARTS`.
            mark: name in `MARKS`.
        """
        vertices = np.asarray(vertices, np.float32)
        vertices = vertices.reshape(-1, *vertices.shape[-2:])
        copies, size = vertices.shape[:2]
        offset = self._count + size * np.arange(copies, dtype=np.int32)
        self._vertices.append(vertices.reshape(-1, 3))
        self._faces.append((faces[None] + offset[:, None, None]).reshape(-1, 3).astype(np.int32))
        colours = np.broadcast_to(np.asarray(albedo, np.float32), (copies, 3))
        self._albedo.append(np.repeat(colours, len(faces), axis=0))
        self._tags.append((len(faces) * copies, MATERIAL[material], PART[part], MARK[mark]))
        self._count += copies * size

    def boxes(self, base: np.ndarray, size: np.ndarray, material: str, albedo: Sequence[float], part: str,
              yaw: float | np.ndarray = 0.0, taper: float = 1.0, mark: str = 'none') -> None:
        """Boxes on the bottom centres `base` (N, 3) with edges `size` (N, 3); the top is narrower by `taper`."""
        base, size = np.atleast_2d(base), np.atleast_2d(size)
        count = max(len(base), len(size))
        base = np.broadcast_to(base, (count, 3))
        points = _BOX * size[:, None, :]
        points = points * np.where(_BOX[:, 2:] > 0, [taper, taper, 1.0], 1.0)
        cos, sin = (np.broadcast_to(f(yaw), (count,))[:, None] for f in (np.cos, np.sin))
        x, y = points[..., 0], points[..., 1]
        points = np.stack([cos * x - sin * y, sin * x + cos * y, np.broadcast_to(points[..., 2], (count, 8))], -1)
        self.add(points + base[:, None], _BOX_FACES, material, albedo, part, mark)

    def tubes(self, start: np.ndarray, end: np.ndarray, radius: float | np.ndarray, material: str,
              albedo: Sequence[float], part: str, end_radius: float | np.ndarray | None = None, sides: int = 6,
              caps: bool = True) -> None:
        """Round rods from `start` (N, 3) to `end` (N, 3), conical when the radii differ."""
        start, end = np.atleast_2d(np.asarray(start, float)), np.atleast_2d(np.asarray(end, float))
        start, end = np.broadcast_arrays(start, end)
        circle, faces = _tube_template(sides, caps)
        first, second = perpendicular(end - start)
        ring = circle[None, :, :1] * first[:, None] + circle[None, :, 1:] * second[:, None]
        r0 = np.broadcast_to(radius, (len(start),))[:, None, None]
        r1 = r0 if end_radius is None else np.broadcast_to(end_radius, (len(start),))[:, None, None]
        points = np.concatenate([start[:, None] + r0 * ring, end[:, None] + r1 * ring], 1)
        self.add(points, faces, material, albedo, part)

    def balls(self, centre: np.ndarray, radii: float | np.ndarray, material: str, albedo: Sequence[float], part: str,
              nu: int = 8, nv: int = 6) -> None:
        """Ellipsoids around `centre` (N, 3) with radii of shape (), (3,) or (N, 3)."""
        points, faces = _ball_template(nu, nv)
        centre = np.atleast_2d(centre)
        radii = np.broadcast_to(radii, centre.shape)
        self.add(centre[:, None] + radii[:, None] * points, faces, material, albedo, part)

    def quads(self, corners: np.ndarray, material: str, albedo: Sequence[float], part: str,
              mark: str = 'none') -> None:
        """Quadrilaterals of corners (N, 4, 3), in order around."""
        self.add(corners, fan_faces(4), material, albedo, part, mark)

    def loft(self, sections: np.ndarray, material: str, albedo: Sequence[float], part: str) -> None:
        """Skin over S closed sections of M points each, (S, M, 3), with both ends shut."""
        rows, columns = sections.shape[:2]
        faces = np.concatenate([grid_faces(rows, columns, closed=True), fan_faces(columns),
                                fan_faces(columns, (rows - 1) * columns)])
        self.add(sections.reshape(-1, 3), faces, material, albedo, part)

    def leaves(self, centre: np.ndarray, normal: np.ndarray, size: float, albedo: np.ndarray, turn: np.ndarray,
               part: str = 'vegetation', material: str = 'leaf') -> None:
        """Single triangles around `centre` (N, 3), facing `normal` (N, 3), turned by `turn` (N,) in their plane."""
        first, second = perpendicular(normal)
        angle = turn[:, None] + 2 * np.pi / 3 * np.arange(3)
        points = np.cos(angle)[..., None] * first[:, None] + np.sin(angle)[..., None] * second[:, None]
        self.add(centre[:, None] + size * points, fan_faces(3), material, albedo, part)

    def build(self, instance: int = 0) -> Mesh:
        """The mesh of everything added so far."""
        if not self._vertices:
            return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros(0, np.uint8),
                        np.zeros((0, 3), np.float32), np.zeros(0, np.int16), np.zeros(0, np.int32),
                        np.zeros(0, np.uint8))
        counts, material, part, mark = np.array(self._tags).T
        return Mesh(np.concatenate(self._vertices), np.concatenate(self._faces),
                    np.repeat(material.astype(np.uint8), counts), np.concatenate(self._albedo),
                    np.repeat(part.astype(np.int16), counts), np.full(counts.sum(), instance, np.int32),
                    np.repeat(mark.astype(np.uint8), counts))


def smooth_normals(mesh: Mesh, crease: float = 45.0) -> np.ndarray:
    """Normals at the corners of a mesh's faces: rounded, except over edges sharper than `crease` degrees.

    Each corner takes the area-weighted mean normal of the faces that share its vertex and are turned by less.

    Returns:
        (F, 3, 3) float32, one unit normal per corner.
    """
    corners = mesh.vertices[mesh.faces]
    weighted = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).astype(np.float32)
    unit = weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-12)
    order = np.argsort(mesh.faces.reshape(-1), kind='stable')
    vertex, face = mesh.faces.reshape(-1)[order], order // 3
    total = weighted[face]
    for step in range(1, MOST_SHARING):
        pair = np.flatnonzero(vertex[step:] == vertex[:-step])
        if not len(pair):
            break
        pair = pair[(unit[face[pair]] * unit[face[pair + step]]).sum(1) > np.cos(np.deg2rad(crease))]
        total[pair] += weighted[face[pair + step]]
        total[pair + step] += weighted[face[pair]]
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    result = np.empty((len(mesh.faces) * 3, 3), np.float32)
    result[order] = total
    return result.reshape(-1, 3, 3)
