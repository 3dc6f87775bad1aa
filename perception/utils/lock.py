"""One run at a time writes to a folder."""
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from perception.utils.errors import DataError

LOCK = '.lock'


@contextmanager
def locked(*folders: str | Path | None) -> Iterator[None]:
    """Keep folders for this run while the block runs; half-written files that a killed run left in them are removed.

    The system gives a lock back when the process that holds it ends, however it ends, so none is ever stale; `.lock` in
    the folder says whose it is. Of several processes of a run the first one locks for all.

    Args:
        *folders: they exist; None and repeated ones are left out.

    Raises:
        DataError: another run writes to one, in all processes of this run.
    """
    with ExitStack() as stack:
        problem = [None]
        if is_main_process():
            try:
                for folder in sorted({Path(folder).expanduser().resolve() for folder in folders if folder}):
                    stack.enter_context(_locked(folder))
            except DataError as error:
                problem = [str(error)]
        broadcast_object_list(problem)
        if problem[0]:
            error = DataError(problem[0])
            error.in_all_processes = True
            raise error
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path, file = folder / LOCK, None
    while file is None:
        file = _open(path)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # forked workers do not hold this kind on
        except (BlockingIOError, PermissionError) as error:
            owner = os.read(file, 200).decode(errors='replace').strip() or 'unknown'
            os.close(file)
            raise DataError(f'{folder}: another run writes to it ({owner}), expected a folder for this run alone. Wait '
                            'for that run, stop it, or choose another folder.') from error
        except OSError as error:
            print_log(f'{folder} cannot be locked ({error.strerror}); see that no other run writes to it.', 'current',
                      logging.WARNING)
            break
        if not path.exists() or not os.path.samestat(os.fstat(file), path.stat()):  # its owner has just removed it
            os.close(file)
            file = None
    try:
        os.ftruncate(file, 0)
        os.write(file, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
        for part in folder.glob('.*.part'):
            if part.is_file() or part.is_symlink():
                part.unlink()
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise DataError(f'{path}: {error.strerror}, expected a file that can be written. Choose another folder.'
                        ) from error
