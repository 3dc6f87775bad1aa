"""Import of packages that only some functions need."""
import importlib
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
