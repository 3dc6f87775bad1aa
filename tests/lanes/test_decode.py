"""Decoders against the rules of the published code, written out pixel by pixel, and hand-made maps."""
import cv2
import numpy as np
import pytest
import torch

from perception.lanes import decode
from perception.lanes.decode import (
    CULaneDecoder,
    LLAMASDecoder,
    TuSimpleDecoder,
    box_mean,
    restore_labels,
    restore_probs,
)
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
CULANE = dict(original_shape=(590, 1640))
TUSIMPLE = dict(original_shape=(720, 1280))


def random_probs(seed, classes, height, width):
    """Probabilities that are multiples of 2^-16, so that means are exact."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(size=(1, classes, height // 4 + 1, width // 4 + 1)).astype(np.float32) ** 3
    fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(height, width), mode='bilinear')
    return (fine * 65536).round() / 65536


def slow_mean(image, row, column, kernel, padding):
    """8-bit mean of one square; exact, halves up."""
    total, (height, width) = 0, image.shape
    for dy in range(-(kernel // 2), kernel // 2 + 1):
        for dx in range(-(kernel // 2), kernel // 2 + 1):
            y, x = row + dy, column + dx
            if padding == 'reflect':
                y, x = abs(y), abs(x)
                y, x = min(y, 2 * (height - 1) - y), min(x, 2 * (width - 1) - x)
            if 0 <= y < height and 0 <= x < width:
                total += int(image[y, x] * 65536)
    return (510 * total + kernel ** 2 * 65536) // (2 * kernel ** 2 * 65536)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('kernel', [1, 5, 9])
@pytest.mark.parametrize('padding', ['zeros', 'reflect'])
def test_means(device, kernel, padding):
    probs = random_probs(0, 2, 12, 17)
    rows = np.array([11, 0, 5])
    means = box_mean(probs.to(device), rows, kernel, padding).cpu()
    for k in range(2):
        image = probs[0, k].double().numpy()
        expected = [[slow_mean(image, row, column, kernel, padding) for column in range(17)] for row in rows]
        assert means[0, k].tolist() == expected


def slow_culane(image, shape, crop_top, exists):
    """SCNN's getLane: rows and columns counted from 1."""
    height, width = image.shape
    points = []
    for i in range(1, 19):
        row = int(np.floor(height - (i - 1) * 20 / (shape[0] - crop_top) * height + .5))
        if row < 1:
            continue
        values = [slow_mean(image, row - 1, column, 9, 'zeros') for column in range(width)]
        best = max(values)
        if best / 255 > .3:
            column = values.index(best) + 1
            points.append([int(np.floor(column * shape[1] / width + .5)) - 1, shape[0] - (i - 1) * 20 - 1])
    return points if exists and len(points) > 1 else None


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('crop_top', [0, 240])
def test_culane_equals_the_published_rule(device, crop_top):
    probs, exist = random_probs(1, 4, 36, 50).repeat(2, 1, 1, 1), torch.tensor([[.9, .5, .6], [.2, .9, .9]])
    probs[1, 3] *= .25  # below the threshold
    metas = [dict(CULANE, crop_top=crop_top)] * 2
    lanes = CULaneDecoder()(probs.to(device), exist.to(device), metas)
    for i in range(2):
        expected = [slow_culane(probs[i, k + 1].double().numpy(), (590, 1640), crop_top, exist[i, k] > .5)
                    for k in range(3)]
        assert [lane.tolist() for lane in lanes[i]] == [lane for lane in expected if lane]
    assert len(lanes[0]) == 2 and len(lanes[1]) == 1
    assert all(lane.dtype == np.float64 for lane in lanes[0])


def test_culane_stripe():
    probs = torch.zeros(1, 5, 288, 800)
    probs[0, 2, :, 400:409] = 1
    lane, = CULaneDecoder()(probs, None, [CULANE])[0]
    assert lane[:, 1].tolist() == list(range(589, 248, -20)) and len(set(lane[:, 0])) == 1
    assert abs(lane[0, 0] - 404.5 * 1640 / 800) < 2.05


def test_images_of_different_sizes_in_a_batch():
    probs = random_probs(2, 3, 36, 50).repeat(3, 1, 1, 1)
    metas = [CULANE, dict(original_shape=(300, 400)), CULANE]
    together, alone = CULaneDecoder()(probs, None, metas), [CULaneDecoder()(probs[:1], None, [m])[0] for m in metas]
    for a, b in zip(together, alone):
        assert [lane.tolist() for lane in a] == [lane.tolist() for lane in b]


def test_slots_can_be_kept():
    probs = torch.zeros(1, 5, 88, 160)
    probs[0, 3, :, 80:90] = 1
    lanes = LLAMASDecoder()(probs, None, [dict(original_shape=(717, 1276))])[0]
    assert [len(lane) for lane in lanes] == [0, 0, 417, 0]
    assert lanes[2][:, 1].tolist() == list(range(716, 299, -1)) and lanes[0].shape == (0, 2)
    assert [len(lane) for lane in CULaneDecoder()(probs, None, [CULANE])[0]] == [18]


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


def slow_simple(image, rows):
    """PytorchAutoDrive's rule, column after column."""
    points = []
    for v in rows:
        values = [slow_mean(image, v * image.shape[0] // 720, column, 9, 'reflect') for column in range(image.shape[1])]
        u = values.index(max(values)) * 1280 // image.shape[1]
        if max(values) / 255 > .3 and u > 0:
            points.append([u, v])
    return points if len(points) > 1 else None


def test_tusimple_simple_rule():
    probs, rows = random_probs(3, 3, 36, 50), [600, 500, 700]
    lanes = TuSimpleDecoder('simple', rows=rows)(probs, None, [TUSIMPLE])[0]
    expected = [slow_simple(probs[0, k].double().numpy(), (700, 600, 500)) for k in (1, 2)]
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
    cut = decode.cut_highest(u)
    assert [rows[~np.isnan(x)].min() for x in cut] == [300, 260, 300]
    assert [rows[~np.isnan(x)].min() for x in decode.cut_highest(u[::2])] == [300, 300], 'two begin alike'
    assert decode.cut_highest([]) == []


def test_filled_gaps():
    nan = np.nan
    found = decode.fill_gaps(np.array([nan, 1, nan, nan, 4, nan]))
    np.testing.assert_array_equal(found, [nan, 1, 2, 3, 4, nan])
    assert np.isnan(decode.fill_gaps(np.full(3, nan))).all()


def test_back_to_the_original_image():
    probs = torch.tensor([[[.2, .8]], [[.8, .2]]])
    full = restore_probs(probs, (5, 4), crop_top=2)
    assert full.shape == (2, 5, 4) and (full.sum(dim=0) == 1).all()
    assert (full[0, :2] == 1).all() and full[1, 2].tolist() == pytest.approx([.8, .65, .35, .2])
    labels = restore_labels(torch.tensor([[1, 2], [3, 255]]), (6, 4), crop_top=2)
    assert labels.tolist() == [[0] * 4] * 2 + [[1, 1, 2, 2]] * 2 + [[3, 3, 255, 255]] * 2


@pytest.mark.parametrize('decoder', [CULaneDecoder(), TuSimpleDecoder(), TuSimpleDecoder('simple'), LLAMASDecoder()])
def test_bad_input(decoder):
    probs = torch.zeros(2, 5, 16, 32)
    with pytest.raises(DataError, match='for 1 images'):
        decoder(probs, None, [CULANE])
    with pytest.raises(DataError, match='expected one number a slot'):
        decoder(probs, torch.zeros(2, 6), [CULANE] * 2)
    with pytest.raises(DataError, match='no original_shape'):
        decoder(probs, None, [dict(sample_id='a')] * 2)
    empty = decoder(probs, None, [CULANE] * 2)
    assert all(not len(lane) for image in empty for lane in image) and len(empty) == 2


def test_bad_arguments():
    with pytest.raises(ConfigError, match='expected ld or simple'):
        TuSimpleDecoder('pad')
    for arguments in (dict(kernel=8), dict(kernel=0), dict(padding='edge')):
        with pytest.raises(ConfigError, match='expected an odd width'):
            CULaneDecoder(**arguments)
