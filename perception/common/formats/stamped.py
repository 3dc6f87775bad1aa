"""Generated folders: they appear only when they are complete, and say in `mini.json` what they were made from."""
from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from mmengine.logging import print_log

from perception.utils.errors import DataError
from perception.utils.outputs import part_folder

STAMP = 'mini.json'


def write_stamped(root: Path, stamp: dict, write: Callable[[Path], None], title: str, megabytes: int,
                  force: bool = False) -> Path:
    """Writes simulated data into a folder, or keeps the one that is there if it was made from the same arguments.

    The files are written beside the folder, which takes their place when all are there; an interrupted run leaves
    nothing and keeps what there was; what a killed one left goes with the next. A folder in which a file is missing or
    has another size than when it was written does not count as complete.

    Args:
        root: absolute path of the folder.
        stamp: everything that the files depend on, as JSON knows it.
        write: called with an empty folder to fill.
        title: name of the data, for messages, such as `'CULane'`.
        megabytes: about how much room they take.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: a folder that holds something else, or a disk that is full.
    """
    if not force and is_complete(root, stamp):
        return root
    if root.exists() and not root.is_dir():
        raise DataError(f'{root}: a file came, expected a folder or nothing. Give another path.')
    if root.exists() and any(root.iterdir()) and not (root / STAMP).is_file():
        raise DataError(f'{root}: a folder without {STAMP}, expected a mini data set or nothing. It holds something '
                        'else; give another folder or move it away.')
    if not force and (root / STAMP).is_file():
        print_log(f'{root} was made from other arguments ({differences(root, stamp)}) and is written again.', 'current')
    what = 'the data are SIMULATED' if stamp.get('simulated', True) else 'few but real data'
    print_log(f'Writing mini {title} to {root}: {what}, good for trying things out, not for results to publish.',
              logger='current')
    try:
        with part_folder(root) as part:
            write(part)
            (part / STAMP).write_text(json.dumps(dict(stamp, **_contents(part)), indent=1) + '\n')
            if root.exists():
                shutil.rmtree(root)
            part.rename(root)
    except OSError as error:
        raise DataError(f'{root}: cannot be written ({error}), expected room for about {megabytes} MB. Free some space '
                        'or give another folder.') from error
    return root


def differences(root: Path, stamp: dict) -> str:
    """In which arguments the folder that lies there differs from these, such as `images={...}, now {...}`."""
    found = _read(root)
    return ', '.join(f'{key}={found.get(key)}, now {value}' for key, value in stamp.items()
                     if found.get(key) != value) or 'some of its files are missing or have another size'


def is_simulated(root: Path) -> bool:
    """Whether the data of a folder are simulated, as nearly all are; a stamp with `simulated=False` tells real ones."""
    return _read(root).get('simulated') is not False


def _read(root: Path) -> dict:
    """The stamp of a folder, empty where none can be read."""
    try:
        found = json.loads((root / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_complete(root: Path, stamp: dict) -> bool:
    """Whether a complete folder made from these arguments lies there."""
    found = _read(root)
    return bool(found) and found == dict(stamp, **_contents(root))


def _contents(root: Path) -> dict[str, int | str]:
    """How many files a folder holds beside its stamp, and a digest of their names and sizes; no file is opened."""
    sizes = sorted((path.relative_to(root).as_posix(), path.stat().st_size) for path in root.rglob('*')
                   if path.is_file() and path != root / STAMP)
    return dict(files=len(sizes), sizes=hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16])
