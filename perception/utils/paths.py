"""Where the project and its data lie, whatever the current directory."""
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from perception.utils.errors import ConfigError, DataError

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def from_root(path: str | Path) -> Path:
    """A path of the project as an absolute one; absolute paths stay as they are.

    Args:
        path: a path relative to the project's folder, such as `'work_dirs/x'`.
    """
    return PROJECT_ROOT / Path(path).expanduser()


def data_path(path: str | Path) -> Path:
    """The absolute place of a data folder that a config names as `'data/...'`.

    The environment variable `PERCEPTION_DATA`, when set, replaces the leading `data`.

    Args:
        path: a data root as configs name it, such as `'data/semantickitti'`, or an absolute path.

    Raises:
        ConfigError: it is no path.
    """
    if not isinstance(path, (str, Path)) or not str(path):
        raise ConfigError(f"data_root={path!r}, expected a folder, such as 'data/points'. Name it.")
    path, base = Path(path).expanduser(), os.environ.get('PERCEPTION_DATA')
    if base and not path.is_absolute() and path.parts[:1] == ('data',):
        return Path(base).expanduser().absolute().joinpath(*path.parts[1:])
    return from_root(path)


def walk(folder: str | Path, suffix: str = '') -> list[Path]:
    """All files below a folder that end in a certain way, in order; linked folders are followed, hidden ones left out.

    Args:
        folder: where to begin; nothing is found in one that is not there.
        suffix: end of the names, upper and lower case alike.
    """
    found, above = [], {os.fspath(folder): ()}
    for parent, folders, files in os.walk(folder, followlinks=True):
        place, outer = os.path.realpath(parent), above.pop(parent)
        if place in outer:  # a link that leads to where it came from
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        above.update((os.path.join(parent, name), (*outer, place)) for name in folders)
        found += [Path(parent, name) for name in files
                  if name.lower().endswith(suffix.lower()) and not name.startswith('.')]
    return sorted(found)


def missing_files(files: Iterable[str], root: str | Path = '') -> list[str]:
    """Those of some files that are not there; each folder is listed once, as a data set may have 200,000 files.

    Args:
        files: their paths, with `/`.
        root: folder that they lie below.
    """
    there: dict[str, set[str]] = {}
    missing = []
    for file in files:
        folder, _, name = file.rpartition('/')
        if folder not in there:
            try:
                there[folder] = set(os.listdir(Path(root, folder)))
            except OSError:
                there[folder] = set()
        if name not in there[folder] and not os.path.isfile(os.path.join(root, file)):  # a disk may not tell A from a
            missing.append(file)
    return missing


def natural_order(path: str | Path) -> list:
    """Key by which `9.bin` comes before `10.bin`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', str(path))]


def default_work_dir(config: str | Path, mini: bool = False) -> Path:
    """Where the training of a config leaves its weights unless it is told otherwise.

    Args:
        config: its file, such as `configs/pvd/cylinder3d_kitti.py`.
        mini: with its mini section.

    Returns:
        such as `<project>/work_dirs/pvd/cylinder3d_kitti_mini`; one more folder is named for a config elsewhere that is
        called like one of the project.
    """
    path = Path(config).absolute()
    folder, own = path.parent.name, PROJECT_ROOT / 'configs' / path.parent.name / path.name
    if own.is_file() and path.resolve() != own.resolve():
        folder = f'{path.parent.parent.name}_{folder}'
    return PROJECT_ROOT / 'work_dirs' / folder / f'{path.stem}{"_mini" if mini else ""}'


def make_folder(folder: str | Path) -> Path:
    """Make a folder for results before the work begins.

    Returns:
        the folder.

    Raises:
        DataError: it cannot be made or written.
    """
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2 ** 16))  # a full disk still makes empty files
            file.flush()
    except OSError as error:
        raise DataError(f'{folder}: {error.strerror} where results are to be written, expected a folder with room for '
                        'them. Choose another one.') from error
    return folder
