"""Simulated drives: winding toy streets seen by a camera, with the speed and the wheel of a driver.

A `Plan` names one street and its light; a `Journey` builds it and says where the ego is, how fast it goes and how the
wheel stands at each frame. The wheel follows the curvature of the path a little ahead, by the bicycle model of
`common/scene/drive.py`. Where the ego slows down, the whole street slows down with it, so that nobody ever collides.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.common.scene.camera import CameraSpec, Frame, camera_pose, pixel_rays, project, render
from perception.common.scene.drive import STEERING_RATIO, UNDERSTEER, WHEELBASE
from perception.common.scene.mesh import Mesh, merge
from perception.common.scene.shading import draw_look
from perception.common.scene.street import STYLES
from perception.common.scene.world import LEAD_IN, build_world
from perception.utils.errors import DataError

LOOKS = ('day', 'shadow', 'night', 'day', 'glare')  # of streets, in turn
KINDS = ('residential', 'avenue', 'residential', 'urban')  # of streets, in turn
LEAD, CALM = 0.25, 0.6  # s by which the wheel leads the path, and around that over which it takes the mean
FINE = 0.02  # s between samples of the clock
STOP = (3.0, 1.5, 3.0)  # s to slow down, to stand, to start again
TORQUE = (1.1, 0.25)  # Nm a radian of the wheel, and a radian a second
SEEN = (-25.0, 90.0)  # m behind and ahead of the ego within which things that move are rendered
MOST_FRAMES = 1500


@dataclass(frozen=True)
class Plan:
    """One drive.

    Attributes:
        seed: of the street; no two plans of a data set share it.
        look: light and weather, a name of `shading.KINDS`.
        style: of the street, see `street.STYLES`.
        frames, rate: how many, and how many a second.
        detail: share of the camera's width at which images are rendered before they are enlarged.
        stops: whether the ego stops once in the middle.
        max_curvature: 1/metres.
        traffic: factor on vehicles and people.
    """
    seed: tuple[int, ...]
    look: str
    style: str
    frames: int
    rate: float
    detail: float
    stops: bool = False
    max_curvature: float = 1 / 45
    traffic: float = 0.5


class Journey:
    """A drive, N frames in order of time.

    Args:
        plan: the drive.
        spec: the camera at the official size.

    Attributes:
        times: (N,) [s].
        angles: (N,) of the steering wheel, positive to the left [rad].
        torques: (N,) of its column [Nm].
        speeds: (N,) [m/s].
        headings: (N,) counter-clockwise from east [rad].
        places: (N, 3) of the ego's ground point, east, north, up [m].
    """

    def __init__(self, plan: Plan, spec: CameraSpec) -> None:
        self.plan, self.spec = plan, replace(spec, scale=plan.detail)
        rng = np.random.default_rng([*plan.seed, 9])
        seconds = (plan.frames - 1) / plan.rate
        length = 2 * LEAD_IN + STYLES[plan.style].speed * seconds + 30
        self.world = build_world(plan.seed, plan.style, max(length, 180.0), plan.max_curvature, plan.traffic)
        self.times = np.arange(plan.frames) / plan.rate
        fine = np.arange(-1, seconds + 1 + FINE, FINE)
        pace = _pace(fine, seconds, plan.stops, rng)
        clock = np.concatenate([[0], np.cumsum((pace[1:] + pace[:-1]) / 2 * FINE)])
        clock -= np.interp(0, fine, clock)
        self.clock = np.interp(self.times, fine, clock)  # what the street's clock shows at each frame
        drive = self.world.drive
        speeds = drive.speed(clock) * pace
        weight = np.hanning(27)[1:-1, None]
        around = (LEAD + np.linspace(-CALM, CALM, len(weight)))[:, None] * pace
        bend = (drive.path_curvature(clock + around) * weight).sum(0) / weight.sum()
        angles = STEERING_RATIO * np.arctan(WHEELBASE * bend) * (1 + UNDERSTEER * speeds ** 2)
        torques = TORQUE[0] * angles + TORQUE[1] * np.gradient(angles, FINE)
        self.angles, self.torques, self.speeds = (np.interp(self.times, fine, x) for x in (angles, torques, speeds))
        poses = np.stack([drive.pose(t) for t in self.clock])
        self.headings, self.places = np.arctan2(poses[:, 1, 0], poses[:, 0, 0]), poses[:, :3, 3]
        self.poses = np.stack([camera_pose(pose, self.spec) for pose in poses])
        self.look = draw_look(plan.look, float(np.degrees(self.headings[0])), rng)
        self._caster = None

    def picture(self, index: int) -> Frame:
        """What the camera sees at a frame."""
        if self._caster is None:
            self._caster = self.world.caster(threads=1)
        self._caster.set_actors(self._around(float(self.clock[index])))
        return render(self._caster, self.poses[index], self.spec, self.look,
                      np.random.default_rng([*self.plan.seed, 10, index]))

    def _around(self, t: float) -> Mesh:
        """What moves and is near enough to be seen."""
        here = float(self.world.drive.s(t))
        return merge([actor.mesh(t) for actor in self.world.actors
                      if actor.moving and SEEN[0] < actor.path(t)[0] - here < SEEN[1]])

    def flow(self, index: int, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exact optical flow of what stands still, from a frame to the next one.

        Args:
            index: of the first frame.
            depth: (H, W) of that frame, as `picture` gives it, 0 for the sky.

        Returns:
            (H, W, 2) float32 u, v [pixel] and (H, W) bool, where it is known: no sky, and inside the next image.
        """
        height, width = depth.shape
        v, u = np.mgrid[:height, :width] + 0.5
        pose, after = self.poses[index], self.poses[index + 1]
        rays = pixel_rays(pose, self.spec, v.ravel(), u.ravel())
        points = pose[:3, 3] + rays * (depth.ravel() / (rays @ pose[:3, 2]))[:, None]
        found, ahead = project(points, after, self.spec)
        known = (depth.ravel() > 0) & (ahead > 0.5) & (found >= 0).all(1) & (found < (width, height)).all(1)
        flow = (found - np.stack([u.ravel(), v.ravel()], 1)).reshape(height, width, 2).astype(np.float32)
        return flow, known.reshape(height, width)


def _pace(times: np.ndarray, seconds: float, stops: bool, rng: np.random.Generator) -> np.ndarray:
    """(N,) how fast the street's clock goes, 0 to 1."""
    waves = sum(rng.uniform(.03, .07) * np.sin(2 * np.pi * times / rng.uniform(6, 20) + rng.uniform(0, 6.3))
                for _ in range(2))
    pace = .85 + waves
    if stops:
        begin = rng.uniform(.25, .6) * max(seconds - sum(STOP), 0)
        ends = begin + np.cumsum([0, *STOP])
        u = np.interp(times, ends, [1, 0, 0, 1])
        pace = pace * u * u * (3 - 2 * u)
    return pace


def plans(seed: tuple[int, ...], count: int, frames: int, rate: float, detail: float, stops: bool = False,
          first: int = 0) -> list[Plan]:
    """Some drives, whose lights and streets take turns.

    Args:
        seed: shared by no other plans.
        count: of drives.
        frames, rate, detail: see Plan.
        stops: whether the ego stops once in every second one.
        first: which of the lights comes first.
    """
    return [Plan((*seed, k), LOOKS[(first + k) % len(LOOKS)], KINDS[(first + k) % len(KINDS)], frames, rate, detail,
                 stops and k % 2 == 0) for k in range(count)]


def check_drives(where: str, seed: int, detail: float, workers: int, **counts: tuple[int, int]) -> None:
    """See that arguments of a writer can be.

    Args:
        where: the writer.
        seed, detail, workers: as it got them.
        **counts: drives and frames of each split.

    Raises:
        DataError: one cannot be.
    """
    for split, (drives, frames) in counts.items():
        if not 1 <= drives <= 200 or not 2 <= frames <= MOST_FRAMES:
            raise DataError(f'{where}: {drives} drives of {frames} frames in {split}, expected 1 to 200 drives of 2 to '
                            f'{MOST_FRAMES} frames. Give such numbers.')
    if seed < 0 or not .02 <= detail <= 1 or not 0 <= workers <= 64:
        raise DataError(f'{where}: seed={seed}, detail={detail}, workers={workers}, expected a seed of 0 or more, a '
                        'detail of 0.02 to 1 and 0 to 64 workers. Give numbers in these ranges.')


def encode(image: np.ndarray, ending: str = '.jpg', quality: int = 90) -> bytes:
    """Bytes of an image file, (H, W, 3) uint8 RGB or (H, W) uint8."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if ending == '.jpg' else []
    return cv2.imencode(ending, image[..., ::-1] if image.ndim == 3 else image, options)[1].tobytes()


def drive_along(plan: Plan, spec: CameraSpec, save: Callable[[Path, Journey, Any], Any], root: Path,
                order: Any) -> Any:
    """Drive one plan and write its files; a job of `scene.workers.write_streets`.

    Args:
        plan, spec: see Journey.
        save: a function of a module that writes the files of a journey and returns what lists need.
        root: folder that it writes to.
        order: what else it needs to know.
    """
    return save(root, Journey(plan, spec), order)
