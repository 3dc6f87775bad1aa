"""STCrowd's results file: written, checked, read again; it gives the score of the net that wrote it."""
import json
import re

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from perception.crowd.datasets.stcrowd.metric import STCrowdMetric
from perception.crowd.datasets.stcrowd.submission import (
    STCrowdResults,
    STCrowdSubmission,
    to_records,
    validate_results,
)
from perception.crowd.datasets.stcrowd.track_metric import STCrowdTrackMetric
from perception.utils.errors import DataError

GOOD = dict(translation=[5.0, 1, -.7], size=[.7, .6, 1.7], yaw=1.5, velocity=[1.0, 0.0], score=.9)


def samples(seed=0, frames=4):
    """Frames with people and predictions all around, as a float32 net gives them; the last one is empty."""
    rng, result = np.random.default_rng(seed), []
    for number in range(frames):
        people, preds = (0, 0) if number == frames - 1 else (12, 30)
        low, high = [-2, -9, -1, .5, .5, .8, -4, -1, -1], [20, 9, -.5, .8, .8, 2, 4, 1, 1]
        boxes = rng.uniform(low, high, (people, 9))
        pred_boxes = rng.uniform(low, high, (preds, 9))
        pred_boxes[:people, :3] = boxes[:, :3] + rng.normal(0, .3, (people, 3))
        pred_boxes[::7, 7:] = np.nan
        result.append(BaseDataElement(
            metainfo=dict(sample_id=f'33_{number:04d}'), boxes=torch.tensor(boxes, dtype=torch.float32),
            occlusion=torch.as_tensor(rng.integers(0, 3, people)),
            pred_boxes=torch.tensor(pred_boxes, dtype=torch.float32),
            pred_scores=torch.tensor(rng.random(preds).round(2), dtype=torch.float32)))
    return result


def score(elements, **arguments):
    metric = STCrowdMetric(**arguments)
    metric.process(None, [element.to_dict() for element in elements])
    return metric.evaluate(len(elements))


def write(folder, elements, **arguments):
    writer = STCrowdSubmission(folder, **arguments)
    writer.process(None, [element.to_dict() for element in elements])
    assert writer.evaluate(len(elements)) == {}
    return folder / 'results.json'


def without_predictions(elements):
    """The same frames with the truth alone."""
    return [BaseDataElement(metainfo=dict(sample_id=e.sample_id), boxes=e.boxes, occlusion=e.occlusion)
            for e in elements]


@pytest.mark.parametrize('ties', ['devkit', 'crowdquery'])
def test_a_file_gives_the_score_of_its_net_to_the_last_digit(tmp_path, ties):
    path = write(tmp_path, samples())
    model = STCrowdResults(path)
    again = model.test_step(dict(data_samples=without_predictions(samples())))
    np.testing.assert_equal(score(again, ties=ties), score(samples(), ties=ties))
    assert again[0].pred_labels.tolist() == [0] * len(again[0].pred_scores) and len(again[3].pred_boxes) == 0


def test_what_is_written(tmp_path):
    elements = samples()
    elements[0].pred_scores[0] = .04
    elements[0].pred_boxes[1, 0] = -.1
    content = json.loads(write(tmp_path, elements, max_boxes=5).read_text())
    assert content['meta'] == dict(dataset='STCrowd', max_range=35.0, front=True, view='lidar', min_score=.05,
                                   max_boxes=5)
    assert list(content['results']) == [f'33_{k:04d}' for k in range(4)]
    assert [len(frame) for frame in content['results'].values()] == [5, 5, 5, 0]
    for record in content['results']['33_0000']:
        assert set(record) == {'translation', 'size', 'yaw', 'velocity', 'score'} and abs(record['yaw']) <= np.pi
        k = np.flatnonzero(np.abs(elements[0].pred_boxes[:, 0].numpy() - record['translation'][0]) < 1e-9)
        assert k not in (0, 1) and record['score'] == float(elements[0].pred_scores[k])
    assert 'NaN' not in (tmp_path / 'results.json').read_text()


def test_half_known_velocities_are_unknown():
    records = to_records(np.array([[1, 2, 3, 1, 1, 2, 4.0, 1, np.nan]]), np.array([.5]))
    assert records[0]['velocity'] is None and records[0]['yaw'] == pytest.approx(4 - 2 * np.pi)


def test_a_frame_that_came_twice_is_refused(tmp_path):
    writer = STCrowdSubmission(tmp_path)
    one = samples()[0].to_dict()
    writer.process(None, [one, one])
    with pytest.raises(DataError, match='frame 33_0000 was predicted twice'):
        writer.evaluate(2)
    del one['pred_scores']
    with pytest.raises(DataError, match='STCrowdSubmission: 33_0000 has no pred_scores'):
        writer.process(None, [one])


def save(path, frames, meta=None):
    path.write_text(json.dumps(dict(meta={} if meta is None else meta, results=frames)))
    return path


@pytest.mark.parametrize('record', [GOOD, dict(GOOD, velocity=None), dict(GOOD, velocity=[float('nan')] * 2),
                                    {k: v for k, v in GOOD.items() if k != 'velocity'}, dict(GOOD, tracking_id='p7'),
                                    dict(GOOD, score=1, yaw=-6, more='x')])
def test_files_of_anybody(tmp_path, record):
    path = save(tmp_path / 'r.json', {'33_0000': [record], '33_0001': []})
    assert validate_results(path, ['33_0001', '33_0000']) == []
    fields = STCrowdResults(path).results['33_0000']
    assert fields['pred_boxes'][0, :6].tolist() == [5, 1, -.7, .7, .6, 1.7]
    assert fields['pred_boxes'][0, 7:].isnan().any() != (record.get('velocity') == [1, 0])


@pytest.mark.parametrize(('change', 'problem'), [
    (dict(translation=[1, 2]), 'item 1: translation [1, 2], expected 3 numbers'),
    (dict(translation={'x': 1}), "item 1: translation {'x': 1}"), (dict(size='big'), 'item 1: size big'),
    (dict(size=[.7, 0, 1.7]), 'item 1: size 0, expected 0.001 to 100'), (dict(size=[.7, .6, True]), 'item 1: size'),
    (dict(yaw='1.5'), 'item 1: yaw 1.5, expected a number'), (dict(yaw=90), 'item 1: yaw 90, expected -6.28'),
    (dict(yaw=None), 'item 1: yaw None'), (dict(score=1.01), 'item 1: score 1.01, expected 0 to 1'),
    (dict(score=float('nan')), 'item 1: score nan'), (dict(translation=[1e9, 0, 0]), 'translation 1e+09'),
    (dict(translation=[10 ** 400, 0, 0]), 'translation inf'), (dict(velocity=[1]), 'item 1: velocity [1], expected 2'),
    (dict(velocity=[500, 0]), 'velocity 500'), (GOOD, 'item 0: its box is there 2 times'),
    (dict(tracking_id=3), 'tracking_id 3 is there twice'), (dict(tracking_id=[3]), 'tracking_id [3], expected')])
def test_problems_of_a_frame(tmp_path, change, problem):
    second = dict(GOOD, translation=[9.0, 0, 0], tracking_id='4') | change
    path = save(tmp_path / 'r.json', {'33_0000': [dict(GOOD, tracking_id='3'), second]})
    found = validate_results(path, ['33_0000'])
    assert len(found) == 1 and found[0].startswith('frame 33_0000: ') and problem in found[0]
    with pytest.raises(DataError, match=r'r\.json: frame 33_0000: .* \(1 problem'):
        STCrowdResults(path)


@pytest.mark.parametrize(('frames', 'problem'), [
    ({'33_0000': {}}, 'frame 33_0000: dict, expected a list'), ({'33_0000': [3]}, 'item 0: int, expected an object'),
    ({'33_0000': [GOOD] * 501}, 'frame 33_0000: 501 predictions, expected a list of at most 500'),
    ({}, 'frame 33_0000 is missing'), ({'33_0000': [], '34_0000': []}, 'frame 34_0000 is unknown')])
def test_problems_of_frames(tmp_path, frames, problem):
    assert validate_results(save(tmp_path / 'r.json', frames), ['33_0000']) == [problem] or \
        problem in validate_results(save(tmp_path / 'r.json', frames), ['33_0000'])[0]


def test_many_frames_that_are_missing(tmp_path):
    found = validate_results(save(tmp_path / 'r.json', {}), [f'33_{k:04d}' for k in range(12)])
    assert len(found) == 6 and found[5] == '7 more frames are missing'


def test_a_frame_that_the_file_has_twice(tmp_path):
    path = tmp_path / 'r.json'
    path.write_text('{"meta": {}, "results": {"33_0000": [], "33_0000": []}}')
    assert validate_results(path, ['33_0000']) == ['33_0000 is there twice']
    save(path, {'33_0000': []}, meta=[])
    assert 'meta is no object' in validate_results(path, ['33_0000'])[0]


@pytest.mark.parametrize(('text', 'message'), [
    ('', 'no valid JSON'), ('{"meta": {}, "results": {', 'no valid JSON'), ('[]', 'list came, expected an object'),
    ('{"meta": {}, "results": []}', 'meta, results came'), ('{}', 'nothing came'), ('[' * 100000, 'no valid JSON')])
def test_files_that_are_none(tmp_path, text, message):
    path = tmp_path / 'r.json'
    path.write_text(text)
    with pytest.raises(DataError, match=rf'r\.json: {message}'):
        STCrowdResults(path)
    with pytest.raises(DataError, match=r'no\.json: no such file, expected the results of STCrowd'):
        validate_results(tmp_path / 'no.json', [])


def test_damaged_files_give_problems_or_one_error(tmp_path):
    """Any change of a byte: valid results, or a DataError."""
    path = save(tmp_path / 'r.json', {'33_0000': to_records(np.array([[5, 1, 0, .7, .6, 1.7, 0, 1, 0.0]]),
                                                            np.array([.5]))})
    text, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for at in rng.integers(0, len(text), 150):
        path.write_bytes(text[:at] + rng.choice([b'', b'7', b'"', b'{', b'\xff', b'-', b'e99']) + text[at + 1:])
        try:
            results = STCrowdResults(path).results
            assert all(re.fullmatch(r'.*', name) and fields['pred_boxes'].shape[1] == 9
                       for name, fields in results.items())
        except DataError as error:
            refused += 1
            assert 'r.json' in str(error)
    assert 50 < refused < 150


def test_frames_of_five_digits_are_followed_after_those_of_four(tmp_path):
    frames = [BaseDataElement(metainfo=dict(sample_id=f'33_{number:04d}'), pred_scores=torch.tensor([.9]),
                              pred_boxes=torch.tensor([[5 + .6 * t, 0, -.8, .7, .6, 1.7, 0, torch.nan, torch.nan]]))
              for t, number in enumerate(range(9998, 10002))]
    content = json.loads(write(tmp_path, frames, tracker='GreedyTracker').read_text())['results']
    assert [content[frame.sample_id][0]['tracking_id'] for frame in frames] == [0] * 4


def test_tracks_are_written_read_and_scored_as_they_are(tmp_path):
    people = samples(frames=6)
    for number, element in enumerate(people):
        element.set_metainfo(dict(sequence='33', frame=number))
        element.track_ids = torch.arange(len(element.boxes))
    path = write(tmp_path, people[::-1], tracker='GreedyTracker')
    content = json.loads(path.read_text())
    assert content['meta']['tracker'] == 'GreedyTracker' and validate_results(path, [e.sample_id for e in people]) == []
    ids = [record.get('tracking_id') for record in content['results']['33_0000']]
    assert sorted(i for i in ids if i is not None) == list(range(len(ids) - ids.count(None))) and None in ids
    stored = STCrowdResults(path).test_step(dict(data_samples=without_predictions(people)))
    assert stored[0].pred_track_ids.tolist().count(-1) == ids.count(None) and len(stored[-1].pred_track_ids) == 0
    for number, element in enumerate(stored):
        element.set_metainfo(dict(sequence='33', frame=number))
        element.track_ids = people[number].track_ids
    scores = []
    for elements, arguments in ((people, dict(tracker='GreedyTracker')), (stored, {}),
                                (stored, dict(tracker='GreedyTracker', again=True)), (stored, dict(again=True))):
        metric = STCrowdTrackMetric(**arguments)
        metric.process(None, [element.to_dict() for element in elements[::-1]])
        scores.append(metric.evaluate(len(elements)))
    assert scores[0] == pytest.approx(scores[1], nan_ok=True) and scores[0] == pytest.approx(scores[2], nan_ok=True)
    assert scores[3] != pytest.approx(scores[0], nan_ok=True)
    again = json.loads(write(tmp_path / 'again', stored, tracker='KalmanTracker').read_text())
    assert 'tracker' not in again['meta'] and {name: [record.get('tracking_id') for record in records] for name, records
                                               in again['results'].items()} == {
        name: [record.get('tracking_id') for record in records] for name, records in content['results'].items()}
    content['results']['33_0000'][0]['tracking_id'] = content['results']['33_0000'][1]['tracking_id'] = 'a'
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match='tracking_id a is there twice'):
        STCrowdResults(path)
