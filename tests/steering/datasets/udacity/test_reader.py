"""Udacity's challenge 2 in all forms that people have it in."""
import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.steering.datasets.udacity.bags import COLUMNS
from perception.steering.datasets.udacity.reader import EVALUATION, UdacityCh2, read_table
from perception.utils.errors import ConfigError, DataError

START = 1479425441182877835
STEP = 50_000_000  # ns


def row(k, folder='center', ending='jpg', **changes):
    """A row of interpolated.csv; the angle is k / 100 rad."""
    stamp = START + k * STEP
    cells = dict(index=f'2016-11-18 00:00:{k:02d}', timestamp=stamp, width=640, height=480, frame_id=f'{folder}_camera',
                 filename=f'{folder}/{stamp}.{ending}', angle=k / 100, torque=.1 * k, speed=5. + k,
                 lat=0, long=0, alt=0)
    return list(dict(cells, **changes).values())


def write(path: Path, rows, header=True, end='\n'):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='') as file:
        csv.writer(file, lineterminator=end).writerows([list(COLUMNS)] * header + rows)


def images(folder: Path, numbers, ending='jpg'):
    """Pictures of 32 x 24 pixels whose grey is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in numbers:
        cv2.imwrite(str(folder / f'{START + k * STEP}.{ending}'), np.full((24, 32, 3), k, np.uint8))


@pytest.fixture
def root(tmp_path):
    """Recordings HMB_1 (24 frames of three cameras) and HMB_2 (20), and 12 test frames."""
    for name, count in (('HMB_1', 24), ('HMB_2', 20)):
        rows = [row(k, camera) for k in range(count) for camera in ('left', 'center', 'right')]
        write(tmp_path / name / 'interpolated.csv', rows)
        images(tmp_path / name / 'center', range(count))
    images(tmp_path / 'test/center', range(12))
    lines = [f'{START + k * STEP},{k / 100},{k % 2}\n' for k in range(12)]
    (tmp_path / 'test' / EVALUATION).write_text(''.join(lines))
    return tmp_path


def clips(root, split='train', **options):
    return UdacityCh2(root, split, **dict(dict(clip_length=5, input_size=(12, 16), holdout=.2), **options))


def test_train_and_val_are_parts_of_each_recording(root):
    train, val = clips(root), clips(root, 'val')
    assert [len(r.frames) for r in train.recordings] == [19, 15] and [len(r.frames) for r in val.recordings] == [5, 5]
    item = val[0]
    sample = item['data_samples']
    assert item['inputs']['clip'].shape == (5, 3, 12, 16) and item['inputs']['clip'].dtype.is_floating_point is False
    assert np.allclose(sample.targets[:, 0], np.degrees(np.arange(19, 24) / 100), rtol=1e-6)
    assert np.allclose(sample.targets[:, 1:], [[.1 * k, 5 + k] for k in range(19, 24)])
    assert np.abs(item['inputs']['clip'].float().mean((1, 2, 3)) - np.arange(19, 24)).max() < 3
    assert sample.recording == 'HMB_1' and sample.frames[0] == str(START + 19 * STEP)
    assert sample.sample_id == f'HMB_1/{START + 19 * STEP}' and Path(sample.image_paths[4]).is_file()
    assert sample.first.tolist() == [True] + [False] * 4


def test_a_test_scores_each_frame_once(root):
    test = clips(root, 'test')
    frames = [frame for k in range(len(test)) for frame, scored in
              zip(test[k]['data_samples'].frames, test[k]['data_samples'].scored) if scored]
    assert frames == [str(START + k * STEP) for k in range(12)] and len(test) == 3
    last = test[2]['data_samples']
    assert last.scored.tolist() == [False] * 3 + [True] * 2 and last.public.tolist() == [1, 0, 1, 0, 1]
    assert np.isnan(last.targets[:, 1:]).all()


def test_clips_move_from_epoch_to_epoch_and_never_out_of_their_recording(root):
    train = clips(root)
    starts = {(epoch, k): train[epoch, k]['data_samples'].frames for epoch in range(6) for k in range(len(train))}
    assert len({tuple(frames) for frames in starts.values()}) > len(train)
    again = clips(root)
    assert all(again[key]['data_samples'].frames == frames for key, frames in starts.items())
    for frames in starts.values():
        assert (np.diff([int(frame) for frame in frames]) == STEP).all()


def test_frames_are_decoded_once(root, monkeypatch):
    seen = []
    train = clips(root)
    read = UdacityCh2.read_frames
    monkeypatch.setattr(UdacityCh2, 'read_frames', lambda self, r, i: seen.extend((r.name, k) for k in i) or
                        read(self, r, i))
    first = [train[e, k]['inputs']['clip'] for e in range(3) for k in range(len(train))]
    assert len(seen) == len(set(seen))
    none = clips(root, memory=0)
    assert all((none[e, k]['inputs']['clip'] == first[e * len(train) + k]).all()
               for e in range(3) for k in range(len(train)))


def test_a_gap_ends_a_recording(root):
    rows = [row(k) for k in range(10)] + [row(k) for k in range(40, 52)]
    write(root / 'HMB_2/interpolated.csv', rows)
    images(root / 'HMB_2/center', range(40, 52))
    train = clips(root)
    assert [r.name for r in train.recordings] == ['HMB_1', 'HMB_2_1', 'HMB_2_2']


def test_a_piece_too_short_between_gaps_is_left_out(root):
    write(root / 'HMB_2/interpolated.csv', [row(k) for k in (*range(10), 40, 41, 42, *range(80, 92))])
    images(root / 'HMB_2/center', (*range(40, 43), *range(80, 92)))
    for split in ('train', 'val'):
        assert [r.name for r in clips(root, split).recordings] == ['HMB_1', 'HMB_2_1', 'HMB_2_3']
    write(root / 'HMB_2/interpolated.csv', [row(k) for k in (0, 1, 40, 41)])
    with pytest.raises(DataError, match='HMB_2_1 has 2 frames'):
        clips(root)


@pytest.mark.parametrize('form', ['png', 'crlf', 'bom', 'no header', 'own order', '13 columns'])
def test_other_forms_of_the_list(root, form):
    folder = root / 'HMB_2'
    rows = [row(k) for k in range(20)]
    expected = clips(root, 'val')[1]['data_samples'].targets
    if form == 'png':  # the list names .jpg
        for path in (folder / 'center').iterdir():
            path.rename(path.with_suffix('.png'))
            cv2.imwrite(str(path.with_suffix('.png')), np.zeros((24, 32, 3), np.uint8))
    elif form == 'own order':
        order = [6, 5, 8, 7]
        write(folder / 'interpolated.csv', [[COLUMNS[i] for i in order], *[[r[i] for i in order] for r in rows]], False)
    elif form == '13 columns':
        rows = [[k, f'{k}:41.', '1.47943E+18', *r[2:]] for k, r in enumerate(rows)]  # as a spreadsheet mangles it
        write(folder / 'interpolated.csv', rows, False, '\r\n')
    else:
        write(folder / 'interpolated.csv', rows, form != 'no header', '\r\n' if form == 'crlf' else '\n')
        if form == 'bom':
            path = folder / 'interpolated.csv'
            path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    found = clips(root, 'val')[1]['data_samples'].targets
    assert np.allclose(found, expected)


def test_one_list_at_the_root(root, tmp_path):
    write(root / 'complete_dataset.csv', [[k, *row(k)] for k in range(30)], False)
    images(root / 'center', range(30))
    train = clips(root)
    assert [(r.name, len(r.frames)) for r in train.recordings] == [('complete_dataset', 24)]


def test_torque_and_speed_may_be_unknown(root):
    write(root / 'HMB_2/interpolated.csv', [row(k, torque='', speed='nan') for k in range(20)])
    targets = clips(root, 'val')[1]['data_samples'].targets
    assert np.isnan(targets[:, 1:]).all() and np.isfinite(targets[:, 0]).all()


@pytest.mark.parametrize(('change', 'message'), [
    (lambda rows: rows[3].__setitem__(6, 'nan'), r'csv:5: angle .nan'),
    (lambda rows: rows[3].__setitem__(6, ''), r'csv:5: angle'),
    (lambda rows: rows[3].__setitem__(6, 'left'), r'csv:5: angle'),
    (lambda rows: rows[3].__setitem__(6, '1e9'), r'csv:5: angle'),
    (lambda rows: rows[3].__setitem__(8, 'x'), r'csv:5: speed'),
    (lambda rows: rows.__setitem__(3, rows[3][:5]), r'csv:5: 5 columns, expected 12'),
    (lambda rows: rows[3].__setitem__(5, 'center/1.47943E+18.jpg'), r'csv:5: .1.47943E.18'),
    (lambda rows: rows[3].__setitem__(5, '../../x/1.jpg'), r'csv:5: the file name'),
    (lambda rows: rows.insert(3, rows[3]), r'csv:6: the same time stamp'),
    (lambda rows: rows.insert(1, rows.pop(4)), r'csv:4: an earlier time stamp'),
    (lambda rows: rows.extend([row(33)]), r'csv:22: no image .*\(1 of 21'),
    (lambda rows: rows.clear(), r'no frame of the centre'),
])
def test_damaged_lists_are_refused_with_their_row(root, change, message):
    rows = [row(k) for k in range(20)]
    change(rows)
    write(root / 'HMB_2/interpolated.csv', rows)
    with pytest.raises(DataError, match=message):
        clips(root)


@pytest.mark.parametrize(('text', 'message'), [
    ('', 'empty'), (f'{START}\n', '1 columns'), (f'{START},x,1\n', 'csv:1: angle'), (f'{START},0.1,2\n', "'2'"),
    ('1.47943E+18,0.1,1\n', 'time stamp'), (f'{START},0.1,1\n{START},0.1,0\n', 'csv:2: the same'),
    (f'{START + 1},0.1,1\n', 'csv:1: no image'), (f'{START},0.1,1\n', '1 frames, expected 5')])
def test_damaged_answers_are_refused(root, text, message):
    (root / 'test' / EVALUATION).write_text(text)
    with pytest.raises(DataError, match=message):
        clips(root, 'test')


def test_without_answers_a_test_can_be_submitted(root):
    (root / 'test' / EVALUATION).unlink()
    (root / 'test/center/._1479425441182877835.jpg').write_bytes(b'of a Mac')
    test = clips(root, 'test')
    assert len(test) == 3 and np.isnan(test[0]['data_samples'].targets).all()


def test_recordings_shorter_than_a_clip_are_refused(root):
    with pytest.raises(DataError, match='HMB_1 has 24 frames, expected 32 or more for clips of 16'):
        clips(root, clip_length=16)


def test_what_is_missing_is_said(tmp_path, root):
    with pytest.raises(DataError, match='HMB_1'):
        clips(tmp_path / 'nothing')
    (root / 'HMB_1/center').rename(root / 'HMB_1/images')
    with pytest.raises(DataError, match='24 of 24'):
        clips(root)


@pytest.mark.parametrize('options', [dict(split='tets'), dict(clip_length=0), dict(input_size=(3,)), dict(holdout=.9),
                                     dict(split='test', stride=9), dict(memory=-1)])
def test_arguments_that_cannot_be(root, options):
    with pytest.raises(ConfigError):
        clips(root, **options)


def test_a_copy_of_the_data_set_begins_with_no_frames(root):
    import pickle
    train = clips(root)
    train[0]
    again = pickle.loads(pickle.dumps(train))
    assert train.kept.known.any() and not again.kept.known.any()
    assert (again[0]['inputs']['clip'] == train[0]['inputs']['clip']).all()


def test_the_list_is_read_by_names(root):
    table = read_table(root / 'HMB_1/interpolated.csv')
    assert len(table.rows) == 24 and table.rows[0].endswith('interpolated.csv:3') and table.stamps[1] == START + STEP
