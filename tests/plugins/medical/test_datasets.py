"""Readers: both layouts, folds, splits, images of every kind, and what is wrong with tables."""
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from perception.plugins.medical.datasets.aptos.mini import write_aptos_mini
from perception.plugins.medical.datasets.aptos.reader import APTOS2019
from perception.plugins.medical.datasets.ham10000.mini import write_ham10000_mini
from perception.plugins.medical.datasets.ham10000.reader import CLASSES, HAM10000, TASK
from perception.plugins.medical.mini import class_counts, draw_sheet
from perception.plugins.medical.preprocessor import ViewPreprocessor
from perception.plugins.medical.transforms import RandomAffine, RandomMirror, RandomRightAngle, TwoViews
from perception.utils.errors import ConfigError, DataError

VIEWS = [TwoViews([RandomAffine(), RandomMirror()], [RandomRightAngle()])]


@pytest.fixture
def own(aptos, tmp_path):
    """A copy of the tiny APTOS 2019 to damage; returns its folder and the rows of train.csv."""
    shutil.copytree(aptos, tmp_path / 'aptos')
    return tmp_path / 'aptos', (tmp_path / 'aptos/train.csv').read_text().splitlines()


# --- splits ---
@pytest.mark.parametrize(('kind', 'name', 'classes', 'total'), [
    (APTOS2019, 'aptos', 5, 60), (HAM10000, 'ham10000', 7, 80)])
def test_folds_part_the_labelled_images(kind, name, classes, total, request):
    root = request.getfixturevalue(name)
    whole = kind(root, 'all', input_size=(32, 32))
    assert len(whole) == total and len(kind.METAINFO['classes']) == classes == len(set(whole.labels.tolist()))
    held = [kind(root, 'val', fold, input_size=(32, 32)) for fold in range(5)]
    assert sorted(name for part in held for name in part.ids) == sorted(whole.ids)
    rest = kind(root, 'train', 2, input_size=(32, 32))
    assert set(rest.ids) | set(held[2].ids) == set(whole.ids) and not set(rest.ids) & set(held[2].ids)
    sample = rest[1]
    assert sample['inputs']['image'].shape == (3, 32, 32) and sample['data_samples'].index == 1
    assert int(sample['data_samples'].label) == rest.labels[1] == whole.labels[whole.ids.index(rest.ids[1])]
    test = kind(root, 'test', input_size=(32, 32))
    assert len(test) == 2 and 'label' not in test[0]['data_samples'] and test.metainfo['sample_ids'] == test.ids


def test_both_layouts_of_ham10000_name_the_same(ham10000, tmp_path):
    root = write_ham10000_mini(tmp_path / 'other', train=80, test=2, size=48, layout='dataverse')
    first, second = HAM10000(ham10000, 'all'), HAM10000(root, 'all')
    assert first.ids == second.ids and first.labels.tolist() == second.labels.tolist()
    assert [HAM10000(part, 'val', folds='grouped').ids for part in (ham10000, root)][0] == \
        HAM10000(root, 'val', folds='grouped').ids
    assert np.array_equal(first.read(3)['image'], second.read(3)['image'])


def test_images_of_the_test_that_isic_scores(ham10000, tmp_path):
    root = shutil.copytree(ham10000, tmp_path / 'ham')
    with pytest.raises(DataError, match='Test_GroundTruth.csv: no such file'):
        HAM10000(root, 'scored')
    (root / f'{TASK}_Test_GroundTruth').mkdir()
    images = sorted((root / f'{TASK}_Test_Input').iterdir())
    names = [*(f'ISIC_{i:07d}' for i in range(7)), 'ISIC_0035068']  # the last one is in the table and does not count
    for name in names:
        shutil.copy(images[0], root / f'{TASK}_Test_Input' / f'{name}.jpg')
    rows = [','.join(map(str, (name, *np.eye(7)[i % 7]))) for i, name in enumerate(names)]
    table = root / f'{TASK}_Test_GroundTruth' / f'{TASK}_Test_GroundTruth.csv'
    table.write_text('\n'.join([f'image,{",".join(CLASSES)}', *rows]))
    scored = HAM10000(root, 'scored')
    assert scored.ids == names[:7] and scored.labels.tolist() == [*range(7)] and scored.official_size == 1511
    assert set(HAM10000(root, 'test').ids) > set(names)  # a submission holds it


def test_classes_of_ham10000_are_told_by_name(ham10000, tmp_path):
    root = shutil.copytree(ham10000, tmp_path / 'ham')
    table = root / f'{TASK}_Training_GroundTruth' / f'{TASK}_Training_GroundTruth.csv'
    rows = [line.split(',') for line in table.read_text().splitlines()]
    order = [0, *(1 + i for i in np.random.default_rng(0).permutation(7))]
    table.write_text('\n'.join(','.join(row[i] for i in order) for row in rows))
    assert HAM10000(root, 'all').labels.tolist() == HAM10000(ham10000, 'all').labels.tolist()
    (root / f'{TASK}_Training_LesionGroupings.csv').unlink()
    with pytest.raises(DataError, match="expected groups for folds='grouped'"):
        HAM10000(root, 'train', folds='grouped')


def test_grouped_folds_do_not_share_a_lesion(ham10000):
    lines = (ham10000 / f'{TASK}_Training_LesionGroupings.csv').read_text().splitlines()[1:]
    lesion = dict(line.split(',')[:2] for line in lines)
    parts = [{lesion[name] for name in HAM10000(ham10000, 'val', fold, folds='grouped').ids} for fold in range(5)]
    assert sum(map(len, parts)) == len(set().union(*parts)) < 80


@pytest.mark.parametrize(('change', 'match'), [
    (lambda rows: [f'{image},histopathology,{lesion}' for image, lesion, _ in rows], None),
    (lambda rows: [','.join(row) for row in rows[1:]], 'image,lesion_id'),
    (lambda rows: [','.join(row) for row in rows[:-2]], r'2 images have no lesion \(ISIC'),
    (lambda rows: [','.join(row) for row in rows[:-1]] + [f'{rows[-1][0]},,x'], '1 images have no lesion'),
    (lambda rows: [','.join(row) for row in [*rows, [rows[1][0], 'HAM_9', 'x']]], 'has two lesions')])
def test_lesions_are_told_by_name_and_all_there(ham10000, tmp_path, change, match):
    root = shutil.copytree(ham10000, tmp_path / 'ham')
    table = root / f'{TASK}_Training_LesionGroupings.csv'
    table.write_text('\n'.join(change([line.split(',') for line in table.read_text().splitlines()])))
    if match is None:
        assert HAM10000(root, folds='grouped').ids == HAM10000(ham10000, folds='grouped').ids
        return
    with pytest.raises(DataError, match=match):
        HAM10000(root, folds='grouped')


def test_official_sizes_are_those_of_the_published_folds(aptos, ham10000):
    assert [APTOS2019(aptos, 'val', fold).official_size for fold in range(5)] == [733, 733, 732, 732, 732]
    assert [APTOS2019(aptos, 'train', fold).official_size for fold in range(5)] == [2929, 2929, 2930, 2930, 2930]
    assert HAM10000(ham10000, 'train').official_size == 8012 and APTOS2019(aptos, 'test').official_size == 1928
    assert HAM10000(ham10000, 'train', folds='grouped').official_size is None


# --- views ---
def test_two_views_are_drawn_apart_and_depend_on_seed_epoch_and_index_alone(aptos):
    data = APTOS2019(aptos, 'train', input_size=(48, 48), pipeline=VIEWS, seed=3)
    first, again, later = data[0, 5], data[0, 5], data[1, 5]
    for key in ('image', 'second'):
        assert torch.equal(first['inputs'][key], again['inputs'][key])
        assert not torch.equal(first['inputs'][key], later['inputs'][key])
    assert not torch.equal(first['inputs']['image'], first['inputs']['second'])
    batch = ViewPreprocessor()(pseudo_collate([data[0, i] for i in range(3)]))['inputs']
    assert batch['images'].shape == batch['second']['images'].shape == (3, 3, 48, 48)
    assert batch['labels'].tolist() == data.labels[:3].tolist() and batch['index'].tolist() == [0, 1, 2]


def test_the_teacher_sees_all_right_angles():
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    seen = {RandomRightAngle()(dict(image=image, rng=np.random.default_rng(i)))['image'].tobytes() for i in range(99)}
    assert len(seen) == 8
    with pytest.raises(ConfigError, match='3 x 4 pixels, expected a square'):
        for i in range(9):
            RandomRightAngle()(dict(image=np.zeros((3, 4, 3), np.uint8), rng=np.random.default_rng(i)))


def test_affine_moves_little_and_mirrors_by_half():
    image = np.zeros((51, 51, 3), np.uint8)
    image[25, 25] = 255
    still = RandomAffine(0, 0)(dict(image=image, rng=np.random.default_rng(0)))['image']
    assert np.array_equal(still, image)
    for seed in range(20):
        moved = RandomAffine(10, .02)(dict(image=image, rng=np.random.default_rng(seed)))['image'][..., 0]
        row, column = np.unravel_index(moved.argmax(), moved.shape)
        assert abs(row - 25) <= 2 and abs(column - 25) <= 2
    image[:, 0] = 9
    mirrored = [RandomMirror()(dict(image=image, rng=np.random.default_rng(s)))['image'] for s in range(200)]
    assert {part.tobytes() for part in mirrored} == {image.tobytes(), image[:, ::-1].tobytes()}
    assert 70 < sum(part[0, 0, 0] == 9 for part in mirrored) < 130
    for kind, options, match in ((RandomAffine, dict(max_shift=2), 'max_shift=2'), (
            RandomAffine, dict(max_degrees=np.nan), 'max_degrees=nan'), (
            RandomMirror, dict(probability=50), 'probability=50')):
        with pytest.raises(ConfigError, match=match):
            kind(**options)


# --- images ---
@pytest.mark.parametrize(('shape', 'dtype'), [((20, 30), np.uint8), ((20, 30, 4), np.uint8), ((20, 30, 3), np.uint16),
                                              ((20, 30), np.uint16), ((1, 1, 3), np.uint8)])
def test_grey_transparent_and_deep_images_are_read_as_colour(own, shape, dtype):
    root, _ = own
    value = np.full(shape, 200 if dtype == np.uint8 else 200 << 8, dtype)
    data = APTOS2019(root, 'train', input_size=(32, 32))
    cv2.imwrite(data.paths[0], value)
    assert (data.read(0)['image'] == 200).all() and data.read(0)['image'].shape == (32, 32, 3)


def test_unreadable_images_are_named(own):
    root, _ = own
    data = APTOS2019(root, 'train', input_size=(32, 32))
    with open(data.paths[0], 'r+b') as file:
        file.truncate(200)
    with pytest.raises(DataError, match=f'{data.ids[0]}.png.*truncated or damaged'):
        data[0]


# --- tables ---
def test_copies_of_aptos_that_people_share_are_read(own):
    """Made smaller as .jpg and .jpeg, in a folder inside, with endings in the table, grades as 2.0, other columns."""
    root, rows = own
    whole, folder = APTOS2019(root, 'all', input_size=(32, 32)), root / 'train_images'
    before, names = [whole.read(i)['image'] for i in range(60)], sorted(path.stem for path in folder.iterdir())
    (folder / 'train_images').mkdir()
    for i, name in enumerate(names):
        image = cv2.imread(str(folder / f'{name}.png'))
        (folder / f'{name}.png').unlink()
        place, ending = folder / ('train_images' if i % 2 else ''), ('.JPG', '.jpeg', '.png')[i % 3]
        cv2.imwrite(str(place / f'{name}{ending}'), image)
    parts = [row.split(',') for row in rows[1:]]
    (root / 'train.csv').write_text('\n'.join(['n,id_code,diagnosis', *(
        f'{i},{name}{(".png", "")[i % 2]},{grade}.0' for i, (name, grade) in enumerate(parts))]))
    found = APTOS2019(root, 'all', input_size=(32, 32))
    assert found.ids == whole.ids and found.labels.tolist() == whole.labels.tolist()
    assert APTOS2019(root, 'val').ids == APTOS2019(root, 'val', folds='stratified').ids
    lost = [np.abs(found.read(i)['image'].astype(int) - before[i]).mean() for i in range(60)]
    assert max(lost) < 12  # by JPEG, not another image
    for name in names[:3]:  # of two files the one of the official kind
        cv2.imwrite(str(folder / f'{name}.png'), np.full((9, 9, 3), 7, np.uint8))
    again = APTOS2019(root, 'all', input_size=(32, 32))
    assert all((again.read(again.ids.index(name))['image'] == 7).all() for name in names[:3])


@pytest.mark.parametrize('name', ['HAM10000_metadata', 'HAM10000_metadata.tab'])
def test_ham10000_as_the_dataverse_hands_it_out(ham10000, tmp_path, name):
    root = write_ham10000_mini(tmp_path / 'other', train=80, test=2, size=48, layout='dataverse')
    table = (root / 'HAM10000_metadata.csv').rename(root / name)
    if name.endswith('.tab'):
        table.write_text(table.read_text().replace(',', '\t'))
    (root / 'images').mkdir()
    for part in (1, 2):
        (root / f'HAM10000_images_part_{part}').rename(root / f'images/part{part}')
    assert HAM10000(root, 'all').labels.tolist() == HAM10000(ham10000, 'all').labels.tolist()


@pytest.mark.parametrize(('change', 'match'), [
    (lambda rows: [*rows, '0123456789ab,1'], r'1 of 61 names have no image \(0123456789ab.png\)'),
    (lambda rows: [*rows, rows[1]], '1 names come twice'),
    (lambda rows: [row for row in rows if not row.endswith(',3')], 'no image of class 3 of 5'),
    (lambda rows: [*rows[:-1], rows[-1][:-1] + '7'], "the diagnosis '7', expected a grade 0..4"),
    (lambda rows: [*rows[:-1], rows[-1][:-1]], "the diagnosis '', expected"),
    (lambda rows: rows[:1], 'no rows below the header')])
def test_contradicting_tables_are_refused(own, change, match):
    root, rows = own
    (root / 'train.csv').write_text('\n'.join(change(rows)))
    with pytest.raises(DataError, match=match):
        APTOS2019(root, 'all')


@pytest.mark.parametrize(('change', 'match'), [
    (lambda line: line.replace('1.0', '0.0'), 'is of 0 classes'),
    (lambda line: line.replace('0.0', '1.0', 1), 'is of 2 classes'), (lambda line: line.replace('1.0', 'x'), "'x'"),
    (lambda line: line.replace('0.0', '-0.5', 1).replace('0.0', '0.5', 1), r'-0.5.*expected one, with 1.0')])
def test_rows_of_no_or_two_classes_are_refused(ham10000, tmp_path, change, match):
    root = shutil.copytree(ham10000, tmp_path / 'ham')
    table = root / f'{TASK}_Training_GroundTruth' / f'{TASK}_Training_GroundTruth.csv'
    rows = table.read_text().splitlines()
    table.write_text('\n'.join([*rows[:-1], change(rows[-1])]))
    with pytest.raises(DataError, match=match):
        HAM10000(root, 'all')


def test_a_class_of_one_sample_is_trained_and_tested_without(own):
    root, rows = own
    ends = [row for row in rows[1:] if row.endswith(',4')]
    (root / 'train.csv').write_text('\n'.join(row for row in rows if row not in ends[1:]))
    absent = [fold for fold in range(5) if 4 not in APTOS2019(root, 'train', fold).labels]
    assert len(absent) == 1 and 4 in APTOS2019(root, 'val', absent[0]).labels


def test_wrong_arguments_and_places_are_refused(aptos, tmp_path):
    with pytest.raises(ConfigError, match='fold=5, expected 0..4'):
        APTOS2019(aptos, fold=5)
    with pytest.raises(ConfigError, match="folds='lesions'"):
        APTOS2019(aptos, folds='lesions')
    for split in ('vall', 'scored'):
        with pytest.raises(ConfigError, match='split'):
            APTOS2019(aptos, split)
    with pytest.raises(DataError, match=r'kaggle.com/c/aptos2019.*--mini'):
        APTOS2019(tmp_path / 'nowhere')
    with pytest.raises(DataError, match=r'neither .*GroundTruth.csv nor HAM10000_metadata.csv'):
        HAM10000(tmp_path)
    with pytest.raises(DataError, match='ISIC2018_Task3_Test_Input'):
        HAM10000(tmp_path, 'test')


# --- simulated data ---
def test_simulated_classes_are_as_unequal_as_the_real_ones():
    counts = class_counts(350, (1113, 6705, 514, 327, 1099, 115, 142), 8)
    assert counts.sum() == 350 and counts.min() == 8 and counts.argmax() == 1 and counts[1] > 220
    assert CLASSES[1] == 'NV'


def test_the_same_seed_gives_the_same_bytes(aptos, tmp_path):
    again = write_aptos_mini(tmp_path / 'a', train=60, test=2, size=48)
    other = write_aptos_mini(tmp_path / 'b', seed=1, train=60, test=2, size=48)
    files = sorted(path.relative_to(aptos) for path in aptos.rglob('*.png'))
    assert len(files) == 62 and all((aptos / f).read_bytes() == (again / f).read_bytes() for f in files)
    assert (again / 'train.csv').read_text() != (other / 'train.csv').read_text()
    with pytest.raises(DataError, match='train=5'):
        write_aptos_mini(tmp_path / 'c', train=5)
    assert draw_sheet(again, tmp_path / 'sheet.png', APTOS2019, most=3, side=40).stat().st_size > 1000
