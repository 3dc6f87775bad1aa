from pathlib import Path

import pytest

from perception.utils.errors import ConfigError
from perception.utils.paths import data_path, from_root, missing_files


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


def test_missing_files_are_those_that_are_not_there(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/1.bin').touch()
    (tmp_path / 'b').touch()  # a file where a folder is expected
    (tmp_path / 'linked').symlink_to(tmp_path / 'a')
    files = ['a/1.bin', 'a/2.bin', 'b/1.bin', 'c/d/1.bin', 'linked/1.bin', 'b']
    assert missing_files(files, tmp_path) == ['a/2.bin', 'b/1.bin', 'c/d/1.bin']
    assert missing_files([f'{tmp_path}/{file}' for file in files[:2]]) == [f'{tmp_path}/a/2.bin']
