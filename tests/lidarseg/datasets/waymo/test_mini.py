"""Simulated Waymo: read like the real one, the same for the same seed."""
import json
from dataclasses import replace

import numpy as np
import pytest

from perception.lidarseg.datasets.waymo import mini as module
from perception.lidarseg.datasets.waymo import reader as waymo
from perception.lidarseg.datasets.waymo.mini import TYPES, draw_sheet, write_waymo_mini
from perception.lidarseg.datasets.waymo.reader import CLASSES, Waymo, count_classes, read_masks
from perception.utils.errors import DataError


def test_simulated_data_are_read_like_real_ones(mini):
    val = Waymo(mini, 'val')
    item = val[0]
    points, sample = item['inputs']['points'].numpy(), item['data_samples']
    masks = read_masks(val.frames[0], len(points))
    assert [[mask.shape for mask in returns] for returns in masks] == [[(64, 330), *[(32, 120)] * 4]] * 2
    counts = np.array([[mask.sum() for mask in returns] for returns in masks])
    assert (counts[0] > 100).all() and .02 < counts[1, 0] / counts[0, 0] < .3 and sample.first_len == counts[0].sum()
    assert not (masks[1][0] & ~masks[0][0]).any()
    labels = sample.labels.numpy()
    top = np.zeros(len(points), bool)
    for start, count in ((0, counts[0, 0]), (counts[0].sum(), counts[1, 0])):
        top[start:start + count] = True
    assert (labels[~top] == 255).all() and (labels[top] != 255).mean() > .8
    road = points[labels == CLASSES.index('road')]
    assert np.abs(np.median(road[:, 2])) < .15  # z = 0 on the ground
    assert 0 <= points[:, 3].min() <= points[:, 3].max() < 1
    # pixels are directions: rows by elevation, columns clockwise from behind
    row, column = np.nonzero(masks[0][0])
    local = points[:counts[0, 0], :3] - [1.43, 0, 2.18]
    far = np.linalg.norm(local, axis=1) > 10
    azimuth = np.arctan2(local[:, 1], local[:, 0])
    expected = np.pi - 2 * np.pi * column / 330
    assert np.median(np.abs(np.angle(np.exp(1j * (azimuth - expected))))[far]) < .01
    elevation = np.arctan2(local[:, 2], np.linalg.norm(local[:, :2], axis=1))
    assert np.corrcoef(elevation[far], row[far])[0, 1] < -.95
    names = [line.replace(',', '_') for line in (mini / waymo.FRAME_LIST).read_text().split()]
    assert [waymo.frame_id(path) for path in Waymo(mini, 'test').frames] == sorted(names) and len(names) == 2
    assert json.loads((mini / 'mini.json').read_text())['simulated'] is True


def test_nearly_all_classes_occur_in_simulated_data(mini):
    total = count_classes(Waymo(mini, 'train')) + count_classes(Waymo(mini, 'val'))
    missing = {CLASSES[k] for k in np.flatnonzero(total == 0)}
    assert missing <= {'lane-marker', 'other-ground', 'construction-cone', 'traffic-light', 'bus', 'truck'}
    assert TYPES.max() == 22 and (TYPES == 0).sum() < 15


def test_same_seed_same_bytes(mini, tmp_path):
    module._write_all(tmp_path, 0, dict(train=(1, 1)), replace(module.TOP, columns=330), 1)
    again = {path.relative_to(tmp_path): path.read_bytes() for path in sorted(tmp_path.rglob('*.npy'))}
    assert len(again) == 5
    assert again == {path.relative_to(mini): path.read_bytes() for path in sorted(mini.glob('training/*/*/*.npy'))}


@pytest.mark.parametrize('bad', [dict(seed=-1), dict(columns=3), dict(val_frames=0), dict(train_segments=21)])
def test_arguments_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(DataError, match='write_waymo_mini: .*expected'):
        write_waymo_mini(tmp_path / 'a', **bad)
    assert not list(tmp_path.iterdir())


def test_the_sheet_shows_the_labelled_segments(mini, tmp_path):
    import cv2
    pytest.importorskip('open3d')
    assert cv2.imread(str(draw_sheet(mini, tmp_path / 'sheet.png'))).shape[0] > 700
