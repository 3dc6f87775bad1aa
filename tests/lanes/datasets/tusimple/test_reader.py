"""TuSimple's JSON lines and the six slots of its label images."""
import json

import numpy as np
import pytest

from perception.lanes.datasets.tusimple.reader import TuSimple, parse_lanes, tusimple_slots
from perception.utils.errors import ConfigError, DataError


def slow_slots(lanes: list[list[float]], rows: list[float]) -> dict[int, int]:
    """The rule of the specification, word for word, on the lists of the file."""
    angles = []
    for i, lane in enumerate(lanes):
        points = [(x, y) for x, y in zip(lane, rows) if x >= 0]
        if len(points) > 1:
            (x_first, y_first), (x_last, y_last) = points[0], points[-1]
            angles.append((np.degrees(np.arctan2(y_last - y_first, x_first - x_last)), i, len(points)))
    angles.sort(key=lambda entry: entry[0])
    left = [entry for entry in angles if entry[0] <= 90]
    right = [entry for entry in angles if entry[0] > 90]
    slots = {}
    for slot, (_, i, count) in list(zip((3, 2, 1), left[::-1])) + list(zip((4, 5, 6), right)):
        if count >= 4:
            slots[i] = slot
    return slots


@pytest.mark.parametrize('seed', range(40))
def test_slots_follow_the_rule(seed):
    rng = np.random.default_rng(seed)
    rows = list(range(160, 720, 10))
    lanes = []
    for _ in range(rng.integers(0, 9)):
        lane = 640 + rng.normal(0, 1.5) * (np.array(rows) - 150) + rng.normal(0, 30)
        lane[(rng.random(len(rows)) < 0.1) | (lane < 0) | (np.array(rows) < rng.integers(160, 800))] = -2
        lanes.append(lane.tolist())
    _, arrays = parse_lanes(dict(lanes=lanes, h_samples=rows), 'x')
    assert tusimple_slots(arrays) == slow_slots(lanes, rows)


def test_slots_of_the_golden_labels(shared):
    lines = (shared / 'goldens/tusimple_eval/label.json').read_text().splitlines()
    counts = []
    for line in lines:
        record = json.loads(line)
        rows, lanes = parse_lanes(record, 'label.json')
        assert rows == tuple(record['h_samples']) and len(lanes) == len(record['lanes'])
        for lane, points in zip(record['lanes'], lanes):
            again = dict(zip(points[:, 1], points[:, 0]))
            assert [again.get(y, -2) for y in rows] == [x if x >= 0 else -2 for x in lane]
        slots = tusimple_slots(lanes)
        assert slots == slow_slots(record['lanes'], record['h_samples'])
        counts.append(len(slots))
    assert len(counts) == 33 and max(counts) >= 4


def test_a_sample(official):
    dataset = TuSimple(official('tusimple'), 'train')
    sample = dataset[0]['data_samples']
    assert sample.sample_id == 'clips/0313/0/20' and sample.h_samples == tuple(range(16, 72, 4))
    record = json.loads((dataset.data_root / 'label_data_0313.json').read_text().splitlines()[0])
    for lane, given in zip(sample.lanes, record['lanes']):
        assert lane.tolist() == [[x, y] for x, y in zip(given, record['h_samples']) if x >= 0][::-1]
    assert sample.exist.tolist() == [0, 1, 1, 1, 1, 0]
    for slot, lane in zip((2, 3, 4, 5), sample.lanes):
        for u, v in lane:
            if 0 <= u < 128:
                assert sample.labels[int(v), int(u)] >= slot  # later slots are drawn over earlier ones
    empty = dataset[1]['data_samples']
    assert [len(lane) for lane in empty.lanes] == [0] * 4 and not empty.exist.any() and not empty.labels.any()


def test_lines_have_the_thickness_of_the_labels(official):
    root = official('tusimple')
    thin, wide = (TuSimple(root, 'val', thickness=n)[0]['data_samples'].labels for n in (10, 150))
    assert 0 < (thin > 0).sum() * 5 < (wide > 0).sum()


def test_all_lanes_are_numbered_from_left_to_right(official):
    root = official('tusimple')
    path = root / 'label_data_0531.json'
    record = json.loads(path.read_text())
    rows = np.array(record['h_samples'])
    record['lanes'] = [(64 + k * (rows - 10)).tolist() for k in (0.3, -1, 2, -0.4, 1, 4, -2, -4, 0.8)]
    path.write_text(json.dumps(record))
    sample = TuSimple(root, 'val', all_lanes=True, thickness=10)[0]['data_samples']
    assert 'exist' not in sample
    row = sample.labels[16]
    found = [int(row[u]) for u in range(128) if row[u] > 0 and (u == 0 or row[u] != row[u - 1])]
    assert found == sorted(found) and set(found) == set(range(1, 10))
    slots = TuSimple(root, 'val')[0]['data_samples']
    assert slots.exist.tolist() == [1] * 6 and set(slots.labels.unique().tolist()) <= set(range(7))


def test_lanes_outside_the_image_are_kept_but_not_drawn(official):
    root = official('tusimple')
    path = root / 'label_data_0531.json'
    record = json.loads(path.read_text())
    record['lanes'] = [[5000 + y for y in record['h_samples']], [-2] * 13 + [7]]
    path.write_text(json.dumps(record))
    sample = TuSimple(root, 'val')[0]['data_samples']
    assert [len(lane) for lane in sample.lanes] == [14, 1] and not sample.labels.any()


def test_the_test_split_takes_the_tasks_where_there_are_no_labels(official):
    root = official('tusimple')
    assert [len(lane) for lane in TuSimple(root, 'test')[0]['data_samples'].lanes] == [6, 12, 12, 12]
    (root / 'test_label.json').unlink()
    sample = TuSimple(root, 'test')[0]['data_samples']
    assert 'lanes' not in sample and sample.h_samples == tuple(range(16, 72, 4))


def test_archives_may_lie_in_folders_of_their_own(official):
    """As Kaggle's copy has them: `test_label.json` stands at the root, tasks and clips in `test_set`."""
    root = official('tusimple')
    before = {split: [entry[0] for entry in TuSimple(root, split).samples] for split in ('train', 'val', 'test')}
    for folder, files in (('train_set', ['label_data_0313.json', 'label_data_0531.json', 'label_data_0601.json']),
                          ('test_set', ['test_tasks_0627.json'])):
        (root / folder / 'clips').mkdir(parents=True)
        for name in files:
            (root / name).rename(root / folder / name)
    for clip in list((root / 'clips').iterdir()):
        clip.rename(root / ('test_set' if clip.name == 'abel' else 'train_set') / 'clips' / clip.name)
    (root / 'clips').rmdir()
    for split, names in before.items():
        dataset = TuSimple(root, split)
        assert [entry[0] for entry in dataset.samples] == names and dataset[0]['data_samples'].sample_id == names[0]
    for path in list((root / 'train_set').iterdir()):  # the archive of the test alone has its own
        path.rename(root / path.name)
    for split, names in before.items():
        assert TuSimple(root, split)[0]['data_samples'].sample_id == names[0]
    (root / 'test_label.json').unlink()
    assert 'lanes' not in TuSimple(root, 'test')[0]['data_samples']


def test_clips_that_were_not_unpacked_are_counted_before_a_training(official):
    root = official('tusimple')
    (root / 'clips/0601/0/20.jpg').unlink()
    with pytest.raises(DataError, match=r'0601/0/20\.jpg: no such file, expected the 3 images that .*0313\.json, '
                                        r'.*0601\.json names, of which 1 are missing'):
        TuSimple(root, 'train')


def test_other_label_files(official):
    root = official('tusimple')
    files = ['label_data_0313.json', 'label_data_0531.json', 'label_data_0601.json']
    assert len(TuSimple(root, 'train', label_files=files)) == 4
    with pytest.raises(DataError, match=r'label_data_0000\.json: no such file'):
        TuSimple(root, 'train', label_files=[*files, 'label_data_0000.json'])
    with pytest.raises(ConfigError, match='split'):
        TuSimple(root, 'both')


@pytest.mark.parametrize(('line', 'message'), [
    ('{"lanes": [[1, 2]', r'label_data_0313\.json:2: no valid JSON'),
    ('[1, 2]', r'0313\.json:2: JSON of type list, expected an object'),
    ('{}', r"0313\.json:2: raw_file None, expected"),
    ('{"raw_file": "clips/a.jpg", "lanes": []}', r'0313\.json:2: h_samples None, expected a list of numbers'),
    ('{"raw_file": "clips/a.jpg", "lanes": [], "h_samples": []}', r'0313\.json:2: h_samples \[\], expected increasing'),
    ('{"raw_file": "clips/a.jpg", "lanes": [], "h_samples": [5, 4]}', 'expected increasing rows'),
    ('{"raw_file": "clips/a.jpg", "lanes": [[1]], "h_samples": [4, 5]}', r':2: 1 values in lanes\[0\] for 2 h_samples'),
    ('{"raw_file": "clips/a.jpg", "lanes": [[1, "2"]], "h_samples": [4, 5]}', r'lanes\[0\] .*list of numbers'),
    ('{"raw_file": "clips/a.jpg", "lanes": [[1, NaN]], "h_samples": [4, 5]}', r'lanes\[0\] .*expected pixels'),
    ('{"raw_file": "clips/a.jpg", "lanes": 3, "h_samples": [4, 5]}', 'lanes of type int, expected a list of lists'),
    ('{"raw_file": "/../../../a.jpg", "lanes": [], "h_samples": [4, 5]}', 'expected one below')])
def test_malformed_lines_name_file_and_line(official, line, message):
    root = official('tusimple')
    path = root / 'label_data_0313.json'
    path.write_text(path.read_text().splitlines()[0] + f'\n{line}\n')
    with pytest.raises(DataError, match=message):
        TuSimple(root, 'train')
