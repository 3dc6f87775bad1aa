"""Arrays in `.npy` files."""
import numpy as np
import pytest

from perception.common.formats.arrays import read_npy
from perception.utils.errors import DataError


@pytest.mark.parametrize('values', [np.arange(20, dtype=np.uint8), np.arange(24, dtype='>f4').reshape(2, 3, 4),
                                    np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.float64(3), np.zeros((0, 4))])
def test_arrays_come_back(tmp_path, values):
    np.save(tmp_path / 'a.npy', values)
    found = read_npy(tmp_path / 'a.npy')
    assert found.dtype == values.dtype and found.shape == values.shape and (found == values).all()


def header(text):
    text = text.encode()
    return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text


@pytest.mark.parametrize(('data', 'message'), [
    (b'', r'no \.npy header'), (b'PK\x03\x04' + bytes(50), r'no \.npy header'),
    (b'\x93NUMPY\x07\x00', r'no \.npy header'),
    (header('{'), r'no \.npy header'), (header('[' * 9000), r'no \.npy header'),
    (header("{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000,), }"), '0 bytes for an array of shape'),
    (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }"), 'expected plain numbers'),
    (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + bytes(8), 'objects are never read'),
    (header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }") + bytes(4), 'expected plain numbers'),
    (header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }") + bytes(7), '7 bytes for an array of shape')])
def test_damage_is_named(tmp_path, data, message):
    (tmp_path / 'a.npy').write_bytes(data)
    with pytest.raises(DataError, match=f'a.npy: .*{message}'):
        read_npy(tmp_path / 'a.npy')


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / 'none.npy'):
        with pytest.raises(DataError, match='not readable'):
            read_npy(path)
