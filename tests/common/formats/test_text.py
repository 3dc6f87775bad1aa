"""Text files; each error names the file and the line."""
import json

import pytest

from perception.common.formats.text import read_json, read_json_array, read_json_lines, read_rows, read_text
from perception.utils.errors import DataError


def test_rows_and_objects_with_their_lines(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes(b'\xef\xbb\xbf/a.jpg 1 0\r\n\n  /b.jpg\t0\n')
    assert read_rows(path) == [(f'{path}:1', ['/a.jpg', '1', '0']), (f'{path}:3', ['/b.jpg', '0'])]
    path.write_text('{"a": 1}\n\n{"a": [2]}')
    assert read_json_lines(path) == [(f'{path}:1', {'a': 1}), (f'{path}:3', {'a': [2]})]
    path.write_text('\n{"a":\n2}')
    assert read_json(path) == {'a': 2}


def test_what_is_wrong_is_named(tmp_path):
    path = tmp_path / 'a.txt'
    with pytest.raises(DataError, match=r'a\.txt: no such file, expected the list of roads'):
        read_text(path, 'the list of roads')
    with pytest.raises(DataError, match='not readable'):
        read_text(tmp_path)
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match=r'a\.txt: not readable \(text in UTF-16'):
        read_rows(path)
    path.write_bytes(b'a b\n' + bytes(50))
    with pytest.raises(DataError, match=r'a\.txt: 50 zero bytes among 54, expected a list.*in part'):
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
    path.write_text('[]')
    with pytest.raises(DataError, match=r'a\.txt: JSON of type list, expected an object'):
        read_json(path)


def test_arrays_come_object_by_object(tmp_path):
    path = tmp_path / 'a.json'
    for text, found in (('[]', []), (' \n[ ]\n', []), ('[{"a": [1, "]"]} , \n{}]', [{'a': [1, ']']}, {}])):
        path.write_text(text)
        rows = list(read_json_array(path))
        assert [value for _, value, _ in rows] == found
        assert [where for where, _, _ in rows] == [f'{path}: item {k}' for k in range(len(found))]
        assert [json.loads(text) for _, _, text in rows] == found


@pytest.mark.parametrize(('text', 'message'), [
    ('', "'', expected an array"), ('{}', "'{}', expected an array"), ('[', 'item 0: no valid JSON'),
    ('[{}', r"item 0: followed by '', expected a comma or \]"), ('[{},', 'item 1: no valid JSON'),
    ('[{},]', 'item 1: no valid JSON'), ('[{} {}]', "item 0: followed by '{}]'"), ('[,{}]', 'item 0: no valid JSON'),
    ('[{}, 3]', 'item 1: JSON of type int, expected an object'), ('[{}, {"a": ]', 'item 1: no valid JSON'),
    ('[' + '[' * 100000, 'item 0: no valid JSON')])
def test_damaged_arrays_name_the_item(tmp_path, text, message):
    path = tmp_path / 'a.json'
    path.write_text(text)
    with pytest.raises(DataError, match=rf'a\.json: {message}'):
        list(read_json_array(path))
