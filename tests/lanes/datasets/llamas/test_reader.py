"""LLAMAS' markers, lanes and label images, against the official scripts' results."""
import json

import numpy as np
import pytest

from perception.lanes.datasets.llamas.reader import (
    LLAMAS,
    SIZE,
    draw_markers,
    lane_columns,
    read_label,
)
from perception.utils.errors import ConfigError, DataError


def test_columns_of_the_golden_labels(shared):
    folder = shared / 'goldens' / 'llamas_eval'
    golden = np.load(folder / 'spline_x.npz')
    assert len(golden['keys']) == 6
    for key, columns in zip(golden['keys'], golden['x']):
        found = lane_columns(read_label(folder / 'labels/valid' / key))
        np.testing.assert_array_equal(found, columns)  # to the last digit: the F1 cuts columns off to whole pixels


def test_label_images_of_the_golden_labels(shared):
    folder = shared / 'goldens' / 'llamas_eval'
    paths = sorted(folder.glob('seg/*/*_label.npz'))
    assert len(paths) == 3
    for path in paths:
        label = read_label(folder / 'labels/valid' / path.parent.name / path.name.removesuffix('_label.npz'))
        golden = np.load(path)
        multi = np.unpackbits(golden['multi'])[:SIZE[0] * SIZE[1] * 5].reshape(*SIZE, 5)
        np.testing.assert_array_equal(draw_markers(label), multi.argmax(axis=2))


def slow_columns(markers):
    """The rule of the specification for one lane, row by row; `markers` are ((u, v), (u, v), z), strings allowed."""
    markers = [((int(a), int(b)), (int(c), int(d)), float(z)) for (a, b), (c, d), z in markers]
    slanted = [m for m in markers if m[0][0] != m[1][0] and m[0][1] != m[1][1]]
    (a, b), (c, d), _ = min(slanted, key=lambda m: m[2])
    x, y = a + (716 - b) * (c - a) / (d - b), 716
    if x < 0 or x > 1276:
        x = 0 if x < 0 else 1276
        y = b + (x - a) * (d - b) / (c - a)
    values = [[] for _ in range(717)]
    for (u, v), (end_u, end_v), _ in [((round(x), round(y)), (a, b), 0), *markers]:
        values[v].append(u)
        if v - end_v > 2:
            for i in range(v - end_v + 1):
                values[v - i].append(round(u + (end_u - u) / (v - end_v) * i))
    means = [sum(row) / len(row) if row else None for row in values]
    filled = [row for row in range(717) if means[row] is not None]
    for row in range(filled[0], filled[-1]):
        if means[row] is None:
            after = next(other for other in filled if other > row)
            means[row] = means[row - 1] + (means[after] - means[row - 1]) / (after - row + 1)
    return [-1 if mean is None else mean for mean in means]


@pytest.mark.parametrize('seed', range(15))
def test_columns_follow_the_rule(tmp_path, seed):
    rng = np.random.default_rng(seed)
    slope, markers, v = rng.normal(0, 1.5), [], 690
    while v > 330:
        end = v - int(rng.integers(0, 40))
        us = [int(np.clip(638 + slope * (row - 300) + rng.normal(0, 3), 0, 1275)) for row in (v, end)]
        markers.append(((us[0], v), (us[1], end), 2240 / (v - 300)))
        v = end - int(rng.integers(0, 30))
    entries = [dict(pixel_start=dict(x=str(a), y=str(b)), pixel_end=dict(x=str(c), y=str(d)),
                    world_start=dict(x='0', y='1', z=str(z)), world_end=dict(x='0', y='1', z=str(z + 1)))
               for (a, b), (c, d), z in markers]
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(dict(projection_matrix=np.eye(3).tolist(), lanes=[dict(lane_id='r3', markers=entries)])))
    columns = lane_columns(read_label(path))
    np.testing.assert_allclose(columns[2], slow_columns(markers), atol=1e-9)
    assert (columns[[0, 1, 3]] == -1).all()


def test_lanes_are_cleaned_and_named_from_the_own_lane_outwards(official):
    label = read_label(next(official('llamas').glob('labels/train/*/*.json')))
    assert sorted(label.lanes) == ['l0', 'l1', 'r0', 'r1']  # l1 had one marker; l2 and r2 move inwards
    assert [len(label.lanes[name].start) for name in ('l1', 'l0', 'r0', 'r1')] == [5, 5, 5, 4]


def test_a_sample(official):
    root = official('llamas')
    dataset = LLAMAS(root, 'val')
    sample = dataset[0]['data_samples']
    path = next(root.glob('labels/valid/*/*.json'))
    assert sample.sample_id == f'{path.parent.name}/{path.stem}'
    columns = lane_columns(read_label(path))
    for lane, values in zip(sample.lanes, columns):
        assert lane[0, 1] == 716 or values[716] == -1
        for u, v in lane:
            assert values[int(v)] == u
        assert len(lane) == (values >= 0).sum()
    for slot in (2, 3):
        row = sample.labels[500]
        assert abs(np.flatnonzero(row == slot).mean() - columns[slot - 1][500]) < 1
    np.testing.assert_array_equal(sample.full_labels, draw_markers(read_label(path)))
    assert set(sample.full_labels.unique().tolist()) == {0, 1, 2, 3, 4}
    markers = LLAMAS(root, 'train', target='markers')[0]['data_samples']
    np.testing.assert_array_equal(markers.labels, sample.full_labels)
    assert 'full_labels' not in markers


def test_a_missing_slot_is_an_empty_lane(official):
    root = official('llamas')
    path = next(root.glob('labels/valid/*/*.json'))
    record = json.loads(path.read_text())
    record['lanes'] = [lane for lane in record['lanes'] if lane['lane_id'] != 'l0']
    path.write_text(json.dumps(record))
    sample = LLAMAS(root, 'val')[0]['data_samples']
    assert sample.exist.tolist() == [0, 1, 1, 1]  # l2 is the own lane's border now
    assert sample.lanes[0].shape == (0, 2) and 1 not in sample.labels
    record['lanes'] = []
    path.write_text(json.dumps(record))
    sample = LLAMAS(root, 'val')[0]['data_samples']
    assert not sample.exist.any() and [len(lane) for lane in sample.lanes] == [0] * 4 and not sample.labels.any()


def test_markers_outside_the_image_or_behind_the_camera_are_no_harm(official):
    root = official('llamas')
    path = next(root.glob('labels/valid/*/*.json'))
    record = json.loads(path.read_text())
    for lane in record['lanes']:
        lane['markers'][0]['pixel_start'] = dict(x='-900', y='2000')
        lane['markers'][0]['world_start']['z'] = '0'
    path.write_text(json.dumps(record))
    sample = LLAMAS(root, 'val')[0]['data_samples']
    assert all((lane >= 0).all() and (lane[:, 1] <= 716).all() for lane in sample.lanes)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda r: r.pop('lanes'), 'lanes None, expected a list of objects'),
    (lambda r: r.pop('projection_matrix'), 'projection_matrix .*expected finite numbers'),
    (lambda r: r.update(projection_matrix=[[1, 2], [3, 4]]), 'projection_matrix .*expected finite numbers'),
    (lambda r: r['lanes'][1].update(lane_id='x1'), r"lanes\[1\]: lane_id 'x1', expected l0"),
    (lambda r: r['lanes'][1].update(markers=5), r'lanes\[1\]: markers 5, expected a list of objects'),
    (lambda r: r['lanes'][1]['markers'][0].pop('world_end'), r'lanes\[1\]: a marker without world_end'),
    (lambda r: r['lanes'][1]['markers'][0]['pixel_end'].update(x='a'), r'lanes\[1\]: pixel_end .*finite numbers'),
    (lambda r: r['lanes'][1]['markers'][0]['pixel_end'].pop('y'), r'lanes\[1\]: pixel_end .*finite numbers'),
    (lambda r: r['lanes'][1]['markers'][0]['world_end'].update(z='nan'), r'lanes\[1\]: world_end .*finite numbers')])
def test_damaged_labels_name_file_and_lane(official, change, message):
    root = official('llamas')
    path = next(root.glob('labels/valid/*/*.json'))
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=rf'{path.name}.*{message}'):
        LLAMAS(root, 'val')[0]


def test_other_sizes_and_targets_are_refused(official):
    import cv2
    root = official('llamas')
    dataset = LLAMAS(root, 'val')
    cv2.imwrite(dataset.samples[0][1], np.zeros((100, 200, 3), np.uint8))
    with pytest.raises(DataError, match='100 x 200 pixels, expected 717 x 1276'):
        dataset[0]
    with pytest.raises(ConfigError, match="target='lane', expected one of lanes, markers. Did you mean lanes"):
        LLAMAS(root, target='lane')


def test_hidden_files_of_a_mac_are_left_out(official):
    root = official('llamas')
    for path in [*root.rglob('*.json'), *root.rglob('*.png')]:
        path.with_name(f'._{path.name}').write_bytes(b'of a Mac')
        hidden = path.parents[1] / '.ipynb_checkpoints'
        hidden.mkdir(exist_ok=True)
        (hidden / path.name).write_bytes(b'of a notebook')
    assert [len(LLAMAS(root, split)) for split in ('train', 'val', 'test')] == [1, 1, 1]
