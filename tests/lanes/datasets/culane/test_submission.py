"""Text files for CULane's tool: what is written comes back, and every kind of defect is found."""
import numpy as np
import pytest

from perception.lanes.datasets.culane.reader import read_lanes
from perception.lanes.datasets.culane.submission import CULaneSubmission, validate_culane
from perception.utils.errors import DataError


def lane(u=300.0, rows=range(716, 299, -1)):
    return np.array([[u + (716 - v) / 7, v] for v in rows])


def submit(writer, samples):
    writer.process(None, samples)
    assert writer.evaluate(len(samples)) == {}


def make_samples():
    lanes = [[lane(300.12345), lane(500, range(590, 400, -10))], [], [lane(-20)]]
    return [dict(sample_id=f'driver_1/a.MP4/{i:05d}', pred_lanes=x) for i, x in enumerate(lanes)]


def test_culane(tmp_path):
    samples = make_samples()
    submit(CULaneSubmission(tmp_path / 'out'), samples)
    for sample in samples:
        found = read_lanes(tmp_path / 'out' / f'{sample["sample_id"]}.lines.txt')
        assert [x.tolist() for x in found] == [np.round(x, 3).tolist() for x in sample['pred_lanes']]
    names = [f'{sample["sample_id"]}.jpg' for sample in samples]
    assert validate_culane(tmp_path / 'out', names) == []


def test_defects_of_culane(tmp_path):
    samples = make_samples()
    submit(CULaneSubmission(tmp_path), samples)
    names, first = [sample['sample_id'] for sample in samples], tmp_path / 'driver_1/a.MP4/00000.lines.txt'
    assert 'driver_1/b.lines.txt is missing' in validate_culane(tmp_path, [*names, 'driver_1/b'])
    assert validate_culane(tmp_path, names[1:]) == ['driver_1/a.MP4/00000.lines.txt is unknown']
    for text, message in (('1 2\n', 'has 1 points'), ('1 2 3 four\n', "'1 2 3 four'"),
                          ('1 2 3e9 4\n', 'coordinate 3e+09')):
        first.write_text(text)
        problem, = validate_culane(tmp_path, names)
        assert problem.startswith('driver_1/a.MP4/00000.lines.txt: ') and message in problem
    many = validate_culane(tmp_path, [f'c/{i}' for i in range(9)])
    assert len(many) == 5 + 3 + 1 and many[-1].startswith('4 more files')
    assert len(validate_culane(tmp_path / 'absent', names)) == 3


def test_metric_of_a_whole_submission_fails_on_a_defect(tmp_path):
    writer = CULaneSubmission(tmp_path)
    writer.process(None, [dict(sample_id='a', pred_lanes=[lane()[:1]])])
    with pytest.raises(DataError, match='has 1 points'):
        writer.evaluate(1)


@pytest.mark.parametrize('fields, message', [
    (dict(pred_lanes=None), 'a has no pred_lanes'), (dict(sample_id=None), 'has no sample_id'),
    (dict(pred_lanes=[np.array([[1, np.inf]])]), 'finite')])
def test_missing_predictions(tmp_path, fields, message):
    with pytest.raises(DataError, match=message):
        CULaneSubmission(tmp_path).process(None, [{**dict(sample_id='a', pred_lanes=[]), **fields}])
