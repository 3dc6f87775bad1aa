"""Generated folders: they appear only when they are complete, and say in `mini.json` what they were made from."""
from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from mmengine.logging import print_log

from perception.utils.errors import DataError

STAMP = 'mini.json'


def write_stamped(root: Path, stamp: dict, write: Callable[[Path], None], title: str, megabytes: int,
                  force: bool = False) -> Path:
    """Writes simulated data into a folder, or keeps the one that is there if it was made from the same arguments.

    The files are written beside the folder, which takes their place when all are there; an interrupted run leaves
    nothing and keeps what there was.

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
    print_log(f'Writing mini {title} to {root}: the data are SIMULATED (a ray-cast toy world), good for trying '
              'things out, not for results to publish.', logger='current')
    part = root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f'.{root.name}.', suffix='.part', dir=root.parent))
        part.chmod(0o755)
        write(part)
        files = sum(path.is_file() for path in part.rglob('*'))
        (part / STAMP).write_text(json.dumps(dict(stamp, files=files), indent=1) + '\n')
        if root.exists():
            shutil.rmtree(root)
        part.rename(root)
    except OSError as error:
        raise DataError(f'{root}: cannot be written ({error}), expected room for about {megabytes} MB. Free some space '
                        'or give another folder.') from error
    finally:
        if part != root:
            shutil.rmtree(part, ignore_errors=True)
    return root


def differences(root: Path, stamp: dict) -> str:
    """In which arguments the folder that lies there differs from these, such as `images={...}, now {...}`."""
    found = _read(root)
    return ', '.join(f'{key}={found.get(key)}, now {value}' for key, value in stamp.items()
                     if found.get(key) != value) or 'some of its files are missing'


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
    if not found:
        return False
    files = sum(path.is_file() for path in root.rglob('*')) - 1
    return found == dict(stamp, files=files)
