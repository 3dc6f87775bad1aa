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
            (['*.pcd'], ConfigError, 'points='), (None, ConfigError, 'points=None'),
            ('b/*.pcd', DataError, "'9' stands for the stars"), ('../*.pcd', ConfigError, 'below data_root'),
            ('/b/*.pcd', ConfigError, 'below data_root'), ('*.npy', ConfigError, r'points=.*end in \.pcd'),
            ('x/*.pcd', DataError, r'no file x/\*\.pcd in it \(files that end in \.PCD, \.npy, \.pcd are')):
        with pytest.raises(error, match=words):
            folders.find(root, pattern, ['.pcd'], 'points')
    with pytest.raises(DataError, match='no such folder with'):
        folders.find(root / 'nowhere', '*.pcd', ['.pcd'], 'points')
    with pytest.raises(ConfigError, match='labels=.* with 2 stars .* with 1'):
        folders.pair(root, root / 'b/9.npy', 'b/*.npy', '*/*.npy', 'labels')


DAYS = {f'{day}/{k}.5': Path(f'data/{day}/scans/{k}.5.pcd') for day in ('mon', 'tue') for k in range(5)}


def deal(splits, split='val', files=DAYS):
    return folders.choose(files, splits, split, Path('data'), 'Set')


@pytest.mark.parametrize(('wanted', 'count'), [
    ('mon', 5), ('./mon/', 5), ('mon/scans', 5), ('*/3.5', 2), ('*/scans/3.*', 2), ('tue/3.5.pcd', 1), ('tue/3.5', 1),
    ('*', 10), (['tue/scans/3.5.pcd', '/tue/scans/2.5', 'mon/scans/0.5.pcd'], 3), (Path('mon/3.5'), 1),
    ('[mt]*/3.5', 2), ({'mon', 'tue/1.5'}, 6)])
def test_a_split_names_ids_paths_patterns_and_folders(wanted, count):
    assert len(deal(dict(val=wanted))) == count


def test_numbers_name_ids_and_folders():
    files = {f'{k:06d}': Path(f'data/{k:06d}.pcd') for k in range(8)} | {'08/5': Path('data/08/5.pcd')}
    assert deal(dict(val=[5, 7, 8]), files=files) == ['000005', '000007', '08/5']
    assert deal(dict(val=0), files=files) == ['000000']
    for wanted, error in ((None, ConfigError), (0.8, ConfigError), (True, ConfigError), ({'a': 1}, ConfigError),
                          ([None], ConfigError), ([9], DataError), ('', DataError)):
        with pytest.raises(error, match='val'):
            deal(dict(val=wanted), files=files)


def test_brackets_and_question_marks(root):
    for name in ('x[1].pcd', 'x1.pcd', 'y[1]/7.pcd'):
        (root / 'b' / name).parent.mkdir(exist_ok=True)
        (root / 'b' / name).touch()
    files = folders.find(root, '**/*.pcd', ['.pcd'], 'points')
    for wanted, ids in (('b/x[1]', ['b/x[1]']), ('b/x[1].pcd', ['b/x[1]']), ('b/x[12]', ['b/x1']),
                        ('b/y[1]', ['b/y[1]/7']), ('b/?[1]', ['b/x[1]'])):
        assert folders.choose(files, dict(val=wanted), 'val', root, 'Set') == ids
    assert list(folders.find(root, 'b/??.pcd', ['.pcd'], 'points')) == ['10', 'x1']
    assert folders.pair(root, root / 'b/10.pcd', 'b/??.pcd', 'labels/*.npy', 'labels') == root / 'labels/10.npy'
    assert list(folders.find(root, './b/x[*].pcd', ['.pcd'], 'points')) == ['1']


def test_links_to_folders_of_the_same_root_are_followed_but_never_train_and_val_at_once(root):
    (root / 'train').symlink_to('b')
    (root / 'a/loop').symlink_to('..')
    files = folders.find(root, '**/*.pcd', ['.pcd'], 'points')
    assert list(files) == ['a/b/1_2', 'b/9', 'b/10', 'c/3', 'train/9', 'train/10']
    assert folders.choose(files, dict(val='train'), 'val', root, 'Set') == ['train/9', 'train/10']
    with pytest.raises(ConfigError, match=r'train/9 \(2 files\)'):
        folders.choose(files, dict(train='train', val='b'), 'train', root, 'Set')
    with pytest.raises(DataError, match='4 files, expected at least 5'):
        folders.choose(files, None, 'train', root, 'Set')


def test_files_are_dealt(caplog):
    dealt = [deal(None, split) for split in ('train', 'val', 'test')]
    assert dealt == [[name for name in DAYS if name[4] != '4'], *[['mon/4.5', 'tue/4.5']] * 2]
    few = dict(list(DAYS.items())[:4])
    assert deal(None, 'test', few) == list(few)
    assert deal(dict(train='mon', val='gone'), 'train') == list(DAYS)[:5]
    assert deal(dict(train='mon', val='tue'), 'test') == deal(dict(test='tue'), 'test') == list(DAYS)[5:]
    for splits, split, error, words in (
            (dict(train='mon', val='*/3.5'), 'val', ConfigError, r'mon/3\.5 \(1 files\) stands in the splits'),
            (dict(train='mon', val='gone'), 'val', DataError, 'no file gone of the split val'),
            (dict(train='mon'), 'test', ConfigError, "split='test', expected one of train"),
            (dict(val='mon/3.6'), 'val', DataError, 'no file mon/3.6'),
            (None, 'trian', ConfigError, 'Did you mean train'), (dict(val=[]), 'val', DataError, 'names no file')):
        with pytest.raises(error, match=words):
            deal(splits, split)
    with pytest.raises(DataError, match='4 files, expected at least 5'):
        deal(None, 'train', few)
