"""Pictures of lanes: what is drawn where, and in which colour."""
import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from perception.common.structures import LaneSample
from perception.common.visual import canvas
from perception.lanes.draw import (
    DrawLanes,
    contact_sheet,
    draw_lanes,
    draw_sample,
    drawable,
    named_slots,
    overlay_labels,
    slots_of,
    smooth_curve,
    to_original,
)
from perception.registry import METRICS
from perception.utils.errors import ConfigError, DataError

CLASSES = ('background', 'left-left', 'left', 'right', 'right-right')
PALETTE = ((0, 0, 0), (255, 140, 0), (255, 60, 60), (60, 190, 75), (60, 120, 255))


def line(x0, x1, bottom=199, top=80, step=-10):
    rows = np.arange(bottom, top, step, dtype=float)
    return np.stack([x0 + (x1 - x0) * (bottom - rows) / (bottom - top), rows], 1)


def road(height=200, width=320):
    return np.full((height, width, 3), 90, np.uint8)


def near(pixel, color, by=12):
    return np.abs(pixel.astype(int) - color).max() <= by


# --- curves ---
def test_a_curve_follows_a_smooth_lane_and_smooths_a_noisy_one():
    rows = np.arange(500., 200, -20)
    lane = np.stack([300 + 0.001 * (500 - rows) ** 2, rows], 1)
    curve = smooth_curve(lane)
    assert len(curve) > 3 * len(lane)
    assert np.abs(curve[:, 0] - (300 + 0.001 * (500 - curve[:, 1]) ** 2)).max() < 3
    noisy = lane + np.random.default_rng(0).normal(0, 2, lane.shape)
    bends = np.abs(np.diff(smooth_curve(noisy, step=20), n=2, axis=0)).sum()
    assert bends < 0.5 * np.abs(np.diff(noisy, n=2, axis=0)).sum()


@pytest.mark.parametrize('lane', [np.zeros((0, 2)), np.ones((1, 2)), line(5, 9)[:2], np.repeat(line(5, 9)[:2], 3, 0),
                                  np.full((9, 2), 7.)])
def test_lanes_of_few_points_stay_as_they_are(lane):
    assert len(smooth_curve(lane)) == len(np.unique(lane, axis=0))


def test_points_that_are_not_finite_are_left_out():
    lane = line(50, 90)
    lane[[2, 5]] = np.nan, np.inf
    assert np.isfinite(smooth_curve(lane)).all()


# --- lanes on images ---
def test_a_lane_is_drawn_along_its_points_and_nowhere_else():
    image = road()
    drawn = draw_lanes(image, [line(100, 140)], [PALETTE[2]])
    assert (image == 90).all()  # the input stays
    for x, y in line(100, 140)[1:-1]:
        assert near(drawn[int(y), round(x)], PALETTE[2])
    assert (drawn[:, 200:] == 90).all()
    edge = {tuple(p) for p in drawn[150]} - {(90, 90, 90), PALETTE[2]}
    assert edge  # a soft border, not a staircase of two colours


def test_wild_lanes_do_not_crash():
    wild = [np.zeros((0, 2)), np.ones((1, 2)), line(-5e3, 9e9), np.full((6, 2), np.nan), line(-50, -90), line(3, 3)[:2]]
    drawn = draw_lanes(road(), wild, [PALETTE[1]] * 6, ['a', 'b', 'c', 'd', 'e', 'f'])
    assert drawn.shape == road().shape


def test_names_are_written_inside_the_image():
    bare, named = (draw_lanes(road(), [line(0, 20)], [PALETTE[3]], names) for names in ((), ['left']))
    changed = np.argwhere((bare != named).any(2))
    assert len(changed) > 50
    assert named.shape == bare.shape


def test_labels_are_laid_over_the_image():
    labels = np.zeros((200, 320), np.uint8)
    labels[100:120], labels[150:160] = 2, 255
    drawn = overlay_labels(road(), labels, PALETTE, opacity=0.5)
    assert (drawn[:100] == 90).all()
    assert near(drawn[110, 5], (np.array(PALETTE[2]) + 90) / 2, 1)
    assert (drawn[155] < 80).all()
    assert overlay_labels(road(), np.full((200, 320), -3), PALETTE).shape == road().shape


def test_labels_of_the_net_go_back_to_the_original_image():
    labels = np.array([[1, 2], [3, 4]], np.uint8)
    whole = to_original(labels, (10, 8), crop_top=2)
    assert (whole[:2] == 0).all() and (whole[2:6, :4] == 1).all() and (whole[6:, 4:] == 4).all()


# --- slots ---
def test_slots_come_from_labels_else_from_the_middle():
    lanes = [line(40, 140), line(120, 150), line(200, 170), line(300, 180)]
    labels = np.zeros((200, 320), np.uint8)
    for slot, lane in zip((4, 2, 1), lanes):
        cv2.polylines(labels, [lane.round().astype(np.int32)[:, None]], False, slot, 5)
    assert slots_of(lanes, None, 4) == [1, 2, 3, 4]
    assert slots_of(lanes[1:3], None, 4) == [2, 3]
    assert slots_of(lanes[2:], None, 6) == [4, 5]
    assert slots_of(lanes[::-1], None, 4) == [4, 3, 2, 1]
    assert slots_of(lanes, labels, 4) == [4, 2, 1, 4]  # the last one is in no label
    assert slots_of(lanes[2:], None, 1) == [1, 2]
    assert slots_of([], labels, 4) == []


def test_lanes_that_begin_at_the_side_of_an_image_are_told_apart():
    outer, inner = line(3, 140, bottom=120), line(1, 150, bottom=170)  # the outer one is cut a little later
    assert slots_of([inner, outer], None, 4) == [2, 1]
    assert slots_of([line(200, 170), inner, outer], None, 1) == [3, 2, 1]


def test_prediction_and_truth_share_their_colours():
    """Where those of one are numbered, those of the other are too: a legend of slots would belong to but one."""
    lanes = [line(120, 150), line(200, 170)]
    labels = np.zeros((200, 320), np.uint8)
    for slot, lane in zip((2, 3), lanes):
        cv2.polylines(labels, [lane.round().astype(np.int32)[:, None]], False, slot, 5)
    truth = dict(lanes=lanes, labels=labels)
    both = draw_sample(road(), CLASSES, PALETTE, dict(lanes=lanes[::-1], own_classes=True), truth, width=320)
    first, second = both[-200:, :320], both[-200:, -320:]  # there is no legend below
    assert np.array_equal(first, second) and not (both == PALETTE[2]).all(2).any()


def test_a_picture_has_the_colours_and_names_of_the_slots():
    picture = draw_sample(road(), CLASSES, PALETTE, dict(lanes=[line(120, 150), line(200, 170)]), title='x', width=320)
    body = picture[58:258]
    assert near(body[150, round(120 + 30 * 49 / 119)], PALETTE[2])
    assert near(body[150, round(200 - 30 * 49 / 119)], PALETTE[3])
    legend = picture[258:]
    assert (legend == PALETTE[2]).all(2).sum() > (legend == PALETTE[1]).all(2).sum() * 2  # filled against outlined


def test_a_weak_lane_has_the_slot_that_it_was_found_in():
    lane, probs = line(40, 100), torch.full((5, 100, 160), .01)  # the net sees half the size
    probs[0], probs[1, :, :60] = .6, .35  # more probable as background, but above the threshold of a decoder
    sample = dict(pred_lanes=[lane], pred_labels=probs.argmax(0), lane_probs=probs, original_shape=(200, 320))
    found = drawable(sample, 'pred_')
    assert not found['labels'].any() and named_slots([lane], found, CLASSES) == ([1], True)


def test_lanes_of_a_net_of_own_classes_have_no_slot():
    lane, labels = line(120, 150), np.zeros((200, 320), np.uint8)
    cv2.polylines(labels, [lane.round().astype(np.int32)[:, None]], False, 1, 5)
    assert named_slots([lane], dict(labels=labels), CLASSES) == ([1], True)
    assert named_slots([lane], dict(labels=labels, own_classes=True), CLASSES) == ([1], False)
    sample = dict(pred_lanes=[lane], pred_labels=labels, original_shape=(200, 320))
    left, plain = (draw_sample(road(), CLASSES, PALETTE, drawable(dict(sample, own_classes=own), 'pred_'), width=320)
                   for own in (False, True))
    at = 58 + 150, round(120 + 30 * 49 / 119)
    assert near(left[at], PALETTE[1]) and not near(plain[at], PALETTE[1])


def test_more_lanes_than_slots_are_numbered():
    many = [line(x, 160) for x in range(10, 320, 50)]
    assert draw_sample(road(), CLASSES, PALETTE, dict(lanes=many), width=320).ndim == 3
    assert draw_sample(road(), CLASSES[:2], PALETTE[:2], dict(lanes=many), width=320).ndim == 3


def test_panels_stand_beside_each_other_or_above_for_wide_images():
    found = dict(lanes=[line(120, 150)])
    assert draw_sample(road(), CLASSES, PALETTE, found, found, width=320).shape[1] == 644
    assert draw_sample(road(100, 320), CLASSES, PALETTE, found, found, width=320).shape[1] == 320
    assert draw_sample(road(100, 320), CLASSES, PALETTE, width=320).shape[1] == 320


def test_label_maps_are_drawn_where_there_are_no_lanes():
    labels = np.full((200, 320), 3, np.uint8)
    picture = draw_sample(road(), CLASSES, PALETTE, dict(labels=labels), width=320)
    assert near(picture[150, 100], 0.65 * np.array(PALETTE[3]) + 0.35 * 90, 2)


def test_where_a_net_tells_no_lanes_the_truth_is_drawn_by_its_labels_too():
    labels = np.zeros((200, 320), np.uint8)
    labels[:, 100:140] = 1
    truth = dict(lanes=[line(60, 60), line(250, 250)], labels=labels)
    found, classes = dict(lanes=None, labels=labels), ('background', 'lane')
    picture = draw_sample(road(), classes, PALETTE[:2], found, truth, width=320)
    left, right = picture[-220:-20, :320], picture[-220:-20, -320:]
    assert (left == right).mean() > .95 and near(right[100, 120], .65 * np.array(PALETTE[1]) + .35 * 90, 2)
    lanes = draw_sample(road(), classes, PALETTE[:2], found, dict(truth, labels=None), width=320)
    assert (lanes != picture).any()  # lanes are all that is known of it


# --- test runs ---
@pytest.fixture
def samples(tmp_path):
    result = []
    for i, category in enumerate(('normal', 'night', 'night')):
        path = tmp_path / f'{i}.png'
        cv2.imwrite(str(path), road())
        sample = LaneSample(metainfo=dict(sample_id=f'drive/{i}', image_path=str(path), original_shape=(200, 320),
                                          crop_top=40, category=category))
        sample.pred_lanes, sample.lanes = [line(120, 150)], [line(120, 150), line(200, 170)]
        sample.pred_labels = torch.zeros(16, 32, dtype=torch.int64)
        result.append(sample)
    return result


def evaluator(**kwargs):
    metric = Evaluator(METRICS.build(dict(type=DrawLanes, width=160, **kwargs)))
    metric.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    return metric


def test_metric_draws_each_image_and_a_sheet_and_scores_nothing(samples, tmp_path, caplog):
    metric = evaluator(out_dir=tmp_path / 'new')
    metric.process(samples)
    assert metric.evaluate(3) == {}
    assert sorted(p.name for p in (tmp_path / 'new').glob('*.png')) == [
        'contact_sheet.png', 'drive__0.png', 'drive__1.png', 'drive__2.png']
    sheet = cv2.imread(str(tmp_path / 'new/contact_sheet.png'))
    assert sheet.shape[1] == 804  # two columns, as the largest category has two images
    assert 'prefix is not set' not in caplog.text


def test_metric_stops_after_max_images(samples, tmp_path):
    metric = evaluator(out_dir=tmp_path / 'new', max_images=1)
    metric.process(samples)
    metric.evaluate(3)
    assert sorted(p.name for p in (tmp_path / 'new').glob('*.png')) == ['contact_sheet.png', 'drive__0.png']


def test_sheets_are_limited(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), road())
    sheet = contact_sheet([('', str(path))] * 50, rows=3, columns=4, width=80)
    assert sheet.shape == (3 * 50 + 2 * 4, 4 * 84 - 4, 3)
    grouped = contact_sheet([(name, str(path)) for name in 'abcde'] * 3, rows=2, columns=2, width=80)
    assert grouped.shape[0] == 5 * (len(canvas.bar(332)) + 50) + 9 * 4  # every category keeps a row


def test_what_is_drawn_of_a_sample(samples):
    sample = samples[0].to_dict()
    prediction = drawable(sample, 'pred_')
    assert len(prediction['lanes']) == 1 and prediction['labels'].shape == (200, 320)
    sample['full_labels'] = torch.ones(200, 320, dtype=torch.uint8)
    assert (drawable(sample)['labels'] == 1).all()
    assert drawable(dict(original_shape=(2, 2))) is None


def test_metric_needs_names_colours_and_images(samples, tmp_path):
    metric = DrawLanes(tmp_path)
    metric.dataset_meta = dict(classes=CLASSES)
    with pytest.raises(ConfigError, match='expected classes and palette'):
        metric.process(None, [s.to_dict() for s in samples])
    metric.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    samples[0].set_metainfo(dict(image_path=str(tmp_path / 'gone.png')))
    with pytest.raises(DataError, match='gone.png'):
        metric.process(None, [s.to_dict() for s in samples])
