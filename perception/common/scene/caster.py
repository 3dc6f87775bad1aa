"""Rays against the world: the nearest triangle of the street or of the actors, and what it is."""
from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from perception.common.scene.mesh import Mesh, smooth_normals
from perception.utils.optional import import_optional


class Hits(NamedTuple):
    """What N rays met; rows of misses hold zeros.

    Attributes:
        hit: (N,) bool.
        distance: (N,) float32, in lengths of the ray's direction.
        cosine: (N,) float32, |cos| of the angle of incidence.
        material: (N,) uint8.
        albedo: (N, 3) float32.
        part: (N,) int16.
        instance: (N,) int32.
        mark: (N,) uint8, index into `MARKS`.
        normal: (N, 3) float32 unit normals against the ray; rounded on things with an identity if asked for.
        moving: (N,) bool, whether the ray met one of the actors.
    """
    hit: np.ndarray
    distance: np.ndarray
    cosine: np.ndarray
    material: np.ndarray
    albedo: np.ndarray
    part: np.ndarray
    instance: np.ndarray
    mark: np.ndarray
    normal: np.ndarray
    moving: np.ndarray


class _Layer:
    """A mesh, its scene and, once somebody asked, the corner normals of its things with an identity."""

    def __init__(self, mesh: Mesh, scene, moving: bool) -> None:
        self.mesh, self.scene, self.moving = mesh, scene, moving

    @cached_property
    def corner_normals(self) -> tuple[np.ndarray, np.ndarray]:
        """(F,) row of each face in the second array, -1 for flat ones; (K, 3, 3) corner normals."""
        things = np.flatnonzero(self.mesh.instance)
        row = np.full(len(self.mesh.faces), -1, np.int64)
        row[things] = np.arange(len(things))
        return row, smooth_normals(replace(self.mesh, faces=self.mesh.faces[things]))


class Caster:
    """Casts rays into a static mesh, committed once, and a mesh of actors, replaced for each moment.

    Two scenes, because adding to a committed scene rebuilds all of it. Nothing of the result depends on the number
    of threads.

    Args:
        static: the mesh that never changes.
        threads: threads of the ray caster, 0 for as many as there are cores.
        lamps: (L, 3) positions of the street lamps, which a camera sees by night.
    """

    def __init__(self, static: Mesh, threads: int = 0, lamps: np.ndarray | None = None) -> None:
        self._core = import_optional('open3d', 'casting rays into the toy world', 'pip install open3d').core
        self._scene_class = import_optional('open3d.t.geometry', 'casting rays into the toy world',
                                            'pip install open3d').RaycastingScene
        self._threads = threads
        self.lamps = np.zeros((0, 3)) if lamps is None else lamps
        self._layers = [_Layer(static, self._scene(static), False)]

    def set_actors(self, mesh: Mesh) -> None:
        """Replaces what moves."""
        self._layers[1:] = [_Layer(mesh, self._scene(mesh), True)] if len(mesh.faces) else []

    def _scene(self, mesh: Mesh):
        scene = self._scene_class(nthreads=self._threads)
        if len(mesh.faces):
            scene.add_triangles(self._core.Tensor(np.ascontiguousarray(mesh.vertices, np.float32)),
                                self._core.Tensor(np.ascontiguousarray(mesh.faces, np.uint32)))
        return scene

    def cast(self, origin: np.ndarray, direction: np.ndarray, smooth: bool = False) -> Hits:
        """Nearest hits of rays.

        Args:
            origin: (N, 3) metres.
            direction: (N, 3).
            smooth: whether vehicles and people get rounded normals, as a camera needs them.
        """
        rays = self._core.Tensor(np.concatenate([origin, direction], 1, dtype=np.float32))
        first, *others = self._layers
        best = _lookup(first, _answer(first, rays), direction, smooth)
        for layer in others:
            answer = _answer(layer, rays)
            nearer = np.flatnonzero(answer['t_hit'] < np.where(best.hit, best.distance, np.inf))
            found = _lookup(layer, {name: values[nearer] for name, values in answer.items()}, direction[nearer], smooth)
            for field, new in zip(best, found):
                field[nearer] = new
        return best

    def occluded(self, origin: np.ndarray, direction: np.ndarray, reach: float = np.inf) -> np.ndarray:
        """(N,) bool, whether anything stands on the rays within `reach` lengths of their directions."""
        rays = self._core.Tensor(np.concatenate([origin, direction], 1, dtype=np.float32))
        hidden = np.zeros(len(origin), bool)
        for layer in self._layers:
            hidden |= layer.scene.test_occlusions(rays, 0.0, float(reach)).numpy()
        return hidden

    def pierced(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All things with an identity on rays, hidden ones too.

        Args:
            origin: (N, 3) metres.
            direction: (N, 3).

        Returns:
            (M,) which ray and (M,) which instance it meets, each pair once.
        """
        rays = self._core.Tensor(np.concatenate([origin, direction], 1, dtype=np.float32))
        pairs = [np.zeros((0, 2), np.int64)]
        for layer in self._layers:
            found = layer.scene.list_intersections(rays)
            instance = layer.mesh.instance[found['primitive_ids'].numpy().astype(np.int64)]
            pairs.append(np.stack([found['ray_ids'].numpy().astype(np.int64), instance], -1)[instance > 0])
        ray, instance = np.unique(np.concatenate(pairs), axis=0).T
        return ray, instance


def visible_rays(caster: Caster, things: Caster, origin: np.ndarray, direction: np.ndarray,
                 count: int) -> tuple[np.ndarray, np.ndarray]:
    """How many rays meet each thing in the world, and how many would if it stood there alone.

    Args:
        caster: the world at this moment.
        things: a caster into the meshes of the things, with the instances that they have in the world.
        origin: (3,) where the rays start.
        direction: (N, 3).
        count: one more than the largest instance id.

    Returns:
        (count,) rays that see each instance and (count,) rays that would.
    """
    starts = np.broadcast_to(origin.astype(np.float32), direction.shape)
    ray, instance = things.pierced(starts, direction)
    alone = np.bincount(instance, minlength=count)
    ray = np.unique(ray)
    seen = caster.cast(starts[ray], direction[ray]).instance
    return np.where(alone, np.bincount(seen, minlength=count), 0), alone


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) dot products of rows (N, 3); the same to the bit as sum(1) and several times faster."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _answer(layer: _Layer, rays) -> dict[str, np.ndarray]:
    """What the nearest triangle of each ray is, as arrays."""
    return {name: values.numpy() for name, values in layer.scene.cast_rays(rays).items()}


def _lookup(layer: _Layer, answer: dict[str, np.ndarray], direction: np.ndarray, smooth: bool) -> Hits:
    mesh = layer.mesh
    distance = answer['t_hit']
    hit = np.isfinite(distance)
    face = np.where(hit, answer['primitive_ids'], 0).astype(np.int64)
    normal = answer['primitive_normals']
    if not len(mesh.faces):
        count, flat = len(hit), np.zeros((len(hit), 3), np.float32)
        return Hits(hit, flat[:, 0].copy(), flat[:, 0].copy(), *(
            np.zeros((count, *tag.shape[1:]), tag.dtype)
            for tag in (mesh.material, mesh.albedo, mesh.part, mesh.instance, mesh.mark)), flat, hit.copy())
    length = np.maximum(np.sqrt(_dot(direction, direction)) * np.sqrt(_dot(normal, normal)), 1e-12)
    along = _dot(normal, direction) / length
    tags = (np.where(hit.reshape(-1, *[1] * (tag.ndim - 1)), tag[face], tag.dtype.type(0))
            for tag in (mesh.material, mesh.albedo, mesh.part, mesh.instance, mesh.mark))
    normal = normal * np.where(along > 0, np.float32(-1), np.float32(1))[:, None]
    if smooth:
        normal = _rounded(layer, face, hit, answer['primitive_uvs'], normal)
    return Hits(hit, np.where(hit, distance, np.float32(0)), np.where(hit, np.abs(along), 0).astype(np.float32), *tags,
                np.where(hit[:, None], normal, np.float32(0)), hit & layer.moving)


def _rounded(layer: _Layer, face: np.ndarray, hit: np.ndarray, uv: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Normals (N, 3), on things interpolated between the corners of their triangles, on the same side as `normal`."""
    rows, corners = layer.corner_normals
    row = rows[face]
    some = np.flatnonzero(hit & (row >= 0))
    weight = np.stack([1 - uv[some].sum(1), uv[some, 0], uv[some, 1]], -1)[..., None]
    blend = (corners[row[some]] * weight).sum(1)
    blend *= np.where(_dot(blend, normal[some])[:, None] < 0, np.float32(-1), np.float32(1))
    normal = normal.copy()
    normal[some] = blend / np.maximum(np.sqrt(_dot(blend, blend))[:, None], 1e-6)
    return normal
