"""CULane's lists, label images and lane files."""
import json

import cv2
import numpy as np
import pytest

from perception.lanes.datasets.culane import reader
from perception.lanes.datasets.culane.reader import CULane, read_categories, read_lanes, read_list
from perception.utils.errors import DataError


def test_lanes_are_the_points_of_the_file_and_labels_those_of_the_image(official):
    dataset = CULane(official('culane'), 'train')
    sample = dataset[0]['data_samples']
    assert [lane.tolist() for lane in sample.lanes] == [[[40, 58], [50, 48.5], [-60.25, 38]], [[100, 58], [90, 48]]]
    assert sample.sample_id == 'driver_161_30frame/05151649_0422.MP4/00000'
    path = dataset.data_root / 'laneseg_label_w16' / f'{sample.sample_id}.png'
    np.testing.assert_array_equal(sample.labels, cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    assert sample.exist.tolist() == [0, 1, 1, 0]
    empty = dataset[1]['data_samples']
    assert empty.lanes == [] and empty.exist.tolist() == [0] * 4 and not empty.labels.any()


def test_test_images_have_their_category(official):
    root = official('culane')
    assert [CULane(root, 'test')[i]['data_samples'].category for i in (0, 1)] == ['normal', 'cross']
    assert sorted(read_categories(root / 'list/test_split').values()) == ['cross', 'normal']
    (root / 'list/test_split/test7_cross.txt').unlink()
    assert 'category' not in CULane(root, 'test')[1]['data_samples']


def test_empty_lines_and_single_points_are_lanes_and_a_missing_file_is_none(official):
    root = official('culane')
    path = root / 'driver_37_30frame/05151649_0422.MP4/00003.lines.txt'
    path.write_text('10 20 30 \n\n-5 59\n')
    lanes = CULane(root, 'test')[0]['data_samples'].lanes
    assert [lane.tolist() for lane in lanes] == [[[10, 20]], [], [[-5, 59]]]
    path.unlink()
    assert CULane(root, 'test')[0]['data_samples'].lanes == []


def test_all_lanes_are_numbered_from_left_to_right(official):
    root = official('culane')
    lanes = [[(60 + 20 * k, 58), (80 + 2 * k, 20)] for k in (2, -3, 0, 3, -1, 1)]
    text = ''.join(' '.join(f'{u} {v}' for u, v in lane) + '\n' for lane in lanes) + '5 5\n\n'
    (root / 'driver_161_30frame/05151649_0422.MP4/00000.lines.txt').write_text(text)
    sample = CULane(root, 'train', all_lanes=True)[0]['data_samples']
    assert 'exist' not in sample and len(sample.lanes) == 8
    row = [0, *sample.labels[50].tolist()]
    found = [number for number, before in zip(row[1:], row) if number and number != before]
    assert set(found) == {1, 2, 3, 4, 5, 6} and found == sorted(found)


@pytest.mark.parametrize(('row', 'message'), [
    ('/a.jpg', r'train_gt\.txt:2: .*/a\.jpg.*expected /image\.jpg /label\.png e1 e2 e3 e4.*another list'),
    ('/a.jpg /a.png 0 1 1', r'train_gt\.txt:2: '),
    ('/a.jpg /a.png 0 1 2 0', r"train_gt\.txt:2: flags '0 1 2 0', expected 4 of 0 and 1"),
    ('/../../a.jpg /a.png 0 1 0 0', r"train_gt\.txt:2: the file name '/../../a\.jpg', expected one below"),
    ('/a.jpg /a.png 0 1 0 0 1 1', r'train_gt\.txt:2: .* with 6 flags'),
    ('/a.heic /a.png 0 0 0 0', r'train_gt\.txt:2: ')])
def test_wrong_lists_are_refused_with_their_line(official, row, message):
    root = official('culane')
    path = root / 'list/train_gt.txt'
    path.write_text(path.read_text().splitlines()[0] + f'\n{row}\n')
    with pytest.raises(DataError, match=message):
        CULane(root, 'train')


def test_lists_may_name_png_files_and_folders_with_spaces(official):
    root = official('culane')
    (root / 'driver_161_30frame').rename(root / 'driver 1 (copy)')
    (root / 'laneseg_label_w16/driver_161_30frame').rename(root / 'laneseg_label_w16/driver 1 (copy)')
    image = root / 'driver 1 (copy)/05151649_0422.MP4/00000.jpg'
    cv2.imwrite(str(image.with_name('day one.png')), cv2.imread(str(image)))
    image.with_name('00000.lines.txt').rename(image.with_name('day one.lines.txt'))
    text = (root / 'list/train_gt.txt').read_text().replace('driver_161_30frame', 'driver 1 (copy)')
    (root / 'list/train_gt.txt').write_text(text.replace('00000.jpg', 'day one.png', 1))
    sample = CULane(root, 'train')[0]['data_samples']
    assert sample.sample_id == 'driver 1 (copy)/05151649_0422.MP4/day one'
    assert len(sample.lanes) == 2 and sample.exist.tolist() == [0, 1, 1, 0]
    (root / 'list/test.txt').write_text('/driver 1 (copy)/05151649_0422.MP4/day one.png\n')
    (root / 'list/test_split/test0_normal.txt').write_text('driver 1 (copy)/05151649_0422.MP4/day one.png\n')
    assert CULane(root, 'test')[0]['data_samples'].category == 'normal'


def test_a_list_of_other_images_is_refused(official):
    root = official('culane')
    (root / 'list/test.txt').write_text('/driver_100_30frame/a.MP4/00000.jpg\n')
    with pytest.raises(DataError, match=r'00000\.jpg: no such file, expected the 1 images that .*test\.txt'):
        CULane(root, 'test')
    (root / 'list/test.txt').write_text('\n \n')
    with pytest.raises(DataError, match=r'test\.txt: an empty file'):
        CULane(root, 'test')
    (root / 'list/test.txt').unlink()
    with pytest.raises(DataError, match=r"test\.txt: no such file, expected CULane's list of test images"):
        CULane(root, 'test')


@pytest.mark.parametrize(('lost', 'message'), [
    ('driver_161_30frame/05151649_0422.MP4/00001.jpg', '2 images that .*train_gt.txt names, of which 1 are missing'),
    ('laneseg_label_w16', '2 label images that .*train_gt.txt names, of which 2 are missing')])
def test_files_that_were_not_unpacked_are_counted_before_a_training(official, lost, message):
    root = official('culane')
    (root / lost).rename(root / 'gone')
    with pytest.raises(DataError, match=f'no such file, expected the {message}'):
        CULane(root, 'train')


def test_without_the_lanes_of_any_image_there_is_no_score_of_them(official, monkeypatch):
    root, said = official('culane'), []
    monkeypatch.setattr(reader, 'print_log', lambda text, *_: said.append(text))
    for path in root.rglob('*.lines.txt'):
        path.unlink()
    assert 'lanes' not in CULane(root, 'test')[0]['data_samples'] and 'nor any of 2 of the test split' in said[0]
    assert CULane(root, 'train')[0]['data_samples'].exist.tolist() == [0, 1, 1, 0]  # learns from label images
    for split, all_lanes in (('val', False), ('train', True)):
        with pytest.raises(DataError, match=f'nor any of . of the {split} split, expected .*annotations_new'):
            CULane(root, split, all_lanes=all_lanes)
    (root / 'driver_37_30frame/05151649_0422.MP4/00003.lines.txt').touch()
    assert CULane(root, 'test')[1]['data_samples'].lanes == [] and 'as 1 of 2 of the test split' in said[1]


def test_label_images_that_do_not_fit(official):
    root = official('culane')
    dataset = CULane(root, 'train')
    path = dataset.samples[0][2]
    labels = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    for wrong, message in ((labels * 50, r'00000\.png: label 150 at \d+ pixels, expected 0\.\.4'),
                           (labels[:-1], r'labels of 58 x 164 pixels for an image of 59 x 164'),
                           (labels * 0, r'flags 0 1 1 0 for .* slots \[\]'),
                           (labels // 3 * 3, r'flags 0 1 1 0 for .* slots \[3\]'),
                           (labels.astype(np.uint16) * 500, 'uint16 numbers .*expected one channel of 8 bits'),
                           (np.dstack([labels, labels, labels + 1]), 'expected one channel')):
        cv2.imwrite(path, wrong)
        with pytest.raises(DataError, match=message):
            dataset[0]
    cv2.imwrite(path, labels * 0)
    assert not CULane(root, 'train', check_flags=False)[0]['data_samples'].labels.any()
    for right in (np.dstack([labels] * 3), labels.astype(np.uint16), labels.repeat(2, 0).repeat(2, 1)):
        cv2.imwrite(path, right)
        np.testing.assert_array_equal(dataset[0]['data_samples'].labels, labels)


def test_damaged_lane_files_name_the_line(official):
    root = official('culane')
    (root / 'driver_37_30frame/05151649_0422.MP4/00003.lines.txt').write_text('1 2 3 4\n5 x\n')
    with pytest.raises(DataError, match=r"00003\.lines\.txt:2: '5 x'"):
        CULane(root, 'test')[0]


def test_the_files_of_the_official_evaluator_are_read(shared):
    """Lanes of the golden set: as many as the official tool counted."""
    folder = shared / 'goldens' / 'culane_eval'
    images = json.loads((folder / 'per_image.json').read_text())
    names = [image['image'].lstrip('/').removesuffix('.jpg') for image in images]
    assert len(names) == 45
    for image, name in zip(images, names):
        assert len(read_lanes(folder / 'anno' / f'{name}.lines.txt')) == image['n_anno']


def test_text_files(tmp_path):
    path = tmp_path / 'a.lines.txt'
    assert read_lanes(path) == []
    for text, points in (('', []), ('\n', [0]), ('1 2 3 4 \n\n5 6 7', [2, 0, 1]), ('1.5 2e1\r\n', [1]),
                         ('1 2 3 4\r5 6\r', [3]), ('\ufeff1 2\n', [1]), ('1 2\x0b3\x0c4\n', [2])):
        path.write_bytes(text.encode())
        assert [len(lane) for lane in read_lanes(path)] == points
    for number, text in ((1, '1\x1c2'), (1, '1 b'), (2, '1 2\n3 nan\n'), (1, '1 1_0'), (1, 'inf 2')):
        path.write_text(text)
        with pytest.raises(DataError, match=f'a.lines.txt:{number}: '):
            read_lanes(path)
    path.write_bytes(b'1 \xff\n')
    with pytest.raises(DataError, match='not readable'):
        read_lanes(path)


def test_lists(tmp_path):
    with pytest.raises(DataError, match='no such file'):
        read_list(tmp_path / 'absent.txt')
    (tmp_path / 'list.txt').write_text('/a/b.jpg\n\n/c/d.jpg /x.png 1 1 0 0\n')
    assert read_list(tmp_path / 'list.txt') == ['a/b.jpg', 'c/d.jpg']
