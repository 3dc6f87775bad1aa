"""Files of one's own: what the rooms share when they find, pair and deal them."""
from pathlib import Path

import pytest

from perception.common import folders
from perception.utils.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path):
    """Files of two days; the numbers in their names order them, hidden files and folders are no files."""
    for name in ('b/10.pcd', 'b/9.PCD', 'a/b/1_2.pcd', '.trash/1.pcd', 'b/._9.pcd', 'b/list', 'b/9.npy'):
        (tmp_path / 'data' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'data' / name).touch()
    (tmp_path / 'data/c').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere/3.pcd').touch()
    return tmp_path / 'data'


@pytest.mark.parametrize(('pattern', 'ids'), [
    ('**/*.pcd', ['a/b/1_2', 'b/9', 'b/10', 'c/3']), ('*/*.pcd', ['b/9', 'b/10', 'c/3']), ('b/*.pcd', ['9', '10']),
    ('b/10.pcd', ['10']), ('*/b/*_*.pcd', ['a/1/2'])])
def test_the_stars_are_the_id(root, pattern, ids):
    files = folders.find(root, pattern, ['.pcd'], 'points')
    assert list(files) == ids and all(path.is_file() for path in files.values())
    stars = [folders.pair(root, path, pattern, pattern.replace('.pcd', '.npy'), 'labels') for path in files.values()]
    assert stars == [path.with_suffix('.npy') for path in files.values()]


def test_what_cannot_be_found_is_said(root):
    (root / 'b/9.pcd').touch()
    for pattern, error, words in (
            ('b/*.pcd', DataError, "'9' stands for the stars"), ('../*.pcd', ConfigError, 'below data_root'),
            ('/b/*.pcd', ConfigError, 'below data_root'), ('*.npy', ConfigError, r'points=.*end in \.pcd'),
            ('x/*.pcd', DataError, r'no file x/\*\.pcd in it \(files that end in \.PCD, \.npy, \.pcd are')):
        with pytest.raises(error, match=words):
            folders.find(root, pattern, ['.pcd'], 'points')
    with pytest.raises(DataError, match='no such folder .files that end in nothing'):
        folders.find(root / 'nowhere', '*.pcd', ['.pcd'], 'points')
    with pytest.raises(ConfigError, match='labels=.* with 2 stars .* with 1'):
        folders.pair(root, root / 'b/9.npy', 'b/*.npy', '*/*.npy', 'labels')


def test_files_are_dealt(caplog):
    ids = [f'{day}/{k}.5' for day in ('mon', 'tue') for k in range(5)]
    ways = {'mon': 5, './mon/': 5, '*/3.5': 2, 'tue/3.5.pcd': 1, 'tue/3.5': 1, '*': 10}
    for wanted, count in ways.items():
        assert len(folders.choose(ids, dict(val=wanted), 'val', Path('root'), 'Set')) == count
    dealt = [folders.choose(ids, None, split, Path('root'), 'Set') for split in ('train', 'val', 'test')]
    assert dealt == [[name for name in ids if name[4] != '4'], ['mon/4.5', 'tue/4.5'], ids]
    assert folders.choose(ids[:2], None, 'test', Path('root'), 'Set') == ids[:2]
    assert folders.choose(ids, dict(train='mon', val='gone'), 'train', Path('root'), 'Set') == ids[:5]
    for splits, split, error, words in (
            (dict(train='mon', val='*/3.5'), 'val', ConfigError, r'mon/3\.5 \(1 files\) stands in the splits'),
            (dict(train='mon', val='gone'), 'val', DataError, 'no file gone of the split val'),
            (None, 'trian', ConfigError, 'Did you mean train'), (dict(val=[]), 'val', DataError, 'names no file')):
        with pytest.raises(error, match=words):
            folders.choose(ids, splits, split, Path('root'), 'Set')
    with pytest.raises(DataError, match='4 files, expected at least 5'):
        folders.choose(ids[:4], None, 'train', Path('root'), 'Set')
