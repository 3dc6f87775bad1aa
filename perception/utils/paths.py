"""Where the project and its data lie, whatever the current directory."""
import os
from pathlib import Path

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
    """
    path, base = Path(path).expanduser(), os.environ.get('PERCEPTION_DATA')
    if base and not path.is_absolute() and path.parts[:1] == ('data',):
        return Path(base).expanduser().absolute().joinpath(*path.parts[1:])
    return from_root(path)
