"""Results beside things of other origin, and of two commands at once."""
import os

import pytest

from perception.utils import outputs
from perception.utils.errors import DataError
from perception.utils.outputs import LEDGER, adopt, check_free, inside, own_folder, part_folder, result_path


def write(path, text='ours'):
    with result_path(path) as part:
        part.write_text(text)
    return path


def test_what_was_written_may_be_written_again_as_long_as_nobody_changed_it(tmp_path):
    path = write(tmp_path / 'new/a.txt')
    write(path, 'again')
    assert path.read_text() == 'again'
    path.write_text('mine')
    with pytest.raises(DataError, match=r'a\.txt: a file that no command of this project wrote'):
        write(path)
    assert path.read_text() == 'mine' and {p.name for p in path.parent.iterdir()} == {'a.txt', LEDGER}


def test_a_moved_folder_is_still_known_and_another_name_is_not(tmp_path):
    write(tmp_path / 'a/x')
    (tmp_path / 'a').rename(tmp_path / 'b')
    check_free(write(tmp_path / 'b/x', 'new'))
    (tmp_path / 'b/x').rename(tmp_path / 'b/y')
    with pytest.raises(DataError, match='y: a file that no command'):
        check_free(tmp_path / 'b/y')


@pytest.mark.parametrize('there', ['folder', 'link', 'broken link'])
def test_folders_and_links_are_left_alone(tmp_path, there):
    mine = tmp_path / 'mine'
    mine.write_text('mine')
    path = tmp_path / 'a'
    if there == 'folder':
        path.mkdir()
    else:
        path.symlink_to(mine if there == 'link' else tmp_path / 'none')
    with pytest.raises(DataError, match='a: .* is there, expected a free name'):
        write(path)
    assert mine.read_text() == 'mine' and not (tmp_path / 'none').exists()


def test_the_same_again_does_not_lengthen_the_ledger_and_a_lost_ledger_protects(tmp_path):
    for _ in range(3):
        write(tmp_path / 'a')
    assert len((tmp_path / LEDGER).read_text().splitlines()) == 1
    write(tmp_path / 'line\nbreak')
    check_free(tmp_path / 'line\nbreak')
    (tmp_path / LEDGER).unlink()
    with pytest.raises(DataError, match='a: a file that no command'):
        write(tmp_path / 'a')


def test_a_failure_leaves_what_there_was(tmp_path):
    write(tmp_path / 'a')
    with pytest.raises(RuntimeError, match='cut'), result_path(tmp_path / 'a') as part:
        part.write_text('half')
        raise RuntimeError('cut')
    assert (tmp_path / 'a').read_text() == 'ours' and sorted(os.listdir(tmp_path)) == [LEDGER, 'a']
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='file/a: .* where a result is to be written'):
        write(tmp_path / 'file/a')


def test_a_file_is_adopted_under_its_name(tmp_path):
    (tmp_path / 'part').write_text('x')
    assert adopt(tmp_path / 'part', tmp_path / 'out/a').read_text() == 'x' and not (tmp_path / 'part').exists()
    check_free(tmp_path / 'out/a')


@pytest.mark.parametrize('name', ['', '../x', 'a/../../x', '/etc/x', 'a\0b'])
def test_names_do_not_lead_out_of_their_folder(tmp_path, name):
    assert inside(tmp_path, 'a/b..c') == tmp_path / 'a/b..c'
    with pytest.raises(DataError, match='does not lead out of it'):
        inside(tmp_path, name)


def test_a_folder_of_a_submission_holds_nothing_else(tmp_path):
    for _ in range(2):
        (own_folder(tmp_path / 'a') / 'x').write_text('x')
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b/submission.zip').write_text('mine')
    with pytest.raises(DataError, match=r'b: 1 things .* such as submission\.zip, expected an empty folder'):
        own_folder(tmp_path / 'b')
    assert (tmp_path / 'b/submission.zip').read_text() == 'mine'
    for name in ('b', 'c'):  # pictures beside it do not make it ours
        with result_path(tmp_path / name / 'picture.png') as part:
            part.write_text('ours')
    with pytest.raises(DataError, match=r'b: 1 things .* such as submission\.zip, expected an empty folder'):
        own_folder(tmp_path / 'b')
    (own_folder(tmp_path / 'c') / 'submission.zip').write_text('ours')
    own_folder(tmp_path / 'c')


def test_half_files_of_a_killed_run_are_removed_from_a_folder_of_its_own(tmp_path):
    (own_folder(tmp_path) / 'sequences').mkdir()
    for name in ('.000000.label.f9bb104f.part', '000000.label'):
        (tmp_path / 'sequences' / name).write_text('x')
    own_folder(tmp_path)
    assert [path.name for path in (tmp_path / 'sequences').iterdir()] == ['000000.label']


def test_a_temporary_folder_that_is_not_renamed_goes(tmp_path):
    with pytest.raises(RuntimeError, match='cut'), part_folder(tmp_path / 'a') as part:
        (part / 'x').write_text('x')
        raise RuntimeError('cut')
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr(outputs.fcntl, 'flock', no_locks)
    with part_folder(tmp_path / 'a') as part:
        assert part.parent == tmp_path and part.stat().st_mode & 0o777 == 0o755
