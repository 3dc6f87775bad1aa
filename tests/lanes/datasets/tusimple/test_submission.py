"""Files for TuSimple's server: what is written comes back, and every kind of defect is found."""
import json

import numpy as np
import pytest
import torch

from perception.lanes.cluster import ClusterDecoder
from perception.lanes.datasets.tusimple.metric import compare_image, evaluate_files
from perception.lanes.datasets.tusimple.reader import ROWS, TuSimple
from perception.lanes.datasets.tusimple.submission import TuSimpleSubmission, validate_tusimple
from perception.utils.errors import DataError


def lane(u=300.0, rows=range(716, 299, -1)):
    return np.array([[u + (716 - v) / 7, v] for v in rows])


def submit(writer, samples):
    writer.process(None, samples)
    assert writer.evaluate(len(samples)) == {}


def make_samples():
    lanes = [[lane(300, range(710, 300, -10)), lane(605.4, range(705, 300, -7))], [np.zeros((0, 2))],
             [lane(900, range(710, 500, -10))]]
    return [dict(sample_id=f'clips/{i}/20', pred_lanes=x, h_samples=ROWS[8 * (i == 2):]) for i, x in enumerate(lanes)]


@pytest.fixture
def tusimple(tmp_path):
    """A submission and its tasks."""
    submit(TuSimpleSubmission(tmp_path / 'out'), make_samples())
    lines = [dict(raw_file=f'{s["sample_id"]}.jpg', h_samples=list(s['h_samples'])) for s in make_samples()]
    (tmp_path / 'tasks.json').write_text('\n'.join(map(json.dumps, lines)))
    return tmp_path / 'out/pred.json', tmp_path / 'tasks.json'


def test_tusimple(tusimple, tmp_path):
    path, tasks = tusimple
    assert validate_tusimple(path, tasks) == []
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [len(record['lanes']) for record in records] == [2, 0, 1]
    assert len(records[2]['lanes'][0]) == 48 and records[0]['lanes'][0][0] == -2
    assert records[0]['lanes'][0][-1] == pytest.approx(300 + 6 / 7, abs=1e-3)
    label = tmp_path / 'label.json'
    label.write_text('\n'.join(json.dumps(record) for record in records))
    assert all(result == compare_image(r['lanes'], r['lanes'], r['h_samples'])
               for result, r in zip(evaluate_files(path, label), records))


@pytest.mark.parametrize('change, message', [
    (dict(raw_file='clips/9/20.jpg'), 'an unknown raw_file'), (dict(raw_file='clips/1/20.jpg'), 'a second raw_file'),
    (dict(run_time=200.5), 'run_time 200.5'), (dict(run_time=None), 'run_time None'),
    (dict(run_time=-1), 'run_time -1'), (dict(raw_file=[1]), 'an unknown raw_file'),
    (dict(lanes=3), 'lanes 3'), (dict(lanes=[[1] * 55]), 'a lane of 55 numbers for 56 h_samples'),
    (dict(lanes=[['1'] * 56]), 'expected pixels'), (dict(lanes=[[1e9] * 56]), 'expected pixels')])
def test_defects_of_tusimple(tusimple, change, message):
    path, tasks = tusimple
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0].update(change)
    path.write_text('\n'.join(json.dumps(record) for record in records))
    assert any(message in problem for problem in validate_tusimple(path, tasks))


def test_incomplete_tusimple(tusimple):
    path, tasks = tusimple
    path.write_text(path.read_text().split('\n')[0])
    problem, = validate_tusimple(path, tasks)
    assert '2 images are missing, such as clips/1/20.jpg' in problem
    path.write_text('{"raw_file": ')
    with pytest.raises(DataError, match='pred.json:1: no valid JSON'):
        validate_tusimple(path, tasks)
    with pytest.raises(DataError, match='no such file'):
        validate_tusimple(path.with_name('absent.json'), tasks)
    tasks.write_text('{"raw_file": "clips/1/20.jpg", "h_samples": 3}')
    with pytest.raises(DataError, match='tasks.json:1: .* h_samples 3'):
        validate_tusimple(path, tasks)


def test_any_number_of_lanes_at_the_rows_of_each_task(official, tmp_path):
    root, rows = official('tusimple'), ([20, 24, 33, 60], [10, 40, 41, 42, 71])
    (root / 'test_label.json').unlink()
    tasks = [dict(raw_file='clips/abel/0/20.jpg', h_samples=rows[0]), dict(raw_file='clips/0313/1/20.jpg',
                                                                           h_samples=rows[1])]
    (root / 'test_tasks_0627.json').write_text('\n'.join(map(json.dumps, tasks)))
    samples = [sample['data_samples'] for sample in TuSimple(root, 'test', input_size=(36, 64))]
    probs, embeddings = torch.zeros(2, 36, 64), torch.zeros(2, 4, 18, 32)
    for u in (10, 30, 50):  # three lanes from row 32 of the image down
        probs[:, 16:, u:u + 2], embeddings[:, :, :, u // 2] = 1, float(u)
    lanes = ClusterDecoder(min_share=0)(probs, embeddings, [sample.metainfo for sample in samples])
    submit(TuSimpleSubmission(tmp_path / 'out'), [dict(sample.to_dict(), pred_lanes=some)
                                                  for sample, some in zip(samples, lanes)])
    records = [json.loads(line) for line in (tmp_path / 'out/pred.json').read_text().splitlines()]
    assert [(record['raw_file'], record['h_samples']) for record in records] == [
        (task['raw_file'], task['h_samples']) for task in tasks]
    assert validate_tusimple(tmp_path / 'out/pred.json', root / 'test_tasks_0627.json') == []
    for record, there in zip(records, ([False, False, True, True], [False, True, True, True, True])):
        assert [lane == [pytest.approx(2 * u + 1.5, abs=.01) if known else -2 for known in there]
                for lane, u in zip(record['lanes'], (10, 30, 50), strict=True)] == [True] * 3
