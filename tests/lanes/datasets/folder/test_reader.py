"""Folders of images and lanes of any size and form."""
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from perception.lanes.datasets.culane.metric import CULaneMetric
from perception.lanes.datasets.folder.labelling import middle
from perception.lanes.datasets.folder.reader import LaneFolder
from perception.utils.errors import ConfigError, DataError

SIZE = (108, 192)
FEET = (-40, 40, 150, 230)  # column of each lane at the last row; all end near (96, 40)


def lanes(size=SIZE, feet=FEET):
    """Straight lanes, the right one first."""
    rows = np.linspace(size[0] - 1, size[0] * .4, 12)
    share = (rows - rows[-1]) / (rows[0] - rows[-1])
    return [np.stack([size[1] * (.5 + (foot / 192 - .5) * (.1 + .9 * share)), rows], 1) for foot in feet[::-1]]


def text(found):
    return ''.join(' '.join(f'{n:.3f}' for n in lane.ravel()) + '\n' for lane in found)


def folder(root, names=('train/a', 'train/b', 'val/a', 'test/a'), size=SIZE, suffix='.jpg'):
    """Images with CULane's lines."""
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f'{name}{suffix}'), np.full((*size, 3), 40 + k, np.uint8))
        (root / f'{name}.lines.txt').write_text(text(lanes(size)))
    return root


SPLITS = dict(train='train', val='val', test='test')


def make(root, split='train', **more):
    return LaneFolder(root, split, **dict(dict(splits=SPLITS), **more))


def test_lines_become_slots_from_left_to_right(tmp_path):
    dataset = make(folder(tmp_path))
    assert [entry[0] for entry in dataset.samples] == ['train/a', 'train/b']
    sample = dataset[0]['data_samples']
    assert sample.original_shape == sample.label_shape == SIZE and len(sample.lanes) == 4
    assert sample.exist.tolist() == [1, 1, 1, 1]
    row = sample.labels[-1].numpy()
    assert row[40] == 2 and row[150] == 3 and row[100] == 0 and set(sample.labels[60].tolist()) == {0, 1, 2, 3, 4}
    assert (row == 2).sum() <= 4  # 16 of CULane's 1,640 columns are 2 of 192
    assert dataset.metainfo['classes'] == ('background', 'lane 1', 'lane 2', 'lane 3', 'lane 4')
    assert make(tmp_path, thickness=9)[0]['data_samples'].labels[-1].eq(2).sum() >= 9


@pytest.mark.parametrize(('num_lanes', 'slots'), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, [2, 3, 4, 5]),
                                                  (8, [3, 4, 5, 6])])
def test_the_number_of_lanes_is_free(tmp_path, num_lanes, slots):
    dataset = make(folder(tmp_path), num_lanes=num_lanes)
    sample = dataset[0]['data_samples']
    assert len(sample.lanes) == 4 and sample.exist.shape == (num_lanes,)
    assert (np.flatnonzero(sample.exist) + 1).tolist() == slots == sorted(set(sample.labels.unique().tolist()) - {0})
    described = LaneFolder.describe(dict(num_lanes=num_lanes))
    assert len(described['classes']) == len(described['palette']) == num_lanes + 1
    assert dataset.metainfo['classes'] == described['classes']
    assert set(make(tmp_path, all_lanes=True)[0]['data_samples'].labels.unique().tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize('form', ['palette', 'grey', 'twice as large'])
def test_label_images_have_lanes_in_the_middle_of_their_slots(tmp_path, form):
    root = folder(tmp_path)
    before = make(root)[0]['data_samples']
    for path in sorted(root.rglob('*.jpg')):
        labels = Image.fromarray(before.labels.numpy().astype(np.uint8))
        if form == 'palette':
            labels = labels.convert('P')
            labels.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 0])
        labels.resize((384, 216) if form == 'twice as large' else (192, 108), Image.Resampling.NEAREST
                      ).save(path.with_suffix('.png'))
    sample = make(root, labels='**/*.png')[0]['data_samples']
    assert (sample.labels == before.labels).all() and sample.exist.tolist() == [1] * 4
    metric = CULaneMetric()
    metric.process(None, [dict(before.all_items(), pred_lanes=sample.lanes)])
    assert metric.compute_metrics(metric.results)['f1_75'] == 1
    with pytest.raises(DataError, match=r'label 4 at .* expected 0\.\.3, .*instances=True'):
        make(root, labels='**/*.png', num_lanes=3)


def test_label_images_of_instances_have_their_slots_found(tmp_path):
    """LaneNet's, whose numbers say nothing of the place of a lane."""
    root = folder(tmp_path)
    before = make(root)[0]['data_samples']
    numbers = np.array([0, 120, 20, 170, 70], np.uint8)[before.labels.numpy()]
    numbers[:20] = 255
    for path in root.rglob('*.jpg'):
        cv2.imwrite(str(path.with_suffix('.png')), numbers)
    sample = make(root, labels='**/*.png', instances=True)[0]['data_samples']
    assert (sample.labels[20:] == before.labels[20:]).all() and (sample.labels[:20] == 255).all()
    assert sample.exist.tolist() == [1] * 4 and len(sample.lanes) == 4
    few = make(root, labels='**/*.png', instances=True, num_lanes=2)[0]['data_samples']
    assert set(few.labels.unique().tolist()) == {0, 1, 2, 255} and len(few.lanes) == 4
    every = make(root, labels='**/*.png', all_lanes=True)[0]['data_samples']
    assert set(every.labels.unique().tolist()) == {0, 20, 70, 120, 170, 255}
    with pytest.raises(DataError, match=r'label 170 at .* expected 0\.\.4, .*instances=True'):
        make(root, labels='**/*.png')


def test_ignored_pixels_and_masks_of_one_lane(tmp_path):
    root = folder(tmp_path)
    labels = np.zeros(SIZE, np.uint8)
    labels[50:, 30:34], labels[:20] = 2, 255
    for values, num_lanes, classes, count in ((labels, 4, {0, 2, 255}, 1), (255 * (labels == 2), 1, {0, 1}, 1),
                                              (labels == 2, 1, {0, 1}, 1)):
        for path in root.rglob('*.jpg'):
            cv2.imwrite(str(path.with_suffix('.png')), np.array(values, np.uint8))
        sample = make(root, labels='**/*.png', num_lanes=num_lanes)[0]['data_samples']
        assert set(sample.labels.unique().tolist()) == classes and sample.exist.sum() == len(sample.lanes) == count
        np.testing.assert_allclose(sample.lanes[0][:, 0], 31.5)


def test_what_is_ignored_is_no_lane_of_images_without_one(tmp_path):
    root, labels = folder(tmp_path), np.zeros(SIZE, np.uint8)
    labels[90:] = 255  # the bonnet
    for name in ('train/a', 'train/b', 'val/a', 'test/a'):
        cv2.imwrite(str(root / f'{name}.png'), labels)
    masks = make(root, 'val', labels='**/*.png', num_lanes=1)[0]['data_samples']
    assert set(masks.labels.unique().tolist()) == {0, 1} and masks.exist.tolist() == [1]
    labels[50:80, 30:34] = 1
    cv2.imwrite(str(root / 'train/a.png'), labels)  # of another split
    sample = make(root, 'val', labels='**/*.png', num_lanes=1)[0]['data_samples']
    assert set(sample.labels.unique().tolist()) == {0, 255} and sample.lanes == [] and sample.exist.tolist() == [0]


def test_the_middle_of_a_mask():
    mask = np.zeros((200, 30), bool)
    mask[20:181, 10:13] = True
    lane = middle(mask)
    assert lane[0].tolist() == [11, 180] and lane[-1].tolist() == [11, 20] and 40 < len(lane) <= 61
    assert (np.diff(lane[:, 1]) < 0).all() and middle(mask[:10]).shape == (0, 2)


def labelme(size, shapes):
    return json.dumps(dict(version='5.4.1', flags={}, imagePath='a.jpg', imageData=None, imageHeight=size[0],
                           imageWidth=size[1], shapes=shapes))


def test_labelme_is_read(tmp_path):
    root = folder(tmp_path)
    before = make(root)[0]['data_samples']
    strips = [dict(label='lane', points=lane[::-1].tolist(), shape_type='linestrip', group_id=None)
              for lane in before.lanes]
    around = [dict(label='lane', points=np.concatenate([lane - (2, 0), lane[::-1] + (2, 0)]).tolist(),
                   shape_type='polygon') for lane in before.lanes]
    other = [dict(label='car', points=[[1, 2], [3, 4]], shape_type='rectangle')]
    for shapes, more, atol in ((strips, {}, 1e-9), (around, {}, 4), (strips + other, dict(shapes=['lane']), 1e-9)):
        for path in root.rglob('*.jpg'):
            path.with_suffix('.json').write_text(labelme(SIZE, shapes))
        sample = make(root, labels='**/*.json', **more)[0]['data_samples']
        for ours, theirs in zip(sample.lanes, before.lanes):
            at = np.interp(ours[::-1, 1], theirs[::-1, 1], theirs[::-1, 0])
            np.testing.assert_allclose(ours[::-1, 0], at, atol=atol)
        assert sample.exist.tolist() == [1] * 4
    for content, message in ((labelme(SIZE, other), "'car' is a rectangle, expected a line of points"),
                             (labelme((50, 50), strips), 'made on an image of 50 x 50 pixels, expected 108 x 192'),
                             ('{"a": 1}', 'expected the list of labelme'),
                             (labelme(SIZE, [dict(points=[[1, 'x']], shape_type='line')]), r"points \[\[1, 'x'\]\]")):
        (root / 'train/a.json').write_text(content)
        with pytest.raises(DataError, match=message):
            make(root, labels='**/*.json')
    double = [dict(shape, points=(2 * np.array(shape['points'])).tolist()) for shape in strips]
    (root / 'train/a.json').write_text(labelme((216, 384), double))  # drawn on a larger copy
    np.testing.assert_allclose(make(root, labels='**/*.json')[0]['data_samples'].lanes[0], before.lanes[0])


def cvat(images, size=SIZE, shape='polyline', more=''):
    """CVAT's file of images, name -> lanes."""
    parts = ['<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task/></meta>']
    for k, (name, found) in enumerate(images.items()):
        shapes = [f'<{shape} label="lane" source="manual" occluded="0" points="'
                  f'{";".join(f"{u:.2f},{v:.2f}" for u, v in lane)}" z_order="0"></{shape}>' for lane in found]
        parts += [f'<image id="{k}" name="{name}" width="{size[1]}" height="{size[0]}">', *shapes, more, '</image>']
    return ''.join([*parts, '</annotations>\n'])


def test_cvat_is_read(tmp_path):
    root = folder(tmp_path)
    before, path = make(root)[0]['data_samples'], root / 'annotations.xml'
    names = ('train/a.jpg', 'train/b.jpg', 'val/a.jpg')
    drawn = [lane[::-1] for lane in before.lanes]
    around = [np.concatenate([lane - (2, 0), lane[::-1] + (2, 0)]) for lane in before.lanes]
    box = '<tag label="day"/><box label="car" xtl="1" ytl="2" xbr="3" ybr="4"></box>'
    for text, more, atol in (
            (cvat(dict.fromkeys(names, drawn)), {}, .01),
            (cvat(dict.fromkeys(names, around), shape='polygon'), {}, 4),
            (cvat(dict.fromkeys(names, drawn), more=box), dict(shapes=['lane']), .01),
            (cvat(dict.fromkeys(names, [2 * lane for lane in drawn]), (216, 384)), {}, .01)):
        path.write_text(text)
        sample = make(root, labels='annotations.xml', **more)[0]['data_samples']
        assert sample.exist.tolist() == [1] * 4
        for ours, theirs in zip(sample.lanes, before.lanes):
            np.testing.assert_allclose(ours[::-1, 0], np.interp(ours[::-1, 1], theirs[::-1, 1], theirs[::-1, 0]),
                                       atol=atol)
    path.write_text(cvat({'a': drawn, 'b.jpg': drawn}))  # a frame of a video, and an image without its folder
    alone = dict(images='train/*.jpg', labels='annotations.xml', splits=dict(train='*'))
    assert make(root, **alone)[1]['data_samples'].exist.sum() == 4
    with pytest.raises(DataError, match=r'a may be test/a\.jpg or train/a\.jpg, expected one image of each name'):
        make(root, labels='annotations.xml')
    twice = '<annotations><image name="a"/><image name="a"/></annotations>'
    for text, message in (
            (cvat(dict.fromkeys(names, drawn), (50, 50)), r'xml, train/a.jpg: made on an image of 50 x 50 .*108 x 192'),
            (cvat(dict.fromkeys(names, drawn), more=box), "box 6: 'car' is a box, expected a line of points"),
            (cvat({'train/a.jpg': [np.array([[1, np.nan]])]}), "polyline 1: points .*'nan'"),
            ('<annotations><track id="0"/></annotations>', 'tracks of a video, expected .* "CVAT for images'),
            ('<annotation><folder/></annotation>', '<annotation> without <image>, expected'),
            (cvat({'a.jpg': []})[:-20], 'no valid XML .*Export them again'), (twice, 'a second <image> of this name'),
            ('<!DOCTYPE x []>' + cvat({'a.jpg': []})[40:], r'no valid XML \(a DOCTYPE\)')):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            make(root, labels='annotations.xml', unlabelled='skip')


def test_images_without_labels_are_refused_left_out_or_without_lanes(tmp_path):
    root = folder(tmp_path, [f'{split}/{k}' for split in ('train', 'val', 'test') for k in range(40)])
    for path in [*root.glob('*/[1-3]*.lines.txt'), *root.glob('*/[4-9].lines.txt')]:
        path.unlink()  # 0 is labelled
    with pytest.raises(DataError, match=r"train/1\.jpg: no labels by .*39 of 40 .*unlabelled='skip' .*'empty'"):
        make(root)
    assert [len(make(root, split, unlabelled='skip')) for split in ('train', 'val', 'test')] == [1, 1, 1]
    dataset = make(root, unlabelled='empty')  # the one that has lanes is found
    assert [len(dataset[k]['data_samples'].lanes) for k in (0, 1)] == [4, 0] and len(dataset) == 40
    assert 'lanes' not in make(root, 'test')[1]['data_samples']
    assert make(root, 'test', unlabelled='empty')[1]['data_samples'].lanes == []
    (root / 'annotations.xml').write_text(cvat({'train/0.jpg': lanes(), 'train/1.jpg': []}))
    with pytest.raises(DataError, match=r"train/1\.jpg: no labels by 'annotations.xml' \(39 of 40"):
        make(root, labels='annotations.xml')


def test_absent_lanes_of_tusimples_form_are_none(tmp_path):
    """Tools fill their lists up to four lanes of -2, which a score would count as missed."""
    root, rows = folder(tmp_path), list(range(44, 108, 4))
    lane = [round(96 - (row - 40) / 2) for row in rows]
    records = [dict(raw_file=f'{name}.jpg', h_samples=rows, lanes=[lane, *3 * [[-2] * len(rows)]])
               for name in ('train/a', 'train/b')]
    (root / 'lanes.json').write_text('\n'.join(map(json.dumps, records)))
    assert [len(one) for one in make(root, labels='lanes.json')[0]['data_samples'].lanes] == [len(rows)]


def test_one_file_in_tusimples_form(tmp_path):
    root, rows = folder(tmp_path), list(range(44, 108, 4))
    records = [dict(raw_file=f'./{name}.jpg', h_samples=rows, lanes=[[round(96 + k * (row - 40) / 2) for row in rows]
                                                                  for k in (-1, 1)])
               for name in ('train/a', 'train/b', 'val/a')]
    (root / 'lanes.json').write_text('\n'.join(map(json.dumps, records)))
    sample = make(root, labels='lanes.json')[0]['data_samples']
    assert sample.exist.tolist() == [0, 1, 1, 0] and sample.lanes[0][0].tolist() == [64, 104]
    assert 'lanes' not in make(root, 'test', labels='lanes.json')[0]['data_samples']
    (root / 'lanes.json').write_text('\n'.join(map(json.dumps, [*records, dict(records[0], lanes=[])])))
    with pytest.raises(DataError, match='lanes.json:4: a second line of train/a.jpg'):
        make(root, labels='lanes.json')


def test_any_size_and_kind_of_image_is_scored_at_its_size(tmp_path):
    root = folder(tmp_path / 'a', ['train/b'], (1080, 1920), '.webp')
    root = folder(root, ['train/c'], (720, 1280), '.webp')
    for sample, size in zip((item['data_samples'] for item in make(root, images='**/*.webp', input_size=(32, 64))),
                            ((1080, 1920), (720, 1280))):
        assert sample.original_shape == size and sample.labels.shape == (32, 64)
        metric = CULaneMetric()
        for shift in (0, size[1] / 100, size[1] / 10):
            metric.process(None, [dict(sample.all_items(), pred_lanes=[lane + (shift, 0) for lane in sample.lanes])])
        assert [sum(iou > .5 for iou in result.ious) for result in metric.results] == [4, 2, 0]  # alike at both sizes


def test_images_that_were_scaled_since(tmp_path):
    root = folder(tmp_path, size=(540, 960))
    for path in root.rglob('*.jpg'):
        cv2.imwrite(str(path), np.zeros((270, 480, 3), np.uint8))
    with pytest.raises(DataError, match='270 x 480 pixels with lanes down to row 539'):
        make(root)[0]
    sample = make(root, image_size=(540, 960), crop_top=100)[0]['data_samples']
    assert sample.label_shape == (540, 960) and sample.crop_top == 50
    np.testing.assert_allclose(sample.lanes[0], lanes((540, 960))[0] / 2, atol=1e-3)
    for path in root.rglob('*.lines.txt'):  # what is told counts, however near to the horizon the lanes end
        path.write_text('100 260 120 220\n')
    assert make(root, image_size=(540, 960))[0]['data_samples'].lanes[0][0].tolist() == [50, 130]
    with pytest.raises(DataError, match=r'270 x 480 pixels, expected the shape of image_size=\(500, 960\)'):
        make(root, image_size=(500, 960))[0]


def test_splits_are_folders_lists_or_each_fifth(tmp_path):
    root = folder(tmp_path, [f'{day}/{k}' for day in ('mon', 'tue') for k in range(5)])
    (tmp_path / 'mon/._0.jpg').write_bytes(b'of a Mac')
    (root / 'test.txt').write_text('/tue/3.jpg\r\n\r\n./tue/4\r\n')
    splits = dict(train=['mon/[0-3]'], val='tue/1', test='test.txt')
    found = {split: [entry[0] for entry in make(root, split, splits=splits).samples] for split in splits}
    assert found == dict(train=['mon/0', 'mon/1', 'mon/2', 'mon/3'], val=['tue/1'], test=['tue/3', 'tue/4'])
    assert [len(make(root, split, splits=None)) for split in ('train', 'val', 'test')] == [8, 2, 2]
    with pytest.raises(ConfigError, match='mon/0 .* stands in the splits train and val'):
        make(root, splits=dict(train='mon/', val='mon/0'))
    with pytest.raises(DataError, match='no file wed of the split val'):
        make(root, 'val', splits=dict(train='mon', val='wed'))


def test_numbers_order_images_and_endings_may_be_capital(tmp_path):
    root = folder(tmp_path, ['train/10', 'train/9', 'train/9²'], suffix='.JPG')
    (root / 'labels').mkdir()
    for path in root.rglob('*.lines.txt'):
        path.rename(root / 'labels' / path.name)
    dataset = make(root, images='train/*.jpg', labels='labels/*.lines.txt', splits=dict(train=['9', '10', '9²']))
    assert [entry[0] for entry in dataset.samples] == ['9', '9²', '10'] and len(dataset[0]['data_samples'].lanes) == 4


def test_what_cannot_be_is_said_at_once(tmp_path):
    root = folder(tmp_path)
    for more, message in ((dict(labels='**/*.csv'), 'labels=.*expected a pattern that ends in .lines.txt'),
                          (dict(unlabelled='all'), 'unlabelled'), (dict(labels='**/*.xml'), 'Name it without stars'),
                          (dict(images='**/*.npy'), 'LaneFolder: images='), (dict(images='../*.jpg'), 'images='),
                          (dict(labels='*.lines.txt'), r'1 stars for .* with 2'), (dict(num_lanes=0), 'num_lanes=0'),
                          (dict(labels=None), 'labels=None for the split train'), (dict(image_size=(5,)), 'image_size'),
                          (dict(image_size='(1080,1920)'), r"image_size='\(1080,1920\)'"),
                          (dict(image_size=5), 'image_size=5'), (dict(splits=3), 'splits=3, expected a dict'),
                          (dict(splits=dict(train=0.3)), 'splits='),
                          (dict(image_size=(5, None)), 'image_size'), (dict(crop_top='a'), "crop_top='a'"),
                          (dict(labels='all.png'), 'expected a star'), (dict(thickness=-1), 'thickness=-1'),
                          (dict(thickness='x'), "thickness='x'")):
        with pytest.raises(ConfigError, match=message):
            make(root, **more)
    with pytest.raises(DataError, match=r'no file \*\*/\*\.png in it \(files that end in \.jpg, \.txt'):
        make(root, images='**/*.png')
    (root / 'train/b.lines.txt').unlink()
    with pytest.raises(DataError, match=r'b\.jpg: no labels .*1 of 2 images have none.*unlabelled'):
        make(root)
    for name in 'ab':
        (root / f'train/{name}.lines.txt').write_text('')
    with pytest.raises(DataError, match='no lane in the labels of 2 training images'):
        make(root)


def test_turned_photos_are_refused_as_training_images(tmp_path):
    root = folder(tmp_path)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new('RGB', SIZE[::-1]).save(root / 'train/a.jpg', exif=exif)
    with pytest.raises(DataError, match='EXIF orientation 6.*Turn the pixels'):
        make(root)[0]
