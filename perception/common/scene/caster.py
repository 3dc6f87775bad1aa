"""Rays against the world: the nearest triangle of the street or of the actors, and what it is."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from perception.common.scene.mesh import Mesh
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
    """
    hit: np.ndarray
    distance: np.ndarray
    cosine: np.ndarray
    material: np.ndarray
    albedo: np.ndarray
    part: np.ndarray
    instance: np.ndarray


class Caster:
    """Casts rays into a static mesh, committed once, and a mesh of actors, replaced for each moment.

    Two scenes, because adding to a committed scene rebuilds all of it. Nothing of the result depends on the number
    of threads.

    Args:
        static: the mesh that never changes.
        threads: threads of the ray caster, 0 for as many as there are cores.
    """

    def __init__(self, static: Mesh, threads: int = 0) -> None:
        self._core = import_optional('open3d', 'casting rays into the toy world', 'pip install open3d').core
        self._scene_class = import_optional('open3d.t.geometry', 'casting rays into the toy world',
                                            'pip install open3d').RaycastingScene
        self._threads = threads
        self._layers = [(static, self._scene(static))]

    def set_actors(self, mesh: Mesh) -> None:
        """Replaces what moves."""
        self._layers[1:] = [(mesh, self._scene(mesh))] if len(mesh.faces) else []

    def _scene(self, mesh: Mesh):
        scene = self._scene_class(nthreads=self._threads)
        if len(mesh.faces):
            scene.add_triangles(self._core.Tensor(np.ascontiguousarray(mesh.vertices, np.float32)),
                                self._core.Tensor(np.ascontiguousarray(mesh.faces, np.uint32)))
        return scene

    def cast(self, origin: np.ndarray, direction: np.ndarray) -> Hits:
        """Nearest hits of rays.

        Args:
            origin: (N, 3) metres.
            direction: (N, 3).
        """
        rays = self._core.Tensor(np.concatenate([origin, direction], 1, dtype=np.float32))
        best = None
        for mesh, scene in self._layers:
            answer = scene.cast_rays(rays)
            found = _lookup(mesh, answer, direction)
            best = found if best is None else _nearer(best, found)
        return best


def _lookup(mesh: Mesh, answer: dict, direction: np.ndarray) -> Hits:
    distance = answer['t_hit'].numpy()
    hit = np.isfinite(distance)
    face = np.where(hit, answer['primitive_ids'].numpy(), 0).astype(np.int64)
    normal = answer['primitive_normals'].numpy()
    length = np.maximum(np.linalg.norm(direction, axis=1) * np.linalg.norm(normal, axis=1), 1e-12)
    cosine = np.abs((normal * direction).sum(1)) / length
    if not len(mesh.faces):
        empty = np.zeros(len(hit), np.int32)
        return Hits(hit, np.zeros(len(hit), np.float32), empty, empty, np.zeros((len(hit), 3)), empty, empty)
    tags = (np.where(hit.reshape(-1, *[1] * (tag.ndim - 1)), tag[face], tag.dtype.type(0))
            for tag in (mesh.material, mesh.albedo, mesh.part, mesh.instance))
    return Hits(hit, np.where(hit, distance, np.float32(0)), np.where(hit, cosine, 0).astype(np.float32), *tags)


def _nearer(a: Hits, b: Hits) -> Hits:
    take_b = b.hit & (~a.hit | (b.distance < a.distance))
    return Hits(*(np.where(take_b.reshape(-1, *[1] * (x.ndim - 1)), y, x) for x, y in zip(a, b)))
