"""Files for the tasks of LLAMAS: what is written comes back, and every kind of defect is found."""
import json

import cv2
import numpy as np
import pytest
import torch

from perception.lanes.datasets.culane.reader import read_lanes
from perception.lanes.datasets.llamas.reader import SLOTS
from perception.lanes.datasets.llamas.submission import LLAMASSubmission, validate_llamas
from perception.utils.errors import DataError

EMPTY = np.zeros((0, 2))
NAMES = ['rec/1', 'rec/2']


def lane(u=300.0, rows=range(716, 299, -1)):
    return np.array([[u + (716 - v) / 7, v] for v in rows])


def submit(writer, samples):
    writer.process(None, samples)
    assert writer.evaluate(len(samples)) == {}


def png(values):
    return cv2.imencode('.png', np.asarray(values))[1].tobytes()


def make_samples():
    probs = torch.zeros(5, 72, 128)
    probs[2] = .25
    return [dict(sample_id=name, pred_lanes=[EMPTY, lane(), lane(700), EMPTY], lane_probs=probs) for name in NAMES]


@pytest.fixture
def llamas(tmp_path):
    submit(LLAMASSubmission(tmp_path), make_samples())
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
    submit(LLAMASSubmission(tmp_path, segmentation=False), [{**s, 'lane_probs': None} for s in make_samples()])
    assert validate_llamas(tmp_path, NAMES, segmentation=False) == []
    assert len(validate_llamas(tmp_path, NAMES)) == 6
    with pytest.raises(DataError, match='1 lanes, expected those of l1'):
        LLAMASSubmission(tmp_path).process(None, [{**make_samples()[0], 'pred_lanes': [lane()]}])


def test_images_of_another_shape_are_no_submission(tmp_path):
    writer, sample = LLAMASSubmission(tmp_path, segmentation=False), make_samples()[0]
    writer.process(None, [dict(sample, original_shape=(478, 851), label_shape=(717, 1276))])  # scaled as a whole
    with pytest.raises(DataError, match='rec/1 has 720 x 1280 pixels, expected the shape of the official 717 x 1276'):
        writer.process(None, [dict(sample, original_shape=(720, 1280))])
