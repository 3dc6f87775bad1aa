"""What there is on disk, told by its text alone, so that --help answers before anything heavy is imported."""
import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perception.utils.paths import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / 'perception'
BASES = PROJECT_ROOT / 'configs' / '_base_'


def mini_sets() -> list[str]:
    """Names of the data-set bases that define `mini_data`."""
    return sorted(path.stem for path in BASES.glob('*.py') if re.search(r'^mini_data = ', path.read_text(), re.M))


def converters() -> list[Path]:
    """Modules that convert published weights, see `perception/apis/convert.py`."""
    return sorted(path for path in PACKAGE.glob('*/convert/*.py') if path.name != '__init__.py')


def benchmarks() -> dict[str, Path]:
    """Modules of `perception/apis/benchmarks` with a function `run`, by name, such as `cost` or `lidarseg/sparse`."""
    folder = PACKAGE / 'apis' / 'benchmarks'
    return {path.relative_to(folder).with_suffix('').as_posix(): path for path in sorted(folder.rglob('*.py'))
            if any(isinstance(node, ast.FunctionDef) and node.name == 'run' for node in _tree(path).body)}


def module_name(path: Path) -> str:
    """Dotted name of a module of the package."""
    return '.'.join(path.relative_to(PROJECT_ROOT).with_suffix('').parts)


def summary(path: Path) -> str:
    """First line of a module's docstring, without its full stop."""
    return (ast.get_docstring(_tree(path)) or '').partition('\n')[0].rstrip('.')


def constant(path: Path, name: str, default: Any = None) -> Any:
    """A literal that a module assigns to a name at its top.

    Args:
        path: the module.
        name: the name.
        default: where it is not assigned.
    """
    values: Iterator[ast.expr] = (node.value for node in _tree(path).body if isinstance(node, ast.Assign)
                                  and any(isinstance(one, ast.Name) and one.id == name for one in node.targets))
    value = next(values, None)
    return default if value is None else ast.literal_eval(value)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())
