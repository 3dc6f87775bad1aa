"""Zips for ApolloScape's server: what is written comes back, and every kind of defect is found."""
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest
import torch

from perception.lanes.datasets.apolloscape import submission
from perception.lanes.datasets.apolloscape.reader import TRAIN_TO_ID
from perception.lanes.datasets.apolloscape.submission import ApolloScapeSubmission, validate_apolloscape
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


def chunk(name, content):
    return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))


HUGE = b'\x89PNG\r\n\x1a\n' + b''.join([  # a kilobyte that asks for 900 megabytes
    chunk(b'IHDR', struct.pack('>IIBBBBB', 30_000, 30_000, 8, 0, 0, 0, 0)), chunk(b'IDAT', zlib.compress(bytes(99))),
    chunk(b'IEND', b'')])


@pytest.fixture
def apolloscape(tmp_path, monkeypatch):
    labels = torch.arange(35).reshape(5, 7)
    labels[0, 0] = 36
    samples = [dict(sample_id=f'ColorImage_road05/x/{name}', pred_labels=labels, original_shape=(20, 14), crop_top=10)
               for name in 'ab']
    monkeypatch.setattr(submission, 'validate_apolloscape', lambda *args: validate_apolloscape(*args, size=(20, 14)))
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
    assert validate_apolloscape(apolloscape, ['a', 'b'])[0].startswith('test/road05/a.png: 20 x 14 pixels of mode L')


def test_an_encrypted_zip_is_refused(apolloscape):
    data = bytearray(apolloscape.read_bytes())
    for mark, at in ((b'PK\3\4', 6), (b'PK\1\2', 8)):
        start = data.index(mark)
        data[start + at] |= 1
    apolloscape.write_bytes(data)
    problem, = validate_apolloscape(apolloscape, ['a', 'b'], size=(20, 14))
    assert 'no readable zip file' in problem and 'encrypted' in problem


@pytest.mark.parametrize('change, message', [
    (lambda e: e.pop('test/road05/a.png'), 'test/road05/a.png is missing'),
    (lambda e: e.update({'test/road05/c.png': b''}), 'test/road05/c.png is unknown'),
    (lambda e: e.update({'test/road05/a.png': b''}), 'a.png: 0 bytes that are no image'),
    (lambda e: e.update({'test/road05/a.png': b'text'}), 'a.png: 4 bytes that are no image'),
    (lambda e: e.update({'test/road05/a.png': png(np.zeros((20, 14), np.uint16))}), '20 x 14 pixels of mode I;16'),
    (lambda e: e.update({'test/road05/a.png': HUGE}), 'states a size of 30,000 x 30,000 pixels'),
    (lambda e: e.update({'test/road05/a.png': bytes(1_000_000)}), '1,000,000 bytes, far more'),
    (lambda e: e.update({'test/road05/a.png': png(np.zeros((20, 14, 3), np.uint8))}), 'one channel'),
    (lambda e: e.update({'test/road05/a.png': png(np.full((20, 14), 36, np.uint8))}), r'values [36]')])
def test_defects_of_zips(apolloscape, change, message):
    rewrite(apolloscape, change)
    problem, = validate_apolloscape(apolloscape, ['a', 'b'], size=(20, 14))
    assert message in problem


def test_apolloscape_refuses_other_classes(tmp_path):
    sample = dict(sample_id='a', pred_labels=torch.full((5, 7), 37), original_shape=(5, 7))
    with pytest.raises(DataError, match='class 37 in the prediction for a, expected 0..36'):
        ApolloScapeSubmission(tmp_path).process(None, [sample])
    with pytest.raises(DataError, match='a has no original_shape'):
        ApolloScapeSubmission(tmp_path).process(None, [{**sample, 'original_shape': None}])
