"""Names in the tables of nuScenes that cannot be those of files."""
from pathlib import Path

import pytest

from perception.common.nuscenes.tables import Block, check_maps
from perception.utils.errors import DataError


@pytest.mark.parametrize('name', ['é' * 150 + '.png', 'x' * 300, '../x', '/x', 'maps/../../x', 'a\0', '', None, ['a'],
                                  'a\ud800'])
def test_a_file_name_is_one_below_the_root_in_bytes_that_a_disk_takes(name):
    with pytest.raises(DataError, match='map.json: the filename'):
        Block(Path('map.json'), [dict(token='a', filename=name)]).texts('filename', names=True)
    good = Block(Path('map.json'), [dict(token='a', filename='maps/é ü.png')])
    assert good.names('filename').tolist() == ['maps/é ü.png']


def test_a_path_that_is_too_long_is_no_file(tmp_path):
    with pytest.raises(DataError, match='no such file'):
        check_maps(tmp_path, Block(Path('map.json'), [dict(token='a', filename='/'.join(['é' * 100] * 14))]))
