"""The mini TuSimple is read by its reader; wide roads with all their lanes."""
import json

import cv2
import pytest

from perception.common.scene.camera import TUSIMPLE
from perception.lanes import shots
from perception.lanes.datasets.tusimple import mini
from perception.lanes.datasets.tusimple.reader import TuSimple, parse_lanes
from perception.utils.errors import DataError


def samples(dataset):
    return [dataset[i]['data_samples'] for i in range(len(dataset))]


def keep(root, name, view):
    return name, view


def test_tusimple_is_read(mini_tusimple):
    assert [len(TuSimple(mini_tusimple, split)) for split in ('train', 'val', 'test')] == [3, 1, 2]
    for line in (mini_tusimple / 'test_label.json').read_text().splitlines():
        record = json.loads(line)
        assert record['h_samples'] == list(range(160, 720, 10))
        assert all(len(lane) == 56 for lane in record['lanes'])
        assert all(isinstance(x, int) and -2 <= x < 1280 for lane in record['lanes'] for x in lane)
        assert record['raw_file'].endswith('/20.jpg')
        assert cv2.imread(str(mini_tusimple / record['raw_file'])).shape == (720, 1280, 3)
    for sample in samples(TuSimple(mini_tusimple, 'train')):
        assert 2 <= len(sample.lanes) <= 5
        assert sample.exist.sum() >= 2
    tasks = [json.loads(line) for line in (mini_tusimple / 'test_tasks_0627.json').read_text().splitlines()]
    assert all('lanes' not in task for task in tasks)


@pytest.mark.parametrize('style, place, least', [('wide_highway', 'change', 5), ('boulevard', 'lane', 5),
                                                 ('highway', 'change', 4)])
def test_all_lanes_of_wide_roads_are_labelled(style, place, least, tmp_path):
    plan = shots.Plan((5, 77), ('a/1/20.jpg', 'a/2/20.jpg', 'a/3/20.jpg'), style=style, place=place, length=200.0)
    numbers = []
    for name, view in shots.take(plan, TUSIMPLE, .05, keep, None):
        record = mini._save_all_lanes(tmp_path, name, view)
        numbers.append(len(record['lanes']))
        assert len(record['lanes']) >= len(mini._save(tmp_path, name, view)['lanes']) > 2
        lanes = parse_lanes(record, name)[1]
        middle = min(abs(lane[0, 0] - 640) for lane in lanes if lane[0, 1] > 600)
        assert (middle < 320) == (place == 'change')                     # the ego is above a boundary, or between two
    painted = len({line.offset[0, 1] for line in view.world.street.boundaries if line.kind != 'none'})
    assert least < painted and max(numbers) >= least


def test_tusimple_with_many_lanes_says_so(mini_tusimple, tmp_path):
    assert json.loads((mini_tusimple / 'mini.json').read_text())['streets'] == 'tusimple'
    root = mini.write_tusimple_mini(tmp_path / 'many', train=2, val=1, test=1, detail=.02, length=180.0,
                                    workers=1, streets='many_lanes')
    assert json.loads((root / 'mini.json').read_text())['streets'] == 'many_lanes'
    assert len(TuSimple(root, 'train')[0]['data_samples'].lanes) > 3
    with pytest.raises(DataError, match="streets='wide', expected tusimple or many_lanes"):
        mini.write_tusimple_mini(tmp_path / 'other', streets='wide')
