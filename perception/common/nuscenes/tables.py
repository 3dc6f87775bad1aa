"""The tables of nuScenes: JSON files of records that name each other by tokens, read in blocks and checked.

    <data_root>/v1.0-{mini,trainval,test}/*.json     13 tables, with lidarseg also lidarseg.json
    <data_root>/{samples,sweeps,lidarseg,maps}       files that the tables name

The two largest tables of v1.0-trainval hold 2.6 million records each, most of them of sensors between the key frames;
no table is ever in memory as a whole.
"""
from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from perception.common.nuscenes.poses import finite_numbers, unit_quaternions
from perception.utils.errors import DataError, PerceptionError

DOWNLOAD = 'https://www.nuscenes.org/nuscenes#download'
TABLES = ('category', 'attribute', 'visibility', 'sensor', 'ego_pose', 'log', 'map', 'instance', 'calibrated_sensor',
          'scene', 'sample', 'sample_data', 'sample_annotation')
VERSIONS = dict(train='v1.0-trainval', val='v1.0-trainval', test='v1.0-test', mini_train='v1.0-mini',
                mini_val='v1.0-mini')
CATEGORIES = (  # names in the category.json of nuScenes-lidarseg, in the order of their index
    'noise', 'animal', 'human.pedestrian.adult', 'human.pedestrian.child', 'human.pedestrian.construction_worker',
    'human.pedestrian.personal_mobility', 'human.pedestrian.police_officer', 'human.pedestrian.stroller',
    'human.pedestrian.wheelchair', 'movable_object.barrier', 'movable_object.debris',
    'movable_object.pushable_pullable', 'movable_object.trafficcone', 'static_object.bicycle_rack', 'vehicle.bicycle',
    'vehicle.bus.bendy', 'vehicle.bus.rigid', 'vehicle.car', 'vehicle.construction', 'vehicle.emergency.ambulance',
    'vehicle.emergency.police', 'vehicle.motorcycle', 'vehicle.trailer', 'vehicle.truck', 'flat.driveable_surface',
    'flat.other', 'flat.sidewalk', 'flat.terrain', 'static.manmade', 'static.other', 'static.vegetation',
    'vehicle.ego')
CHUNK = 1 << 21       # characters that are decoded at a time
_TOKEN = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.+-]{0,150}')
_FILE = re.compile(r'(?!/)(?!(.*/)?\.\.?(/|$))(?=.{1,3000}$)[^/\\\x00-\x1f]{1,200}(/[^/\\\x00-\x1f]{1,200})*')
_BETWEEN = re.compile(r'[\s,]*')
_KINDS = dict(token=(_TOKEN, 'letters, digits and - _ . +'), filename=(_FILE, 'a path below the data root'),
              name=(_TOKEN, 'a plain name'))


def check_folders(root: Path, version: str) -> None:
    """Make sure that a version is unpacked.

    Raises:
        DataError: it is not, or tables are missing.
    """
    there = sorted(path.name for path in root.glob('v1.0-*') if path.is_dir())
    if not there and any(root.absolute().parent.glob('v1.0-*/sample.json')):
        raise DataError(f'{root}: no folder v1.0-... in it but beside it, expected the folder that holds both. Give '
                        f'{root.absolute().parent}.')
    if not there:
        raise DataError(f'{root}: no folder v1.0-..., expected nuScenes in its official layout ({version}/*.json, '
                        f'samples/LIDAR_TOP/*.pcd.bin, lidarseg/{version}/*.bin, maps/*). Download it from {DOWNLOAD} '
                        f'and unpack or link it there, set PERCEPTION_DATA to the folder that replaces data/, or try '
                        f'simulated data with `python tools/train.py CONFIG --mini`.')
    if version not in there:
        raise DataError(f'{root / version}: no such folder (found: {", ".join(there)}), expected the tables of '
                        f'{version}. Unpack its metadata archive from {DOWNLOAD}, or use a split of a version that is '
                        f'there.')
    missing = [name for name in TABLES if not (root / version / f'{name}.json').is_file()]
    if missing:
        raise DataError(f'{root / version / missing[0]}.json: no such file ({len(missing)} of {len(TABLES)} tables '
                        f'missing), expected the tables of {version}. Unpack its metadata archive from {DOWNLOAD}.')
    if (root / version / 'lidarseg.json').is_file() and not (root / 'lidarseg' / version).is_dir():
        raise DataError(f'{root / "lidarseg" / version}: no such folder, expected the label files that lidarseg.json '
                        f'names. Unpack nuScenes-lidarseg from {DOWNLOAD} into {root}; v1.0-test has none, so that an '
                        f'empty folder will do there.')


class Block(NamedTuple):
    """Some rows of a table, whose fields are read as columns.

    Attributes:
        path: of the table's file, for messages.
        rows: records; each has a `token`, a text.
    """
    path: Path
    rows: list[dict]

    def keep(self, wanted: np.ndarray) -> Block:
        """The rows where `wanted` (N,) bool is set."""
        return Block(self.path, [self.rows[number] for number in np.flatnonzero(wanted)])

    def refuse(self, number: int, field: str, expected: str) -> NoReturn:
        """Raise a DataError about a field of a row."""
        row = self.rows[number]
        raise DataError(f'{self.path}: record {row["token"][:80]!r} has the {field} {str(row.get(field))[:80]!r}, '
                        f'expected {expected}. Unpack the metadata again.')

    def texts(self, field: str, names: bool = False) -> list[str]:
        """A column of texts; `names` are names of records or files, which can be parts of paths below a folder.

        Raises:
            DataError: a value of another type, or a name that would lead elsewhere.
        """
        values = [row.get(field) for row in self.rows]
        if not set(map(type, values)) <= {str}:
            number = next(number for number, value in enumerate(values) if not isinstance(value, str))
            if not names:
                self.refuse(number, field, 'a text')
        if names and (problem := find_bad_name(self.path, field, values)):
            raise DataError(f'{problem}. Unpack the metadata again.')
        return values

    def names(self, field: str) -> np.ndarray:
        """A column (N,) of names; see `texts`."""
        return np.array(self.texts(field, names=True), str)

    def integers(self, field: str) -> np.ndarray:
        """A column (N,) int64 of whole numbers.

        Raises:
            DataError: something else.
        """
        values = [row.get(field) for row in self.rows]
        if not set(map(type, values)) <= {int} or np.array(values or [0]).dtype != np.int64:
            self.refuse(next(number for number, value in enumerate(values)
                             if type(value) is not int or not -1 << 63 <= value < 1 << 63), field, 'a whole number')
        return np.array(values, np.int64)

    def flags(self, field: str) -> np.ndarray:
        """A column (N,) of true and false.

        Raises:
            DataError: something else.
        """
        values = [row.get(field) for row in self.rows]
        if not set(map(type, values)) <= {bool}:
            self.refuse(next(number for number, value in enumerate(values) if not isinstance(value, bool)), field,
                        'true or false')
        return np.array(values, bool)

    def numbers(self, field: str, *shape: int) -> np.ndarray:
        """A column (N, *shape) float64.

        Raises:
            DataError: another shape, or something that is no finite number.
        """
        values = [row.get(field) for row in self.rows]
        try:
            column = np.array(values)
        except ValueError:
            column = np.full(0, np.nan)
        if column.shape == (len(values), *shape) and column.dtype.kind in 'iuf' and np.isfinite(column).all():
            return column.astype(np.float64)
        return np.array([finite_numbers(value, shape, f'{self._where(number)}: {field}')
                         for number, value in enumerate(values)]).reshape(-1, *shape)

    def poses(self) -> np.ndarray:
        """Columns (N, 7) of `translation` [m] and `rotation`, a quaternion w, x, y, z with a length of exactly 1.

        Raises:
            DataError: one is missing or not finite, or the quaternion's length is not nearly 1.
        """
        rotation = unit_quaternions(self.numbers('rotation', 4), self._where)
        return np.concatenate([self.numbers('translation', 3), rotation], 1)

    def rows_of(self, field: str, target: str, known: Mapping[str, int], empty: bool = False) -> np.ndarray:
        """A column (N,) of tokens as the rows of their records, int64.

        Args:
            field: of the tokens.
            target: table of these records.
            known: token -> row there.
            empty: whether no record, an empty text, will do: row -1.

        Raises:
            DataError: a token that refers to nothing.
        """
        try:
            return np.array([-1 if empty and row[field] == '' else known[row[field]] for row in self.rows], np.int64)
        except (KeyError, TypeError):
            values = [row.get(field) for row in self.rows]
            number = next(number for number, value in enumerate(values) if not (
                isinstance(value, str) and (value in known or empty and value == '')))
            self.stray(number, field, values[number], target)

    def stray(self, number: int, field: str, token: Any, target: str) -> NoReturn:
        """Raise a DataError about a token in a row that refers to nothing."""
        raise DataError(f'{self.path}: record {self.rows[number]["token"][:80]} names {field} {token!r:.90}, which is '
                        f'not in {target}.json, expected tables that belong together. Unpack the metadata again.')

    def numbered(self) -> dict[str, int]:
        """Token -> row.

        Raises:
            DataError: a token that is no plain name, or comes twice.
        """
        tokens = self.texts('token', names=True)
        found = {token: number for number, token in enumerate(tokens)}
        if len(found) != len(tokens):
            twice = next(number for number, token in enumerate(tokens) if found[token] != number)
            self.refuse(twice, 'token', 'one of its own; it comes twice')
        return found

    def _where(self, number: int) -> str:
        return f'{self.path}: record {self.rows[number]["token"][:80]}'


def encoded(texts: list[str]) -> np.ndarray:
    """Texts as an array (N,) of UTF-8."""
    return np.array([text.encode() for text in texts], 'S') if texts else np.zeros(0, 'S1')


def find_bad_name(path: Path, field: str, values: list) -> str | None:
    """The first of some names that cannot be a file's, or not one in its folder, as the start of a message.

    Tokens and names of scenes become names of predictions and pictures; a `filename` is one below the data root.

    Args:
        path: file of the table.
        field: 'token', 'filename' or 'name'; tokens stand in other fields too.
        values: of the field.
    """
    good, wanted = _KINDS.get(field, _KINDS['token'])
    for value in values:
        # file systems count bytes
        if not (isinstance(value, str) and good.fullmatch(
                value if value.isascii() else value.encode(errors='backslashreplace').decode('latin-1'))):
            return f'{path}: the {field} {str(value)[:80]!r} of a record, expected {wanted}'
    return None


def read_table(folder: Path, table: str) -> Block:
    """All rows of a table that is small; see `read_blocks`."""
    return Block(folder / f'{table}.json', [row for block in read_blocks(folder, table) for row in block.rows])


def read_blocks(folder: Path, table: str) -> Iterator[Block]:
    """The rows of a table, some thousand at a time.

    Args:
        folder: `<data_root>/<version>`.
        table: name, such as `'sample_data'`.

    Raises:
        DataError: a file that is missing, no JSON or no list of records that have a token each.
    """
    path = folder / f'{table}.json'
    try:
        for rows in _decoded(path):
            if not all(isinstance(row, dict) and isinstance(row.get('token'), str) for row in rows):
                raise DataError(f'{path}: a record without a token, expected a list of records with one each. Unpack '
                                f'the metadata again.')
            yield Block(path, rows)
    except PerceptionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f'{path}: not readable ({str(error)[:100]}), expected a JSON table. Unpack the metadata '
                        f'again.') from error


def _decoded(path: Path) -> Iterator[list]:
    with open(path, encoding='utf-8-sig') as file:
        text = file.read(CHUNK).lstrip()
        if not text.startswith('['):
            raise DataError(f'{path}: it begins with {text[:20]!r}, expected a list of records with a token each. '
                            f'Unpack the metadata again.')
        text, rows = text[1:], []
        while more := file.read(CHUNK):
            rows, end = _records(text)
            if not rows and len(text) > CHUNK:      # no record is that long
                break
            yield rows
            text = text[end:] + more
    rows, end = _one_by_one(text)
    yield rows
    if (rest := text[end:].strip(' \t\r\n,')) != ']':
        json.loads(f'[{rest}')      # says what is wrong


def _records(text: str) -> tuple[list, int]:
    """Whole records that a text begins with, and where they end."""
    if end := text.rfind('},') + 1:
        try:
            return json.loads(f'[{text[:end]}]'), end + 1
        except ValueError:
            pass      # `},` stands in a text, or something is wrong
    return _one_by_one(text)


def _one_by_one(text: str) -> tuple[list, int]:
    rows, decode, end = [], json.JSONDecoder().raw_decode, 0
    while True:
        try:
            row, end = decode(text, _BETWEEN.match(text, end).end())
        except ValueError:
            return rows, end
        rows.append(row)


def check_maps(root: Path, rows: Block) -> None:
    """Make sure that the masks that map.json names are there.

    Raises:
        DataError: one is not.
    """
    for name in rows.texts('filename', names=True):
        if not os.path.isfile(root / name):  # False too of a path that is too long
            raise DataError(f'{root / name}: no such file, expected the mask that map.json names. Unpack the metadata '
                            f'again.')


def check_label_files(folder: Path, names: list[str]) -> None:
    """Make sure that the point labels that lidarseg.json names are there, and no others.

    Args:
        folder: `<data_root>/lidarseg/<version>`.
        names: of the files.

    Raises:
        DataError: one is missing, or belongs to no record.
    """
    files = {path.name for path in folder.glob('*.bin') if not path.name.startswith('.')}
    named = {Path(name).name for name in names}
    if files != named:
        raise DataError(f'{folder}: {len(files):,} label files for {len(named):,} records of lidarseg.json (such as '
                        f'{min(files ^ named)}), expected one for each. Unpack the metadata and nuScenes-lidarseg '
                        f'again.')
