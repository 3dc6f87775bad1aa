"""Drives of one's own: lists of all kinds, units, times, tests, missing images, and what cannot be."""
import cv2
import numpy as np
import pytest

from perception.apis.config import load_config
from perception.steering.datasets.folder.reader import DriveFolder
from perception.steering.datasets.udacity.reader import UdacityCh2
from perception.utils.errors import ConfigError, DataError

SMALL = dict(clip_length=3, input_size=(16, 16), holdout=0.2)


@pytest.fixture
def drives(tmp_path):
    """Three recordings of 12 frames, whose pictures tell their number; gives what writes their lists."""
    for name in ('monday', 'friday', 'sunday'):
        (tmp_path / name / 'IMG').mkdir(parents=True)
        for i in range(12):
            cv2.imwrite(str(tmp_path / name / f'IMG/f{i:02d}.png'), np.full((20, 30, 3), 10 * i, np.uint8))

    def write(line, head='', file='log.csv'):
        for name in ('monday', 'friday', 'sunday'):
            (tmp_path / name / file).write_text('\n'.join([*([head] if head else []), *map(line, range(12))]) + '\n')
        return tmp_path
    return write


def whole(data):
    return np.concatenate([recording.targets for recording in data.recordings])


def test_columns_units_times_and_tests(drives):
    root = drives(lambda i: f'x,{1_700_000_000_000_000_000 + i * 50_000_000},IMG/f{i:02d}.png,{0.1 * i},{36 + i}',
                  'other,stamp,frame,wheel,kmh')
    options = dict(SMALL, table='**/log.csv', image='frame', angle='wheel', time='stamp', speed='kmh',
                   degrees=-57.29578, time_scale=1e-9, speed_scale=1 / 3.6, test='sun*')
    train, val, test = (DriveFolder(root, split, **options) for split in ('train', 'val', 'test'))
    assert [r.name for r in train.recordings] == [r.name for r in val.recordings] == ['friday', 'monday']
    assert [len(r.frames) for r in train.recordings] == [9, 9] and [r.name for r in test.recordings] == ['sunday']
    np.testing.assert_allclose(whole(test)[:, 0], -np.degrees(0.1 * np.arange(12)), rtol=1e-5)
    np.testing.assert_allclose(whole(test)[:, 2], (36 + np.arange(12)) / 3.6, rtol=1e-6)
    assert np.isnan(whole(test)[:, 1]).all()
    np.testing.assert_allclose(np.diff(test.recordings[0].times), 0.05, atol=1e-6)
    sample = test[1]
    assert (sample['inputs']['clip'].flatten(1)[:, 0] == torch_of([30, 40, 50])).all()
    assert sample['data_samples'].frames == ['f03', 'f04', 'f05'] and sample['data_samples'].scored.all()


def torch_of(values):
    import torch
    return torch.tensor(values, dtype=torch.uint8)


@pytest.mark.parametrize(('line', 'head', 'file', 'options'), [
    (lambda i: f'f{i:02d}.png {i}', 'photo wheel', 'data.txt', dict(table='**/data.txt', image=0, angle=1)),
    (lambda i: f'C:\\me\\IMG\\f{i:02d}.png,left,right,{i},0,0,30',
     'center,left,right,steering,throttle,brake,speed', 'driving_log.csv',
     dict(table='**/driving_log.csv', image=0, angle=3, speed=6)),
    (lambda i: f'f{i:02d};{i};2018-07-01 17:09:{i // 10:02d}.{i % 10}00', 'photo;wheel;day', 'a.csv',
     dict(image=0, angle=1, time=2)),
    (lambda i: f'f{i:02d}\t{i}', 'photo\twheel', 'a.tsv', dict(table='*/a.tsv', image=0, angle=1))])
def test_lists_of_all_kinds(drives, line, head, file, options):
    root = drives(line, file=file)
    found = DriveFolder(root, 'test', test=('sunday',), **SMALL, **options)
    assert whole(found)[:, 0].tolist() == [*range(12)] and found.recordings[0].frames[5] == 'f05'
    root = drives(line, head, file)
    assert whole(DriveFolder(root, 'test', test=('sunday',), **SMALL, **options))[:, 0].tolist() == [*range(12)]


def test_without_a_test_the_end_of_each_is_tested_and_gaps_end_a_recording(drives):
    root = drives(lambda i: f'f{i:02d},{i},{i + 9 * (i > 5)}', 'image,angle,time')
    options = dict(SMALL, time='time', time_scale=0.1)
    assert DriveFolder(root, 'test', **options).split == 'val' and len(DriveFolder(root, 'test', **options)) == 3
    pieces = DriveFolder(root, 'train', **dict(options, time_scale=0.2)).recordings
    assert [r.name for r in pieces] == [
        f'{name}/log_{k}' for name in ('friday', 'monday', 'sunday') for k in (1, 2)]


def test_rows_without_an_image(drives):
    root = drives(lambda i: f'f{i:02d},{i}', 'image,angle')
    for i in (3, 7):
        (root / f'monday/IMG/f{i:02d}.png').unlink()
    with pytest.raises(DataError, match=r"monday/log.csv:5: no image 'f03' below .*\(2 of 12 are missing"):
        DriveFolder(root, **SMALL)
    found = DriveFolder(root, 'test', test='monday', missing='drop', **SMALL)
    assert whole(found)[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    np.testing.assert_allclose(found.recordings[0].times[3:5], [.15, .2])


@pytest.mark.parametrize(('line', 'options', 'match'), [
    (lambda i: f'f{i:02d},{900 * i}', {}, r'log.csv:13: an angle of 9,900 deg, expected less than 2,000'),
    (lambda i: f'f{i:02d},{"" if i == 4 else i}', {}, r"log.csv:6: angle '', expected a number"),
    (lambda i: f'f{i:02d},nan', {}, r"log.csv:2: angle 'nan', expected a number"),
    (lambda i: f'f{i:02d},{i}', dict(angle='angel'), r"no column 'angel' of the angle among image, angle.*mean angle"),
    (lambda i: f'f{i:02d},{i}', dict(speed=7), r'no column 7 of the speed'),
    (lambda i: f'f{i:02d},{i}', dict(time='angle', angle='angle', time_scale=0.1), None),
    (lambda i: f'f{i:02d},{-i}', dict(time='angle'), r'log.csv:3: an earlier time stamp'),
    (lambda i: 'f01' if i == 2 else f'f{i:02d},{i}', {}, r'log.csv:4: too few values'),
    (lambda i: f'f{i:02d},{i}', dict(test='saturday'), r"test='saturday' names no recording.*sunday"),
    (lambda i: f'f{i:02d},{i}', dict(test='*'), 'test names all recordings'),
    (lambda i: f'f{i:02d},{i}', dict(degrees=0), 'degrees=0'),
    (lambda i: f'f{i:02d},{i}', dict(missing='no'), 'missing')])
def test_what_cannot_be(drives, line, options, match):
    root = drives(line, 'image,angle')
    if match is None:
        assert len(DriveFolder(root, **SMALL, **options))
        return
    with pytest.raises((ConfigError, DataError), match=match):
        DriveFolder(root, **SMALL, **options)


def test_a_config_of_ones_own(drives, tmp_path):
    path = tmp_path / 'dashcam.py'
    path.write_text('''from mmengine.config import read_base

from perception.steering.datasets.folder.reader import DriveFolder

with read_base():
    from perception.configs.steering.cnn_lstm_udacity import *
drives = dict(type=DriveFolder, data_root='/data/dashcam', table='**/log.csv', image='frame', angle='steering',
              rate=30.0, camera=dict(width=1280, height=720, focal=900, height_above_ground=1.2))
train_dataloader['dataset'] = dict(drives, split='train', seed=0)
val_dataloader['dataset'] = dict(drives, split='val')
test_dataloader['dataset'] = dict(drives, split='test')
submission = None
''')
    data = load_config(path).test_dataloader.dataset
    said = DriveFolder.describe(data)
    assert said['rate'] == 30 and said['camera']['focal'] == 900 and said['targets'] == DriveFolder.METAINFO['targets']
    for mini, rate in ((False, 20), (True, 5)):  # as the writer of the mini set writes it
        data = load_config('configs/steering/cnn_lstm_udacity.py', mini).test_dataloader.dataset
        assert UdacityCh2.describe(data)['rate'] == rate
