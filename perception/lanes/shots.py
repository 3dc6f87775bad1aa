"""Photographs of toy streets for the mini data sets, and the lane boundaries in them as an annotator would follow them.

A `Plan` names one street and the images to take there; `take` builds the street, places the ego, renders, traces the
boundaries and hands each `View` to a function that writes the files of one data set. Streets are taken in parallel.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perception.common.scene.camera import CameraSpec, Frame, camera_pose, project, render
from perception.common.scene.labels import PART
from perception.common.scene.mesh import Mesh, MeshBuilder, merge
from perception.common.scene.paint import COLOURS, HEIGHT
from perception.common.scene.shading import draw_look
from perception.common.scene.street import JUNCTION, LaneBoundary, Street
from perception.common.scene.workers import write_streets
from perception.common.scene.world import World, build_world

STEP = .25              # metres between the samples of a boundary
NEAR, FAR = 1.5, 100.0  # metres ahead of the camera between which boundaries are followed
HEADWAY = (-6.0, 22.0)  # metres behind and ahead in the ego's lane that stay free, as from a careful driver
BESIDE = 8.0            # metres before and behind the ego that stay free in the lanes beside it
MIN_VISIBLE = .25       # share of a boundary that nothing may hide
MIN_EXTENT = 40         # rows that a boundary must cover
GAP = 16.0              # metres of a block, next to a junction, that have no lane lines
ROOM = 30.0             # metres of paint ahead of the ego
AHEAD = dict(junction=(JUNCTION + 7, 5.0), approach=(JUNCTION + 33, 8.0))    # metres to the junction, more or less
SHAKE = .3              # degrees, standard deviation of the ego's pitch and roll


@dataclass(frozen=True)
class Plan:
    """One street and the images to take on it.

    Attributes:
        seed: of the street; no two plans of a data set share it.
        names: one for each image, as the writer of the data set understands it.
        style: of the street, see `street.STYLES`.
        look: light and weather, a name of `shading.KINDS`.
        place: where the ego is: `'lane'` on open road in any lane of its direction, `'change'` between two lanes,
            `'curve'` where the street bends most, `'arrow'` with arrows ahead, `'approach'` where the lane lines end
            before a junction, `'junction'` just before it. On a street without junctions the last two are `'lane'`.
        traffic: factor on vehicles and people.
        max_curvature: 1/metres, the style's when None.
        length: metres of street.
        painted: whether the lane lines are painted; if not, the labels are there all the same.
        special_marks, crowd: see `build_world`.
    """
    seed: tuple[int, ...]
    names: tuple[str, ...]
    style: str = 'urban'
    look: str = 'day'
    place: str = 'lane'
    traffic: float = 1.0
    max_curvature: float | None = None
    length: float = 260.0
    painted: bool = True
    special_marks: bool = False
    crowd: bool = False


class Trace(NamedTuple):
    """One lane boundary in an image, from near to far, a sample every `STEP` metres.

    Attributes:
        points: (P, 2) u, v in pixels of the official image, (0, 0) being the middle of its first pixel; v decreases.
        world: (P, 3) metres.
        visible: (P,) whether the sample is in the image and nothing hides it.
        s: (P,) metres along the street.
        line: the record of the boundary.
    """
    points: np.ndarray
    world: np.ndarray
    visible: np.ndarray
    s: np.ndarray
    line: LaneBoundary

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Column at each row, NaN where the boundary does not reach."""
        v, u = self.points[::-1, 1], self.points[::-1, 0]
        return np.interp(rows, v, u, left=np.nan, right=np.nan)


class View(NamedTuple):
    """One image and what is known about it.

    Attributes:
        frame: image and maps at the official size, rendered at `detail` of it.
        traces: painted lane boundaries that can be followed, from left to right at the lower end.
        world, caster: the street at this moment.
        pose: of the camera.
        spec: the camera at the official size.
        s: metres along the street of the ego.
    """
    frame: Frame
    traces: list[Trace]
    world: World
    caster: Any
    pose: np.ndarray
    spec: CameraSpec
    s: float


Save = Callable[[Path, str, View], Any]      # writes the files of an image, returns what lists need


def take_all(plans: Sequence[Plan], spec: CameraSpec, detail: float, save: Save, root: Path, workers: int,
             title: str) -> list[list]:
    """Takes the images of all plans.

    Args:
        plans: the streets.
        spec: camera at the official size.
        detail: share of the official width at which images are rendered before they are enlarged.
        save: a function of a module, so that worker processes find it.
        root: folder that `save` writes to.
        workers: processes, 0 for as many as there are cores; 1 works in this one.
        title: for the progress bar.

    Returns:
        What `save` returned, for each plan a list in the order of its names; the same for any number of workers.
    """
    jobs = [(plan, spec, detail, save, root) for plan in plans]
    return write_streets(take, jobs, [len(plan.names) for plan in plans], workers, title, 'image')


def take(plan: Plan, spec: CameraSpec, detail: float, save: Save, root: Path) -> list:
    """Takes the images of one plan; see `take_all`."""
    world = build_world(plan.seed, plan.style, plan.length, plan.max_curvature, plan.traffic,
                        special_marks=plan.special_marks, crowd=plan.crowd)
    spots = places(plan, world)
    if not plan.painted:
        world = replace(world, static=unpainted(world.static))
    if plan.place == 'arrow':
        world = replace(world, static=merge([world.static, arrows(world.street, spots)]))
    caster = world.caster(threads=1)
    records = []
    for index, (name, (s, d, yaw)) in enumerate(zip(plan.names, spots)):
        rng = np.random.default_rng([*plan.seed, 7, index])
        caster.set_actors(traffic(world, s, d))
        roll, pitch = SHAKE * rng.standard_normal(2)
        pose = camera_pose(world.street.pose(s, d, 0.0, yaw), spec, roll, pitch)
        look = draw_look(plan.look, float(np.rad2deg(world.street.heading_at(s))), rng)
        view = View(render(caster, pose, replace(spec, scale=detail), look, rng), [], world, caster, pose, spec, s)
        lines = [] if plan.place == 'junction' else [line for line in world.street.boundaries if line.kind != 'none']
        found = [found for found in (trace(view, line) for line in lines) if found is not None]
        records.append(save(root, name, view._replace(traces=sorted(found, key=lambda one: lower_end(one, spec)))))
    return records


def places(plan: Plan, world: World) -> list[tuple[float, float, float]]:
    """Where the ego stands for each image of a plan: s, d and yaw [rad] against the street."""
    rng, street, count = np.random.default_rng([*plan.seed, 8]), world.street, len(plan.names)
    lanes = [lane for lane in street.lanes if lane.direction > 0]
    chosen = rng.integers(len(lanes), size=count)
    d = np.array([lanes[i].d for i in chosen]) + rng.normal(0, .12, count)
    yaw = np.deg2rad(rng.normal(0, .6, count))
    if plan.place == 'change' and len(lanes) > 1:
        first = np.minimum(chosen, len(lanes) - 2)
        part = rng.uniform(.3, .7, count)
        d = np.array([lanes[i].d * (1 - p) + lanes[i + 1].d * p for i, p in zip(first, part)])
        yaw = np.deg2rad(rng.choice([-1, 1], count) * rng.uniform(1, 2.5, count))
    grid = np.arange(25, street.length - 25, .5)
    if plan.place in AHEAD and street.junctions:
        ahead, around = AHEAD[plan.place]
        free = np.min([np.abs(grid + ahead - junction) for junction in street.junctions], 0) < around
    else:
        room = FAR if street.style.motorway else ROOM
        free = np.any([(grid > block.s0 + GAP) & (grid < block.s1 - GAP - room) for block in street.blocks], 0)
    grid = grid[free] if free.any() else grid
    if plan.place == 'curve':
        grid = np.sort(grid[np.argsort(-np.abs(street.curvature_at(grid + 12)), kind='stable')[:24 * count]])
    at = (np.arange(count) + rng.uniform(.2, .8, count)) / count
    return [(float(grid[int(a * len(grid))]), *pair) for a, *pair in zip(at, d.tolist(), yaw.tolist())]


def traffic(world: World, s: float, d: float) -> Mesh:
    """What moves when the ego passes s, without those too near to where it stands."""
    t = world.drive.time_at(s)

    def near(path: tuple[float, float, float]) -> bool:
        ahead, aside = path[0] - s, abs(path[1] - d)
        return (aside < 2.2 and HEADWAY[0] < ahead < HEADWAY[1]) or (aside < 4.8 and abs(ahead) < BESIDE)
    return merge([actor.mesh(t) for actor in world.actors if actor.moving and not near(actor.path(t))])


def arrows(street: Street, spots: Sequence[tuple[float, float, float]]) -> Mesh:
    """Straight arrows on the lane ahead of each spot."""
    builder, half = MeshBuilder(), np.array([-1, -1, 1, 1])
    for spot, d, _ in spots:
        lane = min(street.lanes, key=lambda lane: abs(lane.d - d))
        for s in (spot + 9, spot + 24):
            for along, width in (([0, 3, 3, 0], .08 * half), ([3, 4.3, 4.3, 3], np.array([-.35, -.01, .01, .35]))):
                corners = street.at(s + np.array(along, float), lane.d + width, HEIGHT)
                builder.quads(corners[None], *COLOURS['white'], 'marking', 'arrow_straight')
    return builder.build()


def unpainted(mesh: Mesh) -> Mesh:
    """The mesh without any paint on the road."""
    keep = mesh.part != PART['marking']
    return replace(mesh, **{field.name: getattr(mesh, field.name)[keep] for field in fields(mesh)
                            if field.name != 'vertices'})


def trace(view: View, line: LaneBoundary, shift: float = 0.0) -> Trace | None:
    """The boundary as seen, moved by `shift` metres to the left; None where there is too little of it.

    It is followed as far as its paint goes, through what hides it, but not behind crests.
    """
    s = np.arange(max(line.paint_start, view.s), min(line.paint_stop, view.s + FAR), STEP)
    if len(s) < 8:
        return None
    world = view.world.street.at(s, line.d(s) + shift, HEIGHT)
    points, z = pixels(world, view.pose, view.spec)
    highest = np.minimum.accumulate(np.where(z > NEAR, points[:, 1], np.inf))
    keep = (z > NEAR) & (points[:, 1] < np.append(np.inf, highest[:-1]))
    points, world, z, s = points[keep], world[keep], z[keep], s[keep]
    inside = in_image(points, view.spec)
    if len(points) < 8 or not inside.any() or np.ptp(points[inside, 1]) < MIN_EXTENT:
        return None
    column, row = np.clip(np.rint(points).astype(int), 0, [view.spec.width - 1, view.spec.height - 1]).T
    seen = view.frame.depth[row, column]
    visible = inside & ((seen == 0) | (seen > .97 * z - .3))      # 0 is sky, just beside a crest
    weight = np.abs(np.gradient(points[:, 1]))
    if weight[visible].sum() < MIN_VISIBLE * weight[inside].sum():
        return None
    return Trace(points, world, visible, s, line)


def pixels(world: np.ndarray, pose: np.ndarray, spec: CameraSpec) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2) and depths (N,) of points (N, 3); (0, 0) is the middle of the first pixel, as in label files."""
    points, depth = project(world, pose, spec)
    return points - .5, depth


def in_image(points: np.ndarray, spec: CameraSpec) -> np.ndarray:
    """(N,) whether pixels (N, 2) are in the image."""
    return ((points >= -.5) & (points < [spec.width - .5, spec.height - .5])).all(1)


def lower_end(found: Trace, spec: CameraSpec) -> float:
    """Column where the boundary meets the row at 95 % of the height, prolonged straight if it starts above."""
    row = .95 * spec.height
    (u0, v0), (u1, v1) = found.points[0], found.points[min(7, len(found.points) - 1)]
    return float(found.at(np.array(row))) if v0 >= row else float(u0 + (row - v0) * (u1 - u0) / (v1 - v0))
