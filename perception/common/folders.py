"""Files of one's own in any folders: found by a pattern, paired with their labels, dealt to splits.

The id of a file is what the stars of its pattern stand for, such as `monday/000012`; of a pattern without a star it is
the file's name. A star stands for a part of one name, `**/` for any folders, question marks for as many letters (and
count as one star); brackets stand for themselves.
"""
import contextlib
import fnmatch
import functools
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from perception.common.formats.text import read_text
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import natural_order, walk

VAL_EVERY = 5  # without splits, each fifth file is for validation
SPLITS = ('train', 'val', 'test')
_STAR = re.compile(r'(\*\*/|\*|\?+)')
_ENDING = re.compile(r'\.[A-Za-z]\w*$')  # of a file's name, unlike the 5 of 3.5


def find(root: Path, pattern: str, suffixes: Sequence[str], where: str) -> dict[str, Path]:
    """Ids and files, in the order of the numbers in their ids; linked folders are followed, hidden files left out.

    Args:
        root: the folder.
        pattern: of the files below it.
        suffixes: that the pattern may end in, lower case.
        where: argument that it comes from, for messages, such as `'LaneFolder: images'`.

    Raises:
        ConfigError: a pattern of something else.
        DataError: no such file is there, or two for which the stars stand for the same.
    """
    if not isinstance(pattern, str) or not pattern.lower().endswith(tuple(suffixes)) or \
            Path(pattern).is_absolute() or '..' in Path(pattern).parts:
        raise ConfigError(f'{where}={pattern!r}, expected a pattern below data_root of files that end in '
                          f"{', '.join(suffixes)}, such as '**/*{suffixes[0]}'. Correct it.")
    match, files = _expression(pattern), {}
    every = [(path.relative_to(root).as_posix(), path) for path in walk(root)]
    for name, path in sorted(every, key=lambda one: natural_order(one[0])):
        found = match.fullmatch(name)
        if found:
            parts = [part.strip('/') for part in found.groups() if part]
            key = '/'.join(parts) or path.stem
            if files.setdefault(key, path) != path:
                raise DataError(f'{path}: {key!r} stands for the stars of {pattern}, as for {files[key]}, expected '
                                'another id for each file. Rename one of both, or give a pattern that fits one.')
    if not files:
        near = sorted({path.suffix for _, path in every if path.suffix})[:8]
        came = (f'no file {pattern} in it (files that end in {", ".join(near) or "nothing"} are there)'
                if os.path.isdir(root) else f'no such folder with {pattern}')
        raise DataError(f'{root}: {came}, expected such files. Set data_root and the pattern, set PERCEPTION_DATA to '
                        'the folder that replaces data/, or try simulated data with tools/train.py CONFIG --mini.')
    return files


def named_files(folders: Sequence[Path], suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """The files below some folders, each by its path below the folder and by its name, with its ending and without.

    Args:
        folders: several files of one key stand in their order.
        suffixes: of the files, lower case.
    """
    files: dict[str, list[Path]] = {}
    for folder in folders:
        for path in walk(folder):
            if path.suffix.lower() in suffixes:
                inner = path.relative_to(folder)
                for key in dict.fromkeys((inner.as_posix(), inner.with_suffix('').as_posix(), path.name, path.stem)):
                    files.setdefault(key, []).append(path)
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
        raise ConfigError(f'{where}={other!r} with {stars[1]} stars for {pattern!r} with {stars[0]}, expected as many '
                          'stars, which stand for the same. Correct it.')
    parts = iter(_expression(pattern).fullmatch(file.relative_to(root).as_posix()).groups())
    return root / _STAR.sub(lambda _: next(parts), other)


def choose(files: Mapping[str, Path], splits: Mapping[str, Any] | None, split: str, root: Path,
           where: str) -> list[str]:
    """Ids of a split, in order.

    Args:
        files: by id, as `find` gives them.
        splits: split -> what names its files: an id, a path below `root`, both with or without an ending, a pattern of
            them (`[ab]` is a or b where no name has these brackets), the folders that they begin with, the number of an
            id or of its first folder (5 is 000005), a list of these, or a text file below `root` with one a line.
            None: each fifth is for 'val' and 'test', the rest for 'train'; of fewer than five all for 'test'.
        split: that is asked for; 'test' is 'val' where `splits` names no 'test'.
        root: folder of the files.
        where: start of messages, such as `'LaneFolder'`.

    Raises:
        ConfigError: an unknown split, names that are none, or files in 'train' and in 'val'.
        DataError: something that no file fits, or a list that cannot be read.
    """
    if splits is None:
        check_choice(f'{where}: split', split, SPLITS)
        ids = list({real: name for name, real in reversed(_real(files).items())}.values())[::-1]
        if len(ids) < VAL_EVERY:
            if split == 'test':
                return ids
            raise DataError(f'{root}: {len(ids)} files, expected at least {VAL_EVERY}, of which one is for validation. '
                            'Name those of each split by splits.')
        print_log(f"{where}: no splits are named, so each {VAL_EVERY}th of {len(ids):,} files below {root} is for "
                  "validation and test. To test all: splits=dict(test='*').", 'current', logging.INFO)
        return [name for k, name in enumerate(ids) if (k % VAL_EVERY == VAL_EVERY - 1) == (split != 'train')]
    if split == 'test' and 'test' not in splits and 'val' in splits:
        print_log(f'{where}: splits name no test, so the files of val are tested.', 'current', logging.INFO)
        split = 'val'
    check_choice(f'{where}: split', split, splits)
    chosen = _chosen(files, splits[split], split, root, where)
    other = dict(train='val', val='train').get(split)
    if other in splits:
        with contextlib.suppress(DataError):  # what is not used may be missing
            real = _real(files)
            others = {real[name] for name in _chosen(files, splits[other], other, root, where)}
            both = [name for name in chosen if real[name] in others]
            if both:
                raise ConfigError(f'{where}: {both[0]} ({len(both):,} files) stands in the splits train and val, '
                                  'expected each in one of them, for scores on what was learnt say nothing. Part them.')
    return chosen


def _real(files: Mapping[str, Path]) -> dict[str, str]:
    """Where the files are that they, or their folders, may be links to."""
    folder = functools.cache(os.path.realpath)
    return {name: os.path.realpath(file) if os.path.islink(file) else os.path.join(folder(file.parent), file.name)
            for name, file in files.items()}


def _chosen(files: Mapping[str, Path], wanted: Any, split: str, root: Path, where: str) -> list[str]:
    """Ids of the files that a split names, in order."""
    if isinstance(wanted, str) and wanted.endswith('.txt'):
        wanted = [line.strip() for line in read_text(root / wanted, f'the files of {split}').splitlines()]
    names = list(wanted) if isinstance(wanted, Iterable) and not isinstance(wanted, (str, Mapping)) else [wanted]
    wrong = [name for name in names if not isinstance(name, (str, Path, Integral)) or isinstance(name, bool)]
    if wrong:
        raise ConfigError(f'{where}: splits name {wrong[0]!r} for {split}, expected ids, patterns of them, folders, or '
                          'a text file of them. Name the files of each split, or leave splits away.')
    paths = {name: file.relative_to(root).as_posix() for name, file in files.items()}
    known = {os.path.splitext(path)[0]: name for name, path in paths.items()}
    known.update({path: name for name, path in paths.items()} | {name: name for name in files})
    found: set[str] = set()
    for name in names:
        plain = os.path.normpath(str(name).removeprefix(f'{root}/')).strip('/') if name != '' else ''
        if not plain:
            continue
        key = next((key for key in (plain, _ENDING.sub('', plain)) if key in known), None)
        fits = [known[key]] if key and isinstance(name, (str, Path)) else _fitting(paths, name, plain)
        if not fits:
            raise DataError(f'{root}: no file {name} of the split {split} (there are {", ".join(list(files)[:3])}, '
                            '...), expected ids, paths, patterns of them or their first folders. Correct splits.')
        found.update(fits)
    if not found:
        raise DataError(f'{root}: the split {split} names no file, expected some. Correct splits.')
    return [name for name in files if name in found]


def _fitting(paths: Mapping[str, str], name: Any, plain: str) -> list[str]:
    """Ids of the files, paths by id, that a number, a pattern or a folder stands for."""
    if isinstance(name, Integral):
        first = {key: key.split('/')[0] for key in paths}
        return [key for key, part in first.items() if part.isdecimal() and int(part) == name]
    for pattern in (plain.replace('[', '[[]'), plain):
        fits = [key for key, path in paths.items() if any(
            fnmatch.fnmatchcase(one, pattern) or one.startswith(f'{plain}/') for one in (key, path))]
        if fits:
            return fits
    return []


def _expression(pattern: str) -> re.Pattern:
    """The pattern as an expression with a group for each star."""
    return re.compile(''.join(
        '((?:[^/]+/)*)' if part == '**/' else '([^/]*)' if part == '*' else f'([^/]{{{len(part)}}})' if part[:1] == '?'
        else re.escape(part) for part in _STAR.split(Path(pattern).as_posix())), re.IGNORECASE)
