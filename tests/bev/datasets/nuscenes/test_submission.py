"""The results file of the detection challenge: what is written, what is refused, and by which words."""
import json
import zipfile

import numpy as np
import pytest
import torch

from perception.bev.datasets.nuscenes.metric import Predictions
from perception.bev.datasets.nuscenes.reader import ATTRIBUTES, CLASSES
from perception.bev.datasets.nuscenes.submission import (
    NuScenesDetectionResults,
    NuScenesDetectionSubmission,
    to_records,
    validate_results,
)
from perception.utils.errors import DataError

GOOD = dict(sample_token='a', translation=[1.0, 2.0, 3.0], size=[2.0, 4.0, 1.5], rotation=[1.0, 0.0, 0.0, 0.0],
            velocity=[1.0, 0.0], detection_name='car', detection_score=.5, attribute_name='vehicle.moving')
META = dict(use_camera=True, use_lidar=False, use_radar=False, use_map=False, use_external=False)


def save(path, results, meta=META):
    path.write_text(json.dumps(dict(meta=meta, results=results)))
    return path


def a_sample(boxes, name='a', **changes):
    num = len(boxes)
    return dict(dict(sample_id=name, pred_boxes=torch.tensor(boxes).float().reshape(-1, 9),
                     pred_scores=torch.linspace(.1, .9, num), pred_labels=torch.arange(num) % 10,
                     frame_to_world=np.eye(4), ego_to_world=np.eye(4)), **changes)


def test_what_is_written(tmp_path):
    writer = NuScenesDetectionSubmission(tmp_path, use_external=True)
    boxes = [[10, 5, 1, 4, 2, 1.5, .5, 3, 0], [60, 0, 1, 4, 2, 1, 0, 0, 0], [5, 5, 0, 1, 1, 1, 0, np.nan, np.nan]]
    writer.process(None, [a_sample(boxes), a_sample([], 'b')])
    writer.compute_metrics(writer.results)
    content = json.loads((tmp_path / 'results_nusc.json').read_text())
    assert content['meta'] == dict(META, use_external=True) and content['results']['b'] == []
    first, second = content['results']['a']  # the second box is out of range
    assert first['translation'] == [10, 5, 1] and first['size'] == [2, 4, 1.5]
    assert first['rotation'] == pytest.approx([np.cos(.25), 0, 0, np.sin(.25)], abs=1e-7)
    assert (first['detection_name'], first['attribute_name']) == ('car', 'vehicle.moving')
    assert second['velocity'] == [0, 0] and second['detection_name'] == 'bus'
    assert validate_results(tmp_path / 'results_nusc.json', ['a', 'b']) == []
    with zipfile.ZipFile(tmp_path / 'results_nusc.zip') as archive:
        assert json.loads(archive.read('results_nusc.json')) == content


def test_a_part_of_the_split_is_no_submission(tmp_path):
    writer = NuScenesDetectionSubmission(tmp_path)
    writer.dataset_meta = dict(num_samples=2)
    writer.process(None, [a_sample([])])
    (tmp_path / 'results_nusc.zip').write_bytes(b'of an earlier run')
    with pytest.raises(DataError, match='1 samples, expected 2'):
        writer.compute_metrics(writer.results)
    assert not (tmp_path / 'results_nusc.zip').exists()  # that somebody could send
    writer.process(None, [a_sample([], 'b')])
    writer.compute_metrics(writer.results)
    assert (tmp_path / 'results_nusc.zip').exists()


def test_the_best_500(tmp_path):
    boxes = np.tile([10, 5, 1, 4, 2, 1.5, .5, 3, 0.0], (700, 1))
    writer = NuScenesDetectionSubmission(tmp_path)
    writer.process(None, [a_sample(boxes.tolist())])
    writer.compute_metrics(writer.results)
    found = json.loads((tmp_path / 'results_nusc.json').read_text())['results']['a']
    assert len(found) == 500 and min(row['detection_score'] for row in found) > .3


def test_a_sample_twice_is_refused(tmp_path):
    writer = NuScenesDetectionSubmission(tmp_path)
    writer.process(None, [a_sample([]), a_sample([])])
    with pytest.raises(DataError, match='a was predicted twice'):
        writer.compute_metrics(writer.results)


def test_read_again(tmp_path):
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.normal(0, 9, (8, 3)), rng.uniform(1, 5, (8, 3)), rng.uniform(-3, 3, (8, 1)),
                            rng.normal(0, 2, (8, 2))], 1)
    found = Predictions(boxes, rng.random(8), np.arange(8), np.array([0, 1, 2, 0, 1, 5, 3, -1]))
    fields = NuScenesDetectionResults(save(tmp_path / 'r.json', dict(a=to_records('a', found), b=[]))).results
    np.testing.assert_allclose(fields['a']['pred_boxes'], boxes, atol=1e-12)
    assert fields['a']['pred_labels'].tolist() == list(range(8))
    assert fields['a']['pred_attributes'].tolist() == found.attributes.tolist()
    assert len(fields['b']['pred_boxes']) == 0


@pytest.mark.parametrize(('changes', 'problem'), [
    (dict(translation=[1, 2]), 'translation'), (dict(translation=[1, 2, None]), 'translation'),
    (dict(size=[1, 0, 1]), 'size 0'), (dict(size=[-1, 1, 1]), 'size -1'), (dict(rotation=[1, 0, 0]), 'rotation'),
    (dict(rotation=[.5, 0, 0, 0]), 'length 0.5'), (dict(velocity=None), 'velocity'),
    (dict(velocity=[float('inf'), 0]), 'velocity inf'), (dict(detection_score=1.5), 'detection_score 1.5'),
    (dict(detection_score=1), 'with a point'), (dict(detection_score=float('nan')), 'detection_score nan'),
    (dict(detection_name='tram'), 'detection_name tram'), (dict(attribute_name='moving'), 'attribute_name moving'),
    (dict(sample_token='b'), 'sample_token b'), (dict(translation=[1e400, 0, 0]), 'translation inf')])
def test_problems_of_predictions(tmp_path, changes, problem):
    path = save(tmp_path / 'r.json', dict(a=[GOOD, dict(GOOD, **changes)]))
    found, = validate_results(path, ['a'])
    assert found.startswith('sample a: item 1') and problem in found
    with pytest.raises(DataError, match=r'1 problem'):
        NuScenesDetectionResults(path)


@pytest.mark.parametrize(('results', 'meta', 'problem'), [
    (dict(a={}), META, 'dict, expected a list'), (dict(a=[3]), META, 'int, expected an object'),
    (dict(a=[GOOD] * 501), META, '501 predictions'), ({}, META, 'sample a is missing'),
    (dict(a=[], b=[]), META, 'sample b is unknown'), (dict(a=[]), {}, 'use_camera, use_lidar'),
    (dict(a=[]), dict(META, use_map='no'), 'of use_map'), (dict(a=[]), None, 'use_camera')])
def test_problems_of_files(tmp_path, results, meta, problem):
    found = validate_results(save(tmp_path / 'r.json', results, meta), ['a'])
    assert any(problem in one for one in found)


@pytest.mark.parametrize(('text', 'message'), [
    ('', 'no valid JSON'), ('{"meta": {}', 'no valid JSON'), ('[]', 'list came'), ('{"meta": {}}', 'meta came'),
    ('[' * 100000, 'no valid JSON')])
def test_files_that_are_none(tmp_path, text, message):
    path = tmp_path / 'r.json'
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        NuScenesDetectionResults(path)


def test_names_are_the_official_ones():
    from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
    assert set(CLASSES) == set(DETECTION_NAMES) and set(ATTRIBUTES) == set(ATTRIBUTE_NAMES)
