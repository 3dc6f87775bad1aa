from pathlib import Path

import pytest

from perception.utils.errors import ConfigError
from perception.utils.paths import data_path, from_root


def test_paths_do_not_depend_on_the_current_directory(root, tmp_path, monkeypatch):
    monkeypatch.delenv('PERCEPTION_DATA', raising=False)
    monkeypatch.chdir(tmp_path)
    assert from_root('work_dirs/x') == root / 'work_dirs/x'
    assert data_path('data/kitti') == root / 'data/kitti'
    assert data_path('/somewhere/kitti') == from_root('/somewhere/kitti') == Path('/somewhere/kitti')


def test_perception_data_replaces_the_leading_data(root, tmp_path, monkeypatch):
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path))
    assert data_path('data/kitti') == tmp_path / 'kitti'
    assert data_path('data') == tmp_path
    assert data_path('other/data/kitti') == root / 'other/data/kitti'
    assert data_path('/data/kitti') == Path('/data/kitti')


@pytest.mark.parametrize('value', [None, 5, '', ['data']])
def test_no_path_is_no_data_root(value):
    with pytest.raises(ConfigError, match='data_root='):
        data_path(value)
