"""The boundaries in photographs of toy streets: on the paint, and in order."""
import numpy as np
import pytest

from perception.common.scene import camera
from perception.common.scene.labels import PART
from perception.lanes import shots
from perception.lanes.mini import beside_ego

CAMERAS = dict(culane=camera.CULANE, tusimple=camera.TUSIMPLE, bdd100k=camera.BDD100K, llamas=camera.LLAMAS,
               apolloscape=camera.APOLLOSCAPE)


def keep(root, name, view):
    return name, view


@pytest.mark.parametrize('name', CAMERAS)
def test_traces_of_solid_lines_lie_on_paint(name, tmp_path):
    spec = CAMERAS[name]
    hits = []
    for seed in (1, 2):
        plan = shots.Plan((seed, 77), ('a', 'b'), length=180.0, place='change' if seed == 2 else 'lane')
        for _, view in shots.take(plan, spec, .1 if name != 'apolloscape' else .05, keep, tmp_path):
            for found in view.traces:
                near = np.linalg.norm(found.world - view.pose[:3, 3], axis=1) < 40
                points = found.points[found.visible & near]
                if found.line.kind == 'solid' and len(points):
                    rays = np.concatenate([points + .5 - np.array([spec.width, spec.height]) / 2,
                                           np.full((len(points), 1), spec.focal)], 1) @ view.pose[:3, :3].T
                    origin = np.broadcast_to(view.pose[:3, 3].astype(np.float32), rays.shape)
                    part = view.caster.cast(origin, rays.astype(np.float32)).part
                    hits.append((part == PART['marking'])[np.isin(part, [PART['marking'], PART['road']])])
    hits = np.concatenate(hits)
    assert len(hits) > 100
    assert hits.mean() >= .93


def test_slots_are_ordered_by_column():
    plan = shots.Plan((3, 77), ('a', 'b', 'c'), length=180.0, place='change')
    for _, view in shots.take(plan, camera.CULANE, .05, keep, None):
        ends = [shots.lower_end(found, view.spec) for found in view.traces]
        assert (np.diff(ends) > 0).all()
        sides = beside_ego(view.traces, view.spec, 2)
        assert sides
        assert [shots.lower_end(found, view.spec) < 820 for found in sides.values()] == [side < 0 for side in sides]
