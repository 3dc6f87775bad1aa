"""Files of one's own in any folders: found by a pattern, paired with their labels, dealt to splits.

The id of a file is what the stars of its pattern stand for, such as `monday/000012`; of a pattern without a star it is
the file's name. A star stands for a part of one name, `**/` for any folders.
"""
import contextlib
import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from perception.common.formats.text import read_text
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import walk

VAL_EVERY = 5  # without splits, each fifth file is for validation
SPLITS = ('train', 'val', 'test')
_STAR = re.compile(r'(\*\*/|\*)')
_NUMBER = re.compile(r'(\d+)')


def find(root: Path, pattern: str, suffixes: Sequence[str], where: str) -> dict[str, Path]:
    """Ids and files, in the order of the numbers in their ids; linked folders are followed, hidden files left out.

    Args:
        root: the folder.
        pattern: of the files below it.
        suffixes: that the pattern may end in, lower case.
        where: argument that it comes from, for messages, such as `'LaneFolder: images'`.

    Raises:
        ConfigError: a pattern of something else.
        DataError: no such file is there.
    """
    if not str(pattern).lower().endswith(tuple(suffixes)) or Path(pattern).is_absolute() or '..' in Path(pattern).parts:
        raise ConfigError(f'{where}={pattern!r}, expected a pattern below data_root of files that end in '
                          f"{', '.join(suffixes)}, such as '**/*{suffixes[0]}'. Correct it.")
    match, files = _expression(pattern), {}
    every = [(path.relative_to(root).as_posix(), path) for path in walk(root)]
    for name, path in sorted(every, key=lambda one: _by_numbers(one[0])):
        found = match.fullmatch(name)
        if found:
            parts = [part.strip('/') for part in found.groups() if part]
            files['/'.join(parts) or path.stem] = path
    if not files:
        near = sorted({path.suffix for _, path in every})[:8]
        came = f'no file {pattern} in it' if os.path.isdir(root) else 'no such folder'
        raise DataError(f'{root}: {came} (files that end in {", ".join(near) or "nothing"} are there), expected such '
                        'files. Set data_root and the pattern, set PERCEPTION_DATA to the folder that replaces data/, '
                        'or try simulated data with `python tools/train.py CONFIG --mini`.')
    return files


def pair(root: Path, file: Path, pattern: str, other: str, where: str) -> Path:
    """The file that belongs to a file: the stars of its pattern stand for the same.

    Args:
        root: the folder.
        file: that `pattern` has found.
        pattern: of the file.
        other: pattern of what belongs to it, with as many stars.
        where: argument that `other` comes from, for messages.

    Raises:
        ConfigError: another number of stars.
    """
    stars = [len(_STAR.findall(text)) for text in (pattern, other)]
    if stars[0] != stars[1]:
        raise ConfigError(f'{where}={other!r} with {stars[1]} stars for {pattern!r} with {stars[0]}, expected as many, '
                          'which stand for the same. Correct it.')
    parts = iter(_expression(pattern).fullmatch(file.relative_to(root).as_posix()).groups())
    return root / _STAR.sub(lambda _: next(parts), other)


def choose(ids: Sequence[str], splits: Mapping[str, Any] | None, split: str, root: Path, where: str) -> list[str]:
    """Ids of a split, in order.

    Args:
        ids: of all files.
        splits: split -> ids, also with the ending of the file, patterns of them, their first parts (folders), or a
            text file below `root` with one a line. None: all are tested, each fifth is for 'val', the rest for 'train'.
        split: that is asked for.
        root: folder of the text files.
        where: start of messages, such as `'LaneFolder'`.

    Raises:
        ConfigError: an unknown split, or files in 'train' and in 'val'.
        DataError: something that no file fits, or a list that cannot be read.
    """
    if splits is None:
        check_choice(f'{where}: split', split, SPLITS)
        if len(ids) < VAL_EVERY and split != 'test':
            raise DataError(f'{root}: {len(ids)} files, expected at least {VAL_EVERY}, of which one is for validation. '
                            'Name those of each split by splits.')
        print_log(f'{root}: no splits are named, so each {VAL_EVERY}th of {len(ids):,} files is for validation.',
                  'current')
        return [name for k, name in enumerate(ids)
                if split == 'test' or (k % VAL_EVERY == VAL_EVERY - 1) == (split == 'val')]
    check_choice(f'{where}: split', split, splits)
    chosen = _chosen(ids, splits[split], split, root)
    other = dict(train='val', val='train').get(split)
    if other in splits:
        with contextlib.suppress(DataError):  # what is not used may be missing
            both = set(chosen) & set(_chosen(ids, splits[other], other, root))
            if both:
                raise ConfigError(f'{where}: {min(both)} ({len(both):,} files) stands in the splits train and val, '
                                  'expected each in one of them, for scores on what was learnt say nothing. Part them.')
    return chosen


def _chosen(ids: Sequence[str], wanted: str | Sequence[str], split: str, root: Path) -> list[str]:
    if isinstance(wanted, str) and wanted.endswith('.txt'):
        wanted = [line.strip() for line in read_text(root / wanted, f'the files of {split}').splitlines()]
    found: set[str] = set()
    known = set(ids)
    for pattern in filter(None, map(str, [wanted] if isinstance(wanted, str) else wanted)):
        plain = pattern.removeprefix('./').strip('/')
        fits = [name for name in (plain, os.path.splitext(plain)[0]) if name in known][:1] or [
            name for name in ids if fnmatch.fnmatchcase(name, plain) or name.startswith(f'{plain}/')]
        if not fits:
            raise DataError(f'{root}: no file {pattern} of the split {split} (there are {", ".join(ids[:3])}, ...), '
                            'expected ids, patterns of them or their first parts. Correct splits.')
        found.update(fits)
    if not found:
        raise DataError(f'{root}: the split {split} names no file, expected some. Correct splits.')
    return [name for name in ids if name in found]


def _expression(pattern: str) -> re.Pattern:
    """The pattern as an expression with a group for each star."""
    return re.compile(''.join({'**/': '((?:[^/]+/)*)', '*': '([^/]*)'}.get(part, re.escape(part))
                              for part in _STAR.split(pattern)), re.IGNORECASE)


def _by_numbers(name: str) -> list:
    return [int(part) if part.isdecimal() else part for part in _NUMBER.split(name)]
