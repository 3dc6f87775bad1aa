"""The base of the writers with one that writes names into a file."""
import logging

import pytest

from perception.common.submission import Submission
from perception.utils.errors import DataError


class Names(Submission):
    """Writes a line for each sample; a line that is empty is a problem."""

    unit = 'names'
    advice = 'Name everything.'

    def write(self, name, sample):
        return f'{name} {self.need(sample, "word")}'

    def finish(self, results):
        path = self.out_dir / 'names.txt'
        path.write_text('\n'.join(results))
        return path, [f'{line} says nothing' for line in results if line.endswith(' -')]


def sample(name, word='x'):
    return dict(sample_id=name, word=word)


def test_what_is_written_as_samples_arrive_is_finished_and_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    writer = Names(str(tmp_path))
    for name in 'ab':
        writer.process(None, [sample(name)])
    assert writer.evaluate(2) == {} and (tmp_path / 'names.txt').read_text() == 'a x\nb x'
    assert 'prefix is not set' not in caplog.text


def test_samples_that_a_sampler_repeats_are_left_out(tmp_path):
    writer = Names(tmp_path)
    writer.process(None, [sample(name) for name in 'abc'])
    writer.evaluate(2)
    assert (tmp_path / 'names.txt').read_text() == 'a x\nb x'


def test_a_submission_that_would_be_refused_says_why(tmp_path):
    writer = Names(tmp_path)
    writer.process(None, [sample('a', '-'), sample('b'), sample('c', '-')])
    with pytest.raises(DataError, match=r'names\.txt: a - says nothing \(2 problem.*Name everything'):
        writer.evaluate(3)


@pytest.mark.parametrize(('broken', 'message'), [(dict(word='x'), 'a sample has no sample_id'),
                                                 (dict(sample_id='a'), 'Names: a has no word'),
                                                 (dict(sample_id='a', word=None), 'a has no word')])
def test_fields_that_are_missing(tmp_path, broken, message):
    with pytest.raises(DataError, match=message):
        Names(tmp_path).process(None, [broken])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('x')
    writer = Names(tmp_path / 'file')
    writer.process(None, [sample('a')])
    with pytest.raises(DataError, match=r'file/names\.txt: Not a directory, expected a folder that can be written'):
        writer.evaluate(1)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Names, 'write', full)
    with pytest.raises(DataError, match='No space left on device, expected .* with room for the submission'):
        Names(tmp_path).process(None, [sample('a')])
