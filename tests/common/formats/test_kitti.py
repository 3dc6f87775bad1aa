"""Files of the KITTI odometry layout."""
import struct

import numpy as np
import pytest

from perception.common.formats import kitti
from perception.utils.errors import DataError


def test_points_are_four_little_endian_floats_without_a_header(tmp_path):
    path = tmp_path / '000000.bin'
    path.write_bytes(struct.pack('<8f', 1, 2, 3, 0.5, -4, -5, -6, 1))
    points = kitti.read_points(path)
    assert points.dtype == np.float32
    assert points.tolist() == [[1, 2, 3, 0.5], [-4, -5, -6, 1]]
    kitti.write_points(tmp_path / 'again.bin', points)
    assert (tmp_path / 'again.bin').read_bytes() == path.read_bytes()


@pytest.mark.parametrize('num_points', [0, 1])
def test_tiny_scans_are_read(tmp_path, num_points):
    kitti.write_points(tmp_path / 'a.bin', np.ones((num_points, 4)))
    assert kitti.read_points(tmp_path / 'a.bin').shape == (num_points, 4)


def test_truncated_scan_is_refused(tmp_path):
    path = tmp_path / '000007.bin'
    path.write_bytes(bytes(31))
    with pytest.raises(DataError, match=r'000007\.bin: 31 bytes, expected a multiple of 16 .*truncated'):
        kitti.read_points(path)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('column', [0, 3])
def test_values_that_are_not_finite_are_refused_with_file_and_row(tmp_path, value, column):
    points = np.zeros((6, 4), np.float32)
    points[4, column] = points[5, 1] = value
    kitti.write_points(tmp_path / 'a.bin', points)
    with pytest.raises(DataError, match=r'a\.bin: .* in row 4 \(2 such rows\), expected finite'):
        kitti.read_points(tmp_path / 'a.bin')


def test_missing_files_are_named(tmp_path):
    for read in (kitti.read_points, kitti.read_labels, kitti.read_calib, kitti.read_poses):
        with pytest.raises(DataError, match='absent: [Nn]o such file'):
            read(tmp_path / 'absent')


def test_labels_hold_semantic_and_instance_ids(tmp_path):
    path = tmp_path / '000000.label'
    path.write_bytes(struct.pack('<2I', 252 | 7 << 16, 40))
    labels = kitti.read_labels(path, 2)
    kitti.write_labels(tmp_path / 'again.label', labels)
    assert (tmp_path / 'again.label').read_bytes() == path.read_bytes()
    assert kitti.join_labels([252, 40], [7, 0]).tolist() == labels.tolist() == [252 | 7 << 16, 40]
    assert kitti.join_labels([65535], [65535]).tolist() == [2 ** 32 - 1]


def test_labels_must_be_as_many_as_points(tmp_path):
    path = tmp_path / 'a.label'
    path.write_bytes(bytes(12))
    with pytest.raises(DataError, match=r'a\.label: 3 labels for 4 points, expected equal numbers'):
        kitti.read_labels(path, 4)
    path.write_bytes(bytes(13))
    with pytest.raises(DataError, match=r'a\.label: 13 bytes, expected a multiple of 4'):
        kitti.read_labels(path)


def test_calib_poses_and_times_survive_a_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    calib = {name: rng.normal(size=(3, 4)) for name in ('P0', 'P1', 'P2', 'P3', 'Tr')}
    poses, times = rng.normal(size=(3, 4, 4)), np.array([0, 0.1037, 0.2075])
    poses[:, 3] = 0, 0, 0, 1
    kitti.write_calib(tmp_path / 'calib.txt', calib)
    kitti.write_poses(tmp_path / 'poses.txt', poses)
    kitti.write_times(tmp_path / 'times.txt', times)
    again = kitti.read_calib(tmp_path / 'calib.txt')
    assert list(again) == list(calib)
    for name, matrix in again.items():
        np.testing.assert_allclose(matrix, [*calib[name], [0, 0, 0, 1]], rtol=1e-12)
    np.testing.assert_allclose(kitti.read_poses(tmp_path / 'poses.txt'), poses, rtol=1e-12)
    np.testing.assert_allclose(np.loadtxt(tmp_path / 'times.txt'), times, rtol=1e-6)


def test_damaged_text_files_are_refused_with_the_line(tmp_path):
    path = tmp_path / 'poses.txt'
    row = ' '.join('1' * 12)
    path.write_text(f'{row}\n{row[:-2]}\n')
    with pytest.raises(DataError, match='line 2 is .*expected 12 numbers'):
        kitti.read_poses(path)
    path.write_text(f'P0: {row}\nTr: {row} x\n')
    with pytest.raises(DataError, match='line 2 is .*expected 12 numbers'):
        kitti.read_calib(path)
    path.write_bytes(b'\xff\xfe')
    with pytest.raises(DataError, match='text in UTF-16'):
        kitti.read_poses(path)


@pytest.mark.parametrize(('dtype', 'name'), [
    ('<f4', 'float32, '), ('>f4', 'float32 of the other'), ('>u4', 'uint32 of the other'), ('<i8', 'int64'),
    ('<f8', 'float64'), ('u1', 'uint8'), ('<u2', 'uint16')])
def test_labels_of_another_type_are_refused_by_name(tmp_path, dtype, name):
    path = tmp_path / 'a.label'
    np.array([40, 48, 70, 80] * 10, dtype).tofile(path)
    with pytest.raises(DataError, match=rf'a\.label: \d+ bytes that look like {name}'):
        kitti.read_labels(path, 40)


def test_no_labels_and_instances_are_labels_too(tmp_path):
    for labels in (np.zeros(40), np.arange(40) << 16 | 10, np.tile([0, 10], 20), np.full(40, 259)):
        kitti.write_labels(tmp_path / 'a.label', labels)
        assert (kitti.read_labels(tmp_path / 'a.label', 40) == labels).all()


def test_text_files_of_windows_and_the_date_of_a_calibration_are_read(tmp_path):
    row = ' '.join('1' * 12)
    path = tmp_path / 'a.txt'
    path.write_bytes(f'\ufeffcalib_time: 09-Jan-2012 13:57:47\r\nTr: {row}\r\n\r\n'.encode())
    assert list(kitti.read_calib(path)) == ['Tr']
    path.write_bytes(f'\ufeff{row}\r\n{row}\r\n\r\n\n'.encode())
    assert kitti.read_poses(path).shape == (2, 4, 4)


def test_huge_files_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / 'a.bin'
    with open(path, 'wb') as file:
        file.truncate(3 << 30)
    for read in (kitti.read_points, kitti.read_labels):
        with pytest.raises(DataError, match=r'a\.bin: 3,221,225,472 bytes, expected at most'):
            read(path)


@pytest.mark.parametrize('read', [kitti.read_calib, kitti.read_poses])
def test_texts_that_are_too_large_are_not_read(tmp_path, read):
    path = tmp_path / 'a.txt'
    with open(path, 'wb') as file:
        file.truncate(3 << 30)
    with pytest.raises(DataError, match=r'a\.txt: 3,221,225,472 bytes, expected .* of at most 16,777,216'):
        read(path)


def test_objects_and_their_calibration(tmp_path):
    path = tmp_path / '000000.txt'
    path.write_text('Car 0 0 0 1 2 3 4 1.5 1.6 4 1 2 9 0\nPedestrian 0 1 -1.3 9 8 7 6 1.8 0.7 0.9 -9 1.1 23 -1.77\n\n')
    np.testing.assert_allclose(kitti.read_objects(path), [[-9, 1.1, 23, .9, 1.8, .7, -1.77]])
    assert kitti.read_objects(path, ('Cyclist',)).shape == (0, 7) and len(kitti.read_objects(path, ('Car',))) == 1
    path.write_text('Pedestrian 0 1 -1.3 9 8 7 6 1.8 0.7 nan -9 1.1 23 -1.77\n')
    with pytest.raises(DataError, match='line 1 .*14 finite numbers'):
        kitti.read_objects(path)
    path.write_text(f'R0_rect: {" ".join(map(str, range(9)))}\n')
    np.testing.assert_array_equal(kitti.read_calib(path)['R0_rect'],
                                  [[0, 1, 2, 0], [3, 4, 5, 0], [6, 7, 8, 0], [0, 0, 0, 1]])
