"""Folds: the published ones, those of lesions, and files of them."""
import numpy as np
import pytest

from perception.plugins.medical.folds import grouped_folds, read_csv, read_folds, stratified_folds
from perception.utils.errors import ConfigError, DataError

APTOS, HAM = (1805, 370, 999, 193, 295), (1113, 6705, 514, 327, 1099, 115, 142)


def labels_of(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(range(len(counts)), counts))


@pytest.mark.parametrize(('counts', 'tested'), [(APTOS, [733, 733, 732, 732, 732]), (HAM, [2003] * 5)])
def test_published_folds_have_the_published_sizes(counts, tested):
    labels = labels_of(counts)
    folds = stratified_folds(labels)
    assert np.bincount(folds).tolist() == tested
    shares = np.stack([np.bincount(labels[folds == k], minlength=len(counts)) for k in range(5)])
    assert (abs(shares - np.array(counts) / 5) < 1).all()


@pytest.mark.parametrize('labels', [labels_of(APTOS), labels_of((7, 1, 12)), np.array([2, 2, 0, 0, 2, 2, 2, 1])])
@pytest.mark.filterwarnings('ignore:The least populated class')
def test_folds_are_those_of_scikit_learn(labels):
    selection = pytest.importorskip('sklearn.model_selection')
    folds = stratified_folds(labels)
    split = selection.StratifiedKFold(5, shuffle=True, random_state=2020).split(labels, labels)
    assert all(np.array_equal(np.flatnonzero(folds == k), test) for k, (_, test) in enumerate(split))


def test_no_lesion_stands_in_two_folds_and_classes_are_spread():
    labels = np.sort(labels_of(np.array(HAM) // 5))
    groups = [f'HAM_{y}_{i // 2 if i % 3 else i}' for i, y in enumerate(labels)]
    folds = grouped_folds(labels, groups)
    places = {}
    for group, fold in zip(groups, folds):
        places.setdefault(group, set()).add(int(fold))
    assert len(places) < len(labels) and all(len(found) == 1 for found in places.values())
    shares = np.stack([np.bincount(labels[folds == k], minlength=7) for k in range(5)])
    assert (abs(shares - np.bincount(labels) / 5) <= 2).all()
    assert np.array_equal(folds, grouped_folds(labels, groups))


@pytest.mark.parametrize('labels', [np.array([0, 1, 2]), np.array([], int)])
def test_too_few_samples_are_refused(labels):
    with pytest.raises(ConfigError, match='for 5 folds'):
        stratified_folds(labels)
    with pytest.raises(ConfigError, match='2 groups, expected 5'):
        grouped_folds(np.zeros(9, int), list('aabbaabba'))


@pytest.fixture
def files(tmp_path):
    """Writes fold files of ten images and reads them."""
    ids = [f'i{i}' for i in range(10)]

    def write(**changes):
        for fold in range(5):
            test = ids[2 * fold:2 * fold + 2]
            parts = dict(train=[name for name in ids if name not in test], test=test)
            for part, names in parts.items():
                names = changes.get(f'{part}{fold + 1}', names)
                (tmp_path / f'split{fold + 1}_{part}.csv').write_text(
                    '\n'.join(['id_code,diagnosis', *(f'{name},0' for name in names)]))
        return read_folds(tmp_path, ids)
    return write


def test_folds_of_files(files):
    assert files().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(('changes', 'match'), [
    (dict(test2=['i2', 'i99']), r'split2_test.csv: 1 images that the data set does not have \(i99\)'),
    (dict(test2=['i2', 'i0']), r'fold 2 1 images are trained and tested with \(i0\)'),
    (dict(test2=['i0', 'i1'], train2=[f'i{i}' for i in range(2, 10)]), 'fold 2 2 images are tested twice'),
    (dict(test5=['i8'], train5=[f'i{i}' for i in (*range(8), 9)]), r'1 images are never tested \(i9\)'),
    (dict(train4=['i0', 'i1']), 'fold 4 has 4 of 10 images')])
def test_folds_that_overlap_or_do_not_cover_are_refused(files, changes, match):
    with pytest.raises(DataError, match=match):
        files(**changes)


@pytest.mark.parametrize(('text', 'match'), [
    ('', 'nothing'), ('id,grade\na,1\n', "columns 'id,grade'"), ('id_code,diagnosis\na,1\nb\n', r':3: 1 values'),
    ('id_code,diagnosis\na,' + '9' * 200_000, 'no table'), (None, 'no such|not readable|No such')])
def test_damaged_tables_are_refused(tmp_path, text, match):
    path = tmp_path / 'train.csv'
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=match):
        read_csv(path, ('id_code', 'diagnosis'))
    path.write_text('\ufeffid_code,diagnosis\r\na , 1\r\n', encoding='utf-8')
    assert read_csv(path, ('id_code', 'diagnosis'))[1] == [['a', '1']]
    path.write_text(',diagnosis,id_code\n0,1,a\n')  # the order of columns is not the file's to tell what is what
    assert read_csv(path, ('id_code', 'diagnosis')) == (['id_code', 'diagnosis'], [['a', '1']])
    path.write_text('id_code,diagnosis,diagnosis\na,1,2\n')
    with pytest.raises(DataError, match="columns 'id_code,diagnosis,diagnosis'"):
        read_csv(path, ('id_code', 'diagnosis'))
