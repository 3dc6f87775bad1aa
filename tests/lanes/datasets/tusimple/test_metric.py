"""The TuSimple score against lane.py's numbers, a slow implementation and hand-made cases."""
import json

import numpy as np
import pytest

from perception.lanes.datasets.tusimple import metric as tusimple
from perception.lanes.datasets.tusimple.metric import TuSimpleMetric, compare_image, evaluate_files
from perception.lanes.datasets.tusimple.reader import ROWS
from perception.lanes.polylines import at_rows
from perception.utils.errors import DataError


def lane(u=600, slope=0.0, first=240):
    v = np.arange(710, first - 1, -10, dtype=float)
    return np.stack([u + slope * (710 - v), v], axis=1)


def columns(lanes):
    return [at_rows(x, ROWS) for x in lanes]


def slow_compare(lanes, preds, rows, run_time=0.0):
    """The rules of the benchmark, one number after another."""
    if run_time > 200 or len(preds) > len(lanes) + 2:
        return 0.0, 0.0, 1.0
    best, missed = [], 0
    for true in lanes:
        points = [(v, u) for u, v in zip(true, rows) if u >= 0]
        k = np.polyfit(*zip(*points), 1)[0] if len(points) > 1 else 0.0
        tolerance = 20 * (1 + k * k) ** .5  # 20 / cos(atan k)
        shares = [0.0]
        for pred in preds:
            good = 0
            for a, b in zip(true, pred):
                good += abs((a if a >= 0 else -100) - (b if b >= 0 else -100)) < tolerance
            shares.append(good / len(rows))
        best.append(max(shares))
        missed += max(shares) < .85
    fp = (len(preds) - (len(lanes) - missed)) / len(preds) if preds else 0.0
    if len(lanes) > 4:
        best.remove(min(best))
        missed -= missed > 0
    asked = max(min(len(lanes), 4), 1)
    return sum(best) / asked, fp, missed / asked


def test_golden(shared):
    folder = shared / 'goldens/tusimple_eval'
    golden = json.loads((folder / 'results.json').read_text())
    results = evaluate_files(folder / 'pred.json', folder / 'label.json')
    assert len(results) == len(golden['per_image']) == 33
    for found, expected in zip(results, golden['per_image']):
        assert found == pytest.approx([expected[key] for key in ('accuracy', 'fp', 'fn')], abs=1e-12), expected['note']
    result, overall = tusimple.scores(results), golden['overall_clrnet']
    assert [result[key] for key in ('accuracy', 'fp', 'fn', 'f1')] == pytest.approx(
        [overall[key] for key in ('Accuracy', 'FP', 'FN', 'F1_score')], abs=1e-12)


def test_angles_of_the_golden(shared):
    folder = shared / 'goldens/tusimple_eval'
    golden = json.loads((folder / 'results.json').read_text())['per_image']
    labels = [json.loads(line) for line in (folder / 'label.json').read_text().splitlines()]
    for label, expected in zip(labels, golden):
        found = [tusimple.angle(np.array(u, float), np.array(label['h_samples'], float)) for u in label['lanes']]
        assert found == pytest.approx(expected['angles'], abs=1e-12)


@pytest.mark.parametrize('seed', range(40))
def test_images_equal_a_slow_implementation(seed):
    rng = np.random.default_rng(seed)
    lanes = [lane(u, rng.uniform(-1, 1), rng.integers(16, 50) * 10) for u in rng.uniform(0, 1280, rng.integers(0, 7))]
    preds = [x + (rng.normal(0, 20), 0) for x in lanes[:rng.integers(0, len(lanes) + 1)]]
    preds += [lane(rng.uniform(0, 1280)) for _ in range(rng.integers(0, 4))]
    lanes, preds, time = columns(lanes), columns(preds), rng.choice([0, 10, 200, 201])
    assert compare_image(lanes, preds, ROWS, time) == pytest.approx(slow_compare(lanes, preds, ROWS, time), abs=1e-12)


def test_hand_made_cases():
    four = columns([lane(u) for u in (200, 500, 800, 1100)])
    assert compare_image(four, four, ROWS) == (1, 0, 0)
    assert compare_image(four, four + columns([lane(u) for u in (50, 350, 650)]), ROWS) == (0, 0, 1)
    five = four + columns([lane(1250)])
    assert compare_image(five, four, ROWS) == (1, 0, 0), 'the fifth lane is forgiven'
    assert compare_image([], [], ROWS) == (0, 0, 0)
    assert compare_image([], four[:1], ROWS) == (0, 1, 0)
    assert compare_image(four, [], ROWS) == (0, 0, 1)
    assert compare_image(four + four[:2], [], ROWS)[2] == 1.25, 'as the original counts six missed lanes'


def evaluate(images):
    metric = TuSimpleMetric()
    for image in images:
        metric.process(None, [image])
    return metric.evaluate(len(images))


def test_metric(tmp_path):
    rng = np.random.default_rng(1)
    images = []
    for i in range(5):
        lanes = [lane(u, rng.uniform(-1, 1)) for u in (300, 600, 900)[:1 + i % 3]]
        preds = [x + (rng.normal(0, 12), 0) for x in lanes]
        images.append(dict(sample_id=f'clips/{i}/20', lanes=lanes, pred_lanes=preds, h_samples=tuple(ROWS)))
    result = evaluate(images)
    expected = np.mean([slow_compare(columns(s['lanes']), columns(np.round(s['pred_lanes'], 3)), ROWS) for s in images],
                       axis=0)
    assert [result[key] for key in ('accuracy', 'fp', 'fn')] == pytest.approx(expected)
    assert evaluate([{**images[0], 'pred_lanes': images[0]['lanes']}])['f1'] == 1
    empty = np.zeros((0, 2))  # a slot without lane
    assert evaluate([{**s, 'pred_lanes': [empty, *s['pred_lanes'], empty, empty]} for s in images]) == result
    for key in ('lanes', 'pred_lanes'):
        with pytest.raises(DataError, match=f'clips/0/20 has no {key}'):
            evaluate([{**images[0], key: None}])


def test_images_whose_predictions_do_not_count_are_told(monkeypatch):
    said = []
    monkeypatch.setattr(tusimple, 'print_log', lambda text, *_: said.append(text))
    lanes = [lane(u) for u in (300, 600)]
    image = dict(sample_id='clips/0/20', lanes=lanes, pred_lanes=lanes, h_samples=tuple(ROWS), run_time=200)
    assert evaluate([image])['accuracy'] == 1 and len(said) == 1
    assert evaluate([image, {**image, 'run_time': 201}, {**image, 'pred_lanes': lanes * 3}])['accuracy'] == \
        pytest.approx(1 / 3)
    assert said[1] == ('2 of 3 images count as nothing found, by the rules of the benchmark: 1 predicted in more than '
                       '200 ms, 1 with more than 2 lanes beyond the true ones.')


LINE = dict(raw_file='clips/a/20.jpg', lanes=[[600] * len(ROWS)], run_time=10, h_samples=list(ROWS))


@pytest.mark.parametrize('pred, label, message', [
    ({}, dict(raw_file='clips/b/20.jpg'), 'unknown raw_file'), (dict(run_time='fast'), {}, 'run_time fast'),
    (dict(lanes=[[1, 2]]), {}, 'pred.json:1: lanes'), (dict(lanes=[['x'] * 56]), {}, 'expected lists of 56 numbers'),
    ({}, dict(h_samples=None), 'label.json:1'), ({}, dict(h_samples=[], lanes=[]), 'no h_samples'),
    ({}, dict(raw_file=3), 'raw_file 3'), (dict(raw_file=[3]), {}, 'an unknown raw_file')])
def test_bad_files(tmp_path, pred, label, message):
    (tmp_path / 'pred.json').write_text(json.dumps({**LINE, **pred}))
    (tmp_path / 'label.json').write_text(json.dumps({**LINE, **label}))
    with pytest.raises(DataError, match=message):
        evaluate_files(tmp_path / 'pred.json', tmp_path / 'label.json')


def test_each_image_must_be_predicted_once(tmp_path):
    line, other = json.dumps(LINE), json.dumps({**LINE, 'raw_file': 'clips/b/20.jpg'})
    (tmp_path / 'label.json').write_text(f'{line}\n{other}\n')
    (tmp_path / 'pred.json').write_text(f'{line}\n')
    with pytest.raises(DataError, match='1 predictions for 2 labelled images'):
        evaluate_files(tmp_path / 'pred.json', tmp_path / 'label.json')
    (tmp_path / 'pred.json').write_text(f'{line}\n{line}\n')
    with pytest.raises(DataError, match='a second raw_file'):
        evaluate_files(tmp_path / 'pred.json', tmp_path / 'label.json')
