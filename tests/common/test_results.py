"""Predictions of a file in place of a net."""
import logging

import pytest
from mmengine.structures import BaseDataElement

from perception.common import results as module
from perception.common.results import StoredFiles, StoredResults
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


@pytest.mark.parametrize(('num', 'level'), [(2, logging.INFO), (1, logging.WARNING)])
def test_samples_that_are_not_asked_for_are_told(words, num, level, monkeypatch):
    logged = []
    monkeypatch.setattr(module, 'print_log', lambda *args: logged.append(args))
    words.check(num)
    assert logged[0][2] == level and 'predictions of 2 samples' in logged[0][0]


def test_fewer_results_than_samples_are_refused_at_once(words):
    with pytest.raises(DataError, match='words.txt: predictions of 2 samples, expected some of each of the 3'):
        words.check(3)


class Notes(StoredFiles):
    """A text for each sample, called by the last part of its id."""

    suffix, parts = '.txt', 1

    def fields(self, stored, sample):
        return dict(note=stored.read_text())


def test_a_folder_has_a_file_for_each_sample(tmp_path):
    (tmp_path / 'deep').mkdir()
    for name in ('a.txt', 'deep/b.txt', '._a.txt', 'c.md'):
        (tmp_path / name).write_text(name)
    samples = [BaseDataElement(metainfo=dict(sample_id=f'drive/{name}')) for name in 'ba']
    assert [sample.note for sample in Notes(tmp_path).test_step(dict(data_samples=samples))] == ['deep/b.txt', 'a.txt']
    samples[0].set_metainfo(dict(sample_id='drive/c'))
    with pytest.raises(DataError, match=r'no results of c \(the first there are of a\)'):
        Notes(tmp_path).test_step(dict(data_samples=samples))
    (tmp_path / 'deep/a.txt').write_text('')
    with pytest.raises(DataError, match=r'a\.txt and .*deep/a\.txt are both of a, expected one'):
        Notes(tmp_path)
    for path, message in ((tmp_path / 'none', 'no such folder'), (tmp_path / 'c.md', 'a file'),
                          (tmp_path / 'deep', 'no such file in it')):
        for file in (tmp_path / 'deep').glob('*.txt'):
            file.unlink()
        with pytest.raises(DataError, match=rf'{path.name}: {message}, expected a folder .* ends in \.txt'):
            Notes(path)
