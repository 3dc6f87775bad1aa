"""The base of the writers with one that writes names into a file."""
import logging
import zipfile

import pytest

from perception.common import submission as module
from perception.common.submission import Submission, parents, zip_files
from perception.utils.errors import DataError


class Names(Submission):
    """Writes a line for each sample; a line that is empty is a problem."""

    unit, upload = 'names', 'Send it.'
    advice = 'Name everything.'

    def write(self, name, sample):
        return f'{name} {self.need(sample, "word")}'

    def finish(self, results):
        path = self.out_dir / 'names.txt'
        path.write_text('\n'.join(results))
        return path, [f'{line} says nothing' for line in results if line.endswith(' -')]


def sample(name, word='x'):
    return dict(sample_id=name, word=word)


def test_what_is_written_as_samples_arrive_is_finished_and_logged(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    logged, writer = [], Names(str(tmp_path))
    monkeypatch.setattr(module, 'print_log', lambda text, *_: logged.append(text))
    for name in 'ab':
        writer.process(None, [sample(name)])
    assert writer.evaluate(2) == {} and (tmp_path / 'names.txt').read_text() == 'a x\nb x'
    assert 'prefix is not set' not in caplog.text
    assert '2 names' in logged[0] and logged[0].endswith('Send it.')


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


def test_no_zip_is_left_of_a_submission_that_would_be_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Names, 'finish', lambda self, results: (tmp_path / 'a.zip', results[:1]))
    (tmp_path / 'a.zip').write_bytes(b'PK')
    writer = Names(tmp_path)
    writer.process(None, [sample('a')])
    with pytest.raises(DataError, match='a.zip: a x'):
        writer.evaluate(1)
    assert not (tmp_path / 'a.zip').exists()


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


def test_a_zip_has_an_entry_for_each_directory(tmp_path):
    names = ['a/b/2.txt', 'a/1.txt']
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    zip_files(tmp_path / 'all.zip', tmp_path, names)
    with zipfile.ZipFile(tmp_path / 'all.zip') as archive:
        assert archive.namelist() == ['a/', 'a/b/', *names] and parents(names) == ['a/', 'a/b/']
        assert archive.read('a/1.txt') == b'a/1.txt'
