"""Places that cannot hold a generated folder; what is written is tested with each room's mini data."""
import os
import signal

import pytest

from perception.common.formats import stamped
from perception.common.formats.stamped import write_stamped
from perception.utils.errors import DataError


def write(root):
    return write_stamped(root, dict(seed=0), lambda folder: (folder / 'a').write_text('a'), 'data', 1)


@pytest.mark.parametrize('place', ['file', 'file/data', 'file/deep/data'])
def test_a_file_in_the_way_is_named_and_kept(place, tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(DataError, match=f'{place}: .* expected '):
        write(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ['file'] and (tmp_path / 'file').read_text() == 'mine'


def test_a_folder_with_other_things_is_kept(tmp_path):
    (tmp_path / 'mine').write_text('x')
    with pytest.raises(DataError, match='a folder without mini.json, expected a mini data set or nothing'):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['mine']


def test_a_failed_writer_leaves_what_there_was(tmp_path):
    def fail(folder):
        raise OSError(28, 'No space left on device')

    root = write(tmp_path / 'data')
    with pytest.raises(DataError, match='data: cannot be written .*No space left'):
        write_stamped(root, dict(seed=1), fail, 'data', 1)
    assert (root / 'a').read_text() == 'a' and len(list(tmp_path.iterdir())) == 1


def test_why_a_set_is_written_again_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(stamped, 'print_log', lambda text, *args, **kwargs: said.append(text))
    root = write(tmp_path / 'data')
    write(root)
    assert len(said) == 1
    write_stamped(root, dict(seed=1), lambda folder: (folder / 'b').write_text('b'), 'data', 1)
    assert 'seed=0, now 1' in said[1] and (root / 'b').is_file() and not (root / 'a').exists()
    (root / 'b').unlink()
    write_stamped(root, dict(seed=1), lambda folder: (folder / 'b').write_text('b'), 'data', 1)
    assert 'some of its files are missing' in said[3]


@pytest.mark.parametrize('damage', [lambda file: file.write_bytes(b''), lambda file: file.write_bytes(b'ab'),
                                    lambda file: file.unlink(), lambda file: file.rename(file.with_name('b'))],
                         ids=['emptied', 'longer', 'missing', 'renamed'])
def test_a_set_with_a_changed_file_is_written_again(tmp_path, damage):
    root = write(tmp_path / 'data')
    damage(root / 'a')
    assert (write(root) / 'a').read_text() == 'a' and len(list(root.iterdir())) == 2


@pytest.mark.parametrize('end', ['killed', 'alive'])
def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_left_alone(tmp_path, end):
    root, other, (read, wrote), (wait, done) = tmp_path / '[data]', tmp_path / '.[data]x.1.part', os.pipe(), os.pipe()
    other.mkdir()
    if not (writer := os.fork()):
        def fill(folder):
            (folder / 'a').write_text('half')
            if end == 'killed' and os.fork():  # a worker lives on
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(wrote, folder.name.encode())
            os.close(done)
            os.read(wait, 1)
            os._exit(0)
        write_stamped(root, dict(seed=0), fill, 'data', 1)
    part = tmp_path / os.read(read, 100).decode()
    if end == 'killed':
        os.waitpid(writer, 0)
    assert (part / 'a').is_file()
    assert (write(root) / 'a').read_text() == 'a'
    assert part.exists() == (end == 'alive') and other.is_dir()
    os.close(done)
