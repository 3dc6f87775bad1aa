"""What there is on disk, told by its text alone, so that --help answers before anything heavy is imported."""
import argparse
import ast
import importlib
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from perception.utils.errors import ConfigError
from perception.utils.paths import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / 'perception'
BASES = PROJECT_ROOT / 'configs' / '_base_'


@dataclass
class Listed:
    """A module that a tool can run.

    Attributes:
        path: its file.
        text: its docstring.
        options: its literal dict OPTIONS: option or argument -> keyword arguments of argparse's `add_argument`, whose
            `type` is a name, `'int'` or `'float'`.
    """

    path: Path
    text: str
    options: dict[str, dict[str, Any]]

    @property
    def summary(self) -> str:
        """First line of the docstring, without its full stop."""
        return self.text.partition('\n')[0].rstrip('.')

    def load(self) -> ModuleType:
        """Import the module."""
        return importlib.import_module('.'.join(self.path.relative_to(PROJECT_ROOT).with_suffix('').parts))

    def run(self, args: argparse.Namespace) -> Any:
        """Call the module's `run`; where it has one config, messages name it in place of `CONFIG`."""
        module, config = self.load(), getattr(args, 'config', None)
        if not isinstance(config, str):
            return module.run(args)
        from perception.apis.config import names_config  # imports torch
        return names_config(lambda _: module.run(args))(config)


def modules(folder: Path, pattern: str, function: str) -> dict[str, Listed]:
    """Modules that define a function, by their path below a folder, such as `lanes/many_lanes`; others are helpers.

    Args:
        folder: in the project.
        pattern: of the files below it.
        function: its name.
    """
    found = {}
    for path in sorted(folder.glob(pattern), key=lambda path: (len(path.parts), path)):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body):
            options = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
                       and getattr(node.targets[0], 'id', '') == 'OPTIONS']
            name = path.relative_to(folder).with_suffix('').as_posix()
            found[name] = Listed(path, ast.get_docstring(tree) or '', options[0] if options else {})
    return found


def benchmarks() -> dict[str, Listed]:
    """Benchmarks, such as `cost` or `lidarseg/sparse`, see `perception/apis/benchmarks`."""
    return modules(PACKAGE / 'apis' / 'benchmarks', '**/*.py', 'run')


def converters() -> dict[str, Listed]:
    """What converts published weights, see `perception/apis/convert.py`."""
    return modules(PACKAGE, '**/convert/*.py', 'fits')


def mini_sets() -> list[str]:
    """Names of the data-set bases that define `mini_data`, without those of a plugin that is not there."""
    texts = {path.stem: path.read_text() for path in BASES.glob('*.py')}
    plugins = {name: re.findall(r'^from perception\.plugins\.(\w+)', text, re.M) for name, text in texts.items()}
    return sorted(name for name, text in texts.items() if re.search(r'^mini_data = ', text, re.M)
                  and all((PACKAGE / 'plugins' / plugin).is_dir() for plugin in plugins[name]))


def add_options(parser: argparse.ArgumentParser, options: dict[str, dict[str, Any]]) -> argparse.ArgumentParser:
    """Add the options of a module to a parser, and return it."""
    for kind in (int, float):
        parser.register('type', kind.__name__, kind)
    for name, settings in options.items():
        parser.add_argument(name, **settings)
    return parser


def choose(name: str, known: dict[str, Listed]) -> Listed:
    """The module of a name.

    Raises:
        ConfigError: there is none; names whose last part is close are shown.
    """
    if name not in known:
        short = {other.rsplit('/', 1)[-1]: other for other in known}
        near = [short[word] for word in get_close_matches(name.rsplit('/', 1)[-1], short)]
        raise ConfigError(f'{name}: no such name, expected one of {", ".join(known)}. '
                          + (f'Did you mean {" or ".join(near)}?' if near else '--help describes them.'))
    return known[name]
