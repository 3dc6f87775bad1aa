"""How a command ends: results, one sentence for bad input, or how to go on after Ctrl-C."""
import _thread
import argparse
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from perception.utils.errors import PerceptionError


def run_command(function: Callable[..., Any], *args: Any, resumable: bool = False, **kwargs: Any) -> Any:
    """Call a function for a command-line tool.

    Bad input ends the process with its sentence and code 2, Ctrl-C with code 130; defects keep their traceback.

    Args:
        function: what the tool does.
        *args: its arguments.
        resumable: whether the same command with `--resume` continues after Ctrl-C.
        **kwargs: its arguments.

    Returns:
        what the function returns.
    """
    with noticing_interrupts() as interrupts:
        try:
            return function(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            if interrupts or isinstance(error, KeyboardInterrupt):  # a data-loader worker may have died of it first
                hint = f' The last checkpoint is intact; continue with:\n    {resume_command()}' if resumable else ''
                sys.stderr.write(f'\nInterrupted.{hint}\n')
                sys.exit(130)
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


def split_flags(words: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], dict[str, str]]:
    """Take the flags that a parser does not know out of a command line, `--name value`, `--name=value` or `--name`.

    Args:
        words: of the command line.
        parser: its flags are left where they are.

    Returns:
        the other words; value of each flag, its name with underscores, `'True'` where none came.
    """
    known, rest, flags = set(parser._option_string_actions), [], {}
    words = list(words)
    while words:
        word = words.pop(0)
        name, sign, value = word.partition('=')
        if not re.fullmatch(r'--[A-Za-z][\w-]*', name) or name in known:
            rest.append(word)
            continue
        if not sign:
            value = words.pop(0) if words and not words[0].startswith('--') else 'True'
        flags[name[2:].replace('-', '_')] = value
    return rest, flags


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
