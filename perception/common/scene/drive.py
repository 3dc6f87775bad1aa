"""The ego vehicle's way along a street: where it is, how fast it goes and how it steers at any time."""
from __future__ import annotations

import numpy as np

from perception.common.scene.street import Street

WHEELBASE = 2.85          # metres, Lincoln MKZ of the Udacity data
STEERING_RATIO = 14.8     # steering wheel angle over road wheel angle
UNDERSTEER = .0025        # s^2/m^2
STEP = .5                 # metres between the samples of the path


class Drive:
    """A drive in one lane, as functions of time.

    Args:
        street: the street.
        rng: draws the wander inside the lane and the lane changes.
        s_start: where the ego is at t = 0.
        lane_d: centre of its lane.
        speed: m/s on straights; bends are taken slower.
        lane_changes: list of (s, new lane centre); each takes 6 s.
    """

    def __init__(self, street: Street, rng: np.random.Generator, s_start: float, lane_d: float, speed: float,
                 lane_changes: list[tuple[float, float]] | None = None) -> None:
        self.street = street
        self._s = np.arange(s_start - 60, street.length + 60, STEP)
        bend = np.abs(street.curvature_at(self._s[:, None] + np.arange(0, 25, 2.5))).max(1)
        limit = np.minimum(speed, np.sqrt(2.5 / np.maximum(bend, 1e-6)))
        self._v = _smooth(limit, int(2 * speed / STEP))
        time = np.concatenate([[0], np.cumsum(STEP / ((self._v[1:] + self._v[:-1]) / 2))])
        self._t = time - np.interp(s_start, self._s, time)
        wander = _smooth(rng.standard_normal(len(self._s) + 400), int(30 / STEP))[200:200 + len(self._s)]
        d = lane_d + .12 * wander / max(float(wander.std()), 1e-9)
        for start, target in lane_changes or ():
            u = np.clip((self._s - start) / (6 * speed), 0, 1)
            d = d + (target - lane_d) * (6 * u**5 - 15 * u**4 + 10 * u**3)
            lane_d = target
        self._d = d
        bend = street.curvature_at(self._s)
        self._path_curvature = bend / (1 - bend * d) + np.gradient(np.gradient(d, STEP), STEP)

    def s(self, t: np.ndarray) -> np.ndarray:
        """Metres along the street at time t [s]."""
        return np.interp(t, self._t, self._s)

    def d(self, t: np.ndarray) -> np.ndarray:
        """Metres to the left of the centre line at time t [s]."""
        return np.interp(self.s(t), self._s, self._d)

    def speed(self, t: np.ndarray) -> np.ndarray:
        """Metres per second at time t [s]."""
        return np.interp(self.s(t), self._s, self._v)

    def time_at(self, s: float) -> float:
        """When the ego passes s."""
        return float(np.interp(s, self._s, self._t))

    def path_curvature(self, t: np.ndarray) -> np.ndarray:
        """1/metres of the driven path at time t [s], positive to the left."""
        return np.interp(self.s(t), self._s, self._path_curvature)

    def steering_angle(self, t: np.ndarray) -> np.ndarray:
        """Steering wheel angle [rad], left positive; the wheel leads the pose by 0.15 s."""
        v = self.speed(t)
        bend = np.interp(self.s(t) + .15 * v, self._s, self._path_curvature)
        return STEERING_RATIO * np.arctan(WHEELBASE * bend) * (1 + UNDERSTEER * v**2)

    def pose(self, t: float) -> np.ndarray:
        """4x4 pose of the ego's ground point (x forward along its path) in the world."""
        s = float(self.s(t))
        yaw = np.arctan2(np.interp(s + 1, self._s, self._d) - np.interp(s - 1, self._s, self._d), 2)
        return self.street.pose(s, float(self.d(t)), 0.0, float(yaw))


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Moving average applied twice; the ends are held."""
    width = max(1, width) | 1
    kernel = np.ones(width) / width
    for _ in range(2):
        values = np.convolve(np.pad(values, width // 2, mode='edge'), kernel, mode='valid')
    return values
