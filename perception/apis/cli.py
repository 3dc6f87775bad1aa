"""How a command ends: results, one sentence for bad input, or how to go on after Ctrl-C."""
import _thread
import errno
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from perception.utils.errors import PerceptionError
from perception.utils.paths import PROJECT_ROOT


def run_command(function: Callable[..., Any], *args: Any, resumable: bool = False, long: bool = False,
                **kwargs: Any) -> Any:
    """Call a function for a command-line tool.

    Bad input, a full disk and a package that is not installed end the process with a sentence and code 2, Ctrl-C with
    code 130; defects keep their traceback.

    Args:
        function: what the tool does.
        *args: its arguments.
        resumable: whether the same command with `--resume` continues after Ctrl-C.
        long: a line is written at once, since the libraries that are still to be imported take seconds.
        **kwargs: its arguments.

    Returns:
        what the function returns.
    """
    if long and 'torch' not in sys.modules and os.environ.get('RANK', '0') == '0':
        sys.stderr.write(f'{Path(sys.argv[0]).stem}: loading PyTorch ...\n')
        sys.stderr.flush()
    logging.raiseExceptions = False  # a log on a full disk; the next result that cannot be written ends the command
    with noticing_interrupts() as interrupts:
        try:
            return function(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            if interrupts or isinstance(error, KeyboardInterrupt):  # a data-loader worker may have died of it first
                hint = f' The last checkpoint is intact; continue with:\n    {resume_command()}' if resumable else ''
                sys.stderr.write(f'\nInterrupted.{hint}\n')
                sys.exit(130)
            if isinstance(error, OSError) and error.errno in (
                    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
                hint = f' Then continue with `{resume_command()}`.' if resumable else ''
                sys.stderr.write(f'DataError: {error.filename or "writing results"}: {error.strerror}, expected room '
                                 f'for the results. Free some, or name another folder.{hint}\n')
                sys.exit(2)
            if isinstance(error, ModuleNotFoundError) and not isinstance(error, PerceptionError):
                sys.stderr.write(
                    f'MissingDependency: {error} in {sys.executable}, expected the project to be installed there. Run '
                    f'`make setup` in {PROJECT_ROOT} and use its .venv/bin/python, or run `pip install -e '
                    f'{PROJECT_ROOT}` in an environment of your own, see README.md.\n')
                sys.exit(2)
            if not isinstance(error, PerceptionError):
                raise
            sys.stderr.write(f'{type(error).__name__}: {sentence(error)}\n')
            sys.exit(2)


@contextmanager
def noticing_interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C signals while the block runs, also one whose KeyboardInterrupt Python would drop.

    Python prints and forgets an exception in a callback (a weak reference's, a fork's); the signal is then sent again.

    Yields:
        the signals so far; each also raises KeyboardInterrupt, as usual.
    """
    seen: list[int] = []
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        raise KeyboardInterrupt('Ctrl-C')

    def send_again(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(0.01, _thread.interrupt_main).start()  # once this callback has returned
        elif not seen:  # what an interrupt left half-built complains when it is deleted
            hook(unraisable)

    usual = handler is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if usual:
        signal.signal(signal.SIGINT, note)
        sys.unraisablehook = send_again
    try:
        yield seen
    finally:
        if usual:
            signal.signal(signal.SIGINT, handler)
            if not seen:
                sys.unraisablehook = hook


def sentence(error: Exception) -> str:
    """The message of an error, without the traceback that a data-loader worker adds to it."""
    text = str(error)
    if 'Original Traceback' in text:
        text = re.split(r'^[\w.]*Error: ', text, flags=re.MULTILINE)[-1]
    return text.strip()


def resume_command() -> str:
    """The running command with `--resume`."""
    arguments = [a for a in sys.argv if a != '--resume']
    python = sys.executable
    if python.startswith(os.getcwd() + os.sep):
        python = os.path.relpath(python)
    start = [python]
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        start = ['torchrun', f'--nproc_per_node={os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])}']
    return shlex.join([*start, *arguments, '--resume'])
