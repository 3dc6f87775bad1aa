"""The toy drives in the layouts of all data sets."""
import hashlib
import json

import numpy as np
import pytest

from perception.steering.datasets.bdd.mini import write_bdd_mini
from perception.steering.datasets.bdd.reader import BDDDriving
from perception.steering.datasets.cityscapes.mini import draw_sheet, write_cityscapes_mini
from perception.steering.datasets.cityscapes.reader import CLASSES, Cityscapes
from perception.steering.datasets.comma.mini import write_comma_mini
from perception.steering.datasets.comma.reader import CommaAI
from perception.steering.datasets.udacity.mini import BETWEEN, CAMERA, CODE, START, _save, write_udacity_mini
from perception.steering.datasets.udacity.reader import UdacityCh2, read_evaluation, read_table
from perception.steering.drives import LOOKS, Journey, Plan, drive_along, plans
from perception.utils.errors import DataError

HDF5 = dict(reason='h5py is not installed')


@pytest.fixture(scope='module')
def journey():
    """Nine seconds of a winding street, with a stop."""
    return Journey(Plan((5, 0), 'day', 'residential', 36, 4.0, .1, stops=True), CAMERA)


# --- drives ---
def test_the_wheel_follows_the_curvature_ahead(journey):
    heading = np.unwrap(journey.headings)
    yaw, speed = np.gradient(heading, journey.times), journey.speeds
    moving = speed > 2
    assert moving.sum() > 15 and np.abs(np.degrees(journey.angles)).max() > 8
    bend = yaw[moving] / speed[moving]  # 1/m of the driven path
    expected = 14.8 * np.arctan(2.85 * bend)
    # a positive angle turns left, as the heading does; both agree as far as a wheel that looks ahead can
    assert np.abs(np.degrees(expected - journey.angles[moving])).mean() < 5
    assert np.corrcoef(expected, journey.angles[moving])[0, 1] > .75


def test_speed_is_that_of_the_places(journey):
    gone = np.linalg.norm(np.diff(journey.places, axis=0), axis=1) * journey.plan.rate
    assert np.abs(gone - (journey.speeds[1:] + journey.speeds[:-1]) / 2).max() < .35
    assert journey.speeds.min() < .1 < 6 < journey.speeds.max()


def test_a_picture_moves_by_the_exact_flow(journey):
    at = 2
    first, second = journey.picture(at), journey.picture(at + 1)
    flow, known = journey.flow(at, first.depth)
    assert .2 < known.mean() < 1
    rows, columns = np.nonzero(known & (first.depth < 30))
    target = np.floor(np.stack([columns, rows], 1) + .5 + flow[rows, columns]).astype(int)
    same = first.part[rows, columns] == second.part[target[:, 1], target[:, 0]]
    assert same.mean() > .85
    unmoved = first.part[rows, columns] == second.part[rows, columns]
    assert same.mean() > unmoved.mean()


def test_lights_take_turns():
    assert {plan.look for plan in plans((0, 1), 5, 10, 10., .1)} == set(LOOKS) == {'day', 'shadow', 'night', 'glare'}


# --- layouts ---
def test_udacity(mini_set):
    root = mini_set('udacity')
    table = read_table(root / 'HMB_1/interpolated.csv')
    stamps, angles, public, _ = read_evaluation(root / 'test/CH2_final_evaluation.csv')
    assert len(table.rows) == 24 and len(stamps) == 12 and set(public) == {0, 1}
    assert np.abs(angles).max() < 2 and (np.diff(stamps) == 2 * 10 ** 8).all() and table.stamps.max() < stamps.min()
    data = UdacityCh2(root, 'test')
    sample = data[0]['data_samples']
    assert sample.condition == 'day' and data.recordings[0].name == 'test'
    assert np.allclose(sample.targets[:, 0], np.degrees(angles[:10]))
    assert data[0]['inputs']['clip'].float().std() > 20
    assert json.loads((root / 'mini.json').read_text())['simulated']
    flow = UdacityCh2(root, 'test', true_flow=True)[0]['data_samples'].flow
    assert flow.shape == (10, 2, 160, 160) and flow[0].isnan().all()
    known = flow[1:].isfinite().all(1)
    assert .2 < known.float().mean() < 1 and 0 < flow[1:, 1][known].mean() < 40  # the road comes down
    with pytest.raises(DataError, match='true flow'):
        UdacityCh2(root, 'val', true_flow=True)[0]


def test_comma(mini_set):
    pytest.importorskip('h5py', **HDF5)
    root = mini_set('comma')
    train, test = CommaAI(root, holdout=.2), CommaAI(root, 'test')
    assert [len(d.recordings[0].frames) for d in (train, test)] == [14, 12]
    sample = test[0]['data_samples']
    assert sample.condition == 'shadow' and np.isfinite(sample.targets).all()
    # the third target is the wheel's rate
    assert np.corrcoef(np.gradient(sample.targets[:, 0], .1)[1:-1], sample.targets[1:-1, 1])[0, 1] > .7


def test_bdd(mini_set):
    root = mini_set('bdd_driving')
    for split in ('train', 'val', 'test'):
        data = BDDDriving(root, split, seconds=7., clip_length=21)
        assert len(data.recordings) == 1
        sample = data[0]['data_samples']
        assert set(sample.actions.tolist()) <= {0, 1, 2, 3} and 1 in sample.actions and sample.condition in LOOKS
        assert data[0]['inputs']['clip'].float().std() > 5


def test_cityscapes(mini_set, tmp_path):
    root = mini_set('cityscapes')
    train, val, test = (Cityscapes(root, split) for split in ('train', 'val', 'test'))
    assert [len(d) for d in (train, val, test)] == [2, 2, 2]
    found = {CLASSES[k].name for d in (train, val) for i in range(2)
             for k in np.unique(d[i]['data_samples'].labels) if k < 255}
    assert {'road', 'sidewalk', 'building', 'vegetation', 'sky', 'car', 'pole'} <= found
    sample = val[0]['data_samples']
    assert sample.original_shape == (512, 1024) and sample.sample_id == 'frankfurt_000000_000000'
    assert (sample.full_labels[-40:, 400:600] == 0).float().mean() > .9  # road before the car
    assert draw_sheet(root, tmp_path / 'sheet.png').is_file()


# --- writing ---
def files(root):
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob('*')
            if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_a_complete_set_is_kept(mini_set, tmp_path):
    root, few = mini_set('udacity'), dict(train_drives=1, train_frames=24, test_drives=1, test_frames=12, detail=.1)
    plan, = plans((0, CODE, 1), 1, 12, 5., .1)
    rows = drive_along(plan, CAMERA, _save, tmp_path, ('test', START + BETWEEN * 10 ** 9))
    stamps, angles, *_ = read_evaluation(root / 'test/CH2_final_evaluation.csv')
    assert [stamp for stamp, _ in rows] == stamps.tolist() and np.allclose([angle for _, angle in rows], angles)
    again, before = files(tmp_path / 'test'), files(root)
    assert again.items() < files(root / 'test').items() and len(again) == 12 + 11 and len(before) == 40 + 11
    moment = (root / 'mini.json').stat().st_mtime_ns
    write_udacity_mini(root, **few, workers=1)
    assert (root / 'mini.json').stat().st_mtime_ns == moment and files(root) == before


@pytest.mark.parametrize(('write', 'bad'), [
    (write_udacity_mini, dict(train_frames=1)), (write_udacity_mini, dict(detail=0)),
    (write_udacity_mini, dict(seed=-1)), (write_bdd_mini, dict(val_drives=0)), (write_bdd_mini, dict(workers=-1)),
    (write_cityscapes_mini, dict(images=1)), (write_comma_mini, dict(test_drives=25)),
    (write_bdd_mini, dict(rate=4.0))])
def test_arguments_out_of_range_are_refused(tmp_path, write, bad):
    if write is write_comma_mini:
        pytest.importorskip('h5py', **HDF5)
    with pytest.raises(DataError, match=write.__name__):
        write(tmp_path / 'x', **bad)
    assert not (tmp_path / 'x').exists()
