"""Import of packages that only some functions need."""
import importlib
import os
from functools import cache
from importlib.util import find_spec
from shutil import which
from types import ModuleType

from perception.utils.errors import MissingDependency


def import_optional(name: str, feature: str, install: str) -> ModuleType:
    """Import a package or say which command installs it.

    Args:
        name: module name, such as `'open3d'`.
        feature: what needs it, as it starts the message (`'drawing point clouds'`).
        install: the command that brings it, such as `'pip install open3d'`.

    Raises:
        MissingDependency: the package is absent or cannot be loaded.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise MissingDependency(f'{feature}: the package {name} cannot be imported ({error}), expected it to be '
                                f'installed. Run `{install}`.') from error


@cache
def has_triton() -> bool:
    """Whether Triton is installed, and a C compiler, with which it builds what starts its kernels."""
    return find_spec('triton') is not None and bool(os.environ.get('CC') or which('gcc') or which('clang'))
