"""Names in the tables of nuScenes that cannot be those of files."""
from pathlib import Path

import pytest

from perception.common.nuscenes.tables import _other_problem, find_bad_name


@pytest.mark.parametrize('name', ['é' * 150 + '.png', 'x' * 300, '../x', '/x', 'maps/../../x', 'a\0', '', None, ['a']])
def test_a_file_name_is_one_below_the_root_in_bytes_that_a_disk_takes(name):
    assert 'map.json: the filename' in find_bad_name(Path('v1.0-mini'), dict(map=[dict(token='a', filename=name)]))
    assert not find_bad_name(Path('v1.0-mini'), dict(map=[dict(token='a', filename='maps/é ü.png')]))


def test_a_path_that_is_too_long_is_no_file(tmp_path):
    rows = dict(map=[dict(filename='/'.join(['é' * 100] * 40))])
    assert 'no such file' in _other_problem(tmp_path / 'v1.0-mini', rows)
