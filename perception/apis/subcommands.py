"""Subcommands of a tool, found by listing a package: what each offers is read without importing it."""
import argparse
import ast
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from perception.utils.errors import ConfigError
from perception.utils.paths import PROJECT_ROOT


@dataclass
class Subcommand:
    """A module that a tool can run.

    Attributes:
        module: its full name.
        text: its docstring.
        options: its literal dict OPTIONS: option or argument -> keyword arguments of argparse's `add_argument`, whose
            `type` is a name, `'int'` or `'float'`.
    """
    module: str
    text: str
    options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def parser(self, **kwargs: Any) -> argparse.ArgumentParser:
        """A parser of its options.

        Args:
            **kwargs: further arguments of the parser.
        """
        parser = argparse.ArgumentParser(description=self.text, **kwargs)
        for kind in (int, float):
            parser.register('type', kind.__name__, kind)
        for name, settings in self.options.items():
            parser.add_argument(name, **settings)
        return parser


def list_subcommands(package: str, function: str) -> dict[str, Subcommand]:
    """Modules of a package and its folders that define a function, by their path in it, such as `lanes/many_lanes`.

    Args:
        package: its full name.
        function: what makes a module a subcommand; others are helpers.
    """
    folder, found = PROJECT_ROOT.joinpath(*package.split('.')), {}
    for path in sorted(folder.rglob('*.py'), key=lambda path: (len(path.parts), path)):
        tree, name = ast.parse(path.read_text()), path.relative_to(folder).with_suffix('')
        if any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body):
            options = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
                       and getattr(node.targets[0], 'id', '') == 'OPTIONS']
            module, text = '.'.join([package, *name.parts]), ast.get_docstring(tree) or ''
            found[name.as_posix()] = Subcommand(module, text, *options)
    return found


def choose(name: str, known: dict[str, Subcommand]) -> Subcommand:
    """The subcommand of a name.

    Raises:
        ConfigError: there is none; names whose last part is close are shown.
    """
    if name not in known:
        short = {other.rsplit('/', 1)[-1]: other for other in known}
        near = [short[word] for word in get_close_matches(name.rsplit('/', 1)[-1], short)]
        raise ConfigError(f'{name}: no such subcommand, expected one of {", ".join(known)}. '
                          + (f'Did you mean {" or ".join(near)}?' if near else '--help describes them.'))
    return known[name]
