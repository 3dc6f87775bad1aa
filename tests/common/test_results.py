"""Predictions of a file in place of a net."""
import logging

import pytest
from mmengine.structures import BaseDataElement

from perception.common import results as module
from perception.common.results import StoredResults
from perception.utils.errors import DataError


class Words(StoredResults):
    """A word for each line."""

    def read(self, path):
        return {line.split()[0]: dict(word=line.split()[1]) for line in path.read_text().splitlines()}


@pytest.fixture
def words(tmp_path):
    path = tmp_path / 'words.txt'
    path.write_text('a x\nb y\n')
    return Words(path)


def test_each_sample_gets_its_own(words):
    samples = [BaseDataElement(metainfo=dict(sample_id=name)) for name in 'ba']
    assert [sample.word for sample in words.test_step(dict(data_samples=samples))] == ['y', 'x']
    with pytest.raises(DataError, match=r'words\.txt: no results of c'):
        words.test_step(dict(data_samples=[BaseDataElement(metainfo=dict(sample_id='c'))]))


@pytest.mark.parametrize(('num', 'level'), [(2, logging.INFO), (3, logging.INFO), (1, logging.WARNING)])
def test_samples_that_are_not_asked_for_are_told(words, num, level, monkeypatch):
    logged = []
    monkeypatch.setattr(module, 'print_log', lambda *args: logged.append(args))
    words.check(num)
    assert logged[0][2] == level and 'predictions of 2 samples' in logged[0][0]
