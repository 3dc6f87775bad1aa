"""Comma.ai's HDF5 files, written here by h5py."""
import numpy as np
import pytest

from perception.steering.datasets.comma import reader
from perception.steering.datasets.comma.reader import TEST, CommaAI, read_log
from perception.utils.errors import ConfigError, DataError

h5py = pytest.importorskip('h5py', reason='h5py is not installed')
NAME = '2016-01-30--11-24-51'


def write(root, name=NAME, frames=30, lead=7, drop=(), **columns):
    """A recording at 20 Hz with a log at 100 Hz that begins `lead` rows early; the angle is that of the row's frame."""
    for folder in ('camera', 'log'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    with h5py.File(root / f'camera/{name}.h5', 'w') as file:
        pixels = np.zeros((frames, 3, 16, 32), np.uint8)
        pixels[:] = np.arange(frames)[:, None, None, None]
        pixels[:, 0] += 100
        file['X'] = pixels
    pointer = (np.arange(-lead, 5 * frames) // 5).astype(float)
    table = dict(steering_angle=10. * pointer, steering_torque=pointer + .5, speed=20 + pointer,
                 times=1000 + np.arange(len(pointer)) / 100, cam1_ptr=pointer, gas=0 * pointer)
    table.update(columns)
    with h5py.File(root / f'log/{name}.h5', 'w') as file:
        for key, values in table.items():
            if key not in drop:
                file[key] = values
    return root


def clips(root, split='train', **options):
    return CommaAI(root, split, **dict(dict(clip_length=4, input_size=(16, 32), holdout=.2), **options))


def test_frames_and_log_are_aligned_by_the_pointer(tmp_path):
    write(tmp_path)
    train, val = clips(tmp_path), clips(tmp_path, 'val')
    # frames 0 to 20 have a wheel within 200 degrees
    assert [len(r.frames) for r in (*train.recordings, *val.recordings)] == [17, 4]
    item = val[0]
    sample = item['data_samples']
    assert np.allclose(sample.targets, [[10. * k, k + .5, 20 + k] for k in range(17, 21)])
    assert item['inputs']['clip'][:, 0, 0, 0].tolist() == [117, 118, 119, 120]
    assert item['inputs']['clip'][:, 2, 0, 0].tolist() == [17, 18, 19, 20]
    assert np.allclose(np.diff(sample.timestamps), .05) and sample.frames[0] == '000017'


def test_the_official_alignment_spreads_rows_evenly(tmp_path):
    write(tmp_path, lead=50)
    _, exact, _ = read_log(tmp_path / f'log/{NAME}.h5', 30)
    _, spread, _ = read_log(tmp_path / f'log/{NAME}.h5', 30, 'linspace')
    rows = np.linspace(0, 199, 30).astype(int)
    assert np.allclose(exact[:, 0], 10 * np.arange(30)) and np.allclose(spread[:, 0], 10 * ((rows - 50) // 5))


def test_a_turned_wheel_ends_a_recording(tmp_path):
    angles = np.zeros(157)
    angles[7 + 60:7 + 70] = 300  # frames 12 and 13
    write(tmp_path, steering_angle=angles)
    train = clips(tmp_path)
    assert [(r.name, len(r.frames)) for r in train.recordings] == [(f'{NAME}_1', 8), (f'{NAME}_2', 12)]
    assert train.recordings[1].frames[0] == '000014'
    assert [len(r.frames) for r in clips(tmp_path, max_angle=360).recordings] == [24]


def test_the_official_recordings_are_the_test(tmp_path):
    for name in (NAME, *TEST):
        write(tmp_path, name)
    assert [r.name for r in clips(tmp_path, 'test').recordings] == [*TEST]
    assert [r.name for r in clips(tmp_path).recordings] == [NAME]
    test = clips(tmp_path, 'test')
    scored = sum(int(test[k]['data_samples'].scored.sum()) for k in range(len(test)))
    assert scored == 42


def test_a_recording_of_the_test_that_is_not_there_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(reader, 'print_log', lambda text, *_: said.append(text))
    for name in (NAME, TEST[0]):
        write(tmp_path, name)
    assert [len(clips(tmp_path, test=[TEST[0]]).recordings), said] == [1, []]
    assert len(clips(tmp_path, test=[TEST[0][:-1]]).recordings) == 2  # a wrong name: it is trained on
    assert len(said) == 1 and f'{TEST[0][:-1]} of the test are not among 2' in said[0]


def test_a_log_shorter_than_the_film_is_not_spread_over_it(tmp_path):
    write(tmp_path, drop=['cam1_ptr'], **{key: np.zeros(20) for key in ('steering_angle', 'steering_torque', 'speed')},
          times=np.arange(20.), gas=np.zeros(20))
    with pytest.raises(DataError, match='20 rows for 30 frames'):
        read_log(tmp_path / f'log/{NAME}.h5', 30, 'linspace')


@pytest.mark.parametrize(('options', 'message'), [
    (dict(drop=['steering_angle']), 'expected steering_angle too'), (dict(drop=['cam1_ptr']), 'expected cam1_ptr too'),
    (dict(steering_angle=np.append(np.zeros(156), np.nan)), 'row 156 of steering_angle is nan'),
    (dict(times=np.append(np.nan, np.arange(156) / 100)), 'row 0 of times is nan'),
    (dict(speed=np.zeros(5)), '5 of speed'), (dict(cam1_ptr=np.full(157, 900.)), '900'),
    (dict(cam1_ptr=np.arange(157)[::-1] // 5.), 'an earlier time stamp'),
    (dict(steering_angle=np.full(157, 500.)), '0 of 30 frames'), (dict(frames=7), '7 of 7 frames')])
def test_damaged_logs_are_refused(tmp_path, options, message):
    write(tmp_path, **options)
    with pytest.raises(DataError, match=message):
        clips(tmp_path)


def test_truncated_and_missing_files_are_refused(tmp_path):
    write(tmp_path)
    camera = tmp_path / f'camera/{NAME}.h5'
    data = camera.read_bytes()
    for cut in (data[:len(data) // 2], data[:30], b'', b'x' * 1000):
        camera.write_bytes(cut)
        with pytest.raises(DataError, match=r'camera/.*h5: [\d,]+ bytes that cannot be read'):
            clips(tmp_path)
    camera.write_bytes(data)
    with h5py.File(camera, 'a') as file:
        del file['X']
        file['Y'] = np.zeros(3)
    with pytest.raises(DataError, match='keys Y, expected X'):
        clips(tmp_path)
    camera.write_bytes(data)
    log = tmp_path / f'log/{NAME}.h5'
    for path, what in ((camera, 'a list of contents'), (log, 'steering_angle')):  # files that open all the same
        good = path.read_bytes()
        path.write_bytes(good.replace(b'HEAP', b'HEAT'))
        with pytest.raises(DataError, match=rf'{path.name}: {what} that cannot be read \('):
            clips(tmp_path)
        path.write_bytes(good)
    log.unlink()
    with pytest.raises(DataError, match='no such file'):
        clips(tmp_path)
    with pytest.raises(DataError, match='no .*camera'):
        clips(tmp_path / 'nothing')


def test_arguments_that_cannot_be(tmp_path):
    write(tmp_path)
    for options in (dict(align='exact'), dict(max_angle=0)):
        with pytest.raises(ConfigError):
            clips(tmp_path, **options)


def test_an_opened_data_set_goes_to_another_process(tmp_path):
    import pickle
    write(tmp_path)
    train = clips(tmp_path)
    first = train[0]['inputs']['clip']
    assert (pickle.loads(pickle.dumps(train))[0]['inputs']['clip'] == first).all()
