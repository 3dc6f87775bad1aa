"""Key frames of nuScenes' versions and official splits.

Making an index from the tables of v1.0-trainval takes a minute or two, so it is kept in the user's cache folder once it
took long; the file's name depends on the sizes and times of the tables, so that it is never out of date.
"""
from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from mmengine.logging import print_log

from perception.common.nuscenes.build import build_index
from perception.common.nuscenes.index import Index, KeyFrame
from perception.common.nuscenes.tables import DOWNLOAD, VERSIONS, check_folders
from perception.utils.checkpoint import atomic_path
from perception.utils.checks import check_choice
from perception.utils.errors import DataError
from perception.utils.optional import import_optional

CACHE_VERSION = 4     # goes up when the cached file changes
LARGE = 1 << 28       # bytes of tables from which on the user is told that this takes a while
SLOW = 5.0            # seconds from which on the index is cached


def read_index(data_root: str | Path, version: str) -> Index:
    """The index of a version, from the cache where the tables are large; one object while these stay as they are.

    Args:
        data_root: folder that holds `v1.0-...`.
        version: such as `'v1.0-mini'`.

    Raises:
        DataError: the data set or a table is not there, a table is damaged, records do not belong together.
    """
    root = Path(data_root)
    check_folders(root, version)
    return _index(root, version, _cache_path(root, version))


@lru_cache(maxsize=2)
def _index(root: Path, version: str, cache: Path) -> Index:
    """See `read_index`; the name of the cache file tells the state of the tables."""
    try:
        with np.load(cache, allow_pickle=False) as found:
            return Index(**{field.name: found[field.name] for field in fields(Index)})
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        pass  # none yet, or damaged: it is made anew
    size = sum(path.stat().st_size for path in (root / version).glob('*.json'))
    if size > LARGE:
        print_log(f'{root / version}: reading {size / 2**30:.1f} GiB of tables, which takes a minute or two; what is '
                  f'needed of them is kept in {cache.parent}.', 'current')
    start = time.perf_counter()
    index = build_index(root, version)
    if time.perf_counter() - start > SLOW:
        _keep(cache, index)
    return index


def read_split(data_root: str | Path, split: str) -> tuple[Index, list[KeyFrame]]:
    """The index of a split's version, and the split's key frames, scene by scene in the tables' order.

    Args:
        data_root: folder that holds `v1.0-...`.
        split: a key of `VERSIONS`.

    Raises:
        ConfigError: an unknown split.
        DataError: missing or damaged tables, scenes that are not there.
        MissingDependency: nuscenes-devkit, which knows the official splits, is not installed.
    """
    check_choice('nuScenes: split', split, VERSIONS)
    index = read_index(data_root, VERSIONS[split])
    splits = import_optional('nuscenes.utils.splits', 'the official splits of nuScenes', 'pip install nuscenes-devkit')
    scenes = set(splits.create_splits_scenes()[split])
    frames = [frame for frame in index.frames if frame.scene in scenes]
    if not frames:
        there = sorted({frame.scene for frame in index.frames})
        raise DataError(f'{Path(data_root) / VERSIONS[split]}: no key frame of the split {split} (found scenes: '
                        f'{", ".join(there[:5]) or "none"}), expected its scenes, such as {min(scenes)}. Unpack the '
                        f'metadata from {DOWNLOAD} again.')
    return index, frames


def _cache_path(root: Path, version: str) -> Path:
    base = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    state = [CACHE_VERSION]
    for path in sorted((root / version).glob('*.json')):
        stat = path.stat()
        state.append((path.name, stat.st_size, stat.st_mtime_ns))
    place, state = (hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16] for what in (str(root.resolve()), state))
    return base / 'perception' / f'nuscenes_{version}_{place}_{state}.npz'


def _keep(path: Path, index: Index) -> None:
    """Cache an index in place of older ones; where that fails, the tables are read again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, DataError) as part, open(part, 'wb') as file:
            np.savez(file, **{field.name: getattr(index, field.name) for field in fields(Index)})
        for old in path.parent.glob(f'{path.stem[:-16]}*.npz'):
            if old != path:
                old.unlink(missing_ok=True)
    except (OSError, DataError) as error:
        print_log(f'{path}: the index of nuScenes cannot be kept ({error}); reading the tables takes as long next '
                  f'time.', 'current', logging.WARNING)
