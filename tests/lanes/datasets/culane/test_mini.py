"""The mini CULane is read by its reader, and its labels fit each other."""
import json

import cv2
import numpy as np

from perception.common.scene.world import SCENE_VERSION
from perception.lanes.datasets.culane.reader import CATEGORIES, CULane


def samples(dataset):
    return [dataset[i]['data_samples'] for i in range(len(dataset))]


def test_culane_is_read_and_every_category_is_there(mini_culane):
    assert [len(CULane(mini_culane, split)) for split in ('train', 'val', 'test')] == [3, 1, 9]
    for sample in samples(CULane(mini_culane, 'train')) + samples(CULane(mini_culane, 'val')):
        assert sample.original_shape == (590, 1640)
        present = np.unique(sample.labels.numpy())
        assert present[1:].tolist() == (np.flatnonzero(sample.exist.numpy()) + 1).tolist()
        assert 1 <= len(sample.lanes) <= 4
        for lane in sample.lanes:
            assert (np.diff(lane[:, 1]) == -10).all()                     # bottom to top
    test = {sample.category: sample for sample in samples(CULane(mini_culane, 'test'))}
    assert set(test) == set(CATEGORIES)
    assert not test['cross'].lanes
    assert all(test[category].lanes for category in CATEGORIES if category != 'cross')
    assert (mini_culane / 'list' / 'test_split' / 'test4_noline.txt').is_file()
    night, normal = (cv2.imread(test[name].image_path).mean() for name in ('night', 'normal'))
    assert night < .6 * normal


def test_culane_lines_are_where_their_label_images_are(mini_culane):
    for sample in samples(CULane(mini_culane, 'train')):
        slots = np.flatnonzero(sample.exist.numpy()) + 1
        assert len(slots) == len(sample.lanes)
        for slot, lane in zip(slots, sample.lanes):
            column, row = np.rint(lane).astype(int).T
            inside = (column >= 0) & (column < 1640) & (row < 590)
            assert (sample.labels.numpy()[row[inside], column[inside]] == slot).mean() > .9
            assert (column[inside][:1] < 820) == (slot < 3)


def test_a_culane_of_the_first_writer_is_kept(mini_culane):
    stamp = json.loads((mini_culane / 'mini.json').read_text())
    stamp.pop('files')
    stamp.pop('sizes')
    assert stamp == dict(dataset='culane', simulated=True, scene_version=SCENE_VERSION, writer_version=1, seed=0,
                         images=dict(train=3, val=1, test=9), detail=.1, length=180.0)
