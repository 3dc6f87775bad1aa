"""Says how to install the project where a tool is called without it; each tool imports this first."""
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOW = (f'Run `make setup` in {ROOT} and call the tools with {ROOT}/.venv/bin/python, or run `pip install -e {ROOT}` in '
       'an environment of your own (README.md, "Two commands").')


def why_not() -> str | None:
    """The sentence for a Python that cannot run the tools, None where it can."""
    for name in ('perception', 'torch', 'mmengine'):
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # no origin: a folder that is called so
            return f'{sys.executable}: no package {name}, expected the project to be installed. {HOW}'
    place = Path(find_spec('perception').origin).resolve().parents[1]
    return None if place == ROOT else (
        f'{sys.executable}: its perception is the one in {place}, expected that of {ROOT}, where this tool is. {HOW}')


if why_not():
    sys.stderr.write(f'MissingDependency: {why_not()}\n')
    sys.exit(2)
