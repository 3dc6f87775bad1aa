"""Images of one's own: tables, folders, folds by patient, named splits, and what is wrong with them."""
import shutil

import pytest

from perception.apis.config import load_config
from perception.plugins.medical.datasets.folder.reader import ClassFolder
from perception.utils.errors import ConfigError, DataError

TABLE = dict(classes=('naevus', 'melanoma', 'angioma'), table='photos.csv', image='photo', label='diagnosis',
             group='patient', input_size=(32, 32))


@pytest.fixture
def rows(class_folder):
    return [line.split(',') for line in (class_folder / 'photos.csv').read_text().splitlines()[1:]]


@pytest.fixture
def own(class_folder, tmp_path):
    """A copy to change: its folder, and what writes the rows of its table."""
    root = shutil.copytree(class_folder, tmp_path / 'own')
    lines = (root / 'photos.csv').read_text().splitlines()
    return root, lambda change: (root / 'photos.csv').write_text('\n'.join(change(lines)))


@pytest.fixture
def by_class(class_folder, rows, tmp_path):
    """The images in folders of their classes, of which the first 30 are for training."""
    for i, (_, name, kind, _) in enumerate(rows):
        place = tmp_path / 'sorted' / ('train' if i < 30 else 'test') / kind
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(class_folder / name, place)
    return tmp_path / 'sorted'


def test_a_table_names_images_classes_and_patients(class_folder, rows):
    whole = ClassFolder(class_folder, 'all', **TABLE)
    assert whole.ids == [name.rsplit('.', 1)[0] for _, name, _, _ in rows]
    assert [whole.metainfo['classes'][k] for k in whole.labels] == [kind for _, _, kind, _ in rows]
    assert whole[3]['inputs']['image'].shape == (3, 32, 32) and whole.official_size is None
    patient = dict(zip(whole.ids, (row[3] for row in rows)))
    held = [ClassFolder(class_folder, 'val', fold=fold, folds='grouped', **TABLE).ids for fold in range(5)]
    assert sorted(sum(held, [])) == sorted(whole.ids)
    assert sum(len({patient[name] for name in part}) for part in held) == len(set(patient.values())) < 40
    assert not set(held[1]) & set(ClassFolder(class_folder, 'train', fold=1, folds='grouped', **TABLE).ids)


def test_names_may_lack_folder_and_ending_and_classes_may_be_numbers(own, class_folder):
    root, write = own
    write(lambda lines: ['photo,diagnosis', *(
        f'{name.rpartition("/")[2].split(".")[0]},{len(kind) % 3}.0'
        for _, name, kind, _ in (line.split(',') for line in lines[1:]))])
    kinds = {0: 'a', 2: 'b', 1: 'c'}  # letters of naevus 6, melanoma 8, angioma 7
    found = ClassFolder(root, 'all', **dict(TABLE, classes=kinds, group=None, ordered=True))
    whole = ClassFolder(class_folder, 'all', **TABLE)
    assert found.ids == whole.ids and found.labels.tolist() == whole.labels.tolist()
    assert found.metainfo['classes'] == ('a', 'b', 'c') and found.metainfo['ordered']
    with pytest.raises(DataError, match="expected groups for folds='grouped'"):
        ClassFolder(root, 'val', folds='grouped', **dict(TABLE, classes=kinds, group=None))


def test_folders_name_classes_and_splits(by_class, class_folder):
    (by_class / 'unsorted').mkdir()
    shutil.copy(next((class_folder / 'north').iterdir()), by_class / 'unsorted')
    arguments = dict(classes=dict(melanoma='MM', naevus='NV', angioma='A'), input_size=(32, 32))
    whole = ClassFolder(by_class, 'all', **arguments)
    assert len(whole) == 40 and whole.metainfo['classes'] == ('MM', 'NV', 'A')
    assert all(f'/{("melanoma", "naevus", "angioma")[k]}/' in name for name, k in zip(whole.ids, whole.labels))
    parts = {split: ClassFolder(by_class, split, splits=dict(train='train', test='test', val='test/naevus'),
                                **arguments) for split in ('train', 'test', 'val')}
    assert [len(parts[split]) for split in ('train', 'test')] == [30, 10]
    assert set(parts['val'].labels.tolist()) == {1} and 'label' in parts['test'][0]['data_samples']
    with pytest.raises(ConfigError, match=r'split.*all'):
        ClassFolder(by_class, 'all', splits=dict(train='train', val='test'), **arguments)


@pytest.mark.parametrize(('change', 'match'), [
    (lambda lines: [*lines[:-1], lines[-1].replace(lines[-1].split(',')[2], 'mole')], "'mole', expected one of naevus"),
    (lambda lines: [*lines, '40,north/none.png,naevus,P1'], "'north/none.png' names no image"),
    (lambda lines: [*lines, lines[1]], '1 images come twice'),
    (lambda lines: [line for line in lines if 'angioma' not in line], "no image of class 'angioma'"),
    (lambda lines: lines[:1], "no image of class 'naevus'|no rows"),
    (lambda lines: [line.replace('photo,', 'foto,') for line in lines], "expected 'photo,diagnosis,patient'")])
def test_contradicting_tables_are_refused(own, change, match):
    root, write = own
    write(change)
    with pytest.raises(DataError, match=match):
        ClassFolder(root, 'all', **TABLE)


def test_names_that_fit_several_images_and_folders_of_other_names_are_refused(own, by_class):
    root, write = own
    shutil.copytree(root / 'north', root / 'more/north')
    write(lambda lines: [line.replace('north/', '').replace('south/', '') for line in lines])
    with pytest.raises(DataError, match=r"'0000.png' names .*north/0000.png and .*north/0000.png, expected one image"):
        ClassFolder(root, 'all', **TABLE)
    with pytest.raises(DataError, match=r"no image of class 'nevus'.*Did you mean naevus"):
        ClassFolder(by_class, 'all', classes=('nevus', 'melanoma'))
    for classes in ('ab', ('a',), ('a', 'a'), ()):
        with pytest.raises(ConfigError, match='expected two or more different ones'):
            ClassFolder(by_class, classes=classes)


def test_a_config_of_ones_own_inherits_the_method(tmp_path):
    path = tmp_path / 'clinic.py'
    path.write_text('''from mmengine.config import read_base
with read_base():
    from perception.configs.crckd.densenet121_folder import *
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader['dataset'].update(data_root='/data/clinic', classes=('ill', 'healthy'), table=None, group=None)
model['student'].update(num_classes=2)
model['teachers']['mean']['model'].update(num_classes=2)
''')
    cfg = load_config(path)
    assert cfg.test_dataloader.dataset.classes == ('ill', 'healthy') and cfg.model.student.num_classes == 2
    assert ClassFolder.describe(cfg.test_dataloader.dataset)['classes'] == ('ill', 'healthy')
