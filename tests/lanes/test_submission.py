"""The checks that several submissions share: files of a folder, images of a zip."""
import zipfile

import cv2
import numpy as np
import pytest

from perception.common.image_submission import check_files, check_zip, size_problem, write_png, write_zip
from perception.lanes.submission import LaneSubmission
from perception.utils.errors import DataError


def test_lanes_are_rounded_as_text_files_hold_them(tmp_path):
    writer = LaneSubmission(tmp_path)
    lane, = writer.lanes(dict(sample_id='a', pred_lanes=[[(1.23456, 5), (2, 4)]]))
    assert lane.tolist() == [[1.235, 5], [2, 4]]
    with pytest.raises(DataError, match='a has no pred_lanes'):
        writer.lanes(dict(sample_id='a'))


def test_files_of_a_folder(tmp_path):
    names = [f'deep/{i}.png' for i in range(3)]
    for name in names:
        write_png(tmp_path / name, np.full((4, 6), 7, np.uint8))
    assert (cv2.imread(str(tmp_path / names[0]), cv2.IMREAD_UNCHANGED) == 7).all()

    def check(names):
        return check_files(tmp_path, names, '*.png', lambda path: size_problem(path, (4, 6)))

    assert check(names) == []
    assert check(names[1:]) == ['deep/0.png is unknown'] and check([*names, 'x.png']) == ['x.png is missing']
    write_png(tmp_path / names[1], np.zeros((4, 7), np.uint8))
    (tmp_path / names[2]).write_bytes(b'text')
    problems = check(names)
    assert problems[0] == 'deep/1.png: 4 x 7 pixels, expected 4 x 6'
    assert problems[1].startswith('deep/2.png: ') and 'no image' in problems[1]


def test_images_of_a_zip(tmp_path):
    names = ['a.png', 'deep/b.png']
    for name in names:
        write_png(tmp_path / name, np.full((4, 6), 7, np.uint8))
    path = write_zip(tmp_path, names)
    assert check_zip(path, names, (4, 6), {7}) == []
    assert check_zip(path, ['a.png', 'c.png'], (4, 6), {7}) == ['c.png is missing', 'deep/b.png is unknown']
    for size, values, message in (((4, 7), {7}, 'expected one channel of 8 bits, 4 x 7'), ((4, 6), {0}, 'values [7]')):
        first, second = check_zip(path, names, size, values)
        assert first.startswith('a.png: ') and message in first and message in second


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_an_image_twice(tmp_path):
    write_png(tmp_path / 'a.png', np.full((4, 6), 7, np.uint8))
    assert check_zip(write_zip(tmp_path, ['a.png'] * 2), ['a.png'] * 2, (4, 6), {7}) == ['a.png is there 2 times']


def test_unreadable_zips(tmp_path):
    with pytest.raises(DataError, match='no such file'):
        check_zip(tmp_path / 'absent.zip', ['a'], (1, 1), {0})
    (tmp_path / 'a.zip').write_bytes(b'PK no zip')
    assert 'no readable zip' in check_zip(tmp_path / 'a.zip', ['a'], (1, 1), {0})[0]
    with zipfile.ZipFile(tmp_path / 'b.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a', bytes(100))
    good = (tmp_path / 'b.zip').read_bytes()
    at = good.index(b'PK\x01\x02')
    for offset, value in ((8, 1), (10, 99)):  # encrypted, an unknown compression; in both headers of the entry
        damaged = bytearray(good)
        damaged[at + offset] = damaged[offset - 2] = value
        (tmp_path / 'b.zip').write_bytes(damaged)
        assert 'no readable zip' in check_zip(tmp_path / 'b.zip', ['a'], (10, 10), {0})[0]
