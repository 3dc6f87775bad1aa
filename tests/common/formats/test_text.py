"""Text files; each error names the file and the line."""
import pytest

from perception.common.formats.text import read_json, read_json_lines, read_rows, read_text
from perception.utils.errors import DataError


def test_rows_and_objects_with_their_lines(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes(b'/a.jpg 1 0\r\n\n  /b.jpg\t0\n')
    assert read_rows(path) == [(f'{path}:1', ['/a.jpg', '1', '0']), (f'{path}:3', ['/b.jpg', '0'])]
    path.write_text('{"a": 1}\n\n{"a": [2]}')
    assert read_json_lines(path) == [(f'{path}:1', {'a': 1}), (f'{path}:3', {'a': [2]})]
    path.write_text('\n[1,\n2]')
    assert read_json(path, list) == [1, 2]


def test_what_is_wrong_is_named(tmp_path):
    path = tmp_path / 'a.txt'
    with pytest.raises(DataError, match=r'a\.txt: no such file, expected the list of roads'):
        read_text(path, 'the list of roads')
    with pytest.raises(DataError, match='not readable'):
        read_text(tmp_path)
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match=r'a\.txt: not readable'):
        read_rows(path)
    path.write_text(' \n')
    for read in (read_rows, read_json_lines):
        with pytest.raises(DataError, match=r'a\.txt: an empty file'):
            read(path)
    for text, message in (('{}\n{"a": }', r'a\.txt:2: no valid JSON'),
                          ('{}\n\n3', r'a\.txt:3: JSON of type int, expected an obj'),
                          ('[' * 100000, r'a\.txt:1: no valid JSON'), ('9' * 5000, r'a\.txt:1: no valid JSON')):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_json_lines(path)
    path.write_text('{}')
    with pytest.raises(DataError, match=r'a\.txt: JSON of type dict, expected an array'):
        read_json(path, list)
