"""Predictions on disk: only whole files of the same run count."""
import errno
import json
import os

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from perception.common import saving as saving
from perception.common.saving import STAMP, SavedPredictions, read_prediction, write_prediction
from perception.common.structures import PointSegSample
from perception.utils.errors import DataError

RUN = dict(checkpoint=['abc'], net=['n'], data='d')


class Counter(nn.Module):
    """Labels each point by its rounded x, and notes the scans it was asked for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def test_step(self, data):
        for points, sample in zip(data['inputs']['points'], data['data_samples']):
            self.seen.append(sample.sample_id)
            sample.pred_labels = points[:, 0].round().long()
        return data['data_samples']


def batch(*numbers):
    scans = [torch.full((5 + n, 4), float(n)) for n in numbers]
    samples = [PointSegSample(metainfo=dict(sample_id=f'08_{n:06d}')) for n in numbers]
    return dict(inputs=dict(points=scans), data_samples=samples)


def found(model, *numbers):
    return [(sample.sample_id, sample.pred_labels.tolist()) for sample in model.test_step(batch(*numbers))]


def test_a_second_run_reads_and_predicts_the_rest(tmp_path):
    first, second = Counter(), Counter()
    expected = found(Counter(), 0, 1, 2)
    assert found(SavedPredictions(first, tmp_path / 'new', RUN), 0, 2) == [expected[0], expected[2]]
    assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == ['08_000000.npy', '08_000002.npy', STAMP]
    stored = np.load(tmp_path / 'new/08_000002.npy')
    assert stored.dtype == np.uint8 and stored.tolist() == [2] * 7
    again = SavedPredictions(second, tmp_path / 'new', RUN)
    assert found(again, 0, 1, 2) == expected  # in the order of the batch
    assert (first.seen, second.seen) == (['08_000000', '08_000002'], ['08_000001'])
    assert again.test_step(batch(0))[0].pred_labels.dtype == torch.int64


@pytest.mark.parametrize('damage', [
    lambda path: path.write_bytes(path.read_bytes()[:-3]), lambda path: path.write_bytes(b''),
    lambda path: np.save(path, np.zeros((2, 2), np.uint8)), lambda path: np.save(path, np.zeros(5)),
    lambda path: np.save(path, np.array([dict(a=1)], object)), lambda path: path.write_bytes(b'PK\x03\x04' + bytes(40)),
    lambda path: path.write_bytes(path.read_bytes()[:10] + b'{' * 118 + b'1234'),
    lambda path: path.write_bytes(path.read_bytes().replace(b'(5,)', b'(9999999999999,)'))],
    ids=['truncated', 'empty', 'shape', 'type', 'code', 'zip', 'header', 'huge'])
def test_a_damaged_file_is_predicted_again(tmp_path, damage):
    found(SavedPredictions(Counter(), tmp_path, RUN), 0)
    damage(tmp_path / '08_000000.npy')
    model = Counter()
    assert found(SavedPredictions(model, tmp_path, RUN), 0) == [('08_000000', [0] * 5)]
    assert model.seen == ['08_000000'] and read_prediction(tmp_path / '08_000000.npy').tolist() == [0] * 5


@pytest.mark.parametrize('change, word', [(dict(checkpoint=['abd']), 'another checkpoint'), (dict(net=['m']),
                         'another net'), (dict(data='e', net=['m']), 'another net, another data')])
def test_predictions_of_another_run_are_refused_or_removed(tmp_path, change, word):
    found(SavedPredictions(Counter(), tmp_path, RUN), 0, 1)
    with pytest.raises(DataError, match=rf'2 predictions of another run \({word}\), expected those of this one'):
        SavedPredictions(Counter(), tmp_path, dict(RUN, **change))
    model = Counter()
    found(SavedPredictions(model, tmp_path, dict(RUN, **change), replace=True), 1)
    assert model.seen == ['08_000001']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['08_000001.npy', STAMP]
    assert json.loads((tmp_path / STAMP).read_text()) == dict(RUN, **change)


def test_files_without_a_stamp_are_not_trusted(tmp_path):
    write_prediction(tmp_path / '08_000000.npy', torch.zeros(3))
    with pytest.raises(DataError, match=f'1 predictions of another run \\(without a readable {STAMP}\\)'):
        SavedPredictions(Counter(), tmp_path, RUN)


@pytest.mark.parametrize('text', ['[1]', 'null', '[' * 100_000, '{"a": 1', '\0'])
def test_a_damaged_stamp_is_one_sentence(tmp_path, text):
    found(SavedPredictions(Counter(), tmp_path, RUN), 0)
    (tmp_path / STAMP).write_text(text)
    with pytest.raises(DataError, match=f'1 predictions of another run .without a readable {STAMP}'):
        SavedPredictions(Counter(), tmp_path, RUN)


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    data = batch(1)
    data['data_samples'][0].set_metainfo(dict(sample_id='../x'))
    with pytest.raises(DataError, match='does not lead out of it'):
        SavedPredictions(Counter(), tmp_path / 'a', RUN).test_step(data)
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_a_folder_in_which_no_file_was_finished_may_be_taken(tmp_path):
    (tmp_path / STAMP).write_text('{"half": ')
    (tmp_path / '.08_000000.npy.part').write_bytes(b'half')
    model = Counter()
    found(SavedPredictions(model, tmp_path, RUN), 0)
    assert model.seen == ['08_000000']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['08_000000.npy', STAMP]


def test_names_with_folders(tmp_path):
    data = batch(1)
    data['data_samples'][0].set_metainfo(dict(sample_id='segment-7/000123'))
    SavedPredictions(Counter(), tmp_path, RUN).test_step(data)
    assert (tmp_path / 'segment-7/000123.npy').is_file()


def test_a_full_disk_is_one_sentence_and_what_was_written_counts(tmp_path, monkeypatch):
    model = SavedPredictions(Counter(), tmp_path, RUN)
    found(model, 0)

    def full(file, labels):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saving.np, 'save', full)
    with pytest.raises(DataError, match=r'08_000001\.npy: writing failed \(No space left.*Free some space'):
        found(model, 1)
    monkeypatch.undo()
    assert not list(tmp_path.glob('.*'))
    again = Counter()
    found(SavedPredictions(again, tmp_path, RUN), 0, 1)
    assert again.seen == ['08_000001']


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='where predictions are to be kept, expected a folder that can be written'):
        SavedPredictions(Counter(), tmp_path / 'file', RUN)
    with pytest.raises(DataError, match='where predictions are to be kept'):
        SavedPredictions(Counter(), tmp_path / 'file' / 'below', RUN)


class Means(nn.Module):
    """Predicts a class for each image, from two lists of inputs."""

    def test_step(self, data):
        assert len(data['inputs']['images']) == len(data['inputs']['weights']) == len(data['data_samples'])
        for image, weight, sample in zip(*data['inputs'].values(), data['data_samples']):
            sample.pred_class = (image * weight).mean().reshape(1).long()
        return data['data_samples']


class SavedClasses(SavedPredictions):
    field = 'pred_class'


def test_whatever_the_inputs_and_the_predictions_are_called(tmp_path):
    def samples():
        inputs = dict(images=[torch.full((3, 4), float(i)) for i in range(3)], weights=[2.0, 3.0, 4.0])
        return dict(inputs=inputs, data_samples=[BaseDataElement(metainfo=dict(sample_id=str(i))) for i in range(3)])

    part = {key: values[1:2] for key, values in samples()['inputs'].items()}
    SavedClasses(Means(), tmp_path, RUN).test_step(dict(inputs=part, data_samples=samples()['data_samples'][1:2]))
    found = SavedClasses(Means(), tmp_path, RUN).test_step(samples())  # the second one is read
    assert [sample.pred_class.tolist() for sample in found] == [[0], [3], [8]]


def test_removed_when_all_is_done(tmp_path):
    model = SavedPredictions(Counter(), tmp_path / 'a', RUN)
    found(model, 0)
    model.remove()
    assert not list(tmp_path.iterdir())
