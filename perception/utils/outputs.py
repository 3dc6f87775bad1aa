"""Places of results: what people put there is never replaced, and what killed commands left is cleaned up.

What was written stands in a hidden file of its folder, `.perception`, a line for each file as `sha256sum` writes it. A
file that is named there with the content it has now may be written again; any other one stays as it is. A line `*` says
that the folder was empty before, so that all in it is a command's.
"""
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError
from perception.utils.lock import LOCK
from perception.utils.paths import make_folder

LEDGER, WHOLE = '.perception', '*'
_read: dict[Path, tuple[int, set[str]]] = {}  # of each ledger: bytes that were read, and their lines
_locks: set[int] = set()  # descriptors of folders that this process holds


def inside(folder: str | Path, name: str) -> Path:
    """The file `name` of a folder; the name may lead into folders below it.

    Raises:
        DataError: a name that leads out of the folder.
    """
    folder = Path(folder)
    if not name or '\0' in name or os.path.isabs(name) or '..' in Path(name).parts:
        raise DataError(f'{folder}: {name[:80]!r} came as the name of a file in it, expected one that does not lead '
                        'out of it. Correct the name in the data.')
    return folder / name


def check_free(path: str | Path) -> None:
    """See that a file may be written: nothing is there, or what an earlier command wrote and nobody changed.

    Raises:
        DataError: something else is there.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    try:
        own = path.is_file() and _line(path, path.name) in _ledger(path.parent)
    except OSError:
        own = False
    if not own:
        what = 'a folder' if path.is_dir() else 'a file that no command of this project wrote'
        raise DataError(f'{path}: {what} is there, expected a free name. It was left as it is; move it away, or give '
                        'another folder for the results.')


@contextlib.contextmanager
def result_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write a result to; when the block ends well, its file gets the name `path`.

    The folder is made. The file is there wholly or not at all.

    Raises:
        DataError: something is there that no command of this project wrote, or the file cannot be written.
    """
    path = Path(path)
    check_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f'{path}: {error.strerror} where a result is to be written, expected a folder that can be '
                        'written. Choose another one.') from error
    with atomic_path(path, DataError) as part:
        yield part
        _note(path, part)


def adopt(file: Path, path: Path) -> Path:
    """Give a file that was just written its name, see `result_path`; it must lie on the same disk."""
    with result_path(path) as part:
        os.replace(file, part)
    return path


def _line(file: Path, name: str) -> str:
    """What the ledger says of a file of that content and name."""
    digest = hashlib.sha256()
    with open(file, 'rb') as opened:
        while block := opened.read(1 << 22):
            digest.update(block)
    return '{}  {}'.format(digest.hexdigest(), name.replace('\\', '\\\\').replace('\n', '\\n'))


def _note(path: Path, file: Path) -> None:
    """Add a file to the ledger of its folder before it gets its name."""
    _add(path.parent, _line(file, path.name))


def _add(folder: Path, line: str) -> None:
    """Add a line to the ledger of a folder that has it not yet."""
    if line in _ledger(folder):
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    ledger = os.open(folder / LEDGER, flags, 0o644)
    try:
        os.write(ledger, os.fsencode(f'{line}\n'))  # one call, so that lines of two processes do not mix
    finally:
        os.close(ledger)


def _ledger(folder: Path) -> set[str]:
    """Lines of a folder's ledger; of one that grew only the new ones are read."""
    path = Path(os.path.abspath(folder), LEDGER)
    done, lines = _read.get(path, (0, set()))
    if not path.is_file():
        _read.pop(path, None)
        return set()
    with open(path, 'rb') as file:
        if path.stat().st_size < done:
            done, lines = 0, set()
        file.seek(done)
        new = file.read()
    lines.update(os.fsdecode(new).split('\n'))
    _read[path] = done + len(new), lines
    return lines


# --- folders ---------------------------------------------------------------------------------------------------------
def own_folder(folder: str | Path) -> Path:
    """Make a folder for results among which nothing else may be, such as a submission; half files that a killed run
    left anywhere in it are removed.

    Raises:
        DataError: it cannot be written, or holds things that no command of this project wrote.
    """
    folder = make_folder(folder)
    marks = _ledger(folder) - {''}
    own = {LOCK, LEDGER, *(line.partition('  ')[2] for line in marks)}
    there = sorted(path.name for path in folder.iterdir() if path.name not in own and not (path / LEDGER).is_file())
    older = (folder / LEDGER).is_file() and not marks  # a version before this one left it empty
    if there and WHOLE not in marks and not older:
        raise DataError(f'{folder}: {len(there):,} things that no command of this project wrote, such as {there[0]}, '
                        'expected an empty folder. They were left as they are; give another folder.')
    _add(folder, WHOLE)
    for part in folder.rglob('.*.part'):
        if part.is_file():
            part.unlink(missing_ok=True)
    return folder


@contextlib.contextmanager
def part_folder(root: Path) -> Iterator[Path]:
    """A temporary folder beside `root`, to be renamed to it or emptied; those that killed commands left are removed.

    Raises:
        OSError: none can be made.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    for old in root.parent.glob(f'.{_escaped(root.name)}.*.part'):
        with contextlib.suppress(OSError), _locked(old) as free:
            if free and not old.is_symlink():
                shutil.rmtree(old, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f'.{root.name}.', suffix='.part', dir=root.parent))
    try:
        with _locked(part):
            part.chmod(0o755)
            yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _escaped(name: str) -> str:
    """A name as a pattern that it alone fits."""
    return ''.join(f'[{letter}]' if letter in '*?[' else letter for letter in name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder while the block runs; False where another process holds it. A killed process holds nothing."""
    handle, free = os.open(folder, os.O_RDONLY), True
    _locks.add(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        free = False
    except OSError:  # a file system without locks
        pass
    try:
        yield free
    finally:
        _locks.discard(handle)
        os.close(handle)


def _forget() -> None:
    """In a forked child: it must not hold folders on, should its parent be killed."""
    for handle in _locks:
        os.close(handle)
    _locks.clear()


os.register_at_fork(after_in_child=_forget)
