"""ApolloScape's colours, roads and records."""
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from perception.lanes.datasets.apolloscape.reader import (
    MARK_CLASSES,
    NUM_CLASSES,
    SCORED,
    TRAIN_TO_ID,
    ApolloScapeLaneMark,
    read_marks,
    train_ids,
)
from perception.utils.errors import ConfigError, DataError

OFFICIAL_IDS = [0, 200, 204, 213, 209, 206, 207, 201, 203, 211, 208, 216, 217, 215, 218, 219, 210, 232, 214, 202, 220,
                221, 222, 231, 224, 225, 226, 230, 228, 229, 233, 205, 212, 227, 223, 250, 249]
HASHES = [0, 1360, 580, 768, 255, 300, 680, 710, 312, 1509, 800, 1377, 880, 910, 1188, 128, 960, 1784, 1414, 1150, 512,
          1162, 950, 750, 1575, 708, 2111, 1848, 1071, 1204, 892, 639, 2040, 1524, 832, 1122, 1224, 2295]


def test_the_table_is_the_official_one():
    assert len(MARK_CLASSES) == 38 and len({entry.color for entry in MARK_CLASSES}) == 38
    assert [5 * b + 3 * g + r for r, g, b in (entry.color for entry in MARK_CLASSES)] == HASHES
    assert len(set(HASHES)) == 38
    assert TRAIN_TO_ID.tolist() == OFFICIAL_IDS
    assert [entry.train_id for entry in MARK_CLASSES] == [*range(37), 36]
    assert len(SCORED) == 18 and 0 in SCORED and 36 not in SCORED
    classes = ApolloScapeLaneMark.METAINFO['classes']
    assert len(classes) == NUM_CLASSES == len(set(classes)) and classes[16] == 's_w_p'


def test_colours_become_classes_and_ids():
    colors = np.array([[entry.color for entry in MARK_CLASSES]], np.uint8)
    ids = train_ids(colors, 'x')
    assert ids.dtype == np.uint8 and ids.tolist() == [[*range(37), 36]]
    assert TRAIN_TO_ID[ids][0].tolist() == [*OFFICIAL_IDS, 249]


def test_unknown_colours_are_counted_even_where_the_hash_is_a_known_one():
    colors = np.zeros((2, 3, 3), np.uint8)
    colors[0, 1], colors[1, 2], colors[1, 1] = (0, 85, 0), (0, 85, 0), (1, 2, 3)  # 3 x 85 = 255, as red
    with pytest.raises(DataError, match=r'a\.png: 2 unknown colours \(RGB \(0, 85, 0\) at 2 pixels, \(1, 2, 3\) at 1 '
                                        r'pixels\), expected the 38 colours'):
        train_ids(colors, 'a.png')


def test_splits(official):
    root = official('apolloscape')
    names = {split: [entry[0].split('/')[2] for entry in ApolloScapeLaneMark(root, split).samples]
             for split in ('train', 'val', 'test')}
    assert names == dict(train=['Record001', 'Record003'], val=['Record015'], test=['Record001'])
    shutil.copytree(root / 'ColorImage_road04', root / 'ColorImage_road03')
    shutil.copytree(root / 'Labels_road04', root / 'Labels_road03')
    dataset = ApolloScapeLaneMark(root, 'train', roads=('road02', 'road03', 'road04'))
    assert len(dataset) == 4  # Record015 of road03 trains
    with pytest.raises(ConfigError, match='expected a list such as'):
        ApolloScapeLaneMark(root, roads='road02')


def test_a_road_may_hold_nothing_but_the_records_of_val(official):
    root = official('apolloscape')
    shutil.rmtree(root / 'ColorImage_road04/ColorImage/Record003')
    assert [len(ApolloScapeLaneMark(root, split)) for split in ('train', 'val')] == [1, 1]


def test_labels_are_read_by_colour(official):
    root = official('apolloscape')
    sample = ApolloScapeLaneMark(root, 'val', crop_top=20)[0]['data_samples']
    full = sample.full_labels
    assert full.shape == (80, 96) and full[41, 0] == 1 and full[65, 25] == 7 and full[75, 60] == 36 and full[5, 5] == 0
    np.testing.assert_array_equal(sample.labels, full[20:])
    train = ApolloScapeLaneMark(root, 'train', crop_top=20)[0]['data_samples']
    np.testing.assert_array_equal(train.labels, sample.labels)
    assert 'full_labels' not in train


def test_half_size(official):
    dataset = ApolloScapeLaneMark(official('apolloscape'), 'val', crop_top=20, input_size=(30, 48))
    item = dataset[0]
    assert item['inputs']['image'].shape == (3, 30, 48)
    np.testing.assert_array_equal(item['data_samples'].labels, item['data_samples'].full_labels[20::2, ::2])


def test_unknown_colours_of_a_file(official):
    root = official('apolloscape')
    dataset = ApolloScapeLaneMark(root, 'train', crop_top=20)
    path = dataset.samples[0][2]
    labels = cv2.imread(path)
    labels[10, 10] = (1, 1, 1)
    cv2.imwrite(path, labels)
    dataset[0]  # training cuts this row off
    labels[30, 10] = (3, 2, 1)
    cv2.imwrite(path, labels)
    with pytest.raises(DataError, match=r'_bin\.png: 1 unknown colours \(RGB \(1, 2, 3\) at 1 pixels'):
        dataset[0]
    cv2.imwrite(path, labels[:-2])
    with pytest.raises(DataError, match='labels of 78 x 96 pixels for an image of 80 x 96'):
        dataset[0]


def test_images_without_labels_are_left_out_and_counted(official, monkeypatch):
    from perception.lanes.datasets.apolloscape import reader as apolloscape
    lines, root = [], official('apolloscape')
    monkeypatch.setattr(apolloscape, 'print_log', lambda text, *_: lines.append(text))
    next(root.glob('Labels_road04/Label/Record003/*/*_bin.png')).unlink()
    assert len(ApolloScapeLaneMark(root, 'train')) == 1
    assert '1 of 2 images of the train split have no labels and are left out' in lines[0]
    next(root.glob('Labels_road02/Label/Record001/*/*_bin.png')).unlink()
    with pytest.raises(DataError, match='no .*Labels_road02, expected the labels of ApolloScape'):
        ApolloScapeLaneMark(root, 'train')
    with pytest.raises(DataError, match='no .*ColorImage_road09.*, expected images of road09'):
        ApolloScapeLaneMark(root, 'train', roads=['road09'])


@pytest.mark.parametrize('form', ['palette', 'grey', '16 bits', 'equal channels', 'small palette'])
def test_label_images_of_ids_are_those_of_colours(official, form):
    root = official('apolloscape')
    before = ApolloScapeLaneMark(root, 'val', crop_top=20)[0]['data_samples'].full_labels
    for path in root.rglob('*_bin.png'):
        colors = Image.open(path)
        if form == 'small palette':  # as tools make it that make files smaller: indices are no ids
            colors.quantize(5).save(path)
            continue
        ids = Image.fromarray(TRAIN_TO_ID[train_ids(np.asarray(colors), path)])
        if form == 'palette':
            ids = ids.convert('P')
            ids.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        if form == '16 bits':
            ids = Image.fromarray(np.asarray(ids).astype(np.uint16))
        ids.convert('RGB' if form == 'equal channels' else ids.mode).save(path)
    sample = ApolloScapeLaneMark(root, 'val', crop_top=20)[0]['data_samples']
    np.testing.assert_array_equal(sample.full_labels, before)


def test_numbers_that_are_no_ids_are_refused(tmp_path):
    for dtype in (np.uint8, np.uint16):
        Image.fromarray(np.full((4, 4), 7, dtype)).save(tmp_path / 'x_bin.png')
        with pytest.raises(DataError, match=r'unknown colours \(RGB \(7, 7, 7\) at 16'):
            train_ids(read_marks(tmp_path / 'x_bin.png'), 'x_bin.png')


def test_official_images_of_ids(shared):
    folder = shared / 'real/apolloscape'
    path = sorted((folder / 'id_images').iterdir())[0]
    colors, = folder.rglob(f'Labels_road04/**/{path.name}')
    ours, theirs = (train_ids(read_marks(p), p) for p in (path, colors))
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) > 5


def test_linked_folders_are_followed_and_hidden_files_left_out(official, tmp_path):
    root = official('apolloscape')
    for folder in ('ColorImage_road02/ColorImage', 'Labels_road02/Label'):
        shutil.move(root / folder / 'Record001', tmp_path / folder.split('/')[1])
        (root / folder / 'Record001').symlink_to(tmp_path / folder.split('/')[1])
        (root / folder / 'Record001/again').symlink_to(root / folder)  # in a circle
    image = next((root / 'ColorImage_road02/ColorImage/Record001').glob('*/*.jpg'))
    image.with_name(f'._{image.name}').write_bytes(b'of a Mac')
    assert [entry[0].split('/')[2] for entry in ApolloScapeLaneMark(root).samples] == ['Record001', 'Record003']
