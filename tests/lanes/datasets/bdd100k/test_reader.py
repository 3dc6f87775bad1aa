"""BDD100K's two protocols, the pairing of border lines and their curves."""
import json

import cv2
import numpy as np
import pytest

from perception.lanes.datasets.bdd100k.metric import BDD100KOfficialMetric
from perception.lanes.datasets.bdd100k.reader import (
    BDD100K,
    centre_lines,
    curve,
    mask_labels,
    parse_lines,
    thin,
    to_mask,
)
from perception.lanes.datasets.bdd100k.submission import BDD100KSubmission
from perception.lanes.draw import drawable
from perception.utils.errors import ConfigError, DataError


def straight(bottom, top=(640, 300), steps=9):
    return np.linspace((bottom, 719), top, steps)


def test_two_border_lines_become_their_centre_line():
    left, right = straight(300), straight(330, (644, 300), 5)[::-1]
    (line,) = centre_lines([left, right], ['white'] * 2)
    assert line[0, 1] > line[-1, 1]
    assert line[0, 1] > 705 and line[-1, 1] < 302
    middle = 315 + (719 - line[:, 1]) * (642 - 315) / (719 - 300)  # half-way between the two at each row
    np.testing.assert_allclose(line[:, 0], middle, atol=1)


def test_lines_of_other_kinds_or_far_away_stay_single():
    lines = [straight(300), straight(330), straight(900, (660, 300))]
    assert len(centre_lines(lines, ['a', 'b', 'a'])) == 3
    assert len(centre_lines(lines, ['a', 'a', 'a'])) == 2
    assert len(centre_lines(lines[:2], ['a', 'a'], max_distance=5)) == 2
    np.testing.assert_array_equal(centre_lines([straight(300)[::-1]], ['a'])[0], straight(300))
    assert centre_lines([], []) == []


def test_the_nearest_lines_are_paired():
    lines = [straight(300), straight(350, (655, 300)), straight(370, (661, 300)), straight(420, (676, 300))]
    def at_row_600(**kwargs):
        return sorted(np.interp(-600, -line[:, 1], line[:, 0]) for line in centre_lines(lines, 'aaaa', **kwargs))

    places = [np.interp(-600, -line[:, 1], line[:, 0]) for line in lines]
    inner, outer = (places[1] + places[2]) / 2, (places[0] + places[3]) / 2
    np.testing.assert_allclose(at_row_600(max_distance=70), [inner, outer], atol=3)  # 1 with 2, then 0 with 3
    np.testing.assert_allclose(at_row_600(max_distance=40), [places[0], inner, places[3]], atol=1)


def test_a_shorter_partner_ends_the_pair():
    short = straight(330)[:5]  # the lower half
    (line,) = centre_lines([straight(300), short], 'aa')
    assert line[-1, 1] > 480
    points = centre_lines([np.array([[5.0, 6.0]]), np.array([[9.0, 6.0]])], 'aa')
    np.testing.assert_array_equal(points[0], [[7, 6]] * len(points[0]))


def test_curves_are_cubic_beziers():
    vertices = np.array([[0, 0], [10, 0], [10, 10], [0, 10], [0, 20.0]])
    points = curve(vertices, 'LCCLL')
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [0, 20] and points[-2].tolist() == [0, 10]
    for k, point in enumerate(points[1:-1], 1):
        t = k / 16
        weights = [(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t ** 2, t ** 3]
        np.testing.assert_allclose(point, sum(w * v for w, v in zip(weights, vertices[:4])))
    np.testing.assert_array_equal(curve(vertices[:4], 'CCCL'), points[:-1])  # official files type the first point so
    np.testing.assert_array_equal(curve(vertices, 'LLLLL'), vertices)
    np.testing.assert_array_equal(curve(vertices, 'LLLCC'), vertices)  # no end: control points count as points
    np.testing.assert_array_equal(curve(vertices[:1], 'L'), vertices[:1])


def test_sad_protocol(official):
    root = official('bdd100k')
    train, val, test = (BDD100K(root, split) for split in ('train', 'val', 'test'))
    assert [entry[0] for entry in train.samples] == [f'train/train{i:04d}' for i in range(6)]
    assert [entry[0] for entry in val.samples] == ['train/train0006']  # every seventh
    assert [entry[0] for entry in test.samples] == ['val/val0000']
    assert 'full_labels' not in train[0]['data_samples']
    for dataset in (val, test):
        sample = dataset[0]['data_samples']
        assert len(sample.lanes) == 1  # no crosswalk
        np.testing.assert_allclose(sample.lanes[0][[0, -1]], [[22, 71], [60.5, 20]], atol=1.5)  # between the two
        truth = dataset.read_truth(dataset.samples[0], BDD100K.IMAGE_SIZE)[0]
        assert (sample.full_labels[40] == 1).sum() == 1  # a tenth of the width of official images
        widths = [(image[40] == 1).sum() for image in (truth.labels, truth.full_labels)]
        assert 8 <= widths[0] <= 12 and 2 <= widths[1] <= 4, widths  # a slanted line, along its row
    empty = train[1]['data_samples']
    assert empty.lanes == [] and not empty.labels.any()


def test_crosswalks_and_curbs_can_be_chosen(official):
    root = official('bdd100k')
    path = root / 'labels/lane/polygons/lane_val.json'
    frames = json.loads(path.read_text())
    frames[0]['labels'][2]['attributes']['laneDirection'] = 'parallel'
    path.write_text(json.dumps(frames))
    assert len(BDD100K(root, 'test')[0]['data_samples'].lanes) == 1
    assert len(BDD100K(root, 'test', exclude=())[0]['data_samples'].lanes) == 2
    assert len(BDD100K(root, 'test', exclude=('single white',))[0]['data_samples'].lanes) == 1


def test_all_lanes_are_numbered_from_left_to_right(official):
    root = official('bdd100k')
    path = root / 'labels/lane/polygons/lane_train.json'
    frames = json.loads(path.read_text())
    for u, top in ((110, 70), (80, 65)):  # the right one first
        frames[6]['labels'].append(dict(frames[6]['labels'][0], poly2d=[
            dict(vertices=[[u, 71.0], [top, 20.0]], types='LL', closed=False)]))
    path.write_text(json.dumps(frames))
    sample = BDD100K(root, 'val', all_lanes=True, max_distance=60)[0]['data_samples']
    row = [number for number in sample.labels[60].tolist() if number]
    assert row == sorted(row) and set(row) == {1, 2, 3}
    assert set(sample.full_labels.unique().tolist()) == {0, 1}
    plain = BDD100K(root, 'val', max_distance=60)[0]['data_samples']
    np.testing.assert_array_equal(plain.labels, sample.labels > 0)
    np.testing.assert_array_equal(plain.full_labels, sample.full_labels)


def test_official_protocol(official):
    root = official('bdd100k')
    for task, (first, second), classes in (('category', (7, 1), 9), ('direction', (1, 2), 3), ('style', (2, 1), 3)):
        dataset = BDD100K(root, 'val', protocol='official', task=task)
        sample = dataset[0]['data_samples']
        assert sample.labels[35, 15] == first and sample.labels[51, 5] == second and sample.labels[0, 0] == 0
        assert set(sample.labels.unique().tolist()) == {0, first, second}
        assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == classes
        assert dataset.metainfo['classes'][first] == dict(category='single white', direction='parallel',
                                                          style='dashed')[task]
        mask = cv2.imread(str(root / 'labels/lane/masks/val/val0000.png'), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(sample.full_labels, mask)
        drawn = drawable(sample.to_dict())['labels']  # classes, not the bytes of the mask
        assert set(np.unique(drawn)) == {0, first, second} and drawn.shape == mask.shape
    assert [len(BDD100K(root, split, protocol='official')) for split in ('train', 'val', 'test')] == [7, 1, 1]
    assert BDD100K(root, 'train', protocol='official').official_size == 70000
    assert 'labels' not in BDD100K(root, 'test', protocol='official')[0]['data_samples']


def test_all_masks_have_labels():
    masks = np.arange(256, dtype=np.uint8)[None]
    for task, shift, bits in (('category', 0, 7), ('direction', 5, 1), ('style', 4, 1)):
        slow = [0 if value // 8 % 2 else (value >> shift) % (bits + 1) + 1 for value in range(256)]
        assert mask_labels(masks, task)[0].tolist() == slow


def test_thin_lines():
    mask = np.zeros((72, 128), bool)
    mask[20:, 40:47] = True
    thinned = thin(mask)
    assert (thinned & ~mask).sum() == 0 and thinned.sum(axis=1).max() == 1
    assert (thinned.sum(axis=1) == 1).sum() >= mask.any(axis=1).sum() - 7
    assert (thin(thinned) == thinned).all() and not thin(mask & False).any()


def test_classes_become_masks_with_their_codes():
    classes = np.zeros((30, 40), np.int64)
    classes[5:, 10], classes[5:, 30:33] = 1, 2
    mask = to_mask(classes, (6, 16 + 32))
    assert set(np.unique(mask)) == {6, 8, 48} and (mask[5:, 10] == 6).all() and (mask == 48).sum(axis=1).max() == 1
    with pytest.raises(DataError, match='class 2 in a prediction, expected 0..1'):
        to_mask(classes, (6,))
    for codes in ((6, 8), (64,), (-1,), (1.5,)):  # such lines would be background, or another byte
        for user in (BDD100KOfficialMetric, lambda codes: BDD100KSubmission('x', codes)):
            with pytest.raises(ConfigError, match='expected 0..63 without 8, the bit of the background'):
                user(codes)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda label: label.update(category='lane'), r"label 0: category 'lane', expected"),
    (lambda label: label['attributes'].update(laneStyle='dotted'), "laneStyle 'dotted', expected one of solid, dashed"),
    (lambda label: label.update(attributes=[1]), 'label 0: .*expected an object'),
    (lambda label: label.update(poly2d=None), 'label 0: poly2d None, expected a list'),
    (lambda label: label['poly2d'][0].update(types='LX'), "types 'LX' for 2 vertices"),
    (lambda label: label['poly2d'][0].update(types='L'), "types 'L' for 2 vertices"),
    (lambda label: label['poly2d'][0].update(vertices=[]), r'vertices \[\], expected'),
    (lambda label: label['poly2d'][0].update(vertices=[[1, 2, 3]]), 'vertices .*expected'),
    (lambda label: label['poly2d'][0].update(vertices=[[1, 2], [None, 3]]), 'vertices .*expected'),
    (lambda label: label['poly2d'][0].update(vertices=[[1, 2], [1e9, 3]]), 'vertices .*expected')])
def test_damaged_labels_name_frame_and_label(official, change, message):
    root = official('bdd100k')
    path = root / 'labels/lane/polygons/lane_val.json'
    frames = json.loads(path.read_text())
    change(frames[0]['labels'][0])
    path.write_text(json.dumps(frames))
    with pytest.raises(DataError, match=rf'lane_val\.json: item 0 \(val0000\.jpg\).*{message}'):
        BDD100K(root, 'test')[0]


def test_wrong_files_and_arguments(official, tmp_path):
    root = official('bdd100k')
    path = root / 'labels/lane/polygons/lane_train.json'
    with pytest.raises(ConfigError, match="protocol='sda', expected one of sad, official. Did you mean sad"):
        BDD100K(root, protocol='sda')
    with pytest.raises(ConfigError, match="task='styles'"):
        BDD100K(root, protocol='official', task='styles')
    frames = json.loads(path.read_text())
    path.write_text(json.dumps(frames[:3]))
    with pytest.raises(DataError, match='fewer than 7 images'):
        BDD100K(root, 'val')
    path.write_text(json.dumps(frames[0]))
    with pytest.raises(DataError, match=r'lane_train\.json: .*expected an array'):
        BDD100K(root, 'train')
    path.write_text(json.dumps([dict(name='../x.jpg')]))
    with pytest.raises(DataError, match=r"lane_train\.json: item 0: name '\.\./x\.jpg', expected"):
        BDD100K(root, 'train')
    path.write_text(json.dumps([dict(name='other.jpg', labels=None)]))
    with pytest.raises(DataError, match=r'other\.jpg: no such file, expected the 1 images'):
        BDD100K(root, 'train')


def test_names_of_the_attributes_of_the_first_release():
    label = dict(category='lane', attributes=dict(laneTypes='road curb', laneDirection='parallel', laneStyle='solid'),
                 poly2d=[dict(vertices=[[1, 2], [3, 4]], types='LL', closed=False)])
    lines, kinds = parse_lines([label], 'x')
    assert lines[0].tolist() == [[1, 2], [3, 4]] and kinds == [('road curb', 'solid')]


@pytest.mark.parametrize('form', ['2018', 'first'])
def test_labels_of_the_first_years_are_read(official, form):
    """All objects of an image, lanes among them; in the first form an image a file."""
    root = official('bdd100k')
    before = BDD100K(root, 'test')[0]['data_samples']
    polygons = root / 'labels/lane/polygons'
    for folder in ('train', 'val'):
        frames = json.loads((polygons / f'lane_{folder}.json').read_text())
        for frame in frames:
            labels = [dict(id='c', category='car', attributes=dict(occluded=False), box2d=dict(x1=1, y1=2, x2=3, y2=4)),
                      dict(id='d', category='drivable area', poly2d=[dict(vertices=[[1, 2]], types='L')])]
            for label in frame.pop('labels') or []:
                kind, style = label['category'], label['attributes']
                if form == '2018':
                    label |= dict(category='lane', attributes=dict(style, laneTypes=kind))
                else:
                    poly = label['poly2d'][0]
                    label |= dict(category=f'lane/{kind}', poly2d=[[*p, t] for p, t in zip(poly['vertices'],
                                                                                           poly['types'])],
                                  attributes=dict(direction=style['laneDirection'], style=style['laneStyle']))
                labels.append(label)
            if form == '2018':
                frame['labels'] = labels
            else:
                path = root / 'labels/100k' / folder / f'{frame["name"][:-4]}.json'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(dict(name=path.stem, frames=[dict(timestamp=1, objects=labels)])))
                (path.parent / f'._{path.name}').write_bytes(b'of a Mac')
        if form == '2018':
            (root / f'labels/bdd100k_labels_images_{folder}.json').write_text(json.dumps(frames))
        (polygons / f'lane_{folder}.json').unlink()
    sample = BDD100K(root, 'test')[0]['data_samples']
    assert len(BDD100K(root, 'train')) == 6 and sample.sample_id == before.sample_id
    np.testing.assert_array_equal(sample.full_labels, before.full_labels)
    np.testing.assert_array_equal(sample.lanes[0], before.lanes[0])


def test_classes_of_a_config_are_told_before_it_is_built():
    assert BDD100K.describe({}) == BDD100K.METAINFO
    assert len(BDD100K.describe(dict(protocol='official', task='style'))['classes']) == 3
