"""How a command ends: results, one sentence for bad input, or how to go on after Ctrl-C."""
import _thread
import argparse
import errno
import logging
import os
import re
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from perception.utils.errors import PerceptionError
from perception.utils.paths import PROJECT_ROOT


def run_command(function: Callable[..., Any], *args: Any, resumable: bool = False, long: bool = False,
                **kwargs: Any) -> Any:
    """Call a function for a command-line tool.

    A line is written at once where a long command still has to import libraries that take seconds. Bad input, a full
    disk and a package that is not installed end the process with a sentence and code 2, Ctrl-C with code 130, SIGTERM
    with code 143, too little memory, a data-loader worker or another process of the run that ended with a sentence and
    code 1, a reader of the output that went away, such as `head`, with code 141; defects keep their traceback.

    Args:
        function: what the tool does.
        *args: its arguments.
        resumable: whether the same command with `--resume` continues after Ctrl-C, unless the exception's own
            `resumable` says no.
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
            try:
                result = function(*args, **kwargs)
                sys.stdout.flush()
                _leave_others()
                return result
            finally:
                interrupts.over = True  # torchrun's SIGTERM, of another process that died, must not cut off a sentence
        except (Exception, KeyboardInterrupt) as error:
            cause = None if isinstance(error, PerceptionError) else out_of_memory(error) or ended_elsewhere(error)
            resumable = resumable and is_first() and getattr(error, 'resumable', True)
            hint = f' What was written is intact; continue with:\n    {resume_command()}' if resumable else ''
            if interrupts or isinstance(error, KeyboardInterrupt):  # a data-loader worker may have died of it first
                stopped = signal.SIGTERM in interrupts
                sys.stderr.write(f'\n{"Stopped by SIGTERM" if stopped else "Interrupted"}.{hint}\n')
                sys.exit(143 if stopped else 130)
            if isinstance(error, BrokenPipeError) and cause is None and _nobody_reads():
                sys.exit(141)
            if isinstance(error, PerceptionError):
                if is_first() or not getattr(error, 'in_all_processes', False):
                    sys.stderr.write(f'{type(error).__name__}: {sentence(error)}\n')
                sys.exit(2)
            if isinstance(error, OSError) and error.errno in (
                    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
                sys.stderr.write(f'DataError: {error.filename or "writing results"}: {error.strerror}, expected room '
                                 f'for the results. Free some, or name another folder.{hint}\n')
                sys.exit(2)
            if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith('perception.'):
                sys.stderr.write(
                    f'MissingDependency: {error} in {sys.executable}, expected the project to be installed there. Run '
                    f'`make setup` in {PROJECT_ROOT} and use its .venv/bin/python, or run `pip install -e '
                    f'{PROJECT_ROOT}` in an environment of your own, see README.md.\n')
                sys.exit(2)
            if isinstance(error, ImportError) and 'pip install' in str(error):  # as mmengine's loggers ask for theirs
                what = ' '.join(str(error).split())
                sys.stderr.write(f'MissingDependency: {what[:1].upper()}{what[1:].rstrip(".")}.\n')
                sys.exit(2)
            if cause is None:
                raise
            sys.stderr.write(f'{cause}{hint}\n')
            sys.exit(1)


def _leave_others() -> None:
    """End the group of this run's processes, if there is one; threads of a group that lives on may abort the exit."""
    distributed = sys.modules.get('torch.distributed')
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


class Interrupts(list):
    """Signals that came; those after `over` are ignored."""

    over = False


@contextmanager
def noticing_interrupts() -> Iterator[Interrupts]:
    """Collect Ctrl-C and SIGTERM signals while the block runs, also one whose KeyboardInterrupt Python would drop.

    Python prints and forgets an exception in a callback (a weak reference's, a fork's); the signal is then sent again.

    Yields:
        the signals so far; each also raises KeyboardInterrupt, as usual, until `over` is set.
    """
    seen = Interrupts()
    hook, process = sys.unraisablehook, os.getpid()
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    taken = [number for number, handler in usual.items() if signal.getsignal(number) == handler
             and threading.current_thread() is threading.main_thread()]  # `command &` in a script ignores Ctrl-C

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and os.getpid() != process:  # a worker that its parent ends
            os._exit(128 + number)
        if not seen.over:
            seen.append(number)
            raise KeyboardInterrupt(signal.Signals(number).name)

    def again() -> None:
        time.sleep(0.1)  # until this callback has returned
        _thread.interrupt_main(seen[-1])

    def send_again(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            _thread.start_new_thread(again, ())  # unlike Thread.start it does not wait for a busy machine
        elif not seen:  # what an interrupt left half-built complains when it is deleted
            hook(unraisable)

    for number in taken:
        signal.signal(number, note)
    if taken:
        sys.unraisablehook = send_again
    try:
        yield seen
    finally:
        for number in taken:
            signal.signal(number, usual[number])
        if taken and not seen:
            sys.unraisablehook = hook


def _nobody_reads() -> bool:
    """Whether the reader of the output has gone; what is left of the output is then thrown away."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in output.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


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


def is_first() -> bool:
    """Whether this is the first process of a run."""
    return int(os.environ.get('RANK', 0)) == 0


def out_of_memory(error: BaseException) -> str | None:
    """What to tell where memory is not enough, of a GPU or of the machine; None for any other error."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    text = sentence(error)
    if 'MemoryError' in kinds or 'RuntimeError' in kinds and re.search(
            r'out of memory|allocate memory|STATUS_ALLOC_FAILED', text):  # torch's OutOfMemoryError is one, too
        what = re.split(r'(?<=[a-zB])\. ', re.sub(r'^\[.*?\][ .]*', '', text.splitlines()[0] if text else 'no memory'))
        return (f'{". ".join(what[:2])[:160]}, expected memory for a batch. Give a smaller batch_size of '
                'train_dataloader (with optim_wrapper.accumulative_counts for as many samples a step) or of '
                'test_dataloader by --cfg-options, or --amp.')
    return None


def ended_elsewhere(error: BaseException) -> str | None:
    """What to tell about an error whose cause is another process that ended, None for any other error."""
    try:
        if isinstance(error, (ConnectionError, EOFError)):  # a dead worker breaks its pipe, then torch is told
            time.sleep(1)
    except RuntimeError as told:
        error = told
    first = (str(error).strip().splitlines() or [''])[0][:150]
    if first.startswith('DataLoader worker'):
        return (f'{first.rstrip(". ")}: the system ended it, most often for want of memory, expected it to stay. Give '
                'smaller train_dataloader.num_workers or batch_size by --cfg-options.')
    kinds = [kind.__name__ for kind in type(error).__mro__]
    text = re.search(r'gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe|tcpstore|process ?group', first,
                     re.IGNORECASE)
    if int(os.environ.get('WORLD_SIZE', 1)) > 1 and ('DistError' in kinds or ('RuntimeError' in kinds and text)):
        what = re.sub(r'^\[\S*\] ', '', first).split('. ')[0]
        if 'listen' in what or 'EADDRINUSE' in str(error):
            return (f'Process {os.environ.get("RANK")}: port {os.environ.get("MASTER_PORT")} is taken, expected a free '
                    'one. Another run uses it; give torchrun another by --master-port.')
        return (f'Process {os.environ.get("RANK")}: another process of this run ended ({what}), expected all to stay. '
                "That one's message, or the system's log where it was killed, says why.")
    return None


def resume_command() -> str:
    """The running command with `--resume`."""
    known = list(zip(sys.argv, ['', *sys.argv]))
    arguments = [a for a, before in known if not a.startswith('--resume') and (before != '--resume' or a[:1] == '-')]
    python = sys.executable
    if python.startswith(os.getcwd() + os.sep):
        python = os.path.relpath(python)
    start = [python]
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        start = ['torchrun', f'--nproc_per_node={os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])}']
    return shlex.join([*start, *arguments, '--resume'])
