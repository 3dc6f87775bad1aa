"""Worlds that the scene's tests look at."""
import numpy as np
import pytest

from perception.common.scene.lidar import HDL64E, scan, sensor_pose
from perception.common.scene.world import build_world


@pytest.fixture(scope='session')
def world():
    return build_world((7, 3), length=170)


@pytest.fixture(scope='session')
def look(world):
    """A function that takes the world's scan at a time; the same arguments give the same scan."""
    caster = world.caster(threads=1)

    def take(t: float, spec=HDL64E, seed: int = 0):
        caster.set_actors(world.frame(t))
        pose = sensor_pose(world.drive.pose(t), spec)
        velocity = (world.drive.pose(t + .05)[:3, 3] - world.drive.pose(t - .05)[:3, 3]) / .1
        return pose, scan(caster, pose, spec, np.random.default_rng(seed), velocity)
    return take
