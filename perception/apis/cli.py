"""How a command ends: results, one sentence for bad input, or how to go on after Ctrl-C."""
import os
import re
import shlex
import sys
from collections.abc import Callable
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
    try:
        return function(*args, **kwargs)
    except PerceptionError as error:
        sys.stderr.write(f'{type(error).__name__}: {sentence(error)}\n')
        sys.exit(2)
    except KeyboardInterrupt:
        hint = f' The last checkpoint is intact; continue with:\n    {resume_command()}' if resumable else ''
        sys.stderr.write(f'\nInterrupted.{hint}\n')
        sys.exit(130)


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
