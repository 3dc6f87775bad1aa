"""Things in the middle of small pictures."""
from types import SimpleNamespace

import numpy as np
import pytest

from perception.common.scene.labels import PART
from perception.common.scene.mesh import MeshBuilder
from perception.common.scene.portrait import portrait, standing

pytest.importorskip('open3d', reason='open3d, which renders the toy world, is not installed')


def test_what_hangs_together_is_one_thing():
    builder = MeshBuilder()
    builder.boxes([0, 0, 0], [1, 1, 2], 'metal', (.5, .5, .5), 'sign')
    builder.boxes([0, 0, 2.2], [1, 1, 1], 'metal', (.5, .5, .5), 'sign')  # near enough
    builder.boxes([9, 0, 0], [1, 2, 1], 'metal', (.5, .5, .5), 'sign')
    builder.boxes([20, 0, 0], [1, 2, 1], 'metal', (.5, .5, .5), 'pole')
    boxes = standing(builder.build(), 'sign')
    np.testing.assert_allclose(sorted(boxes.tolist()), [[0, 0, 0, 1, 1, 3.2, 0], [9, 0, 0, 1, 2, 1, 0]], atol=1e-6)
    assert len(standing(builder.build(), 'car')) == 0


def test_the_thing_is_in_the_middle(world):
    boxes = world.boxes(0.0)
    box = next(box for box, part in zip(boxes.boxes_3d, boxes.part) if part == 'car')
    frames = [portrait(world.caster(threads=1), box, 32, 'day', np.random.default_rng(seed)) for seed in range(3)]
    assert frames[0].image.shape == (32, 32, 3) and (frames[0].image != frames[1].image).any()
    assert max((frame.part[12:20, 12:20] == PART['car']).mean() for frame in frames) > 0.5


def test_what_is_hidden_from_all_sides_is_left_out():
    class Wall:
        def cast(self, origin, direction):
            return SimpleNamespace(distance=np.full(len(origin), 0.1, np.float32))
    box = np.array([9, 0, 0, 4, 2, 1.5, 0.3])
    assert portrait(Wall(), box, 32, 'day', np.random.default_rng(0)) is None
