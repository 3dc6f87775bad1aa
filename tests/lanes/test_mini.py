"""The mini data sets: official layouts, labels that lie on the paint, the same bytes again."""
import json
from collections import defaultdict

import cv2
import numpy as np
import pytest

from perception.common.scene import camera
from perception.common.scene.labels import PART
from perception.common.scene.world import SCENE_VERSION
from perception.lanes import mini, shots
from perception.lanes.datasets.apolloscape.reader import SCORED, ApolloScapeLaneMark
from perception.lanes.datasets.bdd100k.reader import BDD100K
from perception.lanes.datasets.culane.metric import CATEGORIES
from perception.lanes.datasets.culane.reader import CULane
from perception.lanes.datasets.llamas.reader import LLAMAS, read_label
from perception.lanes.datasets.tusimple.reader import TuSimple, parse_lanes
from perception.utils.errors import DataError

TINY = dict(train=1, val=1, test=1, detail=.1, length=180.0, workers=1)
WRITERS = dict(culane=mini.write_culane_mini, tusimple=mini.write_tusimple_mini, bdd100k=mini.write_bdd100k_mini,
               llamas=mini.write_llamas_mini, apolloscape=mini.write_apolloscape_mini)
CAMERAS = dict(culane=camera.CULANE, tusimple=camera.TUSIMPLE, bdd100k=camera.BDD100K, llamas=camera.LLAMAS,
               apolloscape=camera.APOLLOSCAPE)


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def samples(dataset):
    return [dataset[i]['data_samples'] for i in range(len(dataset))]


def keep(root, name, view):
    return name, view


def test_culane_is_read_and_every_category_is_there(mini_culane):
    assert [len(CULane(mini_culane, split)) for split in ('train', 'val', 'test')] == [3, 1, 9]
    for sample in samples(CULane(mini_culane, 'train')) + samples(CULane(mini_culane, 'val')):
        assert sample.original_shape == (590, 1640)
        present = np.unique(sample.labels.numpy())
        assert present[1:].tolist() == (np.flatnonzero(sample.exist.numpy()) + 1).tolist()
        assert 1 <= len(sample.lanes) <= 4
        for lane in sample.lanes:
            assert (np.diff(lane[:, 1]) == -10).all()                     # bottom to top
    test = {sample.category: sample for sample in samples(CULane(mini_culane, 'test'))}
    assert set(test) == set(CATEGORIES)
    assert not test['cross'].lanes
    assert all(test[category].lanes for category in CATEGORIES if category != 'cross')
    assert (mini_culane / 'list' / 'test_split' / 'test4_noline.txt').is_file()
    night, normal = (cv2.imread(test[name].image_path).mean() for name in ('night', 'normal'))
    assert night < .6 * normal


def test_culane_lines_are_where_their_label_images_are(mini_culane):
    for sample in samples(CULane(mini_culane, 'train')):
        slots = np.flatnonzero(sample.exist.numpy()) + 1
        assert len(slots) == len(sample.lanes)
        for slot, lane in zip(slots, sample.lanes):
            column, row = np.rint(lane).astype(int).T
            inside = (column >= 0) & (column < 1640) & (row < 590)
            assert (sample.labels.numpy()[row[inside], column[inside]] == slot).mean() > .9
            assert (column[inside][:1] < 820) == (slot < 3)


def test_tusimple_is_read(mini_tusimple):
    assert [len(TuSimple(mini_tusimple, split)) for split in ('train', 'val', 'test')] == [3, 1, 2]
    for line in (mini_tusimple / 'test_label.json').read_text().splitlines():
        record = json.loads(line)
        assert record['h_samples'] == list(range(160, 720, 10))
        assert all(len(lane) == 56 for lane in record['lanes'])
        assert all(isinstance(x, int) and -2 <= x < 1280 for lane in record['lanes'] for x in lane)
        assert record['raw_file'].endswith('/20.jpg')
        assert cv2.imread(str(mini_tusimple / record['raw_file'])).shape == (720, 1280, 3)
    for sample in samples(TuSimple(mini_tusimple, 'train')):
        assert 2 <= len(sample.lanes) <= 5
        assert sample.exist.sum() >= 2
    tasks = [json.loads(line) for line in (mini_tusimple / 'test_tasks_0627.json').read_text().splitlines()]
    assert all('lanes' not in task for task in tasks)


@pytest.mark.parametrize('style, place, least', [('wide_highway', 'change', 5), ('boulevard', 'lane', 5),
                                                 ('highway', 'change', 4)])
def test_all_lanes_of_wide_roads_are_labelled(style, place, least, tmp_path):
    plan = shots.Plan((5, 77), ('a/1/20.jpg', 'a/2/20.jpg', 'a/3/20.jpg'), style=style, place=place, length=200.0)
    numbers = []
    for name, view in shots.take(plan, camera.TUSIMPLE, .05, keep, None):
        record = mini._save_all_lanes(tmp_path, name, view)
        numbers.append(len(record['lanes']))
        assert len(record['lanes']) >= len(mini._save_tusimple(tmp_path, name, view)['lanes']) > 2
        lanes = parse_lanes(record, name)[1]
        middle = min(abs(lane[0, 0] - 640) for lane in lanes if lane[0, 1] > 600)
        assert (middle < 320) == (place == 'change')                     # the ego is above a boundary, or between two
    painted = len({line.offset[0, 1] for line in view.world.lanes if line.kind != 'none'})
    assert least < painted and max(numbers) >= least


def test_tusimple_with_many_lanes_says_so(mini_tusimple, tmp_path):
    assert json.loads((mini_tusimple / 'mini.json').read_text())['streets'] == 'tusimple'
    root = mini.write_tusimple_mini(tmp_path / 'many', **dict(TINY, train=2, detail=.02), streets='many_lanes')
    assert json.loads((root / 'mini.json').read_text())['streets'] == 'many_lanes'
    assert len(TuSimple(root, 'train')[0]['data_samples'].lanes) > 3
    with pytest.raises(DataError, match="streets='wide', expected tusimple or many_lanes"):
        mini.write_tusimple_mini(tmp_path / 'other', streets='wide')


def test_a_culane_of_the_first_writer_is_kept(mini_culane):
    stamp = json.loads((mini_culane / 'mini.json').read_text())
    stamp.pop('files')
    assert stamp == dict(dataset='culane', simulated=True, scene_version=SCENE_VERSION, writer_version=1, seed=0,
                         images=dict(train=3, val=1, test=9), detail=.1, length=180.0)


def test_bdd100k_is_read_by_both_protocols(mini_bdd100k):
    assert [len(BDD100K(mini_bdd100k, split)) for split in ('train', 'val', 'test')] == [6, 1, 2]
    frames = json.loads((mini_bdd100k / 'labels/lane/polygons/lane_train.json').read_text())
    dataset = BDD100K(mini_bdd100k, 'train')
    for sample in samples(dataset):
        frame = next(frame for frame in frames if frame['name'] == f'{sample.sample_id.split("/")[1]}.jpg')
        lines = [label for label in frame['labels'] if label['attributes']['laneDirection'] == 'parallel']
        assert len(lines) / 2 <= len(sample.lanes) + 1 <= len(lines)       # two border lines a marking
        assert set(np.unique(sample.labels.numpy())) == {0, 1}
    official = samples(BDD100K(mini_bdd100k, 'val', protocol='official'))
    assert len(official) == 2
    for sample in official:
        assert 0 < (sample.labels.numpy() > 0).mean() < .05
    assert len(BDD100K(mini_bdd100k, 'test', protocol='official')) == 1


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
    for _, view in shots.take(plan, camera.LLAMAS, .1, keep, None):
        for side, found in mini.beside_ego(view.traces, view.spec, 3).items():
            if found.line.kind == 'dashed':
                near, far = (np.array([[float(marker[key][axis]) for axis in 'xyz'] for marker in mini._markers(
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


def test_apolloscape_has_official_colours_and_nothing_above_the_road(mini_apolloscape):
    found = set()
    for split in ('train', 'val'):
        for sample in samples(ApolloScapeLaneMark(mini_apolloscape, split, crop_top=0)):
            labels = sample.labels.numpy()
            assert labels.shape == (2710, 3384)
            assert not labels[:1700].any()
            found |= set(np.unique(labels).tolist())
    assert len(ApolloScapeLaneMark(mini_apolloscape, 'test')) == 1
    assert len(found & set(SCORED)) >= 9


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
        sides = mini.beside_ego(view.traces, view.spec, 2)
        assert sides
        assert [shots.lower_end(found, view.spec) < 820 for found in sides.values()] == [side < 0 for side in sides]


def test_splits_share_no_street(monkeypatch, tmp_path):
    for name, write in WRITERS.items():
        taken = defaultdict(list)

        def take(plans, spec, save, root, taken=taken, **_):
            taken['seeds'] += [plan.seed for plan in plans]
            taken['names'] += [one for plan in plans for one in plan.names]
            return [[dict(h_samples=[], raw_file='') if 'tusimple' in str(root) else 'x'] * len(plan.names)
                    for plan in plans]
        monkeypatch.setattr(mini, 'take_all', take)
        write(tmp_path / name)
        assert len(set(taken['seeds'])) == len(taken['seeds'])
        assert len(set(taken['names'])) == len(taken['names'])


def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path):
    first = mini.write_tusimple_mini(tmp_path / 'a', **TINY)
    stamp = (first / 'mini.json').stat().st_mtime_ns
    assert mini.write_tusimple_mini(first, **TINY) == first
    assert (first / 'mini.json').stat().st_mtime_ns == stamp                # complete, so it is kept
    second = mini.write_tusimple_mini(tmp_path / 'b', **dict(TINY, workers=2))
    assert files(first) == files(second)
    assert json.loads((first / 'mini.json').read_text())['simulated'] is True


@pytest.mark.parametrize('bad', [dict(train=0), dict(test=1001), dict(seed=-1), dict(detail=0.0), dict(detail=1.5),
                                 dict(length=100.0), dict(workers=0)])
@pytest.mark.parametrize('name', WRITERS)
def test_arguments_out_of_range_are_refused(tmp_path, name, bad):
    with pytest.raises(DataError, match=f'write_{name}_mini.*expected'):
        WRITERS[name](tmp_path / 'a', **bad)
    assert not list(tmp_path.iterdir())


def test_a_dead_worker_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool
    monkeypatch.setattr(shots.ProcessPoolExecutor, 'map', _dead(BrokenProcessPool))
    with pytest.raises(DataError, match='a worker process died.*workers=1'):
        mini.write_tusimple_mini(tmp_path / 'a', **dict(TINY, workers=2))
    assert not list(tmp_path.iterdir())


def _dead(error):
    def fail(*args, **kwargs):
        raise error('killed')
    return fail


def test_the_sheet_shows_every_split(mini_tusimple, tmp_path):
    image = cv2.imread(str(mini.draw_sheet(mini_tusimple, tmp_path / 'sheet.png', TuSimple)))
    assert image.shape[0] > 3 * 270
    with pytest.raises(DataError):
        mini.draw_sheet(tmp_path / 'nowhere', tmp_path / 'sheet.png', TuSimple)
