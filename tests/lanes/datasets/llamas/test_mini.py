"""The markers of the mini LLAMAS, in pixels and in metres."""
import numpy as np

from perception.common.scene.camera import LLAMAS as CAMERA
from perception.common.scene.labels import PART
from perception.lanes import shots
from perception.lanes.datasets.llamas.mini import _markers
from perception.lanes.datasets.llamas.reader import LLAMAS, read_label
from perception.lanes.mini import beside_ego


def keep(root, name, view):
    return name, view


def test_llamas_markers_in_pixels_are_those_in_metres(mini_llamas):
    assert [len(LLAMAS(mini_llamas, split)) for split in ('train', 'val', 'test')] == [3, 1, 1]
    for path in mini_llamas.glob('labels/*/*/*.json'):
        label = read_label(path)
        assert {'l0', 'r0'} & set(label.lanes)
        for markers in label.lanes.values():
            for world, pixel in ((markers.world_start, markers.start), (markers.world_end, markers.end)):
                point = world @ label.projection.T
                assert np.abs(point[:, :2] / point[:, 2:] - pixel).max() < .6
            assert (np.diff(markers.world_start[:, 2]) > 0).all()          # the nearest first
    val = LLAMAS(mini_llamas, 'val')[0]['data_samples']
    assert val.full_labels.max() > 0


def test_llamas_markers_are_the_dashes(tmp_path):
    plan = shots.Plan((4, 77), ('a', 'b'), style='highway', length=200.0)
    on_paint, between, count = [], [], 0
    for _, view in shots.take(plan, CAMERA, .1, keep, None):
        for side, found in beside_ego(view.traces, view.spec, 3).items():
            if found.line.kind == 'dashed':
                near, far = (np.array([[float(marker[key][axis]) for axis in 'xyz'] for marker in _markers(
                    found, view, side)]) for key in ('world_start', 'world_end'))
                count += len(near)
                assert (np.linalg.norm(far - near, axis=1) < 3.02).all()
                assert np.median(np.linalg.norm(far - near, axis=1)) > 2.9
                for points, parts in ((.9 * near + .1 * far, on_paint), (.1 * near + .9 * far, on_paint),
                                      (.5 * near[1:] + .5 * far[:-1], between)):
                    rays = points @ view.pose[:3, :3].T
                    origin = np.broadcast_to(view.pose[:3, 3].astype(np.float32), rays.shape)
                    parts += view.caster.cast(origin, rays.astype(np.float32)).part.tolist()
    assert count > 8
    road = [PART['marking'], PART['road']]
    seen = np.array([part for part in on_paint if part in road])
    assert len(seen) > 8 and (seen == PART['marking']).mean() > .95
    gaps = np.array([part for part in between if part in road])
    assert len(gaps) > 4 and (gaps == PART['road']).mean() > .95
