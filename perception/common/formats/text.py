"""Text files that people and tools write: lists, JSON, JSON lines. Errors name the file and the line."""
import json
from pathlib import Path

from perception.utils.errors import DataError


def read_text(path: str | Path, what: str = 'a text file') -> str:
    """Text of a UTF-8 file.

    Args:
        path: the file.
        what: is expected there, for the message, such as `'the list of training images'`.

    Raises:
        DataError: no such file, or bytes that are no text.
    """
    try:
        return Path(path).read_text(encoding='utf-8')
    except FileNotFoundError as error:
        raise DataError(f'{path}: no such file, expected {what}. Unpack the missing archive, or correct the '
                        'path.') from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path}: not readable ({error}), expected {what}. Copy the file again.') from error


def read_rows(path: str | Path, what: str = 'a list') -> list[tuple[str, list[str]]]:
    """Words of each line that is not empty.

    Args:
        path: the file.
        what: is expected there.

    Returns:
        `(where, words)` for each line; `where` is `path:line`, for messages.

    Raises:
        DataError: no such file, no text, or nothing in it.
    """
    lines = read_text(path, what).split('\n')
    rows = [(f'{path}:{number}', line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError(f'{path}: an empty file, expected {what}. Copy the file again.')
    return rows


def read_json_lines(path: str | Path, what: str = 'a JSON object a line') -> list[tuple[str, dict]]:
    """Objects of a file with a JSON object on each line; empty lines are skipped.

    Args:
        path: the file.
        what: is expected there.

    Returns:
        `(where, object)` for each line; `where` is `path:line`, for messages.

    Raises:
        DataError: no such file, nothing in it, or a line that is no JSON object.
    """
    lines = read_text(path, what).split('\n')
    rows = [(f'{path}:{number}', parse_json(line, f'{path}:{number}', dict)) for number, line in enumerate(lines, 1)
            if line.strip()]
    if not rows:
        raise DataError(f'{path}: an empty file, expected {what}. Copy the file again.')
    return rows


def read_json(path: str | Path, kind: type = dict, what: str = 'a JSON file') -> dict | list:
    """The object (`kind=dict`) or array (`kind=list`) of a JSON file.

    Raises:
        DataError: no such file, no JSON, or JSON of another kind.
    """
    return parse_json(read_text(path, what), path, kind)


def parse_json(text: str, where: str | Path, kind: type = dict) -> dict | list:
    """The object or array of a JSON text; `where` is the file, for messages.

    Raises:
        DataError: no JSON, or JSON of another kind.
    """
    expected = 'an object {...}' if kind is dict else 'an array [...]'
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f'{where}: no valid JSON ({error}), expected {expected}. Correct the text, or copy the file '
                        'again.') from error
    if not isinstance(value, kind):
        raise DataError(f'{where}: JSON of type {type(value).__name__}, expected {expected}. Correct the text.')
    return value
