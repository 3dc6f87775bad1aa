"""Submissions: what is written comes back, and every kind of defect is found."""
import json
import zipfile

import cv2
import numpy as np
import pytest
import torch

from perception.lanes import submission as module
from perception.lanes.datasets.apolloscape.reader import TRAIN_TO_ID
from perception.lanes.datasets.culane.metric import read_lanes
from perception.lanes.datasets.llamas.reader import SLOTS
from perception.lanes.datasets.tusimple.metric import ROWS, compare_image, evaluate_files
from perception.lanes.submission import (
    ApolloScapeSubmission,
    BDD100KSubmission,
    CULaneSubmission,
    LLAMASSubmission,
    TuSimpleSubmission,
    validate_apolloscape,
    validate_bdd100k,
    validate_culane,
    validate_llamas,
    validate_tusimple,
)
from perception.utils.errors import DataError

EMPTY = np.zeros((0, 2))


def lane(u=300.0, rows=range(716, 299, -1)):
    return np.array([[u + (716 - v) / 7, v] for v in rows])


def submit(writer, samples):
    writer.process(None, samples)
    assert writer.evaluate(len(samples)) == {}


def png(values):
    return cv2.imencode('.png', np.asarray(values))[1].tobytes()


def rewrite(path, change):
    """The zip anew, `change` applied to its entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


# ------------------------------------------------------------------------------------------------------------- CULane

def culane_samples():
    lanes = [[lane(300.12345), lane(500, range(590, 400, -10))], [], [lane(-20)]]
    return [dict(sample_id=f'driver_1/a.MP4/{i:05d}', pred_lanes=x) for i, x in enumerate(lanes)]


def test_culane(tmp_path):
    samples = culane_samples()
    submit(CULaneSubmission(tmp_path / 'out'), samples)
    for sample in samples:
        found = read_lanes(tmp_path / 'out' / f'{sample["sample_id"]}.lines.txt')
        assert [x.tolist() for x in found] == [np.round(x, 3).tolist() for x in sample['pred_lanes']]
    names = [f'{sample["sample_id"]}.jpg' for sample in samples]
    assert validate_culane(tmp_path / 'out', names) == []


def test_defects_of_culane(tmp_path):
    samples = culane_samples()
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


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(DataError, match=r'file/driver_1.*: Not a directory, expected a folder that can be written'):
        CULaneSubmission(tmp_path / 'file').process(None, culane_samples())
    writer = TuSimpleSubmission(tmp_path / 'file')
    message = 'expected a folder that can be written, with room for the submission'
    with pytest.raises(DataError, match=message), writer._writable():
        raise OSError(28, 'No space left on device')


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


# ----------------------------------------------------------------------------------------------------------- TuSimple

def tusimple_samples():
    lanes = [[lane(300, range(710, 300, -10)), lane(605.4, range(705, 300, -7))], [], [lane(900, range(710, 500, -10))]]
    return [dict(sample_id=f'clips/{i}/20', pred_lanes=x, h_samples=ROWS[8 * (i == 2):]) for i, x in enumerate(lanes)]


@pytest.fixture
def tusimple(tmp_path):
    """A submission and its tasks."""
    submit(TuSimpleSubmission(tmp_path / 'out'), tusimple_samples())
    lines = [dict(raw_file=f'{s["sample_id"]}.jpg', h_samples=list(s['h_samples'])) for s in tusimple_samples()]
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


# ------------------------------------------------------------------------------------------------------------- LLAMAS

NAMES = ['rec/1', 'rec/2']


def llamas_samples():
    probs = torch.zeros(5, 72, 128)
    probs[2] = .25
    return [dict(sample_id=name, pred_lanes=[EMPTY, lane(), lane(700), EMPTY], lane_probs=probs) for name in NAMES]


@pytest.fixture
def llamas(tmp_path):
    submit(LLAMASSubmission(tmp_path), llamas_samples())
    return tmp_path


def test_llamas(llamas):
    assert validate_llamas(llamas, NAMES) == []
    assert [len(x) for x in read_lanes(llamas / 'lanes/rec/1.lines.txt')] == [417, 417]
    record = json.loads((llamas / 'regression.json').read_text())
    assert list(record['rec/2.json']) == list(SLOTS) and len(record['rec/2.json']['l0']) == 417
    assert record['rec/2.json']['l0'][-1] == 300
    image = cv2.imread(str(llamas / 'segmentation/rec/1.json_2.png'), cv2.IMREAD_UNCHANGED)
    assert image.shape == (717, 1276) and (image == 64).all()


def test_defects_of_llamas(llamas):
    (llamas / 'segmentation/rec/1.json_0.png').write_bytes(png(np.zeros((9, 9), np.uint8)))
    (llamas / 'segmentation/rec/1.json_1.png').write_bytes(b'nothing')
    (llamas / 'lanes/rec/2.lines.txt').unlink()
    record = json.loads((llamas / 'regression.json').read_text())
    record['rec/3.json'] = record.pop('rec/2.json')
    record['rec/1.json']['l1'] = [1.0] * 400
    record['rec/1.json']['r0'][5] = 'x'
    (llamas / 'regression.json').write_text(json.dumps(record))
    text = '\n'.join(validate_llamas(llamas, NAMES))
    for message in ('1.json_0.png: 9 x 9 pixels', '1.json_1.png: ', 'rec/2.lines.txt is missing',
                    'rec/3.json is unknown', 'rec/2.json is missing', 'l1 of rec/1.json is no list',
                    'r0 of rec/1.json is no list'):
        assert message in text
    assert len(text.split('\n')) == 7


def test_llamas_without_segmentation(tmp_path):
    submit(LLAMASSubmission(tmp_path, segmentation=False), [{**s, 'lane_probs': None} for s in llamas_samples()])
    assert validate_llamas(tmp_path, NAMES, segmentation=False) == []
    assert len(validate_llamas(tmp_path, NAMES)) == 6
    with pytest.raises(DataError, match='1 lanes, expected those of l1'):
        LLAMASSubmission(tmp_path).process(None, [{**llamas_samples()[0], 'pred_lanes': [lane()]}])


# ---------------------------------------------------------------------------------------------- ApolloScape and BDD100K

@pytest.fixture
def apolloscape(tmp_path, monkeypatch):
    labels = torch.arange(35).reshape(5, 7)
    labels[0, 0] = 36
    samples = [dict(sample_id=f'ColorImage_road05/x/{name}', pred_labels=labels, original_shape=(20, 14), crop_top=10)
               for name in 'ab']
    monkeypatch.setattr(module, 'validate_apolloscape', lambda *args: validate_apolloscape(*args, size=(20, 14)))
    submit(ApolloScapeSubmission(tmp_path), samples)
    return tmp_path / 'submission.zip'


def test_apolloscape(apolloscape):
    assert validate_apolloscape(apolloscape, ['a', 'b'], size=(20, 14)) == []
    with zipfile.ZipFile(apolloscape) as archive:
        assert archive.namelist() == ['test/road05/a.png', 'test/road05/b.png']
        image = cv2.imdecode(np.frombuffer(archive.read('test/road05/a.png'), np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint8 and (image[:10] == 0).all()
    small = np.arange(35).reshape(5, 7)
    small[0, 0] = 36
    assert (image[10:] == TRAIN_TO_ID[small].repeat(2, axis=0).repeat(2, axis=1)).all() and image[10, 0] == 249
    assert validate_apolloscape(apolloscape, ['a', 'b'])[0].startswith('test/road05/a.png: uint8 of shape (20, 14)')


@pytest.mark.parametrize('change, message', [
    (lambda e: e.pop('test/road05/a.png'), 'test/road05/a.png is missing'),
    (lambda e: e.update({'test/road05/c.png': b''}), 'test/road05/c.png is unknown'),
    (lambda e: e.update({'test/road05/a.png': b''}), 'a.png: no image'),
    (lambda e: e.update({'test/road05/a.png': b'text'}), 'a.png: no image'),
    (lambda e: e.update({'test/road05/a.png': png(np.zeros((20, 14), np.uint16))}), 'a.png: uint16'),
    (lambda e: e.update({'test/road05/a.png': png(np.zeros((20, 14, 3), np.uint8))}), 'one channel'),
    (lambda e: e.update({'test/road05/a.png': png(np.full((20, 14), 36, np.uint8))}), r'values [36]')])
def test_defects_of_zips(apolloscape, change, message):
    rewrite(apolloscape, change)
    problem, = validate_apolloscape(apolloscape, ['a', 'b'], size=(20, 14))
    assert message in problem


def test_unreadable_zips(tmp_path):
    with pytest.raises(DataError, match='no such file'):
        validate_bdd100k(tmp_path / 'absent.zip', ['a'])
    (tmp_path / 'a.zip').write_bytes(b'PK no zip')
    assert 'no readable zip' in validate_bdd100k(tmp_path / 'a.zip', ['a'])[0]


def test_apolloscape_refuses_other_classes(tmp_path):
    sample = dict(sample_id='a', pred_labels=torch.full((5, 7), 37), original_shape=(5, 7))
    with pytest.raises(DataError, match='class 37 in the prediction for a, expected 0..36'):
        ApolloScapeSubmission(tmp_path).process(None, [sample])
    with pytest.raises(DataError, match='a has no original_shape'):
        ApolloScapeSubmission(tmp_path).process(None, [{**sample, 'original_shape': None}])


def test_bdd100k(tmp_path):
    probs = torch.zeros(2, 90, 160)
    probs[0], probs[1, 20:, 50:54] = .5, 1
    submit(BDD100KSubmission(tmp_path), [dict(sample_id='val/a', lane_probs=probs, original_shape=(720, 1280))])
    path = tmp_path / 'submission.zip'
    assert validate_bdd100k(path, ['a']) == []
    assert validate_bdd100k(path, ['b']) == ['b.png is missing', 'a.png is unknown']
    mask = cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) == {6, 8} and (mask == 6).sum(axis=1).max() == 1
    rewrite(path, lambda entries: entries.update({'a.png': png(np.full((720, 1280), 70, np.uint8))}))
    assert 'values [70]' in validate_bdd100k(path, ['a'])[0]
