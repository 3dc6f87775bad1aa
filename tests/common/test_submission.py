"""What all submissions do: write as predictions arrive, check the whole, zip with directories."""
import zipfile

import pytest

from perception.common import submission as module
from perception.common.submission import Submission, parents, zip_files
from perception.utils.errors import DataError


class Texts(Submission):
    unit, upload = 'texts', 'Send it.'

    def write(self, name, sample):
        path = self.out_dir / 'a' / f'{name}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.need(sample, 'text'))
        return name

    def finish(self, results):
        return self.out_dir / 'all.zip', [f'{name} is empty' for name in sorted(results) if name.startswith('e')]


def test_samples_are_written_and_the_whole_is_checked(tmp_path, monkeypatch):
    logged, writer = [], Texts(tmp_path)
    monkeypatch.setattr(module, 'print_log', lambda text, *_: logged.append(text))
    writer.process(None, [dict(sample_id='b', text='x'), dict(sample_id='c', text='y')])
    assert sorted(path.name for path in tmp_path.rglob('*.txt')) == ['b.txt', 'c.txt']
    assert writer.evaluate(2) == {}
    assert '2 texts' in logged[0] and logged[0].endswith('Send it.')
    writer.process(None, [dict(sample_id='e', text='')])
    with pytest.raises(DataError, match=r'all\.zip: e is empty \(1 problem'):
        writer.evaluate(1)


def test_what_is_missing_or_cannot_be_written_is_named(tmp_path):
    with pytest.raises(DataError, match='b has no text'):
        Texts(tmp_path).process(None, [dict(sample_id='b')])
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='file'):
        Texts(tmp_path / 'file').process(None, [dict(sample_id='b', text='x')])


def test_a_zip_has_an_entry_for_each_directory(tmp_path):
    names = ['a/b/2.txt', 'a/1.txt']
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    zip_files(tmp_path / 'all.zip', tmp_path, names)
    with zipfile.ZipFile(tmp_path / 'all.zip') as archive:
        assert archive.namelist() == ['a/', 'a/b/', *names] and parents(names) == ['a/', 'a/b/']
        assert archive.read('a/1.txt') == b'a/1.txt'
