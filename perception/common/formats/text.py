"""Text files that people and tools write: lists, JSON, JSON lines. Errors name the file and the line."""
import json
import re
from collections.abc import Iterator
from pathlib import Path

from perception.common.formats.kinds import recognise
from perception.utils.errors import DataError

LARGEST = 1 << 31  # bytes of a text; the largest official one, labels of BDD100K, has 1.3 GB
_SPACE = re.compile(r'\s*')


def read_text(path: str | Path, what: str = 'a text file', most: int = LARGEST) -> str:
    """Text of a UTF-8 file, without the mark that some editors put before it.

    Args:
        path: the file.
        what: is expected there, for the message, such as `'the list of training images'`.
        most: bytes of it.

    Raises:
        DataError: no such file, bytes that are no text or 0, or more of them.
    """
    try:
        size = Path(path).stat().st_size
        if size <= most:
            content = Path(path).read_text(encoding='utf-8-sig')
    except FileNotFoundError as error:
        raise DataError(f'{path}: no such file, expected {what}. Unpack the missing archive, or correct the '
                        'path.') from error
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        text = not isinstance(error, UnicodeDecodeError)
        came = getattr(error, 'strerror', None) or error if text else recognise(path)
        raise DataError(f'{path}: not readable ({came}), expected {what} as text in UTF-8. Take the right file, or '
                        'save it so.') from error
    if size > most:
        raise DataError(f'{path}: {size:,} bytes, expected {what} of at most {most:,}. Take the right file.')
    if nothing := content.count('\0'):
        raise DataError(f'{path}: {nothing:,} zero bytes among {size:,}, expected {what}. It was copied or downloaded '
                        'in part: get it again, or move what it belongs to away.')
    return content


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
    rows = [(f'{path}:{number}', parse_json(line, f'{path}:{number}')) for number, line in enumerate(lines, 1)
            if line.strip()]
    if not rows:
        raise DataError(f'{path}: an empty file, expected {what}. Copy the file again.')
    return rows


def read_json(path: str | Path, what: str = 'a JSON file') -> dict:
    """The object of a JSON file.

    Raises:
        DataError: no such file, no JSON, or JSON that is no object.
    """
    return parse_json(read_text(path, what), path)


def read_json_array(path: str | Path, what: str = 'a JSON array') -> Iterator[tuple[str, dict, str]]:
    """Objects of a file that holds one large array, one after the other, so that they are never all in memory.

    Args:
        path: the file.
        what: is expected there.

    Yields:
        `(where, object, its text)`; `where` is `path: item k`, for messages.

    Raises:
        DataError: no such file, no JSON, or something else than an array of objects.
    """
    text, decode = read_text(path, what), json.JSONDecoder().raw_decode
    at = _SPACE.match(text).end()
    if text[at:at + 1] != '[':
        raise DataError(f'{path}: {text[at:at + 40]!r}, expected an array [...]. It is {recognise(path)}; '
                        'take the right file.')
    number, after = 0, '['
    while after != ']':
        at = _SPACE.match(text, at + 1).end()
        if after == '[' and text[at:at + 1] == ']':
            return
        where = f'{path}: item {number}'
        try:
            value, stop = decode(text, at)
        except (ValueError, RecursionError) as error:
            raise DataError(f'{where}: no valid JSON ({error}), expected an object {{...}}. Copy the file again.') \
                from error
        if not isinstance(value, dict):
            raise DataError(f'{where}: JSON of type {type(value).__name__}, expected an object {{...}}. Correct it.')
        yield where, value, text[at:stop]
        at = _SPACE.match(text, stop).end()
        number, after = number + 1, text[at:at + 1]
        if after not in (',', ']'):
            raise DataError(f'{where}: followed by {text[at:at + 20]!r}, expected a comma or ]. The file is probably '
                            'truncated; copy it again.')


def parse_json(text: str, where: str | Path) -> dict:
    """The object of a JSON text; `where` is the file, for messages.

    Raises:
        DataError: no JSON, or JSON that is no object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f'{where}: no valid JSON ({error}), expected an object {{...}}. Correct the text, or copy the '
                        'file again.') from error
    if not isinstance(value, dict):
        raise DataError(f'{where}: JSON of type {type(value).__name__}, expected an object {{...}}. Correct the text.')
    return value
