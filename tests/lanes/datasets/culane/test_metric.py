"""The CULane score against the original tool's numbers, segment by segment drawing and hand-made cases."""
import json
from itertools import permutations

import cv2
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from perception.lanes.datasets.culane import metric as culane
from perception.lanes.datasets.culane.metric import CULaneMetric, compare_image, evaluate_folders
from perception.lanes.datasets.culane.reader import CATEGORIES, SIZE, read_lanes
from perception.lanes.datasets.culane.submission import CULaneSubmission, write_lanes
from perception.lanes.overlap import ImageResult, count, draw_stroke, iou_matrix
from perception.utils.errors import DataError

# whether a line to nowhere, as of a lane that names a point twice, is not that of the OpenCV of the original tool
OVERFLOWS = tuple(map(int, cv2.__version__.split('.')[:2])) >= (4, 13)


def vertical(u, top=250, bottom=590, step=10):
    v = np.arange(bottom, top - 1, -step, dtype=float)
    return np.stack([np.full(len(v), float(u)), v], axis=1)


def random_lane(rng, points):
    v = np.sort(rng.uniform(-50, 700, points))[::-1]
    return np.stack([np.cumsum(rng.normal(0, 120, points)) + rng.uniform(-100, 1740), v], axis=1)


def slow_mask(points, size=SIZE, width=30):
    """One line for each segment on the whole canvas."""
    mask = np.zeros(size, np.uint8)
    for a, b in zip(points[:-1], points[1:]):
        cv2.line(mask, [round(float(x)) for x in a], [round(float(x)) for x in b], 1, width)
    return mask


def check_images(folder, images):
    for golden in images:
        name = golden['image'].lstrip('/').replace('.jpg', '.lines.txt')
        lanes, preds = (read_lanes(folder / kind / name) for kind in ('anno', 'pred'))
        assert (len(lanes), len(preds)) == (golden['n_anno'], golden['n_pred']), name
        iou = iou_matrix(*([culane.draw_lane(lane) for lane in group] for group in (lanes, preds)))
        np.testing.assert_allclose(iou, np.array(golden['iou'], float).reshape(iou.shape), atol=1e-11, err_msg=name)
        match = [int(j) if j >= 0 and iou[i, j] > .5 else -1 for i, j in enumerate(culane.match_lanes(iou))]
        assert match == golden['match'], name
        counts = count([compare_image(lanes, preds)])
        assert (counts.tp, counts.fp, counts.fn) == (golden['tp'], golden['fp'], golden['fn']), name


@pytest.mark.parametrize('name, number', [('culane_eval', 45), ('culane_eval_ties', 3), ('culane_eval_degenerate', 6)])
def test_each_iou_and_match_of_the_original_tool(shared, name, number):
    if name.endswith('degenerate') and OVERFLOWS:
        pytest.skip(f'OpenCV {cv2.__version__} draws such lines otherwise')
    folder = shared / 'goldens' / name
    path = folder / ('results.json' if name.endswith('ties') else 'per_image.json')
    images = json.loads(path.read_text())
    if isinstance(images, dict):
        images = images.get('per_image') or list(images.values())
    assert len(images) == number
    check_images(folder, images)


def test_counts_and_ratios_as_the_original_tool_prints_them(shared):
    folder = shared / 'goldens/culane_eval'
    golden = json.loads((folder / 'results.json').read_text())['cpp']
    for name, thresholds in golden.items():
        results = evaluate_folders(folder / 'anno', folder / 'pred', folder / f'list/{name}.txt')
        for key, expected in thresholds.items():
            counts = count(results, float(key.removeprefix('iou_')))
            assert (counts.tp, counts.fp, counts.fn) == (expected['TP'], expected['FP'], expected['FN']), (name, key)
            found = [f'{x:.6g}' for x in (counts.precision, counts.recall)]
            assert found == [expected['precision'], expected['recall']]
            assert not counts.tp or f'{counts.f1:.6g}' == expected['Fmeasure']


@pytest.mark.parametrize('points', [3, 4, 7, 30])
def test_curves_are_natural_splines_over_chord_length(points):
    lane = random_lane(np.random.default_rng(points), points).astype(np.float32)
    chord = np.hypot(*np.diff(lane.astype(float), axis=0).T)
    at = np.concatenate([[0], np.cumsum(chord)])
    steps = np.concatenate([a + h / 50 * np.arange(50) for a, h in zip(at, chord)] + [at[-1:]])
    expected = CubicSpline(at, lane.astype(float), bc_type='natural')(steps)
    np.testing.assert_allclose(culane.curve(lane), expected, atol=2e-3)


def test_curve_of_two_points_is_their_segment():
    assert culane.curve(np.array([[1, 2], [30, 4.]])).tolist() == [[1, 2], [30, 4]]


def test_pixels_are_rounded_half_to_even():
    points = np.array([[.5, 1.5], [2.5, -.5], [np.nan, 1e20]], np.float32)
    assert culane.to_pixels(points).tolist() == [[0, 2], [2, 0], [-2 ** 31, -2 ** 31]]


@pytest.mark.parametrize('seed', range(12))
def test_strokes_equal_one_line_per_segment(seed):
    rng = np.random.default_rng(seed)
    size, width = (SIZE, 30) if seed % 2 else ((120, 200), int(rng.integers(2, 31)))
    lane = random_lane(rng, int(rng.integers(2, 20))) * (1 if seed % 2 else .15)
    stroke = draw_stroke(culane.to_pixels(culane.curve(lane)), size, width)
    mask = np.zeros(size, np.uint8)
    mask[stroke.top:stroke.top + stroke.mask.shape[0], stroke.left:stroke.left + stroke.mask.shape[1]] = stroke.mask
    expected = slow_mask(culane.curve(lane), size, width)
    assert (mask == expected).all() and stroke.area == expected.sum()
    assert expected.any() or seed == 5  # which lies outside


def test_ious_equal_those_of_whole_masks():
    rng = np.random.default_rng(3)
    lanes = [random_lane(rng, 6) for _ in range(3)] + [np.array([[5., 5]])]
    preds = [lane + rng.normal(0, 8, 2) for lane in lanes[:3]] + [vertical(5000)]
    iou = iou_matrix(*([culane.draw_lane(lane) for lane in group] for group in (lanes, preds)))
    for i, a in enumerate(lanes[:3]):
        for j, b in enumerate(preds):
            a_mask, b_mask = slow_mask(culane.curve(a)), slow_mask(culane.curve(b))
            assert iou[i, j] == (a_mask & b_mask).sum() / (a_mask | b_mask).sum()
    assert (iou[3] == 0).all()


@pytest.mark.parametrize('shape', [(1, 1), (3, 3), (2, 5), (5, 2), (4, 4)])
def test_matching_is_near_the_best_one(shape):
    rng = np.random.default_rng(sum(shape))
    for _ in range(30):
        iou = rng.uniform(size=shape) * (rng.uniform(size=shape) < .7)
        match = culane.match_lanes(iou)
        pairs = [(i, j) for i, j in enumerate(match) if j >= 0]
        assert len({j for _, j in pairs}) == len(pairs) == min(shape)
        wide = iou if shape[0] <= shape[1] else iou.T
        orders = permutations(range(max(shape)), min(shape))
        best = max(sum(wide[i, j] for i, j in enumerate(order)) for order in orders)
        assert best - .01 * (len(pairs) + 1) <= sum(iou[pair] for pair in pairs) <= best + 1e-9


def test_lanes_without_any_pixel_match_nothing():
    counts = count([compare_image([vertical(-500)], [vertical(3000)])])
    assert (counts.tp, counts.fp, counts.fn) == (0, 1, 1)
    assert culane.match_lanes(np.full((2, 2), np.nan)).tolist() == [-1, -1]


@pytest.mark.parametrize('shift, hit', [(0, True), (8, True), (12, False), (40, False)])
def test_shifted_lanes(shift, hit):
    result = compare_image([vertical(800)], [vertical(800 + shift)])
    counts = count([result])
    assert (counts.tp, counts.fp, counts.fn) == ((1, 0, 0) if hit else (0, 1, 1))
    if shift in (8, 12):
        assert abs(result.ious[0] - (30 - shift) / (30 + shift)) < .02


def test_short_lanes_are_lanes():
    empty, dot = np.zeros((0, 2)), np.array([[800., 500]])
    counts = count([compare_image([empty, vertical(400)], [dot, vertical(400), empty])])
    assert (counts.tp, counts.fp, counts.fn) == (1, 2, 1)
    assert compare_image([], []) == ImageResult(0, 0, [])


def samples():
    rng = np.random.default_rng(0)
    result = []
    for i, category in enumerate([*CATEGORIES, None]):
        lanes = [] if category == 'cross' else [vertical(u) for u in (300, 700, 1100)[:1 + i % 3]]
        preds = [vertical(u + rng.uniform(-14, 14)) + 1 / 3 for u in (300, 700, 1100)[:1 + (i + 1) % 3]]
        result.append(dict(sample_id=f'drive/{i}', lanes=lanes, pred_lanes=preds, category=category))
    return result


def evaluate(images, **options):
    metric = CULaneMetric(**options)
    for start in range(0, len(images), 3):
        metric.process(None, images[start:start + 3])
    return metric.evaluate(len(images))


def test_metric_equals_the_folders_of_a_submission(tmp_path):
    images = samples()
    writer = CULaneSubmission(tmp_path / 'pred')
    writer.process(None, images)
    writer.evaluate(len(images))
    for image in images:
        write_lanes(tmp_path / 'anno' / f'{image["sample_id"]}.lines.txt', image['lanes'])
    (tmp_path / 'list.txt').write_text(''.join(f'/{image["sample_id"]}.jpg 1 0\n' for image in images))
    results = evaluate_folders(tmp_path / 'anno', tmp_path / 'pred', tmp_path / 'list.txt')
    metric = CULaneMetric(num_threads=3)
    metric.process(None, images)
    assert [(r.num_lanes, r.num_preds, r.ious) for r in metric.results] == [(r.num_lanes, r.num_preds, r.ious)
                                                                           for r in results]


def test_a_slot_without_lane_is_no_prediction(tmp_path):
    images = samples()[:2]
    kept = [dict(image, pred_lanes=[np.zeros((0, 2)), *image['pred_lanes'], np.zeros((0, 2))]) for image in images]
    assert evaluate(kept) == evaluate(images)  # of a decoder with keep_slots=True
    for name, some in (('kept', kept), ('plain', images)):
        writer = CULaneSubmission(tmp_path / name)
        writer.process(None, some)
        writer.evaluate(2)
    assert (tmp_path / 'kept/drive/0.lines.txt').read_text() == (tmp_path / 'plain/drive/0.lines.txt').read_text()


def test_metric_sums_up_categories():
    images = samples()
    result = evaluate(images)
    results = [compare_image(s['lanes'], s['pred_lanes'], category=s['category'] or '') for s in images]
    assert result['fp_cross'] == len(images[7]['pred_lanes']) > 0
    assert 'f1_cross' not in result
    for i, name in enumerate(CATEGORIES):
        if name != 'cross':
            assert result[f'f1_{name}'] == count([results[i]]).f1
    f1 = [count(results, t).f1 for t in np.arange(.5, 1, .05).round(2)]
    assert (result['f1_50'], result['f1_75']) == (f1[0], f1[5]) and result['mf1'] == pytest.approx(np.mean(f1))
    assert 0 < result['f1_75'] < result['f1_50'] < 1
    assert evaluate(images, num_threads=1) == result


def test_table_names_categories():
    table = culane.score_table([ImageResult(2, 2, [.8, .3], 'night'), ImageResult(0, 3, [], 'cross')])
    rows = {line.split()[0]: line.split()[1:] for line in table.split('\n')}
    assert rows['night'] == ['1', '1', '1', '1', '50.00']
    assert rows['cross'] == ['1', '0', '3', '0', 'FP', 'only']
    assert rows['all'] == ['2', '1', '4', '1', '28.57'] and 'normal' not in rows


@pytest.mark.parametrize('change, message', [
    (dict(lanes=None), 'drive/0 has no lanes'), (dict(pred_lanes=None), 'drive/0 has no pred_lanes'),
    (dict(category='nigth'), 'Did you mean night'),
    (dict(pred_lanes=[np.array([[1, np.nan], [2, 3]])]), 'expected .* finite'),
    (dict(pred_lanes=[np.zeros((4, 3))]), r'shape \(4, 3\)')])
def test_metric_refuses_broken_samples(change, message):
    with pytest.raises(DataError, match=message):
        CULaneMetric().process(None, [{**samples()[0], **change}])


