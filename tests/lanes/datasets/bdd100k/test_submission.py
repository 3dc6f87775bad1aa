"""Zips of masks for BDD100K: what is written comes back, and every kind of defect is found."""
import zipfile

import cv2
import numpy as np
import pytest
import torch

from perception.lanes.datasets.bdd100k.submission import BDD100KSubmission, validate_bdd100k
from perception.utils.errors import DataError


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


@pytest.mark.parametrize(('classes', 'message'), [(None, 'a has no pred_labels'), (2, 'class 2 in a prediction')])
def test_predictions_that_do_not_fit(tmp_path, classes, message):
    labels = None if classes is None else torch.full((9, 16), classes)
    with pytest.raises(DataError, match=message):
        BDD100KSubmission(tmp_path).process(None, [dict(sample_id='a', pred_labels=labels, original_shape=(72, 128))])
