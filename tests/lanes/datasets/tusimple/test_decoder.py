"""TuSimple's decoder against the rules of the published codes, and on hand-made maps."""
import cv2
import numpy as np
import pytest
import torch

from perception.lanes.datasets.tusimple.decoder import TuSimpleDecoder, cut_highest, fill_gaps
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
TUSIMPLE = dict(original_shape=(720, 1280))


def lane_map(points, height=368, width=640, thickness=9):
    """Probability 1 on a line through points of the map."""
    image = np.zeros((height, width), np.float32)
    cv2.polylines(image, [np.array(points, np.int32)], False, 1, thickness)
    return torch.from_numpy(image)


def six_slots(*maps):
    probs = torch.zeros(1, 7, 368, 640)
    for k, image in enumerate(maps, 1):
        probs[0, k] = image
    return probs


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('rule', ['ld', 'simple'])
def test_tusimple_lines(device, rule):
    probs = six_slots(lane_map([(100, 367), (300, 150)]), lane_map([(500, 367), (340, 150)]))
    exist = torch.tensor([[.9, .9, .9, .1, .1, .1]])
    lanes = TuSimpleDecoder(rule)(probs.to(device), exist.to(device), [TUSIMPLE])[0]
    assert len(lanes) == 2
    for lane, (bottom, top) in zip(lanes, ((100, 300), (500, 340))):
        v = lane[:, 1]
        assert v.max() == 710 and 290 <= v.min() <= 310 and (np.diff(v) == -10).all()
        expected = bottom + (367 - v * 368 / 720) / 217 * (top - bottom)
        assert np.abs(lane[:, 0] - expected * 2).max() < 16
    assert TuSimpleDecoder(rule)(probs, torch.zeros(1, 6), [TUSIMPLE]) == [[]]


def slow_simple(slow_mean, image, rows):
    """PytorchAutoDrive's rule, column after column."""
    points = []
    for v in rows:
        values = [slow_mean(image, v * image.shape[0] // 720, column, 9, 'reflect') for column in range(image.shape[1])]
        u = values.index(max(values)) * 1280 // image.shape[1]
        if max(values) / 255 > .3 and u > 0:
            points.append([u, v])
    return points if len(points) > 1 else None


def test_tusimple_simple_rule(random_probs, slow_mean):
    probs, rows = random_probs(3, 3, 36, 50), [600, 500, 700]
    lanes = TuSimpleDecoder('simple', rows=rows)(probs, None, [TUSIMPLE])[0]
    expected = [slow_simple(slow_mean, probs[0, k].double().numpy(), (700, 600, 500)) for k in (1, 2)]
    assert [lane.tolist() for lane in lanes] == [lane for lane in expected if lane]


def test_tusimple_takes_the_rows_of_the_image():
    probs = six_slots(lane_map([(300, 367), (300, 100)]))
    for rule in ('ld', 'simple'):
        lane, = TuSimpleDecoder(rule)(probs, None, [dict(TUSIMPLE, h_samples=(600, 610, 620, 700))])[0]
        assert set(lane[:, 1]) <= {600, 610, 620, 700} and len(lane) >= 3


def test_ld_rule_splits_components_and_fills_gaps():
    left, right = (lane_map([(u, 367), (u, 200)], thickness=12) for u in (100, 500))
    two = torch.maximum(left, right)
    lanes = TuSimpleDecoder()(six_slots(two), None, [TUSIMPLE])[0]
    assert sorted(round(lane[0, 0] / 2 / 100) for lane in lanes) == [1, 5], 'both exceed 800 pixels'
    speck = torch.maximum(left, lane_map([(500, 300), (500, 280)]))
    lanes = TuSimpleDecoder()(six_slots(speck), None, [TUSIMPLE])[0]
    assert len(lanes) == 1 and lanes[0][0, 0] < 240, 'the smaller one does not'


def test_ld_rule_connects_pieces_of_two_slots():
    low, high = lane_map([(200, 367), (250, 290)]), lane_map([(270, 260), (320, 180)])
    lanes = TuSimpleDecoder()(six_slots(low, high), None, [TUSIMPLE])[0]
    assert len(lanes) == 1
    assert (np.diff(lanes[0][:, 1]) == -10).all() and lanes[0][-1, 1] < 380 and lanes[0][0, 1] == 710
    apart = lane_map([(500, 260), (550, 180)])
    assert len(TuSimpleDecoder()(six_slots(low, apart), None, [TUSIMPLE])[0]) == 2


def test_ld_rule_drops_short_lanes_and_cuts_the_highest_point():
    short, long = lane_map([(500, 300), (500, 290)]), lane_map([(100, 367), (100, 200)])
    lanes = TuSimpleDecoder()(six_slots(short, long), None, [TUSIMPLE])[0]
    assert len(lanes) == 1
    rows = np.arange(160, 720, 10)
    u = [np.where(rows >= first, 5.0, np.nan) for first in (300, 250, 300)]
    cut = cut_highest(u)
    assert [rows[~np.isnan(x)].min() for x in cut] == [300, 260, 300]
    assert [rows[~np.isnan(x)].min() for x in cut_highest(u[::2])] == [300, 300], 'two begin alike'
    assert cut_highest([]) == []


def test_filled_gaps():
    nan = np.nan
    found = fill_gaps(np.array([nan, 1, nan, nan, 4, nan]))
    np.testing.assert_array_equal(found, [nan, 1, 2, 3, 4, nan])
    assert np.isnan(fill_gaps(np.full(3, nan))).all()


@pytest.mark.parametrize('decoder', [TuSimpleDecoder(), TuSimpleDecoder('simple')])
def test_bad_input(decoder):
    probs = torch.zeros(2, 5, 16, 32)
    with pytest.raises(DataError, match='for 1 images'):
        decoder(probs, None, [TUSIMPLE])
    with pytest.raises(DataError, match='expected one number a slot'):
        decoder(probs, torch.zeros(2, 6), [TUSIMPLE] * 2)
    with pytest.raises(DataError, match='no original_shape'):
        decoder(probs, None, [dict(sample_id='a')] * 2)
    empty = decoder(probs, None, [TUSIMPLE] * 2)
    assert all(not len(lane) for image in empty for lane in image) and len(empty) == 2


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="rule='pad', expected one of ld, simple"):
        TuSimpleDecoder('pad')
